//! What can go wrong.

use ir::target::TargetError;
use thiserror::Error;

/// A failure of this target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LlvmError {
    /// A level this target does not have.
    #[error("unknown instruction set level `{found}`, expected one of {expected}")]
    UnknownLevel {
        /// As given.
        found: String,
        /// The levels there are.
        expected: String,
    },
    /// LLVM was built without the architecture, or refuses its options.
    #[error("LLVM has no code generator for `{level}`: {reason}")]
    NoMachine {
        /// Level.
        level: String,
        /// LLVM's words.
        reason: String,
    },
    /// A program that breaks the rules of loop IR.
    #[error("kernel `{kernel}`: {found}, expected {expected}")]
    Malformed {
        /// Which kernel.
        kernel: String,
        /// What stands there.
        found: String,
        /// What may stand there.
        expected: String,
    },
    /// A tile product that no lowering here takes.
    #[error("kernel `{kernel}`: no lowering for the product {product} at `{level}`")]
    Product {
        /// Which kernel.
        kernel: String,
        /// Operands in words.
        product: String,
        /// Level.
        level: String,
    },
    /// LLVM's verifier or passes failed on our code.
    #[error("LLVM refused the code of kernel `{kernel}`: {reason}")]
    Refused {
        /// Which kernel.
        kernel: String,
        /// LLVM's words.
        reason: String,
    },
    /// Two kernels of one name, or a name that is no C identifier.
    #[error("kernel name `{name}` is {fault}, expected a C identifier that occurs once")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Objects could not be joined into one.
    #[error("could not join the objects of the kernels: {reason}")]
    Join {
        /// What was found.
        reason: String,
    },
    /// The kernel could not be expanded into loops.
    #[error("could not expand kernel `{kernel}` into loops: {reason}")]
    Expand {
        /// Which kernel.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// Code that would not load: it refers to something outside of it.
    #[error("kernel `{kernel}` refers to `{symbol}`, expected code that imports nothing")]
    Import {
        /// Which kernel.
        kernel: String,
        /// The symbol.
        symbol: String,
    },
}

impl TargetError for LlvmError {
    fn help(&self) -> &'static str {
        match self {
            LlvmError::UnknownLevel { .. } => "name one of the levels listed",
            LlvmError::NoMachine { .. } => {
                "install an LLVM 22 that was built with the X86 and AArch64 targets"
            }
            LlvmError::Name { .. } => "rename the kernel",
            LlvmError::Expand { .. } => "look at the kernel with `--emit kernel`",
            LlvmError::Malformed { .. }
            | LlvmError::Product { .. }
            | LlvmError::Refused { .. }
            | LlvmError::Join { .. }
            | LlvmError::Import { .. } => {
                "this is a fault of the compiler: report it with the output of `--emit kernel`, \
                 and compile with the cranelift target meanwhile"
            }
        }
    }
}

impl From<LlvmError> for Box<dyn TargetError> {
    fn from(e: LlvmError) -> Self {
        Box::new(e)
    }
}
