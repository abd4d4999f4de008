//! `softmax`: exponentials over their sum.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");

const SCHEMA: Schema = Schema {
    name: "softmax",
    summary: "exp over the sum of exp along `index`; 0 where masked, also where all is",
    operands: &["x"],
    mask: true,
    attrs: &[INDEX.spec()],
    results: 1,
};

/// `softmax %p where %m {index = t} : f32[s, h, t]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let index = node.get(INDEX);
        node.position(0, index)?;
        let indices = node.operand(0).indices.clone();
        node.mask_within(&indices)?;
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

impl GraphBuilder {
    /// Exponentials over their sum along `index`, where `mask` holds.
    pub fn softmax(
        &mut self,
        x: ValueId,
        mask: Option<ValueId>,
        index: &str,
    ) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], mask, attrs([Name::from(index).into()]), None)
    }
}
