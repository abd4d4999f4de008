//! `gather`: rows that an index tensor names.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");

const SCHEMA: Schema = Schema {
    name: "gather",
    summary: "x with `index` replaced by what the rows name; shared indices are a batch; 0 if masked",
    operands: &["x", "rows"],
    mask: true,
    attrs: &[INDEX.spec()],
    results: 1,
};

/// `gather %table, %ids {index = V} : bf16[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (x, rows) = (node.operand(0), node.operand(1));
        let index = node.get(INDEX);
        let at = node.position(0, index)?;
        if rows.encoding != DType::I32.into() {
            let (op, operand, found) = (SCHEMA.name, "rows", rows.encoding);
            let expected = "i32".to_string();
            return Err(GraphError::OperandEncoding { op, operand, found, expected });
        }
        if rows.has(index) {
            return Err(node.wrong_indices(1, format!("no index '{index}'")));
        }
        let mut indices = x.indices.clone();
        let own = rows.indices.iter().filter(|i| !x.has(i)).cloned();
        indices.splice(at..=at, own);
        node.mask_within(&indices)?;
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }
}

impl GraphBuilder {
    /// Replaces `index` of `x` by the rows that `rows` names; 0 where `mask` does not hold.
    pub fn gather(
        &mut self,
        x: ValueId,
        rows: ValueId,
        mask: Option<ValueId>,
        index: &str,
    ) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x, rows], mask, attrs([Name::from(index).into()]), None)
    }
}
