//! What the next iteration of a loop with `stages` reads, for its products to ask for.
//!
//! While the tiles of one iteration are multiplied, those of the next are on their way: each
//! product of the loop is given a part of them.

use super::tile::{Kind, Tile, View, bytes_of};
use super::{Expander, LINE, Result};
use crate::dtype::DType;
use crate::kernel::{Access, Base, Bound, For, If, Op, Role, Start, Stmt, ValueId};
use crate::loops::{Ahead, Cmp, Convert, Reg, Right, Stride};
use std::collections::HashSet;

/// Memory of a tile: runs of bytes.
struct Region {
    ahead: Ahead,
    packed: bool,
}

impl<'k> Expander<'k> {
    /// Finds the memory that the loop's next iteration reads, or after the last one the first of
    /// the worker's next instance, and divides it among the products of the body. The registers
    /// are the loop's variable and the end of its range, as I64.
    pub fn look_ahead(&mut self, f: &'k For, var: Reg, hi: Reg) -> Result<()> {
        let products: Vec<ValueId> = f.body.iter().filter_map(product).collect();
        if f.hints.stages < 2 || products.is_empty() {
            return Ok(());
        }
        let before = self.env.clone();
        let regions = self.regions_ahead(f, var, hi);
        self.env = before;
        self.divide(regions?, &products);
        Ok(())
    }

    /// Leaves `env` as the next iteration will find it, as far as that is known.
    fn regions_ahead(&mut self, f: &'k For, var: Reg, hi: Reg) -> Result<Vec<Region>> {
        // What the next iteration will be given is not known yet.
        f.carry.iter().for_each(|(v, _)| self.env[v.0 as usize] = None);
        let next = self.em.add_imm(var, f.step.into());
        let there = self.em.cmp(Cmp::Lt, next, hi);
        let mut moved = HashSet::from([f.var]);
        let first = self.next_instance(f, there, var, &mut moved)?;
        let next = self.em.select(there, next, first);
        let next = self.em.convert(Convert::I64ToI32, next);
        self.bind(f.var, Tile::scalar(DType::I32, next));
        self.regions(f, &mut moved)
    }

    /// Rebinds what is known before the loop to the values of the next instance, unless the loop
    /// goes on (`there`); gives the first value of its variable then. If that instance would do
    /// nothing, all stays as it is.
    fn next_instance(
        &mut self,
        f: &'k For,
        there: Reg,
        var: Reg,
        moved: &mut HashSet<ValueId>,
    ) -> Result<Reg> {
        let kernel = self.kernel;
        let same = |s: &Stmt| matches!(s, Stmt::For(g) if std::ptr::eq(g, f));
        let (Some(at), Some(span)) = (kernel.body.iter().position(same), self.span) else {
            return Ok(var);
        };
        let before = &kernel.body[..at];
        let grid = kernel.grid.variables();
        let here: Vec<Reg> = grid.iter().map(|v| self.scalar(*v)).collect::<Result<_>>()?;
        let next = self.em.add_imm(span.instance, 1);
        let last = self.em.add_imm(span.end, -1);
        let next = self.em.min(next, last);
        self.bind_grid(next)?;
        moved.extend(&grid);
        self.scalars_ahead(before, moved)?;
        let unknown = |b: &Bound| matches!(b, Bound::Value(v) if !self.is_known(*v));
        let range = match unknown(&f.lo) || unknown(&f.hi) {
            true => (var, var),
            false => (self.bound(&f.lo)?, self.bound(&f.hi)?),
        };
        let some = self.em.cmp(Cmp::Lt, range.0, range.1);
        // A choice of two instances that both take place.
        for (v, here) in grid.iter().zip(&here) {
            let next = self.scalar(*v)?;
            let next = self.em.select(some, next, *here);
            let value = self.em.select(there, *here, next);
            self.bind(*v, Tile::scalar(DType::I32, value));
        }
        self.scalars_ahead(before, moved)?;
        Ok(self.em.select(some, range.0, var))
    }

    fn is_known(&self, v: ValueId) -> bool {
        self.env[v.0 as usize].is_some()
    }

    /// Rebinds scalars that follow from what has moved; forgets what else does.
    fn scalars_ahead(&mut self, stmts: &'k [Stmt], moved: &mut HashSet<ValueId>) -> Result<()> {
        for stmt in stmts {
            match stmt {
                Stmt::Let { result, op } => self.scalar_ahead(*result, op, moved)?,
                Stmt::Store { .. } => {}
                Stmt::For(For { results, .. }) | Stmt::If(If { results, .. }) => {
                    results.iter().for_each(|v| self.env[v.0 as usize] = None);
                }
            }
        }
        Ok(())
    }

    /// As [`Expander::scalars_ahead`], of one operation.
    fn scalar_ahead(
        &mut self,
        result: ValueId,
        op: &'k Op,
        moved: &mut HashSet<ValueId>,
    ) -> Result<()> {
        let (mut known, mut moves) = (true, false);
        op.visit_operands(&mut |v| {
            known &= self.is_known(v);
            moves |= moved.contains(&v);
        });
        if known && !moves && self.is_known(result) {
            return Ok(());
        }
        self.env[result.0 as usize] = None;
        if moves {
            moved.insert(result);
        }
        if known && self.kernel.ty(result).shape.is_empty() && self.is_address(op) {
            let tile = self.operation(result, op)?;
            let reg = self.scalar_of(&tile)?;
            self.bind(result, Tile::scalar(tile.dtype, reg));
        }
        Ok(())
    }

