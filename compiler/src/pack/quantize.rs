//! Rows of a constant rounded to codes with scales, each block's chosen for the least error.

use super::Packed;
use super::rows::{Decoder, Rows};
use super::scales::{ScaleGrid, blocks};
use crate::error::ImportError;
use artifact::pack::gather::Lines;
use ir::dtype::{DType, Scale};
use ir::kernel::code;
use std::ops::AddAssign;

/// What rounding has done to numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// Sum of their squares.
    pub squares: f64,
    /// Sum of the squares of what rounding changed them by.
    pub errors: f64,
    /// How many were beyond the greatest number of their block's scale.
    pub saturated: u64,
}

impl Rounding {
    /// Error relative to the numbers, in the L2 norm.
    pub fn relative(&self) -> f64 {
        if self.squares > 0.0 { (self.errors / self.squares).sqrt() } else { 0.0 }
    }
}

impl AddAssign for Rounding {
    fn add_assign(&mut self, other: Rounding) {
        self.squares += other.squares;
        self.errors += other.errors;
        self.saturated += other.saturated;
    }
}

/// The rows of a constant, in codes; and the scales of their blocks.
pub struct Quantized<'a> {
    rows: Rows<'a>,
    code: DType,
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
        let mut quantized = Quantized { rows, code, scale, grid, rounding };
        quantized.choose(threads)?;
        Ok(quantized)
    }

    /// Chooses all scales, rows of blocks shared among threads.
    fn choose(&mut self, threads: usize) -> Result<(), ImportError> {
        let mut values = std::mem::take(&mut self.grid.values);
        let across = (self.grid.cols as usize).max(1);
        let share = (values.len() / across).div_ceil(threads.max(1)).max(1);
        let this = &*self;
        let found: Vec<Rounding> = std::thread::scope(|scope| {
            let parts = values.chunks_mut(share * across).enumerate();
            let workers: Vec<_> =
                parts.map(|(i, part)| scope.spawn(move || this.part(i * share, part))).collect();
            let joined = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            joined.collect::<Result<_, ImportError>>()
        })?;
        found.into_iter().for_each(|rounding| self.rounding += rounding);
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
                let (chosen, found) = best(&block, self.code, self.scale.dtype);
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
    type Held = (Decoder, Vec<f32>);

    fn dims(&self) -> [i64; 3] {
        let [batches, rows, cols] = self.rows.extents();
        // Two codes of four bits are one of a byte.
        [batches, rows, cols * i64::from(self.code.bits()) / 8]
    }

    fn line(
        &self,
        batch: i64,
        row: i64,
        (decoder, values): &mut Self::Held,
        out: &mut [u8],
    ) -> Result<(), ImportError> {
        values.resize(self.rows.extents()[2] as usize, 0.0);
        self.rows.decode(batch, row, decoder, values)?;
        let scales = self.grid.row(batch, row / i64::from(self.scale.rows));
        let bits = u64::from(self.code.bits());
        for (b, block) in values.chunks(self.scale.cols as usize).enumerate() {
            let per = inverse(scales[b]);
            let first = b as u64 * u64::from(self.scale.cols);
            for (i, value) in (first..).zip(block) {
                code::write(out, self.code, i * bits, f64::from(rounded(value * per, self.code)));
            }
        }
        Ok(())
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The number of a code's type that is nearest, the greatest where that is less.
fn rounded(x: f32, code: DType) -> f32 {
    match code {
        DType::I4 => x.round_ties_even().clamp(-8.0, 7.0),
        DType::I8 => x.round_ties_even().clamp(-127.0, 127.0),
        DType::F8E4M3 => to_float(x, 3, -6, 448.0),
        _ => to_float(x, 1, 0, 6.0),
    }
}

/// The nearest float of so many bits behind the first, of exponents from `least` on, up to `most`.
fn to_float(x: f32, bits: i32, least: i32, most: f32) -> f32 {
    let exponent = ((x.to_bits() >> 23 & 255) as i32 - 127).max(least);
    let unit = f32::from_bits(((127 + exponent - bits) as u32) << 23);
    ((x / unit).round_ties_even() * unit).clamp(-most, most)
}

/// The greatest number of a code's type.
fn greatest(code: DType) -> f32 {
    match code {
        DType::I4 => 7.0,
        DType::I8 => 127.0,
        DType::F8E4M3 => 448.0,
        _ => 6.0,
    }
}

/// How much smaller than what leaves the greatest element whole scales are tried: coarse codes lose
/// less in all where a few elements are cut off.
const SMALLER: [f32; 8] = [1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75, 0.7];

/// The greatest f16.
const GREATEST_F16: f32 = 65504.0;

/// The scale, of the type that it is stored in, by which a block loses least of those tried.
fn best(block: &[f32], code: DType, dtype: DType) -> (f32, Rounding) {
    let largest = block.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let even = largest.abs() / greatest(code);
    // The least integer is one further from 0 than the greatest.
    let whole = if code == DType::I4 { largest / -8.0 } else { even };
    let smaller: &[f32] = if code.bits() > 4 { &[] } else { &SMALLER };
    let tried = smaller.iter().map(|by| whole * by).chain([even]);
    let mut found: Option<(f32, Rounding)> = None;
    // What the scale's type cannot hold, not what is cut off on purpose.
    let out_of_reach = even > GREATEST_F16 && dtype == DType::F16;
    for scale in tried {
        for scale in stored(scale, dtype) {
            // The scale that fits these codes best, of the signs and magnitudes they now have.
            let refit = match dtype {
                DType::E8M0 => scale,
                _ => stored(fitted(block, code, scale), dtype)[0],
            };
            for scale in [scale, refit] {
                let rounding = loss(block, code, scale);
                if found.is_none_or(|(_, least)| rounding.errors < least.errors) {
                    found = Some((scale, rounding));
                }
            }
        }
    }
    let (scale, mut rounding) = found.unwrap_or((0.0, loss(block, code, 0.0)));
    if out_of_reach {
        let most = greatest(code) * scale.abs();
        rounding.saturated = block.iter().filter(|x| x.abs() > most).count() as u64;
    }
    (scale, rounding)
}

/// A scale as its type has it: the nearest; of powers of two those to both sides.
fn stored(scale: f32, dtype: DType) -> [f32; 2] {
    match dtype {
        DType::F16 => [half::f16::from_f32(scale.clamp(-GREATEST_F16, GREATEST_F16)).to_f32(); 2],
        DType::E8M0 => {
            let below = scale.abs().log2().floor().clamp(-126.0, 126.0);
            let power = |e: f32| f32::from_bits(((e as i32 + 127) as u32) << 23);
            [power(below), power(below + 1.0)]
        }
        _ => [scale; 2],
    }
}

/// The scale by which a block's codes come nearest to it.
fn fitted(block: &[f32], code: DType, scale: f32) -> f32 {
    let per = inverse(scale);
    let (mut of, mut by) = (0.0f32, 0.0f32);
    for x in block {
        let q = rounded(x * per, code);
        of += x * q;
        by += q * q;
    }
    if by > 0.0 { of / by } else { scale }
}

/// What a block loses by a scale.
fn loss(block: &[f32], code: DType, scale: f32) -> Rounding {
    let per = inverse(scale);
    let (mut squares, mut errors) = (0.0f32, 0.0f32);
    for x in block {
        let error = x - rounded(x * per, code) * scale;
        squares += x * x;
        errors += error * error;
    }
    Rounding { squares: squares.into(), errors: errors.into(), saturated: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as matrices have them.
    fn numbers(n: u64) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| (0..6).map(|_| next()).sum::<f32>() / 40.0).collect()
    }

    /// The least error of scales that leave the greatest element whole.
    fn to_nearest(block: &[f32], code: DType) -> f64 {
        let most = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        loss(block, code, half::f16::from_f32(most / greatest(code)).to_f32()).errors
    }

    #[test]
    fn chosen_scales_lose_less_than_rounding_to_nearest() {
        let all = numbers(32 * 400);
        for (code, gain) in [(DType::I4, 0.8), (DType::I8, 1.0 + 1e-6)] {
            let (mut chosen, mut nearest) = (0.0, 0.0);
            for block in all.chunks(32) {
                let own = best(block, code, DType::F16).1.errors;
                assert!(own <= to_nearest(block, code) * (1.0 + 1e-6));
                (chosen, nearest) = (chosen + own, nearest + to_nearest(block, code));
            }
            assert!(chosen < gain * nearest, "{code}: {chosen} of {nearest}");
        }
    }

    #[test]
    fn codes_are_those_of_their_type() {
        for code in [DType::I4, DType::I8, DType::F8E4M3, DType::F4E2M1] {
            let mut memory = [0u8];
            for i in -4000..4000 {
                let x = i as f32 / 8.0;
                let y = rounded(x, code);
                code::write(&mut memory, code, 0, f64::from(y));
                assert_eq!(code::read(&memory, code, 0), f64::from(y), "{x} as {code}");
                // Nothing else of the type is nearer.
                for other in 0..1u32 << code.bits() {
                    let v = code::read(&[other as u8], code, 0) as f32;
                    let unused = v.is_nan() || code == DType::I8 && v == -128.0;
                    assert!(unused || (x - v).abs() >= (x - y).abs(), "{x}: {v}, found {y}");
                }
            }
        }
    }

    #[test]
    fn nothing_becomes_nothing() {
        for dtype in [DType::F16, DType::F32, DType::E8M0] {
            let (scale, rounding) = best(&[0.0; 32], DType::I4, dtype);
            assert!(scale.is_finite());
            assert_eq!((rounding.errors, rounding.saturated), (0.0, 0));
        }
        assert_eq!(best(&[], DType::I4, DType::F16).1, Rounding::default());
    }

    #[test]
    fn what_no_scale_reaches_is_counted() {
        let block = [1e9, -3e9, 1.0, 0.0];
        let (scale, rounding) = best(&block, DType::I4, DType::F16);
        assert!(scale.is_finite());
        assert_eq!(rounding.saturated, 2);
    }
}
