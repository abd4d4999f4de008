//! Comparison with stored results of an independent implementation.
//!
//! Goldens are `NAME.json` with `NAME.safetensors` beside it. For prompt i the tensors are
//! `pi.input_ids` (i64) and `pi.logits` (f32, a row for each position of `logit_positions`); the
//! JSON has `greedy_ids`, and in `first_small_margin_step` the first of them that was so close a
//! decision that it may differ. Where there are experts, `choice_gaps_prompt` and
//! `choice_gaps_with_greedy` say how close their choice was; `pi.greedy_margin` (f32) says it of
//! each greedy token.

use super::bounds::{Bounds, median};
use super::{file_error, read_file};
use crate::engine::Engine;
use crate::error::{GenerateError, Result};
use crate::logits::{Feed, every_position};
use crate::schedule::{self, Progress, Scheduler};
use crate::sequence::Request;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What the JSON file says of a prompt.
#[derive(Debug, Deserialize)]
struct Described {
    index: usize,
    #[serde(default)]
    name: Option<String>,
    /// Positions `[first, end)` whose logits are stored.
    logit_positions: [usize; 2],
    #[serde(default)]
    greedy_ids: Vec<i32>,
    #[serde(default)]
    first_small_margin_step: Option<usize>,
    /// Least gap of a choice over the prompt, by what is chosen.
    #[serde(default)]
    choice_gaps_prompt: BTreeMap<String, Option<f64>>,
    /// The same over the prompt and its greedy continuation.
    #[serde(default)]
    choice_gaps_with_greedy: BTreeMap<String, Option<f64>>,
}

#[derive(Debug, Deserialize)]
struct File {
    prompts: Vec<Described>,
}

/// A prompt with the results that are expected for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// Number of the prompt.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Token ids.
    pub input: Vec<i32>,
    /// Position of the first row of `logits`.
    pub first: usize,
    /// f32 `[rows, V]`.
    pub logits: Vec<f32>,
    /// Values of a row.
    pub vocab: usize,
    /// Greedy continuation, as far as its decisions are clear.
    pub greedy: Vec<i32>,
    /// How far each greedy token was above the next best, if that is stored.
    pub margins: Option<Vec<f32>>,
    /// Least distance between what routers chose and what they left, if they did.
    pub gap: Option<f64>,
    /// The same with the greedy continuation.
    pub greedy_gap: Option<f64>,
}

/// How a prompt compares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Number of the prompt.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Position of the first stored row.
    pub first_position: usize,
    /// |found - expected| / |expected| for each stored position, in L2 norm.
    pub relative_errors: Vec<f64>,
    /// The greatest of them.
    pub max_relative_error: f64,
    /// Where that is.
    pub worst_position: usize,
    /// Their median.
    pub median_relative_error: f64,
    /// Positions beyond the bound that a router's gap excuses.
    pub excused_positions: Vec<usize>,
    /// Least gap of the prompt's choices of experts.
    pub gap: Option<f64>,
    /// Greedy tokens compared: those before the first that is no sure decision.
    pub greedy_tokens: usize,
    /// How many of them are equal before the first that differs.
    pub greedy_equal: usize,
    /// Whether some differ, and a router's gap excuses that.
    pub greedy_excused: bool,
    /// Whether every error is within the bound or excused, and the greedy tokens are equal or
    /// excused.
    pub ok: bool,
}

impl Comparison {
    /// Whether anything was excused.
    pub fn is_excused(&self) -> bool {
        self.greedy_excused || !self.excused_positions.is_empty()
    }
}

/// Reads goldens.
///
/// # Errors
/// [`GenerateError::Io`] or [`GenerateError::BadGoldens`].
pub fn read(path: &Path) -> Result<Vec<Golden>> {
    let json = read_file(path)?;
    let data_path = path.with_extension("safetensors");
    let data = std::fs::read(&data_path).map_err(|e| file_error("read", &data_path, e))?;
    parse(path, &json, &data)
}

