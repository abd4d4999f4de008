//! The integers modulo the prime 2^61 - 1.

use super::Number;
use crate::dtype::{DType, Encoding};
use crate::expr::Unary;
use crate::graph::error::GraphError;
use crate::op::{EvalFn, Meaning};
use std::cmp::Ordering;

const P: u64 = (1 << 61) - 1;

/// An integer modulo 2^61 - 1.
///
/// Sums, products and quotients are exact, so algebraic identities hold to the bit. Functions are
/// keyed hashes, which keep 0 where the function does; so only identities that hold for *any*
/// such function hold here (not `exp(a + b) = exp(a) exp(b)`). Order is that of a keyed
/// permutation. Rotations are powers of an element of norm 1 in F_p\[i\], so that angles add.
/// Casts are the identity; `quantize` hashes its block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Field(u64);

/// A fixed bijection of 64-bit words that leaves no visible structure (the finaliser of
/// splitmix64).
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
    z ^ (z >> 31)
}

fn hash(key: u64, what: u64, x: u64) -> u64 {
    mix(mix(mix(key ^ 0x9e3779b97f4a7c15).wrapping_add(what)) ^ x)
}

fn reduce(v: u128) -> u64 {
    // 2^61 = 1, so the upper part counts as it is; twice, as the first sum has up to 68 bits.
    let v = (v & P as u128) + (v >> 61);
    let v = ((v & P as u128) + (v >> 61)) as u64;
    if v >= P { v - P } else { v }
}

// Purposes of hashes that are not functions of one number.
const ORDER: u64 = 100;
const TO_INT: u64 = 101;
const LOWEST: u64 = 102;
const ROTATION: u64 = 103;
const BLOCK: u64 = 104;
const SPECIAL: u64 = 105;

impl Field {
    /// The residue class of an integer.
    pub fn new(v: u64) -> Field {
        Field(v % P)
    }

    /// The representative below 2^61 - 1.
    pub fn value(self) -> u64 {
        self.0
    }

    fn pow(self, mut exponent: u64) -> Field {
        let (mut base, mut power) = (self, Field(1));
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = power.mul(base);
            }
            base = base.mul(base);
            exponent >>= 1;
        }
        power
    }

    fn hashed(self, key: u64, what: u64) -> Field {
        Field(reduce(hash(key, what, self.0).into()))
    }
}

/// Product in F_p[i].
fn complex([a, b]: [Field; 2], [c, d]: [Field; 2]) -> [Field; 2] {
    [a.mul(c).sub(b.mul(d)), a.mul(d).add(b.mul(c))]
}

impl Number for Field {
    const ONE: Self = Field(1);
    const EXACT: bool = true;

