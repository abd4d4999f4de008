//! Attention whose heads share keys and values in groups.

use super::causal::causal_attention;
use super::rotary::{self, Pairing, rotate};
use crate::import::assembly::Block;
use crate::import::catalogue::Tensor;
use ir::error::IrError;
use ir::graph::ValueId;

/// Shape of grouped attention.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupedConfig {
    /// Query heads.
    pub heads: i64,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: i64,
    /// Channels of a head; an even number.
    pub width: i64,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub out_bias: bool,
    /// Multiplier of the scores.
    pub scale: f64,
}

/// Attention of `x [s, D]` with tensors `PREFIX.{q,k,v,o}_proj`; a key `[g, d]` and a value `[g, dv]`
/// are kept of each token. Query heads are `p` for each of `g` groups.
pub fn grouped_attention(
    b: &mut Block,
    [x, rope]: [ValueId; 2],
    prefix: &str,
    hidden: i64,
    c: &GroupedConfig,
) -> Result<ValueId, IrError> {
    b.dim("g", c.kv_heads);
    b.dim("p", c.heads / c.kv_heads);
    b.dim("i", c.width / 2);
    b.index("d", rotary::channels());
    b.index("dv", rotary::channels());
    let at = |part: &str| format!("{prefix}.{part}_proj");
    let q = Projection { part: "q", indices: &["g", "p", "d"], rows: c.heads * c.width };
    let q = q.apply(b, x, &at("q"), hidden, c.qkv_bias)?;
    let q = rotate(b, q, rope, "d", Pairing::HalfSplit)?;
    let k = Projection { part: "k", indices: &["g", "d"], rows: c.kv_heads * c.width };
    let k = k.apply(b, x, &at("k"), hidden, c.qkv_bias)?;
    let k = rotate(b, k, rope, "d", Pairing::HalfSplit)?;
    let v = Projection { part: "v", indices: &["g", "dv"], rows: c.kv_heads * c.width };
    let v = v.apply(b, x, &at("v"), hidden, c.qkv_bias)?;
    let k = b.graph.label(k, "k");
    let k = b.keep(k)?;
    let v = b.graph.label(v, "v");
    let v = b.keep(v)?;
    let o = causal_attention(b, [q, k, v], &["g", "p"], "dv", c.scale)?;
    let tensor = Tensor::linear(&at("o"), [hidden, c.heads * c.width]);
    let w = b.weight("w_o", &["D", "g", "p", "dv"], &tensor);
    let y = b.graph.contract(o, w, &["s", "D"])?;
    if !c.out_bias {
        return Ok(y);
    }
    let bias = b.weight("b_o", &["D"], &Tensor::bias(&format!("{}.bias", at("o")), hidden));
    b.graph.map("y + b", &[("y", y), ("b", bias)], &["s", "D"])
}

/// A projection of x to heads.
struct Projection<'a> {
    part: &'a str,
    /// Of the result, after `s`.
    indices: &'a [&'a str],
    /// Product of their extents.
    rows: i64,
}

impl Projection<'_> {
    fn apply(
        &self,
        b: &mut Block,
        x: ValueId,
        key: &str,
        hidden: i64,
        bias: bool,
    ) -> Result<ValueId, IrError> {
        let stored: Vec<&str> = self.indices.iter().copied().chain(["D"]).collect();
        let result: Vec<&str> = ["s"].into_iter().chain(self.indices.iter().copied()).collect();
        let tensor = Tensor::linear(key, [self.rows, hidden]);
        let w = b.weight(&format!("w_{}", self.part), &stored, &tensor);
        let y = b.graph.contract(x, w, &result)?;
        if !bias {
            return Ok(y);
        }
        let tensor = Tensor::bias(&format!("{key}.bias"), self.rows);
        let bias = b.weight(&format!("b_{}", self.part), self.indices, &tensor);
        b.graph.map("y + b", &[("y", y), ("b", bias)], &result)
    }
}
