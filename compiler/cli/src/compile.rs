//! `latentc compile`: arguments to one file, or to a text on the way there.

use crate::diagnostic::Failure;
use crate::forecast::{Forecast, Stay, Work};
use crate::output::{self, Place};
use crate::progress::Shown;
use crate::targets;
use artifact::writer::{WeightsPlace, statement_path};
use clap::{Args, ValueEnum};
use compiler::attest::{Asked, Resource};
use compiler::compile::{
    CompileError, Output, Written, all_code, check_levels, levels, lower_forms, stay_in_checkpoint,
    write,
};
use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::variant::{StepRange, Variant};
use compiler::lower::{Lowered, states};
use compiler::options::{Options, help};
use compiler::variants::{ProgramForms, forms};
use generate::GenerateError;
use generate::command::interrupt;
use generate::command::material::{Files, Material, Recommended};
use ir::device::DeviceSpec;
use ir::error::Span;
use ir::graph::parse::parse_program;
use ir::kernel::Kernel;
use ir::target::{Listing, Target};
use jiff::Timestamp;
use std::collections::BTreeMap;
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
    /// Graphs to equal graphs that cost less, for each range of steps (text: graph)
    Rewrite,
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
    /// Nowhere: they stay in the checkpoint, and are packed while loading
    Checkpoint,
}

/// Options of `compile`.
#[derive(Args)]
pub struct CompileArgs {
    /// Checkpoint directory (config.json, safetensors), or with --dummy-weights a lone config.json
    #[arg(value_name = "MODEL")]
    model: Option<PathBuf>,
    /// The result
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Device to compile for
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = ["cpu"])]
    target: String,
    /// A choice, key=value; `-C help` lists them
    #[arg(short = 'C', value_name = "KEY=VALUE")]
    codegen: Vec<String>,
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
    /// Write OUT.intoto.json too: what the result was built of, as in-toto and SLSA state it
    #[arg(long)]
    attest: bool,
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

impl CompileArgs {
    /// Whether a text is asked for, not a model.
    fn is_text(&self) -> bool {
        self.stop_after.is_some() || !matches!(self.emit, Emit::Exe | Emit::Artifact)
    }

    fn threads(&self) -> usize {
        let own = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(own, usize::from)
    }
}

/// Compiles.
pub fn compile(args: &CompileArgs) -> Result<(), Failure> {
    if args.codegen.iter().any(|c| c == "help") {
        return output::write(None, help().as_bytes());
    }
    let options = options(&args.codegen)?;
    let model = consistent(args)?;
    let owned = targets::cpu(&options, args.threads());
    let targets: Vec<&dyn Target> = owned.iter().map(AsRef::as_ref).collect();
    check_levels(&targets, &options)?;
    let result = if args.is_text() { None } else { Some(Destination::check(args)?) };
    let mut imported = import(model, &import_options(args, &options))?;
    if let Some((name, text)) = read_text(args, "graph", &mut imported)? {
        let program = parse_program(&text);
        let sound = program.and_then(|program| program.verify().map(|()| program));
        let refused = |errors| Failure::text(&name, &text, errors);
        imported.program = sound.map_err(refused)?;
        if result.is_some() {
            imported.check_stored()?;
            imported.check_reach().map_err(refused)?;
        }
    }
    let mute = if result.is_some() { unreadable(&imported)? } else { None };
    if !args.quiet {
        warn(&imported, &options);
        mute.into_iter().for_each(|warning| output::note(&format!("warning: {warning}")));
    }
    if args.emit == Emit::Graph || args.stop_after == Some(Phase::Import) {
        return show(args, &imported.program.to_string());
    }
    let device = DeviceSpec::default();
    let forms = forms(&imported.program, &options, &device).map_err(CompileError::Rewrite)?;
    if !args.quiet {
        forms.limited.iter().for_each(|limited| output::note(&format!("warning: {limited}")));
        if result.is_some() {
            output::note(&forms.invariance.to_string());
        }
    }
    let options = forms.decided(&options);
    if args.stop_after == Some(Phase::Rewrite) {
        return show(args, &rewritten(&forms));
    }
    let mut lowered = lower_forms(forms, &options, &device)?;
    if let Some((name, text)) = read_text(args, "kernel", &mut imported)? {
        replace_kernels(&mut lowered, &name, &text)?;
    }
    // What stops after a phase has kernels at most.
    let emit = if args.stop_after.is_some() { Emit::Kernel } else { args.emit };
    match (&result, emit) {
        (Some(result), _) => package(args, &imported, lowered, &targets, &options, result),
        (None, Emit::LlvmIr) => listing(args, &lowered, &targets, &options, Listing::Ir),
        (None, Emit::Asm) => listing(args, &lowered, &targets, &options, Listing::Asm),
        (None, _) => {
            let texts: Vec<String> = lowered.kernels.iter().map(ToString::to_string).collect();
            show(args, &texts.join("\n"))
        }
    }
}

