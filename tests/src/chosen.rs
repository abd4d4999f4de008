//! Programs in forms that a rewriter may choose, made by hand: what lowering must take, whoever
//! wrote it.

use crate::rebuild::Copy;
use compiler::lower::partition::weight_operand;
use ir::dim::{Dim, Name};
use ir::dtype::DType;
use ir::graph::builder::GraphBuilder;
use ir::graph::program::Program;
use ir::graph::{Def, Graph, Node, ParamKind, ValueId};
use std::collections::HashMap;

/// A way of writing a mixture of experts as products with gathered weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// Gate and up apart, the weighted sum last.
    Apart,
    /// Gate and up in one product, cut into two.
    Merged,
    /// The weight before the last product, which sums over choices too.
    Early,
    /// The weight before the last product, which leaves choices apart; then a reduction.
    Reduced,
    /// Weighted choices added up by what is no sum of products: they are read one by one.
    Kept,
    /// The shared network as one more expert that all choose, with weight 1.
    Joined,
    /// Squares of positive numbers instead of SwiGLU.
    Squares,
    /// Norms between the products, which are no function of single elements.
    Normed,
}

impl Experts {
    /// Every way.
    pub const ALL: [Experts; 8] = [
        Experts::Apart,
        Experts::Merged,
        Experts::Early,
        Experts::Reduced,
        Experts::Kept,
        Experts::Joined,
        Experts::Squares,
        Experts::Normed,
    ];

    /// Whether the model stays what it was.
    pub fn keeps_meaning(self) -> bool {
        !matches!(self, Experts::Squares | Experts::Normed)
    }
}

/// The program with its mixtures of experts written out.
pub fn written_out(program: &Program, way: Experts) -> Program {
    let mut program = program.clone();
    for block in &mut program.blocks {
        let mut copy = Copy::new(block);
        let mut joined = None;
        let mixtures: Vec<Mixture> =
            block.nodes.iter().filter_map(|n| Mixture::of(block, n)).collect();
        for node in &block.nodes {
            let result = node.results[0];
            if let Some(whole) = mixtures.iter().find(|m| m.sum == result) {
                joined = write_out(block, whole, &mut copy, way);
            }
            if mixtures.iter().any(|m| m.values.contains(&result)) {
                continue;
            }
            copy.node(node, node.operands.clone());
            if joined.is_some_and(|v| node.results.contains(&v)) {
                let indices = block.ty(node.results[0]).indices.clone();
                let zero = copy.builder.splat(0.0, &indices).unwrap();
                copy.of.insert(node.results[0], zero);
            }
        }
        *block = copy.finish(block.outputs.iter().copied());
    }
    program
}

/// A mixture as textbooks state it: every expert on every row, times a gate that is 0 for most.
struct Mixture {
    /// Rows, the experts chosen, their weights; the experts' gate, up and down.
    operands: [ValueId; 6],
    /// What experts add up to.
    sum: ValueId,
    /// All that is computed on the way, the sum among it.
    values: Vec<ValueId>,
}

fn made(graph: &Graph, value: ValueId) -> Option<&Node> {
    match graph.value(value).def {
        Def::Node(id, _) => Some(graph.node(id)),
        Def::Param(..) => None,
    }
}

impl Mixture {
    /// The mixture whose sum is a node.
    fn of(graph: &Graph, node: &Node) -> Option<Mixture> {
        let [each, gates] = node.operands[..] else { return None };
        let scatter = made(graph, gates).filter(|n| n.op.name() == "scatter")?;
        let product = |v: ValueId| {
            let node = made(graph, v)?;
            let at = weight_operand(graph, node)?;
            Some([node.operands[1 - at], node.operands[at]])
        };
        let [inner, down] = product(each)?;
        let gated = made(graph, inner).filter(|n| n.op.name() == "swiglu")?;
        let [g, u] = [gated.operands[0], gated.operands[1]];
        let ([x, gate], [_, up]) = (product(g)?, product(u)?);
        let [index, share] = [scatter.operands[0], scatter.operands[1]];
        let sum = node.results[0];
        let values = vec![gates, g, u, inner, each, sum];
        Some(Mixture { operands: [x, index, share, gate, up, down], sum, values })
    }
}

/// A mixture in place of its sum; what has been joined to it.
fn write_out(graph: &Graph, whole: &Mixture, copy: &mut Copy<'_>, way: Experts) -> Option<ValueId> {
    let [x, mut index, mut share, mut gate, mut up, mut down] = whole.operands.map(|v| copy.of[&v]);
    let b = &mut copy.builder;
    let names = |v: ValueId, b: &GraphBuilder| b.ty(v).indices.clone();
    let [s, mut k] = <[Name; 2]>::try_from(names(index, b)).unwrap();
    let [e, f, d] = <[Name; 3]>::try_from(names(gate, b)).unwrap();
    let mut joined = None;
    if way == Experts::Joined
        && let Some((result, shared)) = shared(graph, whole)
    {
        let [g, u, w] = shared.map(|v| copy.of[&v]);
        (index, share) = choose_last(b, index, share, &e);
        (gate, up) = (with_last(b, gate, g, &f), with_last(b, up, u, &f));
        down = with_last(b, down, w, &f);
        k = names(index, b)[1].clone();
        joined = Some(result);
    }
    let choose = |b: &mut GraphBuilder, w: ValueId| {
        let experts = names(w, b)[0].clone();
        b.gather(w, index, None, &experts).unwrap()
    };
    let first = |b: &mut GraphBuilder, w: ValueId, f: &Name| {
        let rows = choose(b, w);
        b.contract(x, rows, &[&s, &k, f]).unwrap()
    };
    let (g, u) = match way {
        Experts::Merged => {
            let both = b.graph().extent(&f).times(&2.into());
            let both = b.fresh_index("both", &both);
            let table = b.concat(&[(gate, &f), (up, &f)], &both).unwrap();
            let all = first(b, table, &both);
            let half = b.graph().extent(&f);
            (b.slice(all, &both, &f, 0).unwrap(), b.slice(all, &both, &f, half).unwrap())
        }
        _ => (first(b, gate, &f), first(b, up, &f)),
    };
    let h = between(b, way, [g, u, share], [&s, &k, &f]);
    let rows = choose(b, down);
    let routed = match way {
        Experts::Early => b.contract(h, rows, &[&s, &d]).unwrap(),
        _ => b.contract(h, rows, &[&s, &k, &d]).unwrap(),
    };
    let weighted = |b: &mut GraphBuilder| {
        b.map("y * w", &[("y", routed), ("w", share)], &[&s, &k, &d]).unwrap()
    };
    let sum = match way {
        Experts::Early => routed,
        Experts::Reduced => b.reduce("sum", routed, None, &[&s, &d]).unwrap(),
        Experts::Kept => {
            let weighted = weighted(b);
            b.reduce("sum", weighted, None, &[&s, &d]).unwrap()
        }
        _ => b.contract(routed, share, &[&s, &d]).unwrap(),
    };
    copy.of.insert(whole.sum, sum);
    joined
}

