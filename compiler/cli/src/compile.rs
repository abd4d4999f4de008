//! `latentc compile`: arguments to one file, or to a text on the way there.

use crate::diagnostic::Failure;
use crate::forecast::Forecast;
use crate::progress::Shown;
use crate::targets;
use artifact::writer::WeightsPlace;
use clap::{Args, ValueEnum};
use compiler::compile::{Output, all_code, levels, write};
use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::{Lowered, lower};
use compiler::options::{Options, help};
use ir::device::DeviceSpec;
use ir::graph::parse::parse_program;
use ir::kernel::Kernel;
use ir::target::{Listing, Target};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Emit {
    /// An executable that is the model
    Exe,
    /// The same without the executable in front
    Artifact,
    /// Text of the graphs
    Graph,
    /// Text of the kernels
    Kernel,
    /// The target's own IR
    LlvmIr,
    /// Assembly
    Asm,
}

/// Phases, in order; compilation can stop after each and go on from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Phase {
    /// Checkpoint to graphs (text: graph)
    Import,
    /// Graphs to kernels and a plan (text: kernel)
    Lower,
}

/// Where weights go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Weights {
    /// Into the result
    Inline,
    /// Into a second file beside it
    External,
}

/// Options of `compile`.
#[derive(Args)]
pub struct CompileArgs {
    /// Checkpoint directory (config.json, safetensors), or with --dummy-weights a lone config.json
    #[arg(value_name = "MODEL", required_unless_present = "codegen_help")]
    model: Option<PathBuf>,
    /// The result
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Device to compile for
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = ["cpu"])]
    target: String,
    /// A choice, key=value; `-C help` lists them
    #[arg(short = 'C', value_name = "KEY=VALUE", id = "codegen")]
    codegen: Vec<String>,
    /// List the keys of -C
    #[arg(long = "codegen-help", id = "codegen_help", hide = true)]
    codegen_help: bool,
    /// What to write
    #[arg(long, value_enum, default_value = "exe")]
    emit: Emit,
    /// Print the text of this phase and stop
    #[arg(long, value_enum, value_name = "PHASE")]
    stop_after: Option<Phase>,
    /// Go on from this text (.graph or .kernel) in place of the phase that made it
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// Make weights up from this seed
    #[arg(long, value_name = "SEED")]
    dummy_weights: Option<u64>,
    /// Where weights go
    #[arg(long, value_enum, default_value = "inline")]
    weights: Weights,
    /// Executable to append the model to [default: latent-run beside latentc]
    #[arg(long, value_name = "FILE")]
    stub: Option<PathBuf>,
    /// Threads to compile with [default: all of this machine's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Compiles.
pub fn compile(args: &CompileArgs) -> Result<(), Failure> {
    if args.codegen_help || args.codegen.iter().any(|c| c == "help") {
        print!("{}", help());
        return Ok(());
    }
    let mut options = Options::default();
    for choice in &args.codegen {
        options.set(choice)?;
    }
    let path = args.model.as_deref().unwrap_or(Path::new("."));
    let mut shown = Shown::new(args.quiet);
    let mut imported = import(path, &import_options(args, &options))?;
    if let Some((name, text)) = read_text(args, "graph")? {
        imported.program =
            parse_program(&text).map_err(|errors| Failure::text(&name, &text, errors))?;
    }
    for warning in imported.warnings.iter().filter(|_| !args.quiet) {
        eprintln!("warning: {warning}");
    }
    if !imported.companions.iter().any(|c| c.name == "tokenizer.json") && !args.quiet {
        eprintln!("warning: no tokenizer.json: `run --prompt` and `chat` will not work");
    }
    if args.emit == Emit::Graph || args.stop_after == Some(Phase::Import) {
        return show(args, &imported.program.to_string());
    }
    let mut lowered = lower(&imported.program, &options, &DeviceSpec::default())?;
    if let Some((name, text)) = read_text(args, "kernel")? {
        replace_kernels(&mut lowered, &name, &text)?;
    }
    if args.emit == Emit::Kernel || args.stop_after == Some(Phase::Lower) {
        let texts: Vec<String> = lowered.kernels.iter().map(ToString::to_string).collect();
        return show(args, &texts.join("\n"));
    }
    let owned = targets::cpu(&options);
    let targets: Vec<&dyn Target> = owned.iter().map(AsRef::as_ref).collect();
    if targets.is_empty() {
        let message = "this build of latentc has no LLVM".to_string();
        let help = "use -C backend=cranelift, or build with the feature `llvm`";
        return Err(Failure::usage(message, help));
    }
    match args.emit {
        Emit::LlvmIr => listing(args, &lowered, &targets, &options, Listing::Ir),
        Emit::Asm => listing(args, &lowered, &targets, &options, Listing::Asm),
        _ => package(args, &imported, lowered, &targets, &options, &mut shown),
    }
}

