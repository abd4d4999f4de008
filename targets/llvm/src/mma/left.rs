//! The copy of the left operand: contiguous, widened, padded with zeros.

use super::lowering::Lowering;
use super::plan::Unit;
use crate::code::Val;
use ir::dtype::DType;

/// Elements copied at a time.
const STRIP: u32 = 16;

impl<'c> Lowering<'_, 'c> {
    /// Copies the valid part of the left operand, if the plan wants it; gives the operand's rows:
    /// a pointer, and bytes from row to row.
    pub fn left(&self) -> (Val<'c>, Val<'c>) {
        let (c, p) = (self.c, self.plan);
        let Some(pitch) = p.left_pitch else { return (self.o.left, self.o.left_pitch) };
        let to = self.scratch(p.left_at);
        let [m, _, k] = self.o.valid;
        if p.unit == Unit::Tile {
            self.left_tiles(to, m, k);
            return (to, c.c64(pitch.into()));
        }
        let unit = p.left.bits() / 8;
        c.for_loop((c.c64(0), m, 1), &[], |r, _| {
            let from = c.at(self.o.left, c.mul(r, self.o.left_pitch));
            let row = c.index(to, r, pitch.into());
            if self.form.has_tail(p.depth()) {
                // Zeros in the last step, where the copy does not fill it.
                let (last, end) = (c.andc(k, -i64::from(p.depth())), self.round_up(k, p.depth()));
                c.for_loop((last, end, 1), &[], |at, _| {
                    let zero = if unit == 4 { c.c32(0) } else { c.int(c.i16(), 0) };
                    c.store(zero, c.index(row, at, unit.into()), unit);
                    vec![]
                });
            }
            self.left_row(from, k, |at| c.index(row, self.mixed(at), unit.into()));
            vec![]
        });
        (to, c.c64(pitch.into()))
    }

    /// Where element `at` of a row goes: the pairs of a step may be of its first and second half.
    fn mixed(&self, at: Val<'c>) -> Val<'c> {
        let (c, p) = (self.c, self.plan);
        if !p.mixed() {
            return at;
        }
        let half = i64::from(p.depth() / 2);
        let (group, i) = (c.andc(at, -2 * half), c.andc(at, 2 * half - 1));
        let place = c.add(c.shl(c.andc(i, half - 1), 1), self.div(i, half));
        c.add(group, place)
    }

    /// Lanes of a strip in the order of [`Lowering::mixed`].
    fn mixed_strip(&self, v: Val<'c>) -> Val<'c> {
        let p = self.plan;
        if !p.mixed() {
            return v;
        }
        let (group, half) = (p.depth(), p.depth() / 2);
        let from = |i: u32| i / group * group + i % group / 2 + i % 2 * half;
        self.c.shuffle(v, v, &(0..STRIP).map(from).collect::<Vec<_>>())
    }

    /// Copies a row of `k` elements to the places that `to` gives.
    fn left_row(&self, from: Val<'c>, k: Val<'c>, to: impl Fn(Val<'c>) -> Val<'c>) {
        let (c, f) = (self.c, self.form);
        let bytes = i64::from(f.left.bits() / 8);
        let mut done = c.c64(0);
        if f.left_step == Some(bytes) {
            done = c.andc(k, -i64::from(STRIP));
            c.for_loop((c.c64(0), done, STRIP.into()), &[], |at, _| {
                self.left_piece(c.index(from, at, bytes), to(at), STRIP);
                vec![]
            });
        }
        c.for_loop((done, k, 1), &[], |at, _| {
            self.left_piece(c.at(from, c.mul(at, self.o.left_step)), to(at), 1);
            vec![]
        });
    }

    /// Copies `n` adjacent elements, widened if the plan multiplies f32.
    fn left_piece(&self, from: Val<'c>, to: Val<'c>, n: u32) {
        let c = self.c;
        match (self.form.left, self.plan.left) {
            (DType::BF16, DType::F32) => {
                let half = c.load(c.vec(c.i16(), n), from, 2);
                c.store(c.shl(c.zext(half, c.vec(c.i32(), n)), 16), to, 4);
            }
            (DType::F16, _) => {
                let half = c.load(c.vec(c.i16(), n), from, 2);
                c.store(c.f16_to_f32(half), to, 4);
            }
            (DType::F32, _) => c.store(c.load(c.vec(c.i32(), n), from, 4), to, 4),
            _ => {
                let v = c.load(c.vec(c.i16(), n), from, 2);
                c.store(if n == STRIP { self.mixed_strip(v) } else { v }, to, 2);
            }
        }
    }

    /// Copies to tiles of 16 rows by 32 k's (1 KiB each), all of a 16 rows' tiles together;
    /// zeros fill rows and k's that are not valid.
    fn left_tiles(&self, to: Val<'c>, m: Val<'c>, k: Val<'c>) {
        let c = self.c;
        let pitch = self.plan.left_pitch.map_or(0, i64::from);
        let place = |r: Val<'c>, at: Val<'c>| {
            let band = c.index(to, c.lshr(r, 4), pitch * 16);
            let row = c.index(band, c.andc(r, 15), 64);
            c.at(c.index(row, c.lshr(at, 5), 1024), c.shl(c.andc(at, 31), 1))
        };
        let depth = self.round_up(k, 32);
        c.for_loop((c.c64(0), self.round_up(m, 16), 1), &[], |r, _| {
            let valid = c.less(r, m);
            let rows = c.select(valid, k, c.c64(0));
            // Whole lines of zeros first, where the copy does not fill them.
            c.for_loop((c.andc(rows, -32), depth, 32), &[], |at, _| {
                c.store(c.zero(c.vec(c.i32(), 16)), place(r, at), 4);
                vec![]
            });
            let from = c.at(self.o.left, c.mul(r, self.o.left_pitch));
            self.left_row(from, rows, |at| place(r, at));
            vec![]
        });
    }
}
