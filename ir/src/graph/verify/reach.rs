//! Whether whatever a program selects by, or divides by, lies where that has a meaning: interpreters
//! find out as they run, compiled code does not.

use super::program::{Shape, Weights, results, solution};
use crate::dim::{Dim, Name, Symbol, Symbols};
use crate::error::IrError;
use crate::graph::bind::Solution;
use crate::graph::error::GraphError;
use crate::graph::program::{Arg, Entry, Program};
use crate::graph::range::Range;
use crate::graph::{Graph, ValueId};
use std::collections::BTreeMap;

/// What a caller may give to entries.
pub struct Caller {
    /// Bounds of the step symbols.
    pub symbols: Symbols,
    /// Integers in inputs, by name, over the step symbols; any where none is stated.
    pub inputs: BTreeMap<Name, Range>,
}

impl Program {
    /// Everything that may go beyond its bounds for some input, in a program that is
    /// [well-formed](Program::verify).
    ///
    /// Errors: E0122 for symbols whose bounds are narrower than the caller's, E0139.
    pub fn verify_reach(&self, caller: &Caller) -> Result<(), Vec<IrError>> {
        let mut errors = vec![];
        for (name, own) in &self.symbols {
            errors.extend(covers(name, own, caller.numbers(&Dim::symbol(name))));
        }
        let weights = self.weights_by_name();
        for entry in &self.entries {
            self.reach_of(entry, caller, &weights, &mut errors);
        }
        // Blocks are called more than once.
        let mut once: Vec<GraphError> = vec![];
        for error in errors {
            if !once.contains(&error) {
                once.push(error);
            }
        }
        if once.is_empty() { Ok(()) } else { Err(once.into_iter().map(IrError::from).collect()) }
    }

    fn reach_of(
        &self,
        entry: &Entry,
        caller: &Caller,
        weights: &Weights<'_>,
        errors: &mut Vec<GraphError>,
    ) {
        let mut ranges = caller.inputs.clone();
        let inputs = entry.inputs.iter().map(|input| {
            let shape = Shape { encoding: input.dtype.into(), dims: input.dims.clone() };
            (input.name.clone(), Some(shape))
        });
        let mut shapes: BTreeMap<Name, Option<Shape>> = inputs.collect();
        for call in &entry.calls {
            let Some(block) = self.block(&call.block) else { continue };
            let given = call.args.iter().enumerate();
            let given = given.map(|(i, arg)| self.shape_of(arg, (block, i), &shapes, weights));
            let Some(given) = given.map(|shape| shape.ok()?).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let solution = solution(block, &given);
            errors.extend(caller.narrower(block, &solution));
            let range = |arg: &Arg| match arg {
                Arg::Value(name) => ranges.get(name).map(|r| caller.within(block, &solution, r)),
                Arg::Weight(_) | Arg::State { .. } => None,
            };
            let params = call.args.iter().map(|arg| range(arg).unwrap_or_else(Range::any));
            let (found, beyond) = block.ranges(params.collect());
            errors.extend(beyond);
            let shaped = results(block, &solution).into_iter().map(Some);
            shapes.extend(call.results.iter().cloned().zip(shaped));
            ranges.extend(call.results.iter().cloned().zip(found));
        }
    }
}

impl Caller {
    /// Bounds of a dim over the step symbols.
    fn numbers(&self, dim: &Dim) -> [i64; 2] {
        Range::between(dim.clone(), dim.clone()).numbers(&self.symbols)
    }

    /// The open symbols of a block whose bounds do not hold for all that it is called with.
    fn narrower(&self, block: &Graph, solution: &Solution) -> Vec<GraphError> {
        let open = block.symbols.iter().filter(|(_, own)| own.value.is_none());
        // What no argument tells is bound by its name.
        let stands_for = |name: &str| solution.get(name).cloned().unwrap_or_else(|| name.into());
        let bounds =
            open.filter_map(|(name, own)| covers(name, own, self.numbers(&stands_for(name))));
        // A block's new tokens are the last of all.
        let past = stands_for("t").minus(&stands_for("s"));
        let has_past = ["s", "t"].iter().all(|name| block.symbols.contains_key(*name));
        let past = has_past.then(|| {
            let own = Symbol::step(0, i64::MAX);
            covers(&Name::from("t - s"), &own, self.numbers(&past))
        });
        bounds.chain(past.flatten()).collect()
    }

    /// A range over the step symbols, in a block that is called with these.
    fn within(&self, block: &Graph, solution: &Solution, range: &Range) -> Range {
        let mut same = true;
        for bound in [&range.lo, &range.hi] {
            bound.visit_symbols(&mut |name| {
                let own = block.symbols.contains_key(name);
                same &= own && solution.get(name).is_none_or(|dim| *dim == Dim::symbol(name));
            });
        }
        if same { range.clone() } else { range.numeric(&self.symbols) }
    }
}

/// That a symbol's bounds are narrower than what it will be bound to.
fn covers(name: &Name, own: &Symbol, [least, greatest]: [i64; 2]) -> Option<GraphError> {
    let (lo, hi) = (own.lo, own.hi);
    let value = [least, greatest].into_iter().find(|value| !(lo..=hi).contains(value))?;
    Some(GraphError::SymbolBounds { name: name.clone(), value, lo, hi })
}

impl Graph {
    /// Bounds of the outputs as numbers, given ranges of the parameters; and what may go beyond.
    fn ranges(&self, params: Vec<Range>) -> (Vec<Range>, Vec<GraphError>) {
        let mut errors = vec![];
        let mut known: BTreeMap<ValueId, Range> = self.params.iter().copied().zip(params).collect();
        for node in &self.nodes {
            let of = |id: &ValueId| known.get(id).cloned().unwrap_or_else(Range::any);
            let operands: Vec<Range> = node.data_operands().iter().map(of).collect();
            let range = self.viewed(node, |view| node.op.0.range(view, &operands));
            let range = range.unwrap_or_else(|beyond| {
                let value = self.value(node.results[0]).name.clone();
                let (graph, op) = (self.name.clone(), node.op.name());
                errors.push(GraphError::Reach { graph, value, op, beyond: Box::new(beyond) });
                Range::any()
            });
            known.extend(node.results.iter().map(|id| (*id, range.clone())));
        }
        let numeric = |id| known.get(id).map_or_else(Range::any, |r| r.numeric(&self.symbols));
        (self.outputs.iter().map(numeric).collect(), errors)
    }
}
