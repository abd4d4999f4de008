//! A model: blocks, and in which order to call them with which weights and states.

use super::Graph;
use crate::dim::{Dim, Name, Symbols};
use crate::dtype::{DType, Encoding};

/// A model as a short program over blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Name of the model.
    pub name: Name,
    /// Step symbols of the entries (`s`, `t`, `m`), with bounds.
    pub symbols: Symbols,
    /// Each distinct block (graph, dims, encodings) once.
    pub blocks: Vec<Graph>,
    /// Constants of the model.
    pub weights: Vec<Weight>,
    /// What is kept of a sequence between steps.
    pub states: Vec<State>,
    /// What can be asked of the model: `forward`, `draft`.
    pub entries: Vec<Entry>,
}

/// A constant of the model, as a block's parameter sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Unique in the program.
    pub name: Name,
    /// How it is stored in the checkpoint.
    pub encoding: Encoding,
    /// Logical extents, in the order of the block's indices.
    pub dims: Vec<i64>,
    /// Where its elements are.
    pub source: Source,
}

/// Where a weight's elements lie in the checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// One stored tensor; or, when `stacked`, one for each index of the first logical axis.
    pub tensors: Vec<Name>,
    /// The stored tensors of scales, one for each of `tensors`; empty for plain encodings.
    pub scales: Vec<Name>,
    /// Whether the first logical axis runs over `tensors` (experts).
    pub stacked: bool,
    /// Extents of each stored tensor, in elements, slowest first.
    pub stored_dims: Vec<i64>,
    /// Which stored element a logical one is.
    pub view: View,
}

/// A strided view: element `i` of the logical axes (without a stacked one) is the stored element
/// `offset + sum of i[k] * strides[k]`, counted in row-major order. The block scale of an element
/// follows from the row and column this position has in the stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Stored elements before the first.
    pub offset: i64,
    /// Stored elements from one to the next, for each logical axis that is not stacked.
    pub strides: Vec<i64>,
}

impl View {
    /// The stored tensor as it is, or with its axes cut further: row-major over `dims`.
    pub fn dense(dims: &[i64]) -> View {
        let mut strides = vec![1i64; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(dims[i]);
        }
        View { offset: 0, strides }
    }
}

impl Weight {
    /// A weight that is one stored tensor as it is.
    pub fn whole(name: &str, tensor: &str, encoding: impl Into<Encoding>, dims: &[i64]) -> Weight {
        let source = Source {
            tensors: vec![tensor.into()],
            scales: vec![],
            stacked: false,
            stored_dims: dims.to_vec(),
            view: View::dense(dims),
        };
        Weight { name: name.into(), encoding: encoding.into(), dims: dims.to_vec(), source }
    }
}

/// How a state lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StateKind {
    /// Rows are appended and truncated.
    Rows,
    /// Rows are appended; only the last `window + slack` are kept.
    Ring {
        /// Rows that are read.
        window: i64,
        /// Rows kept beyond, for what may be taken back.
        slack: i64,
    },
    /// One value, replaced at every step.
    Carry,
}

/// What is kept of a sequence between steps.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Unique in the program.
    pub name: Name,
    /// How it lives.
    pub kind: StateKind,
    /// How it is stored.
    pub encoding: Encoding,
    /// Extents of one token's row.
    pub dims: Vec<i64>,
    /// How many of these there are; a call names one by number.
    pub layers: u32,
}

/// Something that can be asked of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Unique in the program.
    pub name: Name,
    /// What the caller gives.
    pub inputs: Vec<Input>,
    /// In order.
    pub calls: Vec<Call>,
    /// Names of inputs or results that are returned.
    pub outputs: Vec<Name>,
}

/// What the caller of an entry gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// Unique among the entry's values.
    pub name: Name,
    /// Element type.
    pub dtype: DType,
    /// Extents over the program's symbols.
    pub dims: Vec<Dim>,
}

/// A block applied to values, weights and states.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Name of the block.
    pub block: Name,
    /// One for each of the block's parameters.
    pub args: Vec<Arg>,
    /// Names given to the block's outputs; unique among the entry's values.
    pub results: Vec<Name>,
    /// Where it runs: a name that placement binds to a device.
    pub place: Name,
}

/// What is passed for a parameter. A state that the block appends to is longer after the call.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// An input of the entry or a result of an earlier call.
    Value(Name),
    /// A weight of the program.
    Weight(Name),
    /// One layer of a state.
    State {
        /// Name of the state.
        state: Name,
        /// Which of its layers.
        layer: u32,
    },
}

impl Program {
    /// The block of a name.
    pub fn block(&self, name: &str) -> Option<&Graph> {
        self.blocks.iter().find(|b| &*b.name == name)
    }

    /// The weight of a name.
    pub fn weight(&self, name: &str) -> Option<&Weight> {
        self.weights.iter().find(|w| &*w.name == name)
    }

    /// The state of a name.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.states.iter().find(|s| &*s.name == name)
    }

    /// The entry of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| &*e.name == name)
    }

    /// Adds a block, or finds the one that is equal but for its name. Returns the name to call.
    pub fn add_block(&mut self, block: Graph) -> Name {
        let same = |b: &&Graph| block.equals_but_name(b);
        if let Some(known) = self.blocks.iter().find(same) {
            return known.name.clone();
        }
        let name = block.name.clone();
        self.blocks.push(block);
        name
    }
}

impl Graph {
    /// Whether two graphs differ in nothing but their own name.
    pub fn equals_but_name(&self, other: &Graph) -> bool {
        self.symbols == other.symbols
            && self.indices == other.indices
            && self.params == other.params
            && self.values == other.values
            && self.nodes == other.nodes
            && self.outputs == other.outputs
    }
}
