//! `latentc diff`: compiled code beside the interpreter, launch by launch.

use crate::diagnostic::Failure;
use crate::output;
use crate::progress::Shown;
use clap::Args;
use generate::GenerateError;
use generate::command::args::LoadArgs;
use generate::command::ids;
use generate::engine::Model;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tools::diff::diff as compared;
use tools::remade::remade;

/// Options of `diff`.
#[derive(Args)]
pub struct DiffArgs {
    /// Artifact or executable made by `latentc compile`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// JSON file with a list of token ids for each sequence [default: a few made-up ones]
    #[arg(long, value_name = "IDS.json")]
    tokens: Option<PathBuf>,
    /// How the model is loaded.
    #[command(flatten)]
    load: LoadArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Compares.
pub fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let sequences = args.tokens.as_deref().map_or(Ok(vec![]), ids::sequences)?;
    let open = Model::open(&args.file, &args.load.options());
    let model = Arc::new(open.map_err(GenerateError::from)?);
    let made = remade(&model)?;
    let mut shown = Shown::new(false);
    let report = compared(&model, &made.lowered, &sequences, &mut shown)?;
    shown.finish();
    let text = match args.json {
        true => {
            let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::other);
            json.map_err(|e| Failure::io("write", Path::new("-"), &e))? + "\n"
        }
        false => report.to_string(),
    };
    output::write(None, text.as_bytes())?;
    Ok(report.verdict()?)
}
