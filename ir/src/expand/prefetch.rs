//! Prefetching of what a loop reads next.
//!
//! A loop with `fan = F` reads one contiguous span of weights. Memory is seen in blocks of `F`
//! pages, consumed in 64 units of `F` lines; while unit `u` of a block is read, line `u` of each
//! page of the block after it is prefetched, which runs as fast as `F` streams whatever the
//! layout. Behind the worker's last instance the span goes on in the parameter that `then` names,
//! at the worker's share of it. Instances are taken to read one after another in memory.

use super::layout::Coded;
use super::tile::Kind;
use super::{Expander, LINE, PAGE, Result};
use crate::kernel::{Access, Base, Bound, For, Op, ParamId, ParamType, Start, Stmt, ValueId};
use crate::loops::{Arith, Cmp, Reg, Stmt as LoopStmt, Stride};

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
    /// I64: bytes that the whole loop reads.
    all: Reg,
}

impl<'k> Expander<'k> {
    /// Emits a loop's prefetches, at the beginning of its body.
    pub fn prefetch(&mut self, f: &'k For, var: Reg, lo: Reg, hi: Reg) -> Result<()> {
        let fan = f.hints.fan;
        if fan == 0 || fan > FAN {
            return Ok(());
        }
        let Some(access) = self.weights_of(f) else { return Ok(()) };
        let tile = self.access(access)?;
        let Kind::Coded(coded) = &tile.kind else { return Ok(()) };
        let Some((step, bytes)) = contiguous(coded, &tile.shape) else { return Ok(()) };
        if step != f.step {
            return Ok(());
        }
        let consumed = self.consumed(coded, bytes, [var, lo, hi]);
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

    /// The loop's span, of which an iteration reads `bytes`.
    fn consumed(&mut self, coded: &Coded, bytes: i64, [var, lo, hi]: [Reg; 3]) -> Consumed {
        let last = coded.axes.len() - 1;
        let start = coded.axes[last].start;
        let mut positions: Vec<Reg> = coded.axes.iter().map(|a| a.start).collect();
        let per_byte = if coded.encoding.code.bits() == 4 { 2 } else { 1 };
        let mut offset_at = |x: &mut Self, k: Reg| {
            let by = x.em.sub(k, var);
            positions[last] = x.em.add(start, by);
            let units = x.place_of(&coded.layout.codes, &positions);
            x.quotient(units, per_byte)
        };
        let offset = offset_at(self, var);
        let begin = offset_at(self, lo);
        let behind = offset_at(self, hi);
        let all = self.em.sub(behind, begin);
        let base = self.place(coded.place);
        Consumed { base, offset, bytes, behind, all }
    }

    fn fan(&mut self, consumed: &Consumed, fan: i64, then: Option<ParamId>) -> Result<()> {
        let unit = fan * i64::from(LINE);
        let from = self.em.arith_imm(Arith::Div, consumed.offset, unit);
        let end = self.em.add_imm(consumed.offset, consumed.bytes);
        let to = self.em.arith_imm(Arith::Div, end, unit);
        let jump = self.jump(consumed, then)?;
        let base = consumed.base;
        self.counted(from, to, 1, None, &mut |x, at| {
            let block = x.em.arith_imm(Arith::ShrS, at, 6);
            let line = x.em.arith_imm(Arith::And, at, 63);
            let next = x.em.add_imm(block, 1);
            let pages = x.em.mul_imm(next, fan * i64::from(PAGE));
            let lines = x.em.mul_imm(line, LINE.into());
            let offset = x.em.add(pages, lines);
            for page in 0..fan {
                let offset = x.em.add_imm(offset, page * i64::from(PAGE));
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
        // What the worker's instances to come read lies behind what this one does.
        let to_come = self.em.sub(span.end, span.instance);
        let to_come = self.em.add_imm(to_come, -1);
        let rest = self.em.mul(to_come, consumed.all);
        let behind = self.em.add(consumed.behind, rest);
        let here = self.em.add(consumed.base, behind);
        let by = self.em.sub(target, here);
        let zero = self.em.int(0);
        let given = self.em.cmp(Cmp::Ne, next, zero);
        let never = self.em.int(i64::MAX);
        let limit = self.em.select(given, behind, never);
        Ok(Some((limit, by)))
    }
}

/// Extent along the last axis and bytes of a tile that is one run of memory, and after which the
/// next tile along that axis lies.
fn contiguous(coded: &Coded, shape: &[u32]) -> Option<(u32, i64)> {
    let codes = &coded.layout.codes;
    let last = coded.axes.len() - 1;
    if coded.axes.iter().any(|a| a.gather.is_some()) {
        return None;
    }
    let inner = |axis: usize| -> i64 {
        codes.iter().filter(|d| d.axis == axis).filter_map(|d| d.extent).product()
    };
    let extent = |axis: usize| coded.axes[axis].tile.map_or(1, |t| i64::from(shape[t]));
    let outer = codes.iter().find(|d| d.axis == last && d.extent.is_none())?;
    let Stride::Bytes(block) = outer.stride else { return None };
    let bits = i64::from(coded.encoding.code.bits());
    let (unit, per_byte) = if bits == 4 { (1, 2) } else { (bits / 8, 1) };
    let in_block: i64 = (0..=last).map(inner).product();
    let whole = (0..last).all(|axis| extent(axis) == inner(axis))
        && block == in_block * unit + coded.layout.header
        && extent(last) % outer.divisor == 0;
    let bytes = extent(last) / outer.divisor * block / per_byte;
    let step = u32::try_from(extent(last)).ok()?;
    whole.then_some((step, bytes))
}
