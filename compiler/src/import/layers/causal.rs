//! Attention as its equation reads: values averaged by the softmax of scaled scores, each token
//! seeing itself and the ones before it.

use crate::import::assembly::Block;
use ir::dim::Dim;
use ir::error::IrError;
use ir::graph::ValueId;

/// `softmax_t(scale · q k) v` of queries `q [s, .., c]` with keys `k [t, .., c]` and values
/// `v [t, .., d]`, with indices `heads` of q between `s` and `c`; the result has `s`, these and
/// `d`. Keys and values have some of the heads.
pub fn causal_attention(
    b: &mut Block,
    [q, k, v]: [ValueId; 3],
    heads: &[&str],
    d: &str,
    scale: f64,
) -> Result<ValueId, IrError> {
    let with = |last: &'static str| -> Vec<&str> { [&["s"], heads, &[last]].concat() };
    let scores = b.graph.contract(q, k, &with("t"))?;
    let scale = b.graph.splat::<&str>(scale, &[])?;
    let scores = b.graph.map("x * scale", &[("x", scores), ("scale", scale)], &with("t"))?;
    let mask = past(b)?;
    let shares = b.graph.softmax(scores, Some(mask), "t")?;
    b.graph.contract(shares, v, &[&["s"], heads, &[d]].concat())
}

/// `[s, t]`: whether a position of the context is not after that of a new token.
fn past(b: &mut Block) -> Result<ValueId, IrError> {
    let q = b.graph.iota(Dim::symbol("t").minus(&Dim::symbol("s")), "s")?;
    let k = b.graph.iota(0, "t")?;
    b.graph.map("k <= q", &[("k", k), ("q", q)], &["s", "t"])
}
