//! Random kernels over all operations, natively and by the interpreter.

use ir::dtype::DType;
use ir::kernel::builder::{At, KernelBuilder, tensor};
use ir::kernel::{Fold, Kernel, LoopHints, ParamId, Role, TileType, ValueId, verify};
use proptest::prelude::*;
use tests::kernel::{Case, Noise};

/// Makes a kernel from noise: a pool of tiles grows by operations on its members.
struct Maker {
    b: KernelBuilder,
    noise: Noise,
    floats: Vec<ValueId>,
    ints: Vec<ValueId>,
    bools: Vec<ValueId>,
    /// A parameter that is read and written, the instance, and its extents.
    inout: (ParamId, ValueId, [u32; 2]),
}

const EXTENTS: [u32; 9] = [1, 2, 3, 4, 5, 7, 8, 13, 20];

impl Maker {
    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.noise.below(from.len() as u64) as usize]
    }

    /// Whether a loop asks for what its next iteration reads.
    fn hints(&mut self) -> LoopHints {
        LoopHints { stages: self.choose(&[0, 2]), ..LoopHints::default() }
    }

    fn float(&mut self) -> ValueId {
        let pool = self.floats.clone();
        // Recent values more often, so that chains grow.
        let at = self.noise.below(pool.len() as u64).max(self.noise.below(pool.len() as u64));
        pool[at as usize]
    }

    fn shape(&self, v: ValueId) -> Vec<u32> {
        self.b.ty(v).shape.clone()
    }

    /// A float of this shape, or of one that it begins with.
    fn like(&mut self, shape: &[u32]) -> ValueId {
        let fits: Vec<ValueId> = self
            .floats
            .iter()
            .copied()
            .filter(|v| shape.starts_with(&self.b.ty(*v).shape))
            .collect();
        self.choose(&fits)
    }

    fn step(&mut self) {
        let x = self.float();
        let shape = self.shape(x);
        let rank = shape.len();
        let axis = if rank > 0 { self.noise.below(rank as u64) as u32 } else { 0 };
        match self.noise.below(20) {
            0..=3 => self.map(x, &shape),
            4 if rank > 0 => {
                let fold = self.choose(&[Fold::Add, Fold::Max, Fold::Min]);
                let r = self.b.reduce(fold, axis, x);
                self.floats.push(r);
            }
            5 if rank > 0 => {
                let fold = self.choose(&[Fold::Add, Fold::Max, Fold::Min]);
                let r = self.b.scan(fold, axis, x);
                let r = self.b.map("a * 0.25", &[("a", r)]);
                self.floats.push(r);
            }
            6 if rank > 1 => {
                let mut order: Vec<u32> = (0..rank as u32).collect();
                order.rotate_left(1 + self.noise.below(rank as u64 - 1) as usize);
                let r = self.b.transpose(x, &order);
                self.floats.push(r);
            }
            7 if rank > 0 => self.slice(x, &shape),
            8 if rank > 0 && rank < 3 => {
                let extent = self.choose(&[1, 2, 3, 5]);
                let at = self.noise.below(rank as u64 + 1) as u32;
                let r = self.b.broadcast(x, at, extent);
                self.floats.push(r);
            }
            9 if rank > 0 => {
                let r = self.b.concat(&[x, x], axis);
                self.floats.push(r);
            }
            10 if rank > 0 => self.folded(x, &shape, axis),
            11 => self.product(),
            12 if rank > 0 => self.ordered(x, &shape),
            13 if rank > 0 => self.rounded(x),
            14 => self.looped(x, &shape),
            15 => self.choice(x, &shape),
            16 if rank > 0 => self.stashed(x, &shape),
            17 => self.accumulated(),
            18 | 19 => self.memory(),
            _ => self.map(x, &shape),
        }
    }

    /// Through scratch, row by row in a loop.
    fn stashed(&mut self, x: ValueId, shape: &[u32]) {
        let ty = self.b.ty(x).clone();
        let buffer = self.b.alloc(ty);
        let whole: Vec<At> = shape.iter().map(|e| At::tile(0, *e)).collect();
        self.b.store(x, buffer, &whole);
        let rows = i64::from(shape[0]);
        let hints = self.hints();
        self.b.for_loop(0, rows, 1, &[], hints, |b, row, _| {
            let mut at = whole.clone();
            at[0] = At::one(row);
            let old = b.load(buffer, &at);
            let new = b.map("a * 0.5 + 1", &[("a", old)]);
            b.store(new, buffer, &at);
            vec![]
        });
        let r = self.b.load(buffer, &whole);
        self.floats.push(r);
    }

    /// A product added up in a loop, its sum scaled on the way or not.
    fn accumulated(&mut self) {
        let matrices: Vec<ValueId> =
            self.floats.iter().copied().filter(|v| self.shape(*v).len() == 2).collect();
        if matrices.is_empty() {
            return;
        }
        let a = self.choose(&matrices);
        let square = self.b.ty(a).shape[0];
        let acc = self.b.splat(0.5, TileType::new(DType::F32, &[square, square]));
        let scaled = self.noise.below(2) == 0;
        let hints = self.hints();
        let r = self.b.for_loop(0, 3, 1, &[("s", acc)], hints, |b, _, c| {
            let sum = if scaled { b.map("a * 0.125", &[("a", c[0])]) } else { c[0] };
            vec![b.mma(sum, a, a)]
        });
        let r = self.b.map("a / (1 + abs(a) * 0.1)", &[("a", r[0])]);
        self.floats.push(r);
    }

    /// Reads part of a parameter and writes part of it; what was read before is used after.
    fn memory(&mut self) {
        let (param, instance, [h, w]) = self.inout;
        let part = |noise: &mut Noise, extent: u32| {
            let len = 1 + noise.below(u64::from(extent)) as u32;
            (noise.below(u64::from(extent - len) + 1) as i64, len)
        };
        let ((r, rows), (c, cols)) = (part(&mut self.noise, h), part(&mut self.noise, w));
        let at = |r: i64, c: i64| [At::one(instance), At::tile(r, rows), At::tile(c, cols)];
        let before = self.b.load(param, &at(r, c));
        self.floats.push(before);
        let moved = self.b.map("a * 0.5 - 0.25", &[("a", before)]);
        let to_row = self.noise.below(u64::from(h - rows) + 1) as i64;
        let to_col = self.noise.below(u64::from(w - cols) + 1) as i64;
        self.b.store(moved, param, &at(to_row, to_col));
        if self.noise.below(2) == 0 {
            let after = self.b.load(param, &at(r, c));
            self.floats.push(after);
        }
    }

    fn map(&mut self, x: ValueId, shape: &[u32]) {
        let y = self.like(shape);
        let text = self.choose(&[
            "a + b",
            "a * 0.5 - b",
            "max(a, b) * 0.9",
            "exp2(min(a, 1)) - b",
            "select(a < b, a, b) * 0.5",
            "a * sigmoid(b)",
            "tanh(a) + 1",
            "a / (1 + abs(b))",
            "sin(a) * 2",
        ]);
        let r = self.b.map(text, &[("a", x), ("b", y)]);
        self.floats.push(r);
    }

    fn slice(&mut self, x: ValueId, shape: &[u32]) {
        let extents: Vec<u32> =
            shape.iter().map(|e| 1 + self.noise.below(u64::from(*e)) as u32).collect();
        let starts: Vec<u32> = shape
            .iter()
            .zip(&extents)
            .map(|(e, part)| self.noise.below(u64::from(e - part) + 1) as u32)
            .collect();
        let r = self.b.slice(x, &starts, &extents);
        self.floats.push(r);
    }

    /// Splits an axis of even extent, or merges all.
    fn folded(&mut self, x: ValueId, shape: &[u32], axis: u32) {
        let extent = shape[axis as usize];
        let r = if extent.is_multiple_of(2) && shape.len() < 3 {
            self.b.split(x, axis, &[2, extent / 2])
        } else {
            self.b.merge(x, 0, shape.len() as u32)
        };
        self.floats.push(r);
    }

    fn product(&mut self) {
        let matrices: Vec<ValueId> =
            self.floats.iter().copied().filter(|v| self.shape(*v).len() == 2).collect();
        if matrices.is_empty() {
            return;
        }
        let a = self.choose(&matrices);
        let (m, k) = (self.shape(a)[0], self.shape(a)[1]);
        let same: Vec<ValueId> =
            matrices.iter().copied().filter(|v| self.shape(*v)[1] == k).collect();
        let mut b = self.choose(&same);
        if self.noise.below(2) == 0 {
            b = self.b.cast(b, DType::BF16);
        }
        let n = self.b.ty(b).shape[0];
        let acc = self.b.splat(0.25, TileType::new(DType::F32, &[m, n]));
        let r = self.b.mma(acc, a, b);
        // Keep values small, whatever products are made of products.
        let r = self.b.map("a / (1 + abs(a) * 0.1)", &[("a", r)]);
        self.floats.push(r);
    }

    fn ordered(&mut self, x: ValueId, shape: &[u32]) {
        let last = shape[shape.len() - 1];
        let k = 1 + self.noise.below(u64::from(last)) as u32;
        // Far apart from each other, lest rounding decide their order.
        let coarse = self.b.map("floor(a * 4 + 0.37)", &[("a", x)]);
        let mask = self.b.map("a < 6", &[("a", coarse)]);
        let at = self.b.topk(coarse, Some(mask), k);
        let best = self.b.pick(x, at);
        let back = self.b.place(best, at, last);
        self.ints.push(at);
        self.bools.push(mask);
        self.floats.extend([best, back]);
    }

    fn rounded(&mut self, x: ValueId) {
        let to = self.choose(&[DType::BF16, DType::F16, DType::F32]);
        let narrow = self.b.cast(x, to);
        let wide = self.b.cast(narrow, DType::F32);
        self.floats.push(wide);
    }

    fn looped(&mut self, x: ValueId, shape: &[u32]) {
        let y = self.like(shape);
        let full = self.b.map("a + b", &[("a", x), ("b", y)]);
        let count = self.noise.below(4) as i64;
        let swap = self.noise.below(2) == 0;
        let carry = [("p", x), ("q", full)];
        let hints = self.hints();
        let r = self.b.for_loop(0, count, 1, &carry, hints, |b, k, c| {
            let next =
                b.map("a * 0.5 + b * 0.25 + float(k)", &[("a", c[0]), ("b", c[1]), ("k", k)]);
            if swap { vec![c[1], next] } else { vec![next, c[0]] }
        });
        self.floats.extend(r);
    }

    fn choice(&mut self, x: ValueId, shape: &[u32]) {
        let y = self.like(shape);
        let scalars: Vec<ValueId> =
            self.floats.iter().copied().filter(|v| self.shape(*v).is_empty()).collect();
        let of = self.choose(&scalars);
        let cond = self.b.map("floor(a * 3 + 0.37) > 0", &[("a", of)]);
        let r = self.b.if_else(
            cond,
            |b| vec![b.map("a + b", &[("a", x), ("b", y)])],
            |b| vec![b.map("a - 1", &[("a", x)])],
        );
        self.floats.extend(r);
    }
}

