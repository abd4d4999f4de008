//! The logits of every position of given token sequences, through the paged states.

use crate::engine::{Engine, Part, Want, check_prompt, checked_step};
use crate::error::Result;
use crate::pages::PagePool;

/// How prompts are fed. The logits do not depend on it beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Each prompt in one step.
    Whole,
    /// Each prompt in steps of at most so many tokens.
    Chunked(usize),
    /// All prompts together, as many as the state pages hold, each whole.
    Batched,
    /// All prompts together, as many as the state pages hold, in steps of at most so many tokens
    /// of each.
    BatchedChunks(usize),
}

impl Feed {
    fn chunk(self) -> usize {
        match self {
            Feed::Whole | Feed::Batched => usize::MAX,
            Feed::Chunked(n) | Feed::BatchedChunks(n) => n.max(1),
        }
    }

    fn batched(self) -> bool {
        matches!(self, Feed::Batched | Feed::BatchedChunks(_))
    }
}

/// Where a block of logits belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Which prompt.
    pub prompt: usize,
    /// Position of the first row.
    pub position: usize,
}

/// Computes the logits of every position of `prompts` and hands them to `sink` as they come:
/// blocks of rows of [`Engine::vocab`] values. Blocks of one prompt come in order.
///
/// # Errors
/// If a prompt has ids outside the vocabulary or could not be held even alone (found before
/// anything runs), and what the engine and `sink` report.
pub fn every_position<E: Engine>(
    engine: &mut E,
    prompts: &[Vec<i32>],
    feed: Feed,
    sink: &mut dyn FnMut(Rows, &[f32]) -> Result<()>,
) -> Result<()> {
    for prompt in prompts {
        check_prompt(engine, prompt)?;
    }
    let mut first = 0;
    while first < prompts.len() {
        let mut pool = PagePool::new(engine.pages_total(), engine.page_tokens());
        let mut group = Vec::new();
        for (offset, tokens) in prompts[first..].iter().enumerate() {
            let mut pages = Vec::new();
            let room = group.is_empty() || feed.batched();
            if !room || !pool.grow(&mut pages, tokens.len()) {
                break;
            }
            group.push(Fed { prompt: first + offset, tokens, pages, past: 0 });
        }
        first += group.len();
        feed_group(engine, &mut group, feed.chunk(), sink)?;
    }
    Ok(())
}

struct Fed<'a> {
    prompt: usize,
    tokens: &'a [i32],
    pages: Vec<u32>,
    past: usize,
}

fn feed_group<E: Engine>(
    engine: &mut E,
    group: &mut Vec<Fed<'_>>,
    chunk: usize,
    sink: &mut dyn FnMut(Rows, &[f32]) -> Result<()>,
) -> Result<()> {
    let vocab = engine.vocab();
    loop {
        group.retain(|fed| fed.past < fed.tokens.len());
        if group.is_empty() {
            return Ok(());
        }
        let count = |fed: &Fed<'_>| (fed.tokens.len() - fed.past).min(chunk);
        let parts: Vec<Part<'_>> = group
            .iter()
            .map(|fed| Part {
                tokens: &fed.tokens[fed.past..fed.past + count(fed)],
                past: fed.past,
                pages: &fed.pages,
                want: Want::All,
            })
            .collect();
        let mut logits = checked_step(engine, &parts)?;
        for fed in group.iter() {
            let (block, rest) = logits.split_at(count(fed) * vocab);
            sink(Rows { prompt: fed.prompt, position: fed.past }, block)?;
            logits = rest;
        }
        for fed in group.iter_mut() {
            fed.past += count(fed);
        }
    }
}
