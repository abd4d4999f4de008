//! Speed of kernels written as texts: parsed from `tests/files/kernel`, compiled by LLVM for this
//! machine's best level, run on threads over a working set beyond the caches.
//!
//! `cargo bench -p tests --bench texts -- [THREADS] [NAME]`, all texts or those whose file's name
//! contains NAME. Each line: the median of several runs, and its share of a limit measured in the
//! same run.
#![allow(clippy::unwrap_used)]

use compiler::compile::code;
use ir::kernel::parse::kernel as parse;
use ir::kernel::{Kernel, ParamType};
use runtime::load::{Image, KernelFn};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Bytes that a rotation of weights passes over.
const WORKING_SET: usize = 1 << 30;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Threads at most: each has a part of the working set to read.
const MOST_THREADS: usize = 1024;
/// Runs of each measurement.
const RUNS: usize = 9;

/// A compiled kernel with arguments; `rotated` is the parameter of which there are many copies.
struct Case {
    image: Image,
    name: String,
    scratch: usize,
    buffers: Vec<Vec<u64>>,
    symbols: Vec<i64>,
    rotated: usize,
    copies: usize,
    copy_bytes: usize,
    instances: i64,
}

fn read_kernel(file: &str) -> Kernel {
    let path = tests::goldens::root().join("tests/files/kernel").join(file);
    parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Words whose bytes are sane as codes, bf16, f16 and f32: no zeros, infinities or denormals.
fn fill(bytes: usize, seed: u64) -> Vec<u64> {
    let mut state = seed | 1;
    let word = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Bytes from 0x30 to 0x3f: small positive numbers in every float format.
        (state & 0x0f0f_0f0f_0f0f_0f0f) | 0x3030_3030_3030_3030
    };
    let mut words = Vec::with_capacity(bytes.div_ceil(8));
    if bytes >= 2 * HUGE {
        // As the runtime's own memory lies.
        let first = (words.as_mut_ptr() as usize).next_multiple_of(HUGE);
        // SAFETY: a hint for whole pages within the buffer, which says nothing of their contents.
        unsafe { libc::madvise(first as *mut libc::c_void, bytes - HUGE, libc::MADV_HUGEPAGE) };
    }
    words.extend((0..bytes.div_ceil(8)).map(word));
    words
}

/// Words that hold integers from the first cache line on.
fn ints(values: &[i32]) -> Vec<u64> {
    let mut words = vec![0u64; values.len().div_ceil(2) + LINE_WORDS];
    let at = words.as_ptr() as u64;
    let first = (aligned(&mut words) - at) as usize / 8;
    for (i, v) in values.iter().enumerate() {
        words[first + i / 2] |= u64::from(*v as u32) << (i % 2 * 32);
    }
    words
}

/// Address of the first cache line in a buffer.
fn aligned(buffer: &mut [u64]) -> u64 {
    (buffer.as_mut_ptr() as u64).next_multiple_of(8 * LINE_WORDS as u64)
}

impl Case {
    fn new(
        kernel: &Kernel,
        values: &[(&str, i64)],
        rotated: &str,
        given: &[(&str, Vec<i32>)],
        instances: i64,
    ) -> Case {
        let target = target_llvm::Llvm::host();
        let isa = *runtime::isa::supported().first().unwrap();
        let compiled = code(std::slice::from_ref(kernel), &target, isa).unwrap();
        let value_of = |name: &str| values.iter().find(|v| v.0 == name).map(|v| v.1);
        let rotated = kernel.params.iter().position(|p| &*p.name == rotated).unwrap();
        let mut copies = 1;
        let mut copy_bytes = 0;
        let mut buffers = vec![];
        for (i, param) in kernel.params.iter().enumerate() {
            if let Some((_, list)) = given.iter().find(|g| g.0 == &*param.name) {
                buffers.push(ints(list));
                continue;
            }
            let ParamType::Tensor { .. } = &param.ty else { panic!("a list must be given") };
            let bytes = param.ty.layout(&value_of).unwrap().size_bytes() as usize;
            let mut total = bytes;
            if i == rotated {
                copy_bytes = bytes.next_multiple_of(4096);
                copies = (WORKING_SET / copy_bytes).max(1);
                total = copy_bytes * copies;
            }
            buffers.push(fill(total + 64, i as u64 + 7));
        }
        Case {
            image: Image::load(&compiled.image).unwrap(),
            name: kernel.name.to_string(),
            scratch: compiled.scratch.values().copied().max().unwrap() as usize,
            buffers,
            symbols: kernel.symbols.keys().map(|s| value_of(s).unwrap()).collect(),
            rotated,
            copies,
            copy_bytes,
            instances,
        }
    }

    /// Seconds of one operation, over all copies, with a barrier after each.
    fn seconds(&mut self, threads: usize) -> f64 {
        let function: KernelFn = self.image.kernel(&self.name).unwrap();
        let mut args: Vec<u64> = self.buffers.iter_mut().map(|b| aligned(b)).collect();
        args.extend(self.symbols.iter().map(|s| *s as u64));
        let arrived = AtomicUsize::new(0);
        let operations = self.copies.max(4);
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (args, arrived, case) = (args.clone(), &arrived, &*self);
                scope.spawn(move || {
                    let mut own = args;
                    let mut scratch = vec![0u64; case.scratch / 8 + 16];
                    let scratch = (scratch.as_mut_ptr() as u64).next_multiple_of(64) as *mut u8;
                    let share = |t: usize| case.instances * t as i64 / threads as i64;
                    let base = own[case.rotated];
                    for o in 0..operations {
                        let copy = o % case.copies;
                        own[case.rotated] = base + (copy * case.copy_bytes) as u64;
                        // SAFETY: the arguments are those the kernel's text declares, as large as
                        // it says, and outlive the call; scratch is the thread's own.
                        unsafe {
                            function(own.as_ptr(), share(thread), share(thread + 1), scratch)
                        };
                        arrived.fetch_add(1, Ordering::AcqRel);
                        while arrived.load(Ordering::Acquire) < (o + 1) * threads {
                            std::hint::spin_loop();
                        }
                    }
                });
            }
        });
        begin.elapsed().as_secs_f64() / operations as f64
    }

    fn median(&mut self, threads: usize) -> f64 {
        self.seconds(threads);
        let mut all: Vec<f64> = (0..RUNS).map(|_| self.seconds(threads)).collect();
        all.sort_by(f64::total_cmp);
        all[RUNS / 2]
    }
}

