//! Stored right operands to vectors that can be multiplied.

use super::plan::Stored;
use crate::code::{Code, Val};
use inkwell::IntPredicate;
use inkwell::values::InstructionOpcode as Opcode;
use ir::dtype::DType;

/// The vectors of a step at `p`, one for each k, as f32.
pub(crate) fn floats<'c>(c: &Code<'c>, s: Stored, lanes: u32, p: Val<'c>) -> Vec<Val<'c>> {
    let f32s = c.vec(c.f32(), lanes);
    let bits = s.code.bits() * s.group;
    if s.code == DType::F32 {
        let load = |i: u32| c.load(f32s, c.off(p, i64::from(i * lanes * 4)), 4);
        if s.group == 1 {
            return vec![load(0)];
        }
        let (low, high) = (load(0), load(1));
        let every = |first: u32| (0..lanes).map(|i| first + 2 * i).collect::<Vec<_>>();
        return vec![c.shuffle(low, high, &every(0)), c.shuffle(low, high, &every(1))];
    }
    let words = c.vec(c.i32(), lanes);
    let word = match bits {
        8 => c.zext(c.load(c.vec(c.i8(), lanes), p, 1), words),
        16 => c.zext(c.load(c.vec(c.i16(), lanes), p, 1), words),
        _ => c.load(words, p, 4),
    };
    (0..s.group).map(|i| one(c, s.code, lanes, word, i)).collect()
}

/// Element `i` of the codes that each lane of `word` holds, as f32.
fn one<'c>(c: &Code<'c>, code: DType, lanes: u32, word: Val<'c>, i: u32) -> Val<'c> {
    let f32s = c.vec(c.f32(), lanes);
    let bits = code.bits();
    // The code in the topmost bits.
    let top = match 32 - bits * (i + 1) {
        0 => word,
        by => c.shl(word, by),
    };
    match code {
        DType::BF16 => c.bits(c.andc(top, 0xffff_0000), f32s),
        DType::F16 => {
            let half = c.trunc(c.lshr(top, 16), c.vec(c.i16(), lanes));
            let half = c.bits(half, c.vec(c.cx.f16_type().into(), lanes));
            c.cast(Opcode::FPExt, half, f32s)
        }
        DType::F8E4M3 => e4m3(c, lanes, top),
        _ => c.cast(Opcode::SIToFP, c.ashr(top, 32 - bits), f32s),
    }
}

/// 1-4-3 floats in the topmost bits of each lane, exactly.
fn e4m3<'c>(c: &Code<'c>, lanes: u32, top: Val<'c>) -> Val<'c> {
    let f32s = c.vec(c.f32(), lanes);
    // As the sign, exponent and mantissa of an f32 the value is too small by 2^120, also where
    // the code, and then the f32, is subnormal.
    let small = c.andc(c.ashr(top, 4), 0x87f0_0000);
    let value = c.fmul(c.bits(small, f32s), c.float(f32s, 2f64.powi(120)));
    let all = c.andc(top, 0x7f00_0000);
    let nan = c.icmp(IntPredicate::EQ, all, c.int(all.get_type(), 0x7f00_0000));
    c.select(nan, c.float(f32s, f64::NAN), value)
}

/// Two vectors of f32 that bf16 can hold, as pairs of bf16: the first in the low halves.
pub(crate) fn pairs<'c>(c: &Code<'c>, lanes: u32, low: Val<'c>, high: Val<'c>) -> Val<'c> {
    let words = c.vec(c.i32(), lanes);
    let (low, high) = (c.bits(low, words), c.bits(high, words));
    c.or(c.lshr(low, 16), c.andc(high, 0xffff_0000))
}

/// Element `i` of plain numbers at `p`, as f32.
pub(crate) fn scalar<'c>(c: &Code<'c>, code: DType, p: Val<'c>, i: Val<'c>) -> Val<'c> {
    let bytes = code.bits() / 8;
    let at = c.index(p, i, bytes.into());
    match code {
        DType::F16 => c.cast(Opcode::FPExt, c.load(c.cx.f16_type().into(), at, 2), c.f32()),
        DType::BF16 => c.bits(c.shl(c.zext(c.load(c.i16(), at, 2), c.i32()), 16), c.f32()),
        DType::E8M0 => {
            let e = c.zext(c.load(c.i8(), at, 1), c.i32());
            let is = |v| c.icmp(IntPredicate::EQ, e, c.c32(v));
            // 2^(e - 127); the least is subnormal, the greatest code is NaN.
            let bits = c.select(is(0), c.c32(1 << 22), c.shl(e, 23));
            c.bits(c.select(is(255), c.c32(0x7fc0_0000), bits), c.f32())
        }
        _ => c.load(c.f32(), at, 4),
    }
}
