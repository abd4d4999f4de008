//! `bench`: how fast prefill and decode run.

use super::args::{BenchArgs, MeasureArgs};
use super::bench_report::{self, Measured};
use super::{Streams, fit};
use crate::engine::{Engine, ModelEngine, Part, Want, checked_step};
use crate::error::{GenerateError, Result};
use runtime::{KernelTime, Limits, Model};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Times of one measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The whole prompt, from an empty context.
    pub prefill: Duration,
    /// All decoded tokens.
    pub decode: Duration,
}

/// A sequence of pseudo-random tokens that is fed by hand.
pub struct Feeder {
    tokens: Vec<i32>,
    pages: Vec<u32>,
}

impl Feeder {
    /// Room for what `args` asks for.
    ///
    /// # Errors
    /// [`GenerateError::PromptTooLong`] or [`GenerateError::TooFewPages`].
    pub fn new<E: Engine>(engine: &E, args: &MeasureArgs) -> Result<Self> {
        let start = args.start();
        let total = args.prompt_tokens.max(start.saturating_add(args.gen_tokens));
        let context = engine.context();
        if total > context {
            return Err(GenerateError::PromptTooLong { tokens: total, context });
        }
        let (needed, pages) = (total.div_ceil(engine.page_tokens()), engine.pages_total());
        if needed > pages {
            return Err(GenerateError::TooFewPages { needed, total: pages });
        }
        let vocab = engine.vocab().max(1) as u64;
        // Weyl's sequence: spread over the vocabulary, the same each time.
        let token = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % vocab;
        let tokens = (1..=total as u64).map(|i| token(i) as i32).collect();
        Ok(Feeder { tokens, pages: (0..needed as u32).collect() })
    }

    /// Feeds positions as a prompt, in chunks: only the last has logits.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn prefill<E: Engine>(
        &self,
        engine: &mut E,
        positions: Range<usize>,
        chunk: usize,
    ) -> Result<Duration> {
        let end = positions.end;
        let want = |next| if next == end { Want::Last } else { Want::None };
        self.feed(engine, positions, chunk, want)
    }

    /// Feeds positions as generated tokens, one by one: each has logits, as the next token is
    /// chosen by them.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn decode<E: Engine>(&self, engine: &mut E, positions: Range<usize>) -> Result<Duration> {
        self.feed(engine, positions, 1, |_| Want::Last)
    }

    /// Feeds chunks, of which `want` says by their ends what is asked for.
    fn feed<E: Engine>(
        &self,
        engine: &mut E,
        positions: Range<usize>,
        chunk: usize,
        want: impl Fn(usize) -> Want,
    ) -> Result<Duration> {
        let start = Instant::now();
        let mut past = positions.start;
        while past < positions.end {
            let next = positions.end.min(past.saturating_add(chunk));
            let part = Part {
                tokens: &self.tokens[past..next],
                past,
                pages: &self.pages[..next.div_ceil(engine.page_tokens())],
                want: want(next),
            };
            checked_step(engine, &[part])?;
            past = next;
        }
        Ok(start.elapsed())
    }
}

/// Measures once: the prompt from an empty context, then token by token from `args.context`.
///
/// # Errors
/// What the engine reports.
pub fn once<E: Engine>(engine: &mut E, feeder: &Feeder, args: &MeasureArgs) -> Result<Times> {
    let prefill = feeder.prefill(engine, 0..args.prompt_tokens, args.chunk)?;
    let start = args.start();
    feeder.prefill(engine, args.prompt_tokens..start, args.chunk)?;
    let decode = feeder.decode(engine, start..start + args.gen_tokens)?;
    Ok(Times { prefill, decode })
}

/// Measures `args.repeat` times after a run that warms up caches and pages; gives the medians.
///
/// # Errors
/// What the engine reports.
pub fn measure<E: Engine>(engine: &mut E, args: &MeasureArgs) -> Result<Times> {
    let feeder = Feeder::new(engine, args)?;
    once(engine, &feeder, &MeasureArgs { gen_tokens: args.gen_tokens.min(4), ..args.clone() })?;
    let mut all = Vec::with_capacity(args.repeat);
    for _ in 0..args.repeat {
        all.push(once(engine, &feeder, args)?);
    }
    let median = |time: fn(&Times) -> Duration| {
        let mut times: Vec<Duration> = all.iter().map(time).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    Ok(Times { prefill: median(|t| t.prefill), decode: median(|t| t.decode) })
}

/// Measures a model; prints a table or one JSON object.
///
/// # Errors
/// What the runtime reports.
pub fn bench(model: &Arc<Model>, args: &BenchArgs, streams: &mut Streams<'_>) -> Result<()> {
    let measured = measured(model, &args.measure)?;
    if args.json {
        streams.json(&bench_report::object(model, &args.measure, &measured))
    } else {
        streams.say(&bench_report::text(model, &args.measure, &measured))
    }
}

/// Measures a model and, before and after, its machine's limits.
///
/// # Errors
/// What the runtime reports.
pub fn measured(model: &Arc<Model>, args: &MeasureArgs) -> Result<Measured> {
    let start = args.start();
    let tokens = start.max(args.prompt_tokens).saturating_add(args.gen_tokens);
    let engine = &mut ModelEngine::new(model, fit(model, tokens))?;
    let before = engine.session().measure_limits()?;
    let times = measure(engine, args)?;
    let after = engine.session().measure_limits()?;
    let limits = better(before, after);
    // The times above are without profiling, which slows steps down.
    let feeder = Feeder::new(engine, args)?;
    let prompt = 0..args.prompt_tokens;
    let prefill = profile(engine, limits, |e| feeder.prefill(e, prompt, args.chunk))?;
    feeder.prefill(engine, args.prompt_tokens..start, args.chunk)?;
    let decode = profile(engine, limits, |e| feeder.decode(e, start..start + args.gen_tokens))?;
    Ok(Measured { times, before, after, limits, prefill, decode })
}

/// The better of both measurements, each a median: the machine can do at least that, and a
/// neighbour's work in one of them must not make fractions of the limit look better.
pub fn better(before: Option<Limits>, after: Option<Limits>) -> Option<Limits> {
    let (a, b) = (before.or(after)?, after.or(before)?);
    Some(Limits {
        read_bytes_per_s: a.read_bytes_per_s.max(b.read_bytes_per_s),
        flops_per_s: a.flops_per_s.max(b.flops_per_s),
    })
}

/// Time per kernel while `work` runs.
fn profile(
    engine: &mut ModelEngine,
    limits: Option<Limits>,
    work: impl FnOnce(&mut ModelEngine) -> Result<Duration>,
) -> Result<Vec<KernelTime>> {
    engine.session().start_profiling(limits);
    let done = work(engine);
    let kernels = engine.session().stop_profiling();
    done.map(|_| kernels)
}
