//! A product of tiles as loops, for every form of operands.
//!
//! - Lanes along n, where columns lie next to each other (blocks of lanes, or rows of the
//!   transposed operand): a vector of weights times a scalar of the left operand.
//! - Lanes along k, where both operands are contiguous in k: vectors of both, summed at the end.
//! - One element at a time for the rest, and for the columns that fill no vector.

use super::emit::{Emitter, OpenFor};
use super::scratch::BufferId;
use super::tile::bytes_of;
use crate::dtype::{DType, Encoding};
use crate::loops::{
    Arith, Cmp, Convert, Elem, Inst, MemElem, Mma, Reg, Right, Scales, Stride, Strided,
};

/// Accumulators held at once, in vectors.
const HELD: u32 = 8;

/// Least number of rows for which weights are decoded ahead of the product.
const PANEL_ROWS: u32 = 8;

/// Emits the loops of a product.
pub(super) fn lower(em: &mut Emitter, mma: &Mma) {
    let bounds = Bounds::of(em, mma);
    let lanes = i64::from(em.lanes);
    let product = Product { mma, bounds };
    match product.form(em) {
        Form::Columns => {
            let whole = em.arith_imm(Arith::And, product.bounds.n, -lanes);
            product.columns(em, whole);
            product.elements(em, whole);
        }
        Form::Depth => product.rows(em),
        Form::Elements => {
            let zero = em.int(0);
            product.elements(em, zero);
        }
    }
}

/// Valid extents, I64, at least 0.
#[derive(Clone, Copy)]
struct Bounds {
    m: Reg,
    n: Reg,
    k: Reg,
}

impl Bounds {
    fn of(em: &mut Emitter, mma: &Mma) -> Self {
        let mut one = |valid: Option<Reg>, extent: u32| {
            let whole = em.int(extent.into());
            let Some(valid) = valid else { return whole };
            let zero = em.int(0);
            let valid = em.convert(Convert::I32ToI64, valid);
            let valid = em.min(valid, whole);
            em.max(valid, zero)
        };
        let (m, n, k) = (one(mma.m_valid, mma.m), one(mma.n_valid, mma.n), one(mma.k_valid, mma.k));
        Bounds { m, n, k }
    }
}

/// Which axis lanes run along.
enum Form {
    Columns,
    Depth,
    Elements,
}

struct Product<'m> {
    mma: &'m Mma,
    bounds: Bounds,
}

/// An address and a constant number of bytes.
type Place = (Reg, i64);

/// Right operand as weights in vectors of adjacent columns.
struct Weights<'m> {
    encoding: Encoding,
    /// k's that one load covers.
    group: u32,
    /// Scales and their type.
    scales: Option<(&'m Scales, DType)>,
    source: Source<'m>,
}

enum Source<'m> {
    /// Columns are contiguous.
    Rows(&'m Strided),
    /// Blocks of `lanes` columns.
    Blocks { address: Reg, block_bytes: Reg, lanes: u32 },
}

fn size(encoding: Encoding) -> i64 {
    bytes_of(encoding.code) as i64
}

