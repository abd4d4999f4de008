//! States: what importers and rewriting leave open of how rows are kept.
//!
//! A `history` becomes an `append` to a state parameter of its block, stored as the options say and
//! as precision wants, where a row is of whole blocks of that. Each call that keeps rows gets a layer
//! of a state of its own; calls of one entry whose rows have the same extents and encoding share a
//! state, so that a model's layers are one row of the table.

use crate::lower::error::LowerError;
use crate::lower::order::order_products;
use crate::lower::partition::op_name;
use crate::lower::precision;
use crate::options::{Compute, Options};
use crate::pack::format::Format;
use artifact::plan;
use ir::dim::{Dim, Name};
use ir::dtype::{Encoding, Scale};
use ir::error::IrError;
use ir::graph::builder::GraphBuilder;
use ir::graph::program::{Arg, Program, State, StateKind};
use ir::graph::{Graph, Node, NodeId, ParamKind, Type, ValueId};
use ir::kernel::builder::{packed, tensor};
use ir::kernel::{Packing, ParamType};
use std::collections::HashMap;

/// A program whose blocks keep rows in states, in place of histories. A block whose calls keep rows
/// in different formats becomes one block for each.
///
/// Products of their rows with weights have their indices in the order of the generator.
///
/// Errors: E0261 for a history whose rows are not along its first index, E0262 for one whose rows
/// have no size that is known when compiling.
pub fn with_states(program: &Program, options: &Options) -> Result<Program, LowerError> {
    let mut stated = program.clone();
    let mut rows: HashMap<Name, Vec<Row>> = HashMap::new();
    for block in stated.blocks.iter().filter(|b| !b.histories().is_empty()) {
        rows.insert(block.name.clone(), rows_of(block)?);
    }
    let mut appending = Appending { program, compute: options.compute, rows: &rows, made: vec![] };
    let mut table = Table { states: std::mem::take(&mut stated.states), uses: vec![] };
    for (i, entry) in stated.entries.iter_mut().enumerate() {
        let prefix = if i == 0 { String::new() } else { format!("{}.", entry.name) };
        let kept = precision::kept(program, &program.entries[i], options);
        for (call, kept) in entry.calls.iter_mut().zip(kept) {
            let Some(rows) = rows.get(&call.block) else { continue };
            call.block = appending.block(&call.block, kept);
            let states = rows.iter().enumerate().map(|(at, row)| {
                let nth = rows[..at].iter().filter(|r| r.dims == row.dims).count();
                let encoding = row_encoding(kept, &row.dims, options.compute);
                let of = Use { entry: i, dims: row.dims.clone(), encoding, nth };
                table.layer(of, &prefix, row)
            });
            call.args.extend(states);
        }
    }
    stated.states = table.states;
    let made = |block: Graph| match rows.contains_key(&block.name) {
        true => appending.of(&block.name),
        false => vec![block],
    };
    stated.blocks = stated.blocks.into_iter().flat_map(made).collect();
    stated.blocks.iter_mut().for_each(order_products);
    Ok(stated)
}

/// The states of a plan: those that the entry `forward` touches. Others would only take memory.
pub fn used(program: &Program) -> Vec<&State> {
    let calls = program.entry("forward").map_or([].as_slice(), |e| &e.calls);
    let used = |s: &&State| {
        let is = |a: &Arg| matches!(a, Arg::State { state, .. } if *state == s.name);
        calls.iter().flat_map(|c| &c.args).any(is)
    };
    program.states.iter().filter(used).collect()
}

/// The plan's table of [`used`] states.
pub fn rows(program: &Program, options: &Options) -> Vec<plan::State> {
    let row = |s: &State| {
        let extents: Vec<String> = s.dims.iter().map(i64::to_string).collect();
        plan::State {
            name: s.name.to_string(),
            kind: match s.kind {
                StateKind::Rows => plan::StateKind::Rows,
                StateKind::Ring { window, slack } => {
                    plan::StateKind::Ring { window: window as u32, slack: slack as u32 }
                }
                StateKind::Carry => plan::StateKind::Carry,
            },
            layers: s.layers,
            bytes_per_token: bytes_of_row(s.encoding, &s.dims),
            page_tokens: options.page_tokens,
            row: format!("{}[{}]", s.encoding, extents.join(", ")),
            place: 0,
        }
    };
    used(program).into_iter().map(row).collect()
}

/// How a row of these extents is stored that is kept in a format: as activations are where it is not
/// of whole blocks.
pub fn row_encoding(format: Format, extents: &[i64], compute: Compute) -> Encoding {
    let width = extents.last().copied().unwrap_or(1);
    format.of_row(width).unwrap_or(compute.dtype().into())
}

