//! Products: their programs, operands in memory, and plain references.

use super::build::Build;
use super::data::{Fenced, Random, code};
use super::{Image, Kernel, Scratch};
use ir::dtype::{DType, Encoding, Scale};
use ir::loops::{Elem, Inst, Left, Mma, Program, Reg, Right, Scales, Stmt, Stride, Strided};
use target_llvm::Llvm;

/// How the right operand lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lie {
    /// `[n/lanes, k/group, n:lanes, k:group]`, with blocks of scales.
    Blocked { lanes: u32, group: u32, scale: Option<Scale> },
    /// Rows of k.
    Rows,
    /// Rows of n, `k` apart by this many bytes, known or not.
    Columns { known: bool },
    /// Every distance a register.
    Scattered,
}

/// A product to test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    /// Valid extents, if not all are.
    pub valid: [Option<i32>; 3],
    pub left: DType,
    pub right: DType,
    pub lie: Lie,
    /// Whether the left operand's k's are contiguous.
    pub dense: bool,
    /// Whether its bits must not depend on the number of rows.
    pub batch_invariant: bool,
}

impl Case {
    /// A product of whole dense tiles: extents `[m, n, k]`, elements `[left, right]`.
    pub fn of([m, n, k]: [u32; 3], [left, right]: [DType; 2], lie: Lie) -> Case {
        let (valid, dense, batch_invariant) = ([None; 3], true, false);
        Case { m, n, k, valid, left, right, lie, dense, batch_invariant }
    }
}

/// The program: arguments are acc, left, right, scales, then distances and extents.
pub fn program(name: &str, lanes: u32, c: &Case) -> Program {
    let mut b = Build::new(lanes);
    let p: Vec<Reg> = (0..4).map(|i| b.argument(i)).collect();
    let distance = |b: &mut Build, i| Stride::Reg(b.argument(i));
    let bytes = |t: DType| i64::from(t.bits() / 8);
    let (acc_row, left_row) = (distance(&mut b, 4), distance(&mut b, 5));
    let left_col = if c.dense { Stride::Bytes(bytes(c.left)) } else { distance(&mut b, 6) };
    let right = match c.lie {
        Lie::Blocked { lanes, group, scale } => {
            let block_bytes = b.argument(7);
            let scales = scale.map(|s| Scales {
                address: p[3],
                per_row: b.argument(9),
                first_row: b.small(10),
                first_col: b.small(11),
                multiple: 1,
                sums: None,
                rows: s.rows,
                cols: s.cols,
            });
            let encoding = Encoding { code: c.right, scale };
            Right::Blocked { encoding, address: p[2], block_bytes, lanes, group, scales }
        }
        lie => {
            let row = distance(&mut b, 7);
            let col = distance(&mut b, 8);
            let unit = Stride::Bytes(bytes(c.right));
            let at = match lie {
                Lie::Rows => Strided { address: p[2], row, col: unit },
                Lie::Columns { known: true } => {
                    let pitch = Stride::Bytes(i64::from(c.n + 3) * bytes(c.right));
                    Strided { address: p[2], row: unit, col: pitch }
                }
                Lie::Columns { known: false } => Strided { address: p[2], row: unit, col },
                _ => Strided { address: p[2], row, col },
            };
            Right::Strided { encoding: c.right.into(), at }
        }
    };
    let valid: Vec<Option<Reg>> =
        (0..3).map(|i| c.valid[i].map(|_| b.small(12 + i as u32))).collect();
    let mma = Mma {
        m: c.m,
        n: c.n,
        k: c.k,
        m_valid: valid[0],
        n_valid: valid[1],
        k_valid: valid[2],
        acc: Strided { address: p[0], row: acc_row, col: Stride::Bytes(4) },
        left: Left {
            encoding: c.left.into(),
            at: Strided { address: p[1], row: left_row, col: left_col },
            scales: None,
        },
        right,
        ahead: None,
        batch_invariant: c.batch_invariant,
    };
    // Once for each instance, so that a loop stands around the product.
    let (lo, hi) = (b.set(Elem::I64, 1, Inst::Begin), b.set(Elem::I64, 1, Inst::End));
    b.looped((lo, hi, 1), &[], |b, _, _| {
        b.push(Stmt::Mma(Box::new(mma)));
        vec![]
    });
    b.finish(name, 128)
}

/// Operands of a product, and the accumulator as it should become, with what it may be off by.
pub struct Prepared {
    acc: Fenced,
    left: Fenced,
    right: Fenced,
    scales: Fenced,
    args: Vec<u64>,
    want: Vec<f64>,
    slack: Vec<f64>,
}