/// Reads goldens from the bytes of their two files; `path` is that of the JSON.
///
/// # Errors
/// [`GenerateError::BadGoldens`].
pub fn parse(path: &Path, json: &[u8], data: &[u8]) -> Result<Vec<Golden>> {
    let bad =
        |detail: String| GenerateError::BadGoldens { file: path.display().to_string(), detail };
    let file: File = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
    let tensors = SafeTensors::deserialize(data).map_err(|e| bad(e.to_string()))?;
    if file.prompts.is_empty() {
        return Err(bad("found no prompts, expected at least one".to_owned()));
    }
    let golden = |d: Described| read_one(d, &tensors).map_err(&bad);
    file.prompts.into_iter().map(golden).collect()
}

fn read_one(d: Described, tensors: &SafeTensors<'_>) -> std::result::Result<Golden, String> {
    let tensor = |key: &str, dtype: Dtype| -> std::result::Result<TensorView<'_>, String> {
        let name = format!("p{}.{key}", d.index);
        let view = tensors.tensor(&name).map_err(|e| format!("{name}: {e}"))?;
        let found = view.dtype();
        (found == dtype).then_some(view).ok_or(format!("{name} is {found:?}, expected {dtype:?}"))
    };
    let ids = tensor("input_ids", Dtype::I64)?;
    let input: Vec<i32> = ids
        .data()
        .as_chunks::<8>()
        .0
        .iter()
        .map(|b| i64::from_le_bytes(*b))
        .map(|id| i32::try_from(id).map_err(|_| format!("p{}.input_ids has {id}", d.index)))
        .collect::<std::result::Result<_, _>>()?;
    let rows = tensor("logits", Dtype::F32)?;
    let [first, end] = d.logit_positions;
    let [count, vocab] = *rows.shape() else {
        return Err(format!("p{}.logits has shape {:?}", d.index, rows.shape()));
    };
    if first >= end || end > input.len() || end - first != count || vocab == 0 {
        return Err(format!(
            "p{}: {count} rows for positions {first} to {end} of {} tokens",
            d.index,
            input.len()
        ));
    }
    let mut greedy = d.greedy_ids;
    greedy.truncate(d.first_small_margin_step.unwrap_or(usize::MAX));
    let floats =
        |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let has_margins = tensors.tensor(&format!("p{}.greedy_margin", d.index)).is_ok();
    let margins = has_margins.then(|| tensor("greedy_margin", Dtype::F32)).transpose()?;
    let least =
        |gaps: &BTreeMap<String, Option<f64>>| gaps.values().copied().flatten().reduce(f64::min);
    Ok(Golden {
        index: d.index,
        name: d.name.unwrap_or_else(|| format!("prompt {}", d.index)),
        input,
        first,
        logits: floats(rows.data()),
        vocab,
        greedy,
        margins: margins.map(|t| floats(t.data())),
        gap: least(&d.choice_gaps_prompt),
        greedy_gap: least(&d.choice_gaps_with_greedy),
    })
}

/// Computes what goldens hold and compares.
///
/// # Errors
/// What the engine reports; [`GenerateError::BadGoldens`] if the vocabularies differ.
pub fn compare<E: Engine>(
    engine: &mut E,
    all: &[Golden],
    chunk: usize,
    bounds: &Bounds,
) -> Result<Vec<Comparison>> {
    let errors: Vec<Vec<f64>> =
        all.iter().map(|golden| errors(engine, golden, chunk)).collect::<Result<_>>()?;
    // What a greedy decision has to withstand even in a prompt whose own errors are small.
    let usual = errors.iter().flatten().copied().filter(|e| *e <= bounds.row).fold(0.0, f64::max);
    let one = |(golden, errors)| compare_one(engine, golden, errors, usual, chunk, bounds);
    all.iter().zip(errors).map(one).collect()
}

