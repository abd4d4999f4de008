//! Every check of graphs and programs, all errors at once.
//!
//! A graph: names can be read back and are unique; symbols are within bounds; every index of a
//! value has an extent; operands are defined before their use; each node agrees with its op's
//! rule; each state is appended to at most once. A program: names are unique; weights lie within
//! their stored tensors; each call has arguments of the kinds, encodings and extents that its
//! block takes, given at or before it; no two blocks are equal but for their names.

mod program;
pub mod reach;

use super::builder::is_name;
use super::error::GraphError;
use super::{Def, Graph, Node, ParamKind, ValueId};
use crate::dim::Name;
use crate::error::IrError;
use crate::op::NodeView;
use std::collections::HashSet;

impl Graph {
    /// Everything wrong with a graph that was not made by a [`GraphBuilder`](super::builder) or
    /// the parser.
    pub fn verify(&self) -> Result<(), Vec<IrError>> {
        let mut errors: Vec<GraphError> = vec![];
        self.verify_names(&mut errors);
        self.verify_symbols(&mut errors);
        let mut defined = vec![false; self.values.len()];
        for (i, id) in self.params.iter().enumerate() {
            self.define(
                *id,
                |def| matches!(def, Def::Param(at, _) if at as usize == i),
                &mut defined,
            )
            .unwrap_or_else(|e| errors.push(e));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            match node.operands.iter().find(|id| !defined.get(id.0 as usize).unwrap_or(&false)) {
                Some(id) => errors.push(self.undefined(*id)),
                None => self.verify_node(node).unwrap_or_else(|e| errors.push(e)),
            }
            for (r, id) in node.results.iter().enumerate() {
                let here =
                    |def| matches!(def, Def::Node(n, at) if n.0 as usize == i && at as usize == r);
                self.define(*id, here, &mut defined).unwrap_or_else(|e| errors.push(e));
            }
        }
        let outputs =
            self.outputs.iter().filter(|id| !defined.get(id.0 as usize).unwrap_or(&false));
        errors.extend(outputs.map(|id| self.undefined(*id)));
        self.verify_appends(&mut errors);
        match errors.is_empty() {
            true => Ok(()),
            false => Err(errors.into_iter().map(IrError::from).collect()),
        }
    }

    fn verify_names(&self, errors: &mut Vec<GraphError>) {
        let mut seen: HashSet<&Name> = HashSet::new();
        for name in self.values.iter().map(|v| &v.name) {
            if !seen.insert(name) {
                errors.push(GraphError::Duplicate { what: "value", name: name.clone() });
            }
        }
        let values = self.values.iter().map(|v| ("value", &v.name));
        let symbols = self.symbols.keys().map(|n| ("symbol", n));
        let indices = self.indices.keys().map(|n| ("index", n));
        let all = values.chain(symbols).chain(indices).chain([("graph", &self.name)]);
        for (what, name) in all {
            let word = ["symbol", "index"].contains(&what);
            if !is_name(name) || word && name.starts_with(|c: char| c.is_ascii_digit()) {
                errors.push(GraphError::BadName { what, name: name.clone() });
            }
        }
    }

    fn verify_symbols(&self, errors: &mut Vec<GraphError>) {
        for (name, s) in &self.symbols {
            let value = s.value.unwrap_or(s.lo);
            if s.lo < 0 || !(s.lo..=s.hi).contains(&value) {
                let (name, lo, hi) = (name.clone(), s.lo, s.hi);
                errors.push(GraphError::SymbolBounds { name, value, lo, hi });
            }
        }
        for (name, extent) in &self.indices {
            if self.symbols.contains_key(name) {
                errors.push(GraphError::Duplicate { what: "index", name: name.clone() });
            }
            extent.visit_symbols(&mut |s| {
                if !self.symbols.contains_key(s) {
                    errors.push(GraphError::Unknown { what: "symbol", name: s.clone() });
                }
            });
        }
    }

    fn define(
        &self,
        id: ValueId,
        is_here: impl Fn(Def) -> bool,
        defined: &mut [bool],
    ) -> Result<(), GraphError> {
        let at = id.0 as usize;
        let (Some(value), Some(flag)) = (self.values.get(at), defined.get_mut(at)) else {
            return Err(GraphError::Dangling { what: "value", index: id.0 });
        };
        if std::mem::replace(flag, true) {
            return Err(GraphError::Duplicate { what: "value", name: value.name.clone() });
        }
        if !is_here(value.def) {
            return Err(GraphError::Dangling { what: "definition of value", index: id.0 });
        }
        value.ty.check(self)
    }

    fn undefined(&self, id: ValueId) -> GraphError {
        match self.values.get(id.0 as usize) {
            Some(v) => GraphError::Unknown { what: "value", name: v.name.clone() },
            None => GraphError::Dangling { what: "value", index: id.0 },
        }
    }

    fn verify_node(&self, node: &Node) -> Result<(), GraphError> {
        if node.masked && node.operands.is_empty() {
            return Err(GraphError::UnexpectedMask(node.op.name()));
        }
        if let Some(id) = node.results.iter().find(|id| id.0 as usize >= self.values.len()) {
            return Err(GraphError::Dangling { what: "value", index: id.0 });
        }
        self.viewed(node, |view| view.check(node.op).map(|_| ()))
    }

    /// What is asked of an op about one of its nodes.
    fn viewed<T>(&self, node: &Node, ask: impl FnOnce(&NodeView) -> T) -> T {
        let operands = self.types(node.data_operands());
        let declared = self.types(&node.results);
        ask(&NodeView {
            schema: node.op.0.schema(),
            graph: self,
            operands: &operands,
            mask: node.mask().map(|id| self.ty(id)),
            attrs: &node.attrs.0,
            declared: Some(&declared),
        })
    }

    fn verify_appends(&self, errors: &mut Vec<GraphError>) {
        let mut seen = HashSet::new();
        for node in self.nodes.iter().filter(|n| n.op.name() == "append") {
            let Some(id) = node.operands.first() else { continue };
            let Some(value) = self.values.get(id.0 as usize) else { continue };
            let is_state = matches!(value.def, Def::Param(_, ParamKind::State));
            if !is_state || !seen.insert(*id) {
                errors.push(GraphError::Append(value.name.clone()));
            }
        }
    }
}
