//! `run`: continue a prompt.

use super::args::RunArgs;
use super::interrupt::Interrupt;
use super::material::Material;
use super::{Streams, ids, stats_json, stats_line};
use crate::engine::Engine;
use crate::error::{GenerateError, Result};
use crate::generator::{EventKind, Generator};
use crate::schedule::Bounds;
use crate::sequence::{FinishReason, Request, Stats};
use crate::tokenize::Bos;
use serde_json::{Map, Value, json};

/// Continues `prompt`. Text (ids, if the model has no tokenizer) streams to the
/// output and statistics go to standard error, or with `--json` one object goes to the output:
/// `{text, ids, prompt_ids, reason, sampling, prompt_tokens, generated_tokens,
/// prefill_tokens_per_s, decode_tokens_per_s, time_to_first_token_s}` and the keys of `about`.
///
/// # Errors
/// Whatever generation reports; [`GenerateError::OutputClosed`] once nobody reads the output.
pub fn run<E: Engine>(
    engine: E,
    material: &Material,
    prompt: Vec<i32>,
    args: &RunArgs,
    about: &Map<String, Value>,
    interrupt: &Interrupt,
    streams: &mut Streams<'_>,
) -> Result<()> {
    let sampling = material.recommended.with(&args.sampling);
    let tokenizer = material.tokenizer().ok().cloned();
    let with_text = tokenizer.is_some();
    let bounds = Bounds { chunk: args.chunk, sequences: 1 };
    let mut generator = Generator::new(engine, tokenizer, bounds);
    generator.submit(Request {
        prompt: prompt.clone(),
        max_tokens: args.max_tokens,
        sampling,
        stop: if args.ignore_eos { Vec::new() } else { material.stop().to_vec() },
        cancel: Some(interrupt.generating()),
        retain: false,
    })?;
    let mut show = |streams: &mut Streams<'_>, id: Option<i32>, text: &str| match id {
        _ if args.json => Ok(()),
        Some(id) if !with_text => streams.say(&format!("{id} ")),
        _ => streams.say(text),
    };
    let done = collect(&mut generator, streams, &mut show)?;
    interrupt.idle();
    if !args.json {
        streams.say("\n")?;
        streams.note(&stats_line(&done.stats));
        if matches!(done.reason, FinishReason::ContextFull | FinishReason::PagesFull) {
            streams.note("stopped: the model's context is full");
        }
        return Ok(());
    }
    let mut object = Map::new();
    object.insert("text".into(), if with_text { json!(done.text) } else { Value::Null });
    object.insert("ids".into(), json!(done.ids));
    object.insert("prompt_ids".into(), json!(prompt));
    object.insert("reason".into(), json!(done.reason));
    object.insert("sampling".into(), json!(sampling));
    object.extend(stats_json(&done.stats));
    object.extend(about.clone());
    streams.json(&Value::Object(object))
}

/// Token ids of the prompt that `args` give as text or as ids.
///
/// # Errors
/// [`GenerateError::NoTokenizer`] for text without a tokenizer, [`GenerateError::BadIds`].
pub fn prompt(material: &Material, args: &RunArgs) -> Result<Vec<i32>> {
    match (&args.prompt, &args.prompt_ids) {
        (Some(text), _) => material.tokenizer()?.encode(text, Bos::Add),
        (None, Some(list)) => ids::prompt(list),
        (None, None) => Err(GenerateError::EmptyPrompt),
    }
}

/// A finished sequence.
pub(super) struct Done {
    pub ids: Vec<i32>,
    pub text: String,
    pub reason: FinishReason,
    pub stats: Stats,
}

/// Called with each token and its text, and with the rest of the text at the end.
pub(super) type Show<'s> = dyn FnMut(&mut Streams<'_>, Option<i32>, &str) -> Result<()> + 's;

/// Runs the generator's only sequence to its end.
pub(super) fn collect<E: Engine>(
    generator: &mut Generator<E>,
    streams: &mut Streams<'_>,
    show: &mut Show<'_>,
) -> Result<Done> {
    let (mut ids, mut all) = (Vec::new(), String::new());
    loop {
        // A generator with a sequence ends only after that sequence's last event.
        let Some(event) = generator.next() else { return Err(GenerateError::EmptyPrompt) };
        match event?.kind {
            EventKind::Token { id, text } => {
                show(streams, Some(id), &text)?;
                ids.push(id);
                all.push_str(&text);
            }
            EventKind::Finished { reason, text, stats } => {
                show(streams, None, &text)?;
                all.push_str(&text);
                return Ok(Done { ids, text: all, reason, stats });
            }
            EventKind::Failed(error) => return Err(error),
        }
    }
}