fn compare_one<E: Engine>(
    engine: &mut E,
    golden: &Golden,
    relative_errors: Vec<f64>,
    usual: f64,
    chunk: usize,
    bounds: &Bounds,
) -> Result<Comparison> {
    let positions = || (golden.first..).zip(relative_errors.iter().copied());
    let worst = positions().max_by(|a, b| a.1.total_cmp(&b.1));
    let (worst_position, max_relative_error) = worst.unwrap_or((golden.first, 0.0));
    let beyond = || positions().filter(|(_, error)| *error > bounds.row);
    let excused = |error| bounds.excuses(error, golden.gap);
    let (margins, turned) = (golden.margins.as_deref(), usual.max(max_relative_error));
    let steps = bounds.sure(margins, golden.greedy.len(), turned * rms(golden));
    let found = greedy(engine, &golden.input, steps, chunk)?;
    let equal = found.iter().zip(&golden.greedy).take_while(|(a, b)| a == b).count();
    let greedy_excused = equal < steps && bounds.closes(golden.greedy_gap);
    Ok(Comparison {
        index: golden.index,
        name: golden.name.clone(),
        first_position: golden.first,
        max_relative_error,
        worst_position,
        median_relative_error: median(relative_errors.iter().copied()).unwrap_or(0.0),
        excused_positions: beyond().filter(|(_, e)| excused(*e)).map(|(at, _)| at).collect(),
        gap: golden.gap,
        greedy_tokens: steps,
        greedy_equal: equal,
        greedy_excused,
        ok: beyond().all(|(_, e)| excused(e)) && (equal == steps || greedy_excused),
        relative_errors,
    })
}

/// Relative error at each stored position.
fn errors<E: Engine>(engine: &mut E, golden: &Golden, chunk: usize) -> Result<Vec<f64>> {
    let vocab = engine.vocab();
    if golden.vocab != vocab {
        return Err(GenerateError::BadGoldens {
            file: golden.name.clone(),
            detail: format!("{} logits in a row, the model has {vocab}", golden.vocab),
        });
    }
    let end = golden.first + golden.logits.len() / vocab;
    let mut errors = Vec::with_capacity(end - golden.first);
    let input = std::slice::from_ref(&golden.input);
    every_position(engine, input, Feed::Chunked(chunk), &mut |at, block| {
        for (position, row) in (at.position..).zip(block.chunks_exact(vocab)) {
            if (golden.first..end).contains(&position) {
                let start = (position - golden.first) * vocab;
                errors.push(relative_error(row, &golden.logits[start..start + vocab]));
            }
        }
        Ok(())
    })?;
    Ok(errors)
}

/// Root mean square of the stored logits.
fn rms(golden: &Golden) -> f64 {
    let sum: f64 = golden.logits.iter().map(|v| f64::from(*v).powi(2)).sum();
    (sum / golden.logits.len().max(1) as f64).sqrt()
}

/// |found - expected| / |expected|; what is not a number is infinitely wrong.
fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs.map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|b| square(f64::from(*b))).sum();
    let error = (off / norm).sqrt();
    if off == 0.0 {
        0.0
    } else if error.is_nan() {
        f64::INFINITY
    } else {
        error
    }
}

fn greedy<E: Engine>(
    engine: &mut E,
    prompt: &[i32],
    count: usize,
    chunk: usize,
) -> Result<Vec<i32>> {
    let mut scheduler = Scheduler::new(engine, schedule::Bounds { chunk, sequences: 1 }, None);
    let prompt = prompt.to_vec();
    scheduler.submit(Request { prompt, max_tokens: count, ..Request::default() })?;
    let mut tokens = Vec::with_capacity(count);
    while !scheduler.is_idle() {
        let mut events = Vec::new();
        scheduler.step(&mut events)?;
        for (_, progress) in events {
            match progress {
                Progress::Token(id) => tokens.push(id),
                Progress::Finished(..) => {}
                Progress::Failed(error) => return Err(error),
            }
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_never_nan() {
        assert_eq!(relative_error(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative_error(&[3.0, 9.0], &[3.0, 4.0]), 1.0);
        assert_eq!(relative_error(&[f32::NAN, 4.0], &[3.0, 4.0]), f64::INFINITY);
        assert_eq!(relative_error(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(relative_error(&[0.0], &[0.0]), 0.0);
    }
}
