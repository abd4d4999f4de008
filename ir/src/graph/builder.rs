//! The only way to make a node: applies the op's rule, so that a built graph is well typed.
//!
//! Each op's file adds its typed method, such as [`GraphBuilder::contract`]; [`GraphBuilder::node`]
//! is the generic one behind them.

use super::error::GraphError;
use super::{Def, Graph, Node, NodeId, ParamKind, Type, Value, ValueId};
use crate::attr::{Attr, Attrs};
use crate::dim::{Dim, Name, Sort, Symbol};
use crate::dtype::Encoding;
use crate::error::IrError;
use crate::op::{NodeView, OpRef};
use std::collections::HashSet;

/// A graph under construction.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    errors: Vec<IrError>,
    names: HashSet<Name>,
    next_name: u32,
}

impl GraphBuilder {
    /// Starts a block.
    pub fn new(name: &str) -> Self {
        let (graph, names) = (Graph::new(name), HashSet::new());
        let mut builder = GraphBuilder { graph, errors: vec![], names, next_name: 0 };
        builder.check_name("graph", name);
        builder
    }

    /// Starts a block with the symbols and indices of another, for definitions and rewrites.
    pub fn like(name: &str, other: &Graph) -> Self {
        let mut builder = GraphBuilder::new(name);
        builder.graph.symbols = other.symbols.clone();
        builder.graph.indices = other.indices.clone();
        builder
    }