/// Whether rows of so many elements can lie behind their scales: those of whole blocks, each of one
/// row.
pub fn is_whole(encoding: Encoding, width: i64) -> bool {
    let whole = |s: Scale| s.rows == 1 && !s.sum && width % i64::from(s.cols) == 0;
    encoding.scale.is_none_or(whole)
}

/// States whose rows are not in the format asked for, as its blocks would be cut.
pub fn cut<'s>(states: &'s [plan::State], options: &Options) -> Vec<&'s plan::State> {
    let codes = options.state.is_some_and(Format::has_scales);
    let encoding = |state: &plan::State| state.row.split('[').next()?.parse().ok();
    let is_plain = |state: &&plan::State| encoding(state).is_some_and(Encoding::is_plain);
    states.iter().filter(|state| codes && is_plain(state)).collect()
}

/// A kernel's parameter for rows of the KV cache: each row of the last axis lies behind its scales.
pub fn cached(encoding: Encoding, dims: &[Dim]) -> ParamType {
    let width = dims.last().and_then(Dim::as_constant).and_then(|w| u32::try_from(w).ok());
    match encoding.scale.zip(width) {
        None => tensor(encoding, dims),
        Some((scale, width)) => {
            packed(encoding, dims, Packing::rows(dims.len() as u32, width, scale.cols))
        }
    }
}

/// Bytes of a row of these extents; of one that no memory has room for, more than there can be.
pub fn bytes_of_row(encoding: Encoding, dims: &[i64]) -> u64 {
    let dims: Vec<Dim> = dims.iter().map(|d| (*d).into()).collect();
    cached(encoding, &dims).layout(&|_| None).map_or(1 << 47, |layout| layout.size_bytes())
}

/// Blocks with appends, by what they are of and the format that they keep rows in.
struct Appending<'a> {
    program: &'a Program,
    compute: Compute,
    rows: &'a HashMap<Name, Vec<Row>>,
    made: Vec<((Name, Format), Graph)>,
}

impl Appending<'_> {
    fn block(&mut self, name: &Name, kept: Format) -> Name {
        let of = (name.clone(), kept);
        if let Some((_, block)) = self.made.iter().find(|(known, _)| *known == of) {
            return block.name.clone();
        }
        let source = self.program.block(name).expect("a verified program has the blocks it calls");
        let encodings: Vec<Encoding> =
            self.rows[name].iter().map(|row| row_encoding(kept, &row.dims, self.compute)).collect();
        let mut block = appending(source, &encodings, self.compute)
            .expect("types of a verified block stay as they are");
        let taken = |n: &Name| {
            n != name && self.program.block(n).is_some()
                || self.made.iter().any(|(_, b)| b.name == *n)
        };
        let mut named: Name = name.clone();
        while taken(&named) {
            named = format!("{named}_{}", kept.name).into();
        }
        block.name = named.clone();
        self.made.push((of, block));
        named
    }

    /// All that was made of a block.
    fn of(&self, name: &Name) -> Vec<Graph> {
        let made = self.made.iter().filter(|((of, _), _)| of == name);
        made.map(|(_, block)| block.clone()).collect()
    }
}

/// What a block keeps of a token.
struct Row {
    /// What the block calls it.
    name: Name,
    dims: Vec<i64>,
}

/// What a state is for: rows of these extents and encoding, the n-th such ones of each call of an
/// entry.
#[derive(PartialEq)]
struct Use {
    entry: usize,
    dims: Vec<i64>,
    encoding: Encoding,
    nth: usize,
}

/// States, and what those made here are for.
struct Table {
    states: Vec<State>,
    uses: Vec<(Use, usize)>,
}

impl Table {
    /// The next layer of the state for a use.
    fn layer(&mut self, of: Use, prefix: &str, row: &Row) -> Arg {
        let known = self.uses.iter().find(|(u, _)| *u == of).map(|(_, at)| *at);
        let at = known.unwrap_or_else(|| {
            self.states.push(State {
                name: self.free_name(&format!("{prefix}{}", row.name)),
                kind: StateKind::Rows,
                encoding: of.encoding,
                dims: row.dims.clone(),
                layers: 0,
            });
            self.uses.push((of, self.states.len() - 1));
            self.states.len() - 1
        });
        let state = &mut self.states[at];
        state.layers += 1;
        Arg::State { state: state.name.clone(), layer: state.layers - 1 }
    }

    fn free_name(&self, wanted: &str) -> Name {
        let taken = |name: &str| self.states.iter().any(|s| &*s.name == name);
        let numbered = (2..).map(|n| format!("{wanted}.{n}"));
        let mut names = std::iter::once(wanted.to_string()).chain(numbered);
        names.find(|name| !taken(name)).expect("numbers do not end").into()
    }
}

