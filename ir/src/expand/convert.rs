//! Narrow element types: to and from the `f32` and `i32` that arithmetic is done in.

use super::emit::Emitter;
use crate::dtype::DType;
use crate::loops::{Arith, Cmp, Convert, MemElem, Reg};

/// How an element of memory is read and written; `None` for types below a byte.
pub(super) fn mem_elem(dtype: DType) -> Option<MemElem> {
    match dtype {
        DType::F32 => Some(MemElem::F32),
        DType::I32 => Some(MemElem::I32),
        DType::F16 | DType::BF16 => Some(MemElem::U16),
        DType::F8E4M3 | DType::E8M0 | DType::U8 | DType::Bool => Some(MemElem::U8),
        DType::I8 => Some(MemElem::I8),
        DType::I4 | DType::F4E2M1 => None,
    }
}

impl Emitter {
    /// Reads an element (or a vector of adjacent ones) of a type of at least a byte.
    pub fn load_as(&mut self, dtype: DType, wide: bool, address: Reg, offset: i64) -> Reg {
        let elem = mem_elem(dtype).expect("the type is at least a byte wide");
        let raw = self.load(elem, wide, address, offset);
        self.widen(dtype, raw)
    }

    /// Writes it, rounded to nearest even.
    pub fn store_as(&mut self, dtype: DType, address: Reg, offset: i64, value: Reg) {
        let elem = mem_elem(dtype).expect("the type is at least a byte wide");
        let raw = self.narrow(dtype, value);
        self.store(elem, address, offset, raw);
    }

    /// From a code (an `i32`, zero-extended; sign-extended for signed integers; for `F32` itself)
    /// to the value.
    pub fn widen(&mut self, dtype: DType, raw: Reg) -> Reg {
        match dtype {
            DType::F32 | DType::I32 | DType::I8 | DType::U8 => raw,
            DType::Bool => self.convert(Convert::I32ToBool, raw),
            DType::BF16 => {
                let bits = self.arith_imm(Arith::Shl, raw, 16);
                self.float_of(bits)
            }
            DType::F16 => self.widen_f16(raw),
            DType::F8E4M3 => self.widen_f8(raw),
            DType::E8M0 => self.widen_e8(raw),
            DType::I4 => {
                let up = self.arith_imm(Arith::Shl, raw, 28);
                self.arith_imm(Arith::ShrS, up, 28)
            }
            DType::F4E2M1 => self.widen_f4(raw),
        }
    }

    /// The inverse, rounding to nearest even; out of range saturates where there is no infinity.
    pub fn narrow(&mut self, dtype: DType, value: Reg) -> Reg {
        match dtype {
            DType::F32 | DType::I32 => value,
            DType::I8 | DType::U8 | DType::I4 => value,
            DType::Bool => self.convert(Convert::BoolToI32, value),
            DType::BF16 => self.narrow_bf16(value),
            DType::F16 => self.narrow_f16(value),
            DType::F8E4M3 => self.narrow_small(value, SmallFloat::F8E4M3),
            DType::F4E2M1 => self.narrow_small(value, SmallFloat::F4E2M1),
            DType::E8M0 => self.narrow_e8(value),
        }
    }

    /// A small float with `mantissa` bits whose code's magnitude lies in the low bits: shifted up
    /// to `f32`'s mantissa it lacks a bias of `127 - bias`; subnormals are made by a difference of
    /// normal numbers.
    fn widen_small(&mut self, magnitude: Reg, mantissa: u32, bias: i64) -> Reg {
        let up = self.arith_imm(Arith::Shl, magnitude, 23 - mantissa as i64);
        let normal = self.add_imm(up, (127 - bias) << 23);
        let normal = self.float_of(normal);
        let least = self.add_imm(up, (128 - bias) << 23);
        let least = self.float_of(least);
        let base = self.int_like(magnitude, (128 - bias) << 23);
        let base = self.float_of(base);
        let subnormal = self.sub(least, base);
        let limit = self.int_like(magnitude, 1 << 23);
        let is_subnormal = self.cmp(Cmp::Lt, up, limit);
        self.select(is_subnormal, subnormal, normal)
    }

