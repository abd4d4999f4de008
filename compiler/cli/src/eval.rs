//! `latentc eval`: how well a compiled model predicts a text.

use crate::diagnostic::Failure;
use crate::output;
use crate::progress::Shown;
use clap::Args;
use compiler::progress::Progress;
use generate::GenerateError;
use generate::command::args::{LoadArgs, at_least_one};
use generate::command::fit;
use generate::command::material::Material;
use generate::engine::{Model, ModelEngine};
use generate::perplexity::{Score, Windows, score};
use generate::tokenize::{Bos, Tokenizer};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of a window, where the model's context holds so many.
const WINDOW: usize = 2048;

/// Options of `eval`.
#[derive(Args)]
pub struct EvalArgs {
    /// Artifact or executable made by `latentc compile`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Compute the perplexity of this text (UTF-8): each token is predicted from those before it in
    /// its window; windows do not overlap
    #[arg(long, value_name = "TEXT")]
    perplexity: PathBuf,
    /// Tokens of a window [default: 2048, or the model's context if that is less]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    window: Option<usize>,
    /// Take no more than the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    tokens: Option<usize>,
    /// How the model is loaded.
    #[command(flatten)]
    load: LoadArgs,
    /// Most tokens of a step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    chunk: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Evaluates.
pub fn eval(args: &EvalArgs) -> Result<(), Failure> {
    let path = &args.perplexity;
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    let model = Model::open(&args.file, &args.load.options()).map_err(GenerateError::from)?;
    let model = Arc::new(model);
    let material = Material::of(&model)?;
    let windows = windows(args, &model, material.tokenizer()?, &text)?;
    let mut engine = ModelEngine::new(&model, windows.length())?;
    let mut shown = Shown::new(false);
    shown.begin("tokens", windows.fed() as u64);
    let found = score(&mut engine, &windows, args.chunk, &mut |tokens| shown.done(tokens as u64))?;
    shown.finish();
    let report = if args.json {
        format!("{}\n", object(&model, path, &windows, &found))
    } else {
        text_of(&windows, &found)
    };
    output::write(None, report.as_bytes())
}

fn windows(
    args: &EvalArgs,
    model: &Model,
    tokenizer: &Tokenizer,
    text: &str,
) -> Result<Windows, Failure> {
    let mut tokens = tokenizer.encode(text, Bos::AsWritten)?;
    tokens.truncate(args.tokens.unwrap_or(usize::MAX));
    let length = args.window.unwrap_or_else(|| fit(model, WINDOW));
    let windows = Windows::new(tokenizer.prefix(), &tokens, length);
    Ok(windows.ok_or_else(|| GenerateError::BadOption {
        option: "--perplexity",
        value: format!("a text of {} tokens in windows of {length}", tokens.len()),
        expected: "at least one token after another",
    })?)
}

fn object(model: &Model, text: &Path, windows: &Windows, found: &Score) -> serde_json::Value {
    json!({
        "model": model.manifest().model.name,
        "isa": model.isa(),
        "backend": model.backend(),
        "text": text.display().to_string(),
        "windows": windows.count(),
        "window": windows.length(),
        "tokens": found.tokens,
        "nats": found.mean(),
        "nats_error": found.error(),
        "perplexity": found.perplexity(),
    })
}

fn text_of(windows: &Windows, found: &Score) -> String {
    let perplexity = found.perplexity();
    let error = Some(perplexity * found.error()).filter(|error| error.is_finite());
    let error = error.map(|error| format!(", give or take {error:.4}")).unwrap_or_default();
    let (nats, tokens) = (found.mean(), found.tokens);
    let (count, length) = (windows.count(), windows.length());
    format!(
        "perplexity {perplexity:.4}{error}: {nats:.5} nats for each of {tokens} tokens, in {count} \
         windows of {length}\n"
    )
}