/// The model, of arguments that go together.
fn consistent(args: &CompileArgs) -> Result<&Path, Failure> {
    let Some(model) = &args.model else {
        let message = "found no MODEL, expected a checkpoint directory".to_string();
        return Err(Failure::usage(message, "`latentc compile MODEL -o OUT`"));
    };
    if args.weights == Weights::Checkpoint && args.dummy_weights.is_some() {
        let message = "found --weights checkpoint, expected inline or external".to_string();
        return Err(Failure::usage(message, "made-up weights lie in no checkpoint"));
    }
    if args.attest && args.is_text() {
        let message = "found --attest with a text, expected a model to write".to_string();
        return Err(Failure::usage(message, "leave out --attest, or what asks for the text"));
    }
    Ok(model)
}

/// All choices of `-C`, or all that is wrong with them.
pub fn options(choices: &[String]) -> Result<Options, Failure> {
    let mut options = Options::default();
    let set = |choice: &String| options.set(choice).err().map(Failure::from);
    Failure::all(choices.iter().filter_map(set).collect())?;
    if targets::cpu(&options, 1).is_empty() {
        let message = "found -C backend=llvm, expected cranelift: this build has no LLVM".into();
        return Err(Failure::usage(message, "build latentc with the feature `llvm`"));
    }
    Ok(options)
}

/// What a model will not be able to say, by the tokenizer and the template beside it.
fn unreadable(imported: &Imported) -> Result<Option<String>, Failure> {
    let file = |name: &str| {
        let file = imported.companions.iter().find(|c| c.name == name);
        file.map(|c| c.bytes.as_slice())
    };
    let files = Files {
        tokenizer: file("tokenizer.json"),
        tokenizer_config: file("tokenizer_config.json"),
        chat_template: file("chat_template.jinja"),
    };
    let material = Material::new(files, &[], &[], Recommended::default())?;
    if files.tokenizer.is_none() {
        let lost = "`run --prompt` and `chat` will not work, `run --prompt-ids` will";
        return Ok(Some(format!("no tokenizer.json: {lost}")));
    }
    Ok(match material.template() {
        Ok(_) | Err(GenerateError::NoChatTemplate) => None,
        Err(error) => Some(format!("{error}: `chat` will not work, `run` will")),
    })
}

/// Says what is odd.
fn warn(imported: &Imported, options: &Options) {
    for warning in &imported.warnings {
        output::note(&format!("warning: {warning}"));
    }
    if let Some(asked) = options.context.filter(|c| i64::from(*c) > imported.info.context) {
        let has = imported.info.context;
        let more = format!("context={asked} is more than the model has; it stays {has}");
        output::note(&format!("warning: {more}"));
    }
}

fn import_options(args: &CompileArgs, options: &Options) -> ImportOptions {
    ImportOptions {
        dummy_weights: args.dummy_weights,
        context: options.context.map(i64::from),
        ..ImportOptions::default()
    }
}

