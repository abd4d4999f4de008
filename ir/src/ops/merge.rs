//! `merge`: several indices as one.

use crate::attr::Key;
use crate::dim::Name;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDICES: Key<Vec<Name>> = Key::new(0, "indices");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "merge",
    summary: "indices, slowest first, as one that stands where the first of them stood",
    operands: &["x"],
    mask: false,
    attrs: &[INDICES.spec(), INTO.spec()],
    results: 1,
};

/// `merge %x {indices = [h, d], into = c} : f32[s, c]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (merged, into) = (node.get(INDICES), node.get(INTO));
        let Some(first) = merged.first() else {
            return Err(node.wrong_attr(INDICES, "empty", "at least one index"));
        };
        for (i, index) in merged.iter().enumerate() {
            node.position(0, index)?;
            if merged[..i].contains(index) {
                return Err(GraphError::RepeatedIndex(index.clone()));
            }
        }
        node.equal(&node.extent(into), &node.product(merged))?;
        let stay = x.indices.iter().filter(|i| *i == first || !merged.contains(i));
        let indices = stay.map(|i| if i == first { into.clone() } else { i.clone() }).collect();
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }
}

impl GraphBuilder {
    /// Several indices, slowest first, as one.
    pub fn merge(&mut self, x: ValueId, indices: &[&str], into: &str) -> Result<ValueId, IrError> {
        let indices: Vec<Name> = indices.iter().map(|i| Name::from(*i)).collect();
        let attrs = attrs([indices.into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[x], None, attrs, None)
    }
}
