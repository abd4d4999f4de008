//! `mma`: products of tiles, their operands named as memory.

use super::eval::{Ix, Point};
use super::layout::{Coded, Digit};
use super::nest::Space;
use super::tile::{Kind, Origin, Spread, Tile, TileRef, View, kept_as};
use super::{Expander, Result, generic};
use crate::dtype::DType;
use crate::kernel::ValueId;
use crate::loops::{Ahead, Arith, Convert, Left, Mma, Reg, Right, Scales, Stride, Strided};

/// Least number of columns that makes a copy of the left operand worth it.
const OFTEN: u32 = 8;

/// An operand as memory, with its counts of valid rows and of valid k (I64).
pub(super) struct Operand<T> {
    pub form: T,
    /// What must last until the product is done.
    pub origin: Origin,
    pub rows: Option<Reg>,
    pub depth: Option<Reg>,
}

impl Expander<'_> {
    pub fn product(
        &mut self,
        result: ValueId,
        acc: ValueId,
        a: ValueId,
        b: ValueId,
    ) -> Result<TileRef> {
        let (left, right) = (self.tile(a)?, self.tile(b)?);
        if self.tile(acc)?.dtype == DType::I32 {
            return self.integer_product(result, acc, &left, &right);
        }
        let seen = self.seen_rows(result)?;
        let (id, mut view) = self.settle(acc)?;
        let shape = self.kernel.ty(acc).shape.clone();
        view.axes[0].valid = seen;
        let ahead = self.ahead.get(&result).copied();
        self.multiply(&left, &right, &view, &shape, ahead)?;
        view.axes[0].valid = None;
        self.owners.insert(id, result);
        Ok(Tile::new(DType::F32, &shape, Kind::View(view)))
    }

    /// Accumulates a product into a dense `f32` view, of its valid rows.
    fn multiply(
        &mut self,
        left: &TileRef,
        right: &TileRef,
        acc: &View,
        shape: &[u32],
        ahead: Option<Ahead>,
    ) -> Result<()> {
        let depth = left.shape[1];
        let extents = [shape[0], shape[1], depth];
        if self.coded_product(left, right, acc, extents, ahead)? {
            return Ok(());
        }
        let right = self.right(right)?;
        if let Some(coded) = self.coded_left(left)? {
            let origin = coded.origin;
            let candidate = Mma { ahead, ..self.mma(coded, &right, acc, extents) };
            if (self.machine.mma)(&candidate) {
                self.em.mma(candidate);
                self.last([origin, right.origin, acc.place.origin]);
                return Ok(());
            }
        }
        let plain = self.plain_left(left, acc.axes[0].valid)?;
        let origin = plain.origin;
        let candidate = Mma { ahead, ..self.mma(plain, &right, acc, extents) };
        if (self.machine.mma)(&candidate) {
            self.em.mma(candidate);
        } else {
            let (widened, copy) = self.widened(&candidate, left, origin)?;
            generic::lower(&mut self.em, &widened);
            self.last([copy, right.origin, acc.place.origin]);
        }
        self.last([origin, right.origin, acc.place.origin]);
        Ok(())
    }

    /// The product with its left operand as `f32`, where each element is read often: generic
    /// loops would widen it each time.
    fn widened(&mut self, mma: &Mma, left: &TileRef, origin: Origin) -> Result<(Mma, Origin)> {
        if mma.left.encoding == DType::F32.into() || mma.n < OFTEN {
            return Ok((mma.clone(), origin));
        }
        let wide = Tile::new(DType::F32, &left.shape, Kind::Cast(left.clone()));
        let copy = self.plain_left(&wide, None)?;
        Ok((Mma { left: copy.form, ..mma.clone() }, copy.origin))
    }

    /// Buffers are in use up to here.
    pub(super) fn last(&mut self, origins: [Origin; 3]) {
        for origin in origins {
            if let Origin::Buffer(id) = origin {
                self.em.scratch.touch(id);
            }
        }
    }

    pub(super) fn mma(
        &mut self,
        left: Operand<Left>,
        right: &Operand<Right>,
        acc: &View,
        [m, n, k]: [u32; 3],
    ) -> Mma {
        let mut both = |a: Option<Reg>, b: Option<Reg>| match (a, b) {
            (Some(a), Some(b)) => Some(self.em.min(a, b)),
            (a, b) => a.or(b),
        };
        let depth = both(left.depth, right.depth);
        let rows = both(left.rows, acc.axes[0].valid);
        let (m_valid, n_valid, k_valid) =
            (self.count(rows, m), self.count(right.rows, n), self.count(depth, k));
        let address = self.place(acc.place);
        let acc = Strided { address, row: acc.axes[0].stride, col: acc.axes[1].stride };
        let right = right.form.clone();
        let left = left.form;
        let batch_invariant = self.kernel.batch_invariant;
        let ahead = None;
        Mma { m, n, k, m_valid, n_valid, k_valid, acc, left, right, ahead, batch_invariant }
    }

    /// A count of valid elements as an I32 within an extent.
    fn count(&mut self, valid: Option<Reg>, extent: u32) -> Option<Reg> {
        let valid = valid?;
        let (zero, extent) = (self.em.int(0), self.em.int(extent.into()));
        let valid = self.em.min(valid, extent);
        let valid = self.em.max(valid, zero);
        Some(self.em.convert(Convert::I64ToI32, valid))
    }

    /// Counts of valid rows and k of a view, whose whole mask becomes a depth of 0.
    fn strided(&mut self, view: &View, extent: u32) -> Operand<Strided> {
        let address = self.place(view.place);
        let [rows, cols] = [&view.axes[0], &view.axes[1]];
        let form = Strided { address, row: rows.stride, col: cols.stride };
        let mut depth = cols.valid;
        if let Some(cond) = view.cond {
            let all = depth.unwrap_or_else(|| self.em.int(extent.into()));
            let none = self.em.int(0);
            depth = Some(self.em.select(cond, all, none));
        }
        Operand { form, origin: view.place.origin, rows: rows.valid, depth }
    }

    /// The tile as strided memory of one of these types; copied to scratch if it is none, or is
    /// read in bits and pieces: of its rows those that are `seen`.
    fn as_view(&mut self, tile: &TileRef, types: &[DType], seen: Option<Reg>) -> Result<View> {
        if let Kind::View(view) = &tile.kind {
            let gathers = view.axes.iter().any(|a| a.gather.is_some());
            if !gathers && types.contains(&view.store) {
                return Ok(view.clone());
            }
        }
        let tile = match types.contains(&kept_as(tile.dtype)) {
            true => tile.clone(),
            false => Tile::new(DType::F32, &tile.shape, Kind::Cast(tile.clone())),
        };
        let copy = self.copied_rows(&tile, seen)?;
        match &copy.kind {
            Kind::View(view) => Ok(view.clone()),
            _ => Err(self.cannot("a product of what is no matrix")),
        }
    }

    /// The left operand decoded.
    fn plain_left(&mut self, tile: &TileRef, seen: Option<Reg>) -> Result<Operand<Left>> {
        let view = self.as_view(tile, &[DType::F32, DType::BF16, DType::F16], seen)?;
        let at = self.strided(&view, tile.shape[1]);
        let form = Left { encoding: view.store.into(), at: at.form, scales: None };
        Ok(Operand { form, origin: at.origin, rows: at.rows, depth: at.depth })
    }

    /// The left operand as codes and scales, if it lies so in row-major order.
    pub(super) fn coded_left(&mut self, tile: &TileRef) -> Result<Option<Operand<Left>>> {
        let Kind::Coded(coded) = &tile.kind else { return Ok(None) };
        let bytes = i64::from(coded.encoding.code.bits() / 8);
        let (Some(rows), Some(cols)) = (axis_of(coded, 0), axis_of(coded, 1)) else {
            return Ok(None);
        };
        let (Some(row), Some(col)) = (only_digit(coded, rows), only_digit(coded, cols)) else {
            return Ok(None);
        };
        let gathers = coded.axes.iter().any(|a| a.gather.is_some());
        let adjacent = row.divisor == 1 && col.divisor == 1 && col.stride == Stride::Bytes(bytes);
        if coded.encoding.is_plain() || bytes == 0 || gathers || !adjacent {
            return Ok(None);
        }
        let Some(scales) = self.scales(coded, rows, cols) else { return Ok(None) };
        let positions: Vec<Reg> = coded.axes.iter().map(|a| a.start).collect();
        let base = self.place(coded.place);
        let by = self.place_of(&coded.layout.codes, &positions);
        let address = self.em.add(base, by);
        let at = Strided { address, row: row.stride, col: col.stride };
        let form = Left { encoding: coded.encoding, at, scales: Some(scales) };
        let depth = self.coded_depth(coded, cols, tile.shape[1]);
        let origin = coded.place.origin;
        Ok(Some(Operand { form, origin, rows: coded.axes[rows].valid, depth }))
    }

    pub(super) fn coded_depth(&mut self, coded: &Coded, cols: usize, extent: u32) -> Option<Reg> {
        let valid = coded.axes[cols].valid;
        let Some(cond) = coded.cond else { return valid };
        let all = valid.unwrap_or_else(|| self.em.int(extent.into()));
        let none = self.em.int(0);
        Some(self.em.select(cond, all, none))
    }

    /// Scales that lie apart, blocks of which are of `rows` by `cols`.
    pub(super) fn scales(&mut self, coded: &Coded, rows: usize, cols: usize) -> Option<Scales> {
        let grid = coded.layout.scales.as_ref().filter(|grid| grid.per_row.is_some())?;
        let scale = coded.encoding.scale?;
        let bytes = i64::from(scale.dtype.bits() / 8);
        let of = |axis: usize, block: u32| {
            grid.digits.iter().find(move |d| d.axis == axis && d.divisor == i64::from(block))
        };
        let (row, col) = (of(rows, scale.rows)?, of(cols, scale.cols)?);
        if col.stride != Stride::Bytes(bytes) {
            return None;
        }
        let per_row = self.amount(row.stride);
        let per_row = self.em.arith_imm(Arith::Div, per_row, bytes);
        let zero = self.em.int(0);
        let mut positions: Vec<Reg> = coded.axes.iter().map(|a| a.start).collect();
        (positions[rows], positions[cols]) = (zero, zero);
        let base = self.place(coded.place);
        let by = self.place_of(&grid.digits, &positions);
        let by = self.em.add(by, grid.offset);
        let address = self.em.add(base, by);
        let first_row = self.em.convert(Convert::I64ToI32, coded.axes[rows].start);
        let first_col = self.em.convert(Convert::I64ToI32, coded.axes[cols].start);
        let sums = grid.sums.as_ref().map(|sums| {
            let by = self.place_of(&sums.digits, &positions);
            let by = self.em.add(by, sums.offset);
            self.em.add(base, by)
        });
        // What does not fit is known of no multiple.
        let multiple = u32::try_from(coded.axes[cols].multiple).unwrap_or(1);
        let (rows, cols) = (scale.rows, scale.cols);
        Some(Scales { address, per_row, first_row, first_col, multiple, sums, rows, cols })
    }

    fn right(&mut self, tile: &TileRef) -> Result<Operand<Right>> {
        if let Kind::Coded(coded) = &tile.kind
            && let Some(blocked) = self.blocked(coded, tile.shape[1])
        {
            return Ok(blocked);
        }
        let view = self.as_view(tile, &[DType::F32, DType::BF16, DType::F16], None)?;
        let at = self.strided(&view, tile.shape[1]);
        let form = Right::Strided { encoding: view.store.into(), at: at.form };
        Ok(Operand { form, origin: at.origin, rows: at.rows, depth: at.depth })
    }

    /// `[.., n/L, k/G, n:L, k:G]`, beginning at multiples of L and G.
    pub(super) fn blocked(&mut self, coded: &Coded, extent: u32) -> Option<Operand<Right>> {
        let (rows, cols) = (axis_of(coded, 0)?, axis_of(coded, 1)?);
        if coded.axes.iter().any(|a| a.gather.is_some()) || coded.layout.header != 0 {
            return None;
        }
        let unit = i64::from(coded.encoding.code.bits() / 8).max(1);
        let of = |axis: usize| coded.layout.codes.iter().filter(move |d| d.axis == axis);
        let inner = |axis: usize| of(axis).find(|d| d.extent.is_some());
        let outer = |axis: usize| of(axis).find(|d| d.extent.is_none());
        let lane = inner(rows)?;
        let group = inner(cols).map_or(1, |d| d.extent.unwrap_or(1));
        let lanes = lane.extent?;
        let counts = of(rows).count() == 2 && of(cols).count() == if group > 1 { 2 } else { 1 };
        let in_group = group == 1
            || inner(cols).is_some_and(|d| d.divisor == 1 && d.stride == Stride::Bytes(unit));
        let (block, step) = (outer(rows)?, outer(cols)?);
        let size = lanes.checked_mul(group)?.checked_mul(unit)?;
        // Targets count places within a block in bits.
        u32::try_from(size.checked_mul(8)?).ok()?;
        let fits = counts
            && in_group
            && lane.divisor == 1
            && lane.stride == Stride::Bytes(group * unit)
            && block.divisor == lanes
            && step.divisor == group
            && step.stride == Stride::Bytes(size);
        let whole =
            coded.axes[rows].multiple % lanes == 0 && coded.axes[cols].multiple % group == 0;
        let nibbles = coded.encoding.code.bits() == 4;
        if !fits || !whole || (nibbles && (lanes * group) % 2 != 0) {
            return None;
        }
        let scales = match coded.encoding.is_plain() {
            true => None,
            false => Some(self.scales(coded, rows, cols)?),
        };
        let block = block.stride;
        self.blocked_at(coded, [rows, cols], block, [lanes, group], scales, extent)
    }

    fn blocked_at(
        &mut self,
        coded: &Coded,
        [rows, cols]: [usize; 2],
        block: Stride,
        [lanes, group]: [i64; 2],
        scales: Option<Scales>,
        extent: u32,
    ) -> Option<Operand<Right>> {
        let (address, block_bytes) = self.first_block(coded, block);
        let form = Right::Blocked {
            encoding: coded.encoding,
            address,
            block_bytes,
            lanes: lanes as u32,
            group: group as u32,
            scales,
        };
        let depth = self.coded_depth(coded, cols, extent);
        Some(Operand { form, origin: coded.place.origin, rows: coded.axes[rows].valid, depth })
    }

    /// Address of the block that holds the tile's first element, and bytes from block to block.
    pub(super) fn first_block(&mut self, coded: &Coded, block: Stride) -> (Reg, Reg) {
        let per_byte = if coded.encoding.code.bits() == 4 { 2 } else { 1 };
        let positions: Vec<Reg> = coded.axes.iter().map(|a| a.start).collect();
        let by = self.place_of(&coded.layout.codes, &positions);
        let by = self.quotient(by, per_byte);
        let base = self.place(coded.place);
        let address = self.em.add(base, by);
        let block = self.amount(block);
        (address, self.quotient(block, per_byte))
    }

    /// Sums in `i32`.
    fn integer_product(
        &mut self,
        result: ValueId,
        acc: ValueId,
        left: &TileRef,
        right: &TileRef,
    ) -> Result<TileRef> {
        let (id, view) = self.settle(acc)?;
        let shape = self.kernel.ty(acc).shape.clone();
        let depth = left.shape[1];
        let left = self.as_view(left, &[DType::I8, DType::U8, DType::I32], None)?;
        let right = self.as_view(right, &[DType::I8, DType::U8, DType::I32], None)?;
        let (left, right) =
            (view_tile(left, &[shape[0], depth]), view_tile(right, &[shape[1], depth]));
        let (left, right) = (self.smooth(&left, 1)?, self.smooth(&right, 1)?);
        let space = Space { shape: &shape, limits: vec![None; 2], tiles: &[], wide: false };
        self.for_each(&space, &mut |x, at| {
            let sum = x.integer_dot(&left, &right, at)?;
            let (address, offset) = x.address(&view, at)?;
            let before = x.em.load_as(DType::I32, false, address, offset);
            let sum = x.em.add(before, sum);
            x.em.store_as(DType::I32, address, offset, sum);
            Ok(())
        })?;
        self.owners.insert(id, result);
        Ok(Tile::new(DType::I32, &shape, Kind::View(view)))
    }

    fn integer_dot(&mut self, left: &TileRef, right: &TileRef, at: &Point) -> Result<Reg> {
        let depth = i64::from(left.shape[1]);
        let lanes = i64::from(self.em.lanes);
        let wide = [left, right].iter().all(|t| t.spread(1, &self.em) == Spread::Wide);
        let whole = if wide && lanes > 1 { depth / lanes * lanes } else { 0 };
        let mut sum = self.em.int32(0);
        for (lo, hi, step) in [(0, whole, lanes), (whole, depth, 1)] {
            if lo == hi {
                continue;
            }
            let vector = step > 1;
            let none = self.em.int32(0);
            let start = if vector { self.em.wide(none) } else { sum };
            let (lo, hi) = (self.em.int(lo), self.em.int(hi));
            let (open, carried) = self.em.open_for(lo, hi, step, &[start]);
            let ix = Ix::of(open.var());
            let wide = vector.then_some(1);
            let a = self.eval(left, &Point { idx: vec![at.idx[0], ix], wide })?;
            let b = self.eval(right, &Point { idx: vec![at.idx[1], ix], wide })?;
            let product = self.em.mul(a, b);
            let next = self.em.add(carried[0], product);
            sum = self.em.close_for(open, &[next])[0];
            if vector {
                sum = self.em.across(Arith::Add, sum);
            }
        }
        Ok(sum)
    }
}

fn view_tile(view: View, shape: &[u32]) -> TileRef {
    Tile::new(DType::I32, shape, Kind::View(view))
}

/// The tensor's axis that a tile's axis runs along.
pub(super) fn axis_of(coded: &Coded, tile: usize) -> Option<usize> {
    coded.axes.iter().position(|a| a.tile == Some(tile))
}

fn only_digit(coded: &Coded, axis: usize) -> Option<&Digit> {
    let mut own = coded.layout.codes.iter().filter(|d| d.axis == axis);
    own.next().filter(|_| own.next().is_none())
}
