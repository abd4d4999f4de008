//! `rope`: rotates pairs by a table of rotations.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");

const SCHEMA: Schema = Schema {
    name: "rope",
    summary: "the pair (a, b) along `index` becomes (a cos - b sin, b cos + a sin)",
    operands: &["x", "table"],
    mask: false,
    attrs: &[INDEX.spec()],
    results: 1,
};

/// `rope %x, %table {index = z} : f32[s, h, i, z]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let index = node.get(INDEX);
        node.position(0, index)?;
        node.position(1, index)?;
        node.equal(&node.extent(index), &Dim::constant(2))?;
        let (x, table) = (node.operand(0), node.operand(1));
        if let Some(alien) = table.indices.iter().find(|i| !x.has(i)) {
            node.position(0, alien)?;
        }
        Ok(vec![Type { encoding: DType::F32.into(), indices: x.indices.clone() }])
    }
}

impl GraphBuilder {
    /// Rotates the pairs of `x` along `index`, of extent 2, by a [`GraphBuilder::rope_table`].
    pub fn rope(&mut self, x: ValueId, table: ValueId, index: &str) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x, table], None, attrs([Name::from(index).into()]), None)
    }
}
