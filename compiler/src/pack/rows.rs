//! Reads rows of a weight out of the stored tensors, whatever view the program takes of them.

use crate::error::ImportError;
use crate::import::source::WeightSource;
use crate::pack::layout::blocks;
use ir::dtype::{DType, Encoding, e8m0_to_f32};
use ir::graph::program::Weight;

/// A weight as `[batch, rows, cols]`: its logical axes in three groups, each flattened row-major.
pub struct Rows<'a> {
    weight: &'a Weight,
    source: &'a dyn WeightSource,
    batch: Axes,
    rows: Axes,
    /// Stored distance of each column from column 0.
    cols: Vec<i64>,
    dense: bool,
    code_bytes: usize,
}

/// Some logical axes, flattened.
struct Axes {
    /// Extent, and stored stride (`None`: the axis that picks the tensor).
    factors: Vec<(i64, Option<i64>)>,
}

impl Axes {
    fn new(weight: &Weight, axes: &[usize]) -> Axes {
        let stacked = usize::from(weight.source.stacked);
        let stride = |a: usize| a.checked_sub(stacked).map(|i| weight.source.view.strides[i]);
        Axes { factors: axes.iter().map(|a| (weight.dims[*a], stride(*a))).collect() }
    }

    fn extent(&self) -> i64 {
        self.factors.iter().map(|(e, _)| e).product()
    }

    /// Stored offset, and the tensor if these axes pick it, of a flat position.
    fn at(&self, flat: i64) -> (i64, i64) {
        let (mut rest, mut offset, mut tensor) = (flat, 0, 0);
        for (extent, stride) in self.factors.iter().rev() {
            let i = rest % extent;
            rest /= extent;
            match stride {
                Some(s) => offset += i * s,
                None => tensor = i,
            }
        }
        (offset, tensor)
    }
}

/// Block scales of a weight as f32, `[batch, rows / block, cols / block]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleGrid {
    /// Row-major.
    pub values: Vec<f32>,
    /// Rows of one batch's grid.
    pub rows: i64,
    /// Columns.
    pub cols: i64,
}

/// Row and column of a stored element in its matrix.
fn position_in_matrix(weight: &Weight, at: i64) -> (i64, i64) {
    let width = weight.source.stored_dims.last().copied().unwrap_or(1).max(1);
    (at / width, at % width)
}

/// Whether the stored grid of block scales is a grid over the rows and columns that a weight has
/// under this grouping of its axes.
pub fn keeps_blocks(weight: &Weight, [batch, rows, cols]: [&[usize]; 3]) -> bool {
    let Some(scale) = weight.encoding.scale else { return true };
    let [batch, rows, cols] = [batch, rows, cols].map(|axes| Axes::new(weight, axes));
    let picks_tensor = |axes: &Axes| axes.factors.iter().any(|(_, stride)| stride.is_none());
    if picks_tensor(&rows) || picks_tensor(&cols) {
        return false;
    }
    let base = |b: i64| weight.source.view.offset + batch.at(b).0;
    let begins_a_block = |b: i64| {
        let (r, c) = position_in_matrix(weight, base(b));
        r % i64::from(scale.rows) == 0 && c % i64::from(scale.cols) == 0
    };
    let (r0, c0) = position_in_matrix(weight, base(0));
    let straight_down = |r: i64| position_in_matrix(weight, base(0) + rows.at(r).0) == (r0 + r, c0);
    let straight_along =
        |c: i64| position_in_matrix(weight, base(0) + cols.at(c).0) == (r0, c0 + c);
    (0..batch.extent()).all(begins_a_block)
        && (0..rows.extent()).all(straight_down)
        && (0..cols.extent()).all(straight_along)
}

impl<'a> Rows<'a> {
    /// Groups a weight's logical axes (by position) into batch, rows and columns.
    pub fn new(
        weight: &'a Weight,
        source: &'a dyn WeightSource,
        [batch, rows, cols]: [&[usize]; 3],
    ) -> Self {
        let col_axes = Axes::new(weight, cols);
        let offsets: Vec<i64> = (0..col_axes.extent()).map(|c| col_axes.at(c).0).collect();
        let dense = offsets.iter().enumerate().all(|(i, o)| i as i64 == *o);
        Rows {
            weight,
            source,
            batch: Axes::new(weight, batch),
            rows: Axes::new(weight, rows),
            cols: offsets,
            dense,
            code_bytes: weight.encoding.code.bits() as usize / 8,
        }
    }

    /// Number of batches, rows and columns.
    pub fn extents(&self) -> (i64, i64, i64) {
        (self.batch.extent(), self.rows.extent(), self.cols.len() as i64)
    }

