//! From arguments to the command that they ask for.

use super::args::{Command, LoadArgs};
use super::interrupt::{self, Interrupt};
use super::material::Material;
use super::{Streams, bench, chat, fit, ids, inspect, logits, run, verify};
use crate::engine::ModelEngine;
use crate::error::Result;
use clap::Args;
use runtime::Model;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Executes `command`; `open` opens the model that `F` names.
///
/// # Errors
/// What opening and the command report.
pub fn execute<F: Args>(
    command: Command<F>,
    open: &dyn Fn(F, &LoadArgs) -> Result<Model>,
    streams: &mut Streams<'_>,
) -> Result<()> {
    let interrupt = &Interrupt::install()?;
    match command {
        Command::Run { file, args } => {
            let model = Arc::new(open(file, &args.load)?);
            let material = Material::of(&model)?;
            let prompt = run::prompt(&material, &args)?;
            let tokens = prompt.len().saturating_add(args.max_tokens);
            let engine = ModelEngine::new(&model, fit(&model, tokens))?;
            if !args.json {
                streams.note(&how(&model));
            }
            run::run(engine, &material, prompt, &args, &about(&model), interrupt, streams)
        }
        Command::Chat { file, args } => {
            let model = Arc::new(open(file, &args.load)?);
            let material = Material::of(&model)?;
            let engine = ModelEngine::new(&model, fit(&model, args.context.unwrap_or(usize::MAX)))?;
            chat::chat(engine, material, &args, interrupt, streams)
        }
        Command::Bench { file, args } => {
            bench::bench(&Arc::new(open(file, &args.measure.load)?), &args, streams)
        }
        Command::Logits { file, args } => {
            let prompts = ids::sequences(&args.tokens)?;
            let model = Arc::new(open(file, &args.load)?);
            let mut engine = ModelEngine::new(&model, room(&model, &prompts, args.batched))?;
            // Ctrl-C no longer ends the process at once.
            interrupt.generating();
            interrupt::tidy_up_at_end(&args.output)?;
            logits::write_logits(&mut engine, &prompts, args.feed(), &args.output)
        }
        Command::Verify { file, args } => {
            let model = Arc::new(open(file, &LoadArgs { check: true, ..args.load.clone() })?);
            verify::verify(&model, &args, &[], streams)
        }
        Command::Inspect { file, args } => {
            inspect::inspect(&open(file, &LoadArgs::default())?, args.json, streams)
        }
    }
}

/// Tokens to have room for: each prompt takes whole pages.
fn room(model: &Model, prompts: &[Vec<i32>], batched: bool) -> usize {
    let page = model.plan().states.iter().map(|s| s.page_tokens as usize).max().unwrap_or(1);
    let lengths = prompts.iter().map(|p| p.len().next_multiple_of(page.max(1)));
    if batched { lengths.sum() } else { fit(model, lengths.max().unwrap_or(0)) }
}

/// How the model runs, in one line.
fn how(model: &Model) -> String {
    let checked = if model.weights_checked() {
        "weights checked"
    } else {
        "weights not checked (`verify` or --check does)"
    };
    format!("{} threads, {}/{}, {checked}", model.threads(), model.isa(), model.backend())
}

/// How the model runs, as keys of a JSON object.
pub(super) fn about(model: &Model) -> Map<String, Value> {
    let facts = [
        ("model", json!(model.manifest().model.name)),
        ("threads", json!(model.threads())),
        ("isa", json!(model.isa())),
        ("backend", json!(model.backend())),
        ("weights_checked", json!(model.weights_checked())),
    ];
    facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
