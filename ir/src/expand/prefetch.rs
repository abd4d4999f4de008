//! Prefetching of what a loop reads next.
//!
//! A loop with `fan = F` reads one contiguous span of weights. Memory is seen in blocks of `F`
//! pages, consumed in 64 units of `F` lines; while unit `u` of a block is read, line `u` of each
//! page of the block after it is prefetched, which runs as fast as `F` streams whatever the
//! layout. Behind the worker's last instance the span goes on in the parameter that `then` names,
//! at the worker's share of it.

use super::layout::Coded;
use super::tile::Kind;
use super::{Expander, Result};
use crate::kernel::{Access, Base, Bound, For, Op, ParamId, ParamType, Start, Stmt, ValueId};
use crate::loops::{Arith, Cmp, Reg, Stmt as LoopStmt};

/// Bytes of a cache line and of a page.
const LINE: i64 = 64;
const PAGE: i64 = 4096;
/// Greatest number of pages worth prefetching at once.
const FAN: u32 = 32;

/// The loop over instances, for what lies behind a worker's last.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub instance: Reg,
    pub begin: Reg,
    pub end: Reg,
    pub total: Reg,
}

/// Memory that a loop consumes from its first to its last iteration.
struct Consumed {
    /// I64: where the parameter begins.
    base: Reg,
    /// I64: offset of what this iteration reads.
    offset: Reg,
    /// Bytes that it reads.
    bytes: i64,
    /// I64: offset behind the loop's last.
    behind: Reg,
}

impl<'k> Expander<'k> {
    /// Emits a loop's prefetches, at the beginning of its body.
    pub fn prefetch(&mut self, f: &'k For, var: Reg, hi: Reg) -> Result<()> {
        let fan = f.hints.fan;
        if fan == 0 || fan > FAN {
            return Ok(());
        }
        let Some(access) = self.weights_of(f) else { return Ok(()) };
        let tile = self.access(access)?;
        let Kind::Coded(coded) = &tile.kind else { return Ok(()) };
        let Some(consumed) = self.consumed(coded, &tile.shape, var, hi, f.step) else {
            return Ok(());
        };
        self.fan(&consumed, fan.into(), f.hints.then)
    }

