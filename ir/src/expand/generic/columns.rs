//! Lanes along n: a vector of weights times a scalar of the left operand.

use super::{
    Place, Product, Source, Weights, float, known_empty, quotient_rest, scaled, whole_steps,
};
use crate::dtype::DType;
use crate::expand::emit::{Emitter, OpenFor};
use crate::expand::scratch::BufferId;
use crate::expand::tile::bytes_of;
use crate::loops::{Arith, Cmp, Convert, Elem, Inst, MemElem, Reg, Scales, Stride, Strided};

/// Accumulators held at once, in vectors.
const HELD: u32 = 8;

/// Least number of rows for which weights are decoded ahead of the product.
const PANEL_ROWS: u32 = 8;

impl Product<'_> {
    /// Vectors of columns below `whole`.
    pub(super) fn columns(&self, em: &mut Emitter, whole: Reg) {
        let lanes = i64::from(em.lanes);
        let vectors = (self.mma.n / em.lanes).max(1);
        let rows = if self.mma.m >= 4 { 4 } else { self.mma.m.max(1) };
        let held = (HELD / rows).min(4).min(vectors);
        let zero = em.int(0);
        let step = i64::from(held) * lanes;
        let many = whole_steps(em, whole, step);
        let panel = self.panel(em, held);
        for (lo, hi, held) in [(zero, many, held), (many, whole, 1)] {
            if known_empty(em, lo, hi) || (held == 1 && lo != zero && step == lanes) {
                continue;
            }
            let (open, _) = em.open_for(lo, hi, i64::from(held) * lanes, &[]);
            let j = open.var();
            let strided = panel.map(|id| self.fill_panel(em, id, j, held));
            let weights = match &strided {
                None => self.weights(),
                Some(at) => Weights {
                    encoding: DType::F32.into(),
                    group: 1,
                    scales: None,
                    source: Source::Rows(at),
                },
            };
            self.over_rows(em, rows, &mut |em, i, rows| {
                self.column_tile(em, &weights, (i, rows), (j, held));
            });
            em.close_for(open, &[]);
        }
    }

    /// Scratch for a panel of decoded weights, where more than a few rows are multiplied by it.
    fn panel(&self, em: &mut Emitter, held: u32) -> Option<BufferId> {
        let weights = self.weights();
        let plain = weights.encoding == DType::F32.into();
        let bytes = u64::from(self.mma.k) * u64::from(held * em.lanes) * 4;
        // Weights that are scaled in a panel are others than sums that are scaled.
        let same = !(self.mma.batch_invariant && weights.scales.is_some());
        (!plain && same && self.mma.m >= PANEL_ROWS).then(|| em.scratch.allocate(bytes))
    }

    /// Decodes the weights of `held` vectors from column `j`; gives them as memory in which a
    /// column has its own number.
    fn fill_panel(&self, em: &mut Emitter, id: BufferId, j: Reg, held: u32) -> Strided {
        let weights = self.weights();
        let lanes = i64::from(em.lanes);
        let row = i64::from(held) * lanes * 4;
        let address = em.buffer(id, 0);
        let starts = self.column_starts(em, &weights, j, held);
        let zero = em.int(0);
        match weights.scales {
            None => {
                let range = (zero, self.bounds.k);
                self.decode(em, &weights, &starts, range, &[], (address, row));
            }
            Some(scales) => {
                let (open, range, _) = self.open_blocks(em, scales.0, &[]);
                let factors = self.factors(em, scales, j, &starts, open.var());
                self.decode(em, &weights, &starts, range, &factors, (address, row));
                em.close_for(open, &[]);
            }
        }
        let by = em.mul_imm(j, -4);
        let address = em.add(address, by);
        Strided { address, row: Stride::Bytes(4), col: Stride::Bytes(row) }
    }

    /// Writes weights times their factors to `to`, whose rows lie `to.1` bytes apart.
    fn decode(
        &self,
        em: &mut Emitter,
        weights: &Weights,
        starts: &[Place],
        (lo, hi): (Reg, Reg),
        factors: &[Reg],
        to: Place,
    ) {
        let group = i64::from(weights.group);
        let whole = whole_steps(em, hi, group);
        let write = |em: &mut Emitter, k: Reg, parts: &[i64]| {
            let by = em.mul_imm(k, to.1);
            let row = em.add(to.0, by);
            for (v, start) in starts.iter().enumerate() {
                let vectors = weights.load(em, *start, k, parts);
                for (vector, part) in vectors.into_iter().zip(parts) {
                    let value = factors.get(v).map_or(vector, |f| em.mul(vector, *f));
                    let at = part * to.1 + 4 * i64::from(em.lanes) * v as i64;
                    em.store(MemElem::F32, row, at, value);
                }
            }
        };
        let (open, _) = em.open_for(lo, whole, group, &[]);
        let all: Vec<i64> = (0..group).collect();
        write(em, open.var(), &all);
        em.close_for(open, &[]);
        if known_empty(em, whole, hi) {
            return;
        }
        for part in 0..group - 1 {
            let (from, to) = part_of_group(em, whole, part, hi);
            let (open, _) = em.open_for(from, to, 1, &[]);
            write(em, whole, &[part]);
            em.close_for(open, &[]);
        }
    }

    /// Accumulates `rows` by `held` vectors from `(i, j)`.
    fn column_tile(
        &self,
        em: &mut Emitter,
        weights: &Weights,
        (i, rows): (Reg, u32),
        (j, held): (Reg, u32),
    ) {
        let lanes = i64::from(em.lanes);
        let starts = self.column_starts(em, weights, j, held);
        let lefts: Vec<Reg> = (0..rows)
            .map(|r| {
                let i = em.add_imm(i, r.into());
                self.left_row(em, i)
            })
            .collect();
        let mut places = vec![];
        for r in 0..rows {
            let i = em.add_imm(i, r.into());
            let row = self.acc_at(em, i, j);
            for v in 0..held {
                places.push((row, 4 * lanes * i64::from(v)));
            }
        }
        let begin: Vec<Reg> =
            places.iter().map(|(a, o)| em.load(MemElem::F32, true, *a, *o)).collect();
        let sums = match weights.scales {
            None => {
                let zero = em.int(0);
                let whole = (zero, self.bounds.k);
                self.depth_loop(em, weights, &starts, &lefts, whole, &begin)
            }
            Some(scales) => {
                let (open, range, sums) = self.open_blocks(em, scales.0, &begin);
                let zero = em.float(0.0);
                let none = vec![em.wide(zero); begin.len()];
                let parts = self.depth_loop(em, weights, &starts, &lefts, range, &none);
                let factors = self.factors(em, scales, j, &starts, open.var());
                let sums = sums.iter().zip(parts).enumerate();
                let next =
                    sums.map(|(at, (sum, part))| em.fma(part, factors[at % starts.len()], *sum));
                let next: Vec<Reg> = next.collect();
                em.close_for(open, &next)
            }
        };
        for ((address, offset), sum) in places.into_iter().zip(sums) {
            em.store(MemElem::F32, address, offset, sum);
        }
    }

    /// Addresses of the weights of vectors from column `j`, at k = 0.
    fn column_starts(&self, em: &mut Emitter, weights: &Weights, j: Reg, held: u32) -> Vec<Place> {
        let lanes = em.lanes;
        let bits = i64::from(weights.group * weights.encoding.code.bits());
        let apart = i64::from(lanes) * bits / 8;
        let adjacent = match &weights.source {
            Source::Rows(_) => true,
            // All vectors lie in one block, since they begin at a multiple of what they hold.
            Source::Blocks { lanes: block, .. } => block % (held * lanes) == 0,
        };
        if adjacent {
            let first = self.column_start(em, weights, j);
            return (0..i64::from(held)).map(|v| (first, v * apart)).collect();
        }
        (0..i64::from(held))
            .map(|v| {
                let j = em.add_imm(j, v * i64::from(lanes));
                (self.column_start(em, weights, j), 0)
            })
            .collect()
    }

    /// Address of the weights of a vector from column `j`, at k = 0.
    fn column_start(&self, em: &mut Emitter, weights: &Weights, j: Reg) -> Reg {
        match &weights.source {
            Source::Rows(at) => {
                let by = scaled(em, j, at.row);
                em.add(at.address, by)
            }
            Source::Blocks { address, block_bytes, lanes } => {
                let (block, lane) = quotient_rest(em, j, i64::from(*lanes));
                let by = em.mul(block, *block_bytes);
                let address = em.add(*address, by);
                let lane_bits = i64::from(weights.group * weights.encoding.code.bits());
                let by = em.mul_imm(lane, lane_bits / 8);
                em.add(address, by)
            }
        }
    }

    /// Sums over k within `range`, from `begin`.
    fn depth_loop(
        &self,
        em: &mut Emitter,
        weights: &Weights,
        starts: &[Place],
        lefts: &[Reg],
        range: (Reg, Reg),
        begin: &[Reg],
    ) -> Vec<Reg> {
        let group = i64::from(weights.group);
        let (lo, hi) = range;
        let whole = whole_steps(em, hi, group);
        let (open, sums) = em.open_for(lo, whole, group, begin);
        let all: Vec<i64> = (0..group).collect();
        let strip = (weights, starts, lefts);
        let next = self.depth_step(em, strip, open.var(), &all, &sums);
        let mut sums = em.close_for(open, &next);
        if group == 1 || known_empty(em, whole, hi) {
            return sums;
        }
        // Part of a group: as many loops of one iteration at most as there may be k's.
        for part in 0..group - 1 {
            let (from, to) = part_of_group(em, whole, part, hi);
            let (open, inside) = em.open_for(from, to, 1, &sums);
            let next = self.depth_step(em, strip, whole, &[part], &inside);
            sums = em.close_for(open, &next);
        }
        sums
    }

    /// Adds the products of the k's `k + part`, which lie in one group.
    fn depth_step(
        &self,
        em: &mut Emitter,
        (weights, starts, lefts): (&Weights, &[Place], &[Reg]),
        k: Reg,
        parts: &[i64],
        sums: &[Reg],
    ) -> Vec<Reg> {
        let vectors: Vec<Vec<Reg>> =
            starts.iter().map(|s| weights.load(em, *s, k, parts)).collect();
        let mut sums = sums.to_vec();
        for (p, part) in parts.iter().enumerate() {
            for (r, row) in lefts.iter().enumerate() {
                let x = self.left_at(em, *row, k, *part);
                let x = em.wide(x);
                for (v, vector) in vectors.iter().enumerate() {
                    let at = r * starts.len() + v;
                    sums[at] = em.fma(x, vector[p], sums[at]);
                }
            }
        }
        sums
    }

    /// Opens a loop over the blocks of scales along k; gives its range of k.
    fn open_blocks(
        &self,
        em: &mut Emitter,
        scales: &Scales,
        begin: &[Reg],
    ) -> (OpenFor, (Reg, Reg), Vec<Reg>) {
        let cols = i64::from(scales.cols);
        let first = em.convert(Convert::I32ToI64, scales.first_col);
        let from = em.arith_imm(Arith::Div, first, cols);
        let end = em.add(first, self.bounds.k);
        let end = em.add_imm(end, cols - 1);
        let to = em.arith_imm(Arith::Div, end, cols);
        let (open, sums) = em.open_for(from, to, 1, begin);
        let zero = em.int(0);
        let lo = em.mul_imm(open.var(), cols);
        let lo = em.sub(lo, first);
        let hi = em.add_imm(lo, cols);
        let (lo, hi) = (em.max(lo, zero), em.min(hi, self.bounds.k));
        (open, (lo, hi), sums)
    }

    /// Scales of vectors of columns from `j`, in a block along k.
    fn factors(
        &self,
        em: &mut Emitter,
        (scales, dtype): (&Scales, DType),
        j: Reg,
        starts: &[Place],
        block: Reg,
    ) -> Vec<Reg> {
        let vectors = 0..starts.len() as i64;
        let one = |v: i64| {
            let j = em.add_imm(j, v * i64::from(em.lanes));
            scale_vector(em, scales, dtype, j, block)
        };
        vectors.map(one).collect()
    }
}

