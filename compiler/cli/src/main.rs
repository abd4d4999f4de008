//! `latentc`: compiles models, and works on what it compiled.

mod compile;
mod diagnostic;
mod diff;
mod eval;
mod explain;
mod forecast;
mod interpret;
mod machine;
mod native;
mod ops;
mod output;
mod progress;
mod report;
mod targets;
mod verify;

use clap::{Args, Parser, Subcommand};
use diagnostic::Failure;
use generate::GenerateError;
use generate::command::args::{Command, LoadArgs};
use generate::command::limits::{self, Allocator};
use generate::command::{Streams, dispatch};
use generate::engine::Model;
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Compiles DeepSeek-family models to deployable executables
#[derive(Parser)]
#[command(name = "latentc", version)]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Subcommand)]
enum Top {
    /// Compile a checkpoint into an executable or an artifact
    Compile(compile::CompileArgs),
    /// Say what rewriting decides for a model on a device, and why
    Explain(explain::ExplainArgs),
    /// Compare compiled code with its kernels, another file or goldens
    Diff(diff::DiffArgs),
    /// Compute how well a compiled model predicts a text
    Eval(eval::EvalArgs),
    /// Draw where the time and memory of a compiled model go, on this machine
    Report(report::ReportArgs),
    /// List the ops of the graph IR, or every diagnostic's code
    Ops(ops::OpsArgs),
    #[command(flatten)]
    Model(Command<Source>),
}

/// What a command works on.
#[derive(Clone, Debug, Args)]
struct Source {
    /// Artifact or executable made by `latentc compile`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// FILE is a checkpoint: run its graph by the interpreter (logits only)
    #[arg(long)]
    interpret: bool,
    /// Check that FILE is what this statement of `compile --attest` speaks of (verify only)
    #[arg(long, value_name = "STATEMENT")]
    attestation: Option<PathBuf>,
}

fn main() -> ExitCode {
    limits::meet();
    targets::meet_limits();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no mistakes: they go to standard output.
        Err(asked) if !asked.use_stderr() => asked.exit(),
        Err(error) => return Failure::arguments(&error).report(),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Top::Compile(args) => compile::compile(&args),
        Top::Explain(args) => explain::explain(&args),
        Top::Diff(args) => diff::diff(&args),
        Top::Eval(args) => eval::eval(&args),
        Top::Report(args) => report::report(&args),
        Top::Ops(args) => ops::ops(&args),
        Top::Model(Command::Logits { file, args }) if file.interpret => {
            interpret::logits(&file.file, &args)
        }
        Top::Model(Command::Verify { file, args }) => verify::verify(file, &args),
        Top::Model(command) => model(command),
    }
}

/// Opens what a command works on.
fn open(source: Source, load: &LoadArgs) -> Result<Model, GenerateError> {
    if source.interpret {
        return Err(GenerateError::BadOption {
            option: "--interpret",
            value: "given".to_owned(),
            expected: "to `logits` only",
        });
    }
    if source.attestation.is_some() {
        return Err(GenerateError::BadOption {
            option: "--attestation",
            value: "given".to_owned(),
            expected: "to `verify` only",
        });
    }
    Model::open(&source.file, &load.options()).map_err(GenerateError::from)
}

fn model(command: Command<Source>) -> Result<(), Failure> {
    match Streams::standard(|streams| dispatch::execute(command, &open, streams)) {
        Err(GenerateError::OutputClosed) => Ok(()),
        other => Ok(other?),
    }
}
