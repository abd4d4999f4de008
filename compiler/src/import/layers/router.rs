//! Which experts a token goes to, and with what weight. All of it in f32; the lower number wins a
//! tie.

use crate::import::assembly::Block;
use crate::import::catalogue::Tensor;
use ir::dim::Dim;
use ir::error::IrError;
use ir::expr::{Binary, Expr};
use ir::graph::ValueId;

/// Kept from a division by zero where all chosen scores vanish (the reference's constant).
const NORM_EPS: f64 = 1e-20;

/// How scores come about and experts are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// softmax; the k largest.
    Greedy,
    /// softmax; the k largest of the groups with the largest maximum.
    GroupLimited,
    /// sigmoid; picked by score plus bias, in the groups with the largest sum of two; weighted by
    /// the score alone.
    Biased,
}

/// A router's shape and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterConfig {
    /// How experts are picked.
    pub method: Method,
    /// Routed experts.
    pub experts: i64,
    /// Experts for each token.
    pub chosen: i64,
    /// Groups of consecutive experts.
    pub groups: i64,
    /// Groups that a token may choose from.
    pub kept_groups: i64,
    /// Whether the weights of a token are divided by their sum.
    pub normalise: bool,
    /// Multiplier of the weights.
    pub scale: f64,
}

/// Numbers and weights of the experts of each token.
pub struct Choice {
    /// i32 `[s, k]`
    pub index: ValueId,
    /// f32 `[s, k]`
    pub weight: ValueId,
}

/// Declares the indices of experts: `e`, also as groups `g` of `o`, and `k`.
fn declare(b: &mut Block, c: &RouterConfig) {
    b.dim("k", c.chosen);
    if grouped(c) {
        b.dim("g", c.groups);
        b.dim("o", c.experts / c.groups);
        b.dim("j", c.kept_groups);
        b.index("e", Dim::symbol("g").times(&Dim::symbol("o")));
    } else {
        b.dim("e", c.experts);
    }
}

fn grouped(c: &RouterConfig) -> bool {
    c.groups > 1 && c.method != Method::Greedy
}

/// Routes `x [s, D]` by the tensors `PREFIX.weight` and `PREFIX.e_score_correction_bias`.
pub fn route(
    b: &mut Block,
    x: ValueId,
    prefix: &str,
    hidden: i64,
    c: &RouterConfig,
) -> Result<Choice, IrError> {
    declare(b, c);
    let w = b.weight("w_router", &["e", "D"], &Tensor::matrix(prefix, [c.experts, hidden]));
    let logits = b.graph.contract(x, w, &["s", "e"])?;
    let (score, rank) = match c.method {
        Method::Greedy | Method::GroupLimited => {
            let score = b.graph.softmax(logits, None, "e")?;
            (score, score)
        }
        Method::Biased => {
            let score = b.graph.map("sigmoid(z)", &[("z", logits)], &["s", "e"])?;
            let key = format!("{prefix}.e_score_correction_bias");
            let bias = b.weight("bias", &["e"], &Tensor::bias(&key, c.experts));
            let rank = b.graph.map("w + b", &[("w", score), ("b", bias)], &["s", "e"])?;
            (score, rank)
        }
    };
    let open = if grouped(c) { Some(open_experts(b, rank, c)?) } else { None };
    let index = b.graph.topk(rank, open, "e", "k")?;
    let weight = b.graph.gather(score, index, None, "e")?;
    let weight = scaled(b, weight, c)?;
    Ok(Choice { index: b.graph.label(index, "expert"), weight: b.graph.label(weight, "gate") })
}

/// A mask of the experts in the groups that rank highest: bool `[s, e]`.
fn open_experts(b: &mut Block, rank: ValueId, c: &RouterConfig) -> Result<ValueId, IrError> {
    let parts = b.graph.split(rank, "e", &["g", "o"])?;
    let best = match c.method {
        Method::Biased => {
            b.index("two", 2);
            let top = b.graph.topk(parts, None, "o", "two")?;
            let top = b.graph.gather(parts, top, None, "o")?;
            b.graph.reduce("sum", top, None, &["s", "g"])?
        }
        _ => b.graph.reduce("max", parts, None, &["s", "g"])?,
    };
    let kept = b.graph.topk(best, None, "g", "j")?;
    let ones = b.graph.splat(1.0, &["s", "j"])?;
    let kept = b.graph.scatter(kept, ones, "j", "g")?;
    let open = b.graph.map("m != 0", &[("m", kept)], &["s", "g", "o"])?;
    b.graph.merge(open, &["g", "o"], "e")
}

fn scaled(b: &mut Block, weight: ValueId, c: &RouterConfig) -> Result<ValueId, IrError> {
    let scale =
        |e: Expr| if c.scale == 1.0 { e } else { e.binary(Binary::Mul, Expr::Num(c.scale)) };
    if c.normalise {
        let sum = b.graph.reduce("sum", weight, None, &["s"])?;
        let divisor = Expr::Arg(1).binary(Binary::Add, Expr::Num(NORM_EPS));
        let share = Expr::Arg(0).binary(Binary::Div, divisor);
        b.graph.map_expr(scale(share), &[weight, sum], &["s", "k"])
    } else if c.scale != 1.0 {
        b.graph.map_expr(scale(Expr::Arg(0)), &[weight], &["s", "k"])
    } else {
        Ok(weight)
    }
}
