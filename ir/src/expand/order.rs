//! Operations that name elements: topk, pick, place, lookup; and concat.

use super::eval::{Ix, Point};
use super::nest::Space;
use super::tile::{Kind, Tile, TileRef, View, kept_as};
use super::uses::{same_bits, tables};
use super::{Expander, Result};
use crate::dtype::DType;
use crate::kernel::ValueId;
use crate::loops::{Arith, Cmp, Convert, Elem, Inst, MemElem, Reg};

/// Key of an element already taken; below every other.
const TAKEN: i64 = i32::MIN as i64;
/// Key of an element that is masked out.
const MASKED: i64 = TAKEN + 1;
/// Least key of an element that takes part.
const LEAST: i64 = TAKEN + 2;

impl<'k> Expander<'k> {
    /// Constants in scratch for every table of the kernel.
    pub fn fill_tables(&mut self) {
        let mut found = vec![];
        tables(&self.kernel.body, &mut found);
        for table in found {
            let id = self.em.scratch.allocate_lasting(4 * table.len() as u64);
            let address = self.em.buffer(id, 0);
            for (i, v) in (0..).zip(table) {
                let value = self.em.float(*v);
                self.em.store(MemElem::F32, address, 4 * i, value);
            }
            self.tables.push((table, id));
        }
    }

    pub fn lookup(&mut self, result: ValueId, arg: ValueId, table: &[f64]) -> Result<TileRef> {
        let tile = self.tile(arg)?;
        let id = self.tables.iter().find(|(t, _)| same_bits(t, table)).map(|(_, id)| *id);
        let id = id.ok_or_else(|| self.cannot("an unknown table"))?;
        let last = table.len() as i64 - 1;
        self.each_element(result, std::slice::from_ref(&tile), &mut |x, at| {
            let code = x.eval(&tile, at)?;
            let code = x.em.arith_imm(Arith::And, code, last);
            let code = x.em.convert(Convert::I32ToI64, code);
            let base = x.em.buffer(id, 0);
            let by = x.em.mul_imm(code, 4);
            let address = x.em.add(base, by);
            Ok(x.em.load(MemElem::F32, false, address, 0))
        })
    }

    /// A new tile of a value's type, element by element.
    fn each_element(
        &mut self,
        result: ValueId,
        tiles: &[TileRef],
        value: &mut dyn FnMut(&mut Self, &Point) -> Result<Reg>,
    ) -> Result<TileRef> {
        let ty = self.kernel.ty(result);
        let (dtype, shape) = (ty.encoding.decoded(), &ty.shape);
        if shape.is_empty() {
            let reg = value(self, &Point::single(vec![]))?;
            return Ok(Tile::scalar(dtype, reg));
        }
        let (id, view) = self.fresh(dtype, shape);
        let space = Space { shape, limits: vec![None; shape.len()], tiles, wide: false };
        self.for_each(&space, &mut |x, at| {
            let reg = value(x, at)?;
            let (address, offset) = x.address(&view, at)?;
            x.em.store_as(kept_as(dtype), address, offset, reg);
            Ok(())
        })?;
        self.owners.insert(id, result);
        Ok(Tile::new(dtype, shape, Kind::View(view)))
    }

    pub fn pick(&mut self, result: ValueId, arg: ValueId, index: ValueId) -> Result<TileRef> {
        let (tile, index) = (self.tile(arg)?, self.tile(index)?);
        self.each_element(result, std::slice::from_ref(&index), &mut |x, at| {
            let position = x.eval(&index, at)?;
            let position = x.em.convert(Convert::I32ToI64, position);
            let mut idx = at.idx.clone();
            idx.pop();
            idx.push(Ix::of(position));
            x.eval(&tile, &Point::single(idx))
        })
    }

