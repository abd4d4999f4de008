//! The smallest part of a graph that fails in the same way.

use super::Drawn;
use ir::graph::builder::GraphBuilder;
use ir::graph::interp::{Settings, evaluate};
use ir::graph::{Graph, ParamKind, ValueId};
use ir::tensor::Tensor;
use std::collections::{BTreeSet, HashMap};

/// The first value that fails alone, if one does; then what it is computed of is given, as long as
/// `fails` says so.
pub fn shrink(drawn: &Drawn, fails: &dyn Fn(&Drawn) -> bool) -> Drawn {
    let values = values(drawn);
    let cut = |part: &Part| cut(drawn, &values, part);
    let of = |outputs| Part { outputs, given: BTreeSet::new() };
    let computed = drawn.graph.nodes.iter().flat_map(|node| node.results.clone());
    let computed: Vec<ValueId> = computed.filter(|v| values.contains_key(v)).collect();
    let alone = computed.iter().map(|v| of(vec![*v])).find(|part| fails(&cut(part)));
    let mut best = alone.unwrap_or_else(|| of(drawn.graph.outputs.clone()));
    // The last first: what comes before them is no longer needed then.
    for value in computed.into_iter().rev() {
        let is_inside = needed(&drawn.graph, &best)[value.0 as usize];
        if !is_inside || best.outputs.contains(&value) {
            continue;
        }
        let mut less = best.clone();
        less.given.insert(value);
        if fails(&cut(&less)) {
            best = less;
        }
    }
    cut(&best)
}

/// Some results of a graph, and values that are given and not computed.
#[derive(Clone)]
struct Part {
    outputs: Vec<ValueId>,
    given: BTreeSet<ValueId>,
}

/// Every value that is no code.
fn values(drawn: &Drawn) -> HashMap<ValueId, Tensor<f32>> {
    let mut graph = drawn.graph.clone();
    let results = graph.nodes.iter().flat_map(|node| node.results.clone());
    graph.outputs = results.filter(|v| graph.ty(*v).encoding.is_plain()).collect();
    let arguments: Vec<&Tensor<f32>> = drawn.inputs.iter().collect();
    let done = evaluate(&graph, &arguments, &Settings::default());
    let done = done.unwrap_or_else(|e| panic!("{e}\n{graph}"));
    graph.outputs.iter().copied().zip(done.outputs).collect()
}

/// Which values a part computes or is given.
fn needed(graph: &Graph, part: &Part) -> Vec<bool> {
    let mut needed = vec![false; graph.values.len()];
    part.outputs.iter().for_each(|v| needed[v.0 as usize] = true);
    for node in graph.nodes.iter().rev() {
        if node.results.iter().any(|v| needed[v.0 as usize] && !part.given.contains(v)) {
            node.operands.iter().for_each(|v| needed[v.0 as usize] = true);
        }
    }
    needed
}

/// The part as a graph, with what it is given.
fn cut(drawn: &Drawn, values: &HashMap<ValueId, Tensor<f32>>, part: &Part) -> Drawn {
    let graph = &drawn.graph;
    let needed = needed(graph, part);
    let is_needed = |v: &&ValueId| needed[v.0 as usize];
    let mut b = GraphBuilder::like(&graph.name, graph);
    let (mut of, mut inputs) = (HashMap::new(), vec![]);
    let own = graph.params.iter().zip(&drawn.inputs);
    let given = part.given.iter().map(|v| (v, &values[v]));
    for (v, value) in own.chain(given).filter(|(v, _)| is_needed(v)) {
        let name = &graph.value(*v).name;
        of.insert(*v, b.param(name, ParamKind::Input, graph.ty(*v).clone()));
        inputs.push(value.clone());
    }
    for node in &graph.nodes {
        let wanted = |v: &ValueId| is_needed(&v) && !of.contains_key(v);
        if !node.results.iter().any(wanted) {
            continue;
        }
        let mut operands: Vec<ValueId> = node.operands.iter().map(|v| of[v]).collect();
        let mask = if node.masked { operands.pop() } else { None };
        let types: Vec<_> = node.results.iter().map(|v| graph.ty(*v).clone()).collect();
        let made = b.node(node.op, &operands, mask, node.attrs.clone(), Some(&types));
        for (v, result) in node.results.iter().zip(made.unwrap_or_else(|e| panic!("{e}\n{graph}")))
        {
            b.label(result, &graph.value(*v).name);
            of.entry(*v).or_insert(result);
        }
    }
    part.outputs.iter().for_each(|v| b.output(of[v]));
    Drawn { graph: b.finish().unwrap_or_else(|e| panic!("{e:?}\n{graph}")), inputs }
}

#[test]
fn what_does_not_matter_is_left_out() {
    let has = |drawn: &Drawn, op| drawn.graph.nodes.iter().any(|n| n.op.name() == op);
    for drawn in (0..60).map(super::draw).filter(|drawn| has(drawn, "softmax")) {
        let small = shrink(&drawn, &|part| has(part, "softmax"));
        let ops: Vec<&str> = small.graph.nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["softmax"], "{}", small.graph);
        let arguments: Vec<&Tensor<f32>> = small.inputs.iter().collect();
        evaluate(&small.graph, &arguments, &Settings::default()).unwrap();
    }
}
