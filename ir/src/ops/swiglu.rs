//! `swiglu`: a gated product.

use crate::attr::Attrs;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema};

const SCHEMA: Schema = Schema {
    name: "swiglu",
    summary: "gate * sigmoid(gate) * up",
    operands: &["gate", "up"],
    mask: false,
    attrs: &[],
    results: 1,
};

/// `swiglu %g, %u : f32[s, f]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let gate = node.operand(0);
        if node.operand(1).indices != gate.indices {
            return Err(node.wrong_indices(1, format!("the indices of {gate}")));
        }
        Ok(vec![Type { encoding: DType::F32.into(), indices: gate.indices.clone() }])
    }
}

impl GraphBuilder {
    /// `gate * sigmoid(gate) * up`
    pub fn swiglu(&mut self, gate: ValueId, up: ValueId) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[gate, up], None, Attrs::default(), None)
    }
}
