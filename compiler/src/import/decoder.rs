//! From a family's layer to a program: embedding, layers, head, and the draft layer behind them.

use super::assembly::{Assembly, Block, input};
use super::catalogue::Tensor;
use super::config::Common;
use super::layers::ends::{EMBEDDING, HeadConfig, embed, head, norm, stream};
use super::layers::rotary::table_input;
use super::rope::Frequencies;
use crate::error::ImportErrors;
use ir::dim::Dim;
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::ValueId;
use ir::graph::program::{Call, Input};

/// A family's model, its config read.
pub trait Model {
    /// What all families state.
    fn common(&self) -> &Common;

    /// Of the one table of rotations that every layer uses.
    fn frequencies(&self) -> Frequencies;

    /// What to call the block of layer `n`: one name for layers of one kind.
    fn kind(&self, n: i64) -> &'static str;

    /// States layer `n`: the residual stream `x [s, D]` after it. Tensors begin with `prefix`.
    fn layer(
        &self,
        b: &mut Block,
        n: i64,
        prefix: &str,
        x: [ValueId; 2],
    ) -> Result<ValueId, IrError>;

    /// How many draft (MTP) layers follow the last one.
    fn drafts(&self) -> i64 {
        0
    }
}

/// Entry that computes logits.
pub const FORWARD: &str = "forward";
/// Entry that computes a draft of the token after the next.
pub const DRAFT: &str = "draft";
/// What all tensors of layer `n` begin with.
pub fn layer_prefix(n: i64) -> String {
    format!("model.layers.{n}")
}

/// States the whole program. `draft`: with the draft layer, if the model has one.
///
/// # Errors
/// What the IR refuses.
pub fn state(a: &mut Assembly, model: &dyn Model, draft: bool) -> Result<(), ImportErrors> {
    let Common { layers, hidden, .. } = *model.common();
    let draft = draft && model.drafts() > 0;
    let mut calls = vec![embedding(a, model)?];
    for n in 0..layers {
        calls.push(layer(a, model, n, n)?);
    }
    calls.push(logits(a, model, layers, "model.norm", draft)?);
    let results = if draft { &["logits", "hidden"][..] } else { &["logits"] };
    a.entry(FORWARD, step_inputs(), calls, results);
    if draft {
        let calls = draft_calls(a, model)?;
        let mut inputs = step_inputs();
        inputs.push(input("hidden", DType::F32, &[Dim::symbol("s"), hidden.into()]));
        a.entry(DRAFT, inputs, calls, &["logits", "drafted"]);
    }
    Ok(())
}

/// Token ids and positions of the new rows, and which rows' logits are wanted.
fn step_inputs() -> Vec<Input> {
    [("ids", "s"), ("pos", "s"), ("rows", "m")]
        .map(|(name, extent)| input(name, DType::I32, &[Dim::symbol(extent)]))
        .into()
}

fn embedding(a: &mut Assembly, model: &dyn Model) -> Result<Call, ImportErrors> {
    let Common { vocab, hidden, .. } = *model.common();
    let rope = model.frequencies();
    a.block("embed", &["x.0", "rope"], |b| embed(b, [vocab, hidden], &rope))
}

/// Layer `n` of the checkpoint, from the entry's value `x.AT` to `x.(AT + 1)`.
fn layer(a: &mut Assembly, model: &dyn Model, n: i64, at: i64) -> Result<Call, ImportErrors> {
    let hidden = model.common().hidden;
    let pairs = model.frequencies().radians.len() as i64;
    let result = format!("x.{}", at + 1);
    a.block(model.kind(n), &[&result], |b| {
        let x = stream(b, "x", hidden, &format!("x.{at}"));
        let rope = table_input(b, pairs);
        Ok(vec![model.layer(b, n, &layer_prefix(n), [x, rope])?])
    })
}

/// The head on the entry's value `x.AT`.
fn logits(
    a: &mut Assembly,
    model: &dyn Model,
    at: i64,
    norm: &str,
    hidden: bool,
) -> Result<Call, ImportErrors> {
    let common = model.common();
    let matrix = if common.tied { EMBEDDING } else { "lm_head" };
    let shape = [common.vocab, common.hidden];
    let config = HeadConfig { shape, head: matrix, norm, eps: common.eps, hidden };
    let normed = if norm == "model.norm" { "hidden" } else { "drafted" };
    let results = if hidden { &["logits", normed][..] } else { &["logits"] };
    a.block("head", results, |b| head(b, &format!("x.{at}"), &config))
}

/// DeepSeek-V3's multi-token prediction: the stream of a position after the final norm, joined
/// with the embedding of the next token, through one more layer and the shared head.
fn draft_calls(a: &mut Assembly, model: &dyn Model) -> Result<Vec<Call>, ImportErrors> {
    let Common { layers, hidden, eps, .. } = *model.common();
    let prefix = layer_prefix(layers);
    let embedding = embedding(a, model)?;
    let join = a.block("mtp", &["x.1"], |b| {
        let e = stream(b, "e", hidden, "x.0");
        let h = stream(b, "h", hidden, "hidden");
        b.index("w", Dim::symbol("D").times(&Dim::constant(2)));
        let e = norm(b, "n_e", e, &format!("{prefix}.enorm"), hidden, eps)?;
        let h = norm(b, "n_h", h, &format!("{prefix}.hnorm"), hidden, eps)?;
        let tensor = Tensor::linear(&format!("{prefix}.eh_proj"), [hidden, 2 * hidden]);
        let w = b.weight("w_eh", &["D", "w"], &tensor);
        let joined = b.graph.concat(&[(e, "D"), (h, "D")], "w")?;
        Ok(vec![b.graph.contract(joined, w, &["s", "D"])?])
    })?;
    let layer = layer(a, model, layers, 1)?;
    let head = logits(a, model, 2, &format!("{prefix}.shared_head.norm"), true)?;
    Ok(vec![embedding, join, layer, head])
}
