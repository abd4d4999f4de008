//! `topk`: where the largest entries are.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "topk",
    summary: "distinct rows of the largest entries along `index`, largest first, as many as `into` \
              has; the lower row wins a tie, masked-out rows come last by number",
    operands: &["x"],
    mask: true,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `topk %score where %m {index = e, into = k} : i32[s, k]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        node.mask_within(&x.indices)?;
        node.within(&Dim::constant(0), &node.extent(into), &node.extent(index))?;
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: DType::I32.into(), indices }])
    }
}

impl GraphBuilder {
    /// Rows of the largest entries along `index`, as many as `into` has.
    pub fn topk(
        &mut self,
        x: ValueId,
        mask: Option<ValueId>,
        index: &str,
        into: &str,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[x], mask, attrs, None)
    }
}
