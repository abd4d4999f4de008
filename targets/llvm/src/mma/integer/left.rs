//! The left operand of a product of codes: where it lies, or as a copy with scales and sums.

use super::Integer;
use super::dot::total;
use crate::code::Val;
use crate::mma::decode;

/// Codes copied at a time.
const STRIP: u32 = 64;

/// A table of rows: a pointer to the first, and bytes from row to row.
pub(crate) type Table<'c> = (Val<'c>, Val<'c>);

/// The left operand as it is multiplied; scales and sums for each stretch.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'c> {
    /// Bytes, a unit's quads in the order of its lines.
    pub codes: Table<'c>,
    /// f32.
    pub scales: Table<'c>,
    /// i32: sums of codes, or of the copy the start values of the accumulators.
    pub starts: Table<'c>,
}

impl<'c> Integer<'_, 'c> {
    /// The operand, copied if the plan says so.
    pub fn left(&self) -> Rows<'c> {
        let (c, f, p) = (self.c, self.form, self.plan);
        if p.copies {
            self.copy();
            let table = 4 * i64::from(f.stretches());
            return Rows {
                codes: (self.base.scratch(0), c.c64(p.pitch.into())),
                scales: (self.base.scratch(p.scales_at), c.c64(table)),
                starts: (self.base.scratch(p.starts_at), c.c64(table)),
            };
        }
        let [scales, per_row, row, col] = self.left_scales;
        let first = c.add(c.mul(row, per_row), self.base.div(col, f.stretch.into()));
        let pitch = c.shl(per_row, 2);
        let o = &self.base.o;
        Rows {
            codes: (o.left, f.left_pitch.map_or(o.left_pitch, |p| c.c64(p))),
            scales: (c.index(scales, first, 4), pitch),
            starts: (c.index(self.sums, first, 4), pitch),
        }
    }

    fn copy(&self) {
        let (c, f, p) = (self.c, self.form, self.plan);
        let [m, _, k] = self.base.o.valid;
        c.for_loop((c.c64(0), m, 1), &[], |r, _| {
            let from = c.at(self.base.o.left, c.mul(r, self.base.o.left_pitch));
            let to = c.index(self.base.scratch(0), r, p.pitch.into());
            self.copy_codes(from, to, k);
            self.copy_tables(r, to, k);
            if !f.in_order() {
                self.reorder(to, k);
            }
            vec![]
        });
    }

    /// Codes of a row, and zeros behind them to the end of the last step.
    fn copy_codes(&self, from: Val<'c>, to: Val<'c>, k: Val<'c>) {
        let (c, f) = (self.c, self.form);
        let strip = c.vec(c.i8(), STRIP);
        let whole = c.andc(k, -i64::from(STRIP));
        if f.has_tail() {
            let step = i64::from(f.step());
            let end = c.mul(self.base.div(c.add(k, c.c64(step - 1)), step), c.c64(step));
            c.for_loop((whole, end, STRIP.into()), &[], |at, _| {
                c.store(c.zero(strip), c.at(to, at), 1);
                vec![]
            });
        }
        let mut done = c.c64(0);
        if f.left_dense {
            done = whole;
            c.for_loop((c.c64(0), whole, STRIP.into()), &[], |at, _| {
                c.store(c.load(strip, c.at(from, at), 1), c.at(to, at), 1);
                vec![]
            });
        }
        c.for_loop((done, k, 1), &[], |at, _| {
            let v = c.load(c.i8(), c.at(from, c.mul(at, self.base.o.left_step)), 1);
            c.store(v, c.at(to, at), 1);
            vec![]
        });
    }

    /// Scales and start values of the stretches of row `r`, whose codes are at `codes`; zeros
    /// behind the last that is valid.
    fn copy_tables(&self, r: Val<'c>, codes: Val<'c>, k: Val<'c>) {
        let (c, f, p) = (self.c, self.form, self.plan);
        let stretch = i64::from(f.stretch);
        let [scales, per_row, row, col] = self.left_scales;
        let all = i64::from(f.stretches());
        let table = |at: u64, i: Val<'c>| c.index(c.index(self.base.scratch(at), r, 4 * all), i, 4);
        let count = self.base.div(c.add(k, c.c64(stretch - 1)), stretch);
        let first = c.mul(c.add(row, r), per_row);
        c.for_loop((c.c64(0), count, 1), &[], |i, _| {
            let at = c.mul(i, c.c64(stretch));
            let block = self.base.div(c.add(col, at), f.left_scale.cols.into());
            let scale = decode::scalar(c, f.left_scale.code, scales, c.add(first, block));
            c.store(scale, table(p.scales_at, i), 4);
            let width = 16u32.min(1 << f.stretch.trailing_zeros());
            let sum = c.for_loop((c.c64(0), c.c64(stretch), width.into()), &[c.c32(0)], |w, s| {
                vec![c.add(s[0], total(c, c.at(codes, c.add(at, w)), width))]
            });
            let start = c.mul(sum[0], c.c32(-f.offset()));
            c.store(start, table(p.starts_at, i), 4);
            vec![]
        });
        if f.has_tail() {
            c.for_loop((count, c.c64(all), 1), &[], |i, _| {
                for at in [p.scales_at, p.starts_at] {
                    c.store(c.c32(0), table(at, i), 4);
                }
                vec![]
            });
        }
    }

    /// Puts the quads of each unit in the order of its lines.
    fn reorder(&self, row: Val<'c>, k: Val<'c>) {
        let (c, f) = (self.c, self.form);
        let depth = f.unit.depth;
        let order: Vec<u32> = f.lines.iter().flat_map(|l| l.quads.concat()).collect();
        let unit = c.vec(c.i8(), depth);
        c.for_loop((c.c64(0), k, depth.into()), &[], |at, _| {
            let v = c.load(unit, c.at(row, at), 1);
            c.store(c.shuffle(v, v, &order), c.at(row, at), 1);
            vec![]
        });
    }
}