    /// Memory of the tiles that the body loads and that have moved, largest first, packed ones
    /// before.
    fn regions(&mut self, f: &'k For, moved: &mut HashSet<ValueId>) -> Result<Vec<Region>> {
        let mut regions = vec![];
        for stmt in &f.body {
            let Stmt::Let { result, op } = stmt else { continue };
            self.scalar_ahead(*result, op, moved)?;
            let Op::Load { access, .. } = op else { continue };
            let (mut known, mut moves) = (true, false);
            access.visit_operands(&mut |v| {
                known &= self.is_known(v);
                moves |= moved.contains(&v);
            });
            if known && moves && !self.kernel.ty(*result).shape.is_empty() {
                regions.extend(self.region(access)?);
            }
        }
        let size = |r: &Region| u64::from(r.ahead.rows) * u64::from(r.ahead.bytes);
        regions.sort_by_key(|r| std::cmp::Reverse((r.packed, size(r))));
        Ok(regions)
    }

    /// Whether a scalar can be computed ahead of its time.
    fn is_address(&self, op: &Op) -> bool {
        match op {
            Op::Splat(_) | Op::Map { .. } | Op::Cast(_) | Op::Where { .. } | Op::Dim(_) => true,
            Op::Load { access, .. } => self.is_input(access),
            _ => false,
        }
    }

    /// Whether what is accessed does not change.
    fn is_input(&self, access: &Access) -> bool {
        matches!(access.base, Base::Param(p) if self.kernel.param(p).role == Role::In)
    }

    /// The memory of a matrix in a parameter.
    fn region(&mut self, access: &Access) -> Result<Option<Region>> {
        let gathers = access
            .coords
            .iter()
            .any(|c| matches!(&c.start, Start::Value(v) if !self.kernel.ty(*v).shape.is_empty()));
        if gathers || !self.is_input(access) {
            return Ok(None);
        }
        let tile = self.access(access)?;
        if tile.shape.len() != 2 {
            return Ok(None);
        }
        match &tile.kind {
            Kind::View(view) => Ok(self.region_of(view, &tile.shape)),
            Kind::Coded(coded) => {
                let Some(blocked) = self.blocked(coded, tile.shape[1]) else { return Ok(None) };
                let Right::Blocked { encoding, address, block_bytes, lanes, .. } = blocked.form
                else {
                    return Ok(None);
                };
                let column = u64::from(tile.shape[1]) * u64::from(encoding.code.bits());
                let bits = column.saturating_mul(lanes.into());
                let Ok(bytes) = u32::try_from(bits.div_ceil(8)) else { return Ok(None) };
                let rows = tile.shape[0].div_ceil(lanes);
                let ahead = Ahead { address, pitch: Stride::Reg(block_bytes), rows, bytes };
                Ok(Some(Region { ahead, packed: true }))
            }
            _ => Ok(None),
        }
    }

    fn region_of(&mut self, view: &View, shape: &[u32]) -> Option<Region> {
        let unit = bytes_of(view.store);
        let bytes = u32::try_from(unit * u64::from(shape[1])).ok()?;
        if view.axes[1].stride != Stride::Bytes(unit as i64) {
            return None;
        }
        let address = self.place(view.place);
        let pitch = view.axes[0].stride;
        let mut ahead = Ahead { address, pitch, rows: shape[0], bytes };
        if pitch == Stride::Bytes(i64::from(bytes))
            && let Some(all) = bytes.checked_mul(shape[0])
        {
            (ahead.rows, ahead.bytes) = (1, all);
        }
        Some(Region { ahead, packed: false })
    }

    /// Gives each product its part: of its own region, or of one that several share.
    fn divide(&mut self, regions: Vec<Region>, products: &[ValueId]) {
        let count = regions.len();
        for (i, region) in regions.into_iter().enumerate().take(products.len()) {
            let own: Vec<ValueId> = products.iter().copied().skip(i).step_by(count).collect();
            for (part, product) in (0..).zip(&own) {
                let ahead = self.part(region.ahead, part, own.len() as u32);
                if ahead.rows > 0 && ahead.bytes > 0 {
                    self.ahead.insert(*product, ahead);
                }
            }
        }
    }

    /// One of `parts` parts of a region.
    fn part(&mut self, all: Ahead, part: u32, parts: u32) -> Ahead {
        if all.rows >= parts {
            let rows = all.rows.div_ceil(parts);
            let first = rows * part;
            let pitch = self.amount(all.pitch);
            let by = self.em.mul_imm(pitch, first.into());
            let address = self.em.add(all.address, by);
            return Ahead { address, rows: rows.min(all.rows.saturating_sub(first)), ..all };
        }
        let bytes = all.bytes.div_ceil(parts).next_multiple_of(LINE);
        let first = bytes.saturating_mul(part);
        let address = self.em.add_imm(all.address, first.into());
        Ahead { address, bytes: bytes.min(all.bytes.saturating_sub(first)), ..all }
    }
}

fn product(stmt: &Stmt) -> Option<ValueId> {
    match stmt {
        Stmt::Let { result, op: Op::Mma { .. } } => Some(*result),
        _ => None,
    }
}
