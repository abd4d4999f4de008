//! Loop nests over tiles: writing a tile to memory, in vectors along the last axis.

use super::eval::{Ix, Point, dense_bytes};
use super::scratch::BufferId;
use super::tile::{
    Kind, Origin, Place, Spread, Tile, TileRef, View, ViewAxis, bytes_of, kept_as, row_major,
};
use super::{Expander, LINE, PAGE, Result};
use crate::dtype::DType;
use crate::loops::{Arith, Cmp, Reg, Stride};
use std::rc::Rc;

/// Most vectors of a row that are written one after another without a loop.
const UNROLL: u64 = 4;

/// Greatest weight of an expression whose evaluation is unrolled.
const UNROLL_WEIGHT: u32 = 12;

/// What is done at each point of a nest.
pub(super) type Body<'b, 'k> = &'b mut dyn FnMut(&mut Expander<'k>, &Point) -> Result<()>;

/// The points that a nest visits.
pub(super) struct Space<'s> {
    pub shape: &'s [u32],
    /// I64 per axis: positions at or beyond it are left out.
    pub limits: Vec<Option<Reg>>,
    /// Tiles evaluated at each point.
    pub tiles: &'s [TileRef],
    /// Whether points may be vectors along the last axis.
    pub wide: bool,
}

impl<'k> Expander<'k> {
    /// Visits every point of a space, rows first.
    pub fn for_each(&mut self, space: &Space, body: Body<'_, 'k>) -> Result<()> {
        let mut idx = vec![];
        self.nest(space, &mut idx, body)
    }

    fn nest(&mut self, space: &Space, idx: &mut Vec<Ix>, body: Body<'_, 'k>) -> Result<()> {
        let axis = idx.len();
        if axis == space.shape.len() {
            return body(self, &Point::single(idx.clone()));
        }
        if axis + 1 == space.shape.len() {
            return self.row(space, idx, body);
        }
        if space.shape[axis] == 1 && space.limits[axis].is_none() {
            idx.push(Ix::at(0));
            self.nest(space, idx, body)?;
            idx.pop();
            return Ok(());
        }
        let hi = self.limit(space, axis);
        let lo = self.em.int(0);
        self.counted(lo, hi, 1, space.limits[axis], &mut |x, var| {
            idx.push(Ix::of(var));
            x.nest(space, idx, body)?;
            idx.pop();
            Ok(())
        })
    }

    fn limit(&mut self, space: &Space, axis: usize) -> Reg {
        let extent = self.em.int(space.shape[axis].into());
        match space.limits[axis] {
            Some(valid) => self.em.min(valid, extent),
            None => extent,
        }
    }

    /// A loop; in its body the variable is known to be below `valid`.
    pub fn counted(
        &mut self,
        lo: Reg,
        hi: Reg,
        step: i64,
        valid: Option<Reg>,
        body: &mut dyn FnMut(&mut Self, Reg) -> Result<()>,
    ) -> Result<()> {
        let (open, _) = self.em.open_for(lo, hi, step, &[]);
        let var = open.var();
        let known = self.facts.len();
        self.facts.extend(valid.map(|v| (var, v)));
        body(self, var)?;
        self.facts.truncate(known);
        self.em.close_for(open, &[]);
        Ok(())
    }

    /// The last axis.
    fn row(&mut self, space: &Space, idx: &mut [Ix], body: Body<'_, 'k>) -> Result<()> {
        let axis = idx.len();
        let extent = i64::from(space.shape[axis]);
        let lanes = i64::from(self.em.lanes);
        self.hoist(space.tiles, idx, axis)?;
        let whole = if space.wide && lanes > 1 { extent / lanes * lanes } else { 0 };
        if let Some(valid) = space.limits[axis] {
            self.limited_row(idx, valid, extent, whole > 0, body)?;
        } else {
            let mut bounds = vec![];
            space.tiles.iter().for_each(|t| t.bounds(axis, &mut bounds));
            if whole > 0 && !bounds.is_empty() {
                self.ragged_row(idx, whole, &bounds, body)?;
            } else if whole > 0 {
                let light = space.tiles.iter().map(|t| t.weight()).sum::<u32>() <= UNROLL_WEIGHT;
                self.stepped(idx, (0, whole), lanes, light, true, body)?;
            }
            self.stepped(idx, (whole, extent), 1, false, false, body)?;
        }
        self.hoisted.pop();
        Ok(())
    }

