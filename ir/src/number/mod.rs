//! What the interpreters compute with: f32, f64, or a prime field.
//!
//! In [`Field`] two graphs that are equal by algebra give equal bits, and a pair that is not is
//! caught with near certainty; see its documentation for what stands for what.

mod field;
mod real;
pub mod round;
pub mod scalar;

pub use field::{Field, mix};

use crate::dtype::{DType, Encoding};
use crate::expr::Unary;
use crate::graph::error::GraphError;
use crate::op::{EvalFn, Meaning};
use std::cmp::Ordering;
use std::fmt::Debug;

/// A number type that graphs can be evaluated over. `key` chooses the field's hashes and is
/// ignored by real numbers.
pub trait Number: Copy + PartialEq + Debug + Default + Send + Sync + 'static {
    /// 1
    const ONE: Self;
    /// Whether equal algebra gives equal bits.
    const EXACT: bool;

    /// The nearest number.
    fn from_f64(v: f64) -> Self;
    /// The nearest number, as `f64`. In the field: the representative, which has no magnitude.
    fn to_f64(self) -> f64;
    /// The integer.
    fn from_i64(v: i64) -> Self;
    /// Sum.
    fn add(self, other: Self) -> Self;
    /// Difference.
    fn sub(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// Quotient.
    ///
    /// Errors: E0129 for a zero divisor in the field.
    fn div(self, by: Self) -> Result<Self, GraphError>;
    /// A function of real numbers; `Not` and `Int` leave the number as it is.
    fn unary(self, f: Unary, key: u64) -> Self;
    /// Towards zero, saturated; NaN is 0. In the field: a hash.
    fn to_int(self, key: u64) -> i32;
    /// Order; `None` with NaN. In the field: that of a keyed permutation.
    fn order(self, other: Self, key: u64) -> Option<Ordering>;
    /// The least finite f32.
    fn lowest(key: u64) -> Self;
    /// Rounded to an element type; the identity in the field, and for `f32` over `f64`.
    fn round(self, to: DType) -> Self;
    /// Replaces the elements of one block by what their codes and scale stand for. In the field:
    /// a hash of the element and the whole block.
    fn quantize(block: &mut [Self], to: Encoding, key: u64);
    /// Cosine and sine of `pos * freq`. In the field: the `pos`-th power of a random element of
    /// norm 1 that `freq` chooses.
    fn rotation(pos: i32, freq: Self, key: u64) -> [Self; 2];
    /// What softmax subtracts from a row before exp: its maximum; 0 in the field.
    fn peak(row: &[Self]) -> Self;
    /// Sum of products of two rows of one length; the order of the sum is the type's.
    fn dot(a: &[Self], b: &[Self]) -> Self;
    /// The op's meaning over this type.
    fn meaning(meaning: &Meaning) -> EvalFn<Self>;

    /// Replaces a row by exponentials over their sum.
    fn softmax(row: &mut [Self], key: u64) -> Result<(), GraphError> {
        let peak = Self::peak(row);
        let mut sum = Self::default();
        for x in row.iter_mut() {
            *x = x.sub(peak).unary(Unary::Exp, key);
            sum = sum.add(*x);
        }
        row.iter_mut().try_for_each(|x| {
            *x = x.div(sum)?;
            Ok(())
        })
    }

    /// `1 / sqrt(self)`
    fn inverse_root(self, key: u64) -> Result<Self, GraphError> {
        Self::ONE.div(self.unary(Unary::Sqrt, key))
    }

    /// Whether it is not a number, which nothing in the field is.
    fn is_nan(self) -> bool {
        self.to_f64().is_nan()
    }

    /// The greater; NaN if either is.
    fn max(self, other: Self, key: u64) -> Self {
        match self.order(other, key) {
            Some(Ordering::Less) => other,
            None if !self.is_nan() => other,
            _ => self,
        }
    }

    /// The lesser; NaN if either is.
    fn min(self, other: Self, key: u64) -> Self {
        match self.order(other, key) {
            Some(Ordering::Greater) => other,
            None if !self.is_nan() => other,
            _ => self,
        }
    }
}
