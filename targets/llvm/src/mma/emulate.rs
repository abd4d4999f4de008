//! Tile registers in memory, and functions that do on them what the AMX instructions do: the
//! lowering to tiles, executed on any machine. Denormals are kept, where AMX flushes them.

use crate::code::{Code, Ty, Val};
use inkwell::IntPredicate;
use inkwell::attributes::AttributeLoc;
use inkwell::values::FunctionValue;

/// Bytes of the state: a configuration of 64 bytes, and eight registers of 1 KiB.
pub(crate) const STATE_BYTES: u64 = 64 + 8 * 1024;

/// The functions, internal to a module. All take the state first.
pub(crate) struct Emulator<'c> {
    load: FunctionValue<'c>,
    store: FunctionValue<'c>,
    dot: FunctionValue<'c>,
}

impl<'c> Emulator<'c> {
    /// Writes the functions.
    pub fn new(c: &Code<'c>) -> Self {
        Emulator { load: mover(c, true), store: mover(c, false), dot: dot(c) }
    }

    /// `ldtilecfg`: clears the registers too.
    pub fn configure(&self, c: &Code<'c>, state: Val<'c>, from: Val<'c>) {
        let words = c.vec(c.i32(), 16);
        c.store(c.load(words, from, 4), state, 4);
        for t in 0..8 {
            self.zero(c, state, t);
        }
    }

    /// `tilezero`
    pub fn zero(&self, c: &Code<'c>, state: Val<'c>, t: u32) {
        let at = register(c, state, c.c64(t.into()));
        c.for_loop((c.c64(0), c.c64(1024), 64), &[], |i, _| {
            c.store(c.zero(c.vec(c.i32(), 16)), c.at(at, i), 4);
            vec![]
        });
    }

    /// `tileloadd`
    pub fn load(&self, c: &Code<'c>, state: Val<'c>, t: u32, from: Val<'c>, stride: Val<'c>) {
        c.call_fn(self.load, &[state, c.c64(t.into()), from, stride]);
    }

    /// `tilestored`
    pub fn store(&self, c: &Code<'c>, state: Val<'c>, t: u32, to: Val<'c>, stride: Val<'c>) {
        c.call_fn(self.store, &[state, c.c64(t.into()), to, stride]);
    }

    /// `tdpbf16ps`
    pub fn dot(&self, c: &Code<'c>, state: Val<'c>, [d, a, b]: [u32; 3]) {
        let mut args = vec![state];
        args.extend([d, a, b].map(|t| c.c64(t.into())));
        c.call_fn(self.dot, &args);
    }
}

fn register<'c>(c: &Code<'c>, state: Val<'c>, t: Val<'c>) -> Val<'c> {
    c.index(c.off(state, 64), t, 1024)
}

/// Configured rows of a register.
fn rows<'c>(c: &Code<'c>, state: Val<'c>, t: Val<'c>) -> Val<'c> {
    c.zext(c.load(c.i8(), c.at(c.off(state, 48), t), 1), c.i64())
}

/// Configured bytes of a row of a register.
fn row_bytes<'c>(c: &Code<'c>, state: Val<'c>, t: Val<'c>) -> Val<'c> {
    c.zext(c.load(c.i16(), c.index(c.off(state, 16), t, 2), 1), c.i64())
}

/// `(state, register, memory, stride)`: copies the configured part into a register that is 0
/// elsewhere, or out of it.
fn mover<'c>(c: &Code<'c>, load: bool) -> FunctionValue<'c> {
    let types: Vec<Ty> = vec![c.ptr(), c.i64(), c.ptr(), c.i64()];
    let f = c.function(if load { "soft.load" } else { "soft.store" }, &types, false);
    c.mark(f, AttributeLoc::Function, "noinline");
    let a: Vec<Val> = f.get_param_iter().collect();
    let (rows, bytes) = (rows(c, a[0], a[1]), row_bytes(c, a[0], a[1]));
    let at = register(c, a[0], a[1]);
    c.for_loop((c.c64(0), c.c64(16), 1), &[], |r, _| {
        c.for_loop((c.c64(0), c.c64(64), 1), &[], |b, _| {
            let inside = c.and(c.less(r, rows), c.less(b, bytes));
            let mine = c.at(c.index(at, r, 64), b);
            if load {
                c.store(c.int(c.i8(), 0), mine, 1);
            }
            c.when(inside, || {
                let theirs = c.at(c.at(a[2], c.mul(r, a[3])), b);
                let (from, to) = if load { (theirs, mine) } else { (mine, theirs) };
                c.store(c.load(c.i8(), from, 1), to, 1);
            });
            vec![]
        });
        vec![]
    });
    c.ret();
    f
}

/// `(state, d, a, b)`: `d[i, j] += Σ_k a[i, k]·b[k/2, 2j + k%2]` of bf16.
fn dot<'c>(c: &Code<'c>) -> FunctionValue<'c> {
    let types: Vec<Ty> = vec![c.ptr(), c.i64(), c.i64(), c.i64()];
    let f = c.function("soft.dot", &types, false);
    c.mark(f, AttributeLoc::Function, "noinline");
    let p: Vec<Val> = f.get_param_iter().collect();
    let [d, a, b] = [p[1], p[2], p[3]].map(|t| register(c, p[0], t));
    let words = |t| c.lshr(row_bytes(c, p[0], t), 2);
    let (n, k) = (words(p[1]), words(p[2]));
    // A product deeper than the right operand has rows is a fault: compute nothing.
    let fits = c.icmp(IntPredicate::SLE, k, rows(c, p[0], p[3]));
    let m = c.select(fits, rows(c, p[0], p[1]), c.c64(0));
    let half = |at: Val<'c>, high: bool| {
        let word = c.load(c.i32(), at, 4);
        let bits = if high { c.andc(word, 0xffff_0000) } else { c.shl(word, 16) };
        c.bits(bits, c.f32())
    };
    c.for_loop((c.c64(0), m, 1), &[], |i, _| {
        c.for_loop((c.c64(0), k, 1), &[], |l, _| {
            c.for_loop((c.c64(0), n, 1), &[], |j, _| {
                let sum_at = c.index(c.index(d, i, 64), j, 4);
                let left = c.index(c.index(a, i, 64), l, 4);
                let right = c.index(c.index(b, l, 64), j, 4);
                let sum = c.load(c.f32(), sum_at, 4);
                let sum = c.fma(half(left, false), half(right, false), sum);
                let sum = c.fma(half(left, true), half(right, true), sum);
                c.store(sum, sum_at, 4);
                vec![]
            });
            vec![]
        });
        vec![]
    });
    c.ret();
    f
}
