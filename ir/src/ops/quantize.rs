//! `quantize`: codes and scales for blocks of elements.

use crate::attr::Key;
use crate::dtype::{Class, DType, Encoding};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const TO: Key<Encoding> = Key::new(0, "to");

const SCHEMA: Schema = Schema {
    name: "quantize",
    summary: "to codes with one scale for each block of the last two indices",
    operands: &["x"],
    mask: false,
    attrs: &[TO.spec()],
    results: 1,
};

/// `quantize %x {to = i8<f32 1x32>} : i8<f32 1x32>[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let to = *node.get(TO);
        let codes = [DType::F8E4M3, DType::F4E2M1, DType::I8, DType::I4];
        let scales = [DType::F32, DType::F16, DType::BF16, DType::E8M0];
        if !codes.contains(&to.code) || !to.scale.is_some_and(|s| scales.contains(&s.dtype)) {
            return Err(node.wrong_attr(TO, to, "small codes with float scales"));
        }
        Ok(vec![Type { encoding: to, indices: node.operand(0).indices.clone() }])
    }
}

impl GraphBuilder {
    /// Codes and scales.
    pub fn quantize(&mut self, x: ValueId, to: Encoding) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], None, attrs([to.into()]), None)
    }
}
