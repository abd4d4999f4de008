//! `latentc diff`: compiled code beside the interpreter, launch by launch; beside another file of
//! the model, call by call; or beside goldens.

use crate::diagnostic::Failure;
use crate::output;
use crate::progress::Shown;
use clap::Args;
use generate::GenerateError;
use generate::command::args::{LoadArgs, tolerance};
use generate::command::goldens::{self, Golden};
use generate::command::goldens_report::Compared;
use generate::command::verify::compare;
use generate::command::{Streams, ids};
use generate::engine::Model;
use serde::Serialize;
use serde_json::json;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tools::against::{Side, against};
use tools::diff::diff as compared;
use tools::diff::report::Report;
use tools::remade::remade;

/// What stands for no file.
const INTERPRETER: &str = "interpreter";
/// Most prompt tokens of a step beside goldens.
const CHUNK: usize = 512;

/// Options of `diff`.
#[derive(Args)]
pub struct DiffArgs {
    /// Artifact or executable made by `latentc compile`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Compare each launch with the kernel interpreter, or each call of a block with that of another
    /// file of the same model: of other options, levels, backends or forms
    #[arg(long, value_name = "interpreter|FILE2", default_value = INTERPRETER)]
    against: PathBuf,
    /// In FILE2, use the code for this level of the instruction set [default: the best that this CPU
    /// has]
    #[arg(long, value_name = "LEVEL")]
    against_isa: Option<String>,
    /// Compare logits with this file (NAME.json, with NAME.safetensors beside it); where a row is
    /// beyond its bound, each launch of that prompt with the kernel interpreter
    #[arg(long, value_name = "GOLDENS.json", conflicts_with_all = ["against", "tokens"])]
    goldens: Option<PathBuf>,
    /// Relative L2 error of the logits allowed at each position of the goldens [default: 0.001; in
    /// bf16 0.03 with a median of 0.02, but for prompts with a choice of experts so close that bf16
    /// may turn it]
    #[arg(long, value_name = "E", value_parser = tolerance, requires = "goldens")]
    tolerance: Option<f64>,
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
    let is_file = args.against != Path::new(INTERPRETER);
    if args.against_isa.is_some() && !is_file {
        let message = "found --against-isa without a second file".to_string();
        return Err(Failure::usage(message, "name the file with `--against FILE2`"));
    }
    let sequences = args.tokens.as_deref().map_or(Ok(vec![]), ids::sequences)?;
    let model = open(&args.file, &args.load)?;
    if let Some(path) = &args.goldens {
        return beside_goldens(args, &model, &goldens::read(path)?);
    }
    if !is_file {
        let report = launches(&model, &sequences)?;
        args.print(&report)?;
        return Ok(report.verdict()?);
    }
    let isa = args.against_isa.clone();
    let second = open(&args.against, &LoadArgs { isa, ..args.load.clone() })?;
    let made = [remade(&model)?, remade(&second)?];
    let sides = [(&model, &made[0]), (&second, &made[1])];
    let sides = sides.map(|(model, made)| Side { model, made });
    let mut shown = Shown::new(false);
    let report = against(sides, &sequences, &mut shown)?;
    shown.finish();
    args.print(&report)?;
    Ok(report.verdict()?)
}

fn open(path: &Path, load: &LoadArgs) -> Result<Arc<Model>, Failure> {
    Ok(Arc::new(Model::open(path, &load.options()).map_err(GenerateError::from)?))
}

/// Each launch beside the interpreter.
fn launches(model: &Arc<Model>, sequences: &[Vec<i32>]) -> Result<Report, Failure> {
    let made = remade(model)?;
    let mut shown = Shown::new(false);
    let report = compared(model, &made.lowered, sequences, &mut shown)?;
    shown.finish();
    Ok(report)
}

/// Logits beside goldens and, of the first prompt with a row beyond its bound, launches up to it.
fn beside_goldens(args: &DiffArgs, model: &Arc<Model>, all: &[Golden]) -> Result<(), Failure> {
    let found = compare(model, all, args.tolerance, CHUNK)?;
    let first = found.first_beyond();
    let of_row = |(prompt, position, _): (usize, usize, f64)| {
        let golden: &Golden = &all[prompt];
        launches(model, &[golden.input[..=position].to_vec()])
    };
    let departs = first.map(of_row).transpose()?;
    if args.json {
        let row = first.map(|(prompt, position, error)| {
            let prompt = all[prompt].index;
            json!({"prompt": prompt, "position": position, "relative_error": error})
        });
        args.json(&json!({"goldens": found.object(), "first": row, "launches": departs}))?;
    } else {
        match Streams::standard(|streams| found.print(streams)) {
            Err(GenerateError::OutputClosed) => {}
            other => other?,
        }
        let row = first.map(|(prompt, position, error)| {
            let prompt = all[prompt].index;
            format!("first row beyond: prompt {prompt}, position {position}, {error:.2e}\n")
        });
        let launches = departs.as_ref().map(Report::to_string);
        let text = [row, launches].into_iter().flatten().collect::<String>();
        output::write(None, text.as_bytes())?;
    }
    verdict(&found, departs.as_ref())
}

/// A launch at fault says more than the goldens that show it.
fn verdict(found: &Compared, departs: Option<&Report>) -> Result<(), Failure> {
    departs.map_or(Ok(()), Report::verdict)?;
    Ok(found.verdict()?)
}

impl DiffArgs {
    fn print(&self, report: &(impl Display + Serialize)) -> Result<(), Failure> {
        match self.json {
            true => self.json(report),
            false => output::write(None, report.to_string().as_bytes()),
        }
    }

    fn json(&self, report: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(report).map_err(std::io::Error::other);
        let json = json.map_err(|e| Failure::io("write", Path::new("-"), &e))? + "\n";
        output::write(None, json.as_bytes())
    }
}
