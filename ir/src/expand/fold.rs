//! Reductions and scans.

use super::eval::{Ix, Point};
use super::nest::Space;
use super::tile::{Kind, Spread, Tile, TileRef, kept_as};
use super::{Expander, Result, fold_arith};
use crate::dtype::DType;
use crate::kernel::{Fold, ValueId};
use crate::loops::{Arith, Reg};

/// Most vectors that are combined independently.
const PARTS: i64 = 4;

impl Expander<'_> {
    /// What combines to the other operand.
    fn neutral(&mut self, fold: Fold, dtype: DType) -> Reg {
        match (fold, dtype) {
            (Fold::Add, DType::I32) => self.em.int32(0),
            (Fold::Max, DType::I32) => self.em.int32(i32::MIN.into()),
            (Fold::Min, DType::I32) => self.em.int32(i32::MAX.into()),
            (Fold::Add, _) => self.em.float(0.0),
            (Fold::Max, _) => self.em.float(f64::NEG_INFINITY),
            (Fold::Min, _) => self.em.float(f64::INFINITY),
        }
    }

    /// The operand in a form that vectors along an axis can be read from without tests.
    pub fn smooth(&mut self, tile: &TileRef, axis: usize) -> Result<TileRef> {
        let tile = self.prepare(tile, axis)?;
        let mut bounds = vec![];
        tile.bounds(axis, &mut bounds);
        let long = tile.shape[axis] >= self.em.lanes;
        if bounds.is_empty() || !long { Ok(tile) } else { self.copied(&tile) }
    }

    pub fn reduce(
        &mut self,
        result: ValueId,
        fold: Fold,
        axis: usize,
        arg: ValueId,
    ) -> Result<TileRef> {
        let tile = self.tile(arg)?;
        let last = tile.shape.len() - 1;
        let tile = self.smooth(&tile, last)?;
        let mut shape = tile.shape.clone();
        shape.remove(axis);
        if shape.is_empty() {
            let value = self.fold_row(fold, &tile, &[])?;
            return Ok(Tile::scalar(tile.dtype, value));
        }
        let (id, view) = self.fresh(tile.dtype, &shape);
        let store = kept_as(tile.dtype);
        // Along the last axis rows are folded one by one; else vectors of adjacent columns.
        let wide = axis != last && tile.spread(last, &self.em) == Spread::Wide;
        let limits = vec![None; shape.len()];
        let space = Space { shape: &shape, limits, tiles: &[], wide };
        self.for_each(&space, &mut |x, at| {
            let value = match axis == last {
                true => x.fold_row(fold, &tile, &at.idx)?,
                false => x.fold_column(fold, &tile, axis, at)?,
            };
            let (address, offset) = x.address(&view, at)?;
            x.em.store_as(store, address, offset, value);
            Ok(())
        })?;
        self.owners.insert(id, result);
        Ok(Tile::new(tile.dtype, &shape, Kind::View(view)))
    }

    /// Elements of the last axis, in vectors, then the rest.
    fn fold_row(&mut self, fold: Fold, tile: &TileRef, idx: &[Ix]) -> Result<Reg> {
        let axis = idx.len();
        let op = fold_arith(fold);
        let extent = i64::from(tile.shape[axis]);
        let lanes = i64::from(self.em.lanes);
        self.hoist(std::slice::from_ref(tile), idx, axis)?;
        let wide = lanes > 1 && extent >= lanes && tile.spread(axis, &self.em) == Spread::Wide;
        let whole = if wide { extent / lanes * lanes } else { 0 };
        let neutral = self.neutral(fold, tile.dtype);
        let mut total = None;
        if whole > 0 {
            let parts = (1..=PARTS).rev().find(|p| (whole / lanes) % p == 0).unwrap_or(1);
            let start = self.em.wide(neutral);
            let (lo, hi) = (self.em.int(0), self.em.int(whole));
            let (open, sums) =
                self.em.open_for(lo, hi, lanes * parts, &vec![start; parts as usize]);
            let mut next = vec![];
            for (part, sum) in (0..).zip(sums) {
                let ix = Ix { var: Some(open.var()), plus: part * lanes };
                let point = Point { idx: [idx, &[ix]].concat(), wide: Some(axis) };
                let value = self.eval(tile, &point)?;
                next.push(self.em.arith(op, sum, value));
            }
            let sums = self.em.close_for(open, &next);
            total = self.tree(op, &sums);
        }
        let start = match total {
            Some(vector) => self.em.across(op, vector),
            None => neutral,
        };
        let value = if whole < extent {
            let (lo, hi) = (self.em.int(whole), self.em.int(extent));
            let (open, sum) = self.em.open_for(lo, hi, 1, &[start]);
            let point = Point::single([idx, &[Ix::of(open.var())]].concat());
            let value = self.eval(tile, &point)?;
            let next = self.em.arith(op, sum[0], value);
            self.em.close_for(open, &[next])[0]
        } else {
            start
        };
        self.hoisted.pop();
        Ok(value)
    }

    /// Combines registers pairwise.
    fn tree(&mut self, op: Arith, parts: &[Reg]) -> Option<Reg> {
        match parts {
            [] => None,
            [one] => Some(*one),
            _ => {
                let (low, high) = parts.split_at(parts.len() / 2);
                let (low, high) = (self.tree(op, low)?, self.tree(op, high)?);
                Some(self.em.arith(op, low, high))
            }
        }
    }

    /// Elements along an axis that is not the last, of one column or a vector of columns.
    fn fold_column(&mut self, fold: Fold, tile: &TileRef, axis: usize, at: &Point) -> Result<Reg> {
        let neutral = self.neutral(fold, tile.dtype);
        let start = if at.wide.is_some() { self.em.wide(neutral) } else { neutral };
        let (lo, hi) = (self.em.int(0), self.em.int(tile.shape[axis].into()));
        let (open, sum) = self.em.open_for(lo, hi, 1, &[start]);
        let value = self.eval(tile, &inserted(at, axis, Ix::of(open.var())))?;
        let value = if at.wide.is_some() { self.em.wide(value) } else { value };
        let next = self.em.arith(fold_arith(fold), sum[0], value);
        Ok(self.em.close_for(open, &[next])[0])
    }

    pub fn scan(
        &mut self,
        result: ValueId,
        fold: Fold,
        axis: usize,
        arg: ValueId,
    ) -> Result<TileRef> {
        let tile = self.tile(arg)?;
        let last = tile.shape.len() - 1;
        let tile = self.smooth(&tile, last)?;
        let mut shape = tile.shape.clone();
        let extent = shape.remove(axis);
        let (id, view) = self.fresh(tile.dtype, &tile.shape);
        let store = kept_as(tile.dtype);
        let wide = axis != last && tile.spread(last, &self.em) == Spread::Wide;
        let limits = vec![None; shape.len()];
        let space = Space { shape: &shape, limits, tiles: &[], wide };
        self.for_each(&space, &mut |x, at| {
            let neutral = x.neutral(fold, tile.dtype);
            let start = if at.wide.is_some() { x.em.wide(neutral) } else { neutral };
            let (lo, hi) = (x.em.int(0), x.em.int(extent.into()));
            let (open, sum) = x.em.open_for(lo, hi, 1, &[start]);
            let point = inserted(at, axis, Ix::of(open.var()));
            let value = x.eval(&tile, &point)?;
            let value = if at.wide.is_some() { x.em.wide(value) } else { value };
            let next = x.em.arith(fold_arith(fold), sum[0], value);
            let (address, offset) = x.address(&view, &point)?;
            x.em.store_as(store, address, offset, next);
            x.em.close_for(open, &[next]);
            Ok(())
        })?;
        self.owners.insert(id, result);
        Ok(Tile::new(tile.dtype, &tile.shape, Kind::View(view)))
    }
}

/// A point with one more axis.
fn inserted(at: &Point, axis: usize, ix: Ix) -> Point {
    let mut idx = at.idx.clone();
    idx.insert(axis, ix);
    Point { idx, wide: at.wide.map(|w| w + usize::from(w >= axis)) }
}