    /// `magnitude` with bit `sign` of `raw` as its sign.
    fn with_sign(&mut self, magnitude: Reg, raw: Reg, sign: u32) -> Reg {
        let up = self.arith_imm(Arith::Shl, raw, 31 - sign as i64);
        let sign = self.arith_imm(Arith::And, up, i32::MIN as i64);
        let bits = self.bits(magnitude);
        let bits = self.arith(Arith::Or, bits, sign);
        self.float_of(bits)
    }

    fn widen_f16(&mut self, raw: Reg) -> Reg {
        let magnitude = self.arith_imm(Arith::And, raw, 0x7fff);
        let finite = self.widen_small(magnitude, 10, 15);
        let top = self.arith_imm(Arith::Shl, magnitude, 13);
        let top = self.arith_imm(Arith::Or, top, 0x7f80_0000);
        let top = self.float_of(top);
        let limit = self.int_like(raw, 0x7c00);
        let is_finite = self.cmp(Cmp::Lt, magnitude, limit);
        let value = self.select(is_finite, finite, top);
        self.with_sign(value, raw, 15)
    }

    fn widen_f8(&mut self, raw: Reg) -> Reg {
        let magnitude = self.arith_imm(Arith::And, raw, 0x7f);
        let value = self.widen_small(magnitude, 3, 7);
        let last = self.int_like(raw, 0x7f);
        let is_nan = self.cmp(Cmp::Eq, magnitude, last);
        let nan = self.like(value, f64::NAN);
        let value = self.select(is_nan, nan, value);
        self.with_sign(value, raw, 7)
    }

    fn widen_f4(&mut self, raw: Reg) -> Reg {
        let magnitude = self.arith_imm(Arith::And, raw, 7);
        let value = self.widen_small(magnitude, 1, 1);
        let sign = self.arith_imm(Arith::And, raw, 8);
        self.with_sign(value, sign, 3)
    }

    fn widen_e8(&mut self, raw: Reg) -> Reg {
        let bits = self.arith_imm(Arith::Shl, raw, 23);
        let zero = self.int_like(raw, 0);
        let least = self.int_like(raw, 1 << 22);
        let is_least = self.cmp(Cmp::Eq, raw, zero);
        let bits = self.select(is_least, least, bits);
        let (last, nan) = (self.int_like(raw, 255), self.int_like(raw, 0x7fc0_0000));
        let is_nan = self.cmp(Cmp::Eq, raw, last);
        let bits = self.select(is_nan, nan, bits);
        self.float_of(bits)
    }

    fn narrow_bf16(&mut self, value: Reg) -> Reg {
        let bits = self.bits(value);
        let high = self.arith_imm(Arith::ShrU, bits, 16);
        let odd = self.arith_imm(Arith::And, high, 1);
        let up = self.add_imm(bits, 0x7fff);
        let up = self.add(up, odd);
        let rounded = self.arith_imm(Arith::ShrU, up, 16);
        let quiet = self.arith_imm(Arith::Or, high, 0x40);
        let nan = self.cmp(Cmp::Ne, value, value);
        self.select(nan, quiet, rounded)
    }

