//! Stored right operands to vectors that can be multiplied.

use super::plan::Stored;
use crate::code::{Code, Val};
use inkwell::values::InstructionOpcode as Opcode;
use inkwell::{FloatPredicate, IntPredicate};
use ir::dtype::{DType, f4e2m1_to_f32};

/// The vectors of a step at `p`, one for each k, as f32. Of fp8 codes those of NaN come out as
/// numbers: [`watch`] finds them, or [`exactly`] does what is slower.
pub(crate) fn floats<'c>(c: &Code<'c>, s: Stored, lanes: u32, p: Val<'c>) -> Vec<Val<'c>> {
    let f32s = c.vec(c.f32(), lanes);
    if s.code == DType::F32 {
        let load = |i: u32| c.load(f32s, c.off(p, i64::from(i * lanes * 4)), 4);
        if s.group == 1 {
            return vec![load(0)];
        }
        let (low, high) = (load(0), load(1));
        let every = |first: u32| (0..lanes).map(|i| first + 2 * i).collect::<Vec<_>>();
        return vec![c.shuffle(low, high, &every(0)), c.shuffle(low, high, &every(1))];
    }
    let word = word(c, s, lanes, p);
    (0..s.group).map(|i| one(c, s.code, lanes, word, i)).collect()
}

/// The codes of a step at `p`: all of a column in its lane, from the low bits.
pub(crate) fn word<'c>(c: &Code<'c>, s: Stored, lanes: u32, p: Val<'c>) -> Val<'c> {
    let words = c.vec(c.i32(), lanes);
    match s.code.bits() * s.group {
        8 => c.zext(c.load(c.vec(c.i8(), lanes), p, 1), words),
        16 => c.zext(c.load(c.vec(c.i16(), lanes), p, 1), words),
        _ => c.load(words, p, 4),
    }
}

/// As [`floats`], NaN included.
pub(crate) fn exactly<'c>(c: &Code<'c>, s: Stored, lanes: u32, p: Val<'c>) -> Vec<Val<'c>> {
    let v = floats(c, s, lanes, p);
    if s.code != DType::F8E4M3 {
        return v;
    }
    // The code of NaN is the one that would be 480.
    let fix = |v: Val<'c>| {
        let magnitude = c.call("llvm.fabs", &[v.get_type()], &[v]);
        let nan = c.fcmp(FloatPredicate::OGT, magnitude, c.float(v.get_type(), 448.0));
        c.select(nan, c.float(v.get_type(), f64::NAN), v)
    };
    v.into_iter().map(fix).collect()
}

/// The greatest magnitudes of fp8 codes, byte by byte, of a word and those seen before.
pub(crate) fn watch<'c>(c: &Code<'c>, seen: Val<'c>, word: Val<'c>) -> Val<'c> {
    let words = word.get_type();
    let bytes = c.vec(c.i8(), 4 * words.into_vector_type().get_size());
    let now = c.bits(c.andc(word, 0x7f7f_7f7f), bytes);
    let most = c.call("llvm.umax", &[bytes], &[c.bits(seen, bytes), now]);
    c.bits(most, words)
}

/// NaN in the lanes where [`watch`] has seen its code, `v` elsewhere.
pub(crate) fn spoiled<'c>(c: &Code<'c>, seen: Val<'c>, v: Val<'c>) -> Val<'c> {
    let words = seen.get_type();
    let bytes = c.vec(c.i8(), 4 * words.into_vector_type().get_size());
    let nan = c.icmp(IntPredicate::EQ, c.bits(seen, bytes), c.int(bytes, 0x7f));
    let any = c.bits(c.sext(nan, bytes), words);
    let any = c.icmp(IntPredicate::NE, any, c.zero(words));
    c.select(any, c.float(v.get_type(), f64::NAN), v)
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
        DType::F16 => c.f16_to_f32(c.trunc(c.lshr(top, 16), c.vec(c.i16(), lanes))),
        DType::F8E4M3 => small_float(c, lanes, top, (8, 4, 120)),
        DType::F4E2M1 => small_float(c, lanes, top, (4, 6, 126)),
        _ => c.cast(Opcode::SIToFP, c.ashr(top, 32 - bits), f32s),
    }
}

/// Floats in the topmost `bits` of each lane, whose exponents have `fewer` bits than an f32's, and
/// a bias that is less by `less`.
fn small_float<'c>(
    c: &Code<'c>,
    lanes: u32,
    top: Val<'c>,
    (bits, fewer, less): (u32, u32, i32),
) -> Val<'c> {
    let f32s = c.vec(c.f32(), lanes);
    // As the sign, exponent and mantissa of an f32 the value is too small by a power of two, also
    // where the code, and then the f32, is subnormal.
    let own = ((1i64 << (bits - 1)) - 1) << (32 - bits - fewer);
    let small = c.andc(c.ashr(top, fewer), 0x8000_0000 | own);
    c.fmul(c.bits(small, f32s), c.float(f32s, 2f64.powi(less)))
}

/// Pairs of bf16 made of the codes in the words of 16 columns: with each, its place among the
/// pairs of the left operand. The pair `i` of a group of `g` codes is of the codes `i` and
/// `i + g/2`. Codes of NaN come out as numbers: [`watch`] finds them.
pub(crate) fn mixed_pairs<'c>(c: &Code<'c>, code: DType, word: Val<'c>) -> Vec<(u32, Val<'c>)> {
    let (halves, words) = (c.vec(c.i16(), 32), word.get_type());
    let x = c.bits(word, halves);
    // Each half word, by its lowest five bits, picks of 32 numbers.
    let pick = |at: u32, of: &dyn Fn(i64) -> f32| {
        let table: Vec<i64> = (0..32).map(|i| i64::from(of(i).to_bits() >> 16)).collect();
        let index = if at == 0 { x } else { c.lshr(x, at) };
        c.call("llvm.x86.avx512.permvar.hi.512", &[], &[c.ints(c.i16(), &table), index])
    };
    let signed = |i: i64| if i & 8 == 0 { (i & 7) as f32 } else { (i & 7) as f32 - 8.0 };
    let pairs: Vec<(u32, Val)> = match code {
        DType::I4 => (0..4).map(|i| (i, pick(4 * i, &signed))).collect(),
        DType::F4E2M1 => (0..4).map(|i| (i, pick(4 * i, &|v| f4e2m1_to_f32(v as u8)))).collect(),
        DType::I8 => (0..2)
            .flat_map(|i| {
                let low = pick(8 * i, &|v| (v & 15) as f32);
                [(i, low), (i, pick(8 * i + 4, &|v| 16.0 * signed(v)))]
            })
            .collect(),
        _ => (0..2)
            .map(|i| {
                let (mag, sign) =
                    if i == 0 { (c.shl(x, 4), c.shl(x, 8)) } else { (c.lshr(x, 4), x) };
                // The exponent's bias goes from 7 to 127; subnormals come from a table.
                let normal = c.add(c.andc(mag, 0x07f0), c.int(halves, 0x3c00));
                let small = pick(8 * i, &|v| (v & 7) as f32 / 512.0);
                let exponent = c.andc(x, 0x78 << (8 * i));
                let zero = c.icmp(IntPredicate::EQ, exponent, c.zero(halves));
                let value = c.select(zero, small, normal);
                (i, c.or(value, c.andc(sign, -0x8000)))
            })
            .collect(),
    };
    pairs.into_iter().map(|(i, v)| (i, c.bits(v, words))).collect()
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
        DType::F16 => c.f16_to_f32(c.load(c.i16(), at, 2)),
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
