//! A mixture of experts beside one that every token takes.

use super::mlp::mlp;
use super::router::{RouterConfig, route};
use crate::import::assembly::Block;
use crate::import::catalogue::Tensor;
use ir::dim::Dim;
use ir::error::IrError;
use ir::graph::ValueId;

/// Experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// Which are chosen.
    pub router: RouterConfig,
    /// Width of one expert.
    pub width: i64,
    /// Experts that every token takes, joined as one network; 0: none.
    pub shared: i64,
}

/// Results to be added to the residual stream: the routed experts' sum, and the shared network's
/// output where there is one. Tensors are those of `PREFIX.{gate,experts.j,shared_experts}`.
pub fn experts(
    b: &mut Block,
    x: ValueId,
    prefix: &str,
    hidden: i64,
    c: &ExpertsConfig,
) -> Result<Vec<ValueId>, IrError> {
    let choice = route(b, x, &format!("{prefix}.gate"), hidden, &c.router)?;
    b.dim("fe", c.width);
    let count = c.router.experts;
    let stack = |part: &str, dims| {
        Tensor::experts(&format!("{prefix}.experts"), &format!("{part}_proj"), count, dims)
    };
    let gate = b.weight("e_gate", &["e", "fe", "D"], &stack("gate", [c.width, hidden]));
    let up = b.weight("e_up", &["e", "fe", "D"], &stack("up", [c.width, hidden]));
    let down = b.weight("e_down", &["e", "D", "fe"], &stack("down", [hidden, c.width]));
    // Every expert sees every token; the gate is 0 but for the chosen.
    let share = b.graph.scatter(choice.index, choice.weight, "k", "e")?;
    let gate = b.graph.contract(x, gate, &["s", "e", "fe"])?;
    let up = b.graph.contract(x, up, &["s", "e", "fe"])?;
    let inner = b.graph.swiglu(gate, up)?;
    let each = b.graph.contract(inner, down, &["s", "e", "D"])?;
    let routed = b.graph.contract(each, share, &["s", "D"])?;
    if c.shared == 0 {
        return Ok(vec![routed]);
    }
    let width = shared_width(b, c);
    let shared = mlp(b, x, &format!("{prefix}.shared_experts"), hidden, width)?;
    Ok(vec![routed, shared])
}

/// The index of the shared network's width, in terms of an expert's: of one it is the same.
fn shared_width(b: &mut Block, c: &ExpertsConfig) -> &'static str {
    if c.shared == 1 {
        return "fe";
    }
    b.dim("shared", c.shared);
    b.index("f", Dim::symbol("shared").times(&Dim::symbol("fe")));
    "f"
}
