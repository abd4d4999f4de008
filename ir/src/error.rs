//! Diagnostics of the IRs, E01xx.

use crate::graph::error::GraphError;
use crate::kernel::error::KernelError;
use crate::target;
use thiserror::Error;

/// A range of bytes in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// One thing wrong with a text, a graph or a kernel.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{kind}")]
pub struct IrError {
    /// Where, if it came from a text.
    pub span: Option<Span>,
    /// What.
    pub kind: IrErrorKind,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum IrErrorKind {
    /// A character or word that the grammar does not have here.
    #[error("found {found}, expected {expected}")]
    Syntax {
        /// What stands there.
        found: String,
        /// What could stand there.
        expected: String,
    },
    /// Something a kernel does that cannot be made into loops.
    #[error("kernel {kernel}: {what} cannot be expanded into loops")]
    Unexpandable {
        /// The kernel.
        kernel: String,
        /// What it does.
        what: String,
    },
    /// A loop program that breaks a rule.
    #[error("loop program {program}: {what}")]
    Loops {
        /// The program.
        program: String,
        /// What is wrong.
        what: String,
    },
    /// About a graph or a program, E0102 to E0139.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// About a kernel, E0140 to E0162.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl IrErrorKind {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] =
        &[("E0101", "a character or word that the grammar does not have here")];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            IrErrorKind::Graph(e) => e.code(),
            IrErrorKind::Kernel(e) => e.code(),
            IrErrorKind::Syntax { .. } => "E0101",
            IrErrorKind::Unexpandable { .. } | IrErrorKind::Loops { .. } => target::CODE.0,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            IrErrorKind::Graph(e) => e.help(),
            IrErrorKind::Kernel(e) => e.help(),
            IrErrorKind::Syntax { .. } => "see the grammar in `ir/README.md`",
            IrErrorKind::Unexpandable { .. } => {
                "compile the kernel with a target that takes it whole"
            }
            IrErrorKind::Loops { .. } => "report the kernel: what `expand` makes must verify",
        }
    }
}

impl From<GraphError> for IrError {
    fn from(e: GraphError) -> Self {
        IrError { span: None, kind: e.into() }
    }
}

impl From<KernelError> for IrError {
    fn from(e: KernelError) -> Self {
        IrError { span: None, kind: e.into() }
    }
}