fn put(bytes: &mut [u8], at: usize, width: u32, code: u32) {
    if width == 4 {
        // Nibbles: `at` counts them.
        let shift = (at % 2 * 4) as u32;
        bytes[at / 2] = bytes[at / 2] & !(15 << shift) | (code << shift) as u8;
    } else {
        let n = width as usize / 8;
        bytes[at * n..(at + 1) * n].copy_from_slice(&code.to_le_bytes()[..n]);
    }
}

impl Prepared {
    /// Random operands, and the sums in f64.
    pub fn new(c: &Case, r: &mut Random) -> Prepared {
        let ext = |i: usize, all: u32| c.valid[i].map_or(all, |v| v.max(0) as u32) as usize;
        let (m, n, k) = (ext(0, c.m), ext(1, c.n), ext(2, c.k));
        // Only what is valid is there at all.
        let pitch = if c.dense { k + 3 } else { 1 };
        let step = if c.dense { 1 } else { m + 1 };
        let last = |rows: usize, a: usize, cols: usize, b: usize| {
            if rows == 0 || cols == 0 { 0 } else { (rows - 1) * a + (cols - 1) * b + 1 }
        };
        let lb = c.left.bits() as usize / 8;
        let mut left = vec![0xff; last(m, pitch, k, step) * lb];
        let mut a = vec![0f64; m * k];
        for i in 0..m {
            for l in 0..k {
                let (code, v) = code(r, c.left);
                put(&mut left, i * pitch + l * step, c.left.bits(), code);
                a[i * k + l] = v.into();
            }
        }
        let (right, scales, b, mut args) = right(c, r, n, k);
        let acc_pitch = c.n as usize + 5;
        let floats = last(m, acc_pitch, n, 1);
        let mut acc = vec![0u8; floats * 4];
        let mut want = vec![0f64; floats];
        for (i, w) in want.iter_mut().enumerate() {
            let v = r.unit();
            put(&mut acc, i, 32, v.to_bits());
            *w = v.into();
        }
        let mut slack = vec![0f64; floats];
        for i in 0..m {
            for j in 0..n {
                let at = i * acc_pitch + j;
                let mut size = want[at].abs();
                for l in 0..k {
                    let p = a[i * k + l] * b[j * k + l];
                    want[at] += p;
                    size += p.abs();
                }
                slack[at] = size * 4e-7 * (k as f64).sqrt().max(4.0);
            }
        }
        let [acc, left, right, scales] = [acc, left, right, scales].map(|v| Fenced::new(&v));
        let mut all: Vec<u64> =
            [&acc, &left, &right, &scales].iter().map(|f| f.pointer() as u64).collect();
        all.extend([acc_pitch * 4, pitch * lb, step * lb].map(|v| v as u64));
        all.append(&mut args);
        all.extend(c.valid.map(|v| v.unwrap_or(0) as i64 as u64));
        Prepared { acc, left, right, scales, args: all, want, slack }
    }
}

/// Memory of the right operand and its scales, its values, and arguments 7 to 11.
fn right(c: &Case, r: &mut Random, n: usize, k: usize) -> (Vec<u8>, Vec<u8>, Vec<f64>, Vec<u64>) {
    let mut b = vec![0f64; n * k];
    let width = c.right.bits();
    let size = width as usize / 8;
    let Lie::Blocked { lanes, group, scale } = c.lie else {
        let (row, step) = match c.lie {
            Lie::Rows => (k + 2, 1),
            Lie::Columns { .. } => (1, c.n as usize + 3),
            _ => (3, 3 * n + 1),
        };
        let end = if n * k == 0 { 0 } else { (n - 1) * row + (k - 1) * step + 1 };
        let mut bytes = vec![0xff; end * size];
        for j in 0..n {
            for l in 0..k {
                let (code, v) = code(r, c.right);
                put(&mut bytes, j * row + l * step, width, code);
                b[j * k + l] = v.into();
            }
        }
        return (bytes, vec![], b, vec![(row * size) as u64, (step * size) as u64, 0, 0, 0]);
    };
    let (lanes, group) = (lanes as usize, group as usize);
    let block = k.div_ceil(group) * lanes * group;
    // Real weights go on behind the last valid k of a group; NaN must not count.
    let mut bytes = vec![0u8; (n.div_ceil(lanes) * block * width as usize).div_ceil(8)];
    for j in 0..n.next_multiple_of(lanes) {
        for l in 0..k.next_multiple_of(group) {
            let at = j / lanes * block + l / group * lanes * group + j % lanes * group + l % group;
            let (code, v) = code(r, c.right);
            let inside = j < n && l < k;
            let nan = if c.right == DType::BF16 && c.valid[2].is_some() { 0x7fc0 } else { 0 };
            put(&mut bytes, at, width, if inside { code } else { nan });
            if inside {
                b[j * k + l] = v.into();
            }
        }
    }
    let block_bytes = (block * width as usize / 8) as u64;
    let Some(s) = scale else { return (bytes, vec![], b, vec![block_bytes, 0, 0, 0, 0]) };
    let (rows, cols) = (s.rows as usize, s.cols as usize);
    let (first_row, first_col) = (lanes * 3, group * (cols / group / 2));
    let per_row = (first_col + k).div_ceil(cols) + 1;
    let mut grid =
        vec![0u8; ((first_row + n).div_ceil(rows) * per_row) * s.dtype.bits() as usize / 8];
    let count = grid.len() * 8 / s.dtype.bits() as usize;
    let mut scale = |i| {
        let (code, v) = code(r, s.dtype);
        put(&mut grid, i, s.dtype.bits(), code);
        f64::from(v)
    };
    let values: Vec<f64> = (0..count).map(&mut scale).collect();
    for j in 0..n {
        for l in 0..k {
            b[j * k + l] *= values[(first_row + j) / rows * per_row + (first_col + l) / cols];
        }
    }
    let args = [per_row, first_row, first_col].map(|v| v as u64);
    (bytes, grid, b, [vec![block_bytes, 0], args.to_vec()].concat())
}

