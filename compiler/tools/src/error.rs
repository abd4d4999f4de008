//! What can be wrong with a comparison.

use check::CheckError;
use compiler::compile::CompileError;
use compiler::options::OptionError;
use ir::error::IrError;
use ir::kernel::interp::InterpError;
use runtime::RuntimeError;
use thiserror::Error;

/// Why a model cannot be compared.
#[derive(Debug, Error)]
pub enum ToolError {
    /// A file without the program that it was lowered from.
    #[error("found sections {found}, expected one called `program`")]
    NoProgram {
        /// Names of the sections.
        found: String,
    },
    /// A program that cannot be read.
    #[error("section `program`: {0}")]
    Program(Box<IrError>),
    /// What the file's options are called differs from this release's.
    #[error("the file's option {0}")]
    Option(#[from] OptionError),
    /// This compiler lowers the program to something else.
    #[error(
        "the plan of the file, by latentc {file}, is not what latentc {own} makes of its program: \
         {what}"
    )]
    OtherPlan {
        /// Release that wrote the file.
        file: String,
        /// This one.
        own: &'static str,
        /// What differs.
        what: String,
    },
    /// Code that is not what its kernels mean.
    #[error(
        "found {divergent} of {launches} launches beyond their tolerance, the first for {origin}"
    )]
    Diverges {
        /// So many launches.
        divergent: usize,
        /// Of so many.
        launches: usize,
        /// Nodes that the first computes.
        origin: String,
    },
    /// Two files that are not of one model.
    #[error("the files are of different models: the first has {first}, the second {second}")]
    OtherModel {
        /// What the first has.
        first: String,
        /// What the second has in its place.
        second: String,
    },
    /// Two files of one model that compute different things.
    #[error(
        "found {divergent} of {calls} calls in which the files are further apart than their \
         precision explains, the first in step {step}, call {call}, for {origin}"
    )]
    Apart {
        /// So many calls.
        divergent: usize,
        /// Of so many.
        calls: usize,
        /// The first's step.
        step: usize,
        /// Its position in the entry.
        call: usize,
        /// Nodes that the first file's launch computes.
        origin: String,
    },
    /// Graphs of two files cannot be compared.
    #[error("graphs of block @{block}: {error}")]
    Graphs {
        /// The block.
        block: String,
        /// Why.
        error: Box<CheckError>,
    },
    /// The interpreter refuses a launch.
    #[error("{origin}, kernel {kernel}: {error}")]
    Launch {
        /// Nodes that the launch computes.
        origin: String,
        /// Its kernel.
        kernel: String,
        /// Why.
        error: InterpError,
    },
    /// The program cannot be lowered.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The file's code cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

impl ToolError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0270", "a compiled file without the program that it was lowered from"),
        ("E0271", "the program in a compiled file cannot be read"),
        ("E0272", "a compiled file is not what this compiler makes of its program"),
        ("E0273", "compiled code is not what its kernels mean"),
        ("E0274", "two compiled files that are not of one model"),
        ("E0275", "two compiled files of one model that compute different things"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            ToolError::NoProgram { .. } => "E0270",
            ToolError::Program(_) => "E0271",
            ToolError::Option(_) | ToolError::OtherPlan { .. } => "E0272",
            ToolError::Diverges { .. } => "E0273",
            ToolError::OtherModel { .. } => "E0274",
            ToolError::Apart { .. } => "E0275",
            ToolError::Graphs { error, .. } => error.code(),
            ToolError::Launch { error, .. } => error.code(),
            ToolError::Compile(e) => e.code(),
            ToolError::Runtime(e) => e.code(),
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            ToolError::NoProgram { .. } | ToolError::Program(_) => "compile the model again".into(),
            ToolError::Option(_) | ToolError::OtherPlan { .. } => {
                "use the latentc that wrote the file, or compile the model again".into()
            }
            ToolError::Diverges { .. } => {
                "try another `--isa LEVEL/BACKEND`; report it with the lines above".into()
            }
            ToolError::OtherModel { .. } => {
                "compare files that `latentc compile` made of the same MODEL, weights in the same formats".into()
            }
            ToolError::Apart { .. } => {
                "`latentc diff FILE` without `--against` says of each file whether its code is what \
                 its kernels mean"
                    .into()
            }
            ToolError::Graphs { error, .. } => error.help().into(),
            ToolError::Launch { error, .. } => error.help().into(),
            ToolError::Compile(e) => return e.help(),
            ToolError::Runtime(e) => e.help().into(),
        })
    }
}