    /// Static points `range` in steps, unrolled if they are few.
    fn stepped(
        &mut self,
        idx: &[Ix],
        range: (i64, i64),
        step: i64,
        light: bool,
        wide: bool,
        body: Body<'_, 'k>,
    ) -> Result<()> {
        let count = ((range.1 - range.0) / step) as u64;
        let axis = idx.len();
        let mut visit = |x: &mut Self, ix: Ix| {
            let point = Point { idx: [idx, &[ix]].concat(), wide: wide.then_some(axis) };
            body(x, &point)
        };
        if count <= 1 || (light && count <= UNROLL) {
            return (0..count as i64).try_for_each(|i| visit(self, Ix::at(range.0 + i * step)));
        }
        let unroll = match light {
            true => (1..=UNROLL).rev().find(|u| count.is_multiple_of(*u)).unwrap_or(1) as i64,
            false => 1,
        };
        let (lo, hi) = (self.em.int(range.0), self.em.int(range.1));
        self.counted(lo, hi, step * unroll, None, &mut |x, var| {
            (0..unroll).try_for_each(|u| visit(x, Ix { var: Some(var), plus: u * step }))
        })
    }

    /// Points below a limit: whole vectors, then the rest one by one.
    fn limited_row(
        &mut self,
        idx: &[Ix],
        valid: Reg,
        extent: i64,
        wide: bool,
        body: Body<'_, 'k>,
    ) -> Result<()> {
        let axis = idx.len();
        let (zero, extent) = (self.em.int(0), self.em.int(extent));
        let hi = self.em.min(valid, extent);
        let mut from = zero;
        if wide {
            let lanes = i64::from(self.em.lanes);
            let some = self.em.max(hi, zero);
            from = self.em.arith_imm(Arith::And, some, -lanes);
            self.counted(zero, from, lanes, Some(valid), &mut |x, var| {
                let point = Point { idx: [idx, &[Ix::of(var)]].concat(), wide: Some(axis) };
                body(x, &point)
            })?;
        }
        self.counted(from, hi, 1, Some(valid), &mut |x, var| {
            body(x, &Point::single([idx, &[Ix::of(var)]].concat()))
        })
    }

    /// All points, with operands masked at `bounds`: vectors that a mask cuts are done one by one.
    fn ragged_row(
        &mut self,
        idx: &[Ix],
        whole: i64,
        bounds: &[Reg],
        body: Body<'_, 'k>,
    ) -> Result<()> {
        let axis = idx.len();
        let lanes = i64::from(self.em.lanes);
        let (zero, hi) = (self.em.int(0), self.em.int(whole));
        self.counted(zero, hi, lanes, None, &mut |x, var| {
            let end = x.em.add_imm(var, lanes);
            let mut cut = None;
            for bound in bounds {
                let begun = x.em.cmp(Cmp::Lt, var, *bound);
                let over = x.em.cmp(Cmp::Gt, end, *bound);
                let inside = x.em.and(begun, over);
                cut = Some(cut.map_or(inside, |c| x.em.arith(Arith::Or, c, inside)));
            }
            let Some(cut) = cut else { return Ok(()) };
            x.em.open_block();
            x.counted(var, end, 1, None, &mut |x, lane| {
                body(x, &Point::single([idx, &[Ix::of(lane)]].concat()))
            })?;
            let single = x.em.close_block();
            x.em.open_block();
            body(x, &Point { idx: [idx, &[Ix::of(var)]].concat(), wide: Some(axis) })?;
            let vector = x.em.close_block();
            x.em.branch(cut, single, vector);
            Ok(())
        })
    }

