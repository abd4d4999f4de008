//! Programs edited node by node: what a test changes in a graph is data, checked as any graph is.

use compiler::lower::claims::Claims;
use compiler::lower::partition::{is_expanded, weight_operand};
use compiler::lower::precision::{Operand, Operands, operands};
use compiler::lower::states::with_states;
use compiler::options::Options;
use ir::dim::{Dim, Name};
use ir::dtype::DType;
use ir::graph::builder::GraphBuilder;
use ir::graph::program::{Arg, Input, Program};
use ir::graph::{Def, Graph, Node, NodeId, ParamKind, ValueId};
use std::collections::HashMap;

/// A block with its experts' choice opened, and what it shows.
struct Opened {
    graph: Graph,
    routing: Routing,
}

/// The numbers of one routing: of experts, of them chosen, and of groups (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Routed experts.
    pub experts: usize,
    /// Experts of each row.
    pub chosen: usize,
    /// Groups that limit the choice.
    pub groups: usize,
    /// Groups that a row chooses from.
    pub kept: usize,
}

/// The entry `forward` of a program, each routing `i` of which takes an input `forced.i`
/// (i32 `[s, k]`: experts, or -1 to let the model choose) and has outputs `scores.i` (f32
/// `[s, e]`: what experts are ranked by), `groups.i` (f32 `[s, g]`, if groups limit the choice)
/// and `chosen.i` (i32 `[s, k]`).
pub fn open_choices(program: &Program) -> (Program, Vec<Routing>) {
    let mut program = program.clone();
    program.entries.retain(|e| &*e.name == "forward");
    let mut opened: HashMap<Name, Routing> = HashMap::new();
    for block in &mut program.blocks {
        if let Some(open) = open_block(block) {
            opened.insert(block.name.clone(), open.routing);
            *block = open.graph;
        }
    }
    let mut routings = vec![];
    let entry = &mut program.entries[0];
    for call in &mut entry.calls {
        let Some(routing) = opened.get(&call.block) else { continue };
        let name = |what: &str| -> Name { format!("{what}.{}", routings.len()).into() };
        let dims = vec![Dim::symbol("s"), Dim::constant(routing.chosen as i64)];
        entry.inputs.push(Input { name: name("forced"), dtype: DType::I32, dims });
        call.args.push(Arg::Value(name("forced")));
        let mut results = vec![name("chosen"), name("scores")];
        results.extend((routing.groups > 0).then(|| name("groups")));
        call.results.extend(results.iter().cloned());
        entry.outputs.extend(results);
        routings.push(*routing);
    }
    (program, routings)
}

fn named<'g>(graph: &'g Graph, op: &str) -> impl Iterator<Item = &'g Node> {
    graph.nodes.iter().filter(move |n| n.op.name() == op)
}

/// The index by which rows choose experts: the last choice of a block that scatters its shares, or
/// gathers weights by it, at times with a choice behind it that all rows make.
fn chosen(graph: &Graph) -> Option<ValueId> {
    let last = named(graph, "topk").last()?.results[0];
    let longer = named(graph, "concat").filter(|n| n.operands[0] == last).map(|n| n.results[0]);
    let indices: Vec<ValueId> = longer.chain([last]).collect();
    let is_used = |n: &Node| {
        ["scatter", "gather"].contains(&n.op.name())
            && n.operands.iter().any(|v| indices.contains(v))
    };
    graph.nodes.iter().any(is_used).then_some(last)
}

fn maker(graph: &Graph, value: ValueId) -> NodeId {
    match graph.value(value).def {
        Def::Node(id, _) => id,
        Def::Param(..) => panic!("a choice is computed"),
    }
}

/// A block that routes, opened.
fn open_block(graph: &Graph) -> Option<Opened> {
    let index = chosen(graph)?;
    let choice = maker(graph, index);
    let scores = graph.node(choice).operands[0];
    // Choices within a group have a third index.
    let of_groups = named(graph, "topk")
        .find(|n| n.results[0] != index && graph.ty(n.results[0]).indices.len() == 2);
    let extent = |v: ValueId| {
        let last = graph.ty(v).indices.last().unwrap();
        graph.extent(last).bound_value(&graph.symbols).unwrap() as usize
    };
    let routing = Routing {
        experts: extent(scores),
        chosen: extent(index),
        groups: of_groups.map_or(0, |n| extent(n.operands[0])),
        kept: of_groups.map_or(0, |n| extent(n.results[0])),
    };
    let mut copy = Copy::new(graph);
    let forced = copy.builder.param("forced", ParamKind::Input, graph.ty(index).clone());
    for (i, node) in graph.nodes.iter().enumerate() {
        copy.node(node, node.operands.clone());
        if i as u32 == choice.0 {
            let indices = &graph.ty(index).indices;
            let operands = [("own", copy.of[&index]), ("forced", forced)];
            let chosen = copy.builder.map("select(forced < 0, own, forced)", &operands, indices);
            copy.of.insert(index, chosen.unwrap());
        }
    }
    let shown = [index, scores].into_iter().chain(of_groups.map(|n| n.operands[0]));
    let graph = copy.finish(graph.outputs.iter().copied().chain(shown));
    Some(Opened { graph, routing })
}

