//! Products of tiles of codes as they lie in memory, for targets that multiply codes.

use super::eval::Ix;
use super::layout::{Coded, Digit};
use super::product::{Operand, axis_of};
use super::scratch::BufferId;
use super::tile::{Gather, Kind, Origin, TileRef, View, bytes_of};
use super::{Expander, LINE, Result};
use crate::dtype::{Class, Scale};
use crate::loops::{
    Ahead, Left, MemElem, Mma, Nested, Reg, Right, Scales, Stride, Strided, Term, Unit,
};
use std::rc::Rc;

/// A left operand whose rows are gathered.
struct Gathered<'c> {
    coded: &'c Coded,
    gather: &'c Gather,
    scale: Scale,
    rows: usize,
    cols: usize,
    /// Rows and depth of the tile.
    extents: [u32; 2],
}

/// Scratch for gathered rows: codes, scales, sums.
#[derive(Clone, Copy)]
pub(super) struct Copies {
    codes: BufferId,
    scales: BufferId,
    sums: Option<BufferId>,
}

impl Gathered<'_> {
    /// Bytes from row to row of the copy, such that rows do not meet in the sets of a cache.
    fn pitch(&self) -> i64 {
        i64::from(self.extents[1].next_multiple_of(LINE)) + i64::from(LINE)
    }

    /// Scales of a row.
    fn blocks(&self) -> i64 {
        self.extents[1].div_ceil(self.scale.cols).into()
    }
}

