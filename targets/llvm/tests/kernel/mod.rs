//! Kernels in text form, natively at every level that runs here and by the interpreter.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use crate::native::data::{Fenced, Random};
use crate::native::{Image, Scratch, levels};
use ir::dtype::{Class, DType};
use ir::kernel::code;
use ir::kernel::interp::{Buffer, run};
use ir::kernel::layout::Layout;
use ir::kernel::{GridAxis, Kernel, ParamType, Role, parse};
use ir::target::Target;
use std::collections::HashMap;
use target_llvm::Llvm;

/// A parameter with its memory.
struct Tensor {
    layout: Layout,
    bytes: Vec<u8>,
}

/// Every position within extents.
fn positions(dims: &[u64], mut visit: impl FnMut(&[u64])) {
    for index in 0..dims.iter().product() {
        let mut rest: u64 = index;
        let mut at: Vec<u64> = dims.iter().rev().map(|d| (rest % d, rest /= d).0).collect();
        at.reverse();
        visit(&at);
    }
}

impl Tensor {
    fn fill(&mut self, mut value: impl FnMut(&[u64]) -> f64) {
        let dims = self.layout.dims().to_vec();
        positions(&dims, |p| self.layout.write_code(&mut self.bytes, p, value(p)));
    }

    fn fill_random(&mut self, r: &mut Random) {
        let encoding = self.layout.encoding();
        self.fill(|_| match encoding.code {
            DType::I4 => r.below(16) as f64 - 8.0,
            DType::I8 => r.below(255) as f64 - 127.0,
            DType::U8 => r.below(256) as f64,
            DType::I32 => r.below(19) as f64 - 9.0,
            DType::Bool => r.below(2) as f64,
            DType::F4E2M1 => r.below(4) as f64 * 0.5,
            DType::E8M0 => 2f64.powi(r.below(9) as i32 - 4),
            _ => f64::from(r.unit()) * 2.0,
        });
        if encoding.scale.is_some() {
            let dims = self.layout.dims().to_vec();
            positions(&dims, |p| {
                let value = 2f64.powi(r.below(5) as i32 - 4);
                self.layout.write_scale(&mut self.bytes, p, value);
            });
        }
        self.fill_sums();
    }

    /// Sums of the codes of each block, where the encoding keeps them.
    fn fill_sums(&mut self) {
        let (layout, mut sums) = (&self.layout, HashMap::new());
        positions(layout.dims(), |p| {
            let number = code::read(&self.bytes, layout.encoding().code, layout.code_bit(p));
            if let Some(at) = layout.sum_byte(p) {
                *sums.entry(at).or_insert(0) += number as i32;
            }
        });
        for (at, sum) in sums {
            self.bytes[at as usize..][..4].copy_from_slice(&i32::to_le_bytes(sum));
        }
    }
}

/// A kernel with its memory, ready to run.
pub struct Case {
    pub kernel: Kernel,
    symbols: Vec<i64>,
    tensors: Vec<Tensor>,
    tolerance: f64,
}

impl Case {
    /// Random memory for a kernel.
    pub fn new(text: &str, symbols: &[i64]) -> Case {
        let kernel = parse::kernel(text).unwrap_or_else(|e| panic!("{text}\n{e:#?}"));
        let value_of =
            |name: &str| kernel.symbols.keys().position(|s| &**s == name).map(|at| symbols[at]);
        let mut r = Random(1);
        let tensors = kernel
            .params
            .iter()
            .map(|p| {
                let layout = p.ty.layout(&value_of).unwrap();
                let bytes = vec![0; layout.size_bytes() as usize];
                let mut tensor = Tensor { layout, bytes };
                if p.role != Role::Prefetch {
                    tensor.fill_random(&mut r);
                }
                tensor
            })
            .collect();
        Case { kernel, symbols: symbols.to_vec(), tensors, tolerance: 1e-5 }
    }

    /// Greatest difference, relative to the larger of 1 and the expected value.
    pub fn tolerance(mut self, tolerance: f64) -> Case {
        self.tolerance = tolerance;
        self
    }

    /// Sets the elements of a parameter.
    pub fn set(mut self, name: &str, value: impl FnMut(&[u64]) -> f64) -> Case {
        let at = self.kernel.params.iter().position(|p| &*p.name == name).unwrap();
        self.tensors[at].fill(value);
        self
    }

