//! Blocks of numbers rounded to codes under one scale: the scale that loses least.
//!
//! Every element of a model passes here, many times over: loops are over a few numbers at a time,
//! without a branch or a call in them.

use ir::dtype::DType;
use std::ops::AddAssign;

/// What rounding has done to numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// Sum of their squares.
    pub squares: f64,
    /// Sum of the squares of what rounding changed them by.
    pub errors: f64,
    /// How many were beyond what the greatest scale of its type reaches.
    pub saturated: u64,
}

impl Rounding {
    /// Error relative to the numbers, in the L2 norm.
    pub fn relative(&self) -> f64 {
        if self.squares > 0.0 { (self.errors / self.squares).sqrt() } else { 0.0 }
    }
}

impl AddAssign for Rounding {
    fn add_assign(&mut self, other: Rounding) {
        self.squares += other.squares;
        self.errors += other.errors;
        self.saturated += other.saturated;
    }
}

/// A type of codes.
trait Codes {
    /// The greatest number.
    const GREATEST: f32;
    /// The number of greatest magnitude.
    const FURTHEST: f32;
    /// How much smaller than what leaves the greatest element whole scales are tried.
    const SMALLER: &'static [f32];

    /// The nearest number of the type; the last one of those beyond.
    fn nearest(x: f32) -> f32;

    /// The code of a number of the type.
    fn code(y: f32) -> u8;
}

/// How blocks become codes of a type.
#[derive(Clone, Copy, Debug)]
pub struct Coder {
    /// The scale, of the type that it is stored in, by which a block loses least of those tried;
    /// and what it loses.
    pub best: fn(&[f32], DType) -> (f32, Rounding),
    /// Writes the codes of a block; so many columns lie between two that share a byte, the first of
    /// which has its lower half.
    pub put: fn(&[f32], f32, usize, &mut [u8]),
}

impl Coder {
    /// That of a type of codes, if numbers are rounded to such.
    pub fn of(code: DType) -> Option<Coder> {
        Some(match code {
            DType::I4 => Coder { best: best::<Int4>, put: put_halves::<Int4> },
            DType::I8 => Coder { best: best::<Int8>, put: put::<Int8> },
            DType::F8E4M3 => Coder { best: best::<E4M3>, put: put::<E4M3> },
            DType::F4E2M1 => Coder { best: best::<E2M1>, put: put_halves::<E2M1> },
            _ => return None,
        })
    }
}

fn put<C: Codes>(block: &[f32], scale: f32, _: usize, out: &mut [u8]) {
    let per = inverse(scale);
    for (x, byte) in block.iter().zip(out) {
        *byte = C::code(C::nearest(x * per));
    }
}

fn put_halves<C: Codes>(block: &[f32], scale: f32, apart: usize, out: &mut [u8]) {
    let per = inverse(scale);
    let code = |x: &f32| C::code(C::nearest(x * per));
    for (numbers, bytes) in block.chunks_exact(2 * apart).zip(out.chunks_exact_mut(apart)) {
        let (low, high) = numbers.split_at(apart);
        for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
            *byte = code(low) | code(high) << 4;
        }
    }
}

/// Coarse codes lose less in all where a few elements are cut off.
const CUT_OFF: &[f32] = &[1.0, 0.95, 0.9, 0.85, 0.8, 0.74];

/// The integer nearest to a number of little magnitude, the even one of two.
fn integer(x: f32) -> f32 {
    // From here on the step from one f32 to the next is 1.
    const ONES: f32 = 12_582_912.0;
    (x + ONES) - ONES
}

/// The nearest number with so many bits behind the first, of exponents from `least` on.
fn float(x: f32, bits: i32, least: i32) -> f32 {
    let exponent = ((x.to_bits() >> 23 & 255) as i32).max(127 + least);
    let unit = f32::from_bits(((exponent - bits) as u32) << 23);
    let per = f32::from_bits(((254 - exponent + bits) as u32) << 23);
    integer(x * per) * unit
}

/// Integers of four bits.
struct Int4;
/// Integers of eight bits, but for the least.
struct Int8;
/// 1-4-3 floats.
struct E4M3;
/// 1-2-1 floats.
struct E2M1;

impl Codes for Int4 {
    const GREATEST: f32 = 7.0;
    const FURTHEST: f32 = -8.0;
    const SMALLER: &'static [f32] = CUT_OFF;

    fn nearest(x: f32) -> f32 {
        integer(x.clamp(-8.0, 7.0))
    }

