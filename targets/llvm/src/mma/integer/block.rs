//! Register blocks of a product of codes: dot products of bytes, summed in i32 over a stretch of
//! k's under one scale, then scaled and summed in f32.

use super::form::{Line, Scaling};
use super::left::Rows;
use super::plan::SHIFTED_ROWS;
use super::{Integer, dot::dot};
use crate::code::Val;
use crate::mma::LINE;
use inkwell::values::InstructionOpcode as Opcode;
use ir::dtype::DType;

/// Units that are done in a turn of the loop over them.
const TURN: u32 = 4;
/// Units that are not looped over at all.
const FEW: u32 = 8;

/// What a register block works on.
pub(crate) struct Block<'c> {
    /// Rows.
    pub rows: u32,
    /// Blocks of columns.
    pub cols: u32,
    /// First row.
    pub row: Val<'c>,
    /// First column.
    pub col: Val<'c>,
    /// Left operand, all of its rows.
    pub left: Rows<'c>,
    /// Right operand, first column: pointer and bytes from block to block.
    pub right: (Val<'c>, Val<'c>),
    /// Where this block begins to ask for what is ahead: one pointer for each line of a unit.
    pub ahead: Vec<Val<'c>>,
}

impl<'c> Integer<'_, 'c> {
    /// Adds a block's product to the accumulator.
    pub fn block(&self, b: &Block<'c>) {
        let (c, f) = (self.c, self.form);
        let floats = c.vec(c.f32(), f.unit.lanes);
        if f.stretches() == 1 {
            self.near(b);
            let sums = self.stretch(b, c.c64(0), c.c64(0), 0);
            let scales = self.scales(b, c.c64(0), c.c64(0), 0);
            return self.add(b, &sums, Some(&scales));
        }
        let zero = vec![c.zero(floats); (b.rows * b.cols) as usize];
        let step = i64::from(f.step());
        let end = self.base.div(c.add(self.base.o.valid[2], c.c64(step - 1)), step);
        let phases = f.step() / f.stretch;
        let sums = c.for_loop((c.c64(0), end, 1), &zero, |s, now| {
            let first = c.mul(s, c.c64(phases.into()));
            let mut now = now.to_vec();
            for phase in 0..phases {
                let i = c.add(first, c.c64(phase.into()));
                let unit = c.mul(s, c.c64((f.step() / f.unit.depth).into()));
                let sums = self.stretch(b, i, unit, phase);
                let scales = self.scales(b, i, unit, phase);
                let begin = c.mul(i, c.c64(f.stretch.into()));
                let valid = c.less(begin, self.base.o.valid[2]);
                for ((now, sum), scale) in now.iter_mut().zip(sums).zip(scales) {
                    let next = c.fma(sum, scale, *now);
                    // Scales of what is not valid may be no numbers.
                    let some = phase > 0 && f.has_tail();
                    *now = if some { c.select(valid, next, *now) } else { next };
                }
            }
            now
        });
        self.add(b, &sums, None);
    }

    /// Whether the high halves of codes are multiplied sixteenfold, in sums of their own.
    fn shifted(&self, b: &Block<'c>) -> bool {
        self.c.isa.dot_i8 && b.rows <= SHIFTED_ROWS
    }

    /// Sums of codes over stretch `i`, as f32: it is part `phase` of unit `unit`, or begins there.
    fn stretch(&self, b: &Block<'c>, i: Val<'c>, unit: Val<'c>, phase: u32) -> Vec<Val<'c>> {
        let (c, f) = (self.c, self.form);
        let words = c.vec(c.i32(), f.unit.lanes);
        let start: Vec<Val> = (0..b.rows).map(|r| self.start(b, r, i)).collect();
        let each = (b.rows * b.cols) as usize;
        let mut sums: Vec<Val> =
            (0..b.rows).flat_map(|r| vec![start[r as usize]; b.cols as usize]).collect();
        let apart = self.shifted(b) && f.lines[0].quads.len() > 1;
        if apart {
            sums.extend(vec![c.zero(words); each]);
        }
        let mine = |l: &&Line| l.quads[0][0] / f.stretch == phase || f.stretch > f.unit.depth;
        let lines: Vec<&Line> = f.lines.iter().filter(mine).collect();
        let sums = self.units(b, unit, &lines, sums);
        let floats = c.vec(c.f32(), f.unit.lanes);
        (0..each)
            .map(|at| {
                let high = apart.then(|| c.ashr(sums[at + each], 4));
                let sum = high.map_or(sums[at], |h| c.add(sums[at], h));
                c.cast(Opcode::SIToFP, sum, floats)
            })
            .collect()
    }

    /// Adds the lines of the units of a stretch that begins with `unit`.
    fn units(
        &self,
        b: &Block<'c>,
        unit: Val<'c>,
        lines: &[&Line],
        sums: Vec<Val<'c>>,
    ) -> Vec<Val<'c>> {
        let (c, f) = (self.c, self.form);
        let count = (f.stretch / f.unit.depth).max(1);
        let add = |c: i64, sums: &mut [Val<'c>], u: Val<'c>| {
            let u = self.c.add(u, self.c.c64(c));
            self.lines(b, u, lines, sums);
        };
        if !f.has_tail() && count <= FEW || count == 1 {
            let mut sums = sums;
            (0..count).for_each(|i| add(i.into(), &mut sums, unit));
            self.base.ask_ahead(&b.ahead, unit, count);
            return sums;
        }
        let end = c.add(unit, c.c64(count.into()));
        let turn = if f.has_tail() || count % TURN > 0 { 1 } else { TURN };
        let end = if f.has_tail() {
            let depth = i64::from(f.unit.depth);
            let valid = self.base.div(c.add(self.base.o.valid[2], c.c64(depth - 1)), depth);
            c.smin(end, valid)
        } else {
            end
        };
        c.for_loop((unit, end, turn.into()), &sums, |u, now| {
            let mut now = now.to_vec();
            (0..turn).for_each(|i| add(i.into(), &mut now, u));
            self.base.ask_ahead(&b.ahead, u, turn);
            now
        })
    }

    /// Adds lines of a unit.
    fn lines(&self, b: &Block<'c>, unit: Val<'c>, lines: &[&Line], sums: &mut [Val<'c>]) {
        let (c, f) = (self.c, self.form);
        let (lanes, bits) = (f.unit.lanes, f.code.bits());
        let each = (b.rows * b.cols) as usize;
        let apart = sums.len() > each;
        let rows: Vec<Val> = (0..b.rows)
            .map(|r| {
                let row = c.add(b.row, c.c64(r.into()));
                let row = c.at(b.left.codes.0, c.mul(row, b.left.codes.1));
                c.index(row, unit, f.unit.depth.into())
            })
            .collect();
        for line in lines {
            let words: Vec<Vec<Val>> =
                (0..b.cols).map(|col| self.unsigned(b, self.unit(b, col, unit), line)).collect();
            for (half, quad) in line.quads.iter().enumerate() {
                for (r, row) in rows.iter().enumerate() {
                    let at = i64::from(self.quad(quad));
                    let x = c.splat(c.load(c.i32(), c.off(*row, at), 1), lanes);
                    for (col, w) in words.iter().enumerate() {
                        let at = r * b.cols as usize + col + if apart { half * each } else { 0 };
                        sums[at] = dot(c, (lanes, bits), sums[at], w[half], x);
                    }
                }
            }
        }
    }

    /// Bytes from a unit's beginning to a quad of the left operand.
    fn quad(&self, quad: &[u32; 4]) -> u32 {
        let f = self.form;
        if f.in_order() {
            return quad[0];
        }
        let all = f.lines.iter().flat_map(|l| &l.quads);
        4 * all.take_while(|q| *q != quad).count() as u32
    }

    /// Where a unit of block `col` lies.
    fn unit(&self, b: &Block<'c>, col: u32, unit: Val<'c>) -> Val<'c> {
        let c = self.c;
        let block = c.at(b.right.0, c.mul(b.right.1, c.c64(col.into())));
        c.index(block, unit, self.form.unit.bytes.into())
    }

    /// Codes of a line made unsigned: bytes, or the low and the high halves of bytes.
    fn unsigned(&self, b: &Block<'c>, unit: Val<'c>, line: &Line) -> Vec<Val<'c>> {
        let (c, f) = (self.c, self.form);
        let words = c.vec(c.i32(), f.unit.lanes);
        let codes = c.load(words, c.off(unit, line.at.into()), 4);
        let flip = |mask: i64| c.op(Opcode::Xor, codes, c.int(words, mask));
        if f.code == DType::I8 {
            return vec![flip(0x8080_8080)];
        }
        let codes = flip(0x8888_8888);
        let high = match self.shifted(b) {
            true => c.andc(codes, 0xf0f0_f0f0),
            false => c.andc(c.lshr(codes, 4), 0x0f0f_0f0f),
        };
        vec![c.andc(codes, 0x0f0f_0f0f), high]
    }

    /// What the sums of row `r` of the block begin with: what takes the offset of the right codes
    /// out again.
    fn start(&self, b: &Block<'c>, r: u32, i: Val<'c>) -> Val<'c> {
        let (c, f) = (self.c, self.form);
        let at = self.entry(b.left.starts, b, r, i);
        let v = c.load(c.i32(), at, 4);
        let v = if self.plan.copies { v } else { c.mul(v, c.c32(-f.offset())) };
        c.splat(v, f.unit.lanes)
    }

    /// Entry `i` of row `r` of the block in a table.
    fn entry(&self, table: (Val<'c>, Val<'c>), b: &Block<'c>, r: u32, i: Val<'c>) -> Val<'c> {
        let c = self.c;
        let row = c.add(b.row, c.c64(r.into()));
        c.index(c.at(table.0, c.mul(row, table.1)), i, 4)
    }

    /// What the sums of a stretch are multiplied by, row by row.
    fn scales(&self, b: &Block<'c>, i: Val<'c>, unit: Val<'c>, phase: u32) -> Vec<Val<'c>> {
        let (c, f) = (self.c, self.form);
        let lanes = f.unit.lanes;
        let mut from = c.mul(i, c.c64(f.stretch.into()));
        if phase > 0 && f.has_tail() {
            // Behind the last valid k there may be no scales.
            from = c.smin(from, c.sub(self.base.o.valid[2], c.c64(1)));
        }
        let right = match f.scale {
            Scaling::None => None,
            Scaling::Within(code) => {
                let one = |col| self.nested(self.unit(b, col, unit), code, phase);
                Some((0..b.cols).map(one).collect::<Vec<_>>())
            }
            Scaling::Apart(s) if s.rows == 1 => self.base.panel_scales(b.cols, from),
            Scaling::Apart(_) => self.base.block_scales(b.col, b.cols, from),
        };
        let mut all = Vec::new();
        for r in 0..b.rows {
            let x = c.load(c.f32(), self.entry(b.left.scales, b, r, i), 4);
            let x = c.splat(x, lanes);
            for col in 0..b.cols as usize {
                all.push(right.as_ref().map_or(x, |w| c.fmul(x, w[col])));
            }
        }
        all
    }

    /// Scales of part `phase` of a unit.
    fn nested(&self, unit: Val<'c>, code: DType, phase: u32) -> Val<'c> {
        let (c, f) = (self.c, self.form);
        let lanes = f.unit.lanes;
        let bit = f.unit.scales.as_ref().map_or(0, |s| s.bit(0, phase * f.stretch));
        let at = c.off(unit, i64::from(bit / 8));
        let floats = c.vec(c.f32(), lanes);
        match code {
            DType::F16 => c.f16_to_f32(c.load(c.vec(c.i16(), lanes), at, 1)),
            DType::BF16 => {
                let half = c.load(c.vec(c.i16(), lanes), at, 1);
                c.bits(c.shl(c.zext(half, c.vec(c.i32(), lanes)), 16), floats)
            }
            _ => c.load(floats, at, 1),
        }
    }

    /// Asks for the block's part of the accumulator, long before it is needed.
    fn near(&self, b: &Block<'c>) {
        let (c, o) = (self.c, &self.base.o);
        let bytes = i64::from(b.cols * self.form.unit.lanes * 4);
        for r in 0..b.rows {
            let row = c.at(o.acc, c.mul(c.add(b.row, c.c64(r.into())), o.acc_pitch));
            let row = c.index(row, b.col, 4);
            (0..bytes).step_by(LINE as usize).for_each(|at| c.prefetch_near(c.off(row, at)));
        }
    }

    /// Adds sums, times scales if there are any, to the accumulator.
    fn add(&self, b: &Block<'c>, sums: &[Val<'c>], scales: Option<&[Val<'c>]>) {
        let (c, o) = (self.c, &self.base.o);
        for r in 0..b.rows {
            let row = c.at(o.acc, c.mul(c.add(b.row, c.c64(r.into())), o.acc_pitch));
            let row = c.index(row, b.col, 4);
            for col in 0..b.cols {
                let at = (r * b.cols + col) as usize;
                let scale = scales.map(|s| s[at]);
                self.base.add_to(row, b.col, col, sums[at], scale);
            }
        }
    }
}
