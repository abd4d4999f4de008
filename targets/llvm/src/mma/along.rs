//! Register blocks with k in the lanes: both operands lie along k, and neither is copied. Each
//! element of the result has a vector of partial sums, which are added up in the end.

use super::lowering::Lowering;
use crate::code::Val;

/// k's of a step: a vector of bf16.
pub(crate) const STEP: u32 = 32;
/// Sums of a block: one for each lane of the vector that they add up to.
const SUMS: u32 = 16;

/// Rows and columns of a block for products of `m` rows.
pub(crate) fn block_of(m: u32) -> (u32, u32) {
    let rows = match m {
        1 => 1,
        2 | 3 => 2,
        _ => 4,
    };
    (rows, SUMS / rows)
}

impl<'c> Lowering<'_, 'c> {
    /// The whole product.
    pub fn along(&self) {
        let (c, p) = (self.c, self.plan);
        let [m, n, _] = self.o.valid;
        c.for_loop((c.c64(0), n, p.cols.into()), &[], |col, _| {
            let right = self.lines(self.o.right, self.o.right_pitch, (col, n), p.cols);
            c.for_loop((c.c64(0), m, p.rows.into()), &[], |row, _| {
                let left = self.lines(self.o.left, self.o.left_pitch, (row, m), p.rows);
                let sums = self.along_k(&left, &right, &self.ahead(col, row));
                self.add_lanes(self.added_up(sums), row, col);
                vec![]
            });
            vec![]
        });
    }

    /// Where `count` lines from the `first` on begin; those not valid repeat the last that is.
    fn lines(
        &self,
        at: Val<'c>,
        pitch: Val<'c>,
        (first, valid): (Val<'c>, Val<'c>),
        count: u32,
    ) -> Vec<Val<'c>> {
        let c = self.c;
        let last = c.sub(valid, c.c64(1));
        let line = |i: u32| c.smin(c.add(first, c.c64(i.into())), last);
        (0..count).map(|i| c.at(at, c.mul(line(i), pitch))).collect()
    }

    /// Partial sums of each left line with each right one.
    fn along_k(&self, left: &[Val<'c>], right: &[Val<'c>], ahead: &[Val<'c>]) -> Vec<Val<'c>> {
        let c = self.c;
        let k = self.o.valid[2];
        let steps = self.div(k, STEP.into());
        let halves = c.vec(c.i16(), STEP);
        let step = |s: Val<'c>, mask: Option<Val<'c>>, sums: &[Val<'c>]| {
            let load = |line: &Val<'c>| {
                let at = c.index(*line, s, i64::from(2 * STEP));
                match mask {
                    Some(mask) => c.load_masked(halves, at, mask),
                    None => c.load(halves, at, 2),
                }
            };
            let b: Vec<Val> = right.iter().map(load).collect();
            let mut sums = sums.to_vec();
            for (i, line) in left.iter().enumerate() {
                let a = load(line);
                for (j, b) in b.iter().enumerate() {
                    let sum = &mut sums[i * right.len() + j];
                    *sum = self.dot(*sum, a, *b);
                }
            }
            sums
        };
        let zero = vec![c.zero(c.vec(c.f32(), SUMS)); left.len() * right.len()];
        let mut sums = c.for_loop((c.c64(0), steps, 1), &zero, |s, now| {
            self.ask_ahead(ahead, s, 1);
            step(s, None, now)
        });
        if self.form.has_tail(STEP) {
            let rest = c.andc(k, i64::from(STEP) - 1);
            let mask = c.less(c.iota(c.i16(), STEP), c.splat(c.trunc(rest, c.i16()), STEP));
            let end = c.add(steps, c.smin(rest, c.c64(1)));
            sums = c.for_loop((steps, end, 1), &sums, |s, now| step(s, Some(mask), now));
        }
        sums
    }

    /// A vector of which each lane is the sum of one vector's lanes.
    fn added_up(&self, mut v: Vec<Val<'c>>) -> Val<'c> {
        // Of two vectors, in each quarter: the first elements of both in turn, and the last.
        let by_one = [[0, 16, 1, 17], [2, 18, 3, 19]];
        let by_two = [[0, 1, 16, 17], [2, 3, 18, 19]];
        for halves in [by_one, by_two] {
            let lanes = halves.map(|q| {
                (0..4).flat_map(|lane| q.map(|i: u32| i + 4 * lane)).collect::<Vec<u32>>()
            });
            v = self.halved(v, &lanes);
        }
        // Quarters of two vectors: even ones, and odd ones.
        let quarters = [[0, 2, 4, 6], [1, 3, 5, 7]].map(|q| {
            q.iter().flat_map(|q: &u32| (0..4).map(move |i| 4 * q + i)).collect::<Vec<u32>>()
        });
        while v.len() > 1 {
            v = self.halved(v, &quarters);
        }
        v[0]
    }

    /// Sums of two selections of each pair of vectors.
    fn halved(&self, v: Vec<Val<'c>>, lanes: &[Vec<u32>; 2]) -> Vec<Val<'c>> {
        let c = self.c;
        let sum = |pair: &[Val<'c>]| {
            let [x, y] = [0, 1].map(|i| c.shuffle(pair[0], pair[1], &lanes[i]));
            c.fadd(x, y)
        };
        v.chunks(2).map(sum).collect()
    }

    /// Adds the lanes of a vector to a block of the accumulator, as far as it is valid.
    fn add_lanes(&self, v: Val<'c>, row: Val<'c>, col: Val<'c>) {
        let (c, f, p) = (self.c, self.form, self.plan);
        let [m, n, _] = self.o.valid;
        let ty = c.vec(c.f32(), p.cols);
        let all_rows = !f.ragged[0] && f.m.is_multiple_of(p.rows);
        let all_cols = !f.ragged[1] && f.n.is_multiple_of(p.cols);
        for r in 0..p.rows {
            let lanes: Vec<u32> = (0..p.cols).map(|i| r * p.cols + i).collect();
            let part = c.shuffle(v, v, &lanes);
            let i = c.add(row, c.c64(r.into()));
            let at = c.index(c.at(self.o.acc, c.mul(i, self.o.acc_pitch)), col, 4);
            let add = || {
                if all_cols {
                    return c.store(c.fadd(c.load(ty, at, 4), part), at, 4);
                }
                let left = c.splat(c.trunc(c.sub(n, col), c.i32()), p.cols);
                let mask = c.less(c.iota(c.i32(), p.cols), left);
                c.store_masked(c.fadd(c.load_masked(ty, at, mask), part), at, mask);
            };
            if all_rows { add() } else { c.when(c.less(i, m), add) }
        }
    }
}
