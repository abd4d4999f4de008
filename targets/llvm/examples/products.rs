//! Speed of tile products on this machine, next to what it can do at most: `products [LEVEL]`.
//!
//! Limits (one thread) are measured in the same run, between the kernels; best of several
//! repetitions, since other programs may share the machine.

#[path = "../tests/native/mod.rs"]
mod native;

use ir::dtype::{DType, Scale};
use ir::loops::{Arith, Elem, Inst, MemElem, Program};
use native::build::Build;
use native::data::Random;
use native::product::{Case, Lie, program};
use native::{Image, Scratch};
use std::time::Instant;
use target_llvm::Llvm;

/// Seconds that this thread has been running: time that others took from it does not count.
fn now() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

/// Seconds of the fastest of some runs.
fn best(times: u32, mut f: impl FnMut()) -> f64 {
    (0..times)
        .map(|_| {
            let t = now();
            f();
            now() - t
        })
        .fold(f64::INFINITY, f64::min)
}

/// Reads `args[1]` bytes at `args[0]` in eight streams, prefetching 2 KiB ahead.
fn reader() -> Program {
    let mut b = Build::new(16);
    let (at, bytes, out) = (b.argument(0), b.argument(1), b.argument(2));
    let eight = b.i64(8);
    let part = b.arith(Arith::Div, bytes, eight);
    let zero = b.i64(0);
    let init: Vec<_> = (0..8).map(|_| b.set(Elem::I32, 16, Inst::Int(0))).collect();
    let sums = b.looped((zero, part, 128), &init, |b, i, now| {
        let mut next = Vec::new();
        for (s, sum) in now.iter().enumerate() {
            let stream = b.i64(s as i64);
            let off = b.arith(Arith::Mul, stream, part);
            let off = b.arith(Arith::Add, off, i);
            let p = b.arith(Arith::Add, at, off);
            for line in [0, 64] {
                b.push(ir::loops::Stmt::Prefetch { address: p, offset: 2048 + line });
            }
            let x = b.load(MemElem::I32, Elem::I32, 16, p, 0);
            let y = b.load(MemElem::I32, Elem::I32, 16, p, 64);
            let x = b.arith(Arith::Xor, x, y);
            next.push(b.arith(Arith::Xor, *sum, x));
        }
        next
    });
    for (i, s) in sums.into_iter().enumerate() {
        b.store(MemElem::I32, out, i as i64 * 64, s);
    }
    b.finish("reader", 0)
}

/// One core's read bandwidth, in GB/s.
fn read_limit(image: &Image, memory: &[u8], scratch: &mut Scratch) -> f64 {
    let mut out = vec![0u8; 1024];
    let args = [memory.as_ptr() as u64, memory.len() as u64, out.as_mut_ptr() as u64];
    let f = image.kernel("reader");
    // SAFETY: reads the memory, writes 512 bytes of `out`.
    let t = best(9, || unsafe { f(args.as_ptr(), 0, 1, scratch.pointer()) });
    memory.len() as f64 / t / 1e9
}

/// A product small enough for the first-level caches, again and again, in GFLOP/s: what the
/// multiplier can do.
fn flop_limit(image: &Image, case: &Case, name: &str, memory: &[u8], scratch: &mut Scratch) -> f64 {
    let mut acc = vec![0f32; 1 << 16];
    let k = u64::from(case.k);
    let args = [
        acc.as_mut_ptr() as u64,
        memory.as_ptr() as u64,
        memory.as_ptr() as u64 + (1 << 20),
        0,
        u64::from(case.n) * 4,
        k * u64::from(case.left.bits() / 8) + 64,
        0,
        k * 32,
    ];
    let f = image.kernel(name);
    let count = 4000;
    // SAFETY: the operands lie in `memory`, the accumulator in `acc`.
    let t = best(5, || unsafe { f(args.as_ptr(), 0, count, scratch.pointer()) });
    2.0 * f64::from(case.m * case.n * case.k) * count as f64 / t / 1e9
}

/// A matrix product `[m, k] x [n, k]` walked in tiles: `n` outermost, then `m`, then `k`.
struct Walk {
    label: &'static str,
    tile: Case,
    shape: (usize, usize, usize),
    /// Weights in rotation, so that they come from memory.
    copies: usize,
}

impl Walk {
    fn weight_bytes(&self) -> usize {
        let (_, n, k) = self.shape;
        n * k * self.tile.right.bits() as usize / 8
    }

