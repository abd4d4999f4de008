//! The target: many programs at once, one context for each.

use crate::emit::walk;
use crate::error::LlvmError;
use crate::isa::{self, Isa};
use crate::join::join;
use crate::mma::{claims, is_tiled};
use crate::module::{Product, compile};
use ir::expand::{Machine, expand};
use ir::kernel::Kernel;
use ir::loops::{Program, Stmt};
use ir::target::{CodeObject, Listing, Support, Target, TargetError};
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// CPU code by LLVM, for the levels of one architecture.
#[derive(Clone, Copy, Debug)]
pub struct Llvm {
    levels: &'static [&'static str],
    threads: usize,
}

impl Llvm {
    /// For x86-64.
    pub fn x86_64() -> Self {
        Llvm { levels: isa::X86_64, threads: cores() }
    }

    /// For AArch64.
    pub fn aarch64() -> Self {
        Llvm { levels: isa::AARCH64, threads: cores() }
    }

    /// For the architecture this runs on (x86-64 if it is neither).
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Self::aarch64() } else { Self::x86_64() }
    }

    /// The same, compiling on this many threads (at least 1).
    pub fn with_threads(self, threads: usize) -> Self {
        Llvm { threads: threads.max(1), ..self }
    }

    /// Names of the levels, best last.
    pub fn levels(&self) -> &'static [&'static str] {
        self.levels
    }

    /// Compiles programs into one object. Bytes do not depend on the number of threads.
    ///
    /// # Errors
    /// [`LlvmError::UnknownLevel`] for a level that no architecture here has, and all others.
    pub fn compile_programs(
        &self,
        programs: &[Program],
        isa: &str,
    ) -> Result<CodeObject, LlvmError> {
        let isa = Isa::named(isa)?;
        check_names(programs)?;
        let made = self.each(programs, isa, Product::Object)?;
        let kernels = programs.iter().zip(&made).map(|(p, (_, s))| (p.name.to_string(), *s));
        let kernels = kernels.collect();
        let objects: Vec<_> =
            programs.iter().zip(made).map(|(p, (o, _))| (p.name.to_string(), o)).collect();
        Ok(CodeObject { bytes: join(&objects, isa.is_x86())?, kernels })
    }

    /// Text of programs: LLVM IR after the passes, or assembly.
    ///
    /// # Errors
    /// As for [`Llvm::compile_programs`].
    pub fn list_programs(
        &self,
        programs: &[Program],
        isa: &str,
        what: Listing,
    ) -> Result<String, LlvmError> {
        let isa = Isa::named(isa)?;
        check_names(programs)?;
        let product = match what {
            Listing::Ir => Product::Ir,
            Listing::Asm => Product::Asm,
        };
        let made = self.each(programs, isa, product)?;
        let texts = made.into_iter().map(|(b, _)| String::from_utf8_lossy(&b).into_owned());
        Ok(texts.collect::<Vec<_>>().join("\n"))
    }

    /// Whether products of a kernel go to tile registers at a level: without any, its code for
    /// [`isa::EMULATED`] is its code for x86-64-v3.
    ///
    /// # Errors
    /// [`LlvmError::UnknownLevel`] for a level that no architecture here has; [`LlvmError::Expand`].
    pub fn uses_tiles(&self, kernel: &Kernel, isa: &str) -> Result<bool, LlvmError> {
        let isa = Isa::named(isa)?;
        let mut tiled = false;
        walk(&expanded(kernel, isa)?.body, &mut |s| {
            tiled |= matches!(s, Stmt::Mma(m) if is_tiled(m, isa));
        });
        Ok(tiled)
    }

    /// Compiles every program, in parallel; results in the programs' order. The first program
    /// that fails names the error.
    fn each(
        &self,
        programs: &[Program],
        isa: &'static Isa,
        what: Product,
    ) -> Result<Vec<(Vec<u8>, u64)>, LlvmError> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::new());
        let work = || {
            while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed))
                && let Some(program) = programs.get(i)
            {
                let made = compile(program, isa, what);
                let mut done = done.lock().unwrap_or_else(|e| e.into_inner());
                done.push((i, made));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(programs.len()) {
                // A thread that cannot be started leaves its share to the others.
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, made)| made).collect()
    }
}

impl Target for Llvm {
    fn name(&self) -> &'static str {
        "llvm"
    }

    fn isa_levels(&self) -> &'static [&'static str] {
        self.levels
    }

    fn supports(&self, kernel: &Kernel) -> Support {
        match Isa::named(self.levels[0]).and_then(|isa| expanded(kernel, isa)) {
            Ok(_) => Support::Yes,
            Err(e) => Support::No(e.to_string()),
        }
    }

    fn compile(&self, kernels: &[&Kernel], isa: &str) -> Result<CodeObject, Box<dyn TargetError>> {
        Ok(self.compile_programs(&programs(kernels, isa)?, isa)?)
    }

    fn listing(
        &self,
        kernels: &[&Kernel],
        isa: &str,
        what: Listing,
    ) -> Result<String, Box<dyn TargetError>> {
        Ok(self.list_programs(&programs(kernels, isa)?, isa, what)?)
    }
}

fn programs(kernels: &[&Kernel], isa: &str) -> Result<Vec<Program>, LlvmError> {
    let isa = Isa::named(isa)?;
    kernels.iter().map(|k| expanded(k, isa)).collect()
}

fn expanded(kernel: &Kernel, isa: &Isa) -> Result<Program, LlvmError> {
    expand(kernel, &Machine { lanes: isa.lanes, mma: &|m| claims(m, isa) })
        .map_err(|e| LlvmError::Expand { kernel: kernel.name.to_string(), reason: e.to_string() })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn check_names(programs: &[Program]) -> Result<(), LlvmError> {
    let mut seen = BTreeSet::new();
    for p in programs {
        let mut letters = p.name.chars();
        let first = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        let fault = if !first || !letters.all(|c| c.is_ascii_alphanumeric() || c == '_') {
            "no C identifier"
        } else if !seen.insert(&p.name) {
            "used twice"
        } else {
            continue;
        };
        return Err(LlvmError::Name { name: p.name.to_string(), fault });
    }
    Ok(())
}
