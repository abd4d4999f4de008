//! The copy of some columns of the right operand: blocks of columns by steps of k, as the
//! micro-kernel wants them, padded with zeros along k.

use super::decode;
use super::form::RightForm;
use super::lowering::Lowering;
use super::plan::{Stored, Unit};
use crate::code::Val;
use ir::dtype::DType;

/// Columns `first ..` of the right operand, of which `valid` take part, in `blocks` blocks.
pub(crate) struct Columns<'c> {
    /// First column.
    pub first: Val<'c>,
    /// Columns that are valid, at least 1, at most `blocks` blocks of them.
    pub valid: Val<'c>,
    /// Blocks.
    pub blocks: u32,
}

impl<'c> Lowering<'_, 'c> {
    /// Makes the copy; gives a pointer to it, and bytes from block to block.
    pub fn panel(&self, cols: &Columns<'c>) -> (Val<'c>, Val<'c>) {
        let (c, to) = (self.c, self.scratch(self.plan.panel_at));
        let k = self.o.valid[2];
        match self.form.right {
            RightForm::Blocked { code, lanes, group, .. } => {
                self.decode_panel(to, cols, Stored { code, group }, lanes);
            }
            RightForm::Strided { code, step, columns } => {
                let along = step == Some(i64::from(code.bits() / 8));
                let lanes = i64::from(self.plan.lanes);
                let done = match () {
                    () if along => self.transpose(to, cols),
                    () if columns => c.mul(self.div(cols.valid, lanes), c.c64(lanes)),
                    () => c.c64(0),
                };
                if along {
                    self.pad(to, cols.blocks, done, k);
                    self.elements(to, cols, (c.c64(0), cols.valid), (done, k));
                } else {
                    let whole = c.andc(k, -i64::from(self.plan.right.group));
                    self.pad(to, cols.blocks, whole, k);
                    if columns {
                        self.interleave(to, cols, done);
                    }
                    self.elements(to, cols, (done, cols.valid), (c.c64(0), k));
                }
            }
        }
        (to, c.c64(self.plan.panel_pitch.into()))
    }

    /// Where element `(j, k)` of the copy lies.
    fn place(&self, to: Val<'c>, j: Val<'c>, k: Val<'c>) -> Val<'c> {
        let (c, p) = (self.c, self.plan);
        let (lanes, group) = (i64::from(p.lanes), i64::from(p.right.group));
        let bytes = i64::from(p.right.code.bits() / 8);
        let block = c.index(to, self.div(j, lanes), p.panel_pitch.into());
        let step = i64::from(p.right.step_bytes(p.lanes));
        let group_at = c.index(block, self.div(k, group), step);
        let lane = c.index(group_at, c.andc(j, lanes - 1), group * bytes);
        c.index(lane, c.andc(k, group - 1), bytes)
    }

    /// Zeros from k's step `from` (a multiple of the group) to the end of what is multiplied.
    fn pad(&self, to: Val<'c>, blocks: u32, from: Val<'c>, k: Val<'c>) {
        let (c, p) = (self.c, self.plan);
        let end = self.round_up(k, p.depth());
        let words = p.right.step_bytes(p.lanes) / 4;
        c.for_loop((from, end, p.right.group.into()), &[], |at, _| {
            for b in 0..blocks {
                let at = self.place(to, c.c64((b * p.lanes).into()), at);
                c.store(c.zero(c.vec(c.i32(), words)), at, 4);
            }
            vec![]
        });
    }

    /// Copies columns `j.0 .. j.1` at k's `k.0 .. k.1` one by one.
    fn elements(
        &self,
        to: Val<'c>,
        cols: &Columns<'c>,
        j: (Val<'c>, Val<'c>),
        k: (Val<'c>, Val<'c>),
    ) {
        let c = self.c;
        let bytes = self.form.code().bits() / 8;
        let ty = if bytes == 4 { c.i32() } else { c.i16() };
        c.for_loop((j.0, j.1, 1), &[], |j, _| {
            let from = self.column(cols, j);
            c.for_loop((k.0, k.1, 1), &[], |k, _| {
                let v = c.load(ty, c.at(from, c.mul(k, self.o.right_step)), bytes);
                c.store(v, self.place(to, j, k), bytes);
                vec![]
            });
            vec![]
        });
    }

    /// Where column `j` of these begins.
    fn column(&self, cols: &Columns<'c>, j: Val<'c>) -> Val<'c> {
        let c = self.c;
        c.at(self.o.right, c.mul(c.add(cols.first, j), self.o.right_pitch))
    }

    /// Transposes columns that lie along k, squares of words at a time; gives the k's done.
    /// Columns that are not valid repeat the last that is.
    fn transpose(&self, to: Val<'c>, cols: &Columns<'c>) -> Val<'c> {
        let (c, p) = (self.c, self.plan);
        let side = c.isa.lanes.min(p.lanes);
        let per_word = 32 / p.right.code.bits();
        let square = i64::from(side * per_word);
        let done = c.andc(self.o.valid[2], -square);
        let last = c.sub(cols.valid, c.c64(1));
        let end = self.round_up(cols.valid, p.lanes);
        c.for_loop((c.c64(0), end, side.into()), &[], |j, _| {
            let from: Vec<Val> = (0..side)
                .map(|i| self.column(cols, c.smin(c.add(j, c.c64(i.into())), last)))
                .collect();
            c.for_loop((c.c64(0), done, square), &[], |k, _| {
                let at = c.mul(k, c.c64((4 / per_word).into()));
                let words = c.vec(c.i32(), side);
                let rows = from.iter().map(|f| c.load(words, c.at(*f, at), 1)).collect();
                let into = self.place(to, j, k);
                let line = i64::from(p.lanes * 4);
                for (i, v) in self.transposed(rows).into_iter().enumerate() {
                    c.store(v, c.off(into, i as i64 * line), 4);
                }
                vec![]
            });
            vec![]
        });
        done
    }

    /// The transpose of a square of words.
    pub fn transposed(&self, mut v: Vec<Val<'c>>) -> Vec<Val<'c>> {
        let n = v.len();
        let mut half = n / 2;
        // Swap the off-diagonal quarters of ever smaller squares.
        while half > 0 {
            let (mut low, mut high) = (Vec::new(), Vec::new());
            for i in 0..n {
                let base = i & !(2 * half - 1) | i & (half - 1);
                low.push(if i & half == 0 { i } else { n + base });
                high.push(if i & half == 0 { base + half } else { n + i });
            }
            let mask = |m: &[usize]| m.iter().map(|l| *l as u32).collect::<Vec<_>>();
            let (low, high) = (mask(&low), mask(&high));
            for i in (0..n).filter(|i| i & half == 0) {
                let (a, b) = (v[i], v[i + half]);
                v[i] = self.c.shuffle(a, b, &low);
                v[i + half] = self.c.shuffle(a, b, &high);
            }
            half /= 2;
        }
        v
    }

    /// Copies whole blocks of contiguous columns, up to column `end`; two k's interleaved where
    /// the copy holds pairs.
    fn interleave(&self, to: Val<'c>, cols: &Columns<'c>, end: Val<'c>) {
        let (c, p) = (self.c, self.plan);
        let (k, step) = (self.o.valid[2], self.o.right_step);
        if p.right.group == 1 {
            let words = c.vec(c.i32(), p.lanes);
            c.for_loop((c.c64(0), end, p.lanes.into()), &[], |j, _| {
                let from = self.column(cols, j);
                c.for_loop((c.c64(0), k, 1), &[], |k, _| {
                    let v = c.load(words, c.at(from, c.mul(k, step)), 4);
                    c.store(v, self.place(to, j, k), 4);
                    vec![]
                });
                vec![]
            });
            return;
        }
        // Two blocks at a time: whole vectors of 16-bit elements.
        let two = c.andc(end, -2 * i64::from(p.lanes));
        for (lo, hi, blocks) in [(c.c64(0), two, 2), (two, end, 1)] {
            c.for_loop((lo, hi, (blocks * p.lanes).into()), &[], |j, _| {
                self.interleave_blocks(to, cols, j, blocks);
                vec![]
            });
        }
    }

    /// Copies all k's of some blocks from column `j` on, in pairs.
    fn interleave_blocks(&self, to: Val<'c>, cols: &Columns<'c>, j: Val<'c>, blocks: u32) {
        let (c, p) = (self.c, self.plan);
        let (k, step) = (self.o.valid[2], self.o.right_step);
        let (from, width) = (self.column(cols, j), blocks * p.lanes);
        let halves = c.vec(c.i16(), width);
        let row = |k| c.load(halves, c.at(from, c.mul(k, step)), 2);
        let pairs = |k: Val<'c>, first: Val<'c>, second: Val<'c>| {
            for b in 0..blocks {
                let lanes = (0..2 * p.lanes).map(|i| b * p.lanes + i / 2 + i % 2 * width);
                let v = c.shuffle(first, second, &lanes.collect::<Vec<_>>());
                let at = self.place(to, c.add(j, c.c64((b * p.lanes).into())), k);
                c.store(v, at, 4);
            }
        };
        let even = c.andc(k, -2);
        c.for_loop((c.c64(0), even, 2), &[], |k, _| {
            pairs(k, row(k), row(c.add(k, c.c64(1))));
            vec![]
        });
        c.for_loop((even, k, 2), &[], |k, _| {
            pairs(k, row(k), c.zero(halves));
            vec![]
        });
    }

    /// Decodes blocks of codes to f32 or pairs of bf16.
    fn decode_panel(&self, to: Val<'c>, cols: &Columns<'c>, s: Stored, lanes: u32) {
        let (c, p) = (self.c, self.plan);
        let k = self.o.valid[2];
        let group = i64::from(s.group);
        let whole = self.div(k, group);
        let line = i64::from(lanes * 4);
        if p.unit == Unit::Tile {
            self.pad(to, cols.blocks, c.mul(whole, c.c64(group)), k);
        }
        for b in 0..cols.blocks {
            let block = c.add(self.div(cols.first, lanes.into()), c.c64(b.into()));
            let from = c.at(self.o.right, c.mul(block, self.o.right_pitch));
            let step = |g: Val<'c>, rest: Option<Val<'c>>| {
                let at = c.index(from, g, s.step_bytes(lanes).into());
                let mut v = decode::exactly(c, s, lanes, at);
                if let Some(rest) = rest {
                    v = self.kept(v, rest);
                }
                if p.right.code == DType::BF16 {
                    v = v.chunks(2).map(|w| decode::pairs(c, lanes, w[0], w[1])).collect();
                }
                let to = self.place(to, c.c64((b * lanes).into()), c.mul(g, c.c64(group)));
                for (i, v) in v.into_iter().enumerate() {
                    c.store(v, c.off(to, i as i64 * line), 4);
                }
            };
            c.for_loop((c.c64(0), whole, 1), &[], |g, _| {
                step(g, None);
                vec![]
            });
            if self.form.has_tail(s.group) {
                let rest = c.sub(k, c.mul(whole, c.c64(group)));
                c.when(c.less(c.c64(0), rest), || step(whole, Some(rest)));
            }
        }
    }

    /// Vectors of a step of which only the first `rest` k's are valid: 0 in the others.
    pub fn kept(&self, v: Vec<Val<'c>>, rest: Val<'c>) -> Vec<Val<'c>> {
        let c = self.c;
        v.into_iter()
            .enumerate()
            .map(|(i, v)| {
                let valid = c.less(c.c64(i as i64), rest);
                c.select(valid, v, c.zero(v.get_type()))
            })
            .collect()
    }
}
