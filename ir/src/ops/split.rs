//! `split`: one index as several.

use crate::attr::Key;
use crate::dim::Name;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Vec<Name>> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "split",
    summary: "an index as several whose extents multiply to its own, slowest first",
    operands: &["x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `split %x {index = c, into = [h, d]} : f32[s, h, d]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        node.equal(&node.extent(index), &node.product(into))?;
        let mut indices = x.indices.clone();
        indices.splice(at..=at, into.iter().cloned());
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }
}

impl GraphBuilder {
    /// An index as several, slowest first.
    pub fn split(&mut self, x: ValueId, index: &str, into: &[&str]) -> Result<ValueId, IrError> {
        let into: Vec<Name> = into.iter().map(|i| Name::from(*i)).collect();
        let attrs = attrs([Name::from(index).into(), into.into()]);
        self.node1(OpRef(&Op), &[x], None, attrs, None)
    }
}
