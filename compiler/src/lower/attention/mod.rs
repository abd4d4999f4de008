//! Generators of attention over paged states: online softmax, one pass over the context.
//!
//! - [`kernel`]: the passes, of the whole context or of parts of it
//! - [`join`]: what the passes over a context's parts come to together
//! - [`lists`]: which rows and positions each instance works on
//! - [`form`]: from what was found in a graph to a shape

pub mod form;
pub mod join;
pub mod kernel;
pub mod lists;

use crate::lower::attention::lists::ContextParts;
use crate::lower::precision::Operand;
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::{DType, Encoding};
use ir::kernel::builder::{At, KernelBuilder};
use ir::kernel::{ParamId, ValueId};

/// What an axis of an operand or a result is to an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// The head index at this position of [`Attention::heads`].
    Head(usize),
    /// The index at this position of those that a product sums, or that a result has of its own.
    Column(usize),
}

/// An axis in memory, and which of its positions take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Positions in memory.
    pub stored: i64,
    /// The first that takes part.
    pub start: i64,
    /// How many take part.
    pub seen: i64,
    /// What it is.
    pub axis: Axis,
}

/// How the rows over a context are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In pages of a state, through the page table.
    Pages,
    /// By sequence and position.
    Positions,
}

/// Memory with a row for each position of a context.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// How a row is found.
    pub place: Place,
    /// How it is stored.
    pub encoding: Encoding,
    /// Extents of a row.
    pub row: Vec<i64>,
    /// What its codes become where it has scales.
    pub decoded: DType,
}

impl Memory {
    /// A tile of rows. Codes with scales become numbers once, for all products that read them.
    pub fn load(&self, b: &mut KernelBuilder, from: ParamId, coords: &[At]) -> ValueId {
        let rows = b.load(from, coords);
        if self.encoding.is_plain() { rows } else { b.cast(rows, self.decoded) }
    }
}

/// Rows over a context, as a product reads them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Position among [`Attention::memories`].
    pub memory: usize,
    /// Axes of a row, in memory's order.
    pub axes: Vec<Extent>,
}

/// `scale · Σ query · key`, which scores are a sum of.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Multiplies the product.
    pub scale: f64,
    /// How queries are stored.
    pub q: Encoding,
    /// Axes of a row of queries, in memory's order.
    pub query: Vec<Extent>,
    /// Rows of keys.
    pub rows: Rows,
}

/// What is averaged.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Rows of values.
    pub rows: Rows,
    /// Axes of a row of the result, in memory's order.
    pub result: Vec<Extent>,
    /// How results are stored, one output for each.
    pub outs: Vec<Encoding>,
}

/// A head index of the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many heads.
    pub extent: i64,
    /// How many of them are rows of one tile, where keys and values are the same for all; else
    /// each is an instance's own.
    pub tile: Option<u32>,
}

impl Head {
    /// Instances that divide the heads.
    pub fn instances(self) -> i64 {
        let each = self.tile.map_or(1, i64::from);
        (self.extent + each - 1) / each
    }
}

/// `o[i, h, d] = Σ_t softmax_t(Σ_p scale_p · q_p[i, h, c] · k_p[t, h, c]) · v[t, h, d]`, row `i` at
/// position `p` seeing `t <= p`. Every operand may lack head indices.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Greatest number of rows of a step, and of positions of a sequence.
    pub limits: (i64, i64),
    /// Head indices of the scores, in order.
    pub heads: Vec<Head>,
    /// Where rows over the context are.
    pub memories: Vec<Memory>,
    /// What scores are the sum of; at least one.
    pub keys: Vec<Key>,
    /// What is averaged; at least one.
    pub values: Vec<Value>,
    /// How queries and probabilities enter their products.
    pub left: Operand,
    /// Rows of a page.
    pub page: u32,
    /// Rows of an instance.
    pub rows: u32,
    /// How the context is divided.
    pub division: Division,
}

/// How a context is divided into parts, each with a maximum of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// It is not: one pass over all of it.
    Whole,
    /// Each part is an instance's, and another kernel joins them.
    Instances(ContextParts),
    /// An instance takes parts of so many positions in turn, and joins each to those before, as
    /// that kernel would.
    Turns(u32),
}

impl Attention {
    /// Heads that are rows of one tile.
    pub fn tile_heads(&self) -> u32 {
        self.heads.iter().filter_map(|h| h.tile).product()
    }

    /// Instances that divide the heads.
    pub fn head_instances(&self) -> i64 {
        self.heads.iter().map(|h| h.instances()).product()
    }

    /// All heads of a row.
    pub fn all_heads(&self) -> i64 {
        self.heads.iter().map(|h| h.extent).product()
    }

    /// Rows of a tile.
    pub fn tile_rows(&self) -> u32 {
        self.rows * self.tile_heads()
    }

    /// Columns of a value.
    pub fn width(&self, value: &Value) -> u32 {
        columns(&value.result).iter().product()
    }

    /// Declares the step symbols that kernels speak of; the number of rows.
    fn symbols(&self, b: &mut KernelBuilder) -> Dim {
        b.family_param("heads", Attr::Dim(self.all_heads().into()));
        b.symbol("b", 0, self.limits.0);
        b.symbol("mp", 0, self.limits.1);
        b.symbol("pg", 0, i64::from(i32::MAX));
        b.symbol("n", 0, self.limits.0)
    }

    /// Axes of the grid that divide the heads; where each head's coordinate begins.
    fn grid(&self, b: &mut KernelBuilder) -> Vec<Option<ValueId>> {
        let mut of = |i: usize, head: &Head| match head.tile {
            Some(tile) if i64::from(tile) >= head.extent => None,
            tile => Some(b.grid_range(&format!("h{i}"), head.extent, tile.unwrap_or(1))),
        };
        self.heads.iter().enumerate().map(|(i, head)| of(i, head)).collect()
    }
}

/// Coordinates of one instance's heads, by position.
struct Heads<'a> {
    heads: &'a [Head],
    begin: Vec<Option<ValueId>>,
}

impl Heads<'_> {
    /// The instance's own part of an axis.
    fn at(&self, b: &mut KernelBuilder, extent: &Extent) -> At {
        let Axis::Head(i) = extent.axis else {
            return At::tile(extent.start, extent.seen as u32);
        };
        let head = self.heads[i];
        let begin = |b: &mut KernelBuilder, begin: ValueId| match extent.start {
            0 => begin,
            start => b.map(&format!("h + {start}"), &[("h", begin)]),
        };
        match (head.tile, self.begin[i]) {
            (None, Some(h)) => At::one(begin(b, h)),
            (None, None) => At::one(extent.start),
            (Some(tile), None) => At::tile(extent.start, tile),
            (Some(tile), Some(h)) => {
                let at = At::tile(begin(b, h), tile);
                let whole = head.extent % i64::from(tile) == 0;
                if whole { at } else { at.bound(extent.start + head.extent) }
            }
        }
    }
}

/// Extents of the columns of a row, in order.
fn columns(axes: &[Extent]) -> Vec<u32> {
    let mut columns: Vec<(usize, u32)> = vec![];
    for extent in axes {
        if let Axis::Column(i) = extent.axis {
            columns.push((i, extent.seen as u32));
        }
    }
    columns.sort_unstable();
    columns.into_iter().map(|(_, seen)| seen).collect()
}
