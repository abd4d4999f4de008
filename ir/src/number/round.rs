//! Rounding to small float types and to codes with scales.

use crate::dtype::{DType, Encoding};

/// Rounds to the nearest value of a float type, ties to even. Integers and `f32` of an `f32` stay.
/// Beyond the largest value: infinity for `f16`, `bf16` and `f32`; that value for fp8 and fp4.
pub fn to_dtype(v: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(v as f32),
        DType::F16 => to_format(v, 10, -14, 65504.0, true),
        DType::BF16 => to_format(v, 7, -126, 3.3895313892515355e38, true),
        DType::F8E4M3 => to_format(v, 3, -6, 448.0, false),
        DType::F4E2M1 => to_format(v, 1, 0, 6.0, false),
        DType::E8M0 => scale_up(v),
        DType::I32 | DType::I8 | DType::U8 | DType::I4 | DType::Bool => v,
    }
}

/// `bits` of mantissa after the point, normal from `2^least` on.
fn to_format(v: f64, bits: i32, least: i32, max: f64, infinite: bool) -> f64 {
    if v == 0.0 || !v.is_finite() && (infinite || v.is_nan()) {
        return v;
    }
    let exponent = (((v.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(least);
    // Spacing of the format's values near v: a power of two, so that scaling by it is exact.
    let step = 2f64.powi(exponent - bits);
    let rounded = (v / step).round_ties_even() * step;
    match rounded.abs() > max {
        true if infinite => f64::INFINITY.copysign(v),
        true => max.copysign(v),
        false => rounded,
    }
}

/// The least power of two not below `v`, as e8m0 has it: from 2^-127 to 2^127.
fn scale_up(v: f64) -> f64 {
    if v.is_nan() {
        return v;
    }
    let (bits, mantissa) = (v.max(0.0).to_bits() >> 52, v.to_bits() & ((1 << 52) - 1));
    let exponent = bits as i32 - 1023 + i32::from(mantissa != 0);
    2f64.powi(exponent.clamp(-127, 127))
}

/// Largest code of a type that `quantize` writes.
pub fn largest_code(code: DType) -> f64 {
    match code {
        DType::F8E4M3 => 448.0,
        DType::F4E2M1 => 6.0,
        DType::I4 => 7.0,
        _ => 127.0,
    }
}

/// The scale of a block with this greatest magnitude: the least one under which nothing is
/// clipped, in f32, then as its type can have it. 1 for a block of zeros.
pub fn block_scale(magnitude: f64, to: Encoding) -> f64 {
    let scale = quotient(magnitude, largest_code(to.code));
    let dtype = to.scale.map_or(DType::F32, |s| s.dtype);
    match to_dtype(scale, dtype) {
        0.0 => 1.0,
        rounded => rounded,
    }
}

/// A quotient in f32, as reference implementations and native code have it: what it is rounded to
/// may lie between two codes.
fn quotient(v: f64, by: f64) -> f64 {
    to_dtype(v / by, DType::F32)
}

/// The value of an element's code under a scale.
pub fn to_code(v: f64, scale: f64, code: DType) -> f64 {
    let v = quotient(v, scale);
    match code {
        DType::I8 | DType::I4 => {
            let max = largest_code(code);
            if v.is_nan() { 0.0 } else { v.round_ties_even().clamp(-max, max) }
        }
        float => to_dtype(v, float),
    }
}

/// Replaces the elements of one block by what their codes and scale stand for.
pub fn block(elements: &mut [f64], to: Encoding) {
    let magnitude = elements.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    let scale = block_scale(magnitude, to);
    for v in elements {
        *v = to_code(*v, scale, to.code) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{f4e2m1_to_f32, f8e4m3_to_f32};

    #[test]
    fn halves_round_as_the_half_crate_does() {
        let mut z = 1u64;
        for _ in 0..20_000 {
            z = super::super::mix(z.wrapping_add(0x9e3779b97f4a7c15));
            let v = f32::from_bits(z as u32);
            if v.is_nan() {
                continue;
            }
            let bf = half::bf16::from_f32(v).to_f32();
            assert_eq!(to_dtype(v.into(), DType::BF16) as f32, bf, "{v}");
            let small = f32::from_bits(z as u32 & 0x8fffffff | 0x30000000);
            let f = half::f16::from_f32(small).to_f32();
            assert_eq!(to_dtype(small.into(), DType::F16) as f32, f, "{small}");
        }
    }

    #[test]
    fn small_floats_round_to_their_own_values() {
        for (dtype, codes, of) in [
            (DType::F8E4M3, 256, f8e4m3_to_f32 as fn(u8) -> f32),
            (DType::F4E2M1, 16, f4e2m1_to_f32 as fn(u8) -> f32),
        ] {
            let values: Vec<f64> =
                (0..codes).map(|c| f64::from(of(c as u8))).filter(|v| !v.is_nan()).collect();
            for v in &values {
                assert_eq!(to_dtype(*v, dtype), *v);
                let nearest =
                    |x: f64| values.iter().map(|c| (c - x).abs()).fold(f64::INFINITY, f64::min);
                let x = v * 1.03 + 0.0001;
                assert_eq!((to_dtype(x, dtype) - x).abs(), nearest(x), "{x}");
            }
        }
        assert_eq!(to_dtype(1e9, DType::F8E4M3), 448.0);
        assert_eq!(to_dtype(-0.0, DType::BF16).to_bits(), (-0.0f64).to_bits());
        assert_eq!(to_dtype(3.0, DType::E8M0), 4.0);
        assert_eq!(to_dtype(4.0, DType::E8M0), 4.0);
        assert_eq!(to_dtype(0.0, DType::E8M0), 2f64.powi(-127));
    }

    #[test]
    fn elements_between_two_codes_go_to_the_even_one() {
        let to: Encoding = "i8<f32 1x4>".parse().expect("an encoding");
        let mut x = [-1.4f32, 0.6, -1.9, 2.8].map(f64::from);
        let scale = f64::from(2.8f32 / 127.0);
        // Of these numbers in f64, -63.4999991.
        assert_eq!(-1.4f32 / (2.8f32 / 127.0), -63.5);
        block(&mut x, to);
        assert_eq!(x[0], -64.0 * scale);
    }

    #[test]
    fn a_block_keeps_its_greatest_element() {
        let to = "i8<f32 1x32>".parse().expect("an encoding");
        let mut x = [1.0, -2.54, 0.004, 0.0];
        block(&mut x, to);
        assert!((x[1] + 2.54).abs() < 1e-6 && (x[0] - 1.0).abs() < 0.01 && x[3] == 0.0);
        let mut zeros = [0.0; 3];
        block(&mut zeros, to);
        assert_eq!(zeros, [0.0; 3]);
    }
}
