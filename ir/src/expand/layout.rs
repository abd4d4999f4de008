//! Memory that is packed, encoded or below a byte: where a code lies, and its scale. See
//! [`packing`](crate::kernel::packing) for what the layouts are.

use super::Expander;
use super::convert::mem_elem;
use super::emit::Emitter;
use super::tile::{Gather, Place, Spread};
use crate::dim::Dim;
use crate::dtype::{Encoding, Scale};
use crate::kernel::layout::GRID_ALIGN;
use crate::kernel::{Base, PackStep, Packing};
use crate::loops::{Arith, Convert, MemElem, Reg, Stride};
use std::rc::Rc;

/// A tile of memory whose elements are not simply strided.
#[derive(Clone, Debug)]
pub(super) struct Coded {
    pub place: Place,
    pub encoding: Encoding,
    pub layout: Rc<Layout>,
    /// One per axis of the tensor.
    pub axes: Vec<CodedAxis>,
    /// If it does not hold, every element is masked out.
    pub cond: Option<Reg>,
    /// Whose memory it is, where a kernel may store to it.
    pub base: Option<Base>,
}

#[derive(Clone, Debug)]
pub(super) struct CodedAxis {
    /// I64: first position.
    pub start: Reg,
    /// A number that `start` is known to be a multiple of.
    pub multiple: i64,
    /// The tile's axis that runs along it.
    pub tile: Option<usize>,
    /// I64: elements of the tile at or beyond it are masked out.
    pub valid: Option<Reg>,
    /// Positions, if they are not consecutive.
    pub gather: Option<Gather>,
}

/// Where codes and scales lie.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of the codes, in units of a byte, or of half a byte for codes of four bits.
    pub codes: Vec<Digit>,
    /// Units between the beginning of a block and its first code.
    pub header: i64,
    /// Of the scales, in bytes.
    pub scales: Option<Grid>,
}

/// One term of a place: `(position / divisor) % extent * stride`.
#[derive(Clone, Debug)]
pub(super) struct Digit {
    pub axis: usize,
    pub divisor: i64,
    /// None for the outermost.
    pub extent: Option<i64>,
    pub stride: Stride,
}

/// Where scales lie.
#[derive(Debug)]
pub(super) struct Grid {
    pub digits: Vec<Digit>,
    /// I64: bytes before the first.
    pub offset: Reg,
    /// I64: bytes before the first sum of codes, if they are kept; laid out alike.
    pub sums: Option<SumGrid>,
    /// I64: blocks along the last axis, where the grid lies apart.
    pub per_row: Option<Reg>,
}

/// Where sums lie, in bytes.
#[derive(Debug)]
pub(super) struct SumGrid {
    pub digits: Vec<Digit>,
    pub offset: Reg,
}

/// Units of a code: bytes, or halves of one.
fn units(encoding: Encoding) -> i64 {
    i64::from(encoding.code.bits() / 8).max(1)
}

fn is_nibble(encoding: Encoding) -> bool {
    encoding.code.bits() == 4
}

impl Coded {
    pub fn spread(&self, axis: usize, em: &Emitter) -> Spread {
        let Some(at) = self.axes.iter().position(|a| a.tile == Some(axis)) else {
            return Spread::Uniform;
        };
        let own: Vec<&Digit> = self.layout.codes.iter().filter(|d| d.axis == at).collect();
        let lanes = i64::from(em.lanes);
        let unit = Stride::Bytes(units(self.encoding));
        // What an outer digit changes, it changes between vectors.
        let between = |d: &&Digit| match d.divisor {
            1 => d.stride == unit && d.extent.is_none_or(|e| e % lanes == 0),
            divisor => divisor % lanes == 0 && self.axes[at].multiple % lanes == 0,
        };
        let adjacent = own.iter().any(|d| d.divisor == 1) && own.iter().all(between);
        let one_scale = match &self.layout.scales {
            None => true,
            Some(grid) => {
                self.axes[at].multiple % lanes == 0
                    && grid.digits.iter().all(|d| d.axis != at || d.divisor % lanes == 0)
            }
        };
        let simple = adjacent && self.axes[at].gather.is_none() && !is_nibble(self.encoding);
        if simple && one_scale { Spread::Wide } else { Spread::Single }
    }
}

