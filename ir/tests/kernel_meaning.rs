//! The worked kernels of `tests/files/kernel`, at small shapes, against plain loops.

use ir::kernel::interp::{Buffer, Real, run};
use ir::kernel::layout::{Layout, for_each_position};
use ir::kernel::{Kernel, Role, parse};
use std::path::Path;

fn load(name: &str) -> Kernel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/kernel");
    let source = std::fs::read_to_string(folder.join(name)).expect("a kernel's text");
    parse::kernel(&source).expect("a kernel")
}

/// Numbers without structure.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A multiple of 1/64 from -1 to 1: every float type of eight mantissa bits has it.
    fn real(&mut self) -> f64 {
        self.below(129) as f64 / 64.0 - 1.0
    }
}

/// A parameter with its memory.
struct Tensor {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Tensor {
    fn get(&self, position: &[u64]) -> f64 {
        self.layout.read(&self.bytes, position)
    }

    fn fill(&mut self, mut code: impl FnMut(&[u64]) -> f64) {
        let dims = self.layout.dims().to_vec();
        for_each_position(&dims, &mut |p| self.layout.write_code(&mut self.bytes, p, code(p)));
    }

    fn fill_scales(&mut self, noise: &mut Noise) {
        let dims = self.layout.dims().to_vec();
        for_each_position(&dims, &mut |p| {
            let scale = (noise.below(63) + 1) as f64 / 64.0;
            self.layout.write_scale(&mut self.bytes, p, scale);
        });
    }
}

fn tensors(kernel: &Kernel, symbols: &[i64]) -> Vec<Tensor> {
    let value_of =
        |name: &str| kernel.symbols.keys().position(|s| &**s == name).map(|at| symbols[at]);
    let one = |p: &ir::kernel::Param| {
        let layout = p.ty.layout(&value_of).expect("a layout");
        let bytes = vec![0; layout.size_bytes() as usize];
        Tensor { layout, bytes }
    };
    kernel.params.iter().map(one).collect()
}

fn execute<T: Real>(kernel: &Kernel, tensors: &mut [Tensor], symbols: &[i64]) {
    let buffers = tensors.iter_mut().zip(&kernel.params).map(|(t, p)| match p.role {
        Role::In => Buffer::Read(&t.bytes),
        Role::Prefetch => Buffer::Absent,
        Role::Out | Role::InOut => Buffer::Write(&mut t.bytes),
    });
    run::<T>(kernel, buffers.collect(), symbols).expect("the kernel runs");
}

fn close(found: f64, expected: f64, tolerance: f64) {
    let far = (found - expected).abs() > tolerance * expected.abs().max(1.0);
    assert!(!far && found.is_finite(), "{found} is not {expected}");
}

fn gemv<T: Real>(n: i64, tolerance: f64) {
    let kernel = load("int4_gemv_small.kernel");
    let mut t = tensors(&kernel, &[n]);
    let mut noise = Noise(n as u64);
    t[0].fill(|_| noise.below(255) as f64 - 127.0);
    t[1].fill(|_| noise.below(16) as f64 - 8.0);
    t[0].fill_scales(&mut noise);
    t[1].fill_scales(&mut noise);
    execute::<T>(&kernel, &mut t, &[n]);
    for_each_position(&[n as u64, 20], &mut |p| {
        let (i, j) = (p[0], p[1]);
        let sum: f64 = (0..96).map(|k| t[0].get(&[i, k]) * t[1].get(&[j, k])).sum();
        close(t[3].get(p), sum, tolerance);
    });
}

#[test]
fn int4_gemv_is_a_product_of_decoded_values() {
    for n in 1..=4 {
        gemv::<f64>(n, 1e-7);
        gemv::<f32>(n, 1e-5);
    }
}

/// Assigns every (token, choice) to an expert, in `perm` sorted by expert, and cuts the list into
/// work items of four rows. Returns the expert of each place in `perm`.
fn route(tokens: u64, t: &mut [Tensor], noise: &mut Noise) -> Vec<u64> {
    let mut pairs: Vec<(u64, u64)> = (0..6 * tokens).map(|i| (noise.below(3), i / 6)).collect();
    pairs.sort_unstable();
    t[1].fill(|p| pairs[p[0] as usize].1 as f64);
    let mut work = Vec::new();
    for expert in 0..3 {
        let of = |e: u64| pairs.iter().filter(|p| p.0 < e).count() as u64;
        let (first, end) = (of(expert), of(expert + 1));
        work.extend((first..end).step_by(4).map(|m| [expert, m, end]));
    }
    let count = work.len() as f64;
    t[4].fill(|p| match (p[0] as usize, p[1] as usize) {
        (0, 0) => count,
        (0, _) => 0.0,
        (row, field) => work.get(row - 1).map_or(0.0, |w| w[field] as f64),
    });
    pairs.iter().map(|p| p.0).collect()
}

fn experts<T: Real>(file: &str, tolerance: f64) {
    let (kernel, n) = (load(file), 8);
    let mut t = tensors(&kernel, &[n]);
    let mut noise = Noise(7);
    let coded = t[0].layout.encoding().scale.is_some();
    for at in [0, 2] {
        let mut code =
            |_: &[u64]| if coded { noise.below(255) as f64 - 127.0 } else { noise.real() };
        t[at].fill(&mut code);
        t[at].fill_scales(&mut noise);
    }
    let expert = route(n as u64, &mut t, &mut noise);
    if coded {
        // Products of codes are large: bring gates to where the sigmoid bends.
        for at in [0, 2] {
            let dims = t[at].layout.dims().to_vec();
            let Tensor { layout, bytes } = &mut t[at];
            for_each_position(&dims, &mut |p| layout.write_scale(bytes, p, 1.0 / 256.0));
        }
    }
    execute::<T>(&kernel, &mut t, &[n]);
    for_each_position(&[48, 10], &mut |p| {
        let (row, j) = (p[0], p[1]);
        let token = t[1].get(&[row]) as u64;
        let dot = |half: u64| -> f64 {
            let weight = |k| t[2].get(&[expert[row as usize], half, j, k]);
            (0..20).map(|k| t[0].get(&[token, k]) * weight(k)).sum()
        };
        let (gate, up) = (dot(0), dot(1));
        close(t[3].get(p), gate * up / (1.0 + (-gate).exp()), tolerance);
    });
}

#[test]
fn grouped_experts_are_each_tokens_own_products() {
    // The result is bf16, of eight bits.
    for file in ["grouped_experts_small.kernel", "grouped_experts_int8_small.kernel"] {
        experts::<f64>(file, 1.0 / 256.0);
        experts::<f32>(file, 1.0 / 250.0);
    }
}

fn attention<T: Real>(tolerance: f64) {
    let kernel = load("absorbed_mla_small.kernel");
    let (b, mp, n, parts, pg) = (2, 5, 3, 6, 9);
    let symbols = [b, mp, n, parts, pg];
    let mut t = tensors(&kernel, &symbols);
    let mut noise = Noise(3);
    t[0].fill(|_| noise.real());
    t[1].fill(|_| noise.real());
    // Pages 0 to 8 without repetition, in no order.
    t[2].fill(|p| ((p[0] * 5 + p[1]) * 4 % 9) as f64);
    // Rows 0 and 1 are of sequence 0, at positions 4 and 5; row 2 of sequence 1, at 8.
    let rows = [(0, 0, 5), (1, 0, 6), (2, 1, 9)];
    let mut work = Vec::new();
    for (part, (row, seq, end)) in
        rows.iter().flat_map(|r| [(0, r), (1, r)]).map(|(half, r)| (2 * r.0 + half, *r))
    {
        let (t0, t1) = if part % 2 == 0 { (0, 4) } else { (4, end) };
        work.extend([0, 2].map(|h| [row, seq, h, t0, t1, part]));
    }
    let count = work.len() as f64;
    t[5].fill(|p| match (p[0] as usize, p[1] as usize) {
        (0, 0) => count,
        (0, _) => 0.0,
        (row, field) => work.get(row - 1).map_or(0.0, |w: &[u64; 6]| w[field] as f64),
    });
    execute::<T>(&kernel, &mut t, &symbols);
    for (row, seq, end) in rows {
        for h in 0..4 {
            let key = |at: u64, d: u64| t[1].get(&[t[2].get(&[seq, at / 4]) as u64, at % 4, d]);
            let score = |at| -> f64 {
                (0..10).map(|d| t[0].get(&[row, h, d]) * key(at, d)).sum::<f64>() * 0.456
            };
            let weight = |at| score(at).exp2();
            let total: f64 = (0..end).map(weight).sum();
            let part = |half: u64| t[4].get(&[2 * row + half, h]).exp2();
            close(part(0) + part(1), total, tolerance);
            for d in 0..6 {
                let sum: f64 = (0..end).map(|at| weight(at) * key(at, d)).sum();
                let merged: f64 =
                    (0..2).map(|half| part(half) * t[3].get(&[2 * row + half, h, d])).sum();
                close(merged / total, sum / total, tolerance);
            }
        }
    }
}

#[test]
fn parts_of_a_context_merge_to_the_whole_attention() {
    // Probabilities are multiplied as bf16.
    attention::<f64>(1.0 / 128.0);
    attention::<f32>(1.0 / 128.0);
}
