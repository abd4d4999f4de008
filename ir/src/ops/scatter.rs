//! `scatter`: adds entries at the rows that an index tensor names.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "scatter",
    summary: "zeros along `into`, with x added where the rows name it, in place of `index`",
    operands: &["rows", "x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `scatter %rows, %gate {index = k, into = e} : f32[s, e]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (rows, x) = (node.operand(0), node.operand(1));
        let (index, into) = (node.get(INDEX), node.get(INTO));
        if rows.encoding != DType::I32.into() {
            let (op, operand, found) = (SCHEMA.name, "rows", rows.encoding);
            let expected = "i32".to_string();
            return Err(GraphError::OperandEncoding { op, operand, found, expected });
        }
        node.class(1, Class::Float)?;
        node.position(0, index)?;
        let at = node.position(1, index)?;
        if let Some(alien) = rows.indices.iter().find(|i| !x.has(i)) {
            node.position(1, alien)?;
        }
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

impl GraphBuilder {
    /// Adds `x` at the places along `into` that `rows` names, summing over `index`.
    pub fn scatter(
        &mut self,
        rows: ValueId,
        x: ValueId,
        index: &str,
        into: &str,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[rows, x], None, attrs, None)
    }
}