impl Expander<'_> {
    /// Accumulates the product of two tiles of codes, if the target claims it; gives whether it
    /// does. Rows that are gathered are copied first, codes and scales.
    pub(super) fn coded_product(
        &mut self,
        left: &TileRef,
        right: &TileRef,
        acc: &View,
        extents: [u32; 3],
        ahead: Option<Ahead>,
    ) -> Result<bool> {
        let (Kind::Coded(l), Kind::Coded(r)) = (&left.kind, &right.kind) else { return Ok(false) };
        let depth = extents[2];
        let Some(right) = self.blocked(r, depth).or_else(|| self.units(r, depth)) else {
            return Ok(false);
        };
        let gathered = self.gathered_rows(l, [extents[0], depth]);
        let operand = match &gathered {
            Some(g) => Some(self.copy_to_be(g)),
            None => self.coded_left(left)?,
        };
        let Some(operand) = operand else { return Ok(false) };
        let origin = operand.origin;
        let mut candidate = Mma { ahead, ..self.mma(operand, &right, acc, extents) };
        if !(self.machine.mma)(&candidate) {
            return Ok(false);
        }
        let Some(g) = gathered else {
            self.em.mma(candidate);
            self.last([origin, right.origin, acc.place.origin]);
            return Ok(true);
        };
        let seen = acc.axes[0].valid;
        let made = self.copies.iter().find(|c| Rc::ptr_eq(&c.0, left) && c.1 == seen);
        let copies = match made.map(|c| c.2) {
            Some(copies) => copies,
            None => {
                let copies = self.copy_rows(&g, seen)?;
                self.copies.push((left.clone(), seen, copies));
                copies
            }
        };
        candidate.left = self.copied_left(&g, &copies);
        self.em.mma(candidate);
        let sums = copies.sums.unwrap_or(copies.codes);
        self.last([copies.codes, copies.scales, sums].map(Origin::Buffer));
        self.last([origin, right.origin, acc.place.origin]);
        Ok(true)
    }

    /// A tile of bytes whose rows are gathered, and whose columns lie together and begin with a
    /// block of scales. The bytes are integers: a row that is masked out has codes of another and
    /// scales of 0, which make zeros of anything but NaN.
    fn gathered_rows<'c>(&self, coded: &'c Coded, extents: [u32; 2]) -> Option<Gathered<'c>> {
        let (rows, cols) = (axis_of(coded, 0)?, axis_of(coded, 1)?);
        let gather = coded.axes[rows].gather.as_ref()?;
        let scale = coded.encoding.scale?;
        let grid = coded.layout.scales.as_ref()?;
        let mut along = coded.layout.codes.iter().filter(|d| d.axis == cols);
        let adjacent = |d: &Digit| d.divisor == 1 && d.stride == Stride::Bytes(1);
        let whole = coded.encoding.code.class() == Class::Int
            && coded.encoding.code.bits() == 8
            && coded.axes.iter().filter(|a| a.gather.is_some()).count() == 1
            && coded.axes[cols].multiple % i64::from(scale.cols) == 0
            && (rows + 2, cols + 1) == (coded.axes.len(), coded.axes.len())
            && grid.per_row.is_some()
            && scale.rows == 1
            && along.next().is_some_and(adjacent)
            && along.next().is_none();
        whole.then_some(Gathered { coded, gather, scale, rows, cols, extents })
    }

    /// The operand as the copy will be, with no memory yet: to ask whether it would be claimed.
    fn copy_to_be(&mut self, g: &Gathered<'_>) -> Operand<Left> {
        let none = self.em.int(0);
        let form = self.left_at(g, none, none, g.scale.sum.then_some(none));
        let depth = self.coded_depth(g.coded, g.cols, g.extents[1]);
        let (origin, rows) = (g.coded.place.origin, g.coded.axes[g.rows].valid);
        Operand { form, origin, rows, depth }
    }

    fn left_at(&mut self, g: &Gathered<'_>, codes: Reg, scales: Reg, sums: Option<Reg>) -> Left {
        let per_row = self.em.int(g.blocks());
        let first = self.em.int32(0);
        let scales = Scales {
            address: scales,
            per_row,
            first_row: first,
            first_col: first,
            multiple: 0,
            sums,
            rows: 1,
            cols: g.scale.cols,
        };
        let (row, col) = (Stride::Bytes(g.pitch()), Stride::Bytes(1));
        let at = Strided { address: codes, row, col };
        Left { encoding: g.coded.encoding, at, scales: Some(scales) }
    }

    fn copied_left(&mut self, g: &Gathered<'_>, copies: &Copies) -> Left {
        let codes = self.em.buffer(copies.codes, 0);
        let scales = self.em.buffer(copies.scales, 0);
        let sums = copies.sums.map(|id| self.em.buffer(id, 0));
        self.left_at(g, codes, scales, sums)
    }

    /// Copies codes, scales and sums of every row (of those below `seen`, an I64); a row that is
    /// masked out has scales of 0.
    fn copy_rows(&mut self, g: &Gathered<'_>, seen: Option<Reg>) -> Result<Copies> {
        let rows = u64::from(g.extents[0]);
        let scales = rows * g.blocks() as u64;
        let copies = Copies {
            codes: self.em.scratch.allocate(rows * g.pitch() as u64),
            scales: self.em.scratch.allocate(scales * bytes_of(g.scale.dtype)),
            sums: g.scale.sum.then(|| self.em.scratch.allocate(scales * 4)),
        };
        let (zero, count) = (self.em.int(0), self.em.int(rows as i64));
        let count = seen.map_or(count, |s| self.em.min(s, count));
        let (open, _) = self.em.open_for(zero, count, 1, &[]);
        let row = open.var();
        let (position, inside) = self.gathered(g.gather, Ix::of(row))?;
        let position = inside.map_or(position, |i| self.em.select(i, position, zero));
        let mut at: Vec<Reg> = g.coded.axes.iter().map(|a| a.start).collect();
        at[g.rows] = position;
        self.copy_codes(g, &at, row, copies.codes);
        self.copy_scales(g, &at, (row, inside), &copies);
        self.em.close_for(open, &[]);
        Ok(copies)
    }

    fn copy_codes(&mut self, g: &Gathered<'_>, at: &[Reg], row: Reg, to: BufferId) {
        let base = self.place(g.coded.place);
        let by = self.place_of(&g.coded.layout.codes, at);
        let from = self.em.add(base, by);
        let to = self.em.buffer(to, 0);
        let by = self.em.mul_imm(row, g.pitch());
        let to = self.em.add(to, by);
        let (zero, all) = (self.em.int(0), self.em.int(g.extents[1].into()));
        let valid = self.coded_depth(g.coded, g.cols, g.extents[1]);
        let end = valid.map_or(all, |v| {
            let v = self.em.min(v, all);
            self.em.max(v, zero)
        });
        let wide = 4 * i64::from(self.em.lanes);
        let steps = self.quotient(end, wide);
        let whole = self.em.mul_imm(steps, wide);
        for (lo, hi, step) in [(zero, whole, wide), (whole, end, 1)] {
            if lo == hi {
                continue;
            }
            let (open, _) = self.em.open_for(lo, hi, step, &[]);
            let k = open.var();
            let (from, to) = (self.em.add(from, k), self.em.add(to, k));
            let elem = if step > 1 { MemElem::I32 } else { MemElem::U8 };
            let codes = self.em.load(elem, step > 1, from, 0);
            self.em.store(elem, to, 0, codes);
            self.em.close_for(open, &[]);
        }
    }

    fn copy_scales(
        &mut self,
        g: &Gathered<'_>,
        at: &[Reg],
        (row, inside): (Reg, Option<Reg>),
        to: &Copies,
    ) {
        let Some(grid) = &g.coded.layout.scales else { return };
        let Some(per_row) = grid.per_row else { return };
        let base = self.place(g.coded.place);
        let (zero, count) = (self.em.int(0), self.em.int(g.blocks()));
        let cols = i64::from(g.scale.cols);
        let first = self.quotient(at[g.cols], cols);
        let last = self.em.add_imm(per_row, -1);
        let elem = match g.scale.dtype.bits() {
            8 => MemElem::U8,
            16 => MemElem::U16,
            _ => MemElem::I32,
        };
        let mut parts = vec![(&grid.digits, grid.offset, elem, to.scales)];
        if let (Some(sums), Some(id)) = (&grid.sums, to.sums) {
            parts.push((&sums.digits, sums.offset, MemElem::I32, id));
        }
        let (open, _) = self.em.open_for(zero, count, 1, &[]);
        // Blocks of k's that are not valid may not be there.
        let block = self.em.add(first, open.var());
        let block = self.em.min(block, last);
        let mut positions = at.to_vec();
        positions[g.cols] = self.em.mul_imm(block, cols);
        let number = self.em.mul(row, count);
        let number = self.em.add(number, open.var());
        for (digits, offset, elem, id) in parts {
            let by = self.place_of(digits, &positions);
            let by = self.em.add(by, offset);
            let from = self.em.add(base, by);
            let mut value = self.em.load(elem, false, from, 0);
            if let Some(inside) = inside {
                let none = self.em.int32(0);
                value = self.em.select(inside, value, none);
            }
            let bytes = if id == to.scales { bytes_of(g.scale.dtype) } else { 4 };
            let by = self.em.mul_imm(number, bytes as i64);
            let to = self.em.buffer(id, 0);
            let to = self.em.add(to, by);
            self.em.store(elem, to, 0, value);
        }
        self.em.close_for(open, &[]);
    }

    /// `[.., n/L, k/D, ..]`: units of L columns by D k's, which the tile begins at multiples of.
    fn units(&mut self, coded: &Coded, extent: u32) -> Option<Operand<Right>> {
        let (rows, cols) = (axis_of(coded, 0)?, axis_of(coded, 1)?);
        if coded.axes.iter().any(|a| a.gather.is_some()) || coded.encoding.scale.is_none() {
            return None;
        }
        let nibbles = coded.encoding.code.bits() == 4;
        let code_bits = if nibbles { 4 } else { 8 };
        let outer = |axis: usize| {
            coded.layout.codes.iter().find(move |d| d.axis == axis && d.extent.is_none())
        };
        let (block, step) = (outer(rows)?, outer(cols)?);
        let Stride::Bytes(size) = step.stride else { return None };
        let inner =
            |digits: &[Digit], bits: i64, begin: i64| nested(digits, [rows, cols], bits, begin);
        let codes = inner(&coded.layout.codes, code_bits, coded.layout.header * code_bits)?;
        let grid = coded.layout.scales.as_ref()?;
        let (within, apart) = match grid.per_row {
            Some(_) => (None, Some(self.scales(coded, rows, cols)?)),
            None => (Some(inner(&grid.digits, 8, self.em.constant(grid.offset)? * 8)?), None),
        };
        // Places in a unit are counted in bits.
        let bits = u32::try_from(size.checked_mul(code_bits)?).ok()?;
        let whole = bits % 8 == 0
            && coded.axes[rows].multiple % block.divisor == 0
            && coded.axes[cols].multiple % step.divisor == 0;
        let unit = Unit {
            lanes: u32::try_from(block.divisor).ok()?,
            depth: u32::try_from(step.divisor).ok()?,
            bytes: bits / 8,
            codes,
            scales: within,
        };
        // Whatever else is in the order would lie between the units of a row.
        let code = (i64::from(coded.encoding.code.bits()) / 8).max(1);
        let filled = i64::from(unit.lanes).checked_mul(unit.depth.into())?.checked_mul(code)?;
        if !whole || filled + coded.layout.header != size {
            return None;
        }
        let (address, block_bytes) = self.first_block(coded, block.stride);
        let encoding = coded.encoding;
        let form = Right::Units { encoding, address, block_bytes, unit, scales: apart };
        let depth = self.coded_depth(coded, cols, extent);
        Some(Operand { form, origin: coded.place.origin, rows: coded.axes[rows].valid, depth })
    }
}

/// Terms of the digits within a unit of rows and columns, whose strides are in so many bits.
fn nested(digits: &[Digit], [rows, cols]: [usize; 2], bits: i64, begin: i64) -> Option<Nested> {
    let term = |d: &Digit| {
        let Stride::Bytes(stride) = d.stride else { return None };
        Some(Term {
            along_k: d.axis == cols,
            divisor: u32::try_from(d.divisor).ok()?,
            extent: u32::try_from(d.extent?).ok()?,
            bits: u32::try_from(stride.checked_mul(bits)?).ok()?,
        })
    };
    let within: Vec<&Digit> = digits.iter().filter(|d| d.extent.is_some()).collect();
    if within.iter().any(|d| d.axis != rows && d.axis != cols) {
        return None;
    }
    let terms = within.into_iter().map(term).collect::<Option<Vec<_>>>()?;
    Some(Nested { begin: u32::try_from(begin).ok()?, terms })
}
