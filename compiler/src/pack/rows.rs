//! Reads rows of a weight out of the stored tensors, whatever view the program takes of them.

use crate::error::ImportError;
use crate::import::source::WeightSource;
use ir::dtype::{DType, Encoding};
use ir::graph::program::Weight;
use ir::kernel::code;

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

impl ScaleGrid {
    /// The scales of one row of blocks.
    pub fn row(&self, batch: i64, row: i64) -> &[f32] {
        let at = (batch * self.rows + row) * self.cols;
        &self.values[at as usize..(at + self.cols) as usize]
    }

    /// All of it in a type that has these numbers.
    pub fn bytes(&self, dtype: DType) -> Vec<u8> {
        let width = u64::from(dtype.bits());
        let mut bytes = vec![0; self.values.len() * width as usize / 8];
        for (i, value) in (0..).zip(&self.values) {
            code::write(&mut bytes, dtype, i * width, f64::from(*value));
        }
        bytes
    }
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
    ///
    /// Errors: [`ImportError::Misfit`] where stored codes do not begin at whole bytes.
    pub fn new(
        weight: &'a Weight,
        source: &'a dyn WeightSource,
        [batch, rows, cols]: [&[usize]; 3],
    ) -> Result<Self, ImportError> {
        let code = weight.encoding.code;
        if !code.bits().is_multiple_of(8) {
            return Err(ImportError::Misfit {
                key: weight.source.tensors.first().unwrap_or(&weight.name).to_string(),
                found: format!("{code} codes of {} bits", code.bits()),
                expected: "codes of whole bytes".into(),
            });
        }
        let col_axes = Axes::new(weight, cols);
        let offsets: Vec<i64> = (0..col_axes.extent()).map(|c| col_axes.at(c).0).collect();
        let dense = offsets.iter().enumerate().all(|(i, o)| i as i64 == *o);
        Ok(Rows {
            weight,
            source,
            batch: Axes::new(weight, batch),
            rows: Axes::new(weight, rows),
            cols: offsets,
            dense,
            code_bytes: code.bits() as usize / 8,
        })
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
            let Some(stored) = self.stored_scales(batch)? else { return Ok(None) };
            let (r0, c0) = self.stored_position(batch, 0, 0);
            for i in 0..grid_rows {
                let first = (c0 / c) as usize;
                values.extend(&stored.row(0, r0 / r + i)[first..first + grid_cols as usize]);
            }
        }
        Ok(Some(ScaleGrid { values, rows: grid_rows, cols: grid_cols }))
    }

    /// The block scales of the stored tensor that a batch is taken from, if it has any.
    ///
    /// Errors: whatever the source reports.
    pub fn stored_scales(&self, batch: i64) -> Result<Option<ScaleGrid>, ImportError> {
        let Some(scale) = self.weight.encoding.scale else { return Ok(None) };
        let (_, tensor) = self.batch.at(batch);
        let source = &self.weight.source;
        let [rows, cols] = match source.stored_dims.as_slice() {
            [.., r, c] => [*r, *c],
            [c] => [1, *c],
            [] => [1, 1],
        };
        let (rows, cols) = (blocks(rows, scale.rows.into()), blocks(cols, scale.cols.into()));
        let width = scale.dtype.bits() as usize / 8;
        let mut bytes = vec![0; (rows * cols) as usize * width];
        self.source.read(&source.scales[tensor as usize], 0, &mut bytes)?;
        let values = bytes.chunks_exact(width).map(|b| code::read(b, scale.dtype, 0) as f32);
        Ok(Some(ScaleGrid { values: values.collect(), rows, cols }))
    }

    /// Values of one row, decoded; `scales` are the [`Rows::stored_scales`] of its batch.
    ///
    /// Errors: whatever the source reports.
    pub fn decode(
        &self,
        batch: i64,
        row: i64,
        scales: Option<&ScaleGrid>,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        let mut codes = vec![0u8; out.len() * self.code_bytes];
        self.read(batch, row, &mut codes)?;
        for (value, code) in out.iter_mut().zip(codes.chunks_exact(self.code_bytes)) {
            *value = code::read(code, self.weight.encoding.code, 0) as f32;
        }
        let (Some(scale), Some(grid)) = (self.weight.encoding.scale, scales) else { return Ok(()) };
        for (col, value) in out.iter_mut().enumerate() {
            let (r, c) = self.stored_position(batch, row, col as i64);
            let row = grid.row(0, r / i64::from(scale.rows));
            *value *= row[(c / i64::from(scale.cols)) as usize];
        }
        Ok(())
    }

    /// How the weight is stored.
    pub fn encoding(&self) -> Encoding {
        self.weight.encoding
    }
}

/// How many blocks cover an extent.
fn blocks(extent: i64, block: i64) -> i64 {
    (extent + block - 1) / block
}
