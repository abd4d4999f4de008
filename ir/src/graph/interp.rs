//! The meaning of a graph: every node by its op's meaning, in order.

use super::bind::{Solution, apply, bound, solve};
use super::error::GraphError;
use super::eval::{Bindings, Eval, value_of};
use super::{Graph, Node, NodeId, Type, ValueId};
use crate::dim::{Dim, Name};
use crate::number::Number;
use crate::op::NodeView;
use crate::tensor::Tensor;
use std::borrow::Cow;

/// What an evaluation is told beside its arguments.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Values of symbols that no argument's shape tells.
    pub bindings: Bindings,
    /// Chooses the field's hashes.
    pub key: u64,
}

/// What a graph gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<N> {
    /// The returned values, in order.
    pub outputs: Vec<Tensor<N>>,
    /// Position of each state parameter that was appended to, and all of its rows now.
    pub states: Vec<(usize, Tensor<N>)>,
    /// All rows now of each `history` node, in node order, along the first axis.
    pub histories: Vec<Tensor<N>>,
}

/// [`evaluate_after`] nothing.
pub fn evaluate<N: Number>(
    graph: &Graph,
    args: &[&Tensor<N>],
    settings: &Settings,
) -> Result<Outcome<N>, GraphError> {
    evaluate_after(graph, args, &[], settings)
}

/// Evaluates a verified graph. Symbols are bound by the graph, by `settings`, and by the shapes of
/// the arguments and of the past. `past` has the rows so far of each `history` node, as an earlier
/// evaluation's [`Outcome::histories`] gives them; it is empty in a first step.
///
/// Errors: E0122 for a symbol outside its bounds, E0129 for one that nothing binds, or an argument or
/// past of the wrong class or shape, and whatever the ops report.
pub fn evaluate_after<N: Number>(
    graph: &Graph,
    args: &[&Tensor<N>],
    past: &[&Tensor<N>],
    settings: &Settings,
) -> Result<Outcome<N>, GraphError> {
    let kept = histories(graph, past)?;
    let bindings = bind(graph, args, &kept, settings)?;
    check_arguments(graph, args, &bindings)?;
    kept.iter().try_for_each(|k| k.check(graph, &bindings))?;
    let mut values: Vec<Option<Cow<Tensor<N>>>> = vec![None; graph.values.len()];
    for (id, arg) in graph.params.iter().zip(args) {
        values[id.0 as usize] = Some(Cow::Borrowed(arg));
    }
    let last_use = last_uses(graph);
    let (mut states, mut all_rows) = (vec![], vec![]);
    for (at, node) in graph.nodes.iter().enumerate() {
        let kept = kept.iter().find(|k| k.node.0 as usize == at);
        let past = kept.and_then(|k| k.past);
        let results = apply_node(graph, node, &values, past, &bindings, settings.key)?;
        all_rows.extend(kept.map(|k| results[0].with_first(k.axis)));
        if node.op.name() == "append"
            && let Some(param) = graph.params.iter().position(|p| *p == node.operands[0])
        {
            states.extend(results.first().map(|rows| (param, rows.clone())));
        }
        for (id, result) in node.results.iter().zip(results) {
            values[id.0 as usize] = Some(Cow::Owned(result));
        }
        for id in node.operands.iter().filter(|id| last_use[id.0 as usize] == at) {
            values[id.0 as usize] = None;
        }
    }
    let take = |id: &ValueId| {
        let value = values[id.0 as usize].clone();
        value.map(Cow::into_owned).ok_or(GraphError::Dangling { what: "value", index: id.0 })
    };
    let outputs = graph.outputs.iter().map(take).collect::<Result<_, _>>()?;
    Ok(Outcome { outputs, states, histories: all_rows })
}

/// A `history` node and its rows so far.
struct Kept<'a, N> {
    node: NodeId,
    /// Where the rows are in its result.
    axis: usize,
    past: Option<&'a Tensor<N>>,
}

/// The `history` nodes of a graph, in order, each with its past.
fn histories<'a, N: Number>(
    graph: &Graph,
    past: &[&'a Tensor<N>],
) -> Result<Vec<Kept<'a, N>>, GraphError> {
    let nodes = graph.histories();
    if !past.is_empty() && past.len() != nodes.len() {
        let (found, expected) = (past.len(), nodes.len());
        let (block, what) = (graph.name.clone(), "histories");
        return Err(GraphError::CallCount { block, what, found, expected });
    }
    let kept = nodes.into_iter().enumerate();
    let kept = kept.map(|(i, (node, axis))| Kept { node, axis, past: past.get(i).copied() });
    Ok(kept.collect())
}

impl<N: Number> Kept<'_, N> {
    fn rows(&self) -> usize {
        self.past.and_then(|p| p.dims().first()).copied().unwrap_or(0)
    }

    /// Extents along the rows' axis before and after.
    fn extents(&self, graph: &Graph) -> [Dim; 2] {
        let node = graph.node(self.node);
        let along = |v: ValueId| graph.extent(&graph.ty(v).indices[self.axis]);
        [along(node.operands[0]), along(node.results[0])]
    }

    /// Demands rows of the result's class and shape, as many as are missing from it.
    fn check(&self, graph: &Graph, bindings: &Bindings) -> Result<(), GraphError> {
        let value = graph.value(graph.node(self.node).results[0]);
        let [new, all] = self.extents(graph);
        let mut dims = graph.extents(&value.ty);
        dims.remove(self.axis);
        dims.insert(0, all.minus(&new));
        let expected: Vec<i64> =
            dims.iter().map(|d| value_of(d, bindings)).collect::<Result<_, _>>()?;
        let (class, found) = match self.past {
            Some(past) => (past.class(), past.dims().iter().map(|d| *d as i64).collect()),
            None => (value.ty.class(), [&[0], &expected[1..]].concat()),
        };
        if class == value.ty.class() && found == expected {
            return Ok(());
        }
        Err(GraphError::Given {
            name: value.name.clone(),
            found: format!("{class:?}{found:?} of earlier steps"),
            expected: format!("{:?}{expected:?}", value.ty.class()),
        })
    }
}

