//! A session: one user of a model's compute, with its states, arena and threads.

use crate::error::RuntimeError;
use crate::memory::{Region, available};
use crate::model::Model;
use crate::observe::{self, Observer};
use crate::pool::Pool;
use crate::probe::Limits;
use crate::profile::{Clock, KernelTime, Profile};
use crate::program::{Bases, Program, Sources, Span};
use crate::state::StatePool;
use crate::step::{Batch, Bounds, FORWARD, Feed, Feeds, Shape};
use crate::walk;
use artifact::plan::{Entry, Tensor};
use std::sync::Arc;

/// The output that a step returns.
const LOGITS: &str = "logits";

/// Runs steps of a model.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    pool: Pool,
    states: StatePool,
    feeds: Feeds,
    inputs: Vec<Feed>,
    logits: usize,
    input_memory: Vec<Region>,
    output_memory: Vec<Region>,
    arena: Region,
    programs: Vec<Program>,
    profile: Option<Profile>,
}

impl Session {
    /// A session with `pages` pages of states and the model's number of threads.
    ///
    /// # Errors
    /// [`RuntimeError`]: the plan needs what this runtime does not do, or the system refuses
    /// memory or threads.
    pub fn new(model: Arc<Model>, pages: usize) -> Result<Session, RuntimeError> {
        let entry = forward(&model)?;
        let (inputs, logits) = (feeds(entry)?, logits(entry)?);
        // Unknown step symbols are found now, not in the middle of a conversation.
        Shape::default().symbols(&model.plan().symbols)?;
        let states = StatePool::new(&model.plan().states, pages)?;
        let pool = Pool::new(model.threads(), model.memory().scratch_bytes)?;
        let weights = model.weight_addresses()?;
        let sources = Sources {
            plan: model.plan(),
            kernels: model.kernels(),
            weights: &weights,
            states: &states,
        };
        let programs = entry.buckets.iter().map(|bucket| Program::new(sources, bucket)).collect();
        let regions = |count: usize, what| (0..count).map(move |_| Region::new(0, what));
        let input_memory = regions(entry.inputs.len(), "inputs").collect::<Result<_, _>>()?;
        let output_memory = regions(entry.outputs.len(), "outputs").collect::<Result<_, _>>()?;
        Ok(Session {
            pool,
            states,
            feeds: Feeds::default(),
            inputs,
            logits,
            input_memory,
            output_memory,
            arena: Region::new(0, "arena")?,
            programs,
            profile: None,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The states' pages.
    pub fn states(&self) -> &StatePool {
        &self.states
    }

    /// The states' pages, to take and return them.
    pub fn states_mut(&mut self) -> &mut StatePool {
        &mut self.states
    }

    /// Worker threads.
    pub fn workers(&self) -> usize {
        self.pool.workers()
    }

    /// Bytes of the arena as it is now: it grows to the largest step seen.
    pub fn arena_bytes(&self) -> u64 {
        self.arena.len() as u64
    }

    /// Begins to measure time per kernel from nothing, and to compare it with `limits`. Steps
    /// are slower while this is on.
    pub fn start_profiling(&mut self, limits: Option<Limits>) {
        let kernels = self.model.plan().kernels.iter().map(|kernel| KernelTime {
            name: kernel.name.clone(),
            family: kernel.family.clone(),
            ..KernelTime::default()
        });
        self.profile = Some(Profile { limits, kernels: kernels.collect() });
    }

    /// Ends the measuring that [`Session::start_profiling`] began; gives the times per kernel, by
    /// position in the plan, or nothing if it had not begun.
    pub fn stop_profiling(&mut self) -> Vec<KernelTime> {
        self.profile.take().map_or_else(Vec::new, |profile| profile.kernels)
    }

    /// Runs the new tokens of `batch` through the model: their states are written to the
    /// sequences' pages, and the logits of the wanted tokens are returned, f32 of shape
    /// `[m, vocab]`, sequence by sequence.
    ///
    /// # Errors
    /// [`RuntimeError`]: the batch breaks a limit, or the plan does not cover it. The states of
    /// earlier tokens are as before; those of the new tokens are undefined.
    pub fn step(&mut self, batch: &Batch<'_>) -> Result<&[f32], RuntimeError> {
        self.step_with(batch, None)
    }

    /// [`Session::step`], one launch after the other, with an observer that looks at the memory of
    /// each. Nothing is measured of such a step.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn step_observed(
        &mut self,
        batch: &Batch<'_>,
        observer: &mut dyn Observer,
    ) -> Result<&[f32], RuntimeError> {
        self.step_with(batch, Some(observer))
    }

    fn step_with(
        &mut self,
        batch: &Batch<'_>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<&[f32], RuntimeError> {
        let model = Arc::clone(&self.model);
        let info = &model.manifest().model;
        let bounds = Bounds {
            vocab: info.vocab_size,
            context: info.context_length,
            pages: self.states.capacity(),
            page_tokens: self.states.page_tokens(),
        };
        let shape = self.feeds.fill(batch, &bounds)?;
        let pages = batch.sequences.iter().flat_map(|sequence| sequence.pages);
        self.states.touch(pages.copied().max(), &available)?;
        let symbols = shape.symbols(&model.plan().symbols)?;
        let entry = forward(&model)?;
        self.fill_inputs(entry, &symbols)?;
        self.grow_outputs(entry, &symbols)?;
        let logits_bytes = self.check_logits(shape.m, info.vocab_size)?;
        self.run(&shape, &symbols, observer)?;
        let logits = &self.output_memory[self.logits].bytes()[..logits_bytes];
        // SAFETY: the memory is page-aligned, its length is a multiple of 4, and any four bytes
        // are an f32. No worker runs any more.
        Ok(unsafe { std::slice::from_raw_parts(logits.as_ptr().cast(), logits.len() / 4) })
    }

    /// Measures what this machine can do with the plan's probes, if it has them; takes about a
    /// second.
    ///
    /// # Errors
    /// [`RuntimeError::OutOfMemory`], [`RuntimeError::Poisoned`].
    pub fn measure_limits(&mut self) -> Result<Option<Limits>, RuntimeError> {
        crate::probe::measure(&self.model, &mut self.pool)
    }

    fn fill_inputs(&mut self, entry: &Entry, symbols: &[i64]) -> Result<(), RuntimeError> {
        for (i, tensor) in entry.inputs.iter().enumerate() {
            let values = self.feeds.get(self.inputs[i]);
            let needed = values.len() as u64 * 4;
            let stated = tensor_bytes(tensor, symbols)?;
            if stated < needed {
                return Err(RuntimeError::Size {
                    what: format!("input `{}`", tensor.name),
                    found: format!("{stated} bytes"),
                    expected: format!("{needed}"),
                });
            }
            grow(&mut self.input_memory[i], stated, "inputs")?;
            let memory = self.input_memory[i].bytes_mut();
            for (bytes, value) in memory.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        Ok(())
    }

    fn grow_outputs(&mut self, entry: &Entry, symbols: &[i64]) -> Result<(), RuntimeError> {
        for (tensor, memory) in entry.outputs.iter().zip(&mut self.output_memory) {
            grow(memory, tensor_bytes(tensor, symbols)?, "outputs")?;
        }
        Ok(())
    }

    /// Bytes of `rows` rows of logits, for which the output has room.
    fn check_logits(&self, rows: u64, vocab: u32) -> Result<usize, RuntimeError> {
        // Both are below 2^32.
        let elements = u128::from(rows) * u128::from(vocab);
        let room = self.output_memory[self.logits].len();
        match usize::try_from(elements * 4) {
            Ok(bytes) if bytes <= room => Ok(bytes),
            _ => Err(RuntimeError::Size {
                what: format!("output `{LOGITS}`"),
                found: format!("{room} bytes"),
                expected: format!("{}", elements * 4),
            }),
        }
    }

    fn run(
        &mut self,
        shape: &Shape,
        symbols: &[i64],
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), RuntimeError> {
        let mut programs = self.programs.iter_mut().enumerate();
        let chosen = programs.find_map(|(at, p)| p.covers(symbols).then_some((at, p)));
        let (bucket, program) = chosen.ok_or_else(|| RuntimeError::NoBucket {
            entry: FORWARD.into(),
            step: shape.to_string(),
        })?;
        grow(&mut self.arena, program.measure(symbols)?, "arena")?;
        let span =
            |region: &Region| Span { address: region.as_ptr() as u64, bytes: region.len() as u64 };
        let inputs: Vec<Span> = self.input_memory.iter().map(span).collect();
        let outputs: Vec<Span> = self.output_memory.iter().map(span).collect();
        let bases = Bases { arena: span(&self.arena), inputs: &inputs, outputs: &outputs };
        program.bind(&bases, symbols)?;
        let pool = &mut self.pool;
        // SAFETY, here and below: all memory behind the arguments belongs to this session, which is
        // borrowed exclusively, or is read-only; `measure` and `bind` checked the sizes.
        if let Some(observer) = observer {
            return unsafe { observe::run(pool, program, &bases, (bucket, symbols), observer) };
        }
        let mut clock = self.profile.is_some().then(|| Clock::new(program.launches.len()));
        // SAFETY: as above.
        unsafe { walk::run(pool, program, 0..program.ops.len(), &bases, clock.as_mut()) }?;
        if let (Some(clock), Some(profile)) = (clock, &mut self.profile) {
            for (launch, nanoseconds) in program.launches.iter().zip(clock.nanoseconds()) {
                let work = program.work(launch, symbols)?;
                profile.add(launch.kernel, *nanoseconds, work);
            }
        }
        Ok(())
    }
}

fn forward(model: &Model) -> Result<&Entry, RuntimeError> {
    let entries = &model.plan().entries;
    entries.iter().find(|entry| entry.name == FORWARD).ok_or_else(|| RuntimeError::Unsupported {
        what: "set of entries".into(),
        found: format!("{:?}", entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>()),
        expected: format!("one with `{FORWARD}`"),
    })
}

/// What the host fills into each input.
fn feeds(entry: &Entry) -> Result<Vec<Feed>, RuntimeError> {
    let feed = |tensor: &Tensor| {
        let feed = Feed::named(&tensor.name).filter(|_| tensor.dtype == "i32");
        feed.ok_or_else(|| RuntimeError::Unsupported {
            what: format!("input `{}`", tensor.name),
            found: tensor.dtype.clone(),
            expected: "ids, pos, seq, slot, pages, seg or rows of i32".into(),
        })
    };
    entry.inputs.iter().map(feed).collect()
}

/// Position of the logits among the outputs.
fn logits(entry: &Entry) -> Result<usize, RuntimeError> {
    let found = entry.outputs.iter().position(|t| t.name == LOGITS && t.dtype == "f32");
    found.ok_or_else(|| RuntimeError::Unsupported {
        what: "set of outputs".into(),
        found: format!("{:?}", entry.outputs.iter().map(|t| t.name.as_str()).collect::<Vec<_>>()),
        expected: format!("one with `{LOGITS}` of f32"),
    })
}

fn tensor_bytes(tensor: &Tensor, symbols: &[i64]) -> Result<u64, RuntimeError> {
    let value = tensor.bytes.eval(symbols);
    value.and_then(|value| u64::try_from(value).ok()).ok_or_else(|| RuntimeError::Size {
        what: format!("tensor `{}`", tensor.name),
        found: value.map_or("none".into(), |value| value.to_string()),
        expected: "0 or more".into(),
    })
}

/// Replaces the region by a larger one if need be. Growth is by half at least, so that contexts
/// that grow token by token do not move their memory each time.
fn grow(region: &mut Region, bytes: u64, what: &'static str) -> Result<(), RuntimeError> {
    let now = region.len() as u64;
    if bytes > now {
        *region = Region::new(0, what)?;
        *region = match Region::filled(bytes.max(now + now / 2), what) {
            Ok(region) => region,
            Err(_) => Region::filled(bytes, what)?,
        };
    }
    Ok(())
}
