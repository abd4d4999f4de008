//! `slice`: a range of an index.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");
const START: Key<Dim> = Key::new(2, "start");

const SCHEMA: Schema = Schema {
    name: "slice",
    summary: "the rows of `index` from `start` on, as many as `into` has",
    operands: &["x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec(), START.spec()],
    results: 1,
};

/// `slice %x {index = c, into = dr, start = dn} : f32[s, h, dr]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        node.within(node.get(START), &node.extent(into), &node.extent(index))?;
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }
}

impl GraphBuilder {
    /// The rows of `index` from `start` on, as many as `into` has.
    pub fn slice(
        &mut self,
        x: ValueId,
        index: &str,
        into: &str,
        start: impl Into<Dim>,
    ) -> Result<ValueId, IrError> {
        let names = [Name::from(index).into(), Name::from(into).into(), start.into().into()];
        self.node1(OpRef(&Op), &[x], None, attrs(names), None)
    }
}
