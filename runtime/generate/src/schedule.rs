//! Continuous batching: which tokens of which sequences go into the next step.
//!
//! Sequences that decode feed one token each; what is left of the step's budget goes to prompts,
//! in the order of their arrival and in chunks. State pages are taken when a sequence starts (for
//! its prompt) and as it grows. When they run out, states kept from earlier sequences go first,
//! then the youngest sequence: it waits and is computed again later, with the same result.

use crate::engine::{Engine, check_prompt, checked_step};
use crate::error::{GenerateError, Result};
use crate::pages::{PagePool, Retained};
use crate::sample::Sampler;
use crate::sequence::{FinishReason, Request, Sequence, SequenceId, Stats};
use std::collections::VecDeque;
use std::time::Instant;

/// Bounds of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most prompt tokens of a step, at least 1.
    pub chunk: usize,
    /// Most sequences at work at a time, at least 1.
    pub sequences: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { chunk: 512, sequences: 64 }
    }
}

/// What happened to a sequence in a step.
#[derive(Debug)]
pub enum Progress {
    /// It has one more token.
    Token(i32),
    /// It ended.
    Finished(FinishReason, Stats),
    /// It ended because no token could be chosen.
    Failed(GenerateError),
}

/// Runs requests on an engine, many at a time.
pub struct Scheduler<E> {
    engine: E,
    bounds: Bounds,
    allowed: Option<Vec<bool>>,
    pool: PagePool,
    retained: Retained,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    sampler: Sampler,
    next: u64,
}

type Events = Vec<(SequenceId, Progress)>;

impl<E: Engine> Scheduler<E> {
    /// A scheduler without sequences. Ids with `allowed[id] == false` are never chosen.
    pub fn new(engine: E, bounds: Bounds, allowed: Option<Vec<bool>>) -> Self {
        let pool = PagePool::new(engine.pages_total(), engine.page_tokens());
        Scheduler {
            engine,
            bounds: Bounds { chunk: bounds.chunk.max(1), sequences: bounds.sequences.max(1) },
            allowed,
            pool,
            retained: Retained::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            sampler: Sampler::new(),
            next: 0,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// Number of free state pages; those kept for later prompts are not free.
    pub fn free_pages(&self) -> usize {
        self.pool.free()
    }

    /// Whether no sequence waits or runs.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Whether sequence `id` waits or runs.
    pub fn holds(&self, id: SequenceId) -> bool {
        self.waiting.iter().chain(&self.running).any(|s| s.id == id)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// If the prompt is empty, has ids outside the vocabulary, or could not be held even alone;
    /// if a sampling option is outside its range.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId> {
        if request.prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt);
        }
        request.sampling.check()?;
        check_prompt(&self.engine, &request.prompt)?;
        let id = SequenceId(self.next);
        self.next += 1;
        self.waiting.push_back(Sequence::new(id, request));
        Ok(id)
    }

    /// Drops sequence `id` where it waits or runs: nothing more comes of it.
    pub fn remove(&mut self, id: SequenceId) {
        self.waiting.retain(|s| s.id != id);
        for mut sequence in self.running.extract_if(.., |s| s.id == id) {
            self.pool.shrink(&mut sequence.pages, 0);
        }
    }

    /// Runs one step and adds what came of it to `events`; without a sequence nothing happens.
    ///
    /// # Errors
    /// What the engine reports. All sequences in flight are dropped then, waiting ones stay.
    pub fn step(&mut self, events: &mut Vec<(SequenceId, Progress)>) -> Result<()> {
        self.reap(events);
        self.admit(events);
        self.make_room(events);
        let counts = self.plan();
        if self.running.is_empty() {
            return Ok(());
        }
        match self.run(&counts) {
            Ok(choices) => {
                self.advance(&counts, choices, events);
                Ok(())
            }
            Err(error) => {
                for mut sequence in std::mem::take(&mut self.running) {
                    self.pool.shrink(&mut sequence.pages, 0);
                }
                Err(error)
            }
        }
    }

    /// Ends what was cancelled.
    fn reap(&mut self, events: &mut Events) {
        let waiting = std::mem::take(&mut self.waiting);
        let running = std::mem::take(&mut self.running);
        for sequence in running {
            if sequence.cancelled() {
                events.push(self.finish(sequence, FinishReason::Cancelled));
            } else {
                self.running.push(sequence);
            }
        }
        for sequence in waiting {
            if sequence.cancelled() {
                events.push(self.finish(sequence, FinishReason::Cancelled));
            } else {
                self.waiting.push_back(sequence);
            }
        }
    }

