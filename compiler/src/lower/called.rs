//! Where the values of a call's block lie while a plan's bucket runs: what a tool needs to read them
//! out of memory. It is no part of the plan.

use crate::lower::partition::{context_index, is_over_context, row_index};
use crate::lower::plan::step_dims;
use artifact::plan::Arg;
use ir::dim::{Dim, Name};
use ir::dtype::Encoding;
use ir::graph::{Graph, ValueId};
use std::ops::Range;

/// A call of the entry, as a bucket runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// Positions of its launches among those of the bucket.
    pub launches: Range<usize>,
    /// Its block's values that are in memory, in each way that they are stored.
    pub values: Vec<Held>,
}

/// A value of a block in memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Its name in the block.
    pub name: Name,
    /// Position among the block's parameters, of one that a call gives.
    pub param: Option<usize>,
    /// Its indices as they lie, rows of the step first.
    pub indices: Vec<Name>,
    /// Their extents, over the plan's step symbols.
    pub dims: Vec<Dim>,
    /// How it is stored.
    pub encoding: Encoding,
    /// Where.
    pub arg: Arg,
}

impl Held {
    /// A value at its places, if it has rows of the step; without an encoding, stored as its type
    /// says.
    pub(super) fn of(
        graph: &Graph,
        value: ValueId,
        places: Vec<(Option<Encoding>, Arg)>,
        page: u32,
    ) -> Vec<Held> {
        let Some(rows) = row_index(graph, value) else { return vec![] };
        let own = graph.ty(value).indices.iter().filter(|i| *i != rows);
        let held = |(encoding, arg): (Option<Encoding>, Arg)| Held {
            name: graph.value(value).name.clone(),
            param: graph.params.iter().position(|p| *p == value),
            indices: std::iter::once(rows).chain(own.clone()).cloned().collect(),
            dims: stored_dims(graph, value, page),
            encoding: encoding.unwrap_or(graph.ty(value).dtype().into()),
            arg,
        };
        places.into_iter().map(held).collect()
    }
}

/// How a value lies in memory: the rows first, or sequences and positions of whole pages, in the
/// runtime's symbols.
pub(super) fn stored_dims(graph: &Graph, value: ValueId, page: u32) -> Vec<Dim> {
    let over = row_index(graph, value).or(context_index(graph, value));
    let rows = match over.filter(|_| is_over_context(graph, value)) {
        Some(_) => vec![Dim::symbol("b"), Dim::symbol("mp").times(&i64::from(page).into())],
        None => over.into_iter().map(|i| graph.extent(i)).collect(),
    };
    let own = graph.ty(value).indices.iter().filter(|i| Some(*i) != over);
    let own = own.map(|i| graph.extent(i).bind(&graph.symbols));
    step_dims(&rows.into_iter().chain(own).collect::<Vec<Dim>>())
}
