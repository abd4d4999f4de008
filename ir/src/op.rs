//! What an op is: one file in [`ops`](crate::ops), one line in its list.

use crate::attr::{Attr, AttrSpec};
use crate::dim::{Dim, Name};
use crate::graph::{Graph, Type, ValueId};
use std::fmt;

/// Names and attributes of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Name in text, equal to the file's.
    pub name: &'static str,
    /// One line for the table of ops.
    pub summary: &'static str,
    /// Names of the data operands; a last name ending in `..` stands for one or more.
    pub operands: &'static [&'static str],
    /// Whether a bool `where` operand may follow.
    pub mask: bool,
    /// Attributes, in order.
    pub attrs: &'static [AttrSpec],
    /// Number of results.
    pub results: usize,
}

/// Work of one application: counts, no time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: Dim,
    /// Bytes read once each.
    pub bytes_read: Dim,
    /// Bytes written.
    pub bytes_written: Dim,
}

/// How far two evaluations in finite precision may be apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// To the bit.
    Exact,
    /// `|a - b| <= ulps * eps * (|a| + scale)`, eps that of the arithmetic.
    Ulps(f64),
    /// Of sums of this many products: `c * eps * sqrt(k)` relative to the norm.
    Sum(f64),
}

/// Whatever an op needs to know of a node: operand types, attributes, the result's indices where
/// the text or the builder states them.
pub struct NodeView<'a> {
    /// The graph, for extents.
    pub graph: &'a Graph,
    /// Types of the data operands.
    pub operands: &'a [Type],
    /// Type of the mask.
    pub mask: Option<&'a Type>,
    /// Attributes in schema order.
    pub attrs: &'a [Attr],
    /// Results as declared: part of the meaning of `contract`, `map` and `reduce`, a check for
    /// the others.
    pub declared: Option<&'a [Type]>,
}

/// Reference to a listed op; compared by name.
#[derive(Clone, Copy)]
pub struct OpRef(pub &'static dyn OpDef);

impl PartialEq for OpRef {
    fn eq(&self, other: &Self) -> bool {
        self.0.schema().name == other.0.schema().name
    }
}

impl fmt::Debug for OpRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.schema().name)
    }
}

/// Placeholder for names used by implementations.
pub type Indices = Vec<Name>;

/// Everything about an op. Contract in progress: see the graph module's owner.
pub trait OpDef: Sync {
    /// Names and attributes.
    fn schema(&self) -> &'static Schema;
}

/// A value of the graph an op is applied in.
pub type Operand = ValueId;
