//! Every construct of loop IR by itself, native at every level, against the same in Rust.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

mod native;

use ir::loops::{Arith, Cmp, Convert, Elem, Func, Inst, MemElem, Program, Reg};
use native::build::Build;
use native::{Image, Scratch, lanes, levels};
use target_llvm::Llvm;

const FLOATS: [f32; 16] = [
    0.0,
    -0.0,
    1.5,
    -2.5,
    3.49999,
    1e30,
    -1e30,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    0.5,
    2147483648.0,
    -2147483904.0,
    1e-40,
    7.25,
    -0.75,
];
const OTHERS: [f32; 16] =
    [1.0, 0.0, -3.0, -2.5, 2.0, 1e-30, 1e10, 1.0, 5.0, 1.0, 0.25, 3.0, 4.0, 1e-40, -7.25, 0.75];
const INTS: [i32; 16] =
    [0, 1, -1, i32::MAX, i32::MIN, 7, -7, 255, 256, -128, 65535, 65536, 12345, -12345, 31, 33];
const OTHER_INTS: [i32; 16] = [1, 1, 5, 1, 1, -3, 3, 8, 31, 33, 0, -1, 40, 2, 16, 4];

/// Runs a program at every level; gives the output memory of each.
fn run(make: &dyn Fn(u32) -> Program, inputs: &[&[u8]], out: usize) -> Vec<Vec<u8>> {
    let mut results = Vec::new();
    for level in levels() {
        let object = Llvm::x86_64().compile_programs(&[make(lanes(level))], level).unwrap();
        let image = Image::load(&object.bytes);
        let mut memory = vec![0u8; out + 64];
        let mut args = vec![memory.as_mut_ptr() as u64];
        args.extend(inputs.iter().map(|i| i.as_ptr() as u64));
        let mut scratch = Scratch::new(object.kernels[0].1);
        // SAFETY: programs here read their inputs and write `out` bytes.
        unsafe { image.kernel("a")(args.as_ptr(), 3, 11, scratch.pointer()) };
        assert!(memory[out..].iter().all(|b| *b == 0));
        memory.truncate(out);
        results.push(memory);
    }
    results
}

fn bytes<T: Copy, const N: usize>(v: &[T], to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    v.iter().flat_map(|v| to(*v)).collect()
}

/// `f` of two vectors of 16 elements (by 4 to 16 lanes), stored as `elem`.
fn lanewise(from: Elem, to: MemElem, f: &dyn Fn(&mut Build, Reg, Reg) -> Reg) -> Vec<Vec<u8>> {
    let mem = if from == Elem::F32 { MemElem::F32 } else { MemElem::I32 };
    let (a, b) = match from {
        Elem::F32 => (bytes(&FLOATS, f32::to_le_bytes), bytes(&OTHERS, f32::to_le_bytes)),
        _ => (bytes(&INTS, i32::to_le_bytes), bytes(&OTHER_INTS, i32::to_le_bytes)),
    };
    let width = match to {
        MemElem::U8 | MemElem::I8 => 1,
        MemElem::U16 => 2,
        _ => 4,
    };
    let make = |lanes: u32| {
        let mut p = Build::new(lanes);
        let at: Vec<Reg> = (0..3).map(|i| p.argument(i)).collect();
        for i in (0..16).step_by(lanes as usize) {
            let x = p.load(mem, from, lanes, at[1], i * 4);
            let y = p.load(mem, from, lanes, at[2], i * 4);
            let v = f(&mut p, x, y);
            p.store(to, at[0], i * width, v);
        }
        p.finish("a", 0)
    };
    run(&make, &[&a, &b], 16 * width as usize)
}

fn same<const N: usize>(found: &[Vec<u8>], want: impl Fn(usize) -> [u8; N], what: &str) {
    assert!(!found.is_empty());
    for f in found {
        for i in 0..f.len() / N {
            assert_eq!(f[i * N..(i + 1) * N], want(i), "{what}, element {i}");
        }
    }
}

#[test]
fn arithmetic_of_floats() {
    type F = fn(f32, f32) -> f32;
    let ops: [(Arith, F); 6] = [
        (Arith::Add, |a, b| a + b),
        (Arith::Sub, |a, b| a - b),
        (Arith::Mul, |a, b| a * b),
        (Arith::Div, |a, b| a / b),
        (Arith::Min, |a, b| if a < b { a } else { b }),
        (Arith::Max, |a, b| if a > b { a } else { b }),
    ];
    for (op, want) in ops {
        let found = lanewise(Elem::F32, MemElem::F32, &|p, x, y| p.arith(op, x, y));
        for f in found {
            for (i, b) in f.chunks(4).enumerate() {
                let got = f32::from_le_bytes(b.try_into().unwrap());
                let want = want(FLOATS[i], OTHERS[i]);
                let nan = FLOATS[i].is_nan() || want.is_nan();
                let undecided = nan && matches!(op, Arith::Min | Arith::Max);
                let equal = got == want || got.is_nan() && want.is_nan();
                assert!(equal || undecided, "{op:?} element {i}: {got}, expected {want}");
            }
        }
    }
}