    /// Runs all tiles once per copy; gives seconds a copy.
    fn time(&self, image: &Image, name: &str, memory: &[u8], scratch: &mut Scratch) -> f64 {
        let (m, n, k) = self.shape;
        let (tm, tn, tk) = (self.tile.m as usize, self.tile.n as usize, self.tile.k as usize);
        let f = image.kernel(name);
        let mut acc = vec![0f32; m * n];
        let left = vec![0x3c01_3c02u32; m * k + 64];
        let lb = self.tile.left.bits() as usize / 8;
        let bits = self.tile.right.bits() as usize;
        let block_bytes = k * 16 * bits / 8;
        let scales = vec![1f32; n.div_ceil(16) * k + 4096];
        let cols = match self.tile.lie {
            Lie::Blocked { scale: Some(s), .. } => s.cols as usize,
            _ => k,
        };
        let run = |weights: *const u8, acc: &mut [f32], scratch: &mut Scratch| {
            for j in (0..n).step_by(tn) {
                for i in (0..m).step_by(tm) {
                    for l in (0..k).step_by(tk) {
                        let right = weights as usize + j / 16 * block_bytes + l * 16 * bits / 8;
                        let args = [
                            acc.as_mut_ptr() as usize + (i * n + j) * 4,
                            left.as_ptr() as usize + (i * k + l) * lb,
                            right,
                            scales.as_ptr() as usize,
                            n * 4,
                            k * lb,
                            lb,
                            block_bytes,
                            0,
                            k.div_ceil(cols),
                            j,
                            l,
                        ]
                        .map(|v| v as u64);
                        // SAFETY: tiles lie within the matrices, which are whole tiles.
                        unsafe { f(args.as_ptr(), 0, 1, scratch.pointer()) };
                    }
                }
            }
        };
        let bytes = self.weight_bytes();
        let all = best(15, || {
            for c in 0..self.copies {
                run(memory[c * bytes..].as_ptr(), &mut acc, scratch);
            }
        });
        all / self.copies as f64
    }
}

fn case(m: u32, n: u32, k: u32, left: DType, right: DType, group: u32) -> Case {
    let lie = Lie::Blocked { lanes: 16, group, scale: None };
    Case::of([m, n, k], [left, right], lie)
}

fn scaled(c: Case, rows: u32, cols: u32) -> Case {
    let Lie::Blocked { lanes, group, .. } = c.lie else { return c };
    let scale = Some(Scale { dtype: DType::F32, rows, cols, sum: false });
    Case { lie: Lie::Blocked { lanes, group, scale }, ..c }
}

fn walks() -> Vec<Walk> {
    use DType::{BF16, F8E4M3, F32, I4, I8};
    let gemv = |label, tile| Walk { label, tile, shape: (1, 1408, 2048), copies: 20 };
    let few = |label, tile| Walk { label, tile, shape: (4, 1408, 2048), copies: 20 };
    let gemm = |label, tile| Walk { label, tile, shape: (512, 1408, 2048), copies: 1 };
    vec![
        gemv("gemv bf16, tile 1x16x2048", case(1, 16, 2048, BF16, BF16, 2)),
        gemv("gemv bf16, tile 1x16x256", case(1, 16, 256, BF16, BF16, 2)),
        gemv("gemv bf16, tile 1x64x256", case(1, 64, 256, BF16, BF16, 2)),
        gemv("gemv bf16 by f32, tile 1x16x256", case(1, 16, 256, F32, BF16, 2)),
        few("4 rows bf16, tile 4x16x256", case(4, 16, 256, BF16, BF16, 2)),
        few("4 rows bf16 by f32, tile 4x16x256", case(4, 16, 256, F32, BF16, 2)),
        gemv("gemv bf16 by f32, tile 1x64x256", case(1, 64, 256, F32, BF16, 2)),
        few("4 rows bf16, tile 4x64x256", case(4, 64, 256, BF16, BF16, 2)),
        gemv("gemv fp8, tile 1x64x256", scaled(case(1, 64, 256, BF16, F8E4M3, 4), 128, 128)),
        few("4 rows fp8, tile 4x64x256", scaled(case(4, 64, 256, BF16, F8E4M3, 4), 128, 128)),
        gemv("gemv i8, tile 1x64x256", scaled(case(1, 64, 256, BF16, I8, 4), 1, 2048)),
        gemv("gemv i4 g32, tile 1x64x256", scaled(case(1, 64, 256, BF16, I4, 8), 1, 32)),
        gemm("gemm bf16, tile 64x64x128", case(64, 64, 128, BF16, BF16, 2)),
        gemm("gemm bf16, tile 64x64x256", case(64, 64, 256, BF16, BF16, 2)),
        gemm("gemm bf16, tile 64x64x512", case(64, 64, 512, BF16, BF16, 2)),
        gemm("gemm bf16, tile 64x64x2048", case(64, 64, 2048, BF16, BF16, 2)),
        gemm("gemm bf16, tile 32x32x256", case(32, 32, 256, BF16, BF16, 2)),
        gemm("gemm bf16, tile 16x16x256", case(16, 16, 256, BF16, BF16, 2)),
        gemm("gemm bf16 by f32, tile 64x64x256", case(64, 64, 256, F32, BF16, 2)),
        gemm("gemm bf16 by f32, tile 16x16x256", case(16, 16, 256, F32, BF16, 2)),
        gemm("gemm fp8, tile 64x64x256", scaled(case(64, 64, 256, BF16, F8E4M3, 4), 128, 128)),
        gemm("gemm i4 g32, tile 64x64x256", scaled(case(64, 64, 256, BF16, I4, 8), 1, 32)),
    ]
}

