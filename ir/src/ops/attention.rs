//! `attention`: values averaged by the softmax of scores.

use crate::attr::Key;
use crate::dim::Name;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};

const OVER: Key<Name> = Key::new(0, "over");
const SCALE: Key<f64> = Key::new(1, "scale");
const CAUSAL: Key<bool> = Key::new(2, "causal");

const SCHEMA: Schema = Schema {
    name: "attention",
    summary: "softmax over t of scale * q.k (summed over `over`), times v; other indices of k or v \
              that q has are a batch; causal: the last row of q's first index sees all of t",
    operands: &["q", "k", "v"],
    mask: true,
    attrs: &[OVER.spec(), SCALE.spec(), CAUSAL.spec()],
    results: 1,
};

/// `attention %q, %k, %v {over = c, scale = 0.125, causal = true} : f32[s, h, d]`
///
/// Shapes: `q [s, .., c]`, `k [t, .., c]`, `v [t, .., d]` to `[s, .., d]`. The key rows `t` are the
/// one index of `k` that `q` lacks. Indices of `k` and `v` shared with `q` are a batch, so heads
/// may have keys of their own, share them in groups (`q [s, g, r, c]`, `k [t, g, c]`), or share
/// one (`k [t, c]`).
pub struct Op;

/// What each index is to the op.
struct Roles {
    t: Name,
    /// Indices of q but `over`.
    rows: Vec<Name>,
    /// Indices of v alone.
    own: Vec<Name>,
}

fn roles(node: &NodeView) -> Result<Roles, GraphError> {
    let [q, k, v] = [node.operand(0), node.operand(1), node.operand(2)];
    let over = node.get(OVER);
    node.position(0, over)?;
    node.position(1, over)?;
    let mut alien = k.indices.iter().filter(|i| !q.has(i));
    let (Some(t), None) = (alien.next(), alien.next()) else {
        return Err(node.wrong_indices(1, format!("one index beside those of {q}")));
    };
    node.position(2, t)?;
    if v.has(over) {
        return Err(node.wrong_indices(2, format!("no index '{over}'")));
    }
    let rows: Vec<Name> = q.indices.iter().filter(|i| *i != over).cloned().collect();
    if *node.get(CAUSAL) && q.indices.first() == Some(over) {
        return Err(node.wrong_indices(0, "query rows along its first index"));
    }
    let own = v.indices.iter().filter(|i| *i != t && !q.has(i)).cloned().collect();
    Ok(Roles { t: t.clone(), rows, own })
}

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let Roles { t, rows, own } = roles(node)?;
        let scores: Vec<Name> = rows.iter().cloned().chain([t]).collect();
        node.mask_within(&scores)?;
        let indices = rows.into_iter().chain(own).collect();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }
}

/// What an attention takes beside its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionAttrs<'a> {
    /// Index of the scores' sum.
    pub over: &'a str,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether a row of q sees no later row of k.
    pub causal: bool,
}

impl GraphBuilder {
    /// Averages `v` by the softmax of `scale * q.k`, where `mask` holds.
    pub fn attention(
        &mut self,
        [q, k, v]: [ValueId; 3],
        mask: Option<ValueId>,
        AttentionAttrs { over, scale, causal }: AttentionAttrs,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(over).into(), scale.into(), causal.into()]);
        self.node1(OpRef(&Op), &[q, k, v], mask, attrs, None)
    }
}