    fn code(y: f32) -> u8 {
        y as i8 as u8 & 15
    }
}

impl Codes for Int8 {
    const GREATEST: f32 = 127.0;
    const FURTHEST: f32 = 127.0;
    const SMALLER: &'static [f32] = &[];

    fn nearest(x: f32) -> f32 {
        integer(x.clamp(-127.0, 127.0))
    }

    fn code(y: f32) -> u8 {
        y as i8 as u8
    }
}

impl Codes for E4M3 {
    const GREATEST: f32 = 448.0;
    const FURTHEST: f32 = 448.0;
    const SMALLER: &'static [f32] = &[];

    fn nearest(x: f32) -> f32 {
        float(x.clamp(-448.0, 448.0), 3, -6)
    }

    fn code(y: f32) -> u8 {
        small_float(y, 3, -6)
    }
}

impl Codes for E2M1 {
    const GREATEST: f32 = 6.0;
    const FURTHEST: f32 = 6.0;
    const SMALLER: &'static [f32] = CUT_OFF;

    fn nearest(x: f32) -> f32 {
        float(x.clamp(-6.0, 6.0), 1, 0)
    }

    fn code(y: f32) -> u8 {
        let code = small_float(y, 1, 0);
        code >> 4 & 8 | code & 7
    }
}

/// The code of a float with a sign in the topmost bit of a byte, so many bits behind the first, and
/// exponents from `least` on, below which numbers are multiples of one unit.
fn small_float(y: f32, bits: i32, least: i32) -> u8 {
    let sign = (y.to_bits() >> 24) as u8 & 0x80;
    let magnitude = y.abs();
    let unit = f32::from_bits(((127 + least - bits) as u32) << 23);
    let small = (magnitude / unit) as u8;
    let normal = (magnitude.to_bits() >> (23 - bits)) as i32 - ((126 + least) << bits);
    sign | if small < 1 << bits { small } else { normal as u8 }
}

/// Numbers that loops work on at a time.
const LANES: usize = 8;

/// Sums of two functions of each element.
fn sums(block: &[f32], of: impl Fn(f32) -> [f32; 2]) -> [f32; 2] {
    let mut lanes = [[0.0f32; LANES]; 2];
    let (whole, rest) = block.as_chunks::<LANES>();
    for chunk in whole {
        for (i, x) in chunk.iter().enumerate() {
            let [a, b] = of(*x);
            lanes[0][i] += a;
            lanes[1][i] += b;
        }
    }
    let [mut a, mut b] = lanes.map(|lanes| lanes.iter().sum::<f32>());
    for x in rest {
        let more = of(*x);
        (a, b) = (a + more[0], b + more[1]);
    }
    [a, b]
}

/// 1 / scale; 0 of none.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn best<C: Codes>(block: &[f32], dtype: DType) -> (f32, Rounding) {
    let largest = block.iter().fold(0.0f32, |m, v| if v.abs() > m.abs() { *v } else { m });
    let even = largest.abs() / C::GREATEST;
    let whole = largest / C::FURTHEST;
    let whole = if C::FURTHEST < 0.0 { whole } else { even };
    let better = |found: (f32, f32), scale: f32| {
        let errors = loss::<C>(block, scale);
        if errors < found.1 { (scale, errors) } else { found }
    };
    let tried = C::SMALLER.iter().map(|by| whole * by).chain([even]);
    let tried = tried.flat_map(|scale| stored(scale, dtype));
    let mut found = tried.fold((0.0, f32::INFINITY), better);
    // The scale that fits the codes best, as they are now; powers of two were all near ones.
    if dtype != DType::E8M0 {
        found = stored(fitted::<C>(block, found.0), dtype).fold(found, better);
    }
    let (scale, errors) = found;
    let [squares, _] = sums(block, |x| [x * x, 0.0]);
    let errors = if errors.is_finite() { errors } else { squares };
    let beyond = even > GREATEST_F16 && dtype == DType::F16;
    let most = C::GREATEST * scale.abs();
    let saturated = if beyond { block.iter().filter(|x| x.abs() > most).count() } else { 0 };
    (
        scale,
        Rounding { squares: squares.into(), errors: errors.into(), saturated: saturated as u64 },
    )
}

/// The greatest f16.
const GREATEST_F16: f32 = 65504.0;