#[test]
fn arithmetic_of_integers() {
    type F = fn(i32, i32) -> i32;
    let ops: [(Arith, F); 11] = [
        (Arith::Add, i32::wrapping_add),
        (Arith::Sub, i32::wrapping_sub),
        (Arith::Mul, i32::wrapping_mul),
        (Arith::Min, i32::min),
        (Arith::Max, i32::max),
        (Arith::And, |a, b| a & b),
        (Arith::Or, |a, b| a | b),
        (Arith::Xor, |a, b| a ^ b),
        (Arith::Shl, |a, b| a.wrapping_shl(b as u32)),
        (Arith::ShrU, |a, b| (a as u32).wrapping_shr(b as u32) as i32),
        (Arith::ShrS, |a, b| a.wrapping_shr(b as u32)),
    ];
    for (op, want) in ops {
        let found = lanewise(Elem::I32, MemElem::I32, &|p, x, y| p.arith(op, x, y));
        same(&found, |i| want(INTS[i], OTHER_INTS[i]).to_le_bytes(), &format!("{op:?}"));
    }
}

#[test]
fn functions_and_fused_products() {
    type F = fn(f32) -> f32;
    let ops: [(Func, F); 5] = [
        (Func::Neg, |a| -a),
        (Func::Abs, f32::abs),
        (Func::Sqrt, f32::sqrt),
        (Func::Floor, f32::floor),
        (Func::Nearest, f32::round_ties_even),
    ];
    for (op, want) in ops {
        let found = lanewise(Elem::F32, MemElem::F32, &|p, x, _| p.func(op, x));
        for f in found {
            for (i, b) in f.chunks(4).enumerate() {
                let got = f32::from_le_bytes(b.try_into().unwrap());
                let want = want(FLOATS[i]);
                let equal = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(equal, "{op:?} of {}: {got}", FLOATS[i]);
            }
        }
    }
    let found = lanewise(Elem::F32, MemElem::F32, &|p, _, y| {
        let one = p.set(Elem::F32, p.lanes, Inst::Float(1.0));
        p.set(Elem::F32, p.lanes, Inst::Fma(y, y, one))
    });
    same(&found, |i| OTHERS[i].mul_add(OTHERS[i], 1.0).to_le_bytes(), "Fma");
}

#[test]
fn comparisons_select() {
    type F = fn(f32, f32) -> bool;
    type I = fn(i32, i32) -> bool;
    let ops: [(Cmp, F, I); 6] = [
        (Cmp::Eq, |a, b| a == b, |a, b| a == b),
        (Cmp::Ne, |a, b| a != b, |a, b| a != b),
        (Cmp::Lt, |a, b| a < b, |a, b| a < b),
        (Cmp::Le, |a, b| a <= b, |a, b| a <= b),
        (Cmp::Gt, |a, b| a > b, |a, b| a > b),
        (Cmp::Ge, |a, b| a >= b, |a, b| a >= b),
    ];
    for (op, floats, ints) in ops {
        let f = |p: &mut Build, x: Reg, y: Reg| {
            let c = p.cmp(op, x, y);
            let n = p.func(Func::Not, c);
            let n = p.func(Func::Not, n);
            let c = p.arith(Arith::And, c, n);
            let one = p.set(Elem::I32, p.lanes, Inst::Int(-5));
            let two = p.convert(Convert::BoolToI32, Elem::I32, c);
            p.set(Elem::I32, p.lanes, Inst::Select(c, one, two))
        };
        let pick = |c: bool| (if c { -5i32 } else { 0 }).to_le_bytes();
        let found = lanewise(Elem::F32, MemElem::I32, &f);
        same(&found, |i| pick(floats(FLOATS[i], OTHERS[i])), &format!("{op:?}"));
        let found = lanewise(Elem::I32, MemElem::I32, &f);
        same(&found, |i| pick(ints(INTS[i], OTHER_INTS[i])), &format!("{op:?}"));
    }
}

