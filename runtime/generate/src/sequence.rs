//! One prompt and its continuation.

use crate::engine::{Part, Want};
use crate::sample::Sampling;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Names a sequence of a scheduler, in the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SequenceId(pub u64);

/// A prompt with all that decides on its continuation.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Token ids, at least one.
    pub prompt: Vec<i32>,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Ids that end the sequence; the one that did is part of the result.
    pub stop: Vec<i32>,
    /// Ends the sequence once true.
    pub cancel: Option<Arc<AtomicBool>>,
    /// Keep the states afterwards for prompts that begin alike.
    pub retain: bool,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop token was generated.
    Stop,
    /// [`Request::max_tokens`] were generated.
    MaxTokens,
    /// The model's context is full.
    ContextFull,
    /// The state pages are full, with no other sequence to wait for.
    PagesFull,
    /// [`Request::cancel`] was set.
    Cancelled,
}

/// What a sequence took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose states were there already.
    pub reused_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// From submission to the first token.
    pub first_token: Option<Duration>,
    /// From the first step to the first token.
    pub prefill: Duration,
    /// From the first to the last token.
    pub decode: Duration,
}

impl Stats {
    /// Prompt tokens computed per second.
    pub fn prefill_tokens_per_s(&self) -> Option<f64> {
        rate(self.prompt_tokens - self.reused_tokens, self.prefill)
    }

    /// Tokens per second after the first.
    pub fn decode_tokens_per_s(&self) -> Option<f64> {
        rate(self.generated_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// A request at work.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: SequenceId,
    pub request: Request,
    /// Prompt and what was generated.
    pub tokens: Vec<i32>,
    /// Tokens whose states are in the pages.
    pub fed: usize,
    pub pages: Vec<u32>,
    pub stats: Stats,
    pub submitted: Instant,
    pub started: Option<Instant>,
    pub first: Option<Instant>,
}

impl Sequence {
    pub fn new(id: SequenceId, request: Request) -> Self {
        Sequence {
            id,
            tokens: request.prompt.clone(),
            fed: 0,
            pages: Vec::new(),
            stats: Stats { prompt_tokens: request.prompt.len(), ..Stats::default() },
            submitted: Instant::now(),
            started: None,
            first: None,
            request,
        }
    }

    pub fn cancelled(&self) -> bool {
        self.request.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// The sequence's part in a step that feeds its next `count` tokens.
    pub fn part(&self, count: usize) -> Part<'_> {
        Part {
            tokens: &self.tokens[self.fed..self.fed + count],
            past: self.fed,
            pages: &self.pages,
            want: if self.ends_with(count) { Want::Last } else { Want::None },
        }
    }

    /// Whether nothing is left to feed after `count` more tokens.
    pub fn ends_with(&self, count: usize) -> bool {
        count > 0 && self.fed + count == self.tokens.len()
    }

    /// Adds a token; says why the sequence ends with it, if it does.
    pub fn push(&mut self, token: i32, context: usize) -> Option<FinishReason> {
        let now = Instant::now();
        self.tokens.push(token);
        self.stats.generated_tokens += 1;
        let first = *self.first.get_or_insert(now);
        self.stats.first_token = Some(first - self.submitted);
        self.stats.prefill = first - self.started.unwrap_or(first);
        self.stats.decode = now - first;
        if self.request.stop.contains(&token) {
            Some(FinishReason::Stop)
        } else if self.stats.generated_tokens >= self.request.max_tokens {
            Some(FinishReason::MaxTokens)
        } else if self.tokens.len() >= context {
            Some(FinishReason::ContextFull)
        } else {
            None
        }
    }
}
