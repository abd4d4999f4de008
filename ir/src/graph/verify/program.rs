//! Checks of programs.

use crate::dim::{Dim, Name};
use crate::dtype::Encoding;
use crate::error::IrError;
use crate::graph::bind::{Solution, bound, solve};
use crate::graph::builder::is_name;
use crate::graph::error::GraphError;
use crate::graph::program::{Arg, Call, Entry, Program, StateKind, Weight};
use crate::graph::{Graph, ParamKind, ValueId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

/// Encoding and extents over the program's symbols.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub encoding: Encoding,
    pub dims: Vec<Dim>,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        write!(f, "{}[{}]", self.encoding, dims.join(", "))
    }
}

/// Weights by name, the first of each: there are as many look-ups as weights.
pub(super) type Weights<'p> = HashMap<&'p Name, &'p Weight>;

impl Program {
    /// Everything wrong with a program and its blocks.
    pub fn verify(&self) -> Result<(), Vec<IrError>> {
        let mut errors: Vec<IrError> = vec![];
        for (i, block) in self.blocks.iter().enumerate() {
            errors.extend(block.verify().err().into_iter().flatten());
            if let Some(same) = self.blocks[..i].iter().find(|b| b.equals_but_name(block)) {
                let (first, second) = (same.name.clone(), block.name.clone());
                errors.push(GraphError::SameBlock(first, second).into());
            }
        }
        let mut found = self.verify_names();
        for weight in &self.weights {
            found.extend(weight.check().err());
        }
        let weights = self.weights_by_name();
        found.extend(self.entries.iter().flat_map(|e| self.verify_entry(e, &weights)));
        errors.extend(found.into_iter().map(IrError::from));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    pub(super) fn weights_by_name(&self) -> Weights<'_> {
        self.weights.iter().rev().map(|w| (&w.name, w)).collect()
    }

