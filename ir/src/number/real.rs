//! f32 and f64.

use super::{Number, round};
use crate::dtype::{DType, Encoding};
use crate::expr::Unary;
use crate::graph::error::GraphError;
use crate::op::{EvalFn, Meaning};
use std::cmp::Ordering;

/// Sums that a row is added up in, so that the compiler can use vectors.
const LANES: usize = 16;

macro_rules! real {
    ($t:ident, $rotation:expr, $round:expr) => {
        impl Number for $t {
            const ONE: Self = 1.0;
            const EXACT: bool = false;

            fn from_f64(v: f64) -> Self {
                v as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn from_i64(v: i64) -> Self {
                v as $t
            }
            fn add(self, other: Self) -> Self {
                self + other
            }
            fn sub(self, other: Self) -> Self {
                self - other
            }
            fn mul(self, other: Self) -> Self {
                self * other
            }
            fn div(self, by: Self) -> Result<Self, GraphError> {
                Ok(self / by)
            }
            fn unary(self, f: Unary, _key: u64) -> Self {
                match f {
                    Unary::Neg => -self,
                    Unary::Abs => self.abs(),
                    Unary::Exp => self.exp(),
                    Unary::Exp2 => self.exp2(),
                    Unary::Log => self.ln(),
                    Unary::Log2 => self.log2(),
                    Unary::Sqrt => self.sqrt(),
                    Unary::Sigmoid => 1.0 / (1.0 + (-self).exp()),
                    Unary::Tanh => self.tanh(),
                    Unary::Sin => self.sin(),
                    Unary::Cos => self.cos(),
                    Unary::Floor => self.floor(),
                    Unary::Not | Unary::Float | Unary::Int => self,
                }
            }
            fn to_int(self, _key: u64) -> i32 {
                self as i32
            }
            fn order(self, other: Self, _key: u64) -> Option<Ordering> {
                self.partial_cmp(&other)
            }
            fn lowest(_key: u64) -> Self {
                f32::MIN.into()
            }
            fn round(self, to: DType) -> Self {
                $round(self, to)
            }
            fn quantize(block: &mut [Self], to: Encoding, _key: u64) {
                let mut wide: Vec<f64> = block.iter().map(|v| f64::from(*v)).collect();
                round::block(&mut wide, to);
                block.iter_mut().zip(wide).for_each(|(v, w)| *v = w as $t);
            }
            fn rotation(pos: i32, freq: Self, _key: u64) -> [Self; 2] {
                $rotation(pos, freq)
            }
            fn peak(row: &[Self]) -> Self {
                row.iter().copied().reduce($t::max).unwrap_or(0.0)
            }
            fn dot(a: &[Self], b: &[Self]) -> Self {
                let mut sums = [0.0; LANES];
                let (a, rest_a) = a.as_chunks::<LANES>();
                let (b, rest_b) = b.as_chunks::<LANES>();
                for (x, y) in a.iter().zip(b) {
                    for l in 0..LANES {
                        sums[l] += x[l] * y[l];
                    }
                }
                let rest: $t = rest_a.iter().zip(rest_b).map(|(x, y)| x * y).sum();
                sums.iter().sum::<$t>() + rest
            }
            fn meaning(meaning: &Meaning) -> EvalFn<Self> {
                meaning.$t
            }
        }
    };
}

// The angle is rounded to f32 before its cosine is taken, as reference implementations do.
real!(
    f32,
    |pos: i32, freq: f32| {
        let angle = f64::from(pos as f32 * freq);
        [angle.cos() as f32, angle.sin() as f32]
    },
    |v: f32, to: DType| round::to_dtype(v.into(), to) as f32
);
// f32 is the precision that is computed with, whatever the evaluation: rounding to it is not part
// of what a graph says.
real!(
    f64,
    |pos: i32, freq: f64| {
        let angle = f64::from(pos) * freq;
        [angle.cos(), angle.sin()]
    },
    |v: f64, to: DType| if to == DType::F32 { v } else { round::to_dtype(v, to) }
);
