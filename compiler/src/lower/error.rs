//! What can go wrong in lowering, E0260 to E0263 and mistakes of latentc.

use crate::error::MISTAKE;
use ir::dim::Name;
use ir::error::IrError;
use ir::kernel::packing::PackingError;
use thiserror::Error;

/// A graph that cannot be lowered.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LowerError {
    /// A node that a kernel runs over rows for has none.
    #[error("found `{node}` in block @{graph} that runs over no rows of the step")]
    NoRows {
        /// The block.
        graph: Name,
        /// The op.
        node: &'static str,
    },
    /// A form that no generator takes.
    #[error("found `{node}` in block @{graph} with {found}, expected {expected}")]
    Form {
        /// The block.
        graph: Name,
        /// The op.
        node: &'static str,
        /// What it has.
        found: String,
        /// What could be lowered.
        expected: String,
    },
    /// A dim that must be known when compiling is not.
    #[error("found the size {dim} in block @{graph}, expected one that is known when compiling")]
    Unbound {
        /// The block.
        graph: Name,
        /// The dim.
        dim: String,
    },
    /// The program has no such entry point.
    #[error("found no entry point `{0}` in the program")]
    Entry(Name),
    /// A weight that cannot be laid out as its kernel wants it.
    #[error("weight `{weight}` cannot be packed: {error}")]
    Weight {
        /// Its name in the program.
        weight: String,
        /// Why not.
        error: PackingError,
    },
    /// A generator made an ill-formed kernel.
    #[error("internal error: kernel @{kernel} is ill-formed: {error}")]
    Kernel {
        /// Its name.
        kernel: String,
        /// The first thing wrong with it.
        error: Box<IrError>,
    },
}

impl LowerError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0260", "a node that a kernel runs over rows for has none"),
        ("E0261", "a form that no generator takes"),
        ("E0262", "a dim that must be known when compiling is not"),
        ("E0263", "the program has no such entry point"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            LowerError::NoRows { .. } => "E0260",
            LowerError::Form { .. } => "E0261",
            LowerError::Unbound { .. } => "E0262",
            LowerError::Entry(_) => "E0263",
            LowerError::Kernel { .. } | LowerError::Weight { .. } => MISTAKE.0,
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            LowerError::Kernel { .. } | LowerError::Weight { .. } => {
                "this is a bug in latentc; please report it"
            }
            LowerError::Entry(_) => "a program needs an entry point `forward`",
            _ => "write the block in the forms that `latentc ops` lists as lowered",
        }
    }
}