    pub fn place_at(&mut self, result: ValueId, arg: ValueId, index: ValueId) -> Result<TileRef> {
        let (tile, index) = (self.tile(arg)?, self.tile(index)?);
        let shape = self.kernel.ty(result).shape.clone();
        let (id, view) = self.fresh(tile.dtype, &shape);
        let zero = Tile::new(tile.dtype, &shape, Kind::Splat(0.0));
        self.write(&zero, &view, &shape)?;
        let from = tile.shape.clone();
        let tiles = [tile, index];
        let limits = vec![None; from.len()];
        let space = Space { shape: &from, limits, tiles: &tiles, wide: false };
        self.for_each(&space, &mut |x, at| {
            let (value, position) = (x.eval(&tiles[0], at)?, x.eval(&tiles[1], at)?);
            let position = x.em.convert(Convert::I32ToI64, position);
            let mut idx = at.idx.clone();
            idx.pop();
            idx.push(Ix::of(position));
            let (address, offset) = x.address(&view, &Point::single(idx))?;
            let before = x.em.load_as(view.store, false, address, offset);
            let sum = x.em.add(before, value);
            x.em.store_as(view.store, address, offset, sum);
            Ok(())
        })?;
        self.owners.insert(id, result);
        Ok(Tile::new(tiles[0].dtype, &shape, Kind::View(view)))
    }

    pub fn concat(&mut self, result: ValueId, args: &[ValueId], axis: usize) -> Result<TileRef> {
        let ty = self.kernel.ty(result);
        let (id, mut view) = self.fresh_apart(ty.encoding.code, &ty.shape);
        if axis > 0 {
            view.axes[0].valid = self.seen_rows(result)?;
        }
        let mut start = 0;
        for arg in args {
            let tile = self.tile(*arg)?;
            let mut part = view.clone();
            if let crate::loops::Stride::Bytes(s) = view.axes[axis].stride {
                part.place.offset += start * s;
            }
            self.write(&tile, &part, &tile.shape.clone())?;
            start += i64::from(tile.shape[axis]);
        }
        view.axes[0].valid = None;
        self.owners.insert(id, result);
        Ok(Tile::new(ty.encoding.code, &ty.shape, Kind::View(view)))
    }

    /// Integer keys in the order of the elements: the greatest is found `k` times in vectors, the
    /// lowest position of those that have it, and struck out.
    pub fn topk(
        &mut self,
        result: ValueId,
        arg: ValueId,
        mask: Option<ValueId>,
        k: u32,
    ) -> Result<TileRef> {
        let tile = self.tile(arg)?;
        let mask = mask.map(|m| self.tile(m)).transpose()?;
        let lanes = self.em.lanes;
        let shape = tile.shape.clone();
        let Some((last, rows)) = shape.split_last() else {
            return Err(self.cannot("topk of a scalar"));
        };
        let padded = last.next_multiple_of(lanes);
        let (_, keys) = self.fresh(DType::I32, &[rows, &[padded]].concat());
        self.write_keys(&tile, mask.as_ref(), &keys, padded)?;
        let ty = self.kernel.ty(result);
        let (id, view) = self.fresh(DType::I32, &ty.shape);
        let limits = vec![None; rows.len()];
        let space = Space { shape: rows, limits, tiles: &[], wide: false };
        self.for_each(&space, &mut |x, at| x.take_greatest(&keys, &view, padded, k, at))?;
        self.owners.insert(id, result);
        Ok(Tile::new(DType::I32, &ty.shape, Kind::View(view)))
    }

