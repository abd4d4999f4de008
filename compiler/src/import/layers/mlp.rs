//! A gated network: w_down · swiglu(w_gate · x, w_up · x).

use crate::import::assembly::Block;
use crate::import::catalogue::Tensor;
use ir::error::IrError;
use ir::graph::ValueId;

/// `x [s, D]` through the network of tensors `PREFIX.{gate,up,down}_proj`, whose width is that of
/// the index `f`.
pub fn mlp(
    b: &mut Block,
    x: ValueId,
    prefix: &str,
    hidden: i64,
    f: &str,
) -> Result<ValueId, IrError> {
    let width = b.extent(f);
    let tensor = |part: &str, dims| Tensor::linear(&format!("{prefix}.{part}_proj"), dims);
    let gate = b.weight("w_gate", &[f, "D"], &tensor("gate", [width, hidden]));
    let up = b.weight("w_up", &[f, "D"], &tensor("up", [width, hidden]));
    let down = b.weight("w_down", &["D", f], &tensor("down", [hidden, width]));
    let gate = b.graph.contract(x, gate, &["s", f])?;
    let up = b.graph.contract(x, up, &["s", f])?;
    let inner = b.graph.swiglu(gate, up)?;
    b.graph.contract(inner, down, &["s", "D"])
}