    /// Exact for every finite number: 2 has an inverse. Infinities and NaN are hashed.
    fn from_f64(v: f64) -> Self {
        if !v.is_finite() {
            return Field(v.to_bits()).hashed(0, SPECIAL);
        }
        let bits = v.to_bits();
        let (stored, mantissa) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        let significand = if stored == 0 { mantissa } else { mantissa | 1 << 52 };
        let exponent = stored.max(1) as i64 - 1075;
        // 2 has order 61.
        let power = Field(1 << exponent.rem_euclid(61));
        let magnitude = Field::new(significand).mul(power);
        if v < 0.0 { Field(0).sub(magnitude) } else { magnitude }
    }
    fn to_f64(self) -> f64 {
        self.0 as f64
    }
    fn from_i64(v: i64) -> Self {
        Field(v.rem_euclid(P as i64) as u64)
    }
    fn add(self, other: Self) -> Self {
        let sum = self.0 + other.0;
        Field(if sum >= P { sum - P } else { sum })
    }
    fn sub(self, other: Self) -> Self {
        self.add(Field(if other.0 == 0 { 0 } else { P - other.0 }))
    }
    fn mul(self, other: Self) -> Self {
        Field(reduce(self.0 as u128 * other.0 as u128))
    }
    fn div(self, by: Self) -> Result<Self, GraphError> {
        if by.0 == 0 { Err(GraphError::Resample) } else { Ok(self.mul(by.pow(P - 2))) }
    }
    fn unary(self, f: Unary, key: u64) -> Self {
        match f {
            Unary::Neg => Field(0).sub(self),
            Unary::Not | Unary::Float | Unary::Int => self,
            // f(0) = 0
            Unary::Abs | Unary::Sqrt | Unary::Tanh | Unary::Sin | Unary::Floor if self.0 == 0 => {
                self
            }
            Unary::Abs
            | Unary::Sqrt
            | Unary::Tanh
            | Unary::Sin
            | Unary::Floor
            | Unary::Exp
            | Unary::Exp2
            | Unary::Log
            | Unary::Log2
            | Unary::Sigmoid
            | Unary::Cos => self.hashed(key, f as u64),
        }
    }
    fn to_int(self, key: u64) -> i32 {
        if self.0 == 0 { 0 } else { (hash(key, TO_INT, self.0) >> 34) as i32 }
    }
    fn order(self, other: Self, key: u64) -> Option<Ordering> {
        let place = |x: Field| mix(x.0 ^ hash(key, ORDER, 0));
        Some(place(self).cmp(&place(other)))
    }
    fn lowest(key: u64) -> Self {
        Field(0).hashed(key, LOWEST)
    }
    fn round(self, _to: DType) -> Self {
        self
    }
    fn quantize(block: &mut [Self], _to: Encoding, key: u64) {
        let seal = block.iter().fold(key, |h, v| hash(h, BLOCK, v.0));
        for v in block.iter_mut().filter(|v| v.0 != 0) {
            *v = v.hashed(seal, BLOCK);
        }
    }
    fn rotation(pos: i32, freq: Self, key: u64) -> [Self; 2] {
        // z / conj(z) has norm 1: (a + bi)^2 / (a^2 + b^2). The norm is 0 for a = b = 0 alone, as
        // p = 3 modulo 4; then 1 does.
        let (a, b) = (freq.hashed(key, ROTATION), freq.hashed(key, ROTATION + 1000));
        let norm = a.mul(a).add(b.mul(b));
        let inverse = Field(1).div(norm).unwrap_or_default();
        let square = complex([a, b], [a, b]);
        let unit = match inverse.0 {
            0 => [Field(1), Field(0)],
            _ => [square[0].mul(inverse), square[1].mul(inverse)],
        };
        let mut base = if pos < 0 { [unit[0], Field(0).sub(unit[1])] } else { unit };
        let mut power = [Field(1), Field(0)];
        let mut exponent = pos.unsigned_abs();
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = complex(power, base);
            }
            base = complex(base, base);
            exponent >>= 1;
        }
        power
    }
    fn peak(_row: &[Self]) -> Self {
        Field(0)
    }
    fn dot(a: &[Self], b: &[Self]) -> Self {
        let mut sum = 0u128;
        for (x, y) in a.iter().zip(b) {
            let product = x.0 as u128 * y.0 as u128;
            // Below 2^62 each, so that 2^66 of them fit.
            sum += (product & P as u128) + (product >> 61);
        }
        Field(reduce(sum % P as u128))
    }
    fn meaning(meaning: &Meaning) -> EvalFn<Self> {
        meaning.field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: &mut u64) -> Field {
        *seed = seed.wrapping_add(0x9e3779b97f4a7c15);
        Field::new(mix(*seed))
    }

    #[test]
    fn it_is_a_field() {
        let mut seed = 7;
        for _ in 0..1000 {
            let [a, b, c] = [(); 3].map(|()| random(&mut seed));
            assert_eq!(a.add(b).mul(c), a.mul(c).add(b.mul(c)));
            assert_eq!(a.sub(b).add(b), a);
            assert_eq!(a.div(b).expect("b is not 0").mul(b), a);
            assert_eq!(Field::dot(&[a, b], &[c, c]), a.add(b).mul(c));
        }
        assert_eq!(Field(3).div(Field(0)), Err(GraphError::Resample));
        let rows = vec![Field(P - 1); 300];
        assert_eq!(Field::dot(&rows, &rows), Field(300));
    }

    #[test]
    fn dyadic_numbers_are_exact() {
        for (a, b) in [(0.5, 0.25), (-3.75, 1e-3), (1e30, -1e30), (5e-324, 1.0)] {
            assert_eq!(Field::from_f64(a).add(Field::from_f64(-a)), Field(0));
            let sum: f64 = a + b;
            if sum - b == a && sum - a == b {
                assert_eq!(Field::from_f64(a).add(Field::from_f64(b)), Field::from_f64(sum));
            }
        }
        assert_eq!(Field::from_f64(-2.0), Field::from_i64(-2));
        assert_eq!(Field::from_f64(0.5).add(Field::from_f64(0.5)), Field(1));
    }

    #[test]
    fn rotations_have_norm_one_and_add_up() {
        let freq = Field(12345);
        let turn = |m| Field::rotation(m, freq, 9);
        for (m, n) in [(3, 4), (100, -7), (0, 5), (i32::MAX, i32::MIN + 1)] {
            let sum = complex(turn(m), turn(n));
            assert_eq!(sum, turn(m + n));
            let [c, s] = turn(m);
            assert_eq!(c.mul(c).add(s.mul(s)), Field(1));
        }
        assert_ne!(turn(1), Field::rotation(1, Field(12346), 9));
    }
}
