//! Dot products of four bytes in every lane.

use crate::code::{Code, Ty, Val};

/// `sum + Σ u·s` of the four bytes in each of `lanes` lanes, `u` unsigned and `s` signed.
pub(crate) fn dot<'c>(c: &Code<'c>, lanes: u32, sum: Val<'c>, u: Val<'c>, s: Val<'c>) -> Val<'c> {
    if c.isa.dot_i8 {
        let name = match lanes {
            16 => "llvm.x86.avx512.vpdpbusd.512",
            _ => "llvm.x86.avx512.vpdpbusd.256",
        };
        return c.call_as_declared(name, &[sum, u, s]);
    }
    // Pairs of 16 bits: the even bytes, and the odd ones.
    let pairs = c.vec(c.i16(), 2 * lanes);
    let (u, s) = (c.bits(u, pairs), c.bits(s, pairs));
    let even = multiply(c, lanes, c.andc(u, 255), c.ashr(c.shl(s, 8), 8));
    let odd = multiply(c, lanes, c.lshr(u, 8), c.ashr(s, 8));
    c.add(sum, c.add(even, odd))
}

/// `a.0·b.0 + a.1·b.1` of the pairs of 16 bits in each of `lanes` lanes.
fn multiply<'c>(c: &Code<'c>, lanes: u32, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    if lanes == 8 {
        return c.call("llvm.x86.avx2.pmadd.wd", &[], &[a, b]);
    }
    if c.isa.lanes == 16 {
        return c.call("llvm.x86.avx512.pmaddw.d.512", &[], &[a, b]);
    }
    let half = |v: Val<'c>, first: u32| c.shuffle(v, v, &(first..first + 16).collect::<Vec<_>>());
    let [low, high] = [0, 16].map(|at| multiply(c, 8, half(a, at), half(b, at)));
    c.shuffle(low, high, &(0..16).collect::<Vec<_>>())
}

/// Sum of `n` signed bytes at `p`, as i32.
pub(crate) fn total<'c>(c: &Code<'c>, p: Val<'c>, n: u32) -> Val<'c> {
    let words: Ty<'c> = c.vec(c.i32(), n);
    let v = c.sext(c.load(c.vec(c.i8(), n), p, 1), words);
    c.call("llvm.vector.reduce.add", &[words], &[v])
}
