//! Kernels run natively, by every target at every level of this machine, and by interpreters, and
//! compared.
//!
//! The interpreter of the kernel IR says what is right. Beside native code, the interpreter of
//! loop programs runs what [`expand`] makes of a kernel, and Cranelift runs a program in which
//! every product was claimed and then took its generic form.

mod guarded;

pub use guarded::Guarded;

use crate::native::{self, Levels, targets};
use compiler::compile::{Code, code};
use ir::dtype::{Class, DType};
use ir::expand::{Machine, expand, lower_mma};
use ir::kernel::code as codes;
use ir::kernel::interp::{Buffer, run};
use ir::kernel::layout::{Layout, for_each_position};
use ir::kernel::{GridAxis, Kernel, ParamType, Role, parse};
use ir::loops::interp::{self, Memory};
use ir::loops::verify::verify;
use ir::loops::{Program, Stmt};
use ir::target::Target;
use runtime::load::Image;
use std::collections::HashMap;
use std::panic::resume_unwind;
use target_cranelift::{Cranelift, compile_programs};

/// Levels of a target that this machine runs and that a kernel has code of its own for, those
/// among them that only tests ask for.
pub fn levels(target: &dyn Target, kernel: &Kernel) -> Vec<&'static str> {
    let mut levels = native::levels(target, Levels::All);
    if target.name() == "llvm" && levels.contains(&"x86-64-v3") {
        levels.extend(emulated(kernel));
    }
    levels
}

/// The level of emulated tile registers, if a kernel uses them: without, its code for that level
/// is that of x86-64-v3.
#[cfg(feature = "llvm")]
fn emulated(kernel: &Kernel) -> Option<&'static str> {
    use target_llvm::{Llvm, isa::EMULATED};
    let tiled = Llvm::host().uses_tiles(kernel, EMULATED);
    tiled.unwrap_or_else(|e| panic!("{}: {e}", kernel.name)).then_some(EMULATED)
}

/// None without LLVM.
#[cfg(not(feature = "llvm"))]
fn emulated(_: &Kernel) -> Option<&'static str> {
    None
}

/// Code of a kernel in executable memory.
pub struct Native {
    image: Image,
    scratch_bytes: u64,
}

impl Native {
    /// Compiles a kernel for a level of a target.
    pub fn new(kernel: &Kernel, target: &dyn Target, level: &str) -> Native {
        let code = code(std::slice::from_ref(kernel), target, level);
        let code = code.unwrap_or_else(|e| panic!("{} ({level}): {e}", kernel.name));
        Native::of(&code)
    }

    fn of(code: &Code) -> Native {
        let image = Image::load(&code.image).expect("an image of ours");
        let scratch_bytes = code.scratch.values().copied().max().unwrap_or(0);
        Native { image, scratch_bytes }
    }

    /// Runs instances of a kernel.
    pub fn call(&self, name: &str, args: &[u64], begin: i64, end: i64) {
        let entry = self.image.kernel(name).expect("a compiled kernel");
        let mut scratch = Guarded::new(self.scratch_bytes as usize, 64);
        // Whatever is read before it is written spoils the result.
        scratch.bytes_mut().fill(0xff);
        // SAFETY: the code is a kernel of the CPU signature; arguments point to memory of the
        // sizes that its parameters have, which outlives the call.
        unsafe { entry(args.as_ptr(), begin, end, scratch.address() as *mut u8) };
    }
}

/// Numbers without structure.
pub struct Noise(pub u64);

impl Noise {
    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `n - 1`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    /// A multiple of 1/64 from -1 to 1.
    pub fn real(&mut self) -> f64 {
        self.below(129) as f64 / 64.0 - 1.0
    }
}

/// A parameter with its memory.
pub struct Tensor {
    /// Where its elements lie.
    pub layout: Layout,
    /// Its memory.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// Sets every code.
    pub fn fill(&mut self, mut code: impl FnMut(&[u64]) -> f64) {
        let dims = self.layout.dims().to_vec();
        for_each_position(&dims, &mut |p| self.layout.write_code(&mut self.bytes, p, code(p)));
    }

    fn fill_random(&mut self, noise: &mut Noise) {
        let encoding = self.layout.encoding();
        self.fill(|_| match encoding.code {
            DType::I4 => noise.below(16) as f64 - 8.0,
            DType::I8 => noise.below(255) as f64 - 127.0,
            DType::U8 => noise.below(256) as f64,
            DType::I32 => noise.below(19) as f64 - 9.0,
            DType::Bool => noise.below(2) as f64,
            DType::F4E2M1 => [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][noise.below(8) as usize],
            DType::F8E4M3 => noise.real() * [1.0, 0.01, 300.0][noise.below(3) as usize],
            DType::E8M0 => 2f64.powi(noise.below(9) as i32 - 4),
            _ => noise.real() * 2.0,
        });
        let Some(scale) = encoding.scale else { return };
        let dims = self.layout.dims().to_vec();
        for_each_position(&dims, &mut |p| {
            let value = match scale.dtype {
                DType::E8M0 => 2f64.powi(noise.below(5) as i32 - 4),
                _ => (noise.below(63) + 1) as f64 / 64.0,
            };
            self.layout.write_scale(&mut self.bytes, p, value);
        });
        self.fill_sums();
    }

