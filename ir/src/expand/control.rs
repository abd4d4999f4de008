//! Instances, statements, loops and choices.

use super::eval::Point;
use super::nest::dense_view;
use super::prefetch::Span;
use super::scratch::BufferId;
use super::tile::{Kind, Origin, Tile, TileRef, View, bytes_of, kept_as, row_major};
use super::uses::{operands, stored};
use super::{Expander, Result};
use crate::dtype::DType;
use crate::kernel::{Access, Base, For, GridAxis, If, Stmt, ValueId};
use crate::loops::{Arith, Convert, Elem, Inst, Reg, Stride};

impl<'k> Expander<'k> {
    /// The whole program: instances `begin..end` of the grid.
    pub fn program(&mut self) -> Result<()> {
        self.prologue()?;
        let begin = self.em.inst(Elem::I64, 1, Inst::Begin);
        let end = self.em.inst(Elem::I64, 1, Inst::End);
        let kernel = self.kernel;
        let mut counts = vec![];
        let mut total = self.em.int(1);
        for axis in &kernel.grid.axes {
            let count = match axis {
                GridAxis::Range { extent, step, .. } => {
                    let extent = self.dim(extent);
                    let up = self.em.add_imm(extent, i64::from(*step) - 1);
                    self.floor_div(up, i64::from(*step))
                }
                GridAxis::List { list, .. } => {
                    let address = self.args[list.0 as usize];
                    let count = self.em.load_as(DType::I32, false, address, 0);
                    self.em.convert(Convert::I32ToI64, count)
                }
            };
            total = self.em.mul(total, count);
            counts.push(count);
        }
        // A list's length is known here, not to who calls: instances beyond it do nothing.
        let end = self.em.min(end, total);
        self.counts = counts;
        self.counted(begin, end, 1, None, &mut |x, instance| {
            x.span = Some(Span { instance, begin, end, total });
            x.bind_grid(instance)?;
            x.block(&kernel.body)
        })
    }

    /// Binds the grid's variables to their values in an instance.
    pub fn bind_grid(&mut self, instance: Reg) -> Result<()> {
        let (kernel, counts) = (self.kernel, self.counts.clone());
        let mut rest = instance;
        for (at, axis) in kernel.grid.axes.iter().enumerate().rev() {
            // The slowest axis takes what is left.
            let position = match at {
                0 => rest,
                _ => self.em.arith(Arith::Rem, rest, counts[at]),
            };
            if at > 0 {
                rest = self.em.arith(Arith::Div, rest, counts[at]);
            }
            match axis {
                GridAxis::Range { var, step, .. } => {
                    let first = self.em.mul_imm(position, i64::from(*step));
                    let first = self.em.convert(Convert::I64ToI32, first);
                    self.bind(*var, Tile::scalar(DType::I32, first));
                }
                GridAxis::List { vars, list } => {
                    let bytes = 4 * vars.len() as i64;
                    let row = self.em.mul_imm(position, bytes);
                    let address = self.em.add(self.args[list.0 as usize], row);
                    for (field, var) in (0..).zip(vars) {
                        let offset = bytes + 4 * field;
                        let value = self.em.load_as(DType::I32, false, address, offset);
                        self.bind(*var, Tile::scalar(DType::I32, value));
                    }
                }
            }
        }
        Ok(())
    }

    pub fn block(&mut self, stmts: &'k [Stmt]) -> Result<()> {
        let outer = std::mem::take(&mut self.copies);
        for stmt in stmts {
            let remaining = &mut self.remaining;
            operands(stmt, &mut |v| {
                let left = &mut remaining[v.0 as usize];
                *left = left.saturating_sub(1);
            });
            match stmt {
                Stmt::Let { result, op } => self.define(*result, op)?,
                Stmt::Store { value, access } => self.store(*value, access)?,
                Stmt::For(f) => self.repeat(f)?,
                Stmt::If(f) => self.choose(f)?,
            }
        }
        self.copies = outer;
        Ok(())
    }

    /// Puts into scratch what is still to be read and would read memory that is about to change.
    fn save_readers(&mut self, bases: &[Base]) -> Result<()> {
        for i in 0..self.env.len() {
            let Some(tile) = self.env[i].clone() else { continue };
            let value = ValueId(i as u32);
            let is_memory = bases.contains(&Base::Scratch(value));
            if self.remaining[i] == 0 || is_memory || !bases.iter().any(|b| tile.reads(*b)) {
                continue;
            }
            let copy = self.copied(&tile)?;
            self.own(&copy, value);
            self.bind(value, copy);
        }
        Ok(())
    }

