//! `contract`: sums of products.

use crate::attr::Attrs;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema};

const SCHEMA: Schema = Schema {
    name: "contract",
    summary: "product of one or two operands, summed over every index absent from the result",
    operands: &["x.."],
    mask: false,
    attrs: &[],
    results: 1,
};

/// `contract %x, %w : f32[s, h, d]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let found = node.operands.len();
        if found > 2 {
            let (op, expected) = (SCHEMA.name, "1 or 2".to_string());
            return Err(GraphError::OperandCount { op, found, expected });
        }
        let indices = node.declared()?.indices.clone();
        let covered = |i: &&crate::dim::Name| node.operands.iter().any(|o| o.has(i));
        if let Some(index) = indices.iter().find(|i| !covered(i)) {
            let (op, operand, found) = (SCHEMA.name, "x", node.operand(0).clone());
            return Err(GraphError::MissingIndex { op, operand, found, index: index.clone() });
        }
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

impl GraphBuilder {
    /// Sum of products over every index that `indices` does not have.
    pub fn contract<I: AsRef<str>>(
        &mut self,
        x: ValueId,
        w: ValueId,
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let ty = Type::new(DType::F32, indices);
        self.node1(OpRef(&Op), &[x, w], None, Attrs::default(), Some(ty))
    }
}
