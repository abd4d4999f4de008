//! Where tokens come in and logits go out, and the norm and residual in between.

use super::rotary;
use crate::import::assembly::Block;
use crate::import::catalogue::Tensor;
use crate::import::rope::Frequencies;
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::ValueId;

/// Name of the embedding's tensor.
pub const EMBEDDING: &str = "model.embed_tokens";

/// The residual stream of an entry's value `name`: f32 `[s, D]`.
pub fn stream(b: &mut Block, param: &str, hidden: i64, name: &str) -> ValueId {
    b.dim("D", hidden);
    b.input(param, DType::F32, &["s", "D"], name)
}

/// Rows of the embedding for `ids`, and the table of rotations for `pos`.
pub fn embed(
    b: &mut Block,
    [vocab, hidden]: [i64; 2],
    rope: &Frequencies,
) -> Result<Vec<ValueId>, IrError> {
    b.dim("V", vocab);
    b.dim("D", hidden);
    let ids = b.input("ids", DType::I32, &["s"], "ids");
    let pos = b.input("pos", DType::I32, &["s"], "pos");
    let w = b.weight("embedding", &["V", "D"], &Tensor::matrix(EMBEDDING, [vocab, hidden]));
    let x = b.graph.gather(w, ids, None, "V")?;
    // The residual stream is f32 whatever the embedding is stored as.
    let x = if b.graph.ty(x).dtype() == DType::F32 { x } else { b.graph.cast(x, DType::F32)? };
    let table = rotary::table(b, pos, rope)?;
    Ok(vec![b.graph.label(x, "x0"), table])
}

/// Norm of the residual stream by tensor `KEY.weight`.
pub fn norm(
    b: &mut Block,
    param: &str,
    x: ValueId,
    key: &str,
    hidden: i64,
    eps: f64,
) -> Result<ValueId, IrError> {
    let w = b.weight(param, &["D"], &Tensor::norm(key, hidden));
    b.graph.rms_norm(x, w, "D", eps)
}

/// `x` plus everything in `parts`, all `[s, D]`.
pub fn residual(b: &mut Block, x: ValueId, parts: &[ValueId]) -> Result<ValueId, IrError> {
    parts.iter().try_fold(x, |x, part| b.graph.map("x + y", &[("x", x), ("y", *part)], &["s", "D"]))
}

/// The head's tensors and constants.
pub struct HeadConfig<'a> {
    /// Extents of the head's matrix.
    pub shape: [i64; 2],
    /// Name of its tensor.
    pub head: &'a str,
    /// Name of the norm's tensor.
    pub norm: &'a str,
    /// ε of the norm.
    pub eps: f64,
    /// Whether a draft layer needs the normed stream of every row.
    pub hidden: bool,
}

/// Logits `[m, V]` of the wanted `rows [m]` of the residual stream named `value`; and the normed
/// stream `[s, D]`, if asked for.
pub fn head(b: &mut Block, value: &str, c: &HeadConfig) -> Result<Vec<ValueId>, IrError> {
    let [vocab, hidden] = c.shape;
    b.dim("V", vocab);
    let x = stream(b, "x", hidden, value);
    b.wanted_rows();
    let rows = b.input("rows", DType::I32, &["m"], "rows");
    let (wanted, all) = if c.hidden {
        let all = norm(b, "n_final", x, c.norm, hidden, c.eps)?;
        let all = b.graph.label(all, "hidden");
        (b.graph.gather(all, rows, None, "s")?, Some(all))
    } else {
        let wanted = b.graph.gather(x, rows, None, "s")?;
        (norm(b, "n_final", wanted, c.norm, hidden, c.eps)?, None)
    };
    let w = b.weight("w_head", &["V", "D"], &Tensor::matrix(c.head, c.shape));
    let logits = b.graph.contract(wanted, w, &["m", "V"])?;
    let logits = b.graph.label(logits, "logits");
    Ok([Some(logits), all].into_iter().flatten().collect())
}
