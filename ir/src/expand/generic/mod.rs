//! A product of tiles as loops, for every form of operands.
//!
//! - Lanes along n, where columns lie next to each other (blocks of lanes, or rows of the
//!   transposed operand): a vector of weights times a scalar of the left operand.
//! - Lanes along k, where both operands are contiguous in k: vectors of both, summed at the end.
//! - One element at a time for the rest, and for the columns that fill no vector.

mod columns;
mod rows;
mod units;

use super::emit::Emitter;
use super::tile::bytes_of;
use crate::dtype::{DType, Encoding};
use crate::loops::{Arith, Convert, Elem, MemElem, Mma, Reg, Right, Scales, Stride, Strided};

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
            Right::Units { .. } => Form::Elements,
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
            Right::Units { .. } => unreachable!("units are multiplied element by element"),
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
                scaled_value(em, scales.as_ref(), *encoding, value, (j, k))
            }
            Right::Units { encoding, address, block_bytes, unit, scales } => {
                let value = units::element(em, *encoding, (*address, *block_bytes), unit, (j, k));
                scaled_value(em, scales.as_ref(), *encoding, value, (j, k))
            }
        }
    }
}

/// The value of a code at `(i, k)` whose scales may lie apart.
fn scaled_value(
    em: &mut Emitter,
    scales: Option<&Scales>,
    encoding: Encoding,
    value: Reg,
    (i, k): (Reg, Reg),
) -> Reg {
    let Some(scales) = scales else { return value };
    let scale = scale_of(em, scales, scale_type(encoding), i, k);
    em.mul(value, scale)
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
