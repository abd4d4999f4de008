//! Putting a program together: blocks stated piece by piece, each weight bound as its parameter is
//! declared.

use super::catalogue::{Catalogue, Tensor};
use crate::error::{ImportError, ImportErrors};
use ir::dim::{Dim, Name, Symbol, Symbols};
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::builder::GraphBuilder;
use ir::graph::program::{Arg, Call, Entry, Input, Program};
use ir::graph::{Def, Graph, Value, ValueId};

/// Everything runs in one place until placement says otherwise.
const PLACE: &str = "main";

/// A program under construction.
pub struct Assembly {
    program: Program,
    /// Tensors asked for so far.
    pub catalogue: Catalogue,
    /// Longest sequence.
    context: i64,
}

impl Assembly {
    /// An empty program for sequences of up to `context` tokens. What the text form does not take
    /// in a name becomes `_`.
    pub fn new(name: &str, catalogue: Catalogue, context: i64) -> Assembly {
        let program = Program {
            name: plain_name(name),
            symbols: step_symbols(context),
            blocks: vec![],
            weights: vec![],
            states: vec![],
            entries: vec![],
        };
        Assembly { program, catalogue, context }
    }

    /// States a block over `s` new tokens; returns the call with the arguments that were bound on
    /// the way, its results named `results`.
    ///
    /// # Errors
    /// What the IR refuses: a fault of the importer.
    pub fn block(
        &mut self,
        name: &str,
        results: &[&str],
        state: impl FnOnce(&mut Block) -> Result<Vec<ValueId>, IrError>,
    ) -> Result<Call, ImportErrors> {
        let mut graph = GraphBuilder::new(name);
        graph.step_symbol("s", 1, self.context);
        let mut block = Block { graph, args: vec![], assembly: self };
        let outputs = state(&mut block).map_err(|e| graph_errors(name, &[e]))?;
        let Block { mut graph, args, .. } = block;
        outputs.iter().for_each(|o| graph.output(*o));
        let graph = graph.finish().map_err(|errors| graph_errors(name, &errors))?;
        let graph = parameters_first(graph);
        let results = results.iter().map(|r| Name::from(*r)).collect();
        Ok(Call { block: self.add(graph), args, results, place: PLACE.into() })
    }

    /// Adds an entry point. Inputs have extents over `s` and `m`.
    pub fn entry(&mut self, name: &str, inputs: Vec<Input>, calls: Vec<Call>, outputs: &[&str]) {
        let outputs = outputs.iter().map(|o| Name::from(*o)).collect();
        self.program.entries.push(Entry { name: name.into(), inputs, calls, outputs });
    }

    /// The program, its weights still to be filled in from the catalogue.
    pub fn finish(self) -> (Program, Catalogue) {
        (self.program, self.catalogue)
    }

    /// Adds a block unless an equal one is there; a different one of this name gets a number.
    fn add(&mut self, mut graph: Graph) -> Name {
        let wanted = graph.name.clone();
        let equal = self.program.blocks.iter().any(|b| graph.equals_but_name(b));
        let mut number = 1;
        while !equal && self.program.block(&graph.name).is_some() {
            number += 1;
            graph.name = format!("{wanted}.{number}").into();
        }
        self.program.add_block(graph)
    }
}

/// Numbers a graph's values as its text does: parameters before results, whatever the order in
/// which they were declared.
fn parameters_first(mut graph: Graph) -> Graph {
    let is_param = |v: &&Value| matches!(v.def, Def::Param(..));
    let mut number = vec![ValueId(0); graph.values.len()];
    let params = graph.params.iter().copied();
    let results = (0..graph.values.len() as u32).map(ValueId);
    let results = results.filter(|id| !is_param(&graph.value(*id)));
    let order: Vec<ValueId> = params.chain(results).collect();
    for (new, old) in order.iter().enumerate() {
        number[old.0 as usize] = ValueId(new as u32);
    }
    graph.values = order.iter().map(|id| graph.value(*id).clone()).collect();
    let renumber = |id: &mut ValueId| *id = number[id.0 as usize];
    graph.params.iter_mut().chain(&mut graph.outputs).for_each(renumber);
    for node in &mut graph.nodes {
        node.operands.iter_mut().chain(&mut node.results).for_each(renumber);
    }
    graph
}

fn plain_name(name: &str) -> Name {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if letter { name.into() } else { format!("m{name}").into() }
}

/// An input of an entry.
pub fn input(name: &str, dtype: DType, dims: &[Dim]) -> Input {
    Input { name: name.into(), dtype, dims: dims.to_vec() }
}

/// One block under construction, and the arguments of the call being stated with it.
pub struct Block<'a> {
    /// The graph.
    pub graph: GraphBuilder,
    args: Vec<Arg>,
    assembly: &'a mut Assembly,
}

impl Block<'_> {
    /// Declares a shape parameter and index, if not yet done.
    pub fn dim(&mut self, name: &str, value: i64) {
        if !self.graph.graph().symbols.contains_key(name) {
            self.graph.param_symbol(name, value);
        }
    }

    /// Declares `m`, the number of rows whose logits are wanted.
    pub fn wanted_rows(&mut self) {
        self.graph.step_symbol("m", 0, self.assembly.context);
    }

    /// Declares an index of another extent than the symbol of its name, if not yet done.
    pub fn index(&mut self, name: &str, extent: impl Into<Dim>) {
        if !self.graph.graph().indices.contains_key(name) {
            self.graph.index(name, extent);
        }
    }

    /// Extent of an index whose symbols are bound; 0 where they are not.
    pub fn extent(&self, index: &str) -> i64 {
        let graph = self.graph.graph();
        graph.extent(index).bound_value(&graph.symbols).unwrap_or(0)
    }

    /// A parameter bound to a value of the entry.
    pub fn input(&mut self, name: &str, dtype: DType, indices: &[&str], value: &str) -> ValueId {
        self.args.push(Arg::Value(value.into()));
        self.graph.input(name, dtype, indices)
    }

    /// A parameter bound to a tensor of the checkpoint. The product of the extents of `indices` is
    /// that of the stored axes.
    pub fn weight(&mut self, name: &str, indices: &[&str], tensor: &Tensor) -> ValueId {
        let dims: Vec<i64> = indices.iter().map(|i| self.extent(i)).collect();
        let encoding = self.assembly.catalogue.need(tensor, &dims);
        self.args.push(Arg::Weight(tensor.name.as_str().into()));
        self.graph.weight(name, encoding, indices)
    }

    /// Rows `x [s, ..]` of this step after those of all earlier ones, along `t`.
    pub fn keep(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        if !self.graph.graph().symbols.contains_key("t") {
            self.graph.step_symbol("t", 1, self.assembly.context);
        }
        self.graph.history(x, "s", "t")
    }
}

/// New tokens `s`, all tokens `t`, and rows `m` whose logits are wanted.
pub fn step_symbols(context: i64) -> Symbols {
    let step = |name: &str, lo| (Name::from(name), Symbol::step(lo, context));
    Symbols::from([step("s", 1), step("t", 1), step("m", 0)])
}

/// IR diagnostics as the importer's own fault.
fn graph_errors(block: &str, errors: &[IrError]) -> ImportErrors {
    let fault = |e: &IrError| ImportError::Graph {
        block: block.into(),
        why: format!("{}: {e}", e.kind.code()),
    };
    ImportErrors(errors.iter().map(fault).collect())
}
