//! Scales of blocks: whether they stay scales of blocks when a weight is packed, and which.

use super::constant::{Constant, Part};
use artifact::pack::table::Table;
use ir::dtype::Scale;
use ir::graph::program::{Program, Weight};
use std::collections::BTreeSet;

/// Block scales as f32, `[batch, rows / block, cols / block]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleGrid {
    /// Row-major.
    pub values: Vec<f32>,
    /// Rows of one batch's grid.
    pub rows: i64,
    /// Columns.
    pub cols: i64,
}

impl ScaleGrid {
    /// The scales of one row of blocks.
    pub fn row(&self, batch: i64, row: i64) -> &[f32] {
        let at = (batch * self.rows + row) * self.cols;
        &self.values[at as usize..(at + self.cols) as usize]
    }
}

/// How many blocks cover an extent.
pub fn blocks(extent: i64, block: u32) -> i64 {
    (extent + i64::from(block) - 1) / i64::from(block)
}

/// Extents of a weight's stored tensors.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Elements of each.
    pub elements: i64,
    /// Of these in a row.
    pub width: i64,
}

/// A stored element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which tensor.
    pub tensor: i64,
    /// Row in its matrix.
    pub row: i64,
    /// Column.
    pub col: i64,
}

impl Stored {
    /// Of a weight.
    pub fn of(weight: &Weight) -> Stored {
        let dims = &weight.source.stored_dims;
        let elements = dims.iter().fold(1i64, |n, d| n.saturating_mul(*d)).max(1);
        Stored { elements, width: dims.last().copied().unwrap_or(1).max(1) }
    }

    /// Where an element lies, counted over all tensors.
    pub fn place(&self, at: i64) -> Place {
        let within = at % self.elements;
        Place { tensor: at / self.elements, row: within / self.width, col: within % self.width }
    }
}

/// Whether every block of a `[batch, rows, cols]` constant lies in one stored block, so that the
/// stored scales are its own. False where it is more than a view of weights.
pub fn keeps_blocks(constant: &Constant, program: &Program, scale: Scale) -> bool {
    let Some(views) = constant.views(program) else { return false };
    views.iter().all(|(part, weight)| part_keeps_blocks(part, weight, scale))
}

fn part_keeps_blocks(part: &Part, weight: &Weight, scale: Scale) -> bool {
    let stored = Stored::of(weight);
    let (block_rows, block_cols) = (i64::from(scale.rows), i64::from(scale.cols));
    let view = &part.factors[0];
    let [batch, rows, cols] = &view.along[..] else { return false };
    let down = |rows: &Table| rows.places().all(|p| p % stored.width == 0);
    if part.start[1] % block_rows != 0 || part.start[2] % block_cols != 0 || !down(rows) {
        return false;
    }
    let (rows, cols): (Vec<i64>, Vec<i64>) = (rows.places().collect(), cols.places().collect());
    let bases: BTreeSet<i64> =
        batch.places().map(|b| (view.base + b).rem_euclid(stored.elements)).collect();
    bases.into_iter().all(|base| {
        let row_block = |p: &i64| {
            let place = stored.place(base + p);
            (place.tensor, place.row / block_rows)
        };
        let col = |p: &i64| base % stored.width + p;
        let inside = cols.iter().all(|p| (0..stored.width).contains(&col(p)));
        inside
            && rows.chunks(block_rows as usize).all(|c| is_one(c.iter().map(row_block)))
            && cols
                .chunks(block_cols as usize)
                .all(|c| is_one(c.iter().map(|p| col(p) / block_cols)))
    })
}

/// Whether all are equal.
fn is_one<T: PartialEq>(mut of: impl Iterator<Item = T>) -> bool {
    let first = of.next();
    of.all(|x| Some(x) == first)
}
