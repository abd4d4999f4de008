//! Quantising to scaled encodings.

use super::eval::{Ix, Point};
use super::layout::{Coded, CodedAxis};
use super::nest::Space;
use super::tile::{Kind, Place, Spread, Tile, TileRef};
use super::{Expander, Result};
use crate::dtype::{Class, DType, Scale};
use crate::kernel::{TileType, ValueId};
use crate::loops::{Arith, Cmp, Convert, Func, MemElem, Reg};

/// Largest magnitude of a code that quantising writes.
fn largest_code(code: DType) -> f64 {
    match code {
        DType::F8E4M3 => 448.0,
        DType::F4E2M1 => 6.0,
        DType::I4 => 7.0,
        _ => 127.0,
    }
}

/// A block of a matrix: rows and columns, I64 each.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub rows: (Reg, Reg),
    pub cols: (Reg, Reg),
    /// Whether columns are visited in vectors.
    wide: bool,
}

/// What is done for each block: of the axes before the last two, its position.
pub(super) type BlockBody<'b, 'k> =
    &'b mut dyn FnMut(&mut Expander<'k>, &[Ix], Block) -> Result<()>;

impl<'k> Expander<'k> {
    /// A coded tile in scratch, blocks beginning at its first element.
    pub fn encode(&mut self, arg: ValueId, ty: &TileType) -> Result<TileRef> {
        let Some(scale) = ty.encoding.scale else {
            return Err(self.cannot("encoding without scales"));
        };
        let values = self.tile(arg)?;
        let values = self.force(&values)?;
        let extents: Vec<Reg> = ty.shape.iter().map(|e| self.em.int((*e).into())).collect();
        let layout = self.layout_of(ty.encoding, &extents, None);
        let code_bytes = ty.elements().div_ceil(if ty.encoding.code.bits() == 4 { 2 } else { 1 });
        let grid = code_bytes.next_multiple_of(64) + ty.elements() * 4;
        let bytes = grid.next_multiple_of(64) + if scale.sum { ty.elements() * 4 } else { 0 };
        let id = self.em.scratch.allocate(bytes);
        let zero = self.em.int(0);
        let axes = (0..ty.shape.len()).map(|axis| CodedAxis {
            start: zero,
            multiple: 0,
            tile: Some(axis),
            valid: None,
            gather: None,
        });
        let coded = Coded {
            place: Place::buffer(id),
            encoding: ty.encoding,
            layout,
            axes: axes.collect(),
            cond: None,
            base: None,
        };
        let wide = self.in_vectors(&values, &coded, scale);
        self.each_block(&ty.shape, scale, None, &mut |x, lead, block| {
            x.encode_block(&values, &coded, scale, lead, Block { wide, ..block })
        })?;
        Ok(Tile::new(DType::F32, &ty.shape, Kind::Coded(coded)))
    }

    /// Whether blocks are whole vectors of a row, and codes those of whole bytes.
    fn in_vectors(&self, values: &TileRef, coded: &Coded, scale: Scale) -> bool {
        let last = values.shape.len() - 1;
        let lanes = self.em.lanes;
        lanes > 1
            && scale.rows == 1
            && scale.cols.is_multiple_of(lanes)
            && values.shape[last].is_multiple_of(scale.cols)
            && values.spread(last, &self.em) == Spread::Wide
            && coded.encoding.code == DType::I8
    }

    /// Visits the blocks of a tile; `valid` (rows, columns) cuts the last ones.
    pub fn each_block(
        &mut self,
        shape: &[u32],
        scale: Scale,
        valid: Option<[Option<Reg>; 2]>,
        body: BlockBody<'_, 'k>,
    ) -> Result<()> {
        let rank = shape.len();
        let cols = shape[rank - 1];
        let (lead, rows) = match rank {
            1 => (&shape[..0], 1),
            _ => (&shape[..rank - 2], shape[rank - 2]),
        };
        let counts = [rows.div_ceil(scale.rows), cols.div_ceil(scale.cols)];
        let grid = [lead, &counts].concat();
        let [row_limit, col_limit] = valid.unwrap_or_default();
        let space = Space { shape: &grid, limits: vec![None; grid.len()], tiles: &[], wide: false };
        let at_lead = lead.len();
        self.for_each(&space, &mut |x, at| {
            let mut span = |ix: Ix, size: u32, extent: u32, limit: Option<Reg>| {
                let n = x.position(ix);
                let lo = x.em.mul_imm(n, size.into());
                let hi = x.em.add_imm(lo, size.into());
                let extent = x.em.int(extent.into());
                let hi = x.em.min(hi, extent);
                (lo, limit.map_or(hi, |l| x.em.min(hi, l)))
            };
            let rows = span(at.idx[at_lead], scale.rows, rows, row_limit);
            let cols = span(at.idx[at_lead + 1], scale.cols, cols, col_limit);
            body(x, &at.idx[..at_lead], Block { rows, cols, wide: false })
        })
    }

    /// Point of a matrix element: tiles of rank 1 have no rows.
    pub fn element(&self, tile: &Tile, lead: &[Ix], row: Reg, col: Reg) -> Point {
        let idx = match tile.shape.len() {
            1 => vec![Ix::of(col)],
            _ => [lead, &[Ix::of(row), Ix::of(col)]].concat(),
        };
        Point::single(idx)
    }