    fn locate(&self, batch: i64, row: i64) -> (&str, i64) {
        let ((a, ta), (b, tb)) = (self.batch.at(batch), self.rows.at(row));
        let source = &self.weight.source;
        (&source.tensors[(ta + tb) as usize], source.view.offset + a + b)
    }

    /// Fills `out` with the codes of one row.
    ///
    /// Errors: whatever the source reports.
    pub fn read(&self, batch: i64, row: i64, out: &mut [u8]) -> Result<(), ImportError> {
        let (tensor, start) = self.locate(batch, row);
        let bytes = self.code_bytes;
        if self.dense {
            return self.source.read(tensor, start as u64 * bytes as u64, out);
        }
        for (offset, code) in self.cols.iter().zip(out.chunks_exact_mut(bytes)) {
            self.source.read(tensor, (start + offset) as u64 * bytes as u64, code)?;
        }
        Ok(())
    }

    fn stored_position(&self, batch: i64, row: i64, col: i64) -> (i64, i64) {
        let (_, start) = self.locate(batch, row);
        position_in_matrix(self.weight, start + self.cols[col as usize])
    }

    /// The block scales, where they are blocks of this weight ([`keeps_blocks`]).
    ///
    /// Errors: whatever the source reports.
    pub fn scale_grid(&self) -> Result<Option<ScaleGrid>, ImportError> {
        let Some(scale) = self.weight.encoding.scale else { return Ok(None) };
        let (batches, rows, cols) = self.extents();
        let (r, c) = (i64::from(scale.rows), i64::from(scale.cols));
        let (grid_rows, grid_cols) = (blocks(rows, r), blocks(cols, c));
        let mut values = Vec::with_capacity((batches * grid_rows * grid_cols) as usize);
        for batch in 0..batches {
            let stored = self.stored_scales(batch)?;
            let (r0, c0) = self.stored_position(batch, 0, 0);
            for i in 0..grid_rows {
                let at = (r0 / r + i) * stored.cols + c0 / c;
                values.extend(&stored.values[at as usize..(at + grid_cols) as usize]);
            }
        }
        Ok(Some(ScaleGrid { values, rows: grid_rows, cols: grid_cols }))
    }

    fn stored_scales(&self, batch: i64) -> Result<ScaleGrid, ImportError> {
        let (_, tensor) = self.batch.at(batch);
        let source = &self.weight.source;
        let scale = self.weight.encoding.scale.expect("only asked for scaled weights");
        let [rows, cols] = match source.stored_dims.as_slice() {
            [.., r, c] => [*r, *c],
            [c] => [1, *c],
            [] => [1, 1],
        };
        let grid_rows = blocks(rows, i64::from(scale.rows));
        let grid_cols = blocks(cols, i64::from(scale.cols));
        let width = scale.dtype.bits() as usize / 8;
        let mut bytes = vec![0; (grid_rows * grid_cols) as usize * width];
        self.source.read(&source.scales[tensor as usize], 0, &mut bytes)?;
        let values = bytes.chunks_exact(width).map(|b| scale_value(scale.dtype, b)).collect();
        Ok(ScaleGrid { values, rows: grid_rows, cols: grid_cols })
    }

    /// Values of one row, decoded.
    ///
    /// Errors: whatever the source reports.
    pub fn decode(&self, batch: i64, row: i64, out: &mut [f32]) -> Result<(), ImportError> {
        let mut codes = vec![0u8; out.len() * self.code_bytes];
        self.read(batch, row, &mut codes)?;
        for (value, code) in out.iter_mut().zip(codes.chunks_exact(self.code_bytes)) {
            *value = scale_value(self.weight.encoding.code, code);
        }
        let Some(scale) = self.weight.encoding.scale else { return Ok(()) };
        let grid = self.stored_scales(batch)?;
        for (col, value) in out.iter_mut().enumerate() {
            let (r, c) = self.stored_position(batch, row, col as i64);
            let at = r / i64::from(scale.rows) * grid.cols + c / i64::from(scale.cols);
            *value *= grid.values[at as usize];
        }
        Ok(())
    }

    /// How the weight is stored.
    pub fn encoding(&self) -> Encoding {
        self.weight.encoding
    }
}

/// Value of a stored code of at least a byte.
fn scale_value(dtype: DType, b: &[u8]) -> f32 {
    match dtype {
        DType::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::I32 => i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32,
        DType::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::F8E4M3 => ir::dtype::f8e4m3_to_f32(b[0]),
        DType::E8M0 => e8m0_to_f32(b[0]),
        DType::I8 => f32::from(b[0] as i8),
        DType::U8 | DType::Bool => f32::from(b[0]),
        DType::F4E2M1 | DType::I4 => f32::NAN,
    }
}
