//! Lanes along k: vectors of both operands, summed at the end.

use super::{Product, float, known_empty, scaled, whole_steps};
use crate::dtype::DType;
use crate::expand::emit::Emitter;
use crate::expand::tile::bytes_of;
use crate::loops::{Arith, MemElem, Reg, Right};

impl Product<'_> {
    /// Lanes along k.
    pub(super) fn rows(&self, em: &mut Emitter) {
        let (rows, cols) = match self.mma.m {
            0 | 1 => (1, 4),
            2 | 3 => (2, 4),
            _ => (4, 2),
        };
        let cols = cols.min(self.mma.n.max(1));
        let zero = em.int(0);
        let n = self.bounds.n;
        let step = i64::from(cols);
        let many = whole_steps(em, n, step);
        for (lo, hi, cols) in [(zero, many, cols), (many, n, 1)] {
            if known_empty(em, lo, hi) || (cols == 1 && lo != zero && step == 1) {
                continue;
            }
            let (open, _) = em.open_for(lo, hi, cols.into(), &[]);
            let j = open.var();
            self.over_rows(em, rows, &mut |em, i, rows| self.row_tile(em, i, rows, j, cols));
            em.close_for(open, &[]);
        }
    }

    fn row_tile(&self, em: &mut Emitter, i: Reg, rows: u32, j: Reg, cols: u32) {
        let Right::Strided { encoding, at } = &self.mma.right else { return };
        let lanes = i64::from(em.lanes);
        let lefts: Vec<Reg> = (0..rows)
            .map(|r| {
                let i = em.add_imm(i, r.into());
                self.left_row(em, i)
            })
            .collect();
        let rights: Vec<Reg> = (0..cols)
            .map(|c| {
                let j = em.add_imm(j, c.into());
                let by = scaled(em, j, at.row);
                em.add(at.address, by)
            })
            .collect();
        let types = (self.mma.left.encoding.code, encoding.code);
        let zero = em.float(0.0);
        let wide = em.wide(zero);
        let whole = em.arith_imm(Arith::And, self.bounds.k, -lanes);
        let whole = em.constant(self.bounds.k).map_or(whole, |k| em.int(k / lanes * lanes));
        let lo = em.int(0);
        let none = vec![wide; lefts.len() * rights.len()];
        let sums = dots(em, (&lefts, &rights), types, (lo, whole, lanes), &none);
        let sums: Vec<Reg> = sums.into_iter().map(|s| em.across(Arith::Add, s)).collect();
        let sums = match known_empty(em, whole, self.bounds.k) {
            true => sums,
            false => dots(em, (&lefts, &rights), types, (whole, self.bounds.k, 1), &sums),
        };
        for r in 0..rows {
            let i = em.add_imm(i, r.into());
            let row = self.acc_at(em, i, j);
            for c in 0..cols {
                let sum = sums[(r * cols + c) as usize];
                let by = em.int(c.into());
                let by = scaled(em, by, self.mma.acc.col);
                let address = em.add(row, by);
                let before = em.load(MemElem::F32, false, address, 0);
                let sum = em.add(before, sum);
                em.store(MemElem::F32, address, 0, sum);
            }
        }
    }
}

/// Sums of products over k in `range` (from, to, step), for each left row and right row.
fn dots(
    em: &mut Emitter,
    (lefts, rights): (&[Reg], &[Reg]),
    (left, right): (DType, DType),
    (lo, hi, step): (Reg, Reg, i64),
    begin: &[Reg],
) -> Vec<Reg> {
    if known_empty(em, lo, hi) {
        return begin.to_vec();
    }
    let wide = step > 1;
    let (open, sums) = em.open_for(lo, hi, step, begin);
    let k = open.var();
    let load = |em: &mut Emitter, rows: &[Reg], dtype: DType| -> Vec<Reg> {
        let by = em.mul_imm(k, bytes_of(dtype) as i64);
        rows.iter()
            .map(|row| {
                let address = em.add(*row, by);
                let value = em.load_as(dtype, wide, address, 0);
                float(em, value)
            })
            .collect()
    };
    let xs = load(em, lefts, left);
    let ys = load(em, rights, right);
    let mut next = vec![];
    for (r, x) in xs.iter().enumerate() {
        for (c, y) in ys.iter().enumerate() {
            next.push(em.fma(*x, *y, sums[r * ys.len() + c]));
        }
    }
    em.close_for(open, &next)
}