    /// The largest load of packed weights, directly in the loop, that its variable moves along.
    fn weights_of(&self, f: &'k For) -> Option<&'k Access> {
        let size = |access: &Access| -> u64 {
            access.coords.iter().map(|c| u64::from(c.extent.unwrap_or(1))).product()
        };
        let loads = f.body.iter().filter_map(|stmt| match stmt {
            Stmt::Let { op: Op::Load { access, .. }, .. } => Some(access),
            _ => None,
        });
        let moved = loads.filter(|access| {
            let packed = match access.base {
                Base::Param(p) => match &self.kernel.param(p).ty {
                    ParamType::Tensor { packing, .. } => packing.is_some(),
                    ParamType::List { .. } => false,
                },
                Base::Scratch(_) => false,
            };
            // What other coordinates speak of must be known at the beginning of the body.
            let bound = |v: &ValueId| self.env[v.0 as usize].is_some();
            let known = access.coords.iter().all(|c| {
                let start = !matches!(&c.start, Start::Value(v) if !bound(v));
                let end = !matches!(&c.bound, Some(Bound::Value(v)) if !bound(v));
                start && end
            });
            let along = access.coords.iter().any(|c| c.start == Start::Value(f.var));
            packed && known && along
        });
        moved.max_by_key(|access| size(access))
    }

    /// The loop's span, if each iteration reads the bytes after those of the one before.
    fn consumed(
        &mut self,
        coded: &Coded,
        shape: &[u32],
        var: Reg,
        hi: Reg,
        step: u32,
    ) -> Option<Consumed> {
        let axes = &coded.axes;
        let last = axes.len() - 1;
        if coded.layout.header != 0 || axes.iter().any(|a| a.gather.is_some()) {
            return None;
        }
        if axes[last].tile.map(|t| shape[t]) != Some(step) {
            return None;
        }
        let outer = coded.layout.codes.iter().find(|d| d.axis == last && d.extent.is_none())?;
        let crate::loops::Stride::Bytes(units) = outer.stride else { return None };
        let elements: u64 = shape.iter().map(|e| u64::from(*e)).product();
        let bits = i64::from(coded.encoding.code.bits());
        let bytes = elements as i64 * bits / 8;
        let per_unit = if bits == 4 { 2 } else { 1 };
        // Contiguous if a step along k covers as many bytes as the tile has.
        if i64::from(step) / outer.divisor * units != bytes * per_unit {
            return None;
        }
        let mut positions: Vec<Reg> = axes.iter().map(|a| a.start).collect();
        let digits = &coded.layout.codes;
        let offset = self.place_of(digits, &positions);
        let offset = self.quotient(offset, per_unit);
        let left = self.em.sub(hi, var);
        positions[last] = self.em.add(axes[last].start, left);
        let behind = self.place_of(digits, &positions);
        let behind = self.quotient(behind, per_unit);
        let base = self.place(coded.place);
        Some(Consumed { base, offset, bytes, behind })
    }

    fn fan(&mut self, consumed: &Consumed, fan: i64, then: Option<ParamId>) -> Result<()> {
        let unit = fan * LINE;
        let from = self.em.arith_imm(Arith::Div, consumed.offset, unit);
        let end = self.em.add_imm(consumed.offset, consumed.bytes);
        let to = self.em.arith_imm(Arith::Div, end, unit);
        let jump = self.jump(consumed, then)?;
        let base = consumed.base;
        self.counted(from, to, 1, None, &mut |x, at| {
            let block = x.em.arith_imm(Arith::ShrS, at, 6);
            let line = x.em.arith_imm(Arith::And, at, 63);
            let next = x.em.add_imm(block, 1);
            let pages = x.em.mul_imm(next, fan * PAGE);
            let lines = x.em.mul_imm(line, LINE);
            let offset = x.em.add(pages, lines);
            for page in 0..fan {
                let offset = x.em.add_imm(offset, page * PAGE);
                let mut address = x.em.add(base, offset);
                if let Some((limit, by)) = jump {
                    let over = x.em.cmp(Cmp::Ge, offset, limit);
                    let there = x.em.add(address, by);
                    address = x.em.select(over, there, address);
                }
                x.em.push(LoopStmt::Prefetch { address, offset: 0 });
            }
            Ok(())
        })
    }

    /// The offset from which on the span goes on elsewhere, and how far away that is.
    fn jump(&mut self, consumed: &Consumed, then: Option<ParamId>) -> Result<Option<(Reg, Reg)>> {
        let (Some(param), Some(span)) = (then, self.span) else { return Ok(None) };
        let next = self.args[param.0 as usize];
        let bytes = match &self.kernel.param(param).ty {
            ParamType::Tensor { encoding, dims, .. } => {
                let bits = i64::from(encoding.code.bits());
                let mut size = self.em.int(bits);
                for dim in dims {
                    let extent = self.dim(dim);
                    size = self.em.mul(size, extent);
                }
                self.em.arith_imm(Arith::ShrU, size, 3)
            }
            ParamType::List { .. } => self.em.int(0),
        };
        // The worker's share begins where its share of instances does.
        let one = self.em.int(1);
        let total = self.em.max(span.total, one);
        let per_instance = self.em.arith(Arith::Div, bytes, total);
        let share = self.em.mul(per_instance, span.begin);
        let target = self.em.add(next, share);
        let here = self.em.add(consumed.base, consumed.behind);
        let by = self.em.sub(target, here);
        // Only behind the last instance, and only if there is a next.
        let after = self.em.add_imm(span.instance, 1);
        let last = self.em.cmp(Cmp::Ge, after, span.end);
        let zero = self.em.int(0);
        let given = self.em.cmp(Cmp::Ne, next, zero);
        let jumps = self.em.and(last, given);
        let never = self.em.int(i64::MAX);
        let limit = self.em.select(jumps, consumed.behind, never);
        Ok(Some((limit, by)))
    }
}
