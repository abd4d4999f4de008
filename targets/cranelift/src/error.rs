//! What can go wrong.

use ir::error::IrError;
use ir::target::TargetError;
use thiserror::Error;

/// A failure of this target.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CraneliftError {
    /// A level of the instruction set that is not one of those known.
    #[error("unknown instruction set {found:?}, expected one of {}", expected.join(", "))]
    Isa {
        /// As asked for.
        found: String,
        /// Those known.
        expected: Vec<&'static str>,
    },
    /// A kernel that cannot be made into loops.
    #[error("kernel {kernel} has no loops: {source}")]
    Expand {
        /// The kernel.
        kernel: String,
        /// Why not.
        #[source]
        source: Box<IrError>,
    },
    /// Code generation refused a function.
    #[error("no code for kernel {kernel}: {reason}")]
    Codegen {
        /// The kernel.
        kernel: String,
        /// As Cranelift says.
        reason: String,
    },
    /// Code that would call a function that is not there.
    #[error("code of kernel {kernel} refers to {symbol}, expected none but its own")]
    Import {
        /// The kernel.
        kernel: String,
        /// What it refers to.
        symbol: String,
    },
    /// The object could not be written.
    #[error("no object file: {reason}")]
    Object {
        /// Why not.
        reason: String,
    },
}

impl TargetError for CraneliftError {
    fn help(&self) -> &'static str {
        match self {
            CraneliftError::Isa { .. } => "name a level that `latentc compile -C help` lists",
            CraneliftError::Expand { .. } => "compile this kernel with another target",
            CraneliftError::Codegen { .. } | CraneliftError::Import { .. } => {
                "report the kernel; meanwhile compile it with the llvm target"
            }
            CraneliftError::Object { .. } => "give every kernel a name of its own",
        }
    }
}

impl From<CraneliftError> for Box<dyn TargetError> {
    fn from(e: CraneliftError) -> Self {
        Box::new(e)
    }
}
