//! The targets that this build has.

use compiler::compile::levels;
use compiler::options::{Backend, Options};
use generate::command::limits;
use ir::target::Target;

/// Targets for the CPU that the options ask for; none where this build lacks them. They compile
/// on so many threads, if they can.
pub fn cpu(options: &Options, threads: usize) -> Vec<Box<dyn Target>> {
    let mut all = all(threads);
    match options.backend {
        Backend::All => {}
        Backend::Auto => all.truncate(1),
        Backend::Llvm => all.retain(|t| t.name() == "llvm"),
        Backend::Cranelift => all.retain(|t| t.name() == "cranelift"),
    }
    all
}

/// Every target, the preferred first.
#[cfg(feature = "llvm")]
fn all(threads: usize) -> Vec<Box<dyn Target>> {
    let llvm = target_llvm::Llvm::host().with_threads(threads);
    vec![Box::new(llvm), Box::new(target_cranelift::Cranelift)]
}

/// Every target, the preferred first.
#[cfg(not(feature = "llvm"))]
fn all(_threads: usize) -> Vec<Box<dyn Target>> {
    vec![Box::new(target_cranelift::Cranelift)]
}

/// Has targets that are no Rust end as all else does where the system has no memory.
pub fn meet_limits() {
    #[cfg(feature = "llvm")]
    target_llvm::memory::on_out_of_memory(|| limits::end(None));
}

/// Seconds of one core to compile a kernel for one level, roughly. LLVM is a library of its own,
/// Cranelift as fast as this build.
const LLVM_S: f64 = 0.03;
const CRANELIFT_S: f64 = if cfg!(debug_assertions) { 0.02 } else { 0.002 };

/// How many levels of how many targets are compiled for, and about how many seconds a kernel
/// takes for all of them. LLVM's kernels are divided among threads.
pub fn work(targets: &[&dyn Target], options: &Options, threads: usize) -> (usize, f64) {
    let one = |t: &&dyn Target| {
        let count = levels(*t, options).len();
        let kernel_s = match t.name() {
            "llvm" => LLVM_S / threads as f64,
            _ => CRANELIFT_S,
        };
        (count, kernel_s * count as f64)
    };
    targets.iter().map(one).fold((0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}