    fn store(&mut self, value: ValueId, access: &Access) -> Result<()> {
        self.save_readers(&[access.base])?;
        let mut tile = self.tile(value)?;
        let target = self.access(access)?;
        if let Kind::Coded(coded) = &target.kind {
            return self.store_coded(&tile, coded);
        }
        let Kind::View(to) = &target.kind else {
            return Err(self.cannot("a store to what is no memory"));
        };
        if tile.reads(access.base) {
            tile = self.copied(&tile)?;
        }
        self.write(&tile, to, &tile.shape.clone())
    }

    /// The buffer that a value lies in, if it is the value's alone and nobody else reads it later.
    fn own_buffer(&self, value: ValueId, tile: &Tile) -> Option<BufferId> {
        let Kind::View(view) = &tile.kind else { return None };
        let Origin::Buffer(id) = view.place.origin else { return None };
        let free = self.uses.once(value)
            && self.owners.get(&id) == Some(&value)
            && !self.shared.contains(&id);
        (free && is_dense(view, &tile.shape)).then_some(id)
    }

    /// A buffer of which an expression reads, for each element, only that element, and which
    /// nothing else reads later.
    fn buffer_below(&self, tile: &Tile, shape: &[u32], store: DType) -> Option<BufferId> {
        let mut leaves = vec![];
        leaves_of(tile, &mut leaves);
        leaves.iter().find_map(|leaf| {
            let Kind::View(view) = &leaf.kind else { return None };
            let Origin::Buffer(id) = view.place.origin else { return None };
            let owner = *self.owners.get(&id)?;
            let alone = leaves.iter().filter(|l| l.reads_buffer(id)).count() == 1;
            let fits = leaf.shape == shape && view.store == store && is_dense(view, shape);
            let free = self.uses.once(owner) && !self.shared.contains(&id);
            (alone && fits && free).then_some(id)
        })
    }

    /// The value in a buffer that may be changed in place.
    pub fn settle(&mut self, value: ValueId) -> Result<(BufferId, View)> {
        let tile = self.tile(value)?;
        let store = kept_as(tile.dtype);
        let shape = tile.shape.clone();
        if let Some(id) = self.own_buffer(value, &tile) {
            return Ok((id, dense_view(id, store, &shape)));
        }
        let reused = match tile.kind {
            Kind::View(_) | Kind::Coded(_) => None,
            _ if self.uses.once(value) => self.buffer_below(&tile, &shape, store),
            _ => None,
        };
        let (id, view) = match reused {
            Some(id) => (id, dense_view(id, store, &shape)),
            None => self.fresh(tile.dtype, &shape),
        };
        self.write(&tile, &view, &shape)?;
        Ok((id, view))
    }

    fn repeat(&mut self, f: &'k For) -> Result<()> {
        let mut bases = vec![];
        stored(&f.body, &mut bases);
        self.save_readers(&bases)?;
        let (lo, hi) = (self.bound(&f.lo)?, self.bound(&f.hi)?);
        let mut scalars = vec![];
        let mut tiles = vec![];
        for (at, (inside, init)) in f.carry.iter().enumerate() {
            if self.kernel.ty(*inside).shape.is_empty() {
                scalars.push((at, self.scalar(*init)?));
            } else if self.kernel.ty(*inside).encoding.is_plain() {
                let (id, view) = self.settle(*init)?;
                self.owners.insert(id, *inside);
                tiles.push((at, id, view));
            } else {
                return Err(self.cannot("a scaled tile carried by a loop"));
            }
        }
        let inits: Vec<Reg> = scalars.iter().map(|s| s.1).collect();
        let (open, inside) = self.em.open_for(lo, hi, f.step.into(), &inits);
        for ((at, _), reg) in scalars.iter().zip(inside) {
            let dtype = self.kernel.ty(f.carry[*at].0).encoding.code;
            self.bind(f.carry[*at].0, Tile::scalar(dtype, reg));
        }
        for (at, _, view) in &tiles {
            let carried = f.carry[*at].0;
            let ty = self.kernel.ty(carried);
            let tile = Tile::new(ty.encoding.code, &ty.shape, Kind::View(view.clone()));
            self.bind(carried, tile);
        }
        let var = self.em.convert(Convert::I64ToI32, open.var());
        self.bind(f.var, Tile::scalar(DType::I32, var));
        self.prefetch(f, open.var(), lo, hi)?;
        self.look_ahead(f, open.var(), hi)?;
        self.block(&f.body)?;
        self.count_reads(&f.yields);
        let next = scalars.iter().map(|(at, _)| self.scalar(f.yields[*at]));
        let next = next.collect::<Result<Vec<_>>>()?;
        self.carry_on(&tiles, &f.yields)?;
        let after = self.em.close_for(open, &next);
        for ((at, _), reg) in scalars.iter().zip(after) {
            let dtype = self.kernel.ty(f.results[*at]).encoding.code;
            self.bind(f.results[*at], Tile::scalar(dtype, reg));
        }
        for (at, id, view) in tiles {
            let ty = self.kernel.ty(f.results[at]);
            self.owners.insert(id, f.results[at]);
            self.bind(f.results[at], Tile::new(ty.encoding.code, &ty.shape, Kind::View(view)));
        }
        Ok(())
    }