    fn verify_names(&self) -> Vec<GraphError> {
        let kinds: [(&'static str, Vec<&Name>); 4] = [
            ("block", self.blocks.iter().map(|b| &b.name).collect()),
            ("weight", self.weights.iter().map(|w| &w.name).collect()),
            ("state", self.states.iter().map(|s| &s.name).collect()),
            ("entry", self.entries.iter().map(|e| &e.name).collect()),
        ];
        let mut errors = vec![];
        for (what, names) in kinds {
            let mut seen = HashSet::new();
            for name in names {
                if !seen.insert(name) {
                    errors.push(GraphError::Duplicate { what, name: name.clone() });
                }
                if !is_name(name) {
                    errors.push(GraphError::BadName { what, name: name.clone() });
                }
            }
        }
        let tensors =
            self.weights.iter().flat_map(|w| w.source.tensors.iter().chain(&w.source.scales));
        let unreadable = |n: &&Name| !is_name(n) || n.starts_with(|c: char| c.is_ascii_digit());
        let bad = tensors.filter(unreadable).cloned();
        errors.extend(bad.map(|name| GraphError::BadName { what: "stored tensor", name }));
        errors
    }

    fn verify_entry(&self, entry: &Entry, weights: &Weights<'_>) -> Vec<GraphError> {
        let mut errors = vec![];
        let mut values: BTreeMap<Name, Option<Shape>> = BTreeMap::new();
        for input in &entry.inputs {
            let shape = Shape { encoding: input.dtype.into(), dims: input.dims.clone() };
            for dim in &input.dims {
                dim.visit_symbols(&mut |n| {
                    if !self.symbols.contains_key(n) {
                        errors.push(GraphError::Unknown { what: "symbol", name: n.clone() });
                    }
                });
            }
            if values.insert(input.name.clone(), Some(shape)).is_some() {
                errors.push(GraphError::Duplicate { what: "value", name: input.name.clone() });
            }
        }
        for call in &entry.calls {
            let results = self.verify_call(call, &values, weights, &mut errors);
            for (i, name) in call.results.iter().enumerate() {
                // A wrong call's results are known by name alone, so that their uses are no error.
                let shape = results.as_ref().and_then(|r| r.get(i)).cloned();
                if values.insert(name.clone(), shape).is_some() {
                    errors.push(GraphError::Duplicate { what: "value", name: name.clone() });
                }
            }
        }
        let unknown = entry.outputs.iter().filter(|o| !values.contains_key(*o));
        errors.extend(unknown.map(|o| GraphError::Unknown { what: "value", name: o.clone() }));
        errors
    }

    fn verify_call(
        &self,
        call: &Call,
        values: &BTreeMap<Name, Option<Shape>>,
        weights: &Weights<'_>,
        errors: &mut Vec<GraphError>,
    ) -> Option<Vec<Shape>> {
        let Some(block) = self.block(&call.block) else {
            errors.push(GraphError::Unknown { what: "block", name: call.block.clone() });
            return None;
        };
        let counts = [
            ("arguments", call.args.len(), block.params.len()),
            ("results", call.results.len(), block.outputs.len()),
        ];
        for (what, found, expected) in counts {
            if found != expected {
                let block = block.name.clone();
                errors.push(GraphError::CallCount { block, what, found, expected });
                return None;
            }
        }
        let mut given = vec![];
        for (i, arg) in call.args.iter().enumerate() {
            match self.shape_of(arg, (block, i), values, weights) {
                Ok(shape) => given.extend(shape),
                Err(error) => errors.push(error),
            }
        }
        if given.len() < call.args.len() {
            return None;
        }
        self.fit(block, &given, errors)
    }

    /// Encoding and extents of an argument; `None` where they are not known after another error.
    pub(super) fn shape_of(
        &self,
        arg: &Arg,
        (block, position): (&Graph, usize),
        values: &BTreeMap<Name, Option<Shape>>,
        weights: &Weights<'_>,
    ) -> Result<Option<Shape>, GraphError> {
        let unknown = |what, name: &Name| GraphError::Unknown { what, name: name.clone() };
        let (kind, shape) = match arg {
            Arg::Value(name) => {
                let shape = values.get(name).ok_or_else(|| unknown("value", name))?;
                (ParamKind::Input, shape.clone())
            }
            Arg::Weight(name) => {
                let weight = weights.get(name).ok_or_else(|| unknown("weight", name))?;
                let dims = weight.dims.iter().map(|d| Dim::constant(*d)).collect();
                (ParamKind::Weight, Some(Shape { encoding: weight.encoding, dims }))
            }
            Arg::State { state: name, layer } => {
                let state = self.state(name).ok_or_else(|| unknown("state", name))?;
                if *layer >= state.layers {
                    return Err(GraphError::Dangling { what: "layer", index: *layer });
                }
                if state.kind != StateKind::Rows {
                    return Err(GraphError::StateKind(name.clone()));
                }
                let past = Dim::symbol("t").minus(&Dim::symbol("s"));
                let row = state.dims.iter().map(|d| Dim::constant(*d));
                let dims = [past].into_iter().chain(row).collect();
                (ParamKind::State, Some(Shape { encoding: state.encoding, dims }))
            }
        };
        let expected = block.param_kind(position);
        if expected != kind {
            return Err(GraphError::Argument {
                block: block.name.clone(),
                param: block.param_name(position),
                found: format!("{kind:?}").to_lowercase(),
                expected: format!("{expected:?}").to_lowercase(),
            });
        }
        Ok(shape)
    }

    /// Whether arguments of the right kinds have the right encodings and extents; the results'.
    fn fit(
        &self,
        block: &Graph,
        given: &[Shape],
        errors: &mut Vec<GraphError>,
    ) -> Option<Vec<Shape>> {
        let params = block.params.iter().map(|id| block.ty(*id));
        let solution = solution(block, given);
        let mut fits = true;
        for (i, (ty, found)) in params.zip(given).enumerate() {
            let expected =
                Shape { encoding: ty.encoding, dims: block.extents_under(ty, &solution) };
            if expected != *found {
                errors.push(GraphError::Argument {
                    block: block.name.clone(),
                    param: block.param_name(i),
                    found: found.to_string(),
                    expected: expected.to_string(),
                });
                fits = false;
            }
        }
        fits.then(|| results(block, &solution))
    }
}

/// What a block's symbols stand for, given arguments of these shapes.
pub(super) fn solution(block: &Graph, given: &[Shape]) -> Solution {
    let params = block.params.iter().map(|id| block.extents(block.ty(*id)));
    let equations =
        params.zip(given).flat_map(|(dims, shape)| dims.into_iter().zip(shape.dims.clone()));
    solve(&equations.collect::<Vec<(Dim, Dim)>>(), bound(&block.symbols))
}

/// Shapes of a block's results, over what its symbols stand for.
pub(super) fn results(block: &Graph, solution: &Solution) -> Vec<Shape> {
    let result = |id: &ValueId| {
        let ty = block.ty(*id);
        Shape { encoding: ty.encoding, dims: block.extents_under(ty, solution) }
    };
    block.outputs.iter().map(result).collect()
}