/// The program with every operand rounded to bf16, to two of it, or to codes, that native code of
/// these options rounds, as far as operands are nodes of the graph: those of products, and the rows
/// of experts; what enters states is cast there. What composites round inside is left out. Each call
/// has a block of its own.
pub fn round_operands(program: &Program, options: &Options) -> Program {
    let program = &with_states(program, options).unwrap();
    let mut rounded = program.clone();
    rounded.blocks.clear();
    let entry = &mut rounded.entries[0];
    let operands = operands(program, &program.entries[0], options).unwrap();
    for ((i, call), operands) in entry.calls.iter_mut().enumerate().zip(operands) {
        let block = program.block(&call.block).unwrap();
        let mut block = round_block(block, &operands);
        block.name = format!("{}_{i}", block.name).into();
        call.block = block.name.clone();
        rounded.blocks.push(block);
    }
    rounded
}

fn round_block(graph: &Graph, operands: &Operands) -> Graph {
    let claims = Claims::of(graph).unwrap();
    let mut copy = Copy::new(graph);
    for (i, node) in graph.nodes.iter().enumerate() {
        let id = NodeId(i as u32);
        let claim = claims.covering(id);
        let rounded = match (node.op.name(), operands.get(&id), claim) {
            (.., Some(claim)) => claim.products.get(&id).map(|at| (*at, operands[&claim.root])),
            ("contract", Some(operand), _) => {
                Some((1 - weight_operand(graph, node).unwrap(), *operand))
            }
            (_, Some(operand), _) => Some((0, *operand)),
            _ => None,
        };
        copy.rounding(node, rounded);
        // What is computed over the context is stored as activations enter the computing product.
        let result = node.results[0];
        let near = operands.get(&id).is_some_and(|o| o.dtype() == DType::BF16);
        if near && is_expanded(graph, result) {
            let near = copy.near(copy.of[&result]);
            copy.of.insert(result, near);
        }
    }
    copy.finish(graph.outputs.iter().copied())
}

/// A graph on its way into another one.
pub(crate) struct Copy<'g> {
    from: &'g Graph,
    pub(crate) builder: GraphBuilder,
    /// What stands for each value.
    pub(crate) of: HashMap<ValueId, ValueId>,
}

impl<'g> Copy<'g> {
    pub(crate) fn new(from: &'g Graph) -> Self {
        let mut builder = GraphBuilder::like(&from.name, from);
        let mut of = HashMap::new();
        for (at, id) in from.params.iter().enumerate() {
            let value = from.value(*id);
            let param = builder.param(&value.name, from.param_kind(at), value.ty.clone());
            of.insert(*id, param);
        }
        Copy { from, builder, of }
    }

    pub(crate) fn node(&mut self, node: &Node, operands: Vec<ValueId>) {
        let operands = operands.iter().map(|v| self.of[v]).collect();
        self.apply(node, operands);
    }

    /// A node with one of its operands rounded as it enters a product.
    fn rounding(&mut self, node: &Node, rounded: Option<(usize, Operand)>) {
        let mut operands: Vec<ValueId> = node.operands.iter().map(|v| self.of[v]).collect();
        if let Some((at, operand)) = rounded {
            operands[at] = self.rounded(operands[at], operand);
        }
        self.apply(node, operands);
    }

    fn rounded(&mut self, x: ValueId, operand: Operand) -> ValueId {
        if operand == Operand::F32 {
            return x;
        }
        if operand == Operand::I8 {
            let codes = self.builder.quantize(x, Operand::I8.stored()).unwrap();
            return self.builder.dequantize(codes).unwrap();
        }
        let head = self.near(x);
        if operand == Operand::Bf16 {
            return head;
        }
        let rest = self.map("a - b", x, head);
        let rest = self.near(rest);
        self.map("a + b", head, rest)
    }

    /// The nearest number of bf16.
    fn near(&mut self, x: ValueId) -> ValueId {
        let narrow = self.builder.cast(x, DType::BF16).unwrap();
        self.builder.cast(narrow, DType::F32).unwrap()
    }

    fn map(&mut self, text: &str, a: ValueId, b: ValueId) -> ValueId {
        let indices = self.builder.ty(a).indices.clone();
        self.builder.map(text, &[("a", a), ("b", b)], &indices).unwrap()
    }

    pub(crate) fn apply(&mut self, node: &Node, mut operands: Vec<ValueId>) {
        let mask = if node.masked { operands.pop() } else { None };
        let types = self.from.types(&node.results);
        let made = self.builder.node(node.op, &operands, mask, node.attrs.clone(), Some(&types));
        self.of.extend(node.results.iter().copied().zip(made.unwrap()));
    }

    pub(crate) fn finish(mut self, outputs: impl Iterator<Item = ValueId>) -> Graph {
        for value in outputs {
            self.builder.output(self.of[&value]);
        }
        self.builder.finish().unwrap()
    }
}