fn import_options(args: &CompileArgs, options: &Options) -> ImportOptions {
    ImportOptions {
        dummy_weights: args.dummy_weights,
        context: options.context.map(i64::from),
        ..ImportOptions::default()
    }
}

/// The text given by `--from`, if it is of this kind.
fn read_text(args: &CompileArgs, kind: &str) -> Result<Option<(String, String)>, Failure> {
    let Some(path) = args.from.as_ref() else { return Ok(None) };
    match path.extension().and_then(|e| e.to_str()) {
        Some(e) if e == kind => {}
        Some("graph" | "kernel") => return Ok(None),
        _ => {
            let message = format!("found {}, expected .graph or .kernel", path.display());
            return Err(Failure::usage(message, "name the text after the phase that made it"));
        }
    }
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    Ok(Some((path.display().to_string(), text)))
}

/// Puts kernels of a text in the place of those of the same names.
fn replace_kernels(lowered: &mut Lowered, name: &str, text: &str) -> Result<(), Failure> {
    let parsed = ir::kernel::parse::kernels(text);
    for kernel in parsed.map_err(|errors| Failure::text(name, text, errors))? {
        let place = lowered.kernels.iter_mut().find(|k| k.name == kernel.name);
        let Some(place) = place.filter(|k| same_interface(k, &kernel)) else {
            let message = format!("{name}: found kernel @{}", kernel.name);
            let help = "keep names, parameters, symbols and grid as `--emit kernel` printed them";
            return Err(Failure::usage(message, help));
        };
        *place = kernel;
    }
    Ok(())
}

/// Whether launches of one kernel are launches of the other.
fn same_interface(a: &Kernel, b: &Kernel) -> bool {
    let names = |k: &Kernel| k.symbols.keys().cloned().collect::<Vec<_>>();
    a.params == b.params && names(a) == names(b) && a.grid.axes.len() == b.grid.axes.len()
}

/// Prints a text, or writes it to the file of `-o`.
fn show(args: &CompileArgs, text: &str) -> Result<(), Failure> {
    let Some(path) = args.output.as_deref() else {
        let done = std::io::stdout().write_all(text.as_bytes());
        return match done {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Failure::io("write", Path::new("standard output"), &e)),
        };
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let done = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Failure::io("write", path, &e)
    })
}

fn listing(
    args: &CompileArgs,
    lowered: &Lowered,
    targets: &[&dyn Target],
    options: &Options,
    what: Listing,
) -> Result<(), Failure> {
    let kernels: Vec<&Kernel> = lowered.kernels.iter().collect();
    let mut text = String::new();
    for target in targets {
        let best = levels(*target, options).into_iter().next_back();
        let Some(isa) = best else { continue };
        let listed = target.listing(&kernels, isa, what);
        text += &listed.map_err(compiler::compile::CompileError::Target)?;
    }
    show(args, &text)
}

fn package(
    args: &CompileArgs,
    imported: &Imported,
    lowered: Lowered,
    targets: &[&dyn Target],
    options: &Options,
    shown: &mut Shown,
) -> Result<(), Failure> {
    let Some(path) = args.output.as_deref() else {
        let message = "found no -o, expected the name of the result".to_string();
        return Err(Failure::usage(message, "add -o OUT"));
    };
    let stub = match args.emit {
        Emit::Exe => Some(read_stub(args.stub.as_deref())?),
        _ => None,
    };
    let count = targets.iter().map(|t| levels(*t, options).len()).sum();
    let stub_bytes = stub.as_ref().map_or(0, |s| s.len() as u64);
    let forecast = Forecast::new(&lowered, count, stub_bytes);
    if !args.quiet {
        forecast.show();
    }
    forecast.check(path)?;
    let code = all_code(&lowered.kernels, targets, options, shown)?;
    let threads = args
        .threads
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let weights = match args.weights {
        Weights::Inline => WeightsPlace::Inline,
        Weights::External => WeightsPlace::External,
    };
    let output = Output { path, stub: stub.as_deref(), weights, threads };
    let summary = write(imported, lowered, &code, options, &output, shown)?;
    shown.finish();
    if !args.quiet {
        let size = crate::forecast::human(summary.file_bytes);
        eprintln!("wrote {} ({size})", path.display());
    }
    Ok(())
}

/// The executable that the model is appended to.
fn read_stub(given: Option<&Path>) -> Result<Vec<u8>, Failure> {
    const NAME: &str = "latent-run";
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(NAME));
    let path = given.map(Path::to_path_buf).or(beside).unwrap_or_else(|| NAME.into());
    std::fs::read(&path).map_err(|e| {
        let message = format!("cannot read the runtime {}: {e}", path.display());
        Failure::usage(message, "name it with --stub, or use --emit artifact")
    })
}