    /// Evaluates what does not change along the last axis once, ahead of it. The caller pops
    /// `hoisted`.
    pub fn hoist(&mut self, tiles: &[TileRef], idx: &[Ix], axis: usize) -> Result<()> {
        self.hoisted.push(Default::default());
        let point = Point::single([idx, &[Ix::at(0)]].concat());
        tiles.iter().try_for_each(|t| self.hoist_in(t, &point, axis))
    }

    fn hoist_in(&mut self, tile: &TileRef, at: &Point, axis: usize) -> Result<()> {
        let fixed = tile.spread(axis, &self.em) == Spread::Uniform;
        if !fixed {
            return match &tile.kind {
                Kind::View(_) | Kind::Coded(_) => Ok(()),
                _ => tile.children().into_iter().try_for_each(|c| self.hoist_in(c, at, axis)),
            };
        }
        let reg = self.eval(tile, at)?;
        let top = self.hoisted.last_mut().expect("the caller pushed a level");
        top.insert(Rc::as_ptr(tile), reg);
        Ok(())
    }

    /// The tile, with what cannot be had in vectors along an axis put into scratch where that
    /// makes the rest a matter of vectors.
    pub fn prepare(&mut self, tile: &TileRef, axis: usize) -> Result<TileRef> {
        let lanes = self.em.lanes;
        let short = tile.shape.get(axis).is_none_or(|e| *e < lanes);
        if lanes == 1 || short || tile.spread(axis, &self.em) != Spread::Single {
            return Ok(tile.clone());
        }
        if !tile.is_wide_itself() {
            return Ok(tile.clone());
        }
        let kind = match &tile.kind {
            Kind::Map { args, expr } => {
                let args = args.iter().map(|a| self.prepared(a, axis));
                Kind::Map { args: args.collect::<Result<_>>()?, expr: expr.clone() }
            }
            Kind::Where([c, a, b]) => Kind::Where([
                self.prepared(c, axis)?,
                self.prepared(a, axis)?,
                self.prepared(b, axis)?,
            ]),
            Kind::Cast(a) => Kind::Cast(self.prepared(a, axis)?),
            _ => return Ok(tile.clone()),
        };
        Ok(Tile::new(tile.dtype, &tile.shape, kind))
    }

    /// An operand made fit for vectors.
    fn prepared(&mut self, part: &TileRef, axis: usize) -> Result<TileRef> {
        let part = self.prepare(part, axis)?;
        match part.spread(axis, &self.em) {
            Spread::Single => self.force(&part),
            _ => Ok(part),
        }
    }

    /// Writes a tile (of at most the view's rank) to memory. Masked-out elements of the view are
    /// not touched.
    pub fn write(&mut self, tile: &TileRef, to: &View, shape: &[u32]) -> Result<()> {
        // Rounding is the store's business.
        let tile = match &tile.kind {
            Kind::Cast(inner) if tile.dtype == to.store && rounds_alike(inner.dtype, to.store) => {
                inner
            }
            _ => tile,
        };
        let last = shape.len().saturating_sub(1);
        let dense = to.axes.last().is_some_and(|a| {
            a.gather.is_none() && a.stride == Stride::Bytes(bytes_of(to.store) as i64)
        });
        let tile = if dense { self.prepare(tile, last)? } else { tile.clone() };
        let wide = dense && tile.spread(last, &self.em) != Spread::Single;
        let limits = to.axes.iter().map(|a| if a.gather.is_some() { None } else { a.valid });
        let limits = limits.collect();
        let tiles = std::slice::from_ref(&tile);
        let space = Space { shape, limits, tiles, wide };
        if let Some(cond) = to.cond {
            self.em.open_block();
            self.write_all(&tile, to, &space)?;
            let then = self.em.close_block();
            self.em.branch(cond, then, vec![]);
            return Ok(());
        }
        self.write_all(&tile, to, &space)
    }

    fn write_all(&mut self, tile: &TileRef, to: &View, space: &Space) -> Result<()> {
        let target = View { cond: None, ..to.clone() };
        self.for_each(space, &mut |x, at| {
            let value = x.eval(tile, at)?;
            let value = if at.wide.is_some() { x.em.wide(value) } else { value };
            x.write_at(&target, at, value)
        })
    }