impl Weights<'_> {
    /// Vectors of the weights of `k + part` for each part, of columns from `start`; `k` is a
    /// multiple of the group.
    fn load(&self, em: &mut Emitter, (start, at): Place, k: Reg, parts: &[i64]) -> Vec<Reg> {
        let code = self.encoding.code;
        let step = match &self.source {
            Source::Rows(at) => scaled(em, k, at.col),
            // k / group blocks of lanes * group codes.
            Source::Blocks { lanes, .. } => {
                let bits = i64::from(*lanes) * i64::from(code.bits());
                let by = em.mul_imm(k, bits / 8);
                if bits % 8 == 0 { by } else { em.arith_imm(Arith::ShrU, k, 1) }
            }
        };
        let address = em.add(start, step);
        if self.group == 1 {
            let value = em.load_as(code, true, address, at);
            return vec![float(em, value)];
        }
        let word = em.load(MemElem::I32, true, address, at);
        parts.iter().map(|p| code_of(em, word, code, *p)).collect()
    }
}

/// The value of the code at a position of a word of 32 bits.
fn code_of(em: &mut Emitter, word: Reg, code: DType, at: i64) -> Reg {
    let bits = i64::from(code.bits());
    let value = match code {
        DType::BF16 => {
            let up = match at {
                0 => em.arith_imm(Arith::Shl, word, 16),
                _ => em.arith_imm(Arith::And, word, -65536),
            };
            em.float_of(up)
        }
        DType::I8 | DType::I4 => {
            let up = em.arith_imm(Arith::Shl, word, 32 - bits * (at + 1));
            em.arith_imm(Arith::ShrS, up, 32 - bits)
        }
        _ => {
            let down = em.arith_imm(Arith::ShrU, word, bits * at);
            let code_bits = em.arith_imm(Arith::And, down, (1 << bits) - 1);
            em.widen(code, code_bits)
        }
    };
    float(em, value)
}

