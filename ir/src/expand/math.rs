//! Elementary functions of `f32` as polynomials in loop IR, within about 2 ulp of the true value;
//! infinities, NaN, overflow and gradual underflow as in IEEE libraries.
//!
//! Coefficients: `exp`, `exp2`, `log`, `tanh` from Cephes (Moshier, single precision), `sin` and
//! `cos` from FreeBSD's msun (`k_sinf.c`, `k_cosf.c`, `e_rem_pio2f.c`).

use super::emit::Emitter;
use crate::loops::{Arith, Cmp, Convert, Func, Reg};

/// `1.5 * 2^23`: adding it to a number below 2^22 rounds that to an integer in the low bits.
const ROUND: f64 = 12_582_912.0;
const ROUND_BITS: i64 = 0x4b40_0000;

impl Emitter {
    /// The polynomial, coefficients from the highest power down.
    fn polynomial(&mut self, x: Reg, coefficients: &[f64]) -> Reg {
        let mut sum = self.like(x, coefficients[0]);
        for c in &coefficients[1..] {
            let c = self.like(x, *c);
            sum = self.fma(sum, x, c);
        }
        sum
    }

    /// `x` rounded to an integer, as a float and as an `i32`; `|x| < 2^22`.
    fn rounded(&mut self, x: Reg) -> (Reg, Reg) {
        let magic = self.like(x, ROUND);
        let shifted = self.add(x, magic);
        let float = self.sub(shifted, magic);
        let bits = self.bits(shifted);
        let base = self.int_like(x, ROUND_BITS);
        (float, self.sub(bits, base))
    }

    /// `x * 2^n` for `|n| <= 252`, in two exact steps but for the last.
    fn scaled(&mut self, x: Reg, n: Reg) -> Reg {
        let half = self.arith_imm(Arith::ShrS, n, 1);
        let rest = self.sub(n, half);
        let x = self.times_power(x, half);
        self.times_power(x, rest)
    }

    fn times_power(&mut self, x: Reg, n: Reg) -> Reg {
        let biased = self.add_imm(n, 127);
        let bits = self.arith_imm(Arith::Shl, biased, 23);
        let power = self.float_of(bits);
        self.mul(x, power)
    }

    fn clamp(&mut self, x: Reg, lo: f64, hi: f64) -> Reg {
        let (lo, hi) = (self.like(x, lo), self.like(x, hi));
        let x = self.max(x, lo);
        self.min(x, hi)
    }

    /// `value`, or `x` where that is NaN.
    fn keep_nan(&mut self, x: Reg, value: Reg) -> Reg {
        let nan = self.cmp(Cmp::Ne, x, x);
        self.select(nan, x, value)
    }

    pub fn exp2(&mut self, x: Reg) -> Reg {
        let bounded = self.clamp(x, -252.0, 129.0);
        let (whole, n) = self.rounded(bounded);
        let f = self.sub(bounded, whole);
        let p = self.polynomial(
            f,
            &[
                1.535_336_188_319_5e-4,
                1.339_887_440_266_574e-3,
                9.618_437_357_674_64e-3,
                5.550_332_471_162_809e-2,
                2.402_264_791_363_012e-1,
                0.693_147_202_855_042,
            ],
        );
        let one = self.like(x, 1.0);
        let p = self.fma(p, f, one);
        let value = self.scaled(p, n);
        self.keep_nan(x, value)
    }

    pub fn exp(&mut self, x: Reg) -> Reg {
        let bounded = self.clamp(x, -174.0, 89.0);
        let log2e = self.like(x, std::f64::consts::LOG2_E);
        let scaled = self.mul(bounded, log2e);
        let (whole, n) = self.rounded(scaled);
        let (high, low) = (self.like(x, -0.693_359_375), self.like(x, 2.121_944_400_546_9e-4));
        let r = self.fma(whole, high, bounded);
        let r = self.fma(whole, low, r);
        let p = self.polynomial(
            r,
            &[
                1.987_569_15e-4,
                1.398_199_950_7e-3,
                8.333_451_907_3e-3,
                4.166_579_589_4e-2,
                1.666_666_545_9e-1,
                5.000_000_120_1e-1,
            ],
        );
        let square = self.mul(r, r);
        let p = self.fma(p, square, r);
        let one = self.like(x, 1.0);
        let p = self.add(p, one);
        let value = self.scaled(p, n);
        self.keep_nan(x, value)
    }

