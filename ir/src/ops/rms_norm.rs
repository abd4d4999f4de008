//! `rms_norm`: division by the root of the mean square.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");
const EPS: Key<f64> = Key::new(1, "eps");

const SCHEMA: Schema = Schema {
    name: "rms_norm",
    summary: "x / sqrt(mean of x^2 along `index` + eps), times w",
    operands: &["x", "w"],
    mask: false,
    attrs: &[INDEX.spec(), EPS.spec()],
    results: 1,
};

/// `rms_norm %x, %w {index = D, eps = 1e-6} : f32[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let index = node.get(INDEX);
        node.position(0, index)?;
        if node.operand(1).indices[..] != [index.clone()] {
            return Err(node.wrong_indices(1, format!("[{index}]")));
        }
        let eps = *node.get(EPS);
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(node.wrong_attr(EPS, eps, "a number not below 0"));
        }
        let indices = node.operand(0).indices.clone();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

impl GraphBuilder {
    /// `x / sqrt(mean(x^2) + eps) * w`, the mean along `index`.
    pub fn rms_norm(
        &mut self,
        x: ValueId,
        w: ValueId,
        index: &str,
        eps: f64,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), eps.into()]);
        self.node1(OpRef(&Op), &[x, w], None, attrs, None)
    }
}
