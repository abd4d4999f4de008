//! `verify`: hashes, and results against goldens.

use super::args::VerifyArgs;
use super::goldens::{self, Comparison, Golden};
use super::{Streams, fit};
use crate::engine::ModelEngine;
use crate::error::{GenerateError, Result};
use runtime::Model;
use serde_json::{Value, json};
use std::sync::Arc;

/// Checks the weights' hashes (those of everything else were checked when the model was opened)
/// and, with `--goldens`, compares results. Prints a table or one JSON object: `{file, sections,
/// weights_bytes, hashes, goldens: {tolerance, ok, prompts}}`.
///
/// # Errors
/// [`GenerateError::Runtime`] for a damaged file, [`GenerateError::GoldensDiffer`] after the
/// report is printed.
pub fn verify(model: &Arc<Model>, args: &VerifyArgs, streams: &mut Streams<'_>) -> Result<()> {
    if !model.weights_checked() {
        model.verify_weights(&|_, _| {})?;
    }
    let compared = match &args.goldens {
        None => None,
        Some(path) => Some(compare(model, &goldens::read(path)?, args)?),
    };
    if args.json {
        streams.json(&object(model, compared.as_deref(), args))?;
    } else {
        let weights = model.memory().weights_bytes;
        let sections = model.sections().len();
        streams.say(&format!("hashes of {sections} sections equal, weights {weights} bytes\n"))?;
        if let Some(all) = &compared {
            goldens::print(all, streams)?;
        }
    }
    let all = compared.unwrap_or_default();
    let failed = all.iter().filter(|c| !c.ok).count();
    if failed == 0 {
        return Ok(());
    }
    Err(GenerateError::GoldensDiffer { failed, prompts: all.len(), tolerance: args.tolerance })
}

fn compare(model: &Arc<Model>, all: &[Golden], args: &VerifyArgs) -> Result<Vec<Comparison>> {
    let longest = all.iter().map(|g| g.input.len() + g.greedy.len()).max().unwrap_or(0);
    let mut engine = ModelEngine::new(model, fit(model, longest))?;
    all.iter().map(|g| goldens::compare(&mut engine, g, args.chunk, args.tolerance)).collect()
}

fn object(model: &Model, compared: Option<&[Comparison]>, args: &VerifyArgs) -> Value {
    let goldens = compared.map(|all| {
        let ok = all.iter().all(|c| c.ok);
        json!({"tolerance": args.tolerance, "ok": ok, "prompts": all})
    });
    json!({
        "file": model.path(),
        "sections": model.sections().len(),
        "weights_bytes": model.memory().weights_bytes,
        "hashes": "equal",
        "isa": model.isa(),
        "threads": model.threads(),
        "goldens": goldens,
    })
}
