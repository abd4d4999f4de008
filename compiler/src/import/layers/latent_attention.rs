//! Multi-head latent attention in its naive form: keys and values of every head are computed from
//! the latent and kept.

use super::causal::causal_attention;
use super::rotary::{self, Pairing, rotate};
use crate::import::assembly::Block;
use crate::import::catalogue::Tensor;
use ir::dim::Dim;
use ir::error::IrError;
use ir::graph::ValueId;

/// ε of the latents' norms, whatever the model's own is: the published code leaves the default.
const LATENT_EPS: f64 = 1e-6;

/// Shape of latent attention.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentConfig {
    /// Heads.
    pub heads: i64,
    /// Rank of the query latent, if queries have one.
    pub q_rank: Option<i64>,
    /// Rank of the key and value latent.
    pub kv_rank: i64,
    /// Channels of a head's key that are not rotated.
    pub plain: i64,
    /// Channels that are, shared by all heads.
    pub rotated: i64,
    /// Channels of a head's value.
    pub value: i64,
    /// Multiplier of the scores.
    pub scale: f64,
}

/// Attention of `x [s, D]` with tensors `PREFIX.{q_proj, kv_a_proj_with_mqa, ..}`; a key
/// `[h, d]` and a value `[h, dv]` are kept of each token.
pub fn latent_attention(
    b: &mut Block,
    [x, rope]: [ValueId; 2],
    prefix: &str,
    hidden: i64,
    c: &LatentConfig,
) -> Result<ValueId, IrError> {
    declare(b, c);
    let q = queries(b, [x, rope], prefix, hidden, c)?;
    let (k, v) = keys_and_values(b, [x, rope], prefix, hidden, c)?;
    let k = b.keep(k)?;
    let v = b.keep(v)?;
    let o = causal_attention(b, [q, k, v], &["h"], "dv", c.scale)?;
    let tensor = Tensor::linear(&format!("{prefix}.o_proj"), [hidden, c.heads * c.value]);
    let w = b.weight("w_o", &["D", "h", "dv"], &tensor);
    b.graph.contract(o, w, &["s", "D"])
}

/// Indices: `dn` plain and `dr` rotated channels make `d`; `dn` and `dv` make `b`, a head's rows
/// of the second projection; latent `r` and `dr` make `a`, the rows of the first.
fn declare(b: &mut Block, c: &LatentConfig) {
    b.dim("h", c.heads);
    b.dim("dn", c.plain);
    b.dim("dv", c.value);
    b.dim("r", c.kv_rank);
    b.dim("i", c.rotated / 2);
    let plus = |l: &str, r: &Dim| Dim::symbol(l).plus(r);
    b.index("dr", rotary::channels());
    b.index("d", plus("dn", &rotary::channels()));
    b.index("a", plus("r", &rotary::channels()));
    b.index("b", plus("dn", &Dim::symbol("dv")));
}

fn queries(
    b: &mut Block,
    [x, rope]: [ValueId; 2],
    prefix: &str,
    hidden: i64,
    c: &LatentConfig,
) -> Result<ValueId, IrError> {
    let rows = c.heads * (c.plain + c.rotated);
    let q = match c.q_rank {
        None => {
            let tensor = Tensor::linear(&format!("{prefix}.q_proj"), [rows, hidden]);
            let w = b.weight("w_q", &["h", "d", "D"], &tensor);
            b.graph.contract(x, w, &["s", "h", "d"])?
        }
        Some(rank) => {
            b.dim("rq", rank);
            let down = Tensor::linear(&format!("{prefix}.q_a_proj"), [rank, hidden]);
            let norm = Tensor::norm(&format!("{prefix}.q_a_layernorm"), rank);
            let up = Tensor::linear(&format!("{prefix}.q_b_proj"), [rows, rank]);
            let down = b.weight("w_qa", &["rq", "D"], &down);
            let norm = b.weight("n_q", &["rq"], &norm);
            let up = b.weight("w_qb", &["h", "d", "rq"], &up);
            let latent = b.graph.contract(x, down, &["s", "rq"])?;
            let latent = b.graph.rms_norm(latent, norm, "rq", LATENT_EPS)?;
            b.graph.contract(latent, up, &["s", "h", "d"])?
        }
    };
    let plain = b.graph.slice(q, "d", "dn", 0)?;
    let rotated = b.graph.slice(q, "d", "dr", Dim::symbol("dn"))?;
    let rotated = rotate(b, rotated, rope, "dr", Pairing::Interleaved)?;
    let q = b.graph.concat(&[(plain, "dn"), (rotated, "dr")], "d")?;
    Ok(b.graph.label(q, "q"))
}

/// Keys `[s, h, d]` and values `[s, h, dv]`.
fn keys_and_values(
    b: &mut Block,
    [x, rope]: [ValueId; 2],
    prefix: &str,
    hidden: i64,
    c: &LatentConfig,
) -> Result<(ValueId, ValueId), IrError> {
    let joint = [c.kv_rank + c.rotated, hidden];
    let down = Tensor::linear(&format!("{prefix}.kv_a_proj_with_mqa"), joint);
    let norm = Tensor::norm(&format!("{prefix}.kv_a_layernorm"), c.kv_rank);
    let rows = c.heads * (c.plain + c.value);
    let up = Tensor::linear(&format!("{prefix}.kv_b_proj"), [rows, c.kv_rank]);
    let down = b.weight("w_kva", &["a", "D"], &down);
    let norm = b.weight("n_kv", &["r"], &norm);
    let up = b.weight("w_kvb", &["h", "b", "r"], &up);
    let both = b.graph.contract(x, down, &["s", "a"])?;
    let latent = b.graph.slice(both, "a", "r", 0)?;
    let latent = b.graph.rms_norm(latent, norm, "r", LATENT_EPS)?;
    let shared = b.graph.slice(both, "a", "dr", Dim::symbol("r"))?;
    let shared = rotate(b, shared, rope, "dr", Pairing::Interleaved)?;
    let shared = b.graph.map("x", &[("x", shared)], &["s", "h", "dr"])?;
    let expanded = b.graph.contract(latent, up, &["s", "h", "b"])?;
    let plain = b.graph.slice(expanded, "b", "dn", 0)?;
    let v = b.graph.slice(expanded, "b", "dv", Dim::symbol("dn"))?;
    let k = b.graph.concat(&[(plain, "dn"), (shared, "dr")], "d")?;
    Ok((b.graph.label(k, "k"), b.graph.label(v, "v")))
}