/// The text given by `--from`, if it is of this kind; an input of the model from now on.
fn read_text(
    args: &CompileArgs,
    kind: &str,
    imported: &mut Imported,
) -> Result<Option<(String, String)>, Failure> {
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
    imported.reads(path, text.as_bytes());
    Ok(Some((path.display().to_string(), text)))
}

/// Steps by new tokens and context, in words.
fn range(steps: &StepRange) -> String {
    let of = |what: &str, (lo, hi): (i64, i64)| match hi {
        i64::MAX => format!("{what} from {lo}"),
        hi => format!("{what} {lo} to {hi}"),
    };
    format!("{}, {}", of("new tokens", steps.tokens), of("context", steps.context))
}

/// The text of each range's program.
fn rewritten(forms: &ProgramForms) -> String {
    let text = |v: &Variant| {
        let ranges: Vec<String> = v.steps.iter().map(range).collect();
        format!("// {}; {}\n{}", v.bucket, ranges.join(" or "), v.program)
    };
    forms.variants.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Puts kernels of a text in the place of those of the same names.
fn replace_kernels(lowered: &mut Lowered, name: &str, text: &str) -> Result<(), Failure> {
    let parsed = ir::kernel::parse::kernels_named(text);
    let kernels = parsed.map_err(|errors| Failure::text(name, text, errors))?;
    let mut wrong = vec![];
    if kernels.is_empty() {
        wrong.push(("found no kernel, expected at least one".to_string(), Span::default()));
    }
    for (kernel, span) in kernels {
        let place = lowered.kernels.iter_mut().find(|k| k.name == kernel.name);
        let expected = match &place {
            None => "expected the name of one of the plan's",
            Some(k) if !same_interface(k, &kernel) => "expected the plan's interface",
            Some(_) => "",
        };
        match place.filter(|_| expected.is_empty()) {
            Some(place) => *place = kernel,
            None => {
                wrong.push((format!("found kernel @{}, {expected}", kernel.name), span));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::kernels(name, text, wrong)) }
}

/// Whether launches of one kernel are launches of the other.
fn same_interface(a: &Kernel, b: &Kernel) -> bool {
    let names = |k: &Kernel| k.symbols.keys().cloned().collect::<Vec<_>>();
    a.params == b.params && names(a) == names(b) && a.grid.axes.len() == b.grid.axes.len()
}

/// Prints a text, or writes it to the file of `-o`.
fn show(args: &CompileArgs, text: &str) -> Result<(), Failure> {
    output::write(args.output.as_deref(), text.as_bytes())
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
        text += &listed.map_err(CompileError::Target)?;
    }
    show(args, &text)
}

/// Where a model goes, and what stands in front of it: whatever can be wrong before work starts.
struct Destination {
    place: Place,
    stub: Option<Vec<u8>>,
    /// What a statement is to say beside the manifest, if one is wanted.
    attest: Option<Asked>,
}

impl Destination {
    fn check(args: &CompileArgs) -> Result<Destination, Failure> {
        let Some(path) = args.output.as_deref() else {
            let message = "found no -o, expected the name of the result".to_string();
            return Err(Failure::usage(message, "add -o OUT"));
        };
        let place = Place::check(path)?;
        let stub = match args.emit {
            Emit::Exe => Some(output::read_stub(args.stub.as_deref())?),
            _ => None,
        };
        let attest = args.attest.then(|| asked(stub.as_deref())).transpose()?;
        Ok(Destination { place, stub, attest })
    }
}

/// What a statement of provenance says beside the manifest.
fn asked(stub: Option<&[u8]>) -> Result<Asked, Failure> {
    let files = stub.iter().map(|bytes| Resource::of(output::STUB, bytes)).collect();
    Ok(Asked { files, time: source_date()? })
}

/// Flags that decide what is in the result, by their long names. Files are named without folders:
/// where they lie decides nothing.
fn flags(args: &CompileArgs) -> BTreeMap<String, String> {
    let value = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_string()).unwrap_or_default()
    };
    let from = args.from.as_deref().and_then(Path::file_name);
    let flags = [
        ("target", Some(args.target.clone())),
        ("emit", Some(value(args.emit.to_possible_value()))),
        ("weights", Some(value(args.weights.to_possible_value()))),
        ("dummy-weights", args.dummy_weights.map(|seed| seed.to_string())),
        ("from", from.map(|name| name.to_string_lossy().into_owned())),
    ];
    flags.into_iter().filter_map(|(flag, value)| Some((flag.to_string(), value?))).collect()
}

