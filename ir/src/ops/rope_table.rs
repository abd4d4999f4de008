//! `rope_table`: rotations by position.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INTO: Key<Name> = Key::new(0, "into");
const SCALE: Key<f64> = Key::new(1, "scale");

const SCHEMA: Schema = Schema {
    name: "rope_table",
    summary: "scale * (cos, sin) of position times frequency, along `into` of extent 2",
    operands: &["pos", "freq"],
    mask: false,
    attrs: &[INTO.spec(), SCALE.spec()],
    results: 1,
};

/// `rope_table %pos, %freq {into = z, scale = 1} : f32[s, i, z]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Int)?;
        node.class(1, Class::Float)?;
        let into = node.get(INTO);
        node.equal(&node.extent(into), &Dim::constant(2))?;
        let (pos, freq) = (node.operand(0), node.operand(1));
        let indices = pos.indices.iter().chain(&freq.indices).chain([into]).cloned().collect();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

impl GraphBuilder {
    /// `scale * (cos, sin)` of `pos * freq`, the pair along `into`.
    pub fn rope_table(
        &mut self,
        pos: ValueId,
        freq: ValueId,
        into: &str,
        scale: f64,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(into).into(), scale.into()]);
        self.node1(OpRef(&Op), &[pos, freq], None, attrs, None)
    }
}
