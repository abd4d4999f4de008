//! Comparison with stored results of an independent implementation.
//!
//! Goldens are `NAME.json` with `NAME.safetensors` beside it. For prompt i the tensors are
//! `pi.input_ids` (i64) and `pi.logits` (f32, a row for each position of `logit_positions`); the
//! JSON has `greedy_ids`, and in `first_small_margin_step` the first of them that was so close a
//! decision that it may differ.

use super::{Streams, file_error, read_file};
use crate::engine::Engine;
use crate::error::{GenerateError, Result};
use crate::logits::{Feed, every_position};
use crate::schedule::{Bounds, Progress, Scheduler};
use crate::sequence::Request;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
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
    /// Greedy tokens compared.
    pub greedy_tokens: usize,
    /// How many of them are equal before the first that differs.
    pub greedy_equal: usize,
    /// Whether the errors are within the tolerance and the greedy tokens equal.
    pub ok: bool,
}

/// Reads goldens.
///
/// # Errors
/// [`GenerateError::Io`] or [`GenerateError::BadGoldens`].
pub fn read(path: &Path) -> Result<Vec<Golden>> {
    let bad =
        |detail: String| GenerateError::BadGoldens { file: path.display().to_string(), detail };
    let file: File = serde_json::from_slice(&read_file(path)?).map_err(|e| bad(e.to_string()))?;
    let data_path = path.with_extension("safetensors");
    let data = std::fs::read(&data_path).map_err(|e| file_error("read", &data_path, e))?;
    let tensors = SafeTensors::deserialize(&data).map_err(|e| bad(e.to_string()))?;
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
    if first > end || end > input.len() || end - first != count || vocab == 0 {
        return Err(format!(
            "p{}: {count} rows for positions {first} to {end} of {} tokens",
            d.index,
            input.len()
        ));
    }
    let logits = rows.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut greedy = d.greedy_ids;
    greedy.truncate(d.first_small_margin_step.unwrap_or(usize::MAX));
    let name = d.name.unwrap_or_else(|| format!("prompt {}", d.index));
    Ok(Golden { index: d.index, name, input, first, logits, vocab, greedy })
}

/// Computes what a golden holds and compares.
///
/// # Errors
/// What the engine reports; [`GenerateError::BadGoldens`] if the vocabularies differ.
pub fn compare<E: Engine>(
    engine: &mut E,
    golden: &Golden,
    chunk: usize,
    tolerance: f64,
) -> Result<Comparison> {
    let vocab = engine.vocab();
    if golden.vocab != vocab {
        return Err(GenerateError::BadGoldens {
            file: golden.name.clone(),
            detail: format!("{} logits in a row, the model has {vocab}", golden.vocab),
        });
    }
    let end = golden.first + golden.logits.len() / vocab;
    let mut relative_errors = Vec::with_capacity(end - golden.first);
    let input = std::slice::from_ref(&golden.input);
    every_position(engine, input, Feed::Chunked(chunk), &mut |at, block| {
        for (position, row) in (at.position..).zip(block.chunks_exact(vocab)) {
            if (golden.first..end).contains(&position) {
                let start = (position - golden.first) * vocab;
                relative_errors.push(relative_error(row, &golden.logits[start..start + vocab]));
            }
        }
        Ok(())
    })?;
    let max_relative_error = relative_errors.iter().copied().fold(0.0, f64::max);
    let found = greedy(engine, &golden.input, golden.greedy.len(), chunk)?;
    let equal = found.iter().zip(&golden.greedy).take_while(|(a, b)| a == b).count();
    Ok(Comparison {
        index: golden.index,
        name: golden.name.clone(),
        first_position: golden.first,
        relative_errors,
        max_relative_error,
        greedy_tokens: golden.greedy.len(),
        greedy_equal: equal,
        ok: max_relative_error <= tolerance && equal == golden.greedy.len(),
    })
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
    let mut scheduler = Scheduler::new(engine, Bounds { chunk, sequences: 1 }, None);
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

/// Prints comparisons as a table.
///
/// # Errors
/// As [`Streams::say`].
pub fn print(all: &[Comparison], streams: &mut Streams<'_>) -> Result<()> {
    streams
        .say(&format!("{:>6}  {:>4}  {:>9}  {:>7}  \n", "prompt", "rows", "max error", "greedy"))?;
    for c in all {
        streams.say(&format!(
            "{:>6}  {:>4}  {:>9.2e}  {:>7}  {}{}\n",
            c.index,
            c.relative_errors.len(),
            c.max_relative_error,
            format!("{}/{}", c.greedy_equal, c.greedy_tokens),
            if c.ok { "" } else { "DIFFERS: " },
            c.name,
        ))?;
    }
    Ok(())
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