/// A kernel of `steps` operations; the last of its tiles are stored, some in part, so that rows of
/// what they are made from are seen by nobody.
fn kernel(seed: u64, steps: usize) -> Kernel {
    let mut noise = Noise(seed);
    let mut b = KernelBuilder::new("random", "row");
    let n = b.symbol("n", 1, 9);
    let extent = |noise: &mut Noise| EXTENTS[noise.below(EXTENTS.len() as u64) as usize];
    let (h, w) = (extent(&mut noise), extent(&mut noise));
    let dims = [n.clone(), i64::from(h).into(), i64::from(w).into()];
    let x = b.param("x", Role::In, tensor(DType::F32, &dims));
    let y = b.param("y", Role::In, tensor(DType::BF16, &dims));
    let z = b.param("z", Role::InOut, tensor(DType::F32, &dims));
    let i = b.grid_range("i", n.clone(), 1);
    let bound = 1 + noise.below(u64::from(h) + 2) as i64;
    let a = b.load(x, &[At::one(i), At::tile(0, h).bound(bound.min(i64::from(h))), At::tile(0, w)]);
    let c = b.load(y, &[At::one(i), At::tile(0, h), At::tile(0, w)]);
    let c = b.cast(c, DType::F32);
    let s = b.load(x, &[At::one(i), At::one(0), At::one(0)]);
    let (floats, inout) = (vec![s, a, c], (z, i, [h, w]));
    let mut maker = Maker { b, noise, floats, ints: vec![], bools: vec![], inout };
    for _ in 0..steps {
        maker.step();
    }
    let (mut b, mut noise) = (maker.b, maker.noise);
    let outputs = maker.floats.iter().rev().take(5).copied().chain(maker.ints.last().copied());
    for (o, value) in outputs.collect::<Vec<_>>().into_iter().enumerate() {
        let ty = b.ty(value).clone();
        let mut dims = vec![n.clone()];
        dims.extend(ty.shape.iter().map(|e| ir::dim::Dim::from(i64::from(*e))));
        let out = b.param(&format!("o{o}"), Role::Out, tensor(ty.encoding.code, &dims));
        let mut at = vec![At::one(i)];
        at.extend(ty.shape.iter().map(|e| At::tile(0, *e)));
        if let (Some(rows), 1) = (ty.shape.first(), o % 2) {
            at[1] = At::tile(0, *rows).bound(noise.below(u64::from(*rows) + 1) as i64);
        }
        b.store(value, out, &at);
    }
    let kernel = b.finish().unwrap_or_else(|e| panic!("{e:#?}"));
    verify::verify(&kernel).unwrap_or_else(|e| panic!("{kernel}\n{e:#?}"));
    kernel
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn random_kernels_mean_what_they_say(seed in any::<u64>(), steps in 1usize..24) {
        let kernel = kernel(seed, steps);
        Case::of(kernel, &[3], seed).tolerance(2e-3).check_in_turn(seed as usize);
    }
}
