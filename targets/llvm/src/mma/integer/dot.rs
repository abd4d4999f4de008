//! Dot products of four bytes in every lane.

use crate::code::{Code, Ty, Val};

/// `sum + Σ u·s` of the four bytes in each of `lanes` lanes, `u` unsigned, of `bits` bits at most,
/// and `s` signed.
pub(crate) fn dot<'c>(
    c: &Code<'c>,
    (lanes, bits): (u32, u32),
    sum: Val<'c>,
    u: Val<'c>,
    s: Val<'c>,
) -> Val<'c> {
    if c.isa.dot_i8 {
        let name = match lanes {
            16 => "llvm.x86.avx512.vpdpbusd.512",
            _ => "llvm.x86.avx512.vpdpbusd.256",
        };
        return c.call_as_declared(name, &[sum, u, s]);
    }
    let pairs = c.vec(c.i16(), 2 * lanes);
    if bits < 8 {
        // Two products of bytes stay far within 16 bits.
        let bytes = c.vec(c.i8(), 4 * lanes);
        let products = halved(c, lanes, &BYTES, c.bits(u, bytes), c.bits(s, bytes));
        let sums = halved(c, lanes, &PAIRS, products, c.int(pairs, 1));
        return c.add(sum, sums);
    }
    // Pairs of 16 bits: the even bytes, and the odd ones.
    let (u, s) = (c.bits(u, pairs), c.bits(s, pairs));
    let even = halved(c, lanes, &PAIRS, c.andc(u, 255), c.ashr(c.shl(s, 8), 8));
    let odd = halved(c, lanes, &PAIRS, c.lshr(u, 8), c.ashr(s, 8));
    c.add(sum, c.add(even, odd))
}

/// Instructions of vectors of 128, of 256 and of 512 bits.
type Widths = [&'static str; 3];

/// `a.0·b.0 + a.1·b.1` of pairs of 16 bits.
const PAIRS: Widths =
    ["llvm.x86.sse2.pmadd.wd", "llvm.x86.avx2.pmadd.wd", "llvm.x86.avx512.pmaddw.d.512"];
/// The same of pairs of bytes, those of `a` unsigned.
const BYTES: Widths = [
    "llvm.x86.ssse3.pmadd.ub.sw.128",
    "llvm.x86.avx2.pmadd.ub.sw",
    "llvm.x86.avx512.pmaddubs.w.512",
];

/// An instruction on vectors of `lanes` lanes of 32 bits, in halves of those that are too wide.
fn halved<'c>(c: &Code<'c>, lanes: u32, by: &Widths, a: Val<'c>, b: Val<'c>) -> Val<'c> {
    if lanes <= c.isa.lanes {
        return c.call(by[lanes.ilog2() as usize - 2], &[], &[a, b]);
    }
    let count = a.get_type().into_vector_type().get_size() / 2;
    let half = |v, first: u32| c.shuffle(v, v, &(first..first + count).collect::<Vec<_>>());
    let [low, high] = [0, count].map(|at| halved(c, lanes / 2, by, half(a, at), half(b, at)));
    c.shuffle(low, high, &(0..count).collect::<Vec<_>>())
}

/// Sum of `n` signed bytes at `p`, as i32.
pub(crate) fn total<'c>(c: &Code<'c>, p: Val<'c>, n: u32) -> Val<'c> {
    let words: Ty<'c> = c.vec(c.i32(), n);
    let v = c.sext(c.load(c.vec(c.i8(), n), p, 1), words);
    c.call("llvm.vector.reduce.add", &[words], &[v])
}
