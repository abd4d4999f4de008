//! The meaning of a product of tiles: every element decoded, sums in binary64.

use super::{Memory, Run, bits_of, f32_of, signed};
use crate::dtype::{DType, Encoding};
use crate::kernel::code;
use crate::loops::{Elem, Mma, Nested, Reg, Right, Scales, Stride, Strided};

type Value = Result<f64, String>;

/// The number that a code at a bit behind an address stands for.
fn decoded(memory: &mut Memory, dtype: DType, address: u64, bit: u64) -> Value {
    let bytes = (dtype.bits() as usize / 8).max(1);
    let memory = memory.at(address.wrapping_add(bit / 8), bytes)?;
    Ok(code::read(memory, dtype, bit % 8))
}

impl Run<'_> {
    /// Accumulates a product.
    pub(super) fn product(&mut self, mma: &Mma) -> Result<(), String> {
        let valid = |reg: Option<Reg>, all: u32| {
            let count = reg.map_or(i64::from(all), |r| signed(Elem::I32, self.one(r)));
            count.clamp(0, all.into()) as u64
        };
        let extents =
            [valid(mma.m_valid, mma.m), valid(mma.n_valid, mma.n), valid(mma.k_valid, mma.k)];
        for i in 0..extents[0] {
            for j in 0..extents[1] {
                let mut sum = 0.0;
                for k in 0..extents[2] {
                    sum += self.left(mma, i, k)? * self.right(mma, j, k)?;
                }
                let at = self.strided(&mma.acc, i, j);
                let acc = self.memory.at(at, 4)?;
                let before = u32::from_le_bytes([acc[0], acc[1], acc[2], acc[3]]);
                let after = (f64::from(f32_of(before.into())) + sum) as f32;
                acc.copy_from_slice(&(bits_of(after) as u32).to_le_bytes());
            }
        }
        Ok(())
    }

    fn strided(&self, at: &Strided, row: u64, col: u64) -> u64 {
        let distance = |s: Stride| match s {
            Stride::Bytes(b) => b as u64,
            Stride::Reg(r) => self.one(r),
        };
        let by =
            row.wrapping_mul(distance(at.row)).wrapping_add(col.wrapping_mul(distance(at.col)));
        self.one(at.address).wrapping_add(by)
    }

    fn left(&mut self, mma: &Mma, i: u64, k: u64) -> Value {
        let (left, at) = (&mma.left, self.strided(&mma.left.at, i, k));
        let value = decoded(self.memory, left.encoding.code, at, 0)?;
        Ok(value * self.scale(left.encoding, left.scales.as_ref(), i, k)?)
    }

    /// The scale of an element, 1 if none lies apart.
    fn scale(&mut self, encoding: Encoding, scales: Option<&Scales>, i: u64, k: u64) -> Value {
        let (Some(at), Some(scale)) = (scales, encoding.scale) else { return Ok(1.0) };
        let first = |reg: Reg| self.one(reg) as u32 as u64;
        let row = (first(at.first_row) + i) / u64::from(at.rows);
        let col = (first(at.first_col) + k) / u64::from(at.cols);
        let number = row.wrapping_mul(self.one(at.per_row)).wrapping_add(col);
        let bits = number.wrapping_mul(scale.dtype.bits().into());
        decoded(self.memory, scale.dtype, self.one(at.address), bits)
    }

    fn right(&mut self, mma: &Mma, j: u64, k: u64) -> Value {
        match &mma.right {
            Right::Strided { encoding, at } => {
                let at = self.strided(at, j, k);
                decoded(self.memory, encoding.code, at, 0)
            }
            Right::Blocked { encoding, address, block_bytes, lanes, group, scales } => {
                let (lanes, group) = (u64::from(*lanes), u64::from(*group));
                let block = (j / lanes).wrapping_mul(self.one(*block_bytes));
                let address = self.one(*address).wrapping_add(block);
                let number = (k / group * lanes + j % lanes) * group + k % group;
                let bit = number * u64::from(encoding.code.bits());
                let value = decoded(self.memory, encoding.code, address, bit)?;
                Ok(value * self.scale(*encoding, scales.as_ref(), j, k)?)
            }
            Right::Units { encoding, address, block_bytes, unit, scales } => {
                let (lanes, depth) = (u64::from(unit.lanes), u64::from(unit.depth));
                let block = (j / lanes).wrapping_mul(self.one(*block_bytes));
                let by = block.wrapping_add(k / depth * u64::from(unit.bytes));
                let address = self.one(*address).wrapping_add(by);
                let bit = |n: &Nested| u64::from(n.bit((j % lanes) as u32, (k % depth) as u32));
                let mut value = decoded(self.memory, encoding.code, address, bit(&unit.codes))?;
                if let (Some(within), Some(scale)) = (&unit.scales, encoding.scale) {
                    value *= decoded(self.memory, scale.dtype, address, bit(within))?;
                }
                Ok(value * self.scale(*encoding, scales.as_ref(), j, k)?)
            }
        }
    }
}