    /// Writes one element, or a vector, unless a scattered position is masked out.
    fn write_at(&mut self, to: &View, at: &Point, value: Reg) -> Result<()> {
        let mut plain = to.clone();
        let mut cond = None;
        for (axis, ix) in plain.axes.iter_mut().zip(&at.idx) {
            // Loop limits have taken care of it.
            axis.valid = None;
            if let Some(gather) = &mut axis.gather {
                let (_, inside) = self.gathered(gather, *ix)?;
                cond = self.both(cond, inside);
                gather.bound = None;
            }
        }
        let Some(cond) = cond else {
            let (address, offset) = self.address(&plain, at)?;
            self.em.store_as(to.store, address, offset, value);
            return Ok(());
        };
        self.em.open_block();
        let (address, offset) = self.address(&plain, at)?;
        self.em.store_as(to.store, address, offset, value);
        let then = self.em.close_block();
        self.em.branch(cond, then, vec![]);
        Ok(())
    }

    /// A new dense buffer for tiles of a type.
    pub fn fresh(&mut self, dtype: DType, shape: &[u32]) -> (BufferId, View) {
        let store = kept_as(dtype);
        let id = self.em.scratch.allocate(dense_bytes(shape, store));
        (id, dense_view(id, store, shape))
    }

    /// The tile in scratch, unless it is whole memory already.
    pub fn force(&mut self, tile: &TileRef) -> Result<TileRef> {
        if let Kind::View(v) = &tile.kind
            && v.is_whole()
            && matches!(v.place.origin, Origin::Buffer(_))
        {
            return Ok(tile.clone());
        }
        self.copied(tile)
    }

    /// The tile in scratch of its own.
    pub fn copied(&mut self, tile: &TileRef) -> Result<TileRef> {
        if tile.shape.is_empty() {
            let reg = self.eval(tile, &Point::single(vec![]))?;
            return Ok(Tile::scalar(tile.dtype, reg));
        }
        let (_, view) = self.fresh(tile.dtype, &tile.shape);
        self.write(tile, &view, &tile.shape)?;
        Ok(Tile::new(tile.dtype, &tile.shape, Kind::View(view)))
    }

    /// As [`Expander::copied`], of the first `rows` rows (I64) alone; the others are masked out.
    /// Rows do not meet in the sets of a cache.
    pub fn copied_rows(&mut self, tile: &TileRef, rows: Option<Reg>) -> Result<TileRef> {
        if rows.is_none() || tile.shape.is_empty() {
            return self.copied(tile);
        }
        let (_, mut view) = self.fresh_apart(tile.dtype, &tile.shape);
        view.axes[0].valid = rows;
        self.write(tile, &view, &tile.shape)?;
        Ok(Tile::new(tile.dtype, &tile.shape, Kind::View(view)))
    }

    /// A buffer for a tile, the rows of which do not all lie in the same sets of the cache.
    pub fn fresh_apart(&mut self, dtype: DType, shape: &[u32]) -> (BufferId, View) {
        let Some((last, before)) = shape.split_last() else { return self.fresh(dtype, shape) };
        let unit = bytes_of(kept_as(dtype)) as u32;
        let apart = if last.wrapping_mul(unit) % PAGE == 0 { LINE / unit } else { 0 };
        self.fresh(dtype, &[before, &[last + apart]].concat())
    }
}

/// A dense view of a buffer.
pub(super) fn dense_view(id: BufferId, store: DType, shape: &[u32]) -> View {
    let axes = row_major(shape, bytes_of(store)).into_iter().map(ViewAxis::dense).collect();
    View { place: Place::buffer(id), store, axes, cond: None, base: None }
}

/// Whether storing a value of `from` as `to` rounds as a cast does.
fn rounds_alike(from: DType, to: DType) -> bool {
    use crate::dtype::Class;
    from.class() == Class::Float && to.class() == Class::Float
}