    /// Splits `x > 0` into `m * 2^e` with `m` in `[sqrt(1/2), sqrt(2))`: gives `m - 1`, `e`, and
    /// `log(m) - (m - 1)`.
    fn log_parts(&mut self, x: Reg) -> (Reg, Reg, Reg) {
        let tiny = self.like(x, f32::MIN_POSITIVE as f64);
        let subnormal = self.cmp(Cmp::Lt, x, tiny);
        let up = self.like(x, 8_388_608.0);
        let lifted = self.mul(x, up);
        let normal = self.select(subnormal, lifted, x);
        let (lowered, zero) = (self.int_like(x, -23), self.int_like(x, 0));
        let bias = self.select(subnormal, lowered, zero);
        let bits = self.bits(normal);
        let from_half = self.add_imm(bits, -0x3f35_04f3);
        let e = self.arith_imm(Arith::ShrS, from_half, 23);
        let shift = self.arith_imm(Arith::Shl, e, 23);
        let bits = self.sub(bits, shift);
        let m = self.float_of(bits);
        let e = self.add(e, bias);
        let e = self.convert(Convert::I32ToF32, e);
        let minus = self.like(x, -1.0);
        let f = self.add(m, minus);
        let p = self.polynomial(
            f,
            &[
                7.037_683_629_2e-2,
                -1.151_461_031_0e-1,
                1.167_699_874_0e-1,
                -1.242_014_084_6e-1,
                1.424_932_278_7e-1,
                -1.666_805_766_5e-1,
                2.000_071_476_5e-1,
                -2.499_999_399_3e-1,
                3.333_333_117_4e-1,
            ],
        );
        let square = self.mul(f, f);
        let cube = self.mul(square, f);
        let p = self.mul(p, cube);
        let half = self.like(x, -0.5);
        (f, e, self.fma(square, half, p))
    }

    /// Logarithms outside the positive finite numbers.
    fn log_edges(&mut self, x: Reg, value: Reg) -> Reg {
        let infinity = self.like(x, f64::INFINITY);
        let lowest = self.like(x, f64::NEG_INFINITY);
        let zero = self.like(x, 0.0);
        let nan = self.like(x, f64::NAN);
        let top = self.cmp(Cmp::Eq, x, infinity);
        let value = self.select(top, infinity, value);
        let none = self.cmp(Cmp::Eq, x, zero);
        let value = self.select(none, lowest, value);
        let valid = self.cmp(Cmp::Ge, x, zero);
        self.select(valid, value, nan)
    }

    pub fn log(&mut self, x: Reg) -> Reg {
        let (f, e, y) = self.log_parts(x);
        let (low, high) = (self.like(x, -2.121_944_400_546_9e-4), self.like(x, 0.693_359_375));
        let y = self.fma(e, low, y);
        let y = self.add(f, y);
        let y = self.fma(e, high, y);
        self.log_edges(x, y)
    }

    pub fn log2(&mut self, x: Reg) -> Reg {
        let (f, e, y) = self.log_parts(x);
        // log2(e) - 1, so that the leading parts f and y are added unscaled.
        let rest = self.like(x, 0.442_695_040_888_963_4);
        let z = self.mul(y, rest);
        let z = self.fma(f, rest, z);
        let z = self.add(z, y);
        let z = self.add(z, f);
        let z = self.add(z, e);
        self.log_edges(x, z)
    }

    pub fn sigmoid(&mut self, x: Reg) -> Reg {
        let negative = self.func(Func::Neg, x);
        let e = self.exp(negative);
        let one = self.like(x, 1.0);
        let below = self.add(e, one);
        self.arith(Arith::Div, one, below)
    }