    fn count_reads(&mut self, values: &[ValueId]) {
        for v in values {
            let left = &mut self.remaining[v.0 as usize];
            *left = left.saturating_sub(1);
        }
    }

    /// Brings the next values of carried tiles into their buffers, none overwritten while
    /// another still needs it.
    fn carry_on(&mut self, tiles: &[(usize, BufferId, View)], yields: &[ValueId]) -> Result<()> {
        let mut pending: Vec<(BufferId, View, TileRef)> = vec![];
        for (at, id, view) in tiles {
            let next = self.tile(yields[*at])?;
            let there = matches!(&next.kind, Kind::View(v)
                if v.place.is_in(*id) && is_dense(v, &next.shape));
            if !there {
                pending.push((*id, view.clone(), next));
            }
        }
        while !pending.is_empty() {
            let free = (0..pending.len()).find(|i| {
                let id = pending[*i].0;
                let others = pending.iter().enumerate().filter(|(j, _)| j != i);
                let mut others = others.map(|(_, p)| &p.2);
                !others.any(|t| t.reads_buffer(id)) && reads_in_step(&pending[*i].2, id)
            });
            let Some(free) = free else {
                let copy = self.copied(&pending[0].2)?;
                pending[0].2 = copy;
                continue;
            };
            let (_, view, next) = pending.swap_remove(free);
            self.write(&next, &view, &next.shape.clone())?;
        }
        Ok(())
    }

    fn choose(&mut self, f: &'k If) -> Result<()> {
        let mut bases = vec![];
        stored(&f.then.0, &mut bases);
        stored(&f.otherwise.0, &mut bases);
        self.save_readers(&bases)?;
        let cond = self.scalar(f.cond)?;
        let mut results = vec![];
        for result in &f.results {
            let ty = self.kernel.ty(*result);
            if !ty.encoding.is_plain() {
                return Err(self.cannot("a choice of scaled tiles"));
            }
            results.push(self.fresh(ty.encoding.code, &ty.shape));
        }
        let mut branches = vec![];
        for (body, yields) in [&f.then, &f.otherwise] {
            self.em.open_block();
            self.block(body)?;
            self.count_reads(yields);
            for (value, (_, view)) in yields.iter().zip(&results) {
                let tile = self.tile(*value)?;
                self.write(&tile, view, &tile.shape.clone())?;
            }
            branches.push(self.em.close_block());
        }
        let otherwise = branches.pop().unwrap_or_default();
        let then = branches.pop().unwrap_or_default();
        self.em.branch(cond, then, otherwise);
        for (result, (id, view)) in f.results.iter().zip(results) {
            let ty = self.kernel.ty(*result);
            let dtype = ty.encoding.code;
            let tile = Tile::new(dtype, &ty.shape, Kind::View(view));
            let tile = match ty.shape.is_empty() {
                true => {
                    let reg = self.eval(&tile, &Point::single(vec![]))?;
                    Tile::scalar(dtype, reg)
                }
                false => tile,
            };
            self.owners.insert(id, *result);
            self.bind(*result, tile);
        }
        Ok(())
    }
}

/// Whether a view is the whole of a buffer, row-major.
fn is_dense(view: &View, shape: &[u32]) -> bool {
    let strides = row_major(shape, bytes_of(view.store));
    view.is_whole()
        && view.place.by.is_none()
        && view.place.offset == 0
        && view.base.is_none()
        && view.axes.len() == shape.len()
        && view.axes.iter().zip(&strides).all(|(a, s)| a.stride == Stride::Bytes(*s))
}

/// What an expression reads.
fn leaves_of<'t>(tile: &'t Tile, leaves: &mut Vec<&'t Tile>) {
    match &tile.kind {
        Kind::Map { .. } | Kind::Where(_) | Kind::Cast(_) => {
            tile.children().into_iter().for_each(|c| leaves_of(c, leaves));
        }
        _ => leaves.push(tile),
    }
}

/// Whether a tile, written to a buffer element by element, reads of that buffer at most the
/// element being written.
fn reads_in_step(tile: &Tile, id: BufferId) -> bool {
    let mut leaves = vec![];
    leaves_of(tile, &mut leaves);
    leaves.iter().all(|leaf| {
        !leaf.reads_buffer(id)
            || matches!(&leaf.kind, Kind::View(v)
                if v.place.is_in(id) && leaf.shape == tile.shape && is_dense(v, &leaf.shape))
    })
}