fn main() {
    let level = std::env::args().nth(1).unwrap_or_else(|| {
        native::levels().into_iter().rfind(|l| *l != "amx-soft").expect("a level").to_owned()
    });
    let only = std::env::args().nth(2).unwrap_or_default();
    let lanes = if level == "x86-64-v3" { 8 } else { 16 };
    let mut all = walks();
    if std::env::var("HOT").is_ok() {
        // The weights stay in the second-level cache.
        for w in &mut all {
            (w.shape.1, w.copies) = (64, 1);
        }
    }
    let walks: Vec<Walk> = all.into_iter().filter(|w| w.label.contains(&only)).collect();
    let dot = case(48, 64, 64, DType::BF16, DType::BF16, 2);
    let fma = Case {
        left: DType::F32,
        lie: Lie::Blocked { lanes: 16, group: 1, scale: None },
        right: DType::F32,
        ..dot
    };
    let mut programs = vec![reader(), program("dot", lanes, &dot), program("fma", lanes, &fma)];
    programs
        .extend(walks.iter().enumerate().map(|(i, w)| program(&format!("w{i}"), lanes, &w.tile)));
    if let Ok(path) = std::env::var("ASM") {
        let text = Llvm::x86_64()
            .list_programs(&programs, &level, ir::target::Listing::Asm)
            .expect("they compile");
        std::fs::write(path, text).expect("a path that can be written");
        return;
    }
    let t = Instant::now();
    let object = Llvm::x86_64().compile_programs(&programs, &level).expect("they compile");
    println!("{} kernels for {level}: {:.0?}", programs.len(), t.elapsed());
    let image = Image::load(&object.bytes);
    let most = object.kernels.iter().map(|k| k.1).max().unwrap_or(0);
    let mut scratch = Scratch::new(most);
    let mut r = Random(1);
    // Random halves between 2^-7 and 2^1, so that no sum overflows and none is zero.
    let memory: Vec<u8> = (0..120 << 19)
        .flat_map(|_| {
            let bits = r.bits();
            ((bits as u16 & 0x83ff) | 0x3c00).to_le_bytes()
        })
        .collect();
    let dots = flop_limit(&image, &dot, "dot", &memory, &mut scratch);
    let fmas = flop_limit(&image, &fma, "fma", &memory, &mut scratch);
    println!("from the first-level cache: bf16 {dots:.0}, f32 {fmas:.0} GFLOP/s");
    for (i, w) in walks.iter().enumerate() {
        let before = read_limit(&image, &memory, &mut scratch);
        let t = w.time(&image, &format!("w{i}"), &memory, &mut scratch);
        let after = read_limit(&image, &memory, &mut scratch);
        let (m, n, k) = w.shape;
        let (flops, bytes) =
            (2.0 * (m * n * k) as f64 / t / 1e9, w.weight_bytes() as f64 / t / 1e9);
        let (limit, peak) =
            (before.max(after), if w.tile.left == DType::F32 { fmas } else { dots });
        println!(
            "{:36} {:7.2} GB/s ({:3.0} % of {limit:.1}) {flops:7.1} GFLOP/s ({:3.0} %)",
            w.label,
            bytes,
            100.0 * bytes / limit,
            100.0 * flops / peak
        );
    }
}