    fn write_keys(
        &mut self,
        tile: &TileRef,
        mask: Option<&TileRef>,
        keys: &View,
        padded: u32,
    ) -> Result<()> {
        let last = tile.shape.len() - 1;
        if padded > tile.shape[last] {
            let mut rest = tile.shape.clone();
            rest[last] = padded - tile.shape[last];
            let mut part = keys.clone();
            part.place.offset += 4 * i64::from(tile.shape[last]);
            let taken = Tile::new(DType::I32, &rest, Kind::Splat(TAKEN as f64));
            self.write(&taken, &part, &rest)?;
        }
        let mut tiles = vec![self.prepare(tile, last)?];
        if let Some(mask) = mask {
            tiles.push(self.prepare(mask, last)?);
        }
        let wide = tiles.iter().all(|t| t.spread(last, &self.em) != super::tile::Spread::Single);
        let limits = vec![None; last + 1];
        let space = Space { shape: &tile.shape.clone(), limits, tiles: &tiles, wide };
        self.for_each(&space, &mut |x, at| {
            let value = x.eval(&tiles[0], at)?;
            let mut key = x.key_of(value);
            if let Some(mask) = tiles.get(1) {
                let takes_part = x.eval(mask, at)?;
                let out = x.em.int_like(key, MASKED);
                key = x.em.select(takes_part, key, out);
            }
            let key = if at.wide.is_some() { x.em.wide(key) } else { key };
            let (address, offset) = x.address(keys, at)?;
            x.em.store(MemElem::I32, address, offset, key);
            Ok(())
        })
    }

    /// An integer that orders as the number does.
    fn key_of(&mut self, value: Reg) -> Reg {
        let key = if self.em.ty(value).elem == Elem::F32 {
            // -0 becomes 0.
            let zero = self.em.like(value, 0.0);
            let value = self.em.add(value, zero);
            let bits = self.em.bits(value);
            let sign = self.em.arith_imm(Arith::ShrS, bits, 31);
            let flip = self.em.arith_imm(Arith::And, sign, i32::MAX.into());
            self.em.arith(Arith::Xor, bits, flip)
        } else {
            value
        };
        let least = self.em.int_like(key, LEAST);
        self.em.max(key, least)
    }

    /// The positions of a row's `k` greatest keys, each struck out once it is taken.
    fn take_greatest(
        &mut self,
        keys: &View,
        to: &View,
        padded: u32,
        k: u32,
        at: &Point,
    ) -> Result<()> {
        let (zero, rounds) = (self.em.int(0), self.em.int(k.into()));
        self.counted(zero, rounds, 1, None, &mut |x, round| {
            let index = x.greatest(keys, padded, at)?;
            let out = Point::single([&at.idx[..], &[Ix::of(round)]].concat());
            let (address, offset) = x.address(to, &out)?;
            x.em.store(MemElem::I32, address, offset, index);
            let position = x.em.convert(Convert::I32ToI64, index);
            let taken = Point::single([&at.idx[..], &[Ix::of(position)]].concat());
            let (address, offset) = x.address(keys, &taken)?;
            let mark = x.em.int32(TAKEN);
            x.em.store(MemElem::I32, address, offset, mark);
            Ok(())
        })
    }

    fn greatest(&mut self, keys: &View, padded: u32, at: &Point) -> Result<Reg> {
        let lanes = self.em.lanes;
        let least = self.em.int32(TAKEN);
        let none = self.em.int32(0);
        let lane = match lanes {
            1 => none,
            _ => self.em.inst(Elem::I32, lanes, Inst::Iota),
        };
        let inits = [self.em.wide(least), self.em.wide(none)];
        let (lo, hi) = (self.em.int(0), self.em.int(padded.into()));
        let (open, best) = self.em.open_for(lo, hi, lanes.into(), &inits);
        let ix = Ix::of(open.var());
        let wide = (lanes > 1).then_some(at.idx.len());
        let point = Point { idx: [&at.idx[..], &[ix]].concat(), wide };
        let (address, offset) = self.address(keys, &point)?;
        let key = self.em.load(MemElem::I32, lanes > 1, address, offset);
        let first = self.em.convert(Convert::I64ToI32, open.var());
        let position = self.em.add(first, lane);
        let better = self.em.cmp(Cmp::Gt, key, best[0]);
        let next_key = self.em.select(better, key, best[0]);
        let next = self.em.select(better, position, best[1]);
        let best = self.em.close_for(open, &[next_key, next]);
        let top = self.em.across(Arith::Max, best[0]);
        let is_top = self.em.cmp(Cmp::Eq, best[0], top);
        let far = self.em.int_like(best[1], i32::MAX.into());
        let candidates = self.em.select(is_top, best[1], far);
        Ok(self.em.across(Arith::Min, candidates))
    }
}
