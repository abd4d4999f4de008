//! Results of attention: stored at once, or joined from what parts of a context come to.

use crate::lower::attention::lists::{ContextParts, StepList, part_count};
use crate::lower::attention::{Attention, Axis, Extent, Head, Heads, Value, columns};
use crate::lower::contraction::store_all;
use ir::dim::Dim;
use ir::dtype::{DType, Encoding};
use ir::kernel::builder::{At, KernelBuilder, tensor};
use ir::kernel::{LoopHints, ParamId, Role, TileType, ValueId};

/// Outputs of one value, and how each is stored.
pub type Outs = Vec<(ParamId, Encoding)>;

/// Declares the outputs of each value.
pub fn results(b: &mut KernelBuilder, a: &Attention, n: &Dim) -> Vec<Outs> {
    let mut results = vec![];
    for (i, value) in a.values.iter().enumerate() {
        let row = value.result.iter().map(|e| Dim::constant(e.stored));
        let dims: Vec<Dim> = [n.clone()].into_iter().chain(row).collect();
        let mut outs = vec![];
        for (j, stored) in value.outs.iter().enumerate() {
            outs.push((b.param(&format!("o{i}_{j}"), Role::Out, tensor(*stored, &dims)), *stored));
        }
        results.push(outs);
    }
    results
}

/// Extents of what parts come to, all f32: for each row, part and head the maximum of the scores
/// and the sum of exponentials, and for each value the sums.
pub fn partial_dims(a: &Attention, parts: ContextParts) -> Vec<Vec<Dim>> {
    let mut each = vec![Dim::symbol("n"), i64::from(parts.most).into()];
    each.extend(a.heads.iter().map(|h| Dim::constant(h.extent)));
    let mut all = vec![each.clone(); 2];
    for value in &a.values {
        all.push([each.as_slice(), &[i64::from(a.width(value)).into()]].concat());
    }
    all
}

/// Declares what parts come to.
pub fn partials(
    b: &mut KernelBuilder,
    a: &Attention,
    parts: ContextParts,
    role: Role,
) -> Vec<Outs> {
    let all = partial_dims(a, parts).into_iter().enumerate();
    all.map(|(i, dims)| {
        vec![(b.param(&format!("p{i}"), role, tensor(DType::F32, &dims)), DType::F32.into())]
    })
    .collect()
}

/// Where the head indices of partial results lie: all of them, in order.
fn head_axes(heads: &[Head]) -> Vec<Extent> {
    let whole = |(i, h): (usize, &Head)| {
        let axis = Axis::Head(i);
        Extent { stored: h.extent, start: 0, seen: h.extent, axis }
    };
    heads.iter().enumerate().map(whole).collect()
}

/// Extents of an instance's rows and tile heads.
fn tile_extents(heads: &[Head], rows: u32) -> Vec<u32> {
    [rows].into_iter().chain(heads.iter().filter_map(|h| h.tile)).collect()
}

/// Writes what one part of a context came to: `ends` are the maximum, the sum of exponentials and
/// the sums of each value, by rows and tile heads.
pub(super) fn store_partials(
    b: &mut KernelBuilder,
    heads: &Heads<'_>,
    outs: &[Outs],
    [block, part]: [&At; 2],
    ends: &[ValueId],
) {
    let mut to = vec![block.clone(), part.clone()];
    for extent in head_axes(heads.heads) {
        let at = heads.at(b, &extent);
        to.push(at);
    }
    let rows = block.extent.unwrap_or(1);
    let extents = tile_extents(heads.heads, rows);
    for (end, outs) in ends.iter().zip(outs) {
        let mut to = to.clone();
        if let [_, width] = b.ty(*end).shape[..] {
            to.push(At::tile(0, width));
        }
        let tile = if extents.len() > 1 { b.split(*end, 0, &extents) } else { *end };
        store_all(b, tile, outs, &to);
    }
}

/// Where an instance's part of a result goes.
pub(super) struct ResultAt<'a> {
    /// The result.
    pub value: &'a Value,
    /// The instance's heads.
    pub heads: &'a Heads<'a>,
    /// The instance's rows.
    pub block: &'a At,
}

