//! Rows of a constant rounded to codes with scales, each block's chosen for the least error.

use super::rounding::{Coder, Rounding};
use super::rows::{Decoder, Held, Rows};
use super::scales::{ScaleGrid, blocks};
use super::{LAID_OUT, Packed};
use crate::error::ImportError;
use artifact::pack::gather::Lines;
use artifact::threads;
use ir::dtype::{DType, Scale};
use ir::kernel::code;

/// The rows of a constant, in codes; and the scales of their blocks.
pub struct Quantized<'a> {
    rows: Rows<'a>,
    code: DType,
    coder: Coder,
    /// Columns between two codes that share a byte.
    apart: usize,
    scale: Scale,
    grid: ScaleGrid,
    /// What the codes lose.
    pub rounding: Rounding,
}

impl<'a> Quantized<'a> {
    /// Chooses the scales of the packed weight that is made of these rows.
    ///
    /// Errors: whatever the source reports.
    pub fn new(
        rows: Rows<'a>,
        packed: &Packed,
        scale: Scale,
        threads: usize,
    ) -> Result<Self, ImportError> {
        let [batches, height, width] = rows.extents();
        let (down, across) = (blocks(height, scale.rows), blocks(width, scale.cols));
        let values = vec![0.0; (batches * down * across) as usize];
        let grid = ScaleGrid { values, rows: down, cols: across };
        let code = packed.encoding.code;
        let rounding = Rounding::default();
        let coder = Coder::of(code).expect("formats are of codes that numbers are rounded to");
        let apart = if code.bits() == 4 { packed.halves_apart().expect(LAID_OUT) } else { 1 };
        let mut quantized = Quantized { rows, code, coder, apart, scale, grid, rounding };
        quantized.choose(threads)?;
        Ok(quantized)
    }

    /// Chooses all scales, rows of blocks shared among threads.
    fn choose(&mut self, threads: usize) -> Result<(), ImportError> {
        let mut values = std::mem::take(&mut self.grid.values);
        let across = (self.grid.cols as usize).max(1);
        let share = (values.len() / across).div_ceil(threads.max(1)).max(1);
        let this = &*self;
        let parts = values.chunks_mut(share * across).enumerate();
        let found = threads::share(threads, parts, &|(i, part)| this.part(i * share, part));
        for rounding in found {
            self.rounding += rounding?;
        }
        self.grid.values = values;
        Ok(())
    }

    /// Scales of rows of blocks, from row `first` of all on.
    fn part(&self, first: usize, scales: &mut [f32]) -> Result<Rounding, ImportError> {
        let [_, height, width] = self.rows.extents();
        let (mut decoder, mut rounding) = (Decoder::default(), Rounding::default());
        let tall = i64::from(self.scale.rows);
        let mut values = vec![0.0; (width * tall) as usize];
        let mut block = vec![];
        let rows = scales.chunks_mut((self.grid.cols as usize).max(1));
        for (at, scales) in (first as i64..).zip(rows) {
            let (batch, top) = (at / self.grid.rows, at % self.grid.rows * tall);
            let all = top..height.min(top + tall);
            let count = (all.end - all.start) as usize;
            for (row, values) in all.zip(values.chunks_mut(width as usize)) {
                self.rows.decode(batch, row, &mut decoder, values)?;
            }
            for (b, scale) in scales.iter_mut().enumerate() {
                let from = b * self.scale.cols as usize;
                let to = (from + self.scale.cols as usize).min(width as usize);
                block.clear();
                let rows = values.chunks(width as usize).take(count);
                rows.for_each(|row| block.extend_from_slice(&row[from..to]));
                let (chosen, found) = (self.coder.best)(&block, self.scale.dtype);
                *scale = chosen;
                rounding += found;
            }
        }
        Ok(rounding)
    }

    /// The scales as they are stored, and how many blocks there are along each axis.
    pub fn scales(&self) -> (Vec<u8>, [i64; 3]) {
        let bits = self.scale.dtype.bits() as usize;
        let mut bytes = vec![0; self.grid.values.len() * bits / 8];
        for (i, scale) in self.grid.values.iter().enumerate() {
            code::write(&mut bytes, self.scale.dtype, (i * bits) as u64, f64::from(*scale));
        }
        (bytes, [self.rows.extents()[0], self.grid.rows, self.grid.cols])
    }
}

impl Lines for Quantized<'_> {
    type Error = ImportError;
    type Held = Held;

    fn dims(&self) -> [i64; 3] {
        let [batches, rows, cols] = self.rows.extents();
        // Two codes of four bits are one of a byte.
        [batches, rows, cols * i64::from(self.code.bits()) / 8]
    }

    fn line(
        &self,
        batch: i64,
        row: i64,
        held: &mut Held,
        out: &mut [u8],
    ) -> Result<(), ImportError> {
        let values = self.rows.row(batch, row, held)?;
        let scales = self.grid.row(batch, row / i64::from(self.scale.rows));
        let blocks = values.chunks(self.scale.cols as usize).zip(scales);
        let bytes = (self.scale.cols * self.code.bits() / 8) as usize;
        for ((block, scale), out) in blocks.zip(out.chunks_mut(bytes.max(1))) {
            (self.coder.put)(block, *scale, self.apart, out);
        }
        Ok(())
    }
}