impl Product<'_> {
    fn form(&self, em: &Emitter) -> Form {
        let Mma { left, right, .. } = self.mma;
        if em.lanes == 1 || left.scales.is_some() {
            return Form::Elements;
        }
        match right {
            Right::Strided { encoding, at } => {
                let dense = |s: Stride, e: Encoding| s == Stride::Bytes(size(e));
                if dense(at.col, *encoding) && dense(left.at.col, left.encoding) {
                    Form::Depth
                } else if dense(at.row, *encoding) && self.mma.n >= em.lanes {
                    Form::Columns
                } else {
                    Form::Elements
                }
            }
            Right::Blocked { encoding, lanes, group, scales, .. } => {
                let bits = encoding.code.bits();
                let words = *group * bits == 32 || (*group == 1 && bits >= 8);
                let whole = scales.as_ref().is_none_or(|s| s.cols % group == 0);
                let fits = lanes % em.lanes == 0 && self.mma.n >= em.lanes;
                if words && whole && fits { Form::Columns } else { Form::Elements }
            }
        }
    }

    fn weights(&self) -> Weights<'_> {
        match &self.mma.right {
            Right::Strided { encoding, at } => {
                Weights { encoding: *encoding, group: 1, scales: None, source: Source::Rows(at) }
            }
            Right::Blocked { encoding, address, block_bytes, lanes, group, scales } => Weights {
                encoding: *encoding,
                group: *group,
                scales: scales.as_ref().map(|s| (s, scale_type(*encoding))),
                source: Source::Blocks {
                    address: *address,
                    block_bytes: *block_bytes,
                    lanes: *lanes,
                },
            },
        }
    }

    /// Address of the left operand's element `(i, 0)`.
    fn left_row(&self, em: &mut Emitter, i: Reg) -> Reg {
        let by = scaled(em, i, self.mma.left.at.row);
        em.add(self.mma.left.at.address, by)
    }

    /// A left element as `f32`: row address, k and a constant beyond it.
    fn left_at(&self, em: &mut Emitter, row: Reg, k: Reg, plus: i64) -> Reg {
        let left = &self.mma.left;
        let (k, offset) = match left.at.col {
            Stride::Bytes(s) => (k, plus * s),
            Stride::Reg(_) => (em.add_imm(k, plus), 0),
        };
        let by = scaled(em, k, left.at.col);
        let address = em.add(row, by);
        let value = em.load_as(left.encoding.code, false, address, offset);
        float(em, value)
    }

    fn acc_at(&self, em: &mut Emitter, i: Reg, j: Reg) -> Reg {
        let row = scaled(em, i, self.mma.acc.row);
        let address = em.add(self.mma.acc.address, row);
        let col = scaled(em, j, self.mma.acc.col);
        em.add(address, col)
    }

    /// Vectors of columns below `whole`.
    fn columns(&self, em: &mut Emitter, whole: Reg) {
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
        (!plain && self.mma.m >= PANEL_ROWS).then(|| em.scratch.allocate(bytes))
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

    /// Rows in groups, then one by one.
    fn over_rows(&self, em: &mut Emitter, rows: u32, tile: &mut dyn FnMut(&mut Emitter, Reg, u32)) {
        let zero = em.int(0);
        let step = i64::from(rows);
        let m = self.bounds.m;
        let many = whole_steps(em, m, step);
        for (lo, hi, rows) in [(zero, many, rows), (many, m, 1)] {
            if known_empty(em, lo, hi) || (rows == 1 && lo != zero && step == 1) {
                continue;
            }
            let (open, _) = em.open_for(lo, hi, rows.into(), &[]);
            tile(em, open.var(), rows);
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
        let next = self.depth_step(em, weights, starts, lefts, open.var(), &all, &sums);
        let mut sums = em.close_for(open, &next);
        if group == 1 || known_empty(em, whole, hi) {
            return sums;
        }
        // Part of a group: as many loops of one iteration at most as there may be k's.
        for part in 0..group - 1 {
            let (from, to) = part_of_group(em, whole, part, hi);
            let (open, inside) = em.open_for(from, to, 1, &sums);
            let next = self.depth_step(em, weights, starts, lefts, whole, &[part], &inside);
            sums = em.close_for(open, &next);
        }
        sums
    }

    /// Adds the products of the k's `k + part`, which lie in one group.
    fn depth_step(
        &self,
        em: &mut Emitter,
        weights: &Weights,
        starts: &[Place],
        lefts: &[Reg],
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

    /// Lanes along k.
    fn rows(&self, em: &mut Emitter) {
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

    /// Columns from `from` on, one product at a time.
    fn elements(&self, em: &mut Emitter, from: Reg) {
        if known_empty(em, from, self.bounds.n) {
            return;
        }
        let (cols, _) = em.open_for(from, self.bounds.n, 1, &[]);
        let zero = em.int(0);
        let (rows, _) = em.open_for(zero, self.bounds.m, 1, &[]);
        let (i, j) = (rows.var(), cols.var());
        let address = self.acc_at(em, i, j);
        let before = em.load(MemElem::F32, false, address, 0);
        let left = self.left_row(em, i);
        let (depth, sum) = em.open_for(zero, self.bounds.k, 1, &[before]);
        let k = depth.var();
        let mut x = self.left_at(em, left, k, 0);
        if let Some(scales) = &self.mma.left.scales {
            let dtype = scale_type(self.mma.left.encoding);
            let scale = scale_of(em, scales, dtype, i, k);
            x = em.mul(x, scale);
        }
        let y = self.right_at(em, j, k);
        let next = em.fma(x, y, sum[0]);
        let sum = em.close_for(depth, &[next]);
        em.store(MemElem::F32, address, 0, sum[0]);
        em.close_for(rows, &[]);
        em.close_for(cols, &[]);
    }

    /// A right element as `f32`.
    fn right_at(&self, em: &mut Emitter, j: Reg, k: Reg) -> Reg {
        match &self.mma.right {
            Right::Strided { encoding, at } => {
                let (row, col) = (scaled(em, j, at.row), scaled(em, k, at.col));
                let address = em.add(at.address, row);
                let address = em.add(address, col);
                let value = em.load_as(encoding.code, false, address, 0);
                float(em, value)
            }
            Right::Blocked { encoding, address, block_bytes, lanes, group, scales } => {
                let (block, lane) = quotient_rest(em, j, (*lanes).into());
                let (step, part) = quotient_rest(em, k, (*group).into());
                let by = em.mul(block, *block_bytes);
                let address = em.add(*address, by);
                let at = em.mul_imm(step, (*lanes).into());
                let at = em.add(at, lane);
                let at = em.mul_imm(at, (*group).into());
                let at = em.add(at, part);
                let value = element(em, *encoding, address, at);
                let value = float(em, value);
                match scales {
                    None => value,
                    Some(s) => {
                        let scale = scale_of(em, s, scale_type(*encoding), j, k);
                        em.mul(value, scale)
                    }
                }
            }
        }
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
            em.from_bits(up)
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

/// The scale of element `(i, k)`.
fn scale_of(em: &mut Emitter, scales: &Scales, dtype: DType, i: Reg, k: Reg) -> Reg {
    let mut block = |first: Reg, at: Reg, size: u32| {
        let first = em.convert(Convert::I32ToI64, first);
        let at = em.add(first, at);
        em.arith_imm(Arith::Div, at, size.into())
    };
    let row = block(scales.first_row, i, scales.rows);
    let col = block(scales.first_col, k, scales.cols);
    let at = em.mul(row, scales.per_row);
    let at = em.add(at, col);
    let by = em.mul_imm(at, bytes_of(dtype) as i64);
    let address = em.add(scales.address, by);
    em.load_as(dtype, false, address, 0)
}

/// One code of a block, by its number.
fn element(em: &mut Emitter, encoding: Encoding, address: Reg, at: Reg) -> Reg {
    if encoding.code.bits() >= 8 {
        let by = em.mul_imm(at, size(encoding));
        let address = em.add(address, by);
        return em.load_as(encoding.code, false, address, 0);
    }
    let byte = em.arith_imm(Arith::ShrU, at, 1);
    let address = em.add(address, byte);
    let raw = em.load(MemElem::U8, false, address, 0);
    let odd = em.arith_imm(Arith::And, at, 1);
    let odd = em.convert(Convert::I64ToI32, odd);
    let shift = em.mul_imm(odd, 4);
    let raw = em.arith(Arith::ShrU, raw, shift);
    let raw = em.arith_imm(Arith::And, raw, 15);
    em.widen(encoding.code, raw)
}

fn quotient_rest(em: &mut Emitter, a: Reg, by: i64) -> (Reg, Reg) {
    let quotient = em.arith_imm(Arith::Div, a, by);
    let product = em.mul_imm(quotient, by);
    (quotient, em.sub(a, product))
}

/// The greatest multiple of `step` that is at most a count.
fn whole_steps(em: &mut Emitter, count: Reg, step: i64) -> Reg {
    match em.constant(count) {
        Some(c) => em.int(c / step * step),
        None => {
            let steps = em.arith_imm(Arith::Div, count, step);
            em.mul_imm(steps, step)
        }
    }
}

/// The range of one k, or of none if that is not below `hi`.
fn part_of_group(em: &mut Emitter, whole: Reg, part: i64, hi: Reg) -> (Reg, Reg) {
    let from = em.add_imm(whole, part);
    let to = em.add_imm(whole, part + 1);
    (from, em.min(to, hi))
}

fn scale_type(encoding: Encoding) -> DType {
    encoding.scale.map_or(DType::F32, |s| s.dtype)
}

fn scaled(em: &mut Emitter, at: Reg, stride: Stride) -> Reg {
    match stride {
        Stride::Bytes(s) => em.mul_imm(at, s),
        Stride::Reg(s) => em.mul(at, s),
    }
}

fn float(em: &mut Emitter, value: Reg) -> Reg {
    match em.ty(value).elem {
        Elem::I32 => em.convert(Convert::I32ToF32, value),
        _ => value,
    }
}

/// Whether a range is known to have no elements.
fn known_empty(em: &Emitter, lo: Reg, hi: Reg) -> bool {
    lo == hi || matches!((em.constant(lo), em.constant(hi)), (Some(a), Some(b)) if a >= b)
}
