//! `verify`: hashes, and results against goldens.

use super::args::VerifyArgs;
use super::bounds::Bounds;
use super::goldens::{self, Golden};
use super::goldens_report::Compared;
use super::{Streams, fit};
use crate::engine::ModelEngine;
use crate::error::Result;
use runtime::Model;
use serde_json::{Value, json};
use std::sync::Arc;

/// Something else that was checked of a file, by who has the means.
#[derive(Clone, Debug)]
pub struct Fact {
    /// Key of the report.
    pub key: &'static str,
    /// Its value.
    pub value: Value,
    /// For people: a line, or several, without the last one's end.
    pub line: String,
}

/// Checks the weights' hashes (those of everything else were checked when the model was opened)
/// and, with `--goldens`, compares results. Prints a table or one JSON object: `{file, sections,
/// weights_bytes, hashes, goldens}`, the last as [`Compared::object`] has it, and `facts`.
///
/// # Errors
/// `Runtime` for a damaged file; after the report is printed, `GoldensDiffer` or `GoldensMedian`.
pub fn verify(
    model: &Arc<Model>,
    args: &VerifyArgs,
    facts: &[Fact],
    streams: &mut Streams<'_>,
) -> Result<()> {
    if !model.weights_checked() {
        model.verify_weights(&|_, _| {})?;
    }
    let compared = match &args.goldens {
        None => None,
        Some(path) => Some(compare(model, &goldens::read(path)?, args.tolerance, args.chunk)?),
    };
    if args.json {
        let mut object = object(model, compared.as_ref());
        facts.iter().for_each(|fact| object[fact.key] = fact.value.clone());
        streams.json(&object)?;
    } else {
        let weights = model.memory().weights_bytes;
        let sections = model.sections().len();
        streams.say(&format!("hashes of {sections} sections equal, weights {weights} bytes\n"))?;
        facts.iter().try_for_each(|fact| streams.say(&format!("{}\n", fact.line)))?;
        if let Some(all) = &compared {
            all.print(streams)?;
        }
    }
    compared.map_or(Ok(()), |all| all.verdict())
}

/// Compares results with goldens, `chunk` tokens of a prompt at most in a step. `tolerance` takes
/// the place of the bounds that the model's precision has.
///
/// # Errors
/// As [`Bounds::of`] and [`goldens::compare`].
pub fn compare(
    model: &Arc<Model>,
    all: &[Golden],
    tolerance: Option<f64>,
    chunk: usize,
) -> Result<Compared> {
    let longest = all.iter().map(|g| g.input.len() + g.greedy.len()).max().unwrap_or(0);
    let bounds = Bounds::of(&model.manifest().options, tolerance)?;
    let mut engine = ModelEngine::new(model, fit(model, longest))?;
    Ok(Compared { bounds, prompts: goldens::compare(&mut engine, all, chunk, &bounds)? })
}

fn object(model: &Model, compared: Option<&Compared>) -> Value {
    json!({
        "file": model.path(),
        "sections": model.sections().len(),
        "weights_bytes": model.memory().weights_bytes,
        "hashes": "equal",
        "isa": model.isa(),
        "threads": model.threads(),
        "goldens": compared.map(Compared::object),
    })
}
