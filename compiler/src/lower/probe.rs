//! Kernels that measure the machine: how fast memory is read, and how fast tiles are multiplied.

use crate::lower::code::Kernels;
use crate::lower::contraction::weight_packing;
use crate::lower::error::LowerError;
use crate::lower::plan::{Lowered, SYMBOLS, kernel_row};
use crate::lower::precision::Operand;
use artifact::plan::{Entry, PLAN_VERSION, Place, Plan, Probe, Tensor};
use artifact::size::SizeExpr;
use ir::dtype::DType;
use ir::kernel::builder::{At, KernelBuilder, packed, tensor};
use ir::kernel::{LoopHints, Role, TileType};

/// Instances of the reading probe: together they pass over more than any cache holds.
const READ_PARTS: i64 = 256;
/// Places from which an instance reads at once: one stream does not fill the memory.
const READ_STREAMS: u32 = 8;
/// Words of a stream; not a power of two, or all streams would meet in the same cache lines.
const READ_WORDS: i64 = (1 << 15) + READ_TILE as i64;
/// Words that an instance reads of each stream in turn.
const READ_TILE: u32 = 64;
/// Instances of the multiplying probe.
const PRODUCTS: i64 = 64;
/// Times that an instance repeats its product.
const REPEATS: i64 = 64;
/// Rows, columns and depth of the product: its operands stay in the second-level cache.
const PRODUCT: [u32; 3] = [96, 64, 512];

/// Nothing but probes, whose products take operands of `dtype`: what measures a machine without a
/// model.
///
/// Errors: E0284.
pub fn alone(dtype: DType) -> Result<Lowered, LowerError> {
    let mut kernels = Kernels::default();
    let probes = probes_of(&mut kernels, dtype)?;
    let logits = Tensor {
        name: "logits".into(),
        dtype: "f32".into(),
        dims: vec![],
        bytes: SizeExpr::constant(0),
    };
    let name = "forward".into();
    let plan = Plan {
        version: PLAN_VERSION,
        symbols: SYMBOLS.iter().map(ToString::to_string).collect(),
        places: vec![Place { name: "cpu".into(), kind: "cpu".into() }],
        kernels: kernels.all().iter().map(kernel_row).collect(),
        weights: vec![],
        states: vec![],
        entries: vec![Entry { name, inputs: vec![], outputs: vec![logits], buckets: vec![] }],
        probes,
    };
    let (kernels, packed, certificates) = (kernels.all().to_vec(), vec![], vec![]);
    Ok(Lowered { kernels, plan, packed, called: vec![], certificates })
}

/// The probes, their kernels among the others.
///
/// Errors: E0284.
pub fn probes(kernels: &mut Kernels) -> Result<Vec<Probe>, LowerError> {
    probes_of(kernels, DType::BF16)
}

fn probes_of(kernels: &mut Kernels, dtype: DType) -> Result<Vec<Probe>, LowerError> {
    let streams = READ_PARTS as u64 * u64::from(READ_STREAMS);
    let read = Probe {
        name: "read".into(),
        kernel: kernels.intern(read())? as u32,
        bytes: streams * READ_WORDS as u64 * 4,
        flops: 0,
        instances: READ_PARTS as u64,
        out_bytes: streams * u64::from(READ_TILE) * 4,
    };
    let [m, n, k] = PRODUCT.map(u64::from);
    let flops = Probe {
        name: "flops".into(),
        kernel: kernels.intern(flops(dtype))? as u32,
        bytes: n * k * u64::from(dtype.bits()) / 8,
        flops: 2 * m * n * k * (PRODUCTS * REPEATS) as u64,
        instances: PRODUCTS as u64,
        out_bytes: PRODUCTS as u64 * m * n * 4,
    };
    Ok(vec![read, flops])
}

/// Takes the greatest of each part's words, so that all are read, from several places at once.
fn read() -> KernelBuilder {
    let mut b = KernelBuilder::new("probe_read", "probe_read");
    let streams = i64::from(READ_STREAMS);
    let dims = [READ_PARTS.into(), streams.into(), READ_WORDS.into()];
    let x = b.param("x", Role::In, tensor(DType::I32, &dims));
    let dims = [READ_PARTS.into(), streams.into(), i64::from(READ_TILE).into()];
    let y = b.param("y", Role::Out, tensor(DType::I32, &dims));
    let part = b.grid_range("part", READ_PARTS, 1);
    let zero = b.splat(0.0, TileType::new(DType::I32, &[READ_STREAMS, READ_TILE]));
    let carry = [("most", zero)];
    let hints = LoopHints::default();
    let most = b.for_loop(0, READ_WORDS, READ_TILE, &carry, hints, |b, at, most| {
        let xt = b.load(x, &[At::one(part), At::tile(0, READ_STREAMS), At::tile(at, READ_TILE)]);
        vec![b.map("max(a, b)", &[("a", most[0]), ("b", xt)])]
    });
    b.store(most[0], y, &[At::one(part), At::tile(0, READ_STREAMS), At::tile(0, READ_TILE)]);
    b
}

/// Multiplies the same tiles again and again.
fn flops(dtype: DType) -> KernelBuilder {
    let mut b = KernelBuilder::new("probe_flops", "probe_flops");
    let [m, n, k] = PRODUCT;
    let dims = [1.into(), i64::from(n).into(), i64::from(k).into()];
    let packing = weight_packing(dtype.into(), Operand::F32);
    let w = b.param("w", Role::In, packed(dtype, &dims, packing));
    let dims = [PRODUCTS.into(), i64::from(m).into(), i64::from(n).into()];
    let y = b.param("y", Role::Out, tensor(DType::F32, &dims));
    let i = b.grid_range("i", PRODUCTS, 1);
    let left = b.alloc(TileType::new(dtype, &[m, k]));
    let ones = b.splat(1.0, TileType::new(dtype, &[m, k]));
    let whole = [At::tile(0, m), At::tile(0, k)];
    b.store(ones, left, &whole);
    let zero = b.splat(0.0, TileType::new(DType::F32, &[m, n]));
    let carry = [("sum", zero)];
    let sum = b.for_loop(0, REPEATS, 1, &carry, LoopHints::default(), |b, _, sum| {
        let xt = b.load(left, &whole);
        let wt = b.load_keep(w, &[At::one(0), At::tile(0, n), At::tile(0, k)]);
        vec![b.mma(sum[0], xt, wt)]
    });
    b.store(sum[0], y, &[At::one(i), At::tile(0, m), At::tile(0, n)]);
    b
}
