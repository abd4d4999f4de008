//! Graph IR: tensors with named indices.
//!
//! A [`Graph`] is one block of a model (embedding, dense layer, expert layer, head) and speaks of
//! one sequence: index `s` runs over its new tokens, `t = past + s` over all of them. A
//! [`Program`](program::Program) calls blocks, binding a layer's weights and states.
//!
//! - [`builder`]: the only way to make a node; applies the op's shape rule
//! - [`mod@print`], [`parse`]: the text form; `parse(print(g)) == g`
//! - [`verify`]: every check, all errors at once
//! - [`bind`], [`bounds`], [`range`]: values of symbols from shapes, what can be said without them,
//!   and which integers values may hold
//! - [`eval`], [`interp`]: the meaning, over f32, f64 or a prime field
//! - [`program`], [`source`], [`sequence`]: blocks, calls, weights, states, entry points; elements
//!   of a weight; the meaning of an entry, step by step
//! - [`error`]: E0102 to E0139

pub mod bind;
pub mod bounds;
pub mod builder;
pub mod error;
pub mod eval;
pub mod interp;
pub mod parse;
pub mod print;
pub mod program;
pub mod range;
pub mod sequence;
pub mod source;
pub mod verify;

use crate::attr::Attrs;
use crate::dim::{Dim, Name, Symbols};
use crate::dtype::{Class, DType, Encoding};
use crate::op::OpRef;
use error::GraphError;
use std::collections::BTreeMap;
use std::fmt;

/// A value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A node of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Encoding and ordered named indices of a value. A name occurs once in a value and has one
/// extent in a graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// How elements are stored; anything but a plain dtype only for weights and `quantize`.
    pub encoding: Encoding,
    /// Indices in order, slowest first.
    pub indices: Vec<Name>,
}

impl Type {
    /// A value stored in an encoding, with these indices.
    pub fn new<I: AsRef<str>>(encoding: impl Into<Encoding>, indices: &[I]) -> Self {
        let indices = indices.iter().map(|i| i.as_ref().into()).collect();
        Type { encoding: encoding.into(), indices }
    }

    /// The element type that ops compute with.
    pub fn dtype(&self) -> DType {
        self.encoding.decoded()
    }

    /// What arithmetic it takes part in.
    pub fn class(&self) -> Class {
        self.dtype().class()
    }

    /// Where an index stands.
    pub fn position(&self, index: &str) -> Option<usize> {
        self.indices.iter().position(|i| &**i == index)
    }

    /// Whether it has an index.
    pub fn has(&self, index: &str) -> bool {
        self.position(index).is_some()
    }

    /// Demands that each index occurs once and has an extent.
    ///
    /// Errors: E0106, E0107.
    pub fn check(&self, graph: &Graph) -> Result<(), GraphError> {
        for (i, index) in self.indices.iter().enumerate() {
            if self.indices[..i].contains(index) {
                return Err(GraphError::RepeatedIndex(index.clone()));
            }
            if !graph.indices.contains_key(index) && !graph.symbols.contains_key(index) {
                return Err(GraphError::NoExtent(index.clone()));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.encoding, self.indices.join(", "))
    }
}

/// What a graph parameter is to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParamKind {
    /// A value that changes with every call.
    Input,
    /// A constant of the model.
    Weight,
    /// What was kept of the past, rows along its first index.
    State,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Def {
    /// The graph's parameter at this position.
    Param(u32, ParamKind),
    /// A result of a node.
    Node(NodeId, u32),
}

/// A typed, named value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in text, unique in the graph.
    pub name: Name,
    /// Encoding and indices.
    pub ty: Type,
    /// Where it comes from.
    pub def: Def,
}

/// An op applied to operands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Which op.
    pub op: OpRef,
    /// Data operands, then the `where` operand if [`Node::masked`].
    pub operands: Vec<ValueId>,
    /// Whether the last operand is a `where` mask.
    pub masked: bool,
    /// Attributes in the schema's order.
    pub attrs: Attrs,
    /// Results, in order.
    pub results: Vec<ValueId>,
}

/// One block: a pure function of inputs, weights and states. Nodes are in definition order, which
/// is topological.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Name of the block.
    pub name: Name,
    /// Shape parameters and step symbols, with bounds and bindings.
    pub symbols: Symbols,
    /// Extent of every index whose extent is not the symbol of the same name.
    pub indices: BTreeMap<Name, Dim>,
    /// Signature, in order.
    pub params: Vec<ValueId>,
    /// All values.
    pub values: Vec<Value>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// What the block returns.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// A graph without anything.
    pub fn new(name: &str) -> Self {
        Graph {
            name: name.into(),
            symbols: Symbols::new(),
            indices: BTreeMap::new(),
            params: vec![],
            values: vec![],
            nodes: vec![],
            outputs: vec![],
        }
    }

    /// Type of a value.
    pub fn ty(&self, id: ValueId) -> &Type {
        &self.value(id).ty
    }

    /// What the parameter at a position is to the caller.
    pub fn param_kind(&self, position: usize) -> ParamKind {
        match self.value(self.params[position]).def {
            Def::Param(_, kind) => kind,
            Def::Node(..) => ParamKind::Input,
        }
    }

    /// A value of this graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A node of this graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Extent of a named index.
    pub fn extent(&self, index: &str) -> Dim {
        self.indices.get(index).cloned().unwrap_or_else(|| Dim::symbol(index))
    }

    /// Extents of a type's indices, in order.
    pub fn extents(&self, ty: &Type) -> Vec<Dim> {
        ty.indices.iter().map(|i| self.extent(i)).collect()
    }
}
