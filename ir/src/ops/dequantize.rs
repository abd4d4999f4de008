//! `dequantize`: the numbers that codes and scales stand for.

use crate::attr::Attrs;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema};

const SCHEMA: Schema = Schema {
    name: "dequantize",
    summary: "the f32 values of an encoded operand",
    operands: &["x"],
    mask: false,
    attrs: &[],
    results: 1,
};

/// `dequantize %x : f32[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        Ok(vec![Type { encoding: DType::F32.into(), indices: node.operand(0).indices.clone() }])
    }
}

impl GraphBuilder {
    /// The numbers that codes and scales stand for.
    pub fn dequantize(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], None, Attrs::default(), None)
    }
}
