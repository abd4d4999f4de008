//! `concat`: one after the other along an index.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const ALONG: Key<Vec<Name>> = Key::new(0, "along");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "concat",
    summary: "operands one after the other: `along` names the index of each, `into` the joint one",
    operands: &["x.."],
    mask: false,
    attrs: &[ALONG.spec(), INTO.spec()],
    results: 1,
};

/// `concat %n, %r {along = [dn, dr], into = c} : f32[s, h, c]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (along, into) = (node.get(ALONG), node.get(INTO));
        if along.len() != node.operands.len() {
            let found = format!("{} names", along.len());
            return Err(node.wrong_attr(ALONG, found, "one index for each operand"));
        }
        let first = node.operand(0);
        let joint = |i: usize| -> Result<Vec<Name>, GraphError> {
            let at = node.position(i, &along[i])?;
            let mut indices = node.operand(i).indices.clone();
            indices[at] = into.clone();
            Ok(indices)
        };
        let indices = joint(0)?;
        for i in 1..along.len() {
            if joint(i)? != indices {
                let expected = format!("the indices of {first} with '{}'", along[i]);
                return Err(node.wrong_indices(i, expected));
            }
            if node.operand(i).dtype() != first.dtype() {
                let (op, operand, found) = (SCHEMA.name, "x..", node.operand(i).encoding);
                let expected = first.dtype().to_string();
                return Err(GraphError::OperandEncoding { op, operand, found, expected });
            }
        }
        let total = along.iter().fold(Dim::constant(0), |sum, i| sum.plus(&node.extent(i)));
        node.equal(&node.extent(into), &total)?;
        Ok(vec![Type { encoding: first.dtype().into(), indices }])
    }
}

impl GraphBuilder {
    /// Operands one after the other, each along its own index, as the index `into`.
    pub fn concat(&mut self, parts: &[(ValueId, &str)], into: &str) -> Result<ValueId, IrError> {
        let values: Vec<ValueId> = parts.iter().map(|(v, _)| *v).collect();
        let along: Vec<Name> = parts.iter().map(|(_, i)| Name::from(*i)).collect();
        let attrs = attrs([along.into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &values, None, attrs, None)
    }
}
