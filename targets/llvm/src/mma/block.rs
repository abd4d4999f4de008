//! Register blocks of vectors: rows of broadcast elements by blocks of columns.

use super::along;
use super::decode;
use super::lowering::{Block, Lowering};
use super::plan::Unit;
use super::{LINE, PAGE};
use crate::code::Val;
use inkwell::values::InstructionOpcode;
use ir::dtype::DType;

/// Bytes ahead of their use at which weights in several streams are asked for.
const AHEAD: i64 = 1024;

impl<'c> Lowering<'_, 'c> {
    /// Sums of products over the block's k's, added to the accumulator.
    pub fn block(&self, b: &Block<'c>) {
        let (c, p) = (self.c, self.plan);
        let unit = i64::from(p.depth());
        let f32s = c.vec(c.f32(), p.lanes);
        let each = (b.rows * b.cols) as usize;
        // Few accumulators would leave the multiplier waiting for its own results.
        let split = self.split(b);
        let first = self.div(b.from, unit);
        let steps = self.div(b.to, unit);
        let turn = i64::from(split);
        let whole = c.add(first, c.andc(c.sub(steps, first), -turn));
        let mut zero = vec![c.zero(f32s); each * split as usize];
        if self.watches() {
            zero.extend(vec![c.zero(c.vec(c.i32(), p.lanes)); b.cols as usize]);
        }
        let mut sums = c.for_loop((first, whole, turn), &zero, |s, now| {
            let mut now = now.to_vec();
            for u in 0..split {
                let (sums, seen) = now.split_at_mut(each * split as usize);
                let part = &mut sums[u as usize * each..(u as usize + 1) * each];
                self.step(b, c.add(s, c.c64(u.into())), None, (part, seen));
            }
            self.ask(b, s, split);
            self.ask_ahead(&b.ahead, s, split);
            now
        });
        let mut width = split as usize;
        while width > 1 {
            width /= 2;
            for i in 0..each * width {
                sums[i] = c.fadd(sums[i], sums[i + each * width]);
            }
        }
        sums.drain(each..each * split as usize);
        if split > 1 {
            sums = c.for_loop((whole, steps, 1), &sums, |s, now| {
                let mut now = now.to_vec();
                let (sums, seen) = now.split_at_mut(each);
                self.step(b, s, None, (sums, seen));
                now
            });
        }
        if self.form.has_tail(p.depth()) {
            let rest = c.sub(b.to, c.mul(steps, c.c64(unit)));
            let more = c.smin(rest, c.c64(1));
            sums = c.for_loop((steps, c.add(steps, more), 1), &sums, |s, now| {
                let mut now = now.to_vec();
                let (sums, seen) = now.split_at_mut(each);
                self.step(b, s, Some(rest), (sums, seen));
                now
            });
        }
        let seen = sums.split_off(each);
        for (i, sum) in sums.iter_mut().enumerate() {
            if let Some(seen) = seen.get(i % b.cols as usize) {
                *sum = decode::spoiled(c, *seen, *sum);
            }
        }
        self.accumulate(b, &sums);
    }

    /// Whether codes of NaN are looked for beside the sums, to spoil them in the end.
    fn watches(&self) -> bool {
        self.plan.right.code == DType::F8E4M3
    }

    /// Accumulators in turn for a block smaller than the plan's as well.
    fn split(&self, b: &Block<'c>) -> u32 {
        if self.form.batch_invariant {
            return 1;
        }
        let wide = self.plan.lanes.div_ceil(self.c.isa.lanes);
        (8 / (b.rows * b.cols * wide)).max(1).next_power_of_two().min(8)
    }

    /// Prefetches for `split` steps from `s` on, where the right operand is read in place, and
    /// read once: with more rows the loads of the first block of rows do it.
    fn ask(&self, b: &Block<'c>, s: Val<'c>, split: u32) {
        let (c, p) = (self.c, self.plan);
        if p.panel || p.rows < self.form.m || !b.ahead.is_empty() {
            return;
        }
        let bytes = i64::from(p.right.step_bytes(p.lanes) * split);
        if self.form.n <= p.lanes {
            return self.fan(self.right_at(b, 0, s), bytes);
        }
        for col in 0..b.cols {
            let at = c.off(self.right_at(b, col, s), AHEAD);
            for line in (0..bytes).step_by(LINE as usize) {
                c.prefetch(c.off(at, line));
            }
        }
    }

    /// Prefetches for a single stream: while one span of pages is read in order, a line of each
    /// page of the next span is asked for, so that the memory sees as many streams as pages.
    fn fan(&self, at: Val<'c>, bytes: i64) {
        let c = self.c;
        let (pages, page_bytes, line_bytes) =
            (i64::from(c.isa.fan), i64::from(PAGE), i64::from(LINE));
        let (span, unit) = (pages * page_bytes, pages * line_bytes);
        let at = c.address(at);
        let next = c.add(c.andc(at, -span), c.c64(span));
        let line = c.add(next, c.mul(self.div(c.andc(at, span - 1), unit), c.c64(line_bytes)));
        let count = (bytes / line_bytes).clamp(1, pages);
        let turn = c.andc(self.div(at, bytes.max(16)), pages / count - 1);
        let first = c.index(c.pointer(line), turn, count * page_bytes);
        for i in 0..(bytes / unit).max(1) {
            for page in 0..count {
                c.prefetch(c.off(first, page * page_bytes + i * line_bytes));
            }
        }
    }

    /// Where step `s` of block `col` lies.
    fn right_at(&self, b: &Block<'c>, col: u32, s: Val<'c>) -> Val<'c> {
        let (c, p) = (self.c, self.plan);
        let block = c.at(b.right.0, c.mul(b.right.1, c.c64(col.into())));
        c.index(block, s, p.right.step_bytes(p.lanes).into())
    }

    /// One step along k; of the last perhaps only `rest` k's are valid. Adds to the sums, and to
    /// what is seen of the codes of each block of columns.
    fn step(
        &self,
        b: &Block<'c>,
        s: Val<'c>,
        rest: Option<Val<'c>>,
        (sums, seen): (&mut [Val<'c>], &mut [Val<'c>]),
    ) {
        let (c, p) = (self.c, self.plan);
        let dot = p.unit == Unit::Dot;
        let columns: Vec<Vec<(u32, Val)>> = (0..b.cols)
            .map(|col| {
                let at = self.right_at(b, col, s);
                if let Some(seen) = seen.get_mut(col as usize) {
                    *seen = decode::watch(c, *seen, self.word(at, rest));
                }
                self.operands(at, rest)
            })
            .collect();
        let at = c.mul(s, c.c64(i64::from(p.depth() * p.left.bits() / 8)));
        let row0 = c.at(b.left.0, at);
        for (v, (i, _)) in columns[0].iter().enumerate() {
            for r in 0..b.rows {
                let row = c.at(row0, c.mul(b.left.1, c.c64(r.into())));
                let x = self.broadcast(c.off(row, i64::from(i * 4)), dot);
                for (col, of) in columns.iter().enumerate() {
                    let sum = &mut sums[(r * b.cols) as usize + col];
                    let w = of[v].1;
                    *sum = if dot { self.dot(*sum, x, w) } else { c.fma(x, w, *sum) };
                }
            }
        }
    }

    /// The codes or pairs of a step, zeros for those that are not valid.
    fn word(&self, at: Val<'c>, rest: Option<Val<'c>>) -> Val<'c> {
        let (c, p) = (self.c, self.plan);
        let word = decode::word(c, p.right, p.lanes, at);
        let Some(rest) = rest else { return word };
        // Fewer than all: the shift stays within the word.
        let bits = c.mul(c.trunc(rest, c.i32()), c.c32(p.right.code.bits().into()));
        let one = c.op(InstructionOpcode::Shl, c.c32(1), bits);
        c.and(word, c.splat(c.sub(one, c.c32(1)), p.lanes))
    }

    /// What a step multiplies the left operand's elements or pairs (by number) with.
    fn operands(&self, at: Val<'c>, rest: Option<Val<'c>>) -> Vec<(u32, Val<'c>)> {
        let (c, p) = (self.c, self.plan);
        if p.unit == Unit::Dot {
            let word = self.word(at, rest);
            return if p.mixed() {
                decode::mixed_pairs(c, p.right.code, word)
            } else {
                vec![(0, word)]
            };
        }
        let v = decode::floats(c, p.right, p.lanes, at);
        let v = rest.map_or(v.clone(), |rest| self.kept(v, rest));
        (0..).zip(v).collect()
    }

    /// A pair of bf16, or an f32, in every lane.
    fn broadcast(&self, at: Val<'c>, pair: bool) -> Val<'c> {
        let c = self.c;
        let one = if pair { c.load(c.i32(), at, 2) } else { c.load(c.f32(), at, 4) };
        c.splat(one, self.plan.lanes)
    }

    /// `sum + a.0 * b.0 + a.1 * b.1` of pairs of bf16.
    pub fn dot(&self, sum: Val<'c>, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let c = self.c;
        let pairs = c.vec(c.cx.bf16_type().into(), along::STEP);
        let name = "llvm.x86.avx512bf16.dpbf16ps.512";
        c.call(name, &[], &[sum, c.bits(a, pairs), c.bits(b, pairs)])
    }

    /// Adds sums, row by row, to the valid columns of the accumulator.
    fn accumulate(&self, b: &Block<'c>, sums: &[Val<'c>]) {
        let c = self.c;
        for r in 0..b.rows {
            let row = c.at(self.o.acc, c.mul(c.add(b.row, c.c64(r.into())), self.o.acc_pitch));
            let row = c.index(row, b.col, 4);
            for col in 0..b.cols {
                let scale = b.scales.as_ref().map(|s| s[col as usize]);
                let sum = sums[(r * b.cols + col) as usize];
                self.add_to(row, b.col, col, sum, scale);
            }
        }
    }

    /// Adds a vector to block `block` of a row of the accumulator; `row` points to column `col`.
    pub fn add_to(
        &self,
        row: Val<'c>,
        col: Val<'c>,
        block: u32,
        sum: Val<'c>,
        scale: Option<Val<'c>>,
    ) {
        let (c, lanes) = (self.c, self.plan.lanes);
        let at = c.off(row, i64::from(block * lanes * 4));
        let ty = sum.get_type();
        let next = |old| match scale {
            Some(s) => c.fma(sum, s, old),
            None => c.fadd(old, sum),
        };
        if !self.form.ragged[1] && self.form.n.is_multiple_of(lanes) {
            return c.store(next(c.load(ty, at, 4)), at, 4);
        }
        let left = c.sub(self.o.valid[1], c.add(col, c.c64((block * lanes).into())));
        if c.isa.masks {
            let limit = c.splat(c.trunc(left, c.i32()), lanes);
            let mask = c.less(c.iota(c.i32(), lanes), limit);
            return c.store_masked(next(c.load_masked(ty, at, mask)), at, mask);
        }
        let whole = c.less(c.c64(i64::from(lanes) - 1), left);
        c.when(whole, || c.store(next(c.load(ty, at, 4)), at, 4));
        let some = c.less(left, c.c64(lanes.into()));
        c.when(some, || {
            // No stores of some lanes: through memory, one by one.
            let spill = self.scratch(self.plan.spill_at);
            let product = scale.map_or(sum, |s| c.fmul(sum, s));
            c.store(product, spill, 4);
            c.for_loop((c.c64(0), left, 1), &[], |j, _| {
                let at = c.index(at, j, 4);
                let v = c.load(c.f32(), c.index(spill, j, 4), 4);
                c.store(c.fadd(c.load(c.f32(), at, 4), v), at, 4);
                vec![]
            });
        });
    }
}