/// What is computed between the products: of gate and up, and of the weights of choices.
fn between(
    b: &mut GraphBuilder,
    way: Experts,
    [g, u, share]: [ValueId; 3],
    hidden: [&Name; 3],
) -> ValueId {
    let mut h = match way {
        Experts::Squares => {
            let text = "max(g, 0) * max(g, 0) + 0.1 * u";
            b.map(text, &[("g", g), ("u", u)], &hidden).unwrap()
        }
        Experts::Early => b.swiglu(g, u).unwrap(),
        _ => b.map("g * sigmoid(g) * u", &[("g", g), ("u", u)], &hidden).unwrap(),
    };
    if way == Experts::Normed {
        let gain = b.splat(0.5, &hidden[2..]).unwrap();
        h = b.rms_norm(h, gain, hidden[2], 1e-6).unwrap();
    }
    let early = matches!(way, Experts::Early | Experts::Reduced);
    if early {
        h = b.map("h * w", &[("h", h), ("w", share)], &hidden).unwrap();
    }
    h
}

/// The network beside a mixture that every row takes, if it has an expert's extents: its result,
/// and the weights of gate, up and down.
fn shared(graph: &Graph, whole: &Mixture) -> Option<(ValueId, [ValueId; 3])> {
    let [x, _, _, routed, ..] = whole.operands;
    let weight = |v: ValueId, x: Option<ValueId>| {
        let node = made(graph, v)?;
        let at = weight_operand(graph, node)?;
        x.is_none_or(|x| node.operands[1 - at] == x).then_some(node.operands[at])
    };
    graph.nodes.iter().find_map(|node| {
        let at = weight_operand(graph, node)?;
        let gated = made(graph, node.operands[1 - at]).filter(|n| n.op.name() == "swiglu")?;
        let [gate, up] = [0, 1].map(|i| weight(gated.operands[i], Some(x)));
        let extents = |v: ValueId| -> Vec<Option<i64>> {
            graph.extents(graph.ty(v)).iter().map(|d| d.bound_value(&graph.symbols)).collect()
        };
        let (gate, up, down) = (gate?, up?, node.operands[at]);
        let alike = extents(routed)[1..] == extents(gate)[..];
        alike.then_some((node.results[0], [gate, up, down]))
    })
}

/// The choices of each row with one more: the last expert, with weight 1.
fn choose_last(
    b: &mut GraphBuilder,
    index: ValueId,
    share: ValueId,
    e: &Name,
) -> (ValueId, ValueId) {
    let [s, k] = <[Name; 2]>::try_from(b.ty(index).indices.clone()).unwrap();
    let last = b.graph().extent(e).bound_value(&b.graph().symbols).unwrap();
    let more = b.graph().extent(&k).plus(&1.into());
    let (one, joint) = (b.fresh_index("one", &1.into()), b.fresh_index("more", &more));
    let i = b.constant(DType::I32, &[last as f64], &[&s, &one]).unwrap();
    let w = b.splat(1.0, &[&s, &one]).unwrap();
    let index = b.concat(&[(index, &k), (i, &one)], &joint).unwrap();
    (index, b.concat(&[(share, &k), (w, &one)], &joint).unwrap())
}

/// Experts' weights with one more behind them.
fn with_last(b: &mut GraphBuilder, experts: ValueId, last: ValueId, f: &Name) -> ValueId {
    let indices = b.ty(experts).indices.clone();
    let more = b.graph().extent(&indices[0]).plus(&1.into());
    let (one, joint) = (b.fresh_index("one", &1.into()), b.fresh_index("experts", &more));
    // The shared network may have its own name for its hidden index.
    let own = b.ty(last).indices.clone();
    let wide = own.iter().find(|i| !indices.contains(i)).unwrap_or(f).clone();
    let extent = b.graph().extent(f);
    let flat = b.fresh_index("flat", &extent);
    // Of the same extent, if not by name: all of it.
    let last = b.slice(last, &wide, &flat, 0).unwrap();
    let last = b.split(last, &flat, &[&one, f]).unwrap();
    let order: Vec<Name> = [std::slice::from_ref(&one), &indices[1..]].concat();
    let last = b.map("x", &[("x", last)], &order).unwrap();
    let last = match b.ty(experts).dtype() {
        DType::F32 => last,
        dtype => b.cast(last, dtype).unwrap(),
    };
    b.concat(&[(experts, &indices[0]), (last, &one)], &joint).unwrap()
}

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
