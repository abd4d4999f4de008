//! Scales of the right operand: stretches of k under one scale, and vectors of scales.

use super::decode;
use super::form::ScaleForm;
use super::lowering::Lowering;
use crate::code::Val;
use ir::dtype::DType;

/// Columns and stretches whose scales are transposed at a time.
const SIDE: u32 = 8;

impl<'c> Lowering<'_, 'c> {
    /// Stretches of k that one block of scales covers.
    pub fn stretches(&self, body: impl FnOnce(Val<'c>, Val<'c>)) {
        let c = self.c;
        let k = self.o.valid[2];
        let (Some(ScaleForm { cols, .. }), Some([_, _, _, first])) =
            (self.form.scale(), self.o.scales)
        else {
            return body(c.c64(0), k);
        };
        let cols = i64::from(cols);
        let (zeroth, end) = self.indices(first, cols);
        c.for_loop((zeroth, end, 1), &[], |i, _| {
            let begin = c.sub(c.mul(i, c.c64(cols)), first);
            let from = c.smax(begin, c.c64(0));
            body(from, c.smin(c.add(begin, c.c64(cols)), k));
            vec![]
        });
    }

    /// Scales along k of the tile's first element, and one past that of its last.
    fn indices(&self, first: Val<'c>, cols: i64) -> (Val<'c>, Val<'c>) {
        let c = self.c;
        let last = c.add(first, c.sub(self.o.valid[2], c.c64(1)));
        (self.div(first, cols), c.add(self.div(last, cols), c.c64(1)))
    }

    /// Scales of the k's from `from` on, one for all columns of a block, for blocks from column
    /// `col` on.
    pub fn block_scales(&self, col: Val<'c>, cols: u32, from: Val<'c>) -> Option<Vec<Val<'c>>> {
        let (c, lanes) = (self.c, self.plan.lanes);
        let (s, [at, per_row, row, first]) = (self.form.scale()?, self.o.scales?);
        let one = |b: u32| {
            let j = c.add(row, c.add(col, c.c64((b * lanes).into())));
            let along = self.div(c.add(first, from), s.cols.into());
            let place = c.add(c.mul(self.div(j, s.rows.into()), per_row), along);
            c.splat(decode::scalar(c, s.code, at, place), lanes)
        };
        Some((0..cols).map(one).collect())
    }

    /// Where the scales of stretch `i` lie in the copy.
    fn scales_at(&self, i: Val<'c>) -> Val<'c> {
        let line = i64::from(4 * self.plan.lanes * self.plan.cols);
        self.c.index(self.scratch(self.plan.scales_at), i, line)
    }

    /// Copies the scales of `cols` blocks from column `col` on, as f32: for each stretch those of
    /// all columns together.
    pub fn scale_panel(&self, col: Val<'c>, cols: u32) {
        let (Some(s), Some([at, per_row, row, first])) = (self.form.scale(), self.o.scales) else {
            return;
        };
        let c = self.c;
        let (zeroth, end) = self.indices(first, s.cols.into());
        let count = c.sub(end, zeroth);
        let bytes = i64::from(s.code.bits() / 8);
        let last = c.sub(self.o.valid[1], c.c64(1));
        let side = i64::from(SIDE);
        let whole = if s.code == DType::E8M0 { c.c64(0) } else { c.andc(count, -side) };
        let all = c.c64((cols * self.plan.lanes).into());
        c.for_loop((c.c64(0), all, side), &[], |j, _| {
            // Columns that are not valid have no scales: they repeat the last that has.
            let from: Vec<Val> = (0..SIDE)
                .map(|i| {
                    let j = c.smin(c.add(col, c.add(j, c.c64(i.into()))), last);
                    let place = c.add(c.mul(c.add(row, j), per_row), zeroth);
                    c.index(at, place, bytes)
                })
                .collect();
            c.for_loop((c.c64(0), whole, side), &[], |i, _| {
                let load = |f: &Val<'c>| self.scale_strip(s.code, c.index(*f, i, bytes));
                let square = self.transposed(from.iter().map(load).collect());
                for (t, v) in (0..).zip(square) {
                    let to = self.scales_at(c.add(i, c.c64(t)));
                    c.store(v, c.index(to, j, 4), 4);
                }
                vec![]
            });
            c.for_loop((whole, count, 1), &[], |i, _| {
                let to = c.index(self.scales_at(i), j, 4);
                for (t, f) in (0..).zip(&from) {
                    c.store(decode::scalar(c, s.code, *f, i), c.off(to, 4 * t), 4);
                }
                vec![]
            });
            vec![]
        });
    }

    /// Adjacent scales as the words of f32.
    fn scale_strip(&self, code: DType, p: Val<'c>) -> Val<'c> {
        let c = self.c;
        let words = c.vec(c.i32(), SIDE);
        match code {
            DType::F16 => c.bits(c.f16_to_f32(c.load(c.vec(c.i16(), SIDE), p, 2)), words),
            DType::BF16 => c.shl(c.zext(c.load(c.vec(c.i16(), SIDE), p, 2), words), 16),
            _ => c.load(words, p, 4),
        }
    }

    /// Scales of the k's from `from` on, one for each column, out of the copy.
    pub fn panel_scales(&self, cols: u32, from: Val<'c>) -> Option<Vec<Val<'c>>> {
        let (c, lanes) = (self.c, self.plan.lanes);
        let (s, [_, _, _, first]) = (self.form.scale()?, self.o.scales?);
        let width = i64::from(s.cols);
        let i = c.sub(self.div(c.add(first, from), width), self.div(first, width));
        let line = self.scales_at(i);
        let one = |b: u32| c.load(c.vec(c.f32(), lanes), c.off(line, i64::from(b * lanes * 4)), 4);
        Some((0..cols).map(one).collect())
    }
}