impl ResultAt<'_> {
    /// Writes a tile of rows and tile heads by columns.
    pub fn store(&self, b: &mut KernelBuilder, a: &Attention, tile: ValueId, outs: &Outs) {
        let rows = self.block.extent.unwrap_or(1);
        let heads = tile_extents(self.heads.heads, rows);
        let widths = columns(&self.value.result);
        let mut tile = tile;
        if widths.len() > 1 {
            tile = b.split(tile, 1, &widths);
        }
        if heads.len() > 1 {
            tile = b.split(tile, 0, &heads);
        }
        // Rows, tile heads and columns, in the order of the result.
        let tiled: Vec<usize> = (0..a.heads.len()).filter(|i| a.heads[*i].tile.is_some()).collect();
        let place = |axis: &Axis| match axis {
            Axis::Head(i) => tiled.iter().position(|t| t == i).map(|at| 1 + at),
            Axis::Column(i) => Some(1 + tiled.len() + i),
        };
        let axes = self.value.result.iter().filter_map(|e| place(&e.axis));
        let order: Vec<u32> = [0].into_iter().chain(axes).map(|i| i as u32).collect();
        if widths.is_empty() {
            let shape = b.ty(tile).shape.clone();
            tile = b.merge(tile, shape.len() as u32 - 2, 2);
        }
        if !order.is_sorted() {
            tile = b.transpose(tile, &order);
        }
        let mut to = vec![self.block.clone()];
        for extent in &self.value.result {
            let at = self.heads.at(b, extent);
            to.push(at);
        }
        store_all(b, tile, outs, &to);
    }
}

/// What no positions come to, for so many rows: the maximum, the sum of exponentials, the sums of
/// each value.
pub(super) fn nothing(
    b: &mut KernelBuilder,
    a: &Attention,
    rows: u32,
) -> Vec<(&'static str, ValueId)> {
    let f32 = |shape: &[u32]| TileType::new(DType::F32, shape);
    let most = b.splat(f64::from(f32::MIN), f32(&[rows]));
    let total = b.splat(0.0, f32(&[rows]));
    let mut all = vec![("most", most), ("total", total)];
    for value in &a.values {
        all.push(("sum", b.splat(0.0, f32(&[rows, a.width(value)]))));
    }
    all
}

/// What a part of a context comes to together with those before it.
pub(super) fn joined_to(
    b: &mut KernelBuilder,
    before: &[ValueId],
    here: &[ValueId],
) -> Vec<ValueId> {
    let most = b.map("max(a, b)", &[("a", before[0]), ("b", here[0])]);
    let fade = b.map("exp2(a - b)", &[("a", before[0]), ("b", most)]);
    let grow = b.map("exp2(a - b)", &[("a", here[0]), ("b", most)]);
    let mut next = vec![most];
    for (before, here) in before[1..].iter().zip(&here[1..]) {
        let operands = [("a", *before), ("f", fade), ("x", *here), ("g", grow)];
        next.push(b.map("a * f + x * g", &operands));
    }
    next
}

/// The kernel that joins parts of contexts. Parameters: the row blocks, what parts came to as
/// [`partial_dims`] says, then the outputs of each value.
pub fn kernel(a: &Attention, parts: ContextParts) -> KernelBuilder {
    let mut b = KernelBuilder::new("attention_join", "attention_join");
    let n = a.symbols(&mut b);
    let list = b.param("blocks", Role::In, StepList::Rows(parts.rows).param());
    let partials = partials(&mut b, a, parts, Role::In);
    let outs = results(&mut b, a, &n);
    // Each head by itself: few bytes each.
    let alone: Vec<Head> = a.heads.iter().map(|h| Head { tile: None, ..*h }).collect();
    let joined = Attention { heads: alone, ..a.clone() };
    let heads = Heads { heads: &joined.heads, begin: joined.grid(&mut b) };
    let fields = b.grid_list(list);
    let block = At::tile(fields[1], parts.rows).bound(fields[2]);
    let count = part_count(&mut b, parts, fields[3]);
    let carry = nothing(&mut b, a, parts.rows);
    let own: Vec<At> = head_axes(heads.heads).iter().map(|e| heads.at(&mut b, e)).collect();
    let hints = LoopHints::default();
    let ends = b.for_loop(0, count, 1, &carry, hints, |b, part, carried| {
        let coords = [&[block.clone(), At::one(part)], own.as_slice()].concat();
        let mut here = vec![];
        for (outs, so_far) in partials.iter().zip(carried) {
            let mut coords = coords.clone();
            if let [_, width] = b.ty(*so_far).shape[..] {
                coords.push(At::tile(0, width));
            }
            here.push(b.load(outs[0].0, &coords));
        }
        joined_to(b, carried, &here)
    });
    for (value, (sum, outs)) in a.values.iter().zip(ends[2..].iter().zip(&outs)) {
        let mean = b.map("a / b", &[("a", *sum), ("b", ends[1])]);
        ResultAt { value, heads: &heads, block: &block }.store(&mut b, &joined, mean, outs);
    }
    b
}