    /// Sets a list's tuples.
    pub fn list(self, name: &str, tuples: &[Vec<i32>]) -> Case {
        let tuples = tuples.to_vec();
        self.set(name, |p| match (p[0] as usize, p[1] as usize) {
            (0, 0) => tuples.len() as f64,
            (0, _) => 0.0,
            (row, field) => tuples.get(row - 1).map_or(0.0, |t| f64::from(t[field])),
        })
    }

    fn instances(&self) -> i64 {
        let value_of = |name: &str| {
            self.kernel.symbols.keys().position(|s| &**s == name).map(|at| self.symbols[at])
        };
        let count = |axis: &GridAxis| match axis {
            GridAxis::Range { extent, step, .. } => {
                let step = i64::from(*step);
                (extent.eval(&value_of).unwrap() + step - 1).div_euclid(step)
            }
            GridAxis::List { list, .. } => {
                let tensor = &self.tensors[list.0 as usize];
                tensor.layout.read(&tensor.bytes, &[0, 0]) as i64
            }
        };
        self.kernel.grid.axes.iter().map(count).product()
    }

    /// Contents of every parameter as the interpreter leaves them.
    fn interpreted(&self) -> Vec<Vec<u8>> {
        let mut memory: Vec<Vec<u8>> = self.tensors.iter().map(|t| t.bytes.clone()).collect();
        let buffers = memory.iter_mut().zip(&self.kernel.params).map(|(m, p)| match p.role {
            Role::In => Buffer::Read(m),
            Role::Prefetch => Buffer::Absent,
            Role::Out | Role::InOut => Buffer::Write(m),
        });
        run::<f32>(&self.kernel, buffers.collect(), &self.symbols)
            .unwrap_or_else(|e| panic!("{}: {e}", self.kernel.name));
        memory
    }

    /// The same, of native code at a level.
    fn native(&self, level: &str) -> Vec<Vec<u8>> {
        let object = Llvm::x86_64().compile(&[&self.kernel], level).unwrap();
        let image = Image::load(&object.bytes);
        let memory: Vec<Fenced> = self.tensors.iter().map(|t| Fenced::new(&t.bytes)).collect();
        let mut args: Vec<u64> = memory.iter().map(|m| m.pointer() as u64).collect();
        args.extend(self.symbols.iter().map(|s| *s as u64));
        let mut scratch = Scratch::new(object.kernels[0].1);
        let all = self.instances();
        // In two parts, and one instance too many of what a list may hold.
        let lists = self.kernel.params.iter().any(|p| matches!(p.ty, ParamType::List { .. }));
        let f = image.kernel(&self.kernel.name);
        for (begin, end) in [(0, all / 2), (all / 2, all + i64::from(lists))] {
            // SAFETY: arguments point to memory of the sizes that the parameters have.
            unsafe { f(args.as_ptr(), begin, end, scratch.pointer()) };
        }
        assert!(scratch.intact(), "{} wrote behind its scratch", self.kernel.name);
        memory.iter().map(|m| m.bytes().to_vec()).collect()
    }

    /// Compiles at every level, runs, and compares with the interpreter.
    pub fn check(&self) {
        let expected = self.interpreted();
        for level in levels() {
            let found = self.native(level);
            for (at, param) in self.kernel.params.iter().enumerate() {
                self.compare(&param.name, at, (&found[at], &expected[at]), level);
            }
        }
    }

    fn compare(&self, name: &str, at: usize, (found, expected): (&[u8], &[u8]), level: &str) {
        let layout = &self.tensors[at].layout;
        let mut wrong = vec![];
        positions(layout.dims(), |p| {
            let (f, e) = (layout.read(found, p), layout.read(expected, p));
            let same = f == e || (f.is_nan() && e.is_nan());
            let far = (f - e).abs() > self.tolerance * e.abs().max(1.0);
            let exact =
                layout.encoding().is_plain() && layout.encoding().code.class() != Class::Float;
            if !same && (exact || far || f.is_nan() || e.is_nan()) {
                wrong.push(format!("{p:?}: {f}, expected {e}"));
            }
        });
        assert!(
            wrong.is_empty(),
            "{} ({level}): {} elements of {name} are wrong:\n{}\n{}",
            self.kernel.name,
            wrong.len(),
            wrong[..wrong.len().min(12)].join("\n"),
            self.kernel
        );
    }
}
