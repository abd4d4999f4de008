//! Elements in memory: codes of every element type, as numbers.

use super::layout::set_nibble;
use crate::dtype::{DType, e8m0_to_f32, f4e2m1_to_f32, f8e4m3_to_f32};
use half::{bf16, f16};
use std::sync::OnceLock;

fn fp8_values() -> &'static [f64; 256] {
    static VALUES: OnceLock<[f64; 256]> = OnceLock::new();
    VALUES.get_or_init(|| std::array::from_fn(|code| f8e4m3_to_f32(code as u8).into()))
}

fn bytes<const N: usize>(memory: &[u8], bit: u64) -> [u8; N] {
    let at = (bit / 8) as usize;
    memory[at..at + N].try_into().expect("a slice of N bytes")
}

/// The number that the code at a bit stands for; integers and truth values are exact.
pub fn read(memory: &[u8], dtype: DType, bit: u64) -> f64 {
    let byte = || memory[(bit / 8) as usize];
    let nibble = || byte() >> (bit % 8) & 15;
    match dtype {
        DType::F32 => f32::from_le_bytes(bytes(memory, bit)).into(),
        DType::F16 => f16::from_le_bytes(bytes(memory, bit)).into(),
        DType::BF16 => bf16::from_le_bytes(bytes(memory, bit)).into(),
        DType::F8E4M3 => fp8_values()[byte() as usize],
        DType::F4E2M1 => f4e2m1_to_f32(nibble()).into(),
        DType::E8M0 => e8m0_to_f32(byte()).into(),
        DType::I32 => i32::from_le_bytes(bytes(memory, bit)).into(),
        DType::I8 => (byte() as i8).into(),
        DType::U8 => byte().into(),
        DType::I4 => (((nibble() << 4) as i8) >> 4).into(),
        DType::Bool => f64::from(byte() != 0),
    }
}

/// Writes the code of a number that the element type has.
pub fn write(memory: &mut [u8], dtype: DType, bit: u64, v: f64) {
    let at = (bit / 8) as usize;
    match dtype {
        DType::F32 => memory[at..at + 4].copy_from_slice(&(v as f32).to_le_bytes()),
        DType::F16 => memory[at..at + 2].copy_from_slice(&f16::from_f64(v).to_le_bytes()),
        DType::BF16 => memory[at..at + 2].copy_from_slice(&bf16::from_f64(v).to_le_bytes()),
        DType::F8E4M3 => memory[at] = fp8_code(v),
        DType::F4E2M1 => set_nibble(memory, bit, fp4_code(v)),
        DType::E8M0 => memory[at] = e8m0_code(v),
        DType::I32 => memory[at..at + 4].copy_from_slice(&(v as i32).to_le_bytes()),
        DType::I8 => memory[at] = v as i8 as u8,
        DType::U8 => memory[at] = v as u8,
        DType::I4 => set_nibble(memory, bit, v as i8 as u8 & 15),
        DType::Bool => memory[at] = u8::from(v != 0.0),
    }
}

fn fp8_code(v: f64) -> u8 {
    let sign = if v.is_sign_negative() { 0x80 } else { 0 };
    if v.is_nan() {
        return sign | 0x7f;
    }
    // Codes without a sign are in the order of their values; 0x7e is the greatest.
    let code = fp8_values()[..0x7f].partition_point(|x| *x < v.abs()).min(0x7e);
    sign | code as u8
}

fn fp4_code(v: f64) -> u8 {
    let sign = if v.is_sign_negative() { 8 } else { 0 };
    let below = (0..7).filter(|code| f64::from(f4e2m1_to_f32(*code)) < v.abs()).count();
    sign | below as u8
}

fn e8m0_code(v: f64) -> u8 {
    if v.is_nan() { 255 } else { ((v.to_bits() >> 52) as i32 - 1023 + 127).clamp(0, 254) as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::round::to_dtype;

    #[test]
    fn every_code_is_read_back_as_written() {
        for dtype in DType::ALL {
            let width = dtype.bits().div_ceil(8) as usize;
            for code in 0..1u32 << dtype.bits().min(16) {
                let mut memory = (code << (32 - 8 * width as u32)).to_le_bytes();
                if dtype == DType::Bool && code > 1 {
                    continue;
                }
                let bit = (4 - width as u64) * 8;
                let v = read(&memory, dtype, bit);
                if v.is_nan() {
                    continue;
                }
                let before = memory;
                write(&mut memory, dtype, bit, v);
                assert_eq!(memory, before, "{dtype} {code:x} {v}");
            }
        }
    }

    #[test]
    fn half_floats_round_to_nearest_even_from_f64() {
        // Just above the middle between two neighbours: rounding by way of f32 would fall on it.
        let v = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        let mut memory = [0; 2];
        write(&mut memory, DType::BF16, 0, to_dtype(v, DType::BF16));
        assert_eq!(read(&memory, DType::BF16, 0), 1.0 + 2f64.powi(-7));
    }
}
