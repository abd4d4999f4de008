//! Two graphs on the same random inputs, in two steps.

use crate::shrink::{Small, next, rebound, word};
use ir::dim::Dim;
use ir::dtype::Class;
use ir::graph::error::GraphError;
use ir::graph::eval::Bindings;
use ir::graph::interp::{Outcome, Settings, evaluate_after};
use ir::graph::{Graph, Node, ParamKind, ValueId};
use ir::number::{Field, Number};
use ir::op::NodeView;
use ir::tensor::{Data, Tensor};
use std::fmt::Debug;

/// Operations and elements of one evaluation beyond which a graph is refused.
pub const MAX_WORK: u64 = 1 << 28;

/// Integers that name nothing are below this.
const INTS: u64 = 8;

/// A number that can be drawn.
pub trait Draw: Number {
    /// Made of a random word.
    fn draw(word: u64) -> Self;
}

impl Draw for Field {
    fn draw(word: u64) -> Self {
        Field::new(word)
    }
}

impl Draw for f64 {
    /// Uniform in -1..1.
    fn draw(word: u64) -> Self {
        (word >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// What a trial ends with where graphs are not equal.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// One of them has no value.
    Evaluation {
        /// 0 or 1.
        side: usize,
        /// Why.
        error: GraphError,
    },
    /// Their values differ.
    Difference {
        /// 1 or 2.
        step: usize,
        /// Position among the outputs.
        output: usize,
        /// Position in row-major order.
        element: usize,
        /// The second graph's.
        found: String,
        /// The first graph's.
        expected: String,
    },
}

/// Two graphs at small extents.
pub struct Trial {
    pair: [Graph; 2],
    steps: [Bindings; 2],
    /// For each parameter what its integers name, if any do.
    rows: Vec<Option<Dim>>,
}

impl Trial {
    /// Binds the symbols of two graphs of equal parameters and results.
    ///
    /// Errors: operations and elements beyond [`MAX_WORK`].
    pub fn new(pair: [&Graph; 2], small: &Small) -> Result<Trial, u64> {
        let rows = (0..pair[0].params.len()).map(|at| {
            let named = pair.iter().flat_map(|g| named_by(g, g.params[at]));
            let mut named: Vec<Dim> = named.collect();
            let least = named.iter().map(|d| value(d, small)).min();
            named.retain(|d| Some(value(d, small)) == least);
            named.into_iter().next()
        });
        let rows = rows.collect();
        let pair = pair.map(|g| rebound(g, small));
        for graph in &pair {
            let work = work(graph, &small.steps[1]);
            if work > MAX_WORK {
                return Err(work);
            }
        }
        Ok(Trial { pair, steps: small.steps.clone(), rows })
    }

    /// Evaluates both graphs in both steps and compares: to the bit in the field, within `bound` in
    /// real numbers.
    ///
    /// Errors: what differs, or cannot be evaluated.
    pub fn run<N: Draw>(&self, bound: f64, seed: u64) -> Result<(), Fault> {
        self.each_step(seed, &mut |step, [left, right]: [Vec<Tensor<N>>; 2]| {
            compare(&left, &right, bound, step)
        })
    }

    /// Evaluates both graphs in both steps, and shows the number of each with the outputs.
    ///
    /// Errors: what cannot be evaluated, or as `see` says.
    pub fn each_step<N: Draw>(
        &self,
        seed: u64,
        see: &mut dyn FnMut(usize, [Vec<Tensor<N>>; 2]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut state = seed;
        let mut kept: [Vec<Tensor<N>>; 2] = [vec![], vec![]];
        let mut args: Vec<Tensor<N>> = vec![];
        let mut past = 0;
        for (at, bindings) in self.steps.iter().enumerate() {
            args = self.arguments(args, bindings, past, &mut state)?;
            let settings = Settings { bindings: bindings.clone(), key: seed };
            let mut outputs = [vec![], vec![]];
            for (side, (kept, outputs)) in kept.iter_mut().zip(&mut outputs).enumerate() {
                let outcome = self.evaluate(side, &args, kept, &settings);
                let outcome = outcome.map_err(|error| Fault::Evaluation { side, error })?;
                (*kept, *outputs) = (outcome.histories, outcome.outputs);
            }
            see(at + 1, outputs)?;
            past += bindings.get("s").copied().unwrap_or(0);
        }
        Ok(())
    }

    fn evaluate<N: Draw>(
        &self,
        side: usize,
        args: &[Tensor<N>],
        kept: &[Tensor<N>],
        settings: &Settings,
    ) -> Result<Outcome<N>, GraphError> {
        let args: Vec<&Tensor<N>> = args.iter().collect();
        let past: Vec<&Tensor<N>> = kept.iter().collect();
        let outcome = evaluate_after(&self.pair[side], &args, &past, settings)?;
        let mut floats = outcome.outputs.iter().flat_map(Tensor::as_floats);
        // A number that is none equals any other: nothing would be compared.
        match floats.any(|x| !N::EXACT && !x.to_f64().is_finite()) {
            true => Err(GraphError::Resample),
            false => Ok(outcome),
        }
    }

    /// Arguments of a step: weights as `before`, everything else anew.
    fn arguments<N: Draw>(
        &self,
        before: Vec<Tensor<N>>,
        bindings: &Bindings,
        past: i64,
        state: &mut u64,
    ) -> Result<Vec<Tensor<N>>, Fault> {
        let mut known = before.into_iter();
        let mut args = vec![];
        for at in 0..self.pair[0].params.len() {
            let old = known.next();
            args.push(match (self.pair[0].param_kind(at), old) {
                (ParamKind::Weight, Some(weight)) => weight,
                _ => {
                    let drawn = self.argument(at, bindings, past, state);
                    drawn.map_err(|error| Fault::Evaluation { side: 0, error })?
                }
            });
        }
        Ok(args)
    }

    fn argument<N: Draw>(
        &self,
        at: usize,
        bindings: &Bindings,
        past: i64,
        state: &mut u64,
    ) -> Result<Tensor<N>, GraphError> {
        let graph = &self.pair[0];
        let ty = graph.ty(graph.params[at]);
        let extents = graph.extents(ty);
        let size = |dim: &Dim| -> Result<usize, GraphError> {
            let size = bound_value(graph, bindings, dim).and_then(|v| usize::try_from(v).ok());
            size.ok_or_else(|| GraphError::Unbound(dim.clone()))
        };
        let dims: Vec<usize> = extents.iter().map(size).collect::<Result<_, _>>()?;
        let n = ir::tensor::elements(&dims)?;
        let data = match ty.class() {
            Class::Float => Data::Float((0..n).map(|_| N::draw(next(state))).collect()),
            Class::Bool => Data::Bool((0..n).map(|_| next(state) >> 63 == 1).collect()),
            Class::Int => {
                let named = self.rows[at].as_ref().map(&size).transpose()?;
                let is_row = named.is_none() && extents[..] == [Dim::symbol("s")];
                let one = |i: usize| match is_row {
                    // Positions follow one another, also from step to step.
                    true => i32::try_from(past + i as i64).unwrap_or(i32::MAX),
                    false => (next(state) % named.map_or(INTS, |n| n.max(1) as u64)) as i32,
                };
                Data::Int((0..n).map(one).collect())
            }
        };
        Tensor::new(&dims, data)
    }
}

fn value(dim: &Dim, small: &Small) -> Option<i64> {
    dim.eval(&|n| small.params.get(n).or_else(|| small.steps[0].get(n)).copied())
}

fn bound_value(graph: &Graph, bindings: &Bindings, dim: &Dim) -> Option<i64> {
    let of = |n: &str| graph.symbols.get(n)?.value.or_else(|| bindings.get(n).copied());
    dim.eval(&of)
}

/// Extents of what the integers of a value name, as far as they reach a use as they are.
fn named_by(graph: &Graph, value: ValueId) -> Vec<Dim> {
    let views = ["rename", "slice", "concat", "split", "merge"];
    let (mut reached, mut named) = (vec![value], vec![]);
    for node in &graph.nodes {
        let takes = |at: usize| node.operands.get(at).is_some_and(|v| reached.contains(v));
        let index = match node.op.name() {
            "gather" if takes(1) => word(node, "index"),
            "scatter" if takes(0) => word(node, "into"),
            _ => None,
        };
        named.extend(index.map(|i| graph.extent(i)));
        let passes = match node.op.name() {
            "gather" => takes(0),
            view => views.contains(&view) && (0..node.operands.len()).any(takes),
        };
        if passes {
            reached.extend(&node.results);
        }
    }
    named
}

/// Operations and elements of an evaluation, saturated; the greatest number for what has none.
fn work(graph: &Graph, bindings: &Bindings) -> u64 {
    let size = |dim: &Dim| bound_value(graph, bindings, dim).and_then(|v| u64::try_from(v).ok());
    let elements = |v: &ValueId| {
        let extents = graph.extents(graph.ty(*v));
        extents.iter().try_fold(1u64, |n, d| n.checked_mul(size(d)?)).unwrap_or(u64::MAX)
    };
    let operations = |node: &Node| {
        let (operands, results) = (graph.types(node.data_operands()), graph.types(&node.results));
        let view = NodeView {
            schema: node.op.0.schema(),
            graph,
            operands: &operands,
            mask: node.mask().map(|id| graph.ty(id)),
            attrs: &node.attrs.0,
            declared: Some(&results),
        };
        size(&node.op.0.flops(&view, &results)).unwrap_or(u64::MAX)
    };
    let params = graph.params.iter().map(elements);
    let results = graph.nodes.iter().flat_map(|n| &n.results).map(elements);
    let all = params.chain(results).chain(graph.nodes.iter().map(operations));
    all.fold(0, u64::saturating_add)
}

fn compare<N: Draw>(
    left: &[Tensor<N>],
    right: &[Tensor<N>],
    bound: f64,
    step: usize,
) -> Result<(), Fault> {
    for (output, (l, r)) in left.iter().zip(right).enumerate() {
        let near = |a: &N, b: &N| {
            let (x, y) = (a.to_f64(), b.to_f64());
            a == b || !N::EXACT && (x - y).abs() <= bound * (1.0 + x.abs().max(y.abs()))
        };
        let difference = match (l.data(), r.data()) {
            _ if l.dims() != r.dims() => different(&[l.dims()], &[r.dims()], |_, _| false),
            (Data::Float(l), Data::Float(r)) => different(l, r, near),
            (Data::Int(l), Data::Int(r)) => different(l, r, |a, b| a == b),
            (Data::Bool(l), Data::Bool(r)) => different(l, r, |a, b| a == b),
            _ => different(&[l.class()], &[r.class()], |_, _| false),
        };
        if let Some((element, expected, found)) = difference {
            return Err(Fault::Difference { step, output, element, found, expected });
        }
    }
    Ok(())
}

/// The first pair that is not the same: where, and both.
fn different<T: Debug>(
    left: &[T],
    right: &[T],
    same: impl Fn(&T, &T) -> bool,
) -> Option<(usize, String, String)> {
    let at = left.iter().zip(right).position(|(a, b)| !same(a, b))?;
    Some((at, format!("{:?}", left[at]), format!("{:?}", right[at])))
}