/// Values of all of a graph's symbols that the arguments and the past tell.
fn bind<N: Number>(
    graph: &Graph,
    args: &[&Tensor<N>],
    kept: &[Kept<'_, N>],
    settings: &Settings,
) -> Result<Bindings, GraphError> {
    let mut known: Solution = bound(&graph.symbols);
    known.extend(settings.bindings.iter().map(|(n, v)| (n.clone(), Dim::constant(*v))));
    let shapes = graph.params.iter().zip(args);
    let equations = shapes.flat_map(|(id, arg)| {
        let given = arg.dims().iter().map(|d| Dim::constant(*d as i64));
        graph.extents(graph.ty(*id)).into_iter().zip(given).collect::<Vec<_>>()
    });
    let rows = kept.iter().map(|k| {
        let [new, all] = k.extents(graph);
        (all.minus(&new), Dim::constant(k.rows() as i64))
    });
    let solution = solve(&equations.chain(rows).collect::<Vec<_>>(), known);
    let mut bindings = Bindings::new();
    for (name, symbol) in &graph.symbols {
        let Some(value) = solution.get(name).and_then(Dim::as_constant) else { continue };
        if !(symbol.lo..=symbol.hi).contains(&value) {
            let (name, lo, hi) = (name.clone(), symbol.lo, symbol.hi);
            return Err(GraphError::SymbolBounds { name, value, lo, hi });
        }
        bindings.insert(name.clone(), value);
    }
    Ok(bindings)
}

fn check_arguments<N: Number>(
    graph: &Graph,
    args: &[&Tensor<N>],
    bindings: &Bindings,
) -> Result<(), GraphError> {
    if args.len() != graph.params.len() {
        let (found, expected) = (args.len(), graph.params.len());
        let (block, what) = (graph.name.clone(), "arguments");
        return Err(GraphError::CallCount { block, what, found, expected });
    }
    for (id, arg) in graph.params.iter().zip(args) {
        let value = graph.value(*id);
        let dims = graph.extents(&value.ty);
        let expected: Vec<i64> =
            dims.iter().map(|d| value_of(d, bindings)).collect::<Result<_, _>>()?;
        let found = arg.dims().iter().map(|d| *d as i64);
        if !found.eq(expected.iter().copied()) || arg.class() != value.ty.class() {
            return Err(GraphError::Given {
                name: value.name.clone(),
                found: format!("{:?}{:?}", arg.class(), arg.dims()),
                expected: format!("{:?}{expected:?}", value.ty.class()),
            });
        }
    }
    Ok(())
}

/// For each value the last node that uses it; outputs are used beyond the last.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last = vec![usize::MAX; graph.values.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        node.operands.iter().for_each(|id| last[id.0 as usize] = at);
    }
    graph.outputs.iter().for_each(|id| last[id.0 as usize] = usize::MAX);
    last
}

fn apply_node<N: Number>(
    graph: &Graph,
    node: &Node,
    values: &[Option<Cow<Tensor<N>>>],
    past: Option<&Tensor<N>>,
    bindings: &Bindings,
    key: u64,
) -> Result<Vec<Tensor<N>>, GraphError> {
    let value = |id: &ValueId| -> Result<&Tensor<N>, GraphError> {
        let value = values.get(id.0 as usize).and_then(Option::as_deref);
        value.ok_or(GraphError::Dangling { what: "value", index: id.0 })
    };
    let tensors: Vec<&Tensor<N>> =
        node.data_operands().iter().map(value).collect::<Result<_, _>>()?;
    let types = graph.types(node.data_operands());
    let results = graph.types(&node.results);
    let eval = Eval {
        node: NodeView {
            schema: node.op.0.schema(),
            graph,
            operands: &types,
            mask: node.mask().map(|id| graph.ty(id)),
            attrs: &node.attrs.0,
            declared: Some(&results),
        },
        operands: &tensors,
        mask: node.mask().map(|id| value(&id)).transpose()?,
        past,
        results: &results,
        bindings,
        key,
    };
    N::meaning(&node.op.0.meaning())(&eval)
}

impl Graph {
    /// Types of values.
    pub fn types(&self, ids: &[ValueId]) -> Vec<Type> {
        ids.iter().map(|id| self.ty(*id).clone()).collect()
    }

    /// Whether a dim of this graph has a value under a solution of its symbols.
    pub(super) fn extents_under(&self, ty: &Type, solution: &Solution) -> Vec<Dim> {
        self.extents(ty).iter().map(|d| apply(d, solution)).collect()
    }

    /// Name of a parameter.
    pub(super) fn param_name(&self, position: usize) -> Name {
        self.value(self.params[position]).name.clone()
    }
}

impl Node {
    /// Operands without the mask.
    pub fn data_operands(&self) -> &[ValueId] {
        &self.operands[..self.operands.len() - usize::from(self.masked)]
    }

    /// The mask.
    pub fn mask(&self) -> Option<ValueId> {
        if self.masked { self.operands.last().copied() } else { None }
    }
}