    /// Starts waiting sequences while there is room for all their tokens, and for the running
    /// ones to grow by a page.
    fn admit(&mut self, events: &mut Events) {
        while self.running.len() < self.bounds.sequences {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            if sequence.request.max_tokens == 0 {
                events.push(self.finish(sequence, FinishReason::MaxTokens));
                continue;
            }
            if let Some((pages, shared)) = self.retained.take(&sequence.tokens) {
                sequence.pages = pages;
                sequence.fed = shared;
                sequence.stats.reused_tokens = shared.min(sequence.stats.prompt_tokens);
            }
            self.pool.shrink(&mut sequence.pages, sequence.tokens.len());
            let spare = self.running.len();
            if self.fit(&mut sequence, spare) {
                sequence.started.get_or_insert_with(Instant::now);
                self.running.push(sequence);
            } else if self.running.is_empty() {
                events.push(self.finish(sequence, FinishReason::PagesFull));
            } else {
                self.set_back(sequence);
                break;
            }
        }
    }

    /// Gives `sequence` pages for all its tokens, leaving `spare` free; states kept for later
    /// prompts make room.
    fn fit(&mut self, sequence: &mut Sequence, spare: usize) -> bool {
        let missing =
            self.pool.pages_for(sequence.tokens.len()).saturating_sub(sequence.pages.len());
        while self.pool.free() < missing + spare {
            if !self.retained.evict(&mut self.pool) {
                return false;
            }
        }
        self.pool.grow(&mut sequence.pages, sequence.tokens.len())
    }

    /// Lets a sequence wait at the head of the queue, without states.
    fn set_back(&mut self, mut sequence: Sequence) {
        self.pool.shrink(&mut sequence.pages, 0);
        sequence.fed = 0;
        sequence.stats.reused_tokens = 0;
        self.waiting.push_front(sequence);
    }

    /// Gives every running sequence room for its next token. Where pages are missing the youngest
    /// gives way; the oldest always goes on, so all come to their end.
    fn make_room(&mut self, events: &mut Events) {
        let mut running = std::mem::take(&mut self.running);
        let mut at = 0;
        while at < running.len() {
            if self.fit(&mut running[at], 0) {
                at += 1;
                continue;
            }
            let alone = running.len() == 1;
            let Some(youngest) = running.pop() else { break };
            if alone {
                events.push(self.finish(youngest, FinishReason::PagesFull));
            } else {
                self.set_back(youngest);
            }
        }
        self.running = running;
    }

    /// How many tokens each running sequence feeds in this step.
    fn plan(&self) -> Vec<usize> {
        let mut budget = self.bounds.chunk;
        let count = |s: &Sequence| {
            let pending = s.tokens.len() - s.fed;
            if pending == 1 {
                return 1;
            }
            let count = pending.min(budget);
            budget -= count;
            count
        };
        self.running.iter().map(count).collect()
    }

    /// Steps the engine; gives each running sequence's next token if its logits are there.
    fn run(&mut self, counts: &[usize]) -> Result<Vec<Option<Result<i32>>>> {
        let vocab = self.engine.vocab().max(1);
        let fed = || self.running.iter().zip(counts).filter(|(_, count)| **count > 0);
        let parts: Vec<_> = fed().map(|(s, &count)| s.part(count)).collect();
        let logits = checked_step(&mut self.engine, &parts)?;
        let mut rows = logits.chunks_exact(vocab);
        let mut choices = Vec::with_capacity(counts.len());
        for (sequence, &count) in self.running.iter().zip(counts) {
            let row = if sequence.ends_with(count) { rows.next() } else { None };
            choices.push(row.map(|row| {
                let (at, how) = (sequence.tokens.len(), &sequence.request.sampling);
                self.sampler.choose(row, self.allowed.as_deref(), at, how)
            }));
        }
        Ok(choices)
    }

    fn advance(&mut self, counts: &[usize], choices: Vec<Option<Result<i32>>>, to: &mut Events) {
        let context = self.engine.context();
        let running = std::mem::take(&mut self.running);
        for ((mut sequence, count), choice) in running.into_iter().zip(counts).zip(choices) {
            sequence.fed += count;
            match choice {
                None => self.running.push(sequence),
                Some(Err(error)) => {
                    self.pool.shrink(&mut sequence.pages, 0);
                    to.push((sequence.id, Progress::Failed(error)));
                }
                Some(Ok(token)) => {
                    to.push((sequence.id, Progress::Token(token)));
                    match sequence.push(token, context) {
                        Some(reason) => to.push(self.finish(sequence, reason)),
                        None => self.running.push(sequence),
                    }
                }
            }
        }
    }

    /// Frees or keeps a sequence's pages.
    fn finish(&mut self, mut s: Sequence, reason: FinishReason) -> (SequenceId, Progress) {
        if s.request.retain && self.engine.rewinds() && s.fed > 0 {
            s.tokens.truncate(s.fed);
            self.pool.shrink(&mut s.pages, s.fed);
            self.retained.keep(s.tokens, s.pages);
        } else {
            self.pool.shrink(&mut s.pages, 0);
        }
        (s.id, Progress::Finished(reason, s.stats))
    }
}
