//! Kernels to native code by Cranelift: fast to compile, 128-bit vectors, nothing to install.
//!
//! A kernel is expanded into a loop program of four lanes (`ir::expand`), each statement of
//! which is a handful of Cranelift instructions. Objects are relocatable ELF for x86-64 and
//! aarch64, whatever the compiler runs on; their code imports nothing.

#![warn(missing_docs)]

mod convert;
mod emit;
mod error;
mod inst;
mod isa;
mod memory;
mod object;

pub use error::CraneliftError;
pub use object::compile_programs;

use ir::expand::{Machine, expand};
use ir::kernel::Kernel;
use ir::loops::Program;
use ir::target::{CodeObject, Listing, Support, Target, TargetError};

/// The target `cranelift`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cranelift;

/// The loop program of a kernel for this target.
pub fn program(kernel: &Kernel) -> Result<Program, CraneliftError> {
    let machine = Machine { lanes: emit::LANES, mma: &|_| false };
    expand(kernel, &machine).map_err(|source| CraneliftError::Expand {
        kernel: kernel.name.to_string(),
        source: Box::new(source),
    })
}

impl Target for Cranelift {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn isa_levels(&self) -> &'static [&'static str] {
        isa::host_levels()
    }

    fn supports(&self, kernel: &Kernel) -> Support {
        match program(kernel) {
            Ok(_) => Support::Yes,
            Err(e) => Support::No(e.to_string()),
        }
    }

    fn compile(&self, kernels: &[&Kernel], isa: &str) -> Result<CodeObject, Box<dyn TargetError>> {
        Ok(object::compile(kernels, isa)?)
    }

    fn listing(
        &self,
        kernels: &[&Kernel],
        isa: &str,
        what: Listing,
    ) -> Result<String, Box<dyn TargetError>> {
        Ok(object::listing(kernels, isa, what)?)
    }
}