/// Scales of a vector of columns from `j`, in the block of columns of scales `block`.
fn scale_vector(em: &mut Emitter, scales: &Scales, dtype: DType, j: Reg, block: Reg) -> Reg {
    let lanes = em.lanes;
    let first = em.convert(Convert::I32ToI64, scales.first_row);
    let j = em.add(first, j);
    let iota = em.inst(Elem::I32, lanes, Inst::Iota);
    let mut vector = None;
    for lane in 0..i64::from(lanes) {
        let row = em.add_imm(j, lane);
        let row = em.arith_imm(Arith::Div, row, scales.rows.into());
        let at = em.mul(row, scales.per_row);
        let at = em.add(at, block);
        let by = em.mul_imm(at, bytes_of(dtype) as i64);
        let address = em.add(scales.address, by);
        let value = em.load_as(dtype, false, address, 0);
        let value = em.wide(value);
        vector = Some(match vector {
            None => value,
            Some(vector) => {
                let index = em.int_like(iota, lane);
                let here = em.cmp(Cmp::Eq, iota, index);
                em.select(here, value, vector)
            }
        });
    }
    vector.unwrap_or(iota)
}

/// The range of one k, or of none if that is not below `hi`.
fn part_of_group(em: &mut Emitter, whole: Reg, part: i64, hi: Reg) -> (Reg, Reg) {
    let from = em.add_imm(whole, part);
    let to = em.add_imm(whole, part + 1);
    (from, em.min(to, hi))
}
