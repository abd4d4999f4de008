//! Programs in forms that a rewriter may choose, made by hand: what lowering must take, whoever
//! wrote it.

use crate::rebuild::Copy;
use compiler::lower::partition::weight_operand;
use ir::dim::{Dim, Name};
use ir::dtype::DType;
use ir::graph::program::Program;
use ir::graph::{Def, Graph, Node, ParamKind, ValueId};
use std::collections::HashMap;

/// The program with projections of one activation merged, and gains of norms halved.
pub fn merged(program: &Program) -> Program {
    let mut program = program.clone();
    for block in &mut program.blocks {
        *block = Merging::new(block).block();
    }
    program
}

/// A projection `[.., free]` of an activation by a weight `[free, summed]`.
struct Projection {
    weight: ValueId,
    free: Vec<Name>,
    result: ValueId,
}

/// Projections by activation and by dtype of their weights.
type Key = (ValueId, DType);

struct Merging<'g> {
    from: &'g Graph,
    copy: Copy<'g>,
    all: HashMap<Key, Vec<Projection>>,
}

fn projection(graph: &Graph, node: &Node) -> Option<(Key, Projection)> {
    let at = weight_operand(graph, node)?;
    let (w, x, y) = (node.operands[at], node.operands[1 - at], node.results[0]);
    let (wt, xt, yt) = (graph.ty(w), graph.ty(x), graph.ty(y));
    let is_param = matches!(graph.value(w).def, Def::Param(_, ParamKind::Weight));
    let free: Vec<Name> = wt.indices.iter().filter(|i| !xt.has(i)).cloned().collect();
    let rows: Vec<Name> = xt.indices.iter().filter(|i| !wt.has(i)).cloned().collect();
    let plain = wt.indices.starts_with(&free) && yt.indices == [rows, free.clone()].concat();
    (is_param && plain && !free.is_empty())
        .then_some(((x, wt.dtype()), Projection { weight: w, free, result: y }))
}

impl<'g> Merging<'g> {
    fn new(from: &'g Graph) -> Self {
        let mut all: HashMap<Key, Vec<Projection>> = HashMap::new();
        for (key, found) in from.nodes.iter().filter_map(|n| projection(from, n)) {
            all.entry(key).or_default().push(found);
        }
        Merging { from, copy: Copy::new(from), all }
    }

    fn block(mut self) -> Graph {
        for node in &self.from.nodes {
            if self.copy.of.contains_key(&node.results[0]) {
                continue;
            }
            match projection(self.from, node).map(|(key, _)| key) {
                Some(key) if self.all[&key].len() > 1 => self.merge(key),
                _ if node.op.name() == "rms_norm" => self.norm(node),
                _ => self.copy.node(node, node.operands.clone()),
            }
        }
        self.copy.finish(self.from.outputs.iter().copied())
    }

    /// All projections of an activation as parts of one.
    fn merge(&mut self, key: Key) {
        let projections = self.all.remove(&key).unwrap();
        let b = &mut self.copy.builder;
        let mut parts: Vec<(ValueId, Name)> = vec![];
        let mut total = Dim::constant(0);
        for p in &projections {
            let weight = self.copy.of[&p.weight];
            let extent = p.free.iter().fold(Dim::constant(1), |n, i| n.times(&self.from.extent(i)));
            total = total.plus(&extent);
            if let [index] = &p.free[..] {
                parts.push((weight, index.clone()));
                continue;
            }
            let flat = b.fresh_index("flat", &extent);
            let free: Vec<&str> = p.free.iter().map(|i| &**i).collect();
            parts.push((b.merge(weight, &free, &flat).unwrap(), flat));
        }
        let joint = b.fresh_index("joint", &total);
        let named: Vec<(ValueId, &str)> = parts.iter().map(|(w, i)| (*w, &**i)).collect();
        let weight = b.concat(&named, &joint).unwrap();
        let x = self.copy.of[&key.0];
        let summed = b.ty(weight).indices.clone();
        let rows = b.ty(x).indices.iter().filter(|i| !summed.contains(i));
        let indices: Vec<Name> = rows.chain([&joint]).cloned().collect();
        let all = b.contract(x, weight, &indices).unwrap();
        let mut start = Dim::constant(0);
        for (p, (_, flat)) in projections.iter().zip(&parts) {
            let mut part = b.slice(all, &joint, flat, start.clone()).unwrap();
            start = start.plus(&b.graph().extent(flat));
            if p.free.len() > 1 {
                let free: Vec<&str> = p.free.iter().map(|i| &**i).collect();
                part = b.split(part, flat, &free).unwrap();
            }
            self.copy.of.insert(p.result, part);
        }
    }

    /// A norm with half its gain, doubled.
    fn norm(&mut self, node: &Node) {
        let [x, gain] = [0, 1].map(|i| self.copy.of[&node.operands[i]]);
        let b = &mut self.copy.builder;
        let over = b.ty(gain).indices.clone();
        let half = b.splat::<&str>(0.5, &[]).unwrap();
        let gain = b.contract(gain, half, &over).unwrap();
        let indices = self.from.ty(node.results[0]).indices.clone();
        self.copy.apply(node, vec![x, gain]);
        let normed = self.copy.of[&node.results[0]];
        let twice = self.copy.builder.map("x + x", &[("x", normed)], &indices).unwrap();
        self.copy.of.insert(node.results[0], twice);
    }
}
