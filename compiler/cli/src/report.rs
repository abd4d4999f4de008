//! `latentc report`: a page about what was compiled, measured on this machine.

use crate::diagnostic::Failure;
use crate::output::{self, Place};
use crate::verify::{certificates, fresh_seed};
use clap::Args;
use compiler::certificate;
use compiler::explain::compiled;
use generate::GenerateError;
use generate::command::args::MeasureArgs;
use generate::command::bench;
use generate::engine::Model;
use runtime::Shape;
use std::path::PathBuf;
use std::sync::Arc;
use tools::report::{Phase, html};

/// Options of `report`.
#[derive(Args)]
pub struct ReportArgs {
    /// Artifact or executable made by `latentc compile`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to write the page
    #[arg(short, long, value_name = "OUT.html")]
    output: PathBuf,
    /// What is measured.
    #[command(flatten)]
    measure: MeasureArgs,
}

/// Measures and writes the page.
pub fn report(args: &ReportArgs) -> Result<(), Failure> {
    let place = Place::check(&args.output)?;
    let load = args.measure.load.options();
    let model = Arc::new(Model::open(&args.file, &load).map_err(GenerateError::from)?);
    let certificates = certificate::read(certificates(&model)?)?;
    let measured = bench::measured(&model, &args.measure)?;
    let compiled = compiled::explain(model.manifest(), model.plan(), &certificates, fresh_seed());
    let prefill = Phase {
        name: "prefill",
        tokens: args.measure.prompt_tokens,
        time: measured.times.prefill,
        shape: shape(&model, last_chunk(&args.measure), args.measure.prompt_tokens),
        kernels: &measured.prefill,
    };
    let decode = Phase {
        name: "decode",
        tokens: args.measure.gen_tokens,
        time: measured.times.decode,
        shape: shape(&model, 1, args.measure.start() + args.measure.gen_tokens),
        kernels: &measured.decode,
    };
    let page = html(&model, measured.limits, &[prefill, decode], &compiled)?;
    output::write(Some(&place.path), page.as_bytes())
}

/// Tokens of a prompt's last step.
fn last_chunk(args: &MeasureArgs) -> usize {
    (args.prompt_tokens - 1) % args.chunk + 1
}

/// The step of one sequence that takes in so many tokens, and has so many then.
fn shape(model: &Model, new: usize, all: usize) -> Shape {
    let page = model.plan().states.iter().map(|s| u64::from(s.page_tokens)).max().unwrap_or(1);
    let pages = (all as u64).div_ceil(page.max(1));
    Shape { n: new as u64, b: 1, m: 1, mp: pages, t: all as u64, pg: pages }
}
