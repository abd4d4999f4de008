//! `cast`: rounding to another float type.

use crate::attr::Key;
use crate::dtype::{Class, DType, Encoding};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const TO: Key<Encoding> = Key::new(0, "to");

const SCHEMA: Schema = Schema {
    name: "cast",
    summary: "to another plain float type, to nearest, ties to even; the identity in the field",
    operands: &["x"],
    mask: false,
    attrs: &[TO.spec()],
    results: 1,
};

/// `cast %x {to = bf16} : bf16[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let to = *node.get(TO);
        if !to.is_plain() || to.code.class() != Class::Float || to.code == DType::E8M0 {
            return Err(node.wrong_attr(TO, to, "a plain float type"));
        }
        Ok(vec![Type { encoding: to, indices: node.operand(0).indices.clone() }])
    }
}

impl GraphBuilder {
    /// Rounds to another float type.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], None, attrs([Encoding::plain(to).into()]), None)
    }
}