impl Expander<'_> {
    /// Row-major or packed layout of a tensor.
    pub fn layout(
        &mut self,
        encoding: Encoding,
        dims: &[Dim],
        packing: Option<&Packing>,
    ) -> Rc<Layout> {
        let extents: Vec<Reg> = dims.iter().map(|d| self.dim(d)).collect();
        self.layout_of(encoding, &extents, packing)
    }

    /// As [`Expander::layout`], of extents in registers (I64).
    pub fn layout_of(
        &mut self,
        encoding: Encoding,
        extents: &[Reg],
        packing: Option<&Packing>,
    ) -> Rc<Layout> {
        let row_major: Vec<PackStep> =
            (0..extents.len() as u32).map(|axis| PackStep::Outer { axis, divisor: 1 }).collect();
        let steps = packing.map_or(&row_major, |p| &p.0);
        let within = steps.iter().position(|s| matches!(s, PackStep::Scales(_)));
        match (within, encoding.scale) {
            (Some(at), Some(scale)) => self.layout_within(encoding, scale, extents, steps, at),
            (_, scale) => {
                let mut codes = vec![];
                let total = self.digits(steps, extents, units(encoding), &mut codes);
                let scales = scale.map(|s| self.grid_apart(encoding, s, extents, total));
                Rc::new(Layout { codes, header: 0, scales })
            }
        }
    }

    /// Digits of steps from fast to slow, the fastest with a stride of `unit`; gives the stride
    /// that a still slower step would have.
    fn digits(
        &mut self,
        steps: &[PackStep],
        extents: &[Reg],
        unit: i64,
        digits: &mut Vec<Digit>,
    ) -> Reg {
        let mut size = self.em.int(unit);
        for step in steps.iter().rev() {
            let (digit, count) = match step {
                PackStep::Outer { axis, divisor } => {
                    let axis = *axis as usize;
                    let divisor = i64::from(*divisor);
                    let count = self.ceil_div(extents[axis], divisor);
                    (Digit { axis, divisor, extent: None, stride: self.stride(size) }, count)
                }
                PackStep::Inner { axis, stride, extent } => {
                    let (divisor, extent) = (i64::from(*stride), i64::from(*extent));
                    let count = self.em.int(extent);
                    let stride = self.stride(size);
                    let axis = *axis as usize;
                    (Digit { axis, divisor, extent: Some(extent), stride }, count)
                }
                PackStep::Scales(_) => continue,
            };
            digits.push(digit);
            size = self.em.mul(size, count);
        }
        size
    }

    /// The register as a stride, known if it is constant.
    pub fn stride(&self, size: Reg) -> Stride {
        self.em.constant(size).map_or(Stride::Reg(size), Stride::Bytes)
    }

    fn ceil_div(&mut self, a: Reg, by: i64) -> Reg {
        let up = self.em.add_imm(a, by - 1);
        self.em.arith_imm(Arith::Div, up, by)
    }

    fn round_up(&mut self, a: Reg, to: i64) -> Reg {
        let count = self.ceil_div(a, to);
        self.em.mul_imm(count, to)
    }

    /// The row-major grid of scales that follows all codes.
    fn grid_apart(
        &mut self,
        encoding: Encoding,
        scale: Scale,
        extents: &[Reg],
        code_units: Reg,
    ) -> Grid {
        let bytes = match is_nibble(encoding) {
            true => self.ceil_div(code_units, 2),
            false => code_units,
        };
        let offset = self.round_up(bytes, GRID_ALIGN as i64);
        let last = extents.len() - 1;
        let blocks: Vec<PackStep> = (0..=last)
            .map(|axis| PackStep::Outer {
                axis: axis as u32,
                divisor: match axis {
                    a if a == last => scale.cols,
                    a if a + 1 == last => scale.rows,
                    _ => 1,
                },
            })
            .collect();
        let mut digits = vec![];
        let scale_bytes = i64::from(scale.dtype.bits() / 8);
        let total = self.digits(&blocks, extents, scale_bytes, &mut digits);
        let per_row = self.ceil_div(extents[last], scale.cols.into());
        let sums = scale.sum.then(|| {
            let end = self.em.add(offset, total);
            let offset = self.round_up(end, GRID_ALIGN as i64);
            let mut digits = vec![];
            self.digits(&blocks, extents, 4, &mut digits);
            SumGrid { digits, offset }
        });
        Grid { digits, offset, sums, per_row: Some(per_row) }
    }

    /// Blocks that begin with their scales (and sums): `at` is the step that says so.
    fn layout_within(
        &mut self,
        encoding: Encoding,
        scale: Scale,
        extents: &[Reg],
        steps: &[PackStep],
        at: usize,
    ) -> Rc<Layout> {
        let PackStep::Scales(nested) = &steps[at] else {
            return self.layout_of(encoding, extents, None);
        };
        let per_byte = if is_nibble(encoding) { 2 } else { 1 };
        let mut codes = vec![];
        let code_units = self.digits(&steps[at + 1..], extents, units(encoding), &mut codes);
        let (mut digits, mut sum_digits) = (vec![], vec![]);
        let scale_bytes = i64::from(scale.dtype.bits() / 8);
        let scales = self.digits(nested, extents, scale_bytes, &mut digits);
        let scales = self.em.constant(scales).unwrap_or(0);
        let sums = self.digits(nested, extents, 4, &mut sum_digits);
        let sums = if scale.sum { self.em.constant(sums).unwrap_or(0) } else { 0 };
        let header = (scales + sums) * per_byte;
        let size_of_block = self.em.add_imm(code_units, header);
        let mut outer = vec![];
        self.digits(&steps[..at], extents, 1, &mut outer);
        let rank = extents.len();
        // A block of codes that covers only part of a block of scales has its scale to itself.
        let block = |axis: usize| {
            let whole = match axis {
                a if a + 1 == rank => i64::from(scale.cols),
                a if a + 2 == rank => i64::from(scale.rows),
                _ => 1,
            };
            let inner = steps[at + 1..].iter().map(|s| match s {
                PackStep::Inner { axis: a, extent, .. } if *a as usize == axis => {
                    i64::from(*extent)
                }
                _ => 1,
            });
            whole.min(inner.product())
        };
        for digit in digits.iter_mut().chain(&mut sum_digits) {
            digit.divisor *= block(digit.axis);
        }
        for digit in outer {
            let count = self.amount(digit.stride);
            let size = self.em.mul(count, size_of_block);
            let stride = self.stride(size);
            codes.push(Digit { stride, ..digit.clone() });
            let bytes = self.em.arith_imm(Arith::Div, size, per_byte);
            let stride = self.stride(bytes);
            digits.push(Digit { stride, ..digit.clone() });
            sum_digits.push(Digit { stride, ..digit });
        }
        let offset = self.em.int(0);
        let sums = scale.sum.then_some(());
        let sum_offset = self.em.int(scales);
        let sums = sums.map(|()| SumGrid { digits: sum_digits, offset: sum_offset });
        let scales = Some(Grid { digits, offset, sums, per_row: None });
        Rc::new(Layout { codes, header, scales })
    }

    /// A stride in a register.
    pub fn amount(&mut self, stride: Stride) -> Reg {
        match stride {
            Stride::Bytes(v) => self.em.int(v),
            Stride::Reg(r) => r,
        }
    }

    /// Sum of the digits' terms at positions along the tensor's axes.
    pub fn place_of(&mut self, digits: &[Digit], positions: &[Reg]) -> Reg {
        let mut sum = self.em.int(0);
        // From slow to fast, so that what an inner loop changes is added last.
        for digit in digits.iter().rev() {
            let mut term = positions[digit.axis];
            if digit.divisor != 1 {
                term = self.quotient(term, digit.divisor);
            }
            if let Some(extent) = digit.extent {
                term = self.remainder(term, extent);
            }
            let stride = self.amount(digit.stride);
            let term = self.em.mul(term, stride);
            sum = self.em.add(sum, term);
        }
        sum
    }

    /// Of a position (never negative).
    pub fn quotient(&mut self, a: Reg, by: i64) -> Reg {
        if by > 0 && by.count_ones() == 1 && self.em.constant(a).is_none() {
            return self.em.arith_imm(Arith::ShrU, a, by.trailing_zeros().into());
        }
        self.em.arith_imm(Arith::Div, a, by)
    }

    fn remainder(&mut self, a: Reg, by: i64) -> Reg {
        if by == 1 {
            return self.em.int(0);
        }
        if by.count_ones() == 1 && self.em.constant(a).is_none() {
            return self.em.arith_imm(Arith::And, a, by - 1);
        }
        self.em.arith_imm(Arith::Rem, a, by)
    }

    /// Reads the code (or a vector of adjacent codes) at a unit offset from an address, and
    /// gives its value.
    pub fn load_code(&mut self, encoding: Encoding, wide: bool, base: Reg, unit: Reg) -> Reg {
        if !is_nibble(encoding) {
            let address = self.em.add(base, unit);
            return self.em.load_as(encoding.code, wide, address, 0);
        }
        let raw = self.load_raw(encoding, base, unit);
        self.em.widen(encoding.code, raw)
    }

    /// Reads one code as memory has it.
    pub fn load_raw(&mut self, encoding: Encoding, base: Reg, unit: Reg) -> Reg {
        if let Some(elem) = mem_elem(encoding.code) {
            let address = self.em.add(base, unit);
            return self.em.load(elem, false, address, 0);
        }
        let byte = self.em.arith_imm(Arith::ShrU, unit, 1);
        let address = self.em.add(base, byte);
        let raw = self.em.load(MemElem::U8, false, address, 0);
        let odd = self.em.arith_imm(Arith::And, unit, 1);
        let odd = self.em.convert(Convert::I64ToI32, odd);
        let shift = self.em.mul_imm(odd, 4);
        let raw = self.em.arith(Arith::ShrU, raw, shift);
        self.em.arith_imm(Arith::And, raw, 15)
    }
}
