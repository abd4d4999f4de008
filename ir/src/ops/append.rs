//! `append`: new rows after those of a state.

use crate::attr::Key;
use crate::dim::Name;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INTO: Key<Name> = Key::new(0, "into");

const SCHEMA: Schema = Schema {
    name: "append",
    summary: "rows of a state and then new ones, as index `into`; the state keeps them all",
    operands: &["state", "x"],
    mask: false,
    attrs: &[INTO.spec()],
    results: 1,
};

/// `append %past, %c {into = t} : bf16[t, r]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (state, x) = (node.operand(0), node.operand(1));
        let (Some(past), Some(new)) = (state.indices.first(), x.indices.first()) else {
            let scalar = if state.indices.is_empty() { 0 } else { 1 };
            return Err(node.wrong_indices(scalar, "rows along its first index"));
        };
        if state.indices[1..] != x.indices[1..] {
            return Err(node.wrong_indices(1, format!("rows as of {state}")));
        }
        if state.encoding != x.encoding {
            let (op, operand, found) = (SCHEMA.name, "x", x.encoding);
            let expected = state.encoding.to_string();
            return Err(GraphError::OperandEncoding { op, operand, found, expected });
        }
        let into = node.get(INTO);
        node.equal(&node.extent(into), &node.extent(past).plus(&node.extent(new)))?;
        let mut indices = state.indices.clone();
        indices[0] = into.clone();
        Ok(vec![Type { encoding: state.encoding, indices }])
    }
}

impl GraphBuilder {
    /// The rows of a state and then those of `x`, along `into`; the state keeps them.
    pub fn append(&mut self, state: ValueId, x: ValueId, into: &str) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[state, x], None, attrs([Name::from(into).into()]), None)
    }
}
