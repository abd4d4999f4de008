//! What a target must answer, and the numbers it is described by.

use crate::kernel::Kernel;
use std::error::Error;

/// Machine code of one or more kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeObject {
    /// A relocatable object in the target's format (ELF for CPUs), or text (PTX).
    pub bytes: Vec<u8>,
    /// Kernels in it, with the scratch each needs per worker, in bytes.
    pub kernels: Vec<(String, u64)>,
}

/// Whether a target can compile something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// It can.
    Yes,
    /// It cannot, for this reason.
    No(String),
}

/// The code of every failure of a target, with what it stands for.
pub const CODE: (&str, &str) = ("E0301", "a kernel that a target makes no code of");

/// A failure of a target, [`CODE`].
pub trait TargetError: Error + Send + Sync {
    /// What to do next.
    fn help(&self) -> &'static str;
}

/// Which intermediate text to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The target's own IR (LLVM IR, Cranelift IR, PTX).
    Ir,
    /// Assembly.
    Asm,
}

/// Compiles kernels for one kind of device.
pub trait Target: Sync {
    /// `family-variant`, e.g. `llvm`, `cranelift`.
    fn name(&self) -> &'static str;

    /// Levels of the instruction set it can compile for on this architecture, best last, e.g.
    /// `x86-64-v3`, `x86-64-v4`.
    fn isa_levels(&self) -> &'static [&'static str];

    /// Whether a kernel can be compiled at all.
    fn supports(&self, kernel: &Kernel) -> Support;

    /// Compiles kernels into one object.
    fn compile(&self, kernels: &[&Kernel], isa: &str) -> Result<CodeObject, Box<dyn TargetError>>;

    /// Text of the kernels on their way to code, for `--emit`.
    fn listing(
        &self,
        kernels: &[&Kernel],
        isa: &str,
        what: Listing,
    ) -> Result<String, Box<dyn TargetError>>;
}