    /// Folds something over a block's elements, by an operation whose order does not matter.
    pub fn over_block(
        &mut self,
        (tile, lead, block): (&Tile, &[Ix], Block),
        (op, start): (Arith, Reg),
        value: &mut dyn FnMut(&mut Self, &Point) -> Result<Reg>,
    ) -> Result<Reg> {
        let (start, step) = match block.wide {
            true => (self.em.wide(start), i64::from(self.em.lanes)),
            false => (start, 1),
        };
        let (outer, carried) = self.em.open_for(block.rows.0, block.rows.1, 1, &[start]);
        let row = outer.var();
        let (inner, folded) = self.em.open_for(block.cols.0, block.cols.1, step, &carried);
        let mut at = self.element(tile, lead, row, inner.var());
        at.wide = block.wide.then_some(tile.shape.len() - 1);
        let here = value(self, &at)?;
        let next = self.em.arith(op, folded[0], here);
        let folded = self.em.close_for(inner, &[next]);
        let folded = self.em.close_for(outer, &folded)[0];
        Ok(self.em.across(op, folded))
    }

    fn encode_block(
        &mut self,
        values: &TileRef,
        coded: &Coded,
        scale: Scale,
        lead: &[Ix],
        block: Block,
    ) -> Result<()> {
        let zero = self.em.float(0.0);
        let all = (&**values, lead, block);
        let greatest = self.over_block(all, (Arith::Max, zero), &mut |x, at| {
            let value = x.eval(values, at)?;
            Ok(x.em.func(Func::Abs, value))
        })?;
        let largest = self.em.float(largest_code(coded.encoding.code));
        let ratio = self.em.arith(Arith::Div, greatest, largest);
        let ratio = self.cast(DType::F32, scale.dtype, ratio);
        let none = self.em.cmp(Cmp::Eq, ratio, zero);
        let one = self.em.float(1.0);
        let ratio = self.em.select(none, one, ratio);
        self.write_scale(values, coded, lead, block, ratio)?;
        let none = self.em.int32(0);
        let sum = self.over_block(all, (Arith::Add, none), &mut |x, at| {
            let value = x.eval(values, at)?;
            let value = x.em.arith(Arith::Div, value, ratio);
            let code = x.quantised(coded.encoding.code, value);
            x.write_code(coded, at, code)?;
            Ok(if scale.sum { code } else { none })
        })?;
        self.write_sum(values, coded, lead, block, sum)
    }

    /// The code of a number already divided by its scale.
    fn quantised(&mut self, code: DType, value: Reg) -> Reg {
        if code.class() == Class::Float {
            return self.em.narrow(code, value);
        }
        let whole = self.em.func(Func::Nearest, value);
        let whole = self.em.convert(Convert::F32ToI32, whole);
        let largest = largest_code(code) as i64;
        let (lo, hi) = (self.em.int32(-largest), self.em.int32(largest));
        let whole = self.em.max(whole, lo);
        self.em.min(whole, hi)
    }

    fn write_scale(
        &mut self,
        values: &TileRef,
        coded: &Coded,
        lead: &[Ix],
        block: Block,
        scale: Reg,
    ) -> Result<()> {
        let at = self.element(values, lead, block.rows.0, block.cols.0);
        self.write_scale_at(coded, &at, scale)
    }

    pub fn write_scale_at(&mut self, coded: &Coded, at: &Point, scale: Reg) -> Result<()> {
        let (Some(grid), Some(ty)) = (&coded.layout.scales, coded.encoding.scale) else {
            return Ok(());
        };
        let address = self.part_of(coded, at, &grid.digits, Some(grid.offset))?;
        self.em.store_as(ty.dtype, address, 0, scale);
        Ok(())
    }

    pub fn write_sum(
        &mut self,
        values: &TileRef,
        coded: &Coded,
        lead: &[Ix],
        block: Block,
        sum: Reg,
    ) -> Result<()> {
        let Some(sums) = coded.layout.scales.as_ref().and_then(|g| g.sums.as_ref()) else {
            return Ok(());
        };
        let at = self.element(values, lead, block.rows.0, block.cols.0);
        let address = self.part_of(coded, &at, &sums.digits, Some(sums.offset))?;
        self.em.store(MemElem::I32, address, 0, sum);
        Ok(())
    }

    /// Writes a code, as memory has it, to its place.
    pub fn write_code(&mut self, coded: &Coded, at: &Point, code: Reg) -> Result<()> {
        let (positions, _) = self.coordinates(coded, at)?;
        let unit = self.place_of(&coded.layout.codes, &positions);
        let unit = self.em.add_imm(unit, coded.layout.header);
        let base = self.place(coded.place);
        if coded.encoding.code.bits() > 4 {
            let address = self.em.add(base, unit);
            let elem = super::convert::mem_elem(coded.encoding.code).unwrap_or(MemElem::U8);
            self.em.store(elem, address, 0, code);
            return Ok(());
        }
        let byte = self.em.arith_imm(Arith::ShrU, unit, 1);
        let address = self.em.add(base, byte);
        let odd = self.em.arith_imm(Arith::And, unit, 1);
        let odd = self.em.convert(Convert::I64ToI32, odd);
        let shift = self.em.mul_imm(odd, 4);
        let before = self.em.load(MemElem::U8, false, address, 0);
        // The half that stays: 0xf0 for the low one, 0x0f for the high one.
        let low = self.em.int32(0xf0);
        let keep = self.em.arith(Arith::ShrU, low, shift);
        let kept = self.em.and(before, keep);
        let code = self.em.arith_imm(Arith::And, code, 15);
        let code = self.em.arith(Arith::Shl, code, shift);
        let both = self.em.arith(Arith::Or, kept, code);
        self.em.store(MemElem::U8, address, 0, both);
        Ok(())
    }
}
