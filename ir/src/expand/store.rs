//! Stores to memory that is packed, encoded or narrower than a byte.

use super::convert::mem_elem;
use super::eval::{Ix, Point};
use super::layout::{Coded, Digit};
use super::nest::Space;
use super::tile::{Kind, TileRef};
use super::{Expander, Result};
use crate::dtype::Encoding;
use crate::loops::{Arith, Cmp, MemElem, Reg, Stride};

impl Expander<'_> {
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
        if let Some(from) = source.filter(|from| is_copied(from, to, &shape, &limits)) {
            return self.copy_blocks(from, to, &shape, limits);
        }
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

    /// Copies rows of whole blocks: codes in vectors, then scales and sums.
    fn copy_blocks(
        &mut self,
        from: &Coded,
        to: &Coded,
        shape: &[u32],
        limits: Vec<Option<Reg>>,
    ) -> Result<()> {
        let codes = Space { shape, limits: limits.clone(), tiles: &[], wide: true };
        let elem = mem_elem(from.encoding.code).unwrap_or(MemElem::U8);
        self.for_each(&codes, &mut |x, at| {
            let source = x.part_of(from, at, &from.layout.codes, None)?;
            let code = x.em.load(elem, at.wide.is_some(), source, 0);
            let target = x.part_of(to, at, &to.layout.codes, None)?;
            x.em.store(elem, target, 0, code);
            Ok(())
        })?;
        let (Some(scale), Some(own), Some(theirs)) =
            (to.encoding.scale, &from.layout.scales, &to.layout.scales)
        else {
            return Ok(());
        };
        let mut parts = vec![(
            mem_elem(scale.dtype).unwrap_or(MemElem::U8),
            (&own.digits, own.offset),
            (&theirs.digits, theirs.offset),
        )];
        if let (Some(own), Some(theirs)) = (&own.sums, &theirs.sums) {
            let (own, theirs) = ((&own.digits, own.offset), (&theirs.digits, theirs.offset));
            parts.push((MemElem::I32, own, theirs));
        }
        let mut blocks = shape.to_vec();
        let last = blocks.len() - 1;
        blocks[last] /= scale.cols;
        let space = Space { shape: &blocks, limits, tiles: &[], wide: false };
        self.for_each(&space, &mut |x, at| {
            let block = x.position(at.idx[last]);
            let column = x.em.mul_imm(block, scale.cols.into());
            let idx = [&at.idx[..last], &[Ix::of(column)]].concat();
            let first = Point::single(idx);
            for (elem, own, theirs) in &parts {
                let source = x.part_of(from, &first, own.0, Some(own.1))?;
                let value = x.em.load(*elem, false, source, 0);
                let target = x.part_of(to, &first, theirs.0, Some(theirs.1))?;
                x.em.store(*elem, target, 0, value);
            }
            Ok(())
        })
    }

    /// Address of what digits place of an element that nothing masks out.
    pub fn part_of(
        &mut self,
        coded: &Coded,
        at: &Point,
        digits: &[Digit],
        offset: Option<Reg>,
    ) -> Result<Reg> {
        let (positions, _) = self.coordinates(coded, at)?;
        let by = self.place_of(digits, &positions);
        let by = offset.map_or(by, |offset| self.em.add(by, offset));
        let base = self.place(coded.place);
        Ok(self.em.add(base, by))
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
            let all = (&**tile, lead, block);
            let sum = x.over_block(all, (Arith::Add, none), &mut |x, at| {
                let (code, _) = x.code_and_scale(from, at)?;
                Ok(x.em.widen(from.encoding.code, code))
            })?;
            x.write_sum(tile, to, lead, block, sum)?;
            let then = x.em.close_block();
            x.em.branch(any, then, vec![]);
            Ok(())
        })
    }
}

/// Whether a tile's blocks are blocks of the memory that it is stored to, nothing of them is masked
/// out, and codes of a row lie one after another.
fn is_copied(from: &Coded, to: &Coded, shape: &[u32], limits: &[Option<Reg>]) -> bool {
    let Some((last, scale)) = shape.len().checked_sub(1).zip(to.encoding.scale) else {
        return false;
    };
    let along = |coded: &Coded| {
        let axis = coded.axes.iter().position(|a| a.tile == Some(last))?;
        let apart = coded.layout.scales.as_ref().is_some_and(|s| s.per_row.is_some());
        let mut digits = coded.layout.codes.iter().filter(|d| d.axis == axis);
        let adjacent = digits.all(|d| d.divisor == 1 && d.stride == Stride::Bytes(1));
        let whole = coded.axes[axis].multiple % i64::from(scale.cols) == 0;
        let gathered = coded.axes.iter().any(|a| a.gather.is_some());
        let is_last = axis + 1 == coded.axes.len();
        (apart && adjacent && whole && is_last && !gathered && coded.cond.is_none()).then_some(())
    };
    scale.rows == 1
        && to.encoding.code.bits() == 8
        && shape[last].is_multiple_of(scale.cols)
        && limits[last].is_none()
        && along(from).and(along(to)).is_some()
}