    pub fn tanh(&mut self, x: Reg) -> Reg {
        let magnitude = self.func(Func::Abs, x);
        let twice = self.add(magnitude, magnitude);
        let e = self.exp(twice);
        let (one, minus_two) = (self.like(x, 1.0), self.like(x, -2.0));
        let below = self.add(e, one);
        let part = self.arith(Arith::Div, minus_two, below);
        let large = self.add(one, part);
        let negative = self.func(Func::Neg, large);
        let zero = self.like(x, 0.0);
        let is_negative = self.cmp(Cmp::Lt, x, zero);
        let large = self.select(is_negative, negative, large);
        let square = self.mul(x, x);
        let p = self.polynomial(
            square,
            &[
                -5.704_988_727_45e-3,
                2.063_908_885_09e-2,
                -5.373_971_425_38e-2,
                1.333_144_221_06e-1,
                -3.333_328_195_86e-1,
            ],
        );
        let p = self.mul(p, square);
        let small = self.fma(p, x, x);
        let limit = self.like(x, 0.625);
        let is_small = self.cmp(Cmp::Lt, magnitude, limit);
        let value = self.select(is_small, small, large);
        self.keep_nan(x, value)
    }

    pub fn sin(&mut self, x: Reg) -> Reg {
        self.circular(x, 0)
    }

    pub fn cos(&mut self, x: Reg) -> Reg {
        self.circular(x, 1)
    }

    /// `sin(x + quarter * pi/2)` of a scalar, reduced in `f64`.
    fn circular(&mut self, x: Reg, quarter: i64) -> Reg {
        let wide = self.convert(Convert::F32ToF64, x);
        let per_turn = self.like(wide, std::f64::consts::FRAC_2_PI);
        let turns = self.mul(wide, per_turn);
        let whole = self.func(Func::Nearest, turns);
        // pi/2 in 33 bits, so that its product with up to 20 bits is exact, and the rest.
        let (high, low) = (
            self.like(wide, -1.570_796_310_901_641_8),
            self.like(wide, -1.589_325_477_352_819_6e-8),
        );
        let part = self.mul(whole, high);
        let r = self.add(wide, part);
        let part = self.mul(whole, low);
        let r = self.add(r, part);
        let n = self.convert(Convert::F64ToI64, whole);
        let n = self.add_imm(n, quarter);
        let square = self.mul(r, r);
        let sine = self.sine_of(r, square);
        let cosine = self.cosine_of(square);
        let zero = self.int(0);
        let odd = self.arith_imm(Arith::And, n, 1);
        let odd = self.cmp(Cmp::Ne, odd, zero);
        let value = self.select(odd, cosine, sine);
        let flip = self.arith_imm(Arith::And, n, 2);
        let flip = self.cmp(Cmp::Ne, flip, zero);
        let negative = self.func(Func::Neg, value);
        let value = self.select(flip, negative, value);
        self.convert(Convert::F64ToF32, value)
    }

    fn sine_of(&mut self, r: Reg, square: Reg) -> Reg {
        let coefficients = [
            2.718_311_493_989_822e-6,
            -1.983_934_836_096_632e-4,
            8.333_329_385_889_463e-3,
            -1.666_666_664_162_655e-1,
        ];
        let p = self.exact_polynomial(square, &coefficients);
        let p = self.mul(p, square);
        let p = self.mul(p, r);
        self.add(p, r)
    }

    fn cosine_of(&mut self, square: Reg) -> Reg {
        let coefficients = [
            2.439_044_879_627_741e-5,
            -1.388_676_377_460_993e-3,
            4.166_662_332_373_906e-2,
            -4.999_999_972_510_310_5e-1,
            1.0,
        ];
        self.exact_polynomial(square, &coefficients)
    }

    /// In products and sums, for `f64`.
    fn exact_polynomial(&mut self, x: Reg, coefficients: &[f64]) -> Reg {
        let mut sum = self.like(x, coefficients[0]);
        for c in &coefficients[1..] {
            let c = self.like(x, *c);
            let product = self.mul(sum, x);
            sum = self.add(product, c);
        }
        sum
    }
}
