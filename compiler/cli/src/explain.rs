//! `latentc explain`: what rewriting decides for a model on a device, and why.

use crate::compile::options;
use crate::diagnostic::Failure;
use crate::output;
use clap::Args;
use compiler::explain::{Question, explain as explained};
use compiler::import::{ImportOptions, import};
use compiler::rewrite::choose::Plan;
use compiler::rewrite::cost::Point;
use ir::device::{DeviceError, DeviceSpec};
use std::path::{Path, PathBuf};

/// Options of `explain`.
#[derive(Args)]
pub struct ExplainArgs {
    /// Checkpoint directory, or a lone config.json
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
    /// A device's name, or a file that describes one
    #[arg(long, value_name = "NAME|SPEC.json", default_value = "cpu")]
    device: String,
    /// A choice, key=value; `compile -C help` lists them
    #[arg(short = 'C', value_name = "KEY=VALUE")]
    codegen: Vec<String>,
    /// Print every block's graph before and after
    #[arg(long)]
    graphs: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Explains.
pub fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let options = options(&args.codegen)?;
    let device = device(&args.device)?;
    let context = args.context.unwrap_or(args.tokens);
    if context < args.tokens {
        let message =
            format!("found --context {context}, expected at least --tokens {}", args.tokens);
        return Err(Failure::usage(message, "T counts the step's own tokens, too"));
    }
    let imported = import(&args.model, &import_options(&args.model))?;
    let [batch, tokens, context] = [args.batch, args.tokens, context].map(i64::from);
    let point = Point { batch, tokens, context };
    let question = Question { plan: Plan::of(&options, &device), point };
    let explanation = explained(&imported.program, &question).map_err(|e| Failure::from(e.kind))?;
    let text = match args.json {
        true => {
            serde_json::to_string_pretty(&explanation)
                .map_err(|e| Failure::io("write", Path::new("-"), &std::io::Error::other(e)))?
                + "\n"
        }
        false => explanation.text(args.graphs),
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

fn device(name: &str) -> Result<DeviceSpec, Failure> {
    if let Some(device) = DeviceSpec::built_in(name) {
        return Ok(device);
    }
    let path = Path::new(name);
    if !path.is_file() {
        let expected = DeviceSpec::all_built_in().into_iter().map(|d| d.name).collect();
        return Err(Failure::device(name, DeviceError::Unknown { found: name.into(), expected }));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read", path, &e))?;
    DeviceSpec::from_json(&text).map_err(|e| Failure::device(name, e))
}
