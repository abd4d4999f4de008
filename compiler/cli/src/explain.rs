//! `latentc explain`: what rewriting decides for a model on a device, and why.

use crate::compile::options;
use crate::diagnostic::Failure;
use crate::verify::{certificates, fresh_seed};
use crate::{native, output};
use clap::Args;
use compiler::certificate;
use compiler::explain::{Question, compiled, explain as explained, svg};
use compiler::import::{ImportOptions, import};
use compiler::options::Options;
use compiler::rewrite::cost::Point;
use generate::GenerateError;
use generate::engine::Model;
use ir::device::{DeviceError, DeviceSpec};
use runtime::LoadOptions;
use serde::Serialize;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Options of `explain`.
#[derive(Args)]
pub struct ExplainArgs {
    /// Checkpoint directory or a lone config.json; or what was compiled: then its certificates
    /// are shown, and no device and step are asked for
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// New tokens of each sequence
    #[arg(long, value_name = "S", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Tokens of each sequence with the past [default: S]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,
    /// Sequences
    #[arg(long, value_name = "B", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// A device's name, a file that describes one, or `native`: this machine as measured now
    #[arg(long, value_name = "NAME|SPEC.json", default_value = "cpu")]
    device: String,
    /// A choice, key=value; `compile -C help` lists them
    #[arg(short = 'C', value_name = "KEY=VALUE")]
    codegen: Vec<String>,
    /// Print every block's graph before and after
    #[arg(long)]
    graphs: bool,
    /// Draw the time of each block that keeps something of a sequence by new tokens, up to T: as
    /// stated, and of each form that is chosen
    #[arg(long, value_name = "FILE.svg")]
    curve: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Explains.
pub fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    if is_compiled(&args.model) {
        if args.curve.is_some() {
            let message = "found --curve with what was compiled, expected a model".to_string();
            return Err(Failure::usage(message, "name the checkpoint or its config.json"));
        }
        return explain_compiled(args);
    }
    let options = options(&args.codegen)?;
    let device = device(&args.device, &options)?;
    let context = args.context.unwrap_or(args.tokens);
    if context < args.tokens {
        let message =
            format!("found --context {context}, expected at least --tokens {}", args.tokens);
        return Err(Failure::usage(message, "T counts the step's own tokens, too"));
    }
    let imported = import(&args.model, &import_options(&args.model))?;
    let [batch, tokens, context] = [args.batch, args.tokens, context].map(i64::from);
    let point = Point { batch, tokens, context };
    let curve = args.curve.is_some();
    let question = Question { options: &options, device: &device, point, curve };
    let explanation = explained(&imported.program, &question)?;
    if let (Some(path), Some(curves)) = (&args.curve, &explanation.curve) {
        output::write(Some(path), svg::draw(&device.name, curves).as_bytes())?;
    }
    show(args, &explanation, || explanation.text(args.graphs))
}

/// Whether a file is an artifact or an executable, by its first byte. No JSON begins so.
fn is_compiled(path: &Path) -> bool {
    let mut first = [0];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
    read.is_ok() && first == [0x7f]
}

fn explain_compiled(args: &ExplainArgs) -> Result<(), Failure> {
    let open = Model::open(&args.model, &LoadOptions::default());
    let model = open.map_err(GenerateError::from)?;
    let certificates = certificate::read(certificates(&model)?)?;
    let report = compiled::explain(model.manifest(), model.plan(), &certificates, fresh_seed());
    show(args, &report, || report.text(args.graphs))
}

/// Prints a report as it is wanted.
fn show(
    args: &ExplainArgs,
    report: &impl Serialize,
    text: impl Fn() -> String,
) -> Result<(), Failure> {
    let text = match args.json {
        true => {
            let json = serde_json::to_string_pretty(report).map_err(std::io::Error::other);
            json.map_err(|e| Failure::io("write", Path::new("-"), &e))? + "\n"
        }
        false => text(),
    };
    output::write(None, text.as_bytes())
}

/// A checkpoint's own weights are not read: shapes and encodings are all that is asked for.
fn import_options(model: &Path) -> ImportOptions {
    let alone = model.is_file() || !has_weights(model);
    ImportOptions { dummy_weights: alone.then_some(1), ..ImportOptions::default() }
}

fn has_weights(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|e| e.path().extension().is_some_and(|e| e == "safetensors"))
}

fn device(name: &str, options: &Options) -> Result<DeviceSpec, Failure> {
    if name == native::NAME {
        return native::measured(options);
    }
    if let Some(device) = DeviceSpec::built_in(name) {
        return Ok(device);
    }
    let path = Path::new(name);
    if !path.is_file() {
        let built_in = DeviceSpec::all_built_in().into_iter().map(|d| d.name);
        let expected = built_in.chain([native::NAME.to_string()]).collect();
        return Err(Failure::device(name, DeviceError::Unknown { found: name.into(), expected }));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    DeviceSpec::from_json(&text).map_err(|e| Failure::device(name, e))
}
