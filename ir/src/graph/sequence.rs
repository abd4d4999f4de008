//! The meaning of a program: entries evaluated step by step over one sequence.

use super::error::GraphError;
use super::interp::{Outcome, Settings, evaluate_after};
use super::program::{Arg, Call, Entry, Program, State, Weight};
use crate::dim::{Dim, Name};
use crate::number::Number;
use crate::tensor::Tensor;
use std::collections::{BTreeMap, HashMap};

/// Gives the decoded elements of a weight, in its logical extents. Called at every use: nothing is
/// kept, so that a model larger than memory can be evaluated.
pub type Weights<'w, N> = dyn FnMut(&Weight) -> Result<Tensor<N>, GraphError> + 'w;

/// Rows so far of each `history` node, for each call of each entry.
type Histories<N> = BTreeMap<(Name, usize), Vec<Tensor<N>>>;

/// One sequence, and what its states and histories hold.
#[derive(Clone, Debug)]
pub struct Sequence<'p, N> {
    program: &'p Program,
    states: BTreeMap<(Name, u32), Tensor<N>>,
    histories: Histories<N>,
    key: u64,
}

impl<'p, N: Number> Sequence<'p, N> {
    /// A sequence without tokens. `key` chooses the field's hashes.
    pub fn new(program: &'p Program, key: u64) -> Self {
        Sequence { program, states: BTreeMap::new(), histories: BTreeMap::new(), key }
    }

    /// Evaluates an entry on its inputs; states that its blocks append to grow, and histories.
    ///
    /// Errors: E0104 for an entry that is not there, E0129 for wrong inputs, what the weights'
    /// source and the ops report. The states are as before then.
    pub fn step(
        &mut self,
        entry: &str,
        inputs: &[Tensor<N>],
        weights: &mut Weights<'_, N>,
    ) -> Result<Vec<Tensor<N>>, GraphError> {
        let unknown = |what, name: &str| GraphError::Unknown { what, name: name.into() };
        let entry = self.program.entry(entry).ok_or_else(|| unknown("entry", entry))?;
        let mut values = given(entry, inputs)?;
        let uses = last_uses(entry);
        let (mut grown, mut histories) = (BTreeMap::new(), Histories::new());
        for (at, call) in entry.calls.iter().enumerate() {
            let key = (entry.name.clone(), at);
            let past = self.histories.get(&key).map_or(&[][..], |past| past);
            let outcome = self.call(call, past, &values, weights, &mut grown)?;
            histories.insert(key, outcome.histories);
            values.extend(call.results.iter().cloned().zip(outcome.outputs));
            values.retain(|name, _| uses.get(name).is_some_and(|last| *last > at));
        }
        self.states.extend(grown);
        self.histories.extend(histories);
        let output = |name: &Name| values.get(name).cloned().ok_or_else(|| unknown("value", name));
        entry.outputs.iter().map(output).collect()
    }

    /// Rows that a state holds.
    pub fn rows(&self, state: &str, layer: u32) -> usize {
        let held = self.states.get(&(Name::from(state), layer));
        held.map_or(0, |rows| rows.dims().first().copied().unwrap_or(0))
    }

    /// Rows that the histories of an entry hold; 0 where it has none.
    pub fn kept(&self, entry: &str) -> usize {
        let own = self.histories.iter().filter(|((name, _), _)| **name == *entry);
        let rows = own.flat_map(|(_, kept)| kept).filter_map(|t| t.dims().first());
        rows.max().copied().unwrap_or(0)
    }

    /// Takes tokens back: every state and history keeps its first `rows`.
    pub fn truncate(&mut self, rows: usize) {
        let states = std::mem::take(&mut self.states);
        self.states = states.into_iter().map(|(k, v)| (k, v.truncated(rows))).collect();
        for kept in self.histories.values_mut() {
            *kept = std::mem::take(kept).into_iter().map(|v| v.truncated(rows)).collect();
        }
    }

    /// Evaluates a call; its states go to `grown`.
    fn call(
        &self,
        call: &Call,
        past: &[Tensor<N>],
        values: &HashMap<Name, Tensor<N>>,
        weights: &mut Weights<'_, N>,
        grown: &mut BTreeMap<(Name, u32), Tensor<N>>,
    ) -> Result<Outcome<N>, GraphError> {
        let unknown = |what, name: &Name| GraphError::Unknown { what, name: name.clone() };
        let block = self.program.block(&call.block);
        let block = block.ok_or_else(|| unknown("block", &call.block))?;
        // Weights and empty states live as long as the call.
        let mut made: Vec<Option<Tensor<N>>> = vec![];
        for arg in &call.args {
            made.push(match arg {
                Arg::Value(_) => None,
                Arg::Weight(name) => {
                    let weight = self.program.weight(name);
                    Some(weights(weight.ok_or_else(|| unknown("weight", name))?)?)
                }
                Arg::State { state: name, layer } => {
                    let key = (name.clone(), *layer);
                    let state = self.program.state(name).ok_or_else(|| unknown("state", name))?;
                    let held = grown.get(&key).or_else(|| self.states.get(&key));
                    Some(held.cloned().map_or_else(|| empty(state), Ok)?)
                }
            });
        }
        let mut args = vec![];
        for (arg, made) in call.args.iter().zip(&made) {
            args.push(match (arg, made) {
                (_, Some(tensor)) => tensor,
                (Arg::Value(name) | Arg::Weight(name) | Arg::State { state: name, .. }, None) => {
                    values.get(name).ok_or_else(|| unknown("value", name))?
                }
            });
        }
        let settings = Settings { bindings: BTreeMap::new(), key: self.key };
        let past: Vec<&Tensor<N>> = past.iter().collect();
        let mut outcome = evaluate_after(block, &args, &past, &settings)?;
        for (param, rows) in outcome.states.drain(..) {
            if let Some(Arg::State { state, layer }) = call.args.get(param) {
                grown.insert((state.clone(), *layer), rows);
            }
        }
        Ok(outcome)
    }
}

/// A state without rows.
fn empty<N: Number>(state: &State) -> Result<Tensor<N>, GraphError> {
    let mut dims = vec![0];
    for d in &state.dims {
        dims.push(usize::try_from(*d).map_err(|_| GraphError::Unbound(Dim::constant(*d)))?);
    }
    Tensor::zeros(state.encoding.decoded().class(), &dims)
}

fn given<N: Number>(
    entry: &Entry,
    inputs: &[Tensor<N>],
) -> Result<HashMap<Name, Tensor<N>>, GraphError> {
    if entry.inputs.len() != inputs.len() {
        let (found, expected) = (inputs.len(), entry.inputs.len());
        let (block, what) = (entry.name.clone(), "arguments");
        return Err(GraphError::CallCount { block, what, found, expected });
    }
    Ok(entry.inputs.iter().map(|i| i.name.clone()).zip(inputs.iter().cloned()).collect())
}

/// For each value the last call that uses it; outputs are used beyond the last.
fn last_uses(entry: &Entry) -> HashMap<Name, usize> {
    let mut last = HashMap::new();
    for (at, call) in entry.calls.iter().enumerate() {
        for arg in &call.args {
            if let Arg::Value(name) = arg {
                last.insert(name.clone(), at);
            }
        }
    }
    last.extend(entry.outputs.iter().map(|name| (name.clone(), usize::MAX)));
    last
}