    /// Sums of the codes of each block, where the encoding keeps them.
    fn fill_sums(&mut self) {
        let (layout, mut sums) = (&self.layout, HashMap::new());
        for_each_position(layout.dims(), &mut |p| {
            let number = codes::read(&self.bytes, layout.encoding().code, layout.code_bit(p));
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
    /// The kernel.
    pub kernel: Kernel,
    /// Values of its symbols, in order.
    pub symbols: Vec<i64>,
    /// One for each parameter.
    pub tensors: Vec<Tensor>,
    /// Greatest difference, relative to the larger of 1 and the expected value.
    pub tolerance: f64,
}

impl Case {
    /// Random memory for a kernel in text form.
    pub fn new(text: &str, symbols: &[i64]) -> Case {
        let kernel = parse::kernel(text).unwrap_or_else(|e| panic!("{text}\n{e:#?}"));
        Case::of(kernel, symbols, 1)
    }

    /// Random memory for a kernel of `tests/files/kernel`.
    pub fn worked(file: &str, symbols: &[i64]) -> Case {
        let path = crate::goldens::root().join("tests/files/kernel").join(file);
        Case::new(&std::fs::read_to_string(path).expect("a kernel's text"), symbols)
    }

    /// Random memory for a kernel.
    pub fn of(kernel: Kernel, symbols: &[i64], seed: u64) -> Case {
        let value_of =
            |name: &str| kernel.symbols.keys().position(|s| &**s == name).map(|at| symbols[at]);
        let mut noise = Noise(seed);
        let tensors = kernel.params.iter().map(|p| {
            let layout = p.ty.layout(&value_of).expect("a layout");
            let bytes = vec![0; layout.size_bytes() as usize];
            let mut tensor = Tensor { layout, bytes };
            if p.role != Role::Prefetch {
                tensor.fill_random(&mut noise);
            }
            tensor
        });
        let tensors = tensors.collect();
        Case { kernel, symbols: symbols.to_vec(), tensors, tolerance: 1e-5 }
    }

    /// Sets [`Case::tolerance`].
    pub fn tolerance(mut self, tolerance: f64) -> Case {
        self.tolerance = tolerance;
        self
    }

    /// Sets the elements of a parameter.
    pub fn set(mut self, name: &str, value: impl FnMut(&[u64]) -> f64) -> Case {
        let at = self.kernel.params.iter().position(|p| &*p.name == name).expect("a parameter");
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

    /// Instances of the grid, its list being as it is.
    pub fn instances(&self) -> i64 {
        let value_of = |name: &str| {
            self.kernel.symbols.keys().position(|s| &**s == name).map(|at| self.symbols[at])
        };
        let count = |axis: &GridAxis| match axis {
            GridAxis::Range { extent, step, .. } => {
                let step = i64::from(*step);
                (extent.eval(&value_of).expect("a size") + step - 1).div_euclid(step)
            }
            GridAxis::List { list, .. } => {
                let tensor = &self.tensors[list.0 as usize];
                tensor.layout.read(&tensor.bytes, &[0, 0]) as i64
            }
        };
        self.kernel.grid.axes.iter().map(count).product()
    }

    /// Contents of every parameter as the interpreter leaves them.
    pub fn interpreted(&self) -> Vec<Vec<u8>> {
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

    /// The same, of native code, each parameter at the end of its memory.
    pub fn native(&self, native: &Native) -> Vec<Vec<u8>> {
        let mut memory: Vec<Guarded> = self
            .tensors
            .iter()
            .map(|t| {
                let mut m = Guarded::new(t.bytes.len(), 4);
                m.bytes_mut().copy_from_slice(&t.bytes);
                m
            })
            .collect();
        let mut args: Vec<u64> = memory.iter().map(|m| m.address() as u64).collect();
        args.extend(self.symbols.iter().map(|s| *s as u64));
        // In two parts, and one instance too many of what a list may hold.
        let all = self.instances();
        let half = all / 2;
        native.call(&self.kernel.name, &args, 0, half);
        let lists = self.kernel.params.iter().any(|p| matches!(p.ty, ParamType::List { .. }));
        native.call(&self.kernel.name, &args, half, all + i64::from(lists));
        memory.iter_mut().map(|m| m.bytes_mut().to_vec()).collect()
    }

    /// Compiles by every target at every level, runs, and compares with the interpreter.
    pub fn check(&self) {
        self.check_at(Levels::All);
    }

    /// [`Case::check`] of one of many kernels: by every target at the level whose turn it is, or
    /// where long tests are asked for, at all.
    pub fn check_in_turn(&self, turn: usize) {
        self.check_at(Levels::in_turn(turn));
    }

    fn check_at(&self, which: Levels) {
        let (expected, targets) = (self.interpreted(), targets());
        // The compilers take nearly all of the time, so they run beside each other.
        std::thread::scope(|scope| {
            let mut compiling = vec![];
            for target in &targets {
                for level in which.of(levels(&**target, &self.kernel)) {
                    let way = format!("{level}/{}", target.name());
                    let code = move || Some(Native::new(&self.kernel, &**target, level));
                    compiling.push((way, scope.spawn(code)));
                }
            }
            compiling.push(("claimed".into(), scope.spawn(|| self.claimed())));
            self.compare_all(&self.simulated(false), &expected, "simulated");
            self.compare_all(&self.simulated(true), &expected, "simulated with whole products");
            for (way, native) in compiling {
                if let Some(native) = native.join().unwrap_or_else(|e| resume_unwind(e)) {
                    self.compare_all(&self.native(&native), &expected, &way);
                }
            }
        });
    }

    /// Contents as the interpreter of loop programs leaves them, at a width that differs from case
    /// to case; with products kept whole, or spelt out.
    fn simulated(&self, whole: bool) -> Vec<Vec<u8>> {
        let text = self.kernel.to_string();
        let lanes = [1, 8, 16][text.bytes().map(usize::from).sum::<usize>() % 3];
        let program = expand(&self.kernel, &Machine { lanes, mma: &|_| whole }).expect("loops");
        let mut memory = Memory::default();
        let mut args: Vec<u64> = self.tensors.iter().map(|t| memory.add(t.bytes.clone())).collect();
        args.extend(self.symbols.iter().map(|s| *s as u64));
        interp::run(&program, &args, 0, self.instances(), &mut memory)
            .unwrap_or_else(|e| panic!("{lanes} lanes: {e}\n{program}"));
        memory.regions
    }

    /// Cranelift's code of the program of a target that claims every product and then takes its
    /// generic form, if there are any.
    fn claimed(&self) -> Option<Native> {
        let machine = Machine { lanes: 4, mma: &|_| true };
        let mut program = expand(&self.kernel, &machine).expect("loops");
        let mut body = std::mem::take(&mut program.body);
        let any = lower_all(&mut body, &mut program);
        program.body = body;
        verify(&program).expect("a program without products that verifies");
        let level = levels(&Cranelift, &self.kernel).last().copied().filter(|_| any)?;
        let object = compile_programs(&[program], level);
        let object = object.unwrap_or_else(|e| panic!("{}: {e}", self.kernel.name));
        let linked = Code::of(object, Cranelift.name(), level).expect("an image");
        Some(Native::of(&linked))
    }

    fn compare_all(&self, found: &[Vec<u8>], expected: &[Vec<u8>], way: &str) {
        for (at, param) in self.kernel.params.iter().enumerate() {
            self.compare(&param.name, at, [&found[at], &expected[at]], way);
        }
    }

    fn compare(&self, name: &str, at: usize, [found, expected]: [&[u8]; 2], way: &str) {
        let layout = &self.tensors[at].layout;
        let mut wrong = vec![];
        for_each_position(layout.dims(), &mut |p| {
            let (f, e) = (layout.read(found, p), layout.read(expected, p));
            let same = f == e || (f.is_nan() && e.is_nan());
            let far = (f - e).abs() > self.tolerance * e.abs().max(1.0);
            let exact =
                layout.encoding().is_plain() && layout.encoding().code.class() != Class::Float;
            if !same && (exact || far || f.is_nan() || e.is_nan()) {
                wrong.push(format!("{p:?}: {f}, expected {e}"));
            }
        });
        let kernel = &self.kernel.name;
        assert!(
            wrong.is_empty(),
            "{kernel} ({way}): {} elements of {name} are wrong:\n{}\n{}",
            wrong.len(),
            wrong[..wrong.len().min(12)].join("\n"),
            self.kernel
        );
    }
}

/// Replaces products by their loops; tells whether there were any.
fn lower_all(body: &mut Vec<Stmt>, program: &mut Program) -> bool {
    let mut any = false;
    for stmt in std::mem::take(body) {
        match stmt {
            Stmt::Mma(mma) => {
                any = true;
                body.extend(lower_mma(&mma, program));
            }
            Stmt::For(mut f) => {
                any |= lower_all(&mut f.body, program);
                body.push(Stmt::For(f));
            }
            Stmt::If { cond, mut then, mut otherwise } => {
                any |= lower_all(&mut then, program);
                any |= lower_all(&mut otherwise, program);
                body.push(Stmt::If { cond, then, otherwise });
            }
            other => body.push(other),
        }
    }
    any
}