#[test]
fn conversions_of_lanes() {
    let found =
        lanewise(Elem::I32, MemElem::F32, &|p, x, _| p.convert(Convert::I32ToF32, Elem::F32, x));
    same(&found, |i| (INTS[i] as f32).to_le_bytes(), "I32ToF32");
    let found =
        lanewise(Elem::F32, MemElem::I32, &|p, x, _| p.convert(Convert::F32ToI32, Elem::I32, x));
    same(&found, |i| (FLOATS[i] as i32).to_le_bytes(), "F32ToI32");
    let found =
        lanewise(Elem::F32, MemElem::I32, &|p, x, _| p.convert(Convert::F32Bits, Elem::I32, x));
    same(&found, |i| FLOATS[i].to_bits().to_le_bytes(), "F32Bits");
    let found =
        lanewise(Elem::I32, MemElem::F32, &|p, x, _| p.convert(Convert::I32Bits, Elem::F32, x));
    same(&found, |i| INTS[i].to_le_bytes(), "I32Bits");
    let found = lanewise(Elem::I32, MemElem::I32, &|p, x, _| {
        let b = p.convert(Convert::I32ToBool, Elem::Bool, x);
        p.convert(Convert::BoolToI32, Elem::I32, b)
    });
    same(&found, |i| i32::from(INTS[i] != 0).to_le_bytes(), "I32ToBool");
}

#[test]
fn narrow_memory() {
    for (mem, width) in [(MemElem::U16, 2usize), (MemElem::U8, 1), (MemElem::I8, 1)] {
        let stored = lanewise(Elem::I32, mem, &|_, x, _| x);
        for s in &stored {
            for (i, v) in s.chunks(width).enumerate() {
                assert_eq!(v, &INTS[i].to_le_bytes()[..width], "{mem:?}");
            }
        }
        let input = bytes(&INTS, i32::to_le_bytes);
        let make = |lanes: u32| {
            let mut p = Build::new(lanes);
            let (to, from) = (p.argument(0), p.argument(1));
            for i in (0..16).step_by(lanes as usize) {
                // One byte off: alignment is that of an element at most.
                let v = p.load(mem, Elem::I32, lanes, from, i * width as i64 + width as i64);
                p.store(MemElem::I32, to, i * 4, v);
            }
            p.finish("a", 0)
        };
        let want = |i: usize| {
            let b = &input[(i + 1) * width..];
            match mem {
                MemElem::U16 => i32::from(u16::from_le_bytes([b[0], b[1]])),
                MemElem::U8 => b[0].into(),
                _ => i32::from(b[0] as i8),
            }
            .to_le_bytes()
        };
        same(&run(&make, &[&input], 64), want, &format!("{mem:?}"));
    }
}

#[test]
fn across_lanes() {
    let floats: Vec<f32> = (0..16).map(|i| ((i * 7) % 16) as f32 - 4.0).collect();
    let ints: Vec<i32> = (0..16).map(|i| (i * 5) % 16 - 9).collect();
    let (a, b) = (bytes(&floats, f32::to_le_bytes), bytes(&ints, i32::to_le_bytes));
    for op in [Arith::Add, Arith::Min, Arith::Max] {
        let make = |_| {
            let mut p = Build::new(16);
            let at: Vec<Reg> = (0..3).map(|i| p.argument(i)).collect();
            let x = p.load(MemElem::F32, Elem::F32, 16, at[1], 0);
            let y = p.load(MemElem::I32, Elem::I32, 16, at[2], 0);
            let x = p.set(Elem::F32, 1, Inst::Across(op, x));
            let lane = p.set(Elem::I32, 1, Inst::Extract(y, 11));
            let y = p.set(Elem::I32, 1, Inst::Across(op, y));
            p.store(MemElem::F32, at[0], 0, x);
            p.store(MemElem::I32, at[0], 4, y);
            p.store(MemElem::I32, at[0], 8, lane);
            let wide = p.set(Elem::I32, 16, Inst::Splat(lane));
            let iota = p.set(Elem::I32, 16, Inst::Iota);
            let sum = p.arith(Arith::Add, wide, iota);
            p.store(MemElem::I32, at[0], 12, sum);
            p.finish("a", 0)
        };
        let fold = |v: &[i32]| match op {
            Arith::Add => v.iter().sum::<i32>(),
            Arith::Min => *v.iter().min().unwrap(),
            _ => *v.iter().max().unwrap(),
        };
        let whole: Vec<i32> = floats.iter().map(|f| *f as i32).collect();
        let mut want = (fold(&whole) as f32).to_le_bytes().to_vec();
        want.extend(fold(&ints).to_le_bytes());
        want.extend(ints[11].to_le_bytes());
        want.extend((0..16).flat_map(|i| (ints[11] + i).to_le_bytes()));
        for found in run(&make, &[&a, &b], 76) {
            assert_eq!(found, want, "{op:?}");
        }
    }
}