/// The time that reproducible builds are told, `SOURCE_DATE_EPOCH`
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn source_date() -> Result<Option<Timestamp>, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let Some(text) = std::env::var_os(NAME) else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(Some).ok_or_else(|| {
        let message = format!("found {NAME}={text:?}, expected seconds since 1970");
        Failure::usage(message, "give it a number, or unset it")
    })
}

fn package(
    args: &CompileArgs,
    imported: &Imported,
    lowered: Lowered,
    targets: &[&dyn Target],
    options: &Options,
    result: &Destination,
) -> Result<(), Failure> {
    let recipe = match args.weights {
        Weights::Checkpoint => {
            Some(stay_in_checkpoint(imported, &lowered).map_err(CompileError::Import)?)
        }
        Weights::Inline | Weights::External => None,
    };
    let (levels, kernel_s) = targets::work(targets, options, args.threads());
    let stay = recipe.as_ref().map(|recipe| Stay::new(recipe, &lowered));
    let work = Work {
        stay,
        levels,
        kernel_s,
        stub_bytes: result.stub.as_ref().map_or(0, |s| s.len() as u64),
        companion_bytes: imported.companions.iter().map(|c| c.bytes.len() as u64).sum(),
        threads: args.threads(),
        attested_bytes: match args.attest {
            true => imported.inputs.iter().map(|input| input.bytes).sum(),
            false => 0,
        },
    };
    let forecast = Forecast::new(&lowered, &work);
    if !args.quiet {
        forecast.show();
        for state in states::cut(&lowered.plan.states, options) {
            let asked = options.state.map_or("auto", |format| format.name);
            let rows = "whose rows are not of whole blocks";
            output::note(&format!("KV cache not as {asked}, {rows}: {}", state.row));
        }
        stay.iter().zip(&recipe).for_each(|(stay, recipe)| stay.show(&recipe.folder));
    }
    forecast.check(&result.place.folder)?;
    let mut shown = Shown::new(args.quiet);
    let code = all_code(&lowered.kernels, targets, options, &mut shown)?;
    // Until here a signal ends the process at once; from here on there is a file to remove.
    interrupt::tidy_up_at_end(&result.place.path)?;
    let weights = match args.weights {
        Weights::Inline | Weights::Checkpoint => WeightsPlace::Inline,
        Weights::External => WeightsPlace::External,
    };
    let attest = result.attest.clone();
    let (path, stub) = (result.place.path.as_path(), result.stub.as_deref());
    let (flags, threads) = (flags(args), args.threads());
    let output = Output { path, stub, weights, recipe, flags, threads, attest };
    let Written { summary, formats } =
        write(imported, lowered, &code, options, &output, &mut shown)?;
    shown.finish();
    if !args.quiet {
        formats.to_string().lines().for_each(output::note);
        let size = crate::forecast::human(summary.file_bytes);
        output::note(&format!("wrote {} ({size})", path.display()));
        if let Some(weights) = &summary.weights_file {
            output::note(&format!("wrote {}; keep it beside the former", weights.display()));
        }
        if args.attest {
            output::note(&format!("wrote {}", statement_path(path).display()));
        }
    }
    Ok(())
}
