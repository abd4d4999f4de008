//! The arithmetic of a run: f32, or f64 without intermediate rounding.

use crate::dtype::DType;
use crate::expr::Unary;
use crate::number::round;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A real number.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Send
    + Sync
    + 'static
{
    /// The nearest number.
    fn from_f64(v: f64) -> Self;
    /// Exact.
    fn to_f64(self) -> f64;
    /// A function of one real number to another; others leave it as it is.
    fn unary(self, f: Unary) -> Self;
    /// Towards zero, saturated; NaN is 0.
    fn to_int(self) -> i32;
    /// Rounded to an element type. Over f64, rounding to f32 is the identity: f32 stands for the
    /// precision of the run.
    fn round(self, to: DType) -> Self;

    /// The greater; NaN if either is.
    fn max(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }

    /// The lesser; NaN if either is.
    fn min(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }

    /// Whether it is no number.
    fn is_nan(self) -> bool {
        self.partial_cmp(&self).is_none()
    }
}

macro_rules! real {
    ($t:ident, $round:expr) => {
        impl Real for $t {
            fn from_f64(v: f64) -> Self {
                v as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn unary(self, f: Unary) -> Self {
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
            fn to_int(self) -> i32 {
                self as i32
            }
            fn round(self, to: DType) -> Self {
                $round(self, to)
            }
        }
    };
}

real!(f32, |v: f32, to: DType| match to {
    DType::F32 => v,
    _ => round::to_dtype(v.into(), to) as f32,
});
real!(f64, |v: f64, to: DType| match to {
    DType::F32 => v,
    _ => round::to_dtype(v, to),
});