/// 64-bit scalars: quotients, conversions, shifts, spans, scratch.
#[test]
fn wide_scalars() {
    let make = |lanes: u32| {
        let mut p = Build::new(lanes);
        let to = p.argument(0);
        let (begin, end) = (p.set(Elem::I64, 1, Inst::Begin), p.set(Elem::I64, 1, Inst::End));
        let mut at = 0;
        let mut put = |p: &mut Build, v: Reg| {
            p.store(MemElem::I64, to, at, v);
            at += 8;
        };
        put(&mut p, begin);
        put(&mut p, end);
        let minus = p.i64(-1000);
        for (op, by) in [(Arith::Div, 7), (Arith::Rem, 7), (Arith::ShrS, 3), (Arith::ShrU, 60)] {
            let by = p.i64(by);
            let v = p.arith(op, minus, by);
            put(&mut p, v);
        }
        let x = p.set(Elem::F64, 1, Inst::Float(-3.75e18));
        let v = p.convert(Convert::F64ToI64, Elem::I64, x);
        put(&mut p, v);
        let huge = p.set(Elem::F64, 1, Inst::Float(1e300));
        let v = p.convert(Convert::F64ToI64, Elem::I64, huge);
        put(&mut p, v);
        let v = p.convert(Convert::I64ToF64, Elem::F64, minus);
        let v = p.func(Func::Neg, v);
        let v = p.func(Func::Sqrt, v);
        let v = p.convert(Convert::F64ToF32, Elem::F32, v);
        let v = p.convert(Convert::F32ToF64, Elem::F64, v);
        let v = p.func(Func::Floor, v);
        let v = p.convert(Convert::F64ToI64, Elem::I64, v);
        put(&mut p, v);
        let v = p.convert(Convert::I64ToI32, Elem::I32, minus);
        let v = p.convert(Convert::I32ToI64, Elem::I64, v);
        put(&mut p, v);
        // Through scratch, at an offset.
        let s = p.set(Elem::I64, 1, Inst::Scratch(24));
        p.store(MemElem::I64, s, 8, end);
        p.push(ir::loops::Stmt::Prefetch { address: s, offset: 1 << 40 });
        let v = p.load(MemElem::I64, Elem::I64, 1, s, 8);
        put(&mut p, v);
        p.finish("a", 64)
    };
    let want: [i64; 11] =
        [3, 11, -142, -6, -125, 15, -3_750_000_000_000_000_000, i64::MAX, 31, -1000, 11];
    for found in run(&make, &[], 88) {
        assert_eq!(found, bytes(&want, i64::to_le_bytes));
    }
}

/// Loops that carry, nest and do not run; choices.
#[test]
fn control() {
    let make = |lanes: u32| {
        let mut p = Build::new(lanes);
        let to = p.argument(0);
        let (begin, end) = (p.set(Elem::I64, 1, Inst::Begin), p.set(Elem::I64, 1, Inst::End));
        let (zero, one) = (p.i64(0), p.i64(1));
        // Fibonacci numbers trade places; steps of 3 from 3 to 11.
        let pair = p.looped((begin, end, 3), &[zero, one], |p, i, now| {
            let sum = p.arith(Arith::Add, now[0], now[1]);
            let sum = p.looped((zero, i, 1), &[sum], |p, j, now| {
                let odd = p.arith(Arith::And, j, one);
                let is = p.cmp(Cmp::Eq, odd, one);
                p.either(
                    is,
                    |p| {
                        let at = p.at(to, j, 8);
                        p.store(MemElem::I64, at, 16, j);
                    },
                    |p| {
                        let at = p.at(to, j, 8);
                        let v = p.i64(-1);
                        p.store(MemElem::I64, at, 16, v);
                    },
                );
                vec![p.arith(Arith::Add, now[0], one)]
            })[0];
            vec![now[1], sum]
        });
        let none = p.looped((end, begin, 1), &pair, |_, _, now| vec![now[1], now[0]]);
        p.store(MemElem::I64, to, 0, none[0]);
        p.store(MemElem::I64, to, 8, none[1]);
        p.finish("a", 0)
    };
    // (0, 1) -> (1, 1 + 3) -> (4, 5 + 6) -> (11, 15 + 9)
    let mut want = vec![11i64, 24];
    want.extend((0..9).map(|j| if j % 2 == 1 { j } else { -1 }));
    for found in run(&make, &[], 88) {
        assert_eq!(found, bytes(&want, i64::to_le_bytes));
    }
}
