//! Generation as a stream of text.

use crate::engine::Engine;
use crate::error::{GenerateError, Result};
use crate::schedule::{Bounds, Progress, Scheduler};
use crate::sequence::{FinishReason, Request, SequenceId, Stats};
use crate::tokenize::{Specials, TextStream, Tokenizer};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What a generator yields.
#[derive(Debug)]
pub struct Event {
    /// Of which sequence.
    pub sequence: SequenceId,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a sequence.
#[derive(Debug)]
pub enum EventKind {
    /// A token was generated.
    Token {
        /// Its id.
        id: i32,
        /// The text that became certain with it; often a word, sometimes nothing. Empty without a
        /// tokenizer.
        text: String,
    },
    /// The sequence ended.
    Finished {
        /// Why.
        reason: FinishReason,
        /// The rest of the text: an unfinished code point becomes U+FFFD.
        text: String,
        /// What it took.
        stats: Stats,
    },
    /// The sequence ended because no token could be chosen, or a chosen one has no text.
    Failed(GenerateError),
}

/// Runs requests and yields their tokens and texts as they come.
pub struct Generator<E> {
    scheduler: Scheduler<E>,
    tokenizer: Option<Arc<Tokenizer>>,
    streams: HashMap<SequenceId, TextStream>,
    ready: VecDeque<Event>,
}

impl<E: Engine> Generator<E> {
    /// A generator without sequences. With a tokenizer, ids that it does not define are never
    /// chosen.
    pub fn new(engine: E, tokenizer: Option<Arc<Tokenizer>>, bounds: Bounds) -> Self {
        let allowed = tokenizer.as_ref().map(|t| t.defined(engine.vocab()));
        Generator {
            scheduler: Scheduler::new(engine, bounds, allowed),
            tokenizer,
            streams: HashMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn submit(&mut self, request: Request) -> Result<SequenceId> {
        let id = self.scheduler.submit(request)?;
        self.streams.insert(id, TextStream::new(Specials::Skip));
        Ok(id)
    }

    /// The scheduler underneath.
    pub fn scheduler(&self) -> &Scheduler<E> {
        &self.scheduler
    }

    fn refill(&mut self) -> Result<()> {
        let mut progress = Vec::new();
        let stepped = self.scheduler.step(&mut progress);
        for (sequence, what) in progress {
            // None is left of a sequence whose tokens could not be told.
            let Some(stream) = self.streams.remove(&sequence) else { continue };
            let kind = self.kind(sequence, stream, what).unwrap_or_else(|error| {
                self.scheduler.remove(sequence);
                EventKind::Failed(error)
            });
            self.ready.push_back(Event { sequence, kind });
        }
        if stepped.is_err() {
            let scheduler = &self.scheduler;
            self.streams.retain(|id, _| scheduler.holds(*id));
        }
        stepped
    }

    /// What is told of progress. The sequence's stream of text goes on where the sequence does.
    fn kind(
        &mut self,
        sequence: SequenceId,
        mut stream: TextStream,
        progress: Progress,
    ) -> Result<EventKind> {
        let tokenizer = self.tokenizer.as_deref();
        Ok(match progress {
            Progress::Token(id) => {
                let text = tokenizer.map(|t| stream.push(t, id)).transpose()?.unwrap_or_default();
                self.streams.insert(sequence, stream);
                EventKind::Token { id, text }
            }
            Progress::Finished(reason, stats) => {
                let text = tokenizer.map(|t| stream.finish(t)).transpose()?.unwrap_or_default();
                EventKind::Finished { reason, text, stats }
            }
            Progress::Failed(error) => EventKind::Failed(error),
        })
    }
}

/// Ends when no sequence is left; [`Generator::submit`] makes it go on. After an error of the
/// engine the sequences in flight are gone, those that waited go on.
impl<E: Engine> Iterator for Generator<E> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.scheduler.is_idle() {
                return None;
            }
            if let Err(error) = self.refill() {
                return Some(Err(error));
            }
        }
    }
}
