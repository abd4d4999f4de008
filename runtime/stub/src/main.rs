//! `latent-run`: what a deployed executable is made of.
//!
//! `latentc compile` appends a model to a copy of this binary, which then runs it. Without a model
//! of its own it takes one with `--artifact`.

use clap::{Args, CommandFactory, Parser};
use generate::command::args::{Command, LoadArgs, usage};
use generate::command::diagnostic::report;
use generate::command::limits::{self, Allocator};
use generate::command::{Streams, dispatch};
use generate::engine::Model;
use generate::{GenerateError, Result};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Runs the model that this executable carries
#[derive(Parser)]
#[command(name = "latent-run", version)]
struct Cli {
    /// Use the model in this file instead
    #[arg(long, global = true, value_name = "FILE")]
    artifact: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command<Own>>,
}

/// The executable's own model needs no naming.
#[derive(Args)]
struct Own {}

fn main() -> ExitCode {
    limits::meet();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are no mistakes: they go to standard output.
        Err(asked) if !asked.use_stderr() => asked.exit(),
        Err(error) => return failed(&GenerateError::Usage { message: usage(&error) }),
    };
    match Streams::standard(|streams| run(cli, streams)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(GenerateError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Reports what went wrong, and says whose fault it is.
fn failed(error: &GenerateError) -> ExitCode {
    report(&[error.into()], io::stderr().is_terminal(), &mut io::stderr());
    ExitCode::from(error.exit_code())
}

fn run(cli: Cli, streams: &mut Streams<'_>) -> Result<()> {
    let artifact = cli.artifact;
    let open = |_: Own, load: &LoadArgs| open(artifact.as_deref(), load);
    let Some(command) = cli.command else {
        let model = open(Own {}, &LoadArgs::default())?;
        return introduce(&model, streams);
    };
    dispatch::execute(command, &open, streams)
}

fn open(artifact: Option<&Path>, load: &LoadArgs) -> Result<Model> {
    let options = load.options();
    let opened = match artifact {
        Some(path) => Model::open(path, &options),
        None => Model::open_self(&options),
    };
    opened.map_err(|error| match (artifact, GenerateError::from(error)) {
        // The file is this executable itself, so "not an artifact" means that it has no model.
        (None, error) if error.code() == "E0401" => GenerateError::NoPayload,
        (_, error) => error,
    })
}

/// Says which model this is and which commands it takes.
fn introduce(model: &Model, streams: &mut Streams<'_>) -> Result<()> {
    let info = &model.manifest().model;
    let mut command = Cli::command();
    // People call the executable by whatever name they gave it.
    if let Some(path) = std::env::args_os().next().map(PathBuf::from) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        command = command.bin_name(name);
    }
    let help = command.render_help();
    let (name, family, context) = (&info.name, &info.family, info.context_length);
    streams.say(&format!("{name} ({family}), context {context}\n\n{help}"))
}