/// Programs of cases, and for each case its program: cases that differ in how much is valid share
/// one.
pub fn programs(lanes: u32, cases: &[Case]) -> (Vec<Program>, Vec<usize>) {
    let form = |c: &Case| Case { valid: c.valid.map(|v| v.map(|_| 0)), ..*c };
    let mut forms: Vec<Case> = Vec::new();
    for f in cases.iter().map(form) {
        if !forms.contains(&f) {
            forms.push(f);
        }
    }
    let made = forms.iter().enumerate().map(|(i, c)| program(&format!("p{i}"), lanes, c));
    let of = |c| forms.iter().position(|f| *f == form(c)).unwrap();
    (made.collect(), cases.iter().map(of).collect())
}

/// Compiles the cases into one object, runs each, compares with the reference.
pub fn check(level: &str, lanes: u32, cases: &[Case]) {
    let (programs, of) = programs(lanes, cases);
    let object = Llvm::x86_64().compile_programs(&programs, level).unwrap();
    let image = Image::load(&object.bytes);
    let mut r = Random(7);
    for (c, i) in cases.iter().zip(of) {
        let (name, bytes) = &object.kernels[i];
        let p = Prepared::new(c, &mut r);
        p.run(level, c, image.kernel(name), *bytes);
    }
}

impl Prepared {
    fn run(&self, level: &str, c: &Case, kernel: Kernel, scratch: u64) {
        let read = || [&self.left, &self.right, &self.scales].map(|f| f.bytes().to_vec());
        let before = read();
        let mut scratch = Scratch::new(scratch);
        // SAFETY: the arguments are what the program's body says.
        unsafe { kernel(self.args.as_ptr(), 0, 1, scratch.pointer()) };
        assert!(scratch.intact(), "{level} {c:?} wrote behind its scratch");
        assert_eq!(before, read());
        self.compare(level, c, self.acc.bytes());
    }

    /// The accumulator after a kernel for this product, or for one of fewer rows of it.
    pub fn accumulated(&self, kernel: Kernel, scratch: u64, rows: u32) -> Vec<u8> {
        let acc = Fenced::new(self.acc.bytes());
        let mut args = self.args.clone();
        args[0] = acc.pointer() as u64;
        args[12] = rows.into();
        let mut scratch = Scratch::new(scratch);
        // SAFETY: the arguments are what the program's body says.
        unsafe { kernel(args.as_ptr(), 0, 1, scratch.pointer()) };
        acc.bytes().to_vec()
    }

    /// Compares an accumulator with what it should be.
    pub fn compare(&self, level: &str, c: &Case, acc: &[u8]) {
        for (i, (want, slack)) in self.want.iter().zip(&self.slack).enumerate() {
            let b: [u8; 4] = acc[i * 4..i * 4 + 4].try_into().unwrap();
            let got = f32::from_le_bytes(b);
            let exact = *slack == 0.0 && f64::from(got) == *want;
            assert!(
                exact || (f64::from(got) - want).abs() <= *slack,
                "{level} {c:?}: element {i} is {got}, expected {want} within {slack}"
            );
        }
    }

    /// Memory of the accumulator and the operands, and the arguments that follow their addresses.
    pub fn memory(&self) -> ([&[u8]; 4], &[u64]) {
        let [a, l, r, s] = [&self.acc, &self.left, &self.right, &self.scales];
        ([a.bytes(), l.bytes(), r.bytes(), s.bytes()], &self.args[4..])
    }
}