/// What each history of a block keeps of a token.
fn rows_of(graph: &Graph) -> Result<Vec<Row>, LowerError> {
    let row = |(id, axis): (NodeId, usize)| {
        let node = graph.node(id);
        let ty = graph.ty(node.results[0]);
        if axis != 0 {
            return Err(LowerError::Form {
                graph: graph.name.clone(),
                node: op_name(node),
                found: ty.to_string(),
                expected: "rows along the first index".to_string(),
            });
        }
        let extent = |index: &Name| {
            let extent = graph.extent(index);
            let unbound =
                || LowerError::Unbound { graph: graph.name.clone(), dim: extent.to_string() };
            extent.bound_value(&graph.symbols).ok_or_else(unbound)
        };
        let dims = ty.indices[1..].iter().map(extent).collect::<Result<_, _>>()?;
        Ok(Row { name: graph.value(node.operands[0]).name.clone(), dims })
    };
    graph.histories().into_iter().map(row).collect()
}

/// The block with an append to a state parameter in place of each history.
fn appending(graph: &Graph, encodings: &[Encoding], compute: Compute) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::like(&graph.name, graph);
    let mut of: HashMap<ValueId, ValueId> = HashMap::new();
    for (at, id) in graph.params.iter().enumerate() {
        let value = graph.value(*id);
        of.insert(*id, b.param(&value.name, graph.param_kind(at), value.ty.clone()));
    }
    let histories = graph.histories();
    let mut states: HashMap<NodeId, ValueId> = HashMap::new();
    for ((id, _), encoding) in histories.iter().zip(encodings) {
        states.insert(*id, past(&mut b, graph, graph.node(*id), *encoding));
    }
    for (i, node) in graph.nodes.iter().enumerate() {
        let operands: Vec<ValueId> = node.operands.iter().map(|v| of[v]).collect();
        let results = match states.get(&NodeId(i as u32)) {
            Some(past) => vec![append(&mut b, graph, node, [*past, operands[0]], compute)?],
            None => {
                let (data, mask) = operands.split_at(node.data_operands().len());
                let types = graph.types(&node.results);
                b.node(node.op, data, mask.first().copied(), node.attrs.clone(), Some(&types))?
            }
        };
        for (old, new) in node.results.iter().zip(results) {
            b.rename_value(new, &graph.value(*old).name);
            of.insert(*old, new);
        }
    }
    graph.outputs.iter().for_each(|v| b.output(of[v]));
    b.finish().map_err(|mut errors| errors.swap_remove(0))
}

/// A parameter for the rows of a history before this step's.
fn past(b: &mut GraphBuilder, graph: &Graph, history: &Node, encoding: Encoding) -> ValueId {
    let (x, all) = (graph.ty(history.operands[0]), graph.ty(history.results[0]));
    let rows = graph.extent(&all.indices[0]).minus(&graph.extent(&x.indices[0]));
    let mut indices = all.indices.clone();
    indices[0] = b.index_of("u", &rows);
    let name = free_name(b, graph, format!("past_{}", graph.value(history.operands[0]).name));
    b.param(&name, ParamKind::State, Type { encoding, indices })
}

/// A name like this one that neither graph has.
fn free_name(b: &GraphBuilder, graph: &Graph, mut name: String) -> String {
    while [graph, b.graph()].iter().any(|g| g.values.iter().any(|v| *v.name == *name)) {
        name.push('_');
    }
    name
}

/// All rows of a history, as wide as they were, from a state that keeps them as its encoding says.
/// Codes are read as numbers that enter products as they are.
fn append(
    b: &mut GraphBuilder,
    graph: &Graph,
    history: &Node,
    [past, x]: [ValueId; 2],
    compute: Compute,
) -> Result<ValueId, IrError> {
    let (kept, own) = (b.ty(past).encoding, b.ty(x).encoding);
    let into = &graph.ty(history.results[0]).indices[0];
    if kept == own {
        return b.append(past, x, into);
    }
    let name = &graph.value(history.operands[0]).name;
    let named = |b: &mut GraphBuilder, value, what| {
        b.label(value, &free_name(b, graph, format!("{what}_{name}")));
        value
    };
    let new = if kept.is_plain() { b.cast(x, kept.code)? } else { b.quantize(x, kept)? };
    let new = named(b, new, "new");
    let all = b.append(past, new, into)?;
    let mut all = named(b, all, "all");
    if !kept.is_plain() {
        let numbers = b.dequantize(all)?;
        let numbers = named(b, numbers, "numbers");
        let near = b.cast(numbers, compute.dtype())?;
        all = named(b, near, "near");
    }
    b.cast(all, own.code)
}