/// A scale as its type has it: the nearest; of powers of two those to both sides.
fn stored(scale: f32, dtype: DType) -> impl Iterator<Item = f32> {
    let all = match dtype {
        DType::F16 => {
            let near = half::f16::from_f32(scale.clamp(-GREATEST_F16, GREATEST_F16));
            [Some(near.to_f32()), None]
        }
        DType::E8M0 => {
            let exponent = ((scale.to_bits() >> 23 & 255) as i32).clamp(1, 253);
            let power = |exponent: i32| Some(f32::from_bits((exponent as u32) << 23));
            [power(exponent), power(exponent + 1)]
        }
        _ => [Some(scale), None],
    };
    all.into_iter().flatten()
}

/// The scale by which a block's codes come nearest to it.
fn fitted<C: Codes>(block: &[f32], scale: f32) -> f32 {
    let per = inverse(scale);
    let [of, by] = sums(block, |x| {
        let q = C::nearest(x * per);
        [x * q, q * q]
    });
    if by > 0.0 { of / by } else { scale }
}

/// Sum of the squares of what a block loses by a scale.
fn loss<C: Codes>(block: &[f32], scale: f32) -> f32 {
    let per = inverse(scale);
    let [errors, _] = sums(block, |x| {
        let error = x - C::nearest(x * per) * scale;
        [error * error, 0.0]
    });
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::kernel::code;

    /// Numbers as matrices have them.
    fn numbers(n: u64) -> Vec<f32> {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| (0..6).map(|_| next()).sum::<f32>() / 40.0).collect()
    }

    fn check_gain<C: Codes>(all: &[f32], gain: f64) {
        let (mut chosen, mut nearest) = (0.0, 0.0);
        for block in all.chunks(32) {
            // What leaves the greatest element whole.
            let most = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let whole = half::f16::from_f32(most / C::GREATEST).to_f32();
            let plain = f64::from(loss::<C>(block, whole));
            let own = best::<C>(block, DType::F16).1.errors;
            assert!(own <= plain);
            (chosen, nearest) = (chosen + own, nearest + plain);
        }
        assert!(chosen < gain * nearest, "{chosen} of {nearest}");
    }

    #[test]
    fn chosen_scales_lose_less_than_rounding_to_nearest() {
        let all = numbers(32 * 400);
        check_gain::<Int4>(&all, 0.8);
        check_gain::<E2M1>(&all, 0.9);
        check_gain::<Int8>(&all, 1.0);
    }

    fn check_codes<C: Codes>(dtype: DType) {
        for i in -4000..4000 {
            for x in [i as f32 / 8.0, i as f32 / 3000.0] {
                let y = C::nearest(x);
                let found = code::read(&[C::code(y)], dtype, 0);
                assert_eq!(found, f64::from(y), "{x} as {dtype}");
                // Nothing else of the type is nearer.
                for other in 0..1u32 << dtype.bits() {
                    let v = code::read(&[other as u8], dtype, 0) as f32;
                    let unused = v.is_nan() || dtype == DType::I8 && v == -128.0;
                    assert!(unused || (x - v).abs() >= (x - y).abs(), "{x}: {v}, found {y}");
                }
            }
        }
    }

    #[test]
    fn codes_are_those_of_their_type() {
        check_codes::<Int4>(DType::I4);
        check_codes::<Int8>(DType::I8);
        check_codes::<E4M3>(DType::F8E4M3);
        check_codes::<E2M1>(DType::F4E2M1);
    }

    #[test]
    fn nothing_becomes_nothing() {
        for dtype in [DType::F16, DType::F32, DType::E8M0] {
            let (scale, rounding) = best::<Int4>(&[0.0; 32], dtype);
            assert!(scale.is_finite());
            assert_eq!((rounding.errors, rounding.saturated), (0.0, 0));
        }
        assert_eq!(best::<Int4>(&[], DType::F16).1, Rounding::default());
    }

    #[test]
    fn what_is_no_number_makes_no_scale_of_its_kind() {
        for odd in [f32::NAN, f32::INFINITY] {
            let (scale, _) = best::<Int4>(&[odd, 1.0, -2.0], DType::F16);
            assert!(scale.is_finite(), "{odd}: {scale}");
            Int4::code(Int4::nearest(odd * inverse(scale)));
        }
    }

    #[test]
    fn what_no_scale_reaches_is_counted() {
        let (scale, rounding) = best::<Int4>(&[1e9, -3e9, 1.0, 0.0], DType::F16);
        assert!(scale.is_finite());
        assert_eq!(rounding.saturated, 2);
    }
}