/// Bytes per second of a plain reader: eight streams a thread over the working set.
fn read_limit(threads: usize) -> f64 {
    let data = fill(WORKING_SET, 3);
    let mut best: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            std::thread::scope(|scope| {
                for part in data.chunks(data.len().div_ceil(threads)) {
                    scope.spawn(move || std::hint::black_box(read(part)));
                }
            });
            WORKING_SET as f64 / begin.elapsed().as_secs_f64()
        })
        .collect();
    best.sort_by(f64::total_cmp);
    best[RUNS / 2]
}

fn read(part: &[u64]) -> u64 {
    let streams: Vec<&[u64]> = part.chunks_exact(part.len() / 8).take(8).collect();
    let mut sums = [0u64; 8];
    for i in (0..streams[0].len() / 8 * 8).step_by(8) {
        for (sum, stream) in sums.iter_mut().zip(&streams) {
            *sum = stream[i..i + 8].iter().fold(*sum, |s, v| s ^ v);
        }
    }
    sums.iter().fold(0, |s, v| s ^ v)
}

fn gemv(threads: usize, limit: f64) {
    let kernel = read_kernel("int4_gemv.kernel");
    for n in [1, 4] {
        let mut case = Case::new(&kernel, &[("n", n)], "w", &[], 88);
        let rate = case.copy_bytes as f64 / case.median(threads);
        println!(
            "int4 gemv, {n} rows: {:.1} GB/s, {:.0} % of the reader",
            rate / 1e9,
            100.0 * rate / limit
        );
    }
}

/// Work list, and row of each slot: 512 tokens, 6 of 64 experts each.
fn routing(tile: i32) -> (Vec<i32>, Vec<i32>) {
    let mut of_expert: Vec<Vec<i32>> = vec![vec![]; 64];
    let mut state = 12345u64;
    for token in 0..512 {
        let mut chosen: Vec<usize> = vec![];
        while chosen.len() < 6 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let e = (state >> 33) as usize % 64;
            if !chosen.contains(&e) {
                chosen.push(e);
                of_expert[e].push(token);
            }
        }
    }
    let (mut work, mut rows) = (vec![0, 0, 0], vec![]);
    for (e, tokens) in of_expert.iter().enumerate() {
        let (first, end) = (rows.len() as i32, (rows.len() + tokens.len()) as i32);
        work.extend((first..end).step_by(tile as usize).flat_map(|m| [e as i32, m, end]));
        rows.extend(tokens);
    }
    work[0] = work.len() as i32 / 3 - 1;
    (work, rows)
}

fn experts(threads: usize, file: &str) {
    let kernel = read_kernel(file);
    let (work, rows) = routing(64);
    let items = i64::from(work[0]);
    let given = [("work", work), ("perm", rows)];
    let mut case = Case::new(&kernel, &[("n", 512)], "w", &given, 22 * items);
    case.copies = 1;
    let seconds = case.median(threads);
    let flops = 2.0 * 3072.0 * 2.0 * 1408.0 * 2048.0;
    println!("{file}: {:.1} ms, {:.2} T operations/s", seconds * 1e3, flops / seconds / 1e12);
}

fn attention(threads: usize) {
    let kernel = read_kernel("absorbed_mla_16.kernel");
    // 4096 tokens of one sequence in 64 pages, the context split between two workers.
    let values = [("n", 1), ("b", 1), ("mp", 64), ("pg", 64), ("parts", 2)];
    let work = vec![2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2048, 0, 0, 0, 0, 2048, 4096, 1];
    let given = [("pages", (0..64).collect()), ("work", work)];
    let mut case = Case::new(&kernel, &values, "c", &given, 2);
    println!("absorbed attention, 16 heads, 4096 tokens: {:.3} ms", case.median(threads) * 1e3);
}

fn main() -> ExitCode {
    let threads = std::env::args().filter_map(|a| a.parse().ok()).next_back().unwrap_or(2);
    if !(1..=MOST_THREADS).contains(&threads) {
        eprintln!("found {threads} threads, expected 1 to {MOST_THREADS}");
        eprintln!("usage: cargo bench -p tests --bench texts -- [THREADS] [NAME]");
        return ExitCode::from(2);
    }
    let isa = runtime::isa::supported();
    let limit = read_limit(threads);
    println!("{threads} threads, {}, reader {:.1} GB/s", isa[0], limit / 1e9);
    let chosen = std::env::args().skip(1).find(|a| a.parse::<usize>().is_err() && a != "--bench");
    let wanted = |file: &str| chosen.as_ref().is_none_or(|c| file.contains(c.as_str()));
    if wanted("absorbed_mla_16.kernel") {
        attention(threads);
    }
    for file in ["grouped_experts.kernel", "grouped_experts_int8.kernel"] {
        if wanted(file) {
            experts(threads, file);
        }
    }
    if wanted("int4_gemv.kernel") {
        gemv(threads, limit);
    }
    ExitCode::SUCCESS
}
