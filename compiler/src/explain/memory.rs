//! What is kept of a token, and in which precision: as lowering keeps it.

use crate::lower::error::LowerError;
use crate::lower::precision;
use crate::lower::states::{bytes_of_row, row_encoding, rows, with_states};
use crate::options::{Compute, Options};
use crate::pack::format::Format;
use crate::rewrite::choose::State;
use crate::rewrite::cost::encoded_bytes;
use artifact::plan;
use ir::dim::Name;
use ir::graph::program::Program;
use serde::Serialize;
use std::fmt::{self, Write};

/// Bytes of the whole model.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Of all weights as stored.
    pub weights: u64,
    /// Of a token in all layers.
    pub kv_bytes_per_token: u64,
    /// What that is made of.
    pub states: Vec<StateRow>,
    /// Of a step's values, about: those of the largest block.
    pub arena: u64,
}

/// A state of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct StateRow {
    /// Its row: encoding and extents.
    pub row: String,
    /// Layers that hold one.
    pub layers: u32,
    /// Bytes of a token's row of one layer.
    pub bytes_per_token: u64,
}

impl StateRow {
    pub(super) fn of(state: &plan::State) -> StateRow {
        let plan::State { layers, bytes_per_token, .. } = *state;
        StateRow { row: state.row.clone(), layers, bytes_per_token }
    }

    /// Bytes of a token in all layers of some states.
    pub(super) fn bytes_of(states: &[StateRow]) -> u64 {
        let bytes = |s: &StateRow| s.bytes_per_token.saturating_mul(s.layers.into());
        states.iter().map(bytes).fold(0, u64::saturating_add)
    }

    pub(super) fn write(&self, out: &mut String) -> fmt::Result {
        let StateRow { row, layers, bytes_per_token } = self;
        writeln!(out, "  state {row} in {layers} layers: {bytes_per_token} bytes of a token each")
    }
}

/// Of a program as stated, and as chosen for decoding.
pub(super) fn memory(
    program: &Program,
    decode: &Program,
    options: &Options,
    arena: f64,
) -> Result<Memory, LowerError> {
    let weights = program.weights.iter().map(|w| {
        let elements: f64 = w.dims.iter().map(|d| *d as f64).product();
        (elements * encoded_bytes(w.encoding)) as u64
    });
    let states = rows(&with_states(decode, options)?, options);
    let states: Vec<StateRow> = states.iter().map(StateRow::of).collect();
    let kv_bytes_per_token = StateRow::bytes_of(&states);
    Ok(Memory { weights: weights.sum(), kv_bytes_per_token, states, arena: arena as u64 })
}

/// A history that a block keeps.
#[derive(Clone, Debug, Serialize)]
pub struct KeptReport {
    /// Extents of a token's row.
    pub name: String,
    /// Bytes of a token's row: in most calls, where they differ.
    pub bytes_per_token: u64,
    /// The same by encoding, that of most calls first.
    pub calls: Vec<KeptIn>,
}

/// What some calls of a block keep.
#[derive(Clone, Debug, Serialize)]
pub struct KeptIn {
    /// How many.
    pub count: usize,
    /// In what.
    pub encoding: String,
    /// Bytes of a token's row.
    pub bytes_per_token: u64,
}

impl KeptReport {
    /// Bytes of a token by encoding.
    pub(super) fn words(&self) -> String {
        if let [only] = &self.calls[..] {
            return format!("{} bytes of a token in {}", only.bytes_per_token, only.encoding);
        }
        let words = |k: &KeptIn| {
            let calls = if k.count == 1 { "call" } else { "calls" };
            format!(
                "{} bytes of a token in {} ({} {calls})",
                k.bytes_per_token, k.encoding, k.count
            )
        };
        self.calls.iter().map(words).collect::<Vec<_>>().join(", ")
    }
}

/// Bytes of a token's rows of some histories.
pub(super) fn bytes_of(states: &[KeptReport]) -> u64 {
    states.iter().map(|state| state.bytes_per_token).sum()
}

/// Formats in which calls of a block keep rows, with how many do: most calls first.
pub(super) struct CacheFormats {
    counts: Vec<(Format, usize)>,
    compute: Compute,
}

impl CacheFormats {
    /// Of a block of a program as chosen.
    pub fn of(program: &Program, block: &Name, options: &Options) -> CacheFormats {
        let mut counts: Vec<(Format, usize)> = vec![];
        if let Some(entry) = program.entry("forward") {
            let calls = entry.calls.iter().zip(precision::kept(program, entry, options));
            for (_, kept) in calls.filter(|(call, _)| call.block == *block) {
                match counts.iter_mut().find(|(format, _)| *format == kept) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((kept, 1)),
                }
            }
        }
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        CacheFormats { counts, compute: options.compute }
    }

    /// What is kept of some histories.
    pub fn kept(&self, states: &[State]) -> Vec<KeptReport> {
        let report = |state: &State| {
            let calls = self.counts.iter().map(|(format, count)| {
                let encoding = row_encoding(*format, &state.extents, self.compute);
                let bytes_per_token = bytes_of_row(encoding, &state.extents);
                KeptIn { count: *count, encoding: encoding.to_string(), bytes_per_token }
            });
            let calls: Vec<KeptIn> = calls.collect();
            KeptReport {
                name: super::names(&state.dims),
                bytes_per_token: calls.first().map_or(0, |k| k.bytes_per_token),
                calls,
            }
        };
        states.iter().map(report).collect()
    }
}
