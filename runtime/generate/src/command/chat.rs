//! `chat`: a conversation, line by line.

use super::args::ChatArgs;
use super::interrupt::Interrupt;
use super::material::Material;
use super::run::collect;
use super::{Streams, stats_line};
use crate::chat::{ChatOptions, ChatTemplate, Message};
use crate::engine::Engine;
use crate::error::{GenerateError, Result};
use crate::generator::Generator;
use crate::sample::Sampling;
use crate::schedule::Bounds;
use crate::sequence::{FinishReason, Request};
use crate::tokenize::{Bos, Tokenizer};
use std::sync::Arc;

const WELCOME: &str = "/exit ends, /reset forgets, Ctrl-C stops an answer";

/// Reads lines and answers each with what was said before in mind, until `/exit` or the end of
/// the input. `/reset` begins anew. A turn that cannot be answered is reported and forgotten.
///
/// # Errors
/// If the model has no tokenizer or template, if the engine fails, and
/// [`GenerateError::OutputClosed`] once nobody reads the output.
pub fn chat<E: Engine>(
    engine: E,
    material: Material,
    args: &ChatArgs,
    interrupt: &Interrupt,
    streams: &mut Streams<'_>,
) -> Result<()> {
    let tokenizer = Arc::clone(material.tokenizer()?);
    let bounds = Bounds { chunk: args.chunk, sequences: 1 };
    let mut conversation = Conversation {
        generator: Generator::new(engine, Some(Arc::clone(&tokenizer)), bounds),
        tokenizer,
        sampling: material.recommended.with(&args.sampling),
        stop: material.stop().to_vec(),
        max_tokens: args.max_tokens.unwrap_or(usize::MAX),
        interrupt,
        template: material.template()?,
        messages: Vec::new(),
    };
    conversation.sampling.check()?;
    conversation.reset(args);
    if streams.interactive {
        streams.note(WELCOME);
    }
    loop {
        interrupt.idle();
        if streams.interactive {
            streams.say("> ")?;
        }
        let Some(line) = read_line(streams)? else { break };
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/reset" => conversation.reset(args),
            _ => conversation.turn(line, streams)?,
        }
    }
    if streams.interactive { streams.say("\n") } else { Ok(()) }
}

/// The next line without its end; `None` at the end of the input. Bytes that are not UTF-8 become
/// U+FFFD.
fn read_line(streams: &mut Streams<'_>) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let count = streams.input.read_until(b'\n', &mut bytes).map_err(|source| {
        GenerateError::Io { action: "read", name: "standard input".to_owned(), source }
    })?;
    let text = String::from_utf8_lossy(&bytes);
    Ok((count > 0).then(|| text.trim_end_matches(['\n', '\r']).to_owned()))
}

struct Conversation<'a, E> {
    generator: Generator<E>,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    sampling: Sampling,
    stop: Vec<i32>,
    max_tokens: usize,
    interrupt: &'a Interrupt,
    messages: Vec<Message>,
}

impl<E: Engine> Conversation<'_, E> {
    fn reset(&mut self, args: &ChatArgs) {
        self.messages = args.system.iter().map(|text| Message::new("system", text)).collect();
    }

    fn turn(&mut self, line: String, streams: &mut Streams<'_>) -> Result<()> {
        let before = self.messages.len();
        self.messages.push(Message::new("user", line));
        match self.answer(streams) {
            Ok(text) => {
                self.messages.push(Message::new("assistant", text));
                Ok(())
            }
            Err(
                error @ (GenerateError::PromptTooLong { .. }
                | GenerateError::TooFewPages { .. }
                | GenerateError::Encode { .. }
                | GenerateError::Template { .. }
                | GenerateError::EndlessTemplate { .. }),
            ) => {
                self.messages.truncate(before);
                streams.report(&error);
                streams.note("this line was forgotten; /reset begins a new conversation");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn answer(&mut self, streams: &mut Streams<'_>) -> Result<String> {
        // From the first: a long line is rendered and encoded for a while.
        let cancel = Some(self.interrupt.generating());
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let prompt = self.template.render(&self.messages, &options)?;
        self.generator.submit(Request {
            prompt: self.tokenizer.encode(&prompt, Bos::AsWritten)?,
            max_tokens: self.max_tokens,
            sampling: self.sampling,
            stop: self.stop.clone(),
            cancel,
            retain: true,
        })?;
        let mut show = |streams: &mut Streams<'_>, _: Option<i32>, text: &str| streams.say(text);
        let done = collect(&mut self.generator, streams, &mut show)?;
        streams.say("\n")?;
        if streams.interactive {
            streams.note(&stats_line(&done.stats));
        }
        match done.reason {
            FinishReason::ContextFull | FinishReason::PagesFull => {
                streams.note("stopped: the context is full; /reset begins a new conversation");
            }
            FinishReason::Cancelled => streams.note("stopped"),
            FinishReason::Stop | FinishReason::MaxTokens => {}
        }
        Ok(done.text)
    }
}
