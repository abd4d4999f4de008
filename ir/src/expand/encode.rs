//! Quantising to scaled encodings, and stores to packed, encoded or narrow memory.

use super::eval::{Ix, Point};
use super::layout::{Coded, CodedAxis};
use super::nest::Space;
use super::tile::{Kind, Place, Tile, TileRef};
use super::{Expander, Result};
use crate::dtype::{Class, DType, Encoding, Scale};
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
struct Block {
    rows: (Reg, Reg),
    cols: (Reg, Reg),
}

/// What is done for each block: of the axes before the last two, its position.
type BlockBody<'b, 'k> = &'b mut dyn FnMut(&mut Expander<'k>, &[Ix], Block) -> Result<()>;

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
        self.each_block(&ty.shape, scale, None, &mut |x, lead, block| {
            x.encode_block(&values, &coded, scale, lead, block)
        })?;
        Ok(Tile::new(DType::F32, &ty.shape, Kind::Coded(coded)))
    }

    /// Visits the blocks of a tile; `valid` (rows, columns) cuts the last ones.
    fn each_block(
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
            body(x, &at.idx[..at_lead], Block { rows, cols })
        })
    }

    /// Point of a matrix element: tiles of rank 1 have no rows.
    fn element(&self, tile: &Tile, lead: &[Ix], row: Reg, col: Reg) -> Point {
        let idx = match tile.shape.len() {
            1 => vec![Ix::of(col)],
            _ => [lead, &[Ix::of(row), Ix::of(col)]].concat(),
        };
        Point::single(idx)
    }

    /// Folds something over a block's elements.
    fn over_block(
        &mut self,
        block: Block,
        start: Reg,
        step: &mut dyn FnMut(&mut Self, Reg, Reg, Reg) -> Result<Reg>,
    ) -> Result<Reg> {
        let (outer, carried) = self.em.open_for(block.rows.0, block.rows.1, 1, &[start]);
        let row = outer.var();
        let (inner, value) = self.em.open_for(block.cols.0, block.cols.1, 1, &carried);
        let next = step(self, row, inner.var(), value[0])?;
        let value = self.em.close_for(inner, &[next]);
        Ok(self.em.close_for(outer, &value)[0])
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
        let greatest = self.over_block(block, zero, &mut |x, row, col, m| {
            let value = x.eval(values, &x.element(values, lead, row, col))?;
            let magnitude = x.em.func(Func::Abs, value);
            Ok(x.em.max(m, magnitude))
        })?;
        let largest = self.em.float(largest_code(coded.encoding.code));
        let ratio = self.em.arith(Arith::Div, greatest, largest);
        let ratio = self.cast(DType::F32, scale.dtype, ratio);
        let none = self.em.cmp(Cmp::Eq, ratio, zero);
        let one = self.em.float(1.0);
        let ratio = self.em.select(none, one, ratio);
        self.write_scale(values, coded, lead, block, ratio)?;
        let none = self.em.int32(0);
        let sum = self.over_block(block, none, &mut |x, row, col, sum| {
            let at = x.element(values, lead, row, col);
            let value = x.eval(values, &at)?;
            let value = x.em.arith(Arith::Div, value, ratio);
            let code = x.quantised(coded.encoding.code, value);
            x.write_code(coded, &at, code)?;
            match scale.sum {
                true => Ok(x.em.add(sum, code)),
                false => Ok(sum),
            }
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

    fn write_scale_at(&mut self, coded: &Coded, at: &Point, scale: Reg) -> Result<()> {
        let (Some(grid), Some(ty)) = (&coded.layout.scales, coded.encoding.scale) else {
            return Ok(());
        };
        let (positions, _) = self.coordinates(coded, at)?;
        let place = self.place_of(&grid.digits, &positions);
        let place = self.em.add(place, grid.offset);
        let base = self.place(coded.place);
        let address = self.em.add(base, place);
        self.em.store_as(ty.dtype, address, 0, scale);
        Ok(())
    }

    fn write_sum(
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
        let (positions, _) = self.coordinates(coded, &at)?;
        let place = self.place_of(&sums.digits, &positions);
        let place = self.em.add(place, sums.offset);
        let base = self.place(coded.place);
        let address = self.em.add(base, place);
        self.em.store(MemElem::I32, address, 0, sum);
        Ok(())
    }

    /// Writes a code, as memory has it, to its place.
    fn write_code(&mut self, coded: &Coded, at: &Point, code: Reg) -> Result<()> {
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

    /// Stores a tile to memory that is packed, encoded or below a byte.
    pub fn store_coded(&mut self, tile: &TileRef, to: &Coded) -> Result<()> {
        let source = match &tile.kind {
            Kind::Coded(from) if from.encoding == to.encoding => Some(from),
            _ if to.encoding.is_plain() => None,
            _ => return Err(self.cannot("a store of plain elements to a scaled tensor")),
        };
        let limits = (0..tile.shape.len()).map(|axis| {
            let along = to.axes.iter().find(|a| a.tile == Some(axis));
            along.filter(|a| a.gather.is_none()).and_then(|a| a.valid)
        });
        let limits: Vec<Option<Reg>> = limits.collect();
        let shape = tile.shape.clone();
        let scaled = !to.encoding.is_plain();
        let space = Space { shape: &shape, limits: limits.clone(), tiles: &[], wide: false };
        self.for_each(&space, &mut |x, at| {
            let (_, cond) = x.coordinates(to, at)?;
            x.em.open_block();
            match source {
                Some(from) => {
                    let (code, scale) = x.code_and_scale(from, at)?;
                    x.write_code(to, at, code)?;
                    if scaled {
                        x.write_scale_at(to, at, scale)?;
                    }
                }
                None => {
                    let value = x.eval(tile, at)?;
                    let code = x.em.narrow(to.encoding.code, value);
                    x.write_code(to, at, code)?;
                }
            }
            let then = x.em.close_block();
            let always = x.truth(true);
            x.em.branch(cond.unwrap_or(always), then, vec![]);
            Ok(())
        })?;
        self.store_sums(tile, source, to, &limits)
    }

    /// Code as memory has it, and scale, of an element.
    fn code_and_scale(&mut self, from: &Coded, at: &Point) -> Result<(Reg, Reg)> {
        let unscaled = Coded { encoding: Encoding::plain(from.encoding.code), ..from.clone() };
        let (positions, cond) = self.coordinates(&unscaled, at)?;
        let zero = self.em.int(0);
        let positions: Vec<Reg> =
            positions.iter().map(|p| cond.map_or(*p, |c| self.em.select(c, *p, zero))).collect();
        let unit = self.place_of(&from.layout.codes, &positions);
        let unit = self.em.add_imm(unit, from.layout.header);
        let base = self.place(from.place);
        let mut code = self.load_raw(from.encoding, base, unit);
        if let Some(cond) = cond {
            let none = self.em.like(code, 0.0);
            code = self.em.select(cond, code, none);
        }
        let mut scale = self.em.float(1.0);
        if let (Some(grid), Some(ty)) = (&from.layout.scales, from.encoding.scale) {
            let place = self.place_of(&grid.digits, &positions);
            let place = self.em.add(place, grid.offset);
            let address = self.em.add(base, place);
            scale = self.em.load_as(ty.dtype, false, address, 0);
        }
        Ok((code, scale))
    }

    fn store_sums(
        &mut self,
        tile: &TileRef,
        source: Option<&Coded>,
        to: &Coded,
        limits: &[Option<Reg>],
    ) -> Result<()> {
        let (Some(from), Some(scale)) = (source, to.encoding.scale) else { return Ok(()) };
        if !scale.sum {
            return Ok(());
        }
        if to.axes.iter().any(|a| a.gather.is_some()) || to.cond.is_some() {
            return Err(self.cannot("a scattered store of sums of codes"));
        }
        let rank = tile.shape.len();
        let rows = if rank > 1 { limits[rank - 2] } else { None };
        let shape = tile.shape.clone();
        self.each_block(&shape, scale, Some([rows, limits[rank - 1]]), &mut |x, lead, block| {
            let any_row = x.em.cmp(Cmp::Lt, block.rows.0, block.rows.1);
            let any_col = x.em.cmp(Cmp::Lt, block.cols.0, block.cols.1);
            let mut any = x.em.and(any_row, any_col);
            for (ix, limit) in lead.iter().zip(limits) {
                if let Some(limit) = limit {
                    any = x.and_below(Some(any), *ix, *limit).unwrap_or(any);
                }
            }
            x.em.open_block();
            let none = x.em.int32(0);
            let sum = x.over_block(block, none, &mut |x, row, col, sum| {
                let (code, _) = x.code_and_scale(from, &x.element(tile, lead, row, col))?;
                let code = x.em.widen(from.encoding.code, code);
                Ok(x.em.add(sum, code))
            })?;
            x.write_sum(tile, to, lead, block, sum)?;
            let then = x.em.close_block();
            x.em.branch(any, then, vec![]);
            Ok(())
        })
    }
}