    /// What has been built so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &Type {
        self.graph.ty(value)
    }

    /// Declares a shape parameter bound to a value; also an index of this name and extent.
    pub fn param_symbol(&mut self, name: &str, value: i64) {
        self.symbol(name, Symbol::param(value));
    }

    /// Declares a symbol that the host binds at each step, within inclusive bounds.
    pub fn step_symbol(&mut self, name: &str, lo: i64, hi: i64) {
        self.symbol(name, Symbol::step(lo, hi));
    }

    /// Declares a symbol of any sort.
    pub fn symbol(&mut self, name: &str, symbol: Symbol) {
        self.check_word("symbol", name);
        let Symbol { lo, hi, value, sort } = symbol;
        let value = value.unwrap_or(if sort == Sort::Param { lo.max(1) } else { lo });
        if lo < 0 || !(lo..=hi).contains(&value) {
            self.fail(GraphError::SymbolBounds { name: name.into(), value, lo, hi });
        }
        if self.graph.indices.contains_key(name)
            || self.graph.symbols.insert(name.into(), symbol).is_some()
        {
            self.fail(GraphError::Duplicate { what: "symbol", name: name.into() });
        }
    }

    /// Declares an index whose extent is not the symbol of its name. Indices in `extent` stand for
    /// their own extents.
    pub fn index(&mut self, name: &str, extent: impl Into<Dim>) {
        self.check_word("index", name);
        let extent = self.resolved(&extent.into());
        extent.visit_symbols(&mut |s| {
            if !self.graph.symbols.contains_key(s) {
                let unknown = GraphError::Unknown { what: "symbol", name: s.clone() };
                self.errors.push(unknown.into());
            }
        });
        if self.graph.symbols.contains_key(name)
            || self.graph.indices.insert(name.into(), extent).is_some()
        {
            self.fail(GraphError::Duplicate { what: "index", name: name.into() });
        }
    }

    /// An index of this extent: the first one declared with it, else a new one named after `hint`.
    pub fn index_of(&mut self, hint: &str, extent: &Dim) -> Name {
        let declared = self.graph.indices.iter().find(|(_, d)| *d == extent);
        if let Some(name) = extent.as_symbol().or(declared.map(|(name, _)| name)) {
            return name.clone();
        }
        self.fresh_index(hint, extent)
    }

    /// A new index of this extent, named after `hint`.
    pub fn fresh_index(&mut self, hint: &str, extent: &Dim) -> Name {
        let taken =
            |n: &str| self.graph.indices.contains_key(n) || self.graph.symbols.contains_key(n);
        let mut name = hint.to_string();
        for i in 1u64.. {
            if !taken(&name) {
                break;
            }
            name = format!("{hint}{i}");
        }
        let name: Name = name.into();
        self.graph.indices.insert(name.clone(), extent.clone());
        name
    }

    /// A parameter that changes with every call.
    pub fn input<I: AsRef<str>>(
        &mut self,
        name: &str,
        encoding: impl Into<Encoding>,
        indices: &[I],
    ) -> ValueId {
        self.param(name, ParamKind::Input, Type::new(encoding, indices))
    }

    /// A parameter that is a constant of the model.
    pub fn weight<I: AsRef<str>>(
        &mut self,
        name: &str,
        encoding: impl Into<Encoding>,
        indices: &[I],
    ) -> ValueId {
        self.param(name, ParamKind::Weight, Type::new(encoding, indices))
    }

    /// A parameter that holds what was kept of the past, rows along its first index (by custom
    /// `u`, of extent `t - s`).
    pub fn state<I: AsRef<str>>(
        &mut self,
        name: &str,
        encoding: impl Into<Encoding>,
        indices: &[I],
    ) -> ValueId {
        self.param(name, ParamKind::State, Type::new(encoding, indices))
    }

    /// A parameter of any kind.
    pub fn param(&mut self, name: &str, kind: ParamKind, ty: Type) -> ValueId {
        if let Err(e) = ty.check(&self.graph) {
            self.fail(e);
        }
        let position = self.graph.params.len() as u32;
        let id = self.define(name.into(), ty, Def::Param(position, kind));
        self.graph.params.push(id);
        id
    }

    /// Applies an op. `declared` states the results, where the op asks for it or as a check.
    ///
    /// Errors: whatever [`NodeView::check`] finds; nothing is added then.
    pub fn node(
        &mut self,
        op: OpRef,
        operands: &[ValueId],
        mask: Option<ValueId>,
        attrs: Attrs,
        declared: Option<&[Type]>,
    ) -> Result<Vec<ValueId>, IrError> {
        let (operands, mut attrs) = canonical(operands, attrs);
        for attr in &mut attrs.0 {
            if let Attr::Dim(dim) = attr {
                *dim = self.resolved(dim);
            }
        }
        for id in operands.iter().chain(&mask) {
            if id.0 as usize >= self.graph.values.len() {
                return Err(GraphError::Dangling { what: "value", index: id.0 }.into());
            }
        }
        let types: Vec<Type> = operands.iter().map(|id| self.ty(*id).clone()).collect();
        let view = NodeView {
            schema: op.0.schema(),
            graph: &self.graph,
            operands: &types,
            mask: mask.map(|id| self.graph.ty(id)),
            attrs: &attrs.0,
            declared,
        };
        let results = view.check(op)?;
        let node = NodeId(self.graph.nodes.len() as u32);
        let define = |(i, ty)| {
            let name = self.fresh_name();
            self.define(name, ty, Def::Node(node, i as u32))
        };
        let results: Vec<ValueId> = results.into_iter().enumerate().map(define).collect();
        let operands = operands.into_iter().chain(mask).collect();
        let masked = mask.is_some();
        self.graph.nodes.push(Node { op, operands, masked, attrs, results: results.clone() });
        Ok(results)
    }

    /// A value that stands for the result of a node that could not be made, so that what uses it is
    /// checked all the same. The graph is never given out then: the caller has an error.
    pub(super) fn stand_in(&mut self, name: Name, ty: Type) -> ValueId {
        self.define(name, ty, Def::Node(NodeId(u32::MAX), 0))
    }

    /// Takes the errors of declarations so far.
    pub(super) fn take_errors(&mut self) -> Vec<IrError> {
        std::mem::take(&mut self.errors)
    }

    /// [`GraphBuilder::node`] for an op of one result.
    pub fn node1(
        &mut self,
        op: OpRef,
        operands: &[ValueId],
        mask: Option<ValueId>,
        attrs: Attrs,
        declared: Option<Type>,
    ) -> Result<ValueId, IrError> {
        let declared = declared.as_ref().map(std::slice::from_ref);
        Ok(self.node(op, operands, mask, attrs, declared)?[0])
    }

    /// Gives a value a name for the text form; it keeps its number as a suffix where the name is
    /// taken. Returns the value.
    pub fn label(&mut self, value: ValueId, name: &str) -> ValueId {
        if &*self.graph.value(value).name == name {
            return value;
        }
        self.check_name("value", name);
        let name = match self.names.contains(name) {
            false => Name::from(name),
            true => format!("{name}.{}", value.0).into(),
        };
        self.names.insert(name.clone());
        let old = std::mem::replace(&mut self.graph.values[value.0 as usize].name, name);
        self.names.remove(&old);
        value
    }

    /// Gives a value exactly this name, or records E0105.
    pub fn rename_value(&mut self, value: ValueId, name: &str) {
        if &*self.graph.value(value).name == name {
            return;
        }
        if self.names.contains(name) {
            return self.fail(GraphError::Duplicate { what: "value", name: name.into() });
        }
        self.label(value, name);
    }

    /// Adds a value to what the block returns.
    pub fn output(&mut self, value: ValueId) {
        if value.0 as usize >= self.graph.values.len() {
            return self.fail(GraphError::Dangling { what: "value", index: value.0 });
        }
        self.graph.outputs.push(value);
    }

    /// The graph, or everything that was wrong with its declarations.
    pub fn finish(self) -> Result<Graph, Vec<IrError>> {
        if self.errors.is_empty() { Ok(self.graph) } else { Err(self.errors) }
    }

    /// A dim with names of indices replaced by their extents, where both are small: each level of
    /// names could square the size, and a text may have many.
    fn resolved(&self, dim: &Dim) -> Dim {
        if !is_small(dim) {
            return dim.clone();
        }
        dim.substitute(&|n| self.graph.indices.get(n).filter(|d| is_small(d)).cloned())
    }

    fn check_name(&mut self, what: &'static str, name: &str) {
        if !is_name(name) {
            self.fail(GraphError::BadName { what, name: name.into() });
        }
    }

    fn check_word(&mut self, what: &'static str, name: &str) {
        if !is_name(name) || name.starts_with(|c: char| c.is_ascii_digit()) {
            self.fail(GraphError::BadName { what, name: name.into() });
        }
    }

    fn fail(&mut self, error: GraphError) {
        self.errors.push(error.into());
    }

    fn fresh_name(&mut self) -> Name {
        loop {
            let name: Name = self.next_name.to_string().into();
            self.next_name += 1;
            if !self.names.contains(&name) {
                return name;
            }
        }
    }

    fn define(&mut self, name: Name, ty: Type, def: Def) -> ValueId {
        self.check_name("value", &name);
        if !self.names.insert(name.clone()) {
            self.fail(GraphError::Duplicate { what: "value", name: name.clone() });
        }
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name, ty, def });
        id
    }
}

/// Whether a name is one that the text form reads back after `%` or `@`.
pub(super) fn is_name(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    name.split('.').all(part)
}

fn is_small(dim: &Dim) -> bool {
    dim.terms().count() <= 8 && dim.terms().all(|(atoms, _)| atoms.len() <= 4)
}

/// Where an expression names the operands: each once, in the order of the text.
fn canonical(operands: &[ValueId], mut attrs: Attrs) -> (Vec<ValueId>, Attrs) {
    let mut used: Vec<ValueId> = vec![];
    for attr in &mut attrs.0 {
        let Attr::Expr(expr) = attr else { continue };
        if expr.arity() > operands.len() {
            break;
        }
        *expr = expr.renumber(&mut |i| {
            used.iter().position(|u| *u == operands[i]).unwrap_or_else(|| {
                used.push(operands[i]);
                used.len() - 1
            })
        });
        return (used, attrs);
    }
    (operands.to_vec(), attrs)
}