    fn narrow_f16(&mut self, value: Reg) -> Reg {
        let bits = self.bits(value);
        let magnitude = self.arith_imm(Arith::And, bits, 0x7fff_ffff);
        // Subnormal results: adding 0.5 leaves the code in the low bits, rounded by the hardware.
        let half = self.int_like(bits, 126 << 23);
        let half = self.float_of(half);
        let small = self.float_of(magnitude);
        let small = self.add(small, half);
        let small = self.bits(small);
        let small = self.add_imm(small, -(126 << 23));
        let shifted = self.arith_imm(Arith::ShrU, magnitude, 13);
        let odd = self.arith_imm(Arith::And, shifted, 1);
        let up = self.add_imm(magnitude, 0xfff - (112 << 23));
        let up = self.add(up, odd);
        let normal = self.arith_imm(Arith::ShrU, up, 13);
        let limit = self.int_like(bits, 113 << 23);
        let is_small = self.cmp(Cmp::Lt, magnitude, limit);
        let finite = self.select(is_small, small, normal);
        // 65520 and above round to infinity.
        let overflow = self.int_like(bits, 0x477f_f000);
        let infinite = self.cmp(Cmp::Ge, magnitude, overflow);
        let infinity = self.int_like(bits, 0x7c00);
        let code = self.select(infinite, infinity, finite);
        let nan = self.cmp(Cmp::Ne, value, value);
        let quiet = self.int_like(bits, 0x7e00);
        let code = self.select(nan, quiet, code);
        let sign = self.arith_imm(Arith::ShrU, bits, 16);
        let sign = self.arith_imm(Arith::And, sign, 0x8000);
        self.arith(Arith::Or, code, sign)
    }

    /// To an 8 or 4 bit float, saturating.
    fn narrow_small(&mut self, value: Reg, format: SmallFloat) -> Reg {
        let SmallFloat { mantissa, bias, largest, last, nan } = format;
        let bits = self.bits(value);
        let magnitude = self.arith_imm(Arith::And, bits, 0x7fff_ffff);
        let float = self.float_of(magnitude);
        let top = self.like(float, largest);
        let float = self.min(float, top);
        let magnitude = self.bits(float);
        // Adding a power of two whose last bit is a subnormal's makes the hardware round it.
        let power = (127 - bias + 1 + 23 - mantissa as i64) << 23;
        let base = self.int_like(bits, power);
        let base = self.float_of(base);
        let small = self.add(float, base);
        let small = self.bits(small);
        let small = self.add_imm(small, -power);
        let drop = 23 - mantissa as i64;
        let shifted = self.arith_imm(Arith::ShrU, magnitude, drop);
        let odd = self.arith_imm(Arith::And, shifted, 1);
        let up = self.add_imm(magnitude, (1 << (drop - 1)) - 1 - ((127 - bias) << 23));
        let up = self.add(up, odd);
        let normal = self.arith_imm(Arith::ShrU, up, drop);
        let limit = self.int_like(bits, (128 - bias) << 23);
        let is_small = self.cmp(Cmp::Lt, magnitude, limit);
        let code = self.select(is_small, small, normal);
        let is_nan = self.cmp(Cmp::Ne, value, value);
        let quiet = self.int_like(bits, nan);
        let code = self.select(is_nan, quiet, code);
        let sign = self.arith_imm(Arith::ShrU, bits, 31);
        let up = self.arith_imm(Arith::Shl, sign, last);
        self.arith(Arith::Or, code, up)
    }

    /// To the least power of two not below; from 2^-127 to 2^127.
    fn narrow_e8(&mut self, value: Reg) -> Reg {
        let bits = self.bits(value);
        let up = self.add_imm(bits, (1 << 23) - 1);
        let up = self.arith_imm(Arith::ShrU, up, 23);
        let top = self.int_like(bits, 254);
        let up = self.min(up, top);
        // Also of negative numbers, whose bits are negative integers.
        let least = self.int_like(bits, 1 << 22);
        let above = self.cmp(Cmp::Gt, bits, least);
        let none = self.int_like(bits, 0);
        let code = self.select(above, up, none);
        let nan = self.cmp(Cmp::Ne, value, value);
        let quiet = self.int_like(bits, 255);
        self.select(nan, quiet, code)
    }
}

/// Parameters of a small float: bits of mantissa, bias, largest value, position of the sign, the
/// code of NaN (the largest value's where there is none).
struct SmallFloat {
    mantissa: u32,
    bias: i64,
    largest: f64,
    last: i64,
    nan: i64,
}

impl SmallFloat {
    const F8E4M3: Self = SmallFloat { mantissa: 3, bias: 7, largest: 448.0, last: 7, nan: 0x7f };
    const F4E2M1: Self = SmallFloat { mantissa: 1, bias: 1, largest: 6.0, last: 3, nan: 0 };
}
