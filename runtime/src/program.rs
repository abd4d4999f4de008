//! One bucket of the plan, prepared: sizes evaluated once per step, addresses of arguments in
//! one array, launches as plain records. Walking it needs no allocation, lock or look-up.

use crate::error::RuntimeError;
use crate::load::KernelFn;
use crate::state::StatePool;
use artifact::Plan;
use artifact::plan::{Arg, Bucket, Condition, Grid, Launch, Step, Work};
use artifact::size::SizeExpr;
use std::collections::HashMap;

/// Alignment of buffers in the arena.
const BUFFER_ALIGN: i64 = 64;

/// Position of a size in [`Program::values`].
type Size = usize;

/// One step of the walk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Call `kernel` with the arguments from `args` on.
    Launch { kernel: KernelFn, args: usize, count: Count, launch: u32 },
    /// Copy from the address at `args` to the one after it.
    Copy { args: usize, bytes: Size },
    /// Wait for all workers.
    Barrier,
}

/// Number of instances.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Dense(Size),
    /// The address of the list is at `args`.
    List {
        args: usize,
        each: Size,
    },
}

/// What is behind an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Known when the program is made: address (in the array already) and size.
    Fixed(u64),
    Buffer(usize),
    Input(usize),
    Output(usize),
    /// Not an address: a step symbol.
    Symbol(usize),
}

/// A launch, for reports.
#[derive(Clone, Debug)]
pub(crate) struct LaunchInfo {
    pub kernel: u32,
    pub origin: String,
    /// The least that it must do.
    work: Work,
}

/// Memory that moves from step to step: address and size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub address: u64,
    pub bytes: u64,
}

/// Memory that a program runs over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bases<'a> {
    pub arena: Span,
    pub inputs: &'a [Span],
    pub outputs: &'a [Span],
}

/// A prepared bucket.
#[derive(Debug)]
pub(crate) struct Program {
    pub name: String,
    pub ops: Vec<Op>,
    pub launches: Vec<LaunchInfo>,
    /// Addresses and symbols, launch after launch.
    pub args: Vec<u64>,
    when: Vec<Vec<Condition>>,
    sizes: Vec<SizeExpr>,
    /// Of the current step, by [`Size`].
    values: Vec<i64>,
    arena: Size,
    /// Offset and size of each.
    buffers: Vec<(Size, Size)>,
    buffer_names: Vec<String>,
    /// What is behind each of `args`.
    memory: Vec<Memory>,
    stack: Vec<i64>,
}

/// What preparation reads.
#[derive(Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub plan: &'a Plan,
    pub kernels: &'a [KernelFn],
    /// Address of each of the plan's weights.
    pub weights: &'a [u64],
    pub states: &'a StatePool,
}

impl Program {
    /// Prepares a bucket of a checked plan.
    pub(crate) fn new(sources: Sources<'_>, bucket: &Bucket) -> Program {
        let mut builder = Builder { sources, known: HashMap::new(), program: Program::empty() };
        let program = &mut builder.program;
        program.name.clone_from(&bucket.name);
        program.when.clone_from(&bucket.when);
        program.buffer_names = bucket.buffers.iter().map(|buffer| buffer.name.clone()).collect();
        builder.program.arena = builder.size(&bucket.arenas[0]);
        for buffer in &bucket.buffers {
            let sizes = (builder.size(&buffer.offset), builder.size(&buffer.bytes));
            builder.program.buffers.push(sizes);
        }
        bucket.steps.iter().for_each(|step| builder.step(step));
        builder.program
    }

    fn empty() -> Program {
        Program {
            name: String::new(),
            ops: Vec::new(),
            launches: Vec::new(),
            args: Vec::new(),
            when: Vec::new(),
            sizes: Vec::new(),
            values: Vec::new(),
            arena: 0,
            buffers: Vec::new(),
            buffer_names: Vec::new(),
            memory: Vec::new(),
            stack: Vec::new(),
        }
    }

    /// Whether the bucket is meant for a step with these symbols.
    pub(crate) fn covers(&mut self, symbols: &[i64]) -> bool {
        let stack = &mut self.stack;
        self.when.iter().any(|all| all.iter().all(|c| c.holds(symbols, stack)))
    }

    /// Evaluates all sizes; gives the bytes of the arena.
    ///
    /// # Errors
    /// [`RuntimeError::Size`].
    pub(crate) fn measure(&mut self, symbols: &[i64]) -> Result<u64, RuntimeError> {
        self.values.clear();
        for expr in &self.sizes {
            let value = expr.eval_in(symbols, &mut self.stack);
            let Some(value) = value.filter(|value| *value >= 0) else {
                let found = value.map_or("none".into(), |value| value.to_string());
                return Err(self.bad_size(format!("size {:?}", expr.0), found, "0 or more"));
            };
            self.values.push(value);
        }
        // Not negative.
        Ok(self.values[self.arena] as u64)
    }

    /// Writes the addresses of the step's memory and the symbols into the arguments.
    ///
    /// # Errors
    /// [`RuntimeError::Size`] when a buffer leaves the arena or a copy its memory.
    pub(crate) fn bind(&mut self, bases: &Bases<'_>, symbols: &[i64]) -> Result<(), RuntimeError> {
        let arena = self.values[self.arena];
        for (i, (offset, bytes)) in self.buffers.iter().enumerate() {
            let (offset, bytes) = (self.values[*offset], self.values[*bytes]);
            if offset.checked_add(bytes).is_none_or(|end| end > arena) || offset % BUFFER_ALIGN != 0
            {
                let what = format!("buffer `{}`", self.buffer_names[i]);
                let found = format!("{bytes} bytes at {offset}");
                return Err(self.bad_size(what, found, "an aligned range within the arena"));
            }
        }
        for (arg, memory) in self.args.iter_mut().zip(&self.memory) {
            *arg = match *memory {
                Memory::Fixed(_) => continue,
                Memory::Buffer(i) => bases.arena.address + self.values[self.buffers[i].0] as u64,
                Memory::Input(i) => bases.inputs[i].address,
                Memory::Output(i) => bases.outputs[i].address,
                Memory::Symbol(i) => symbols[i] as u64,
            };
        }
        for op in &self.ops {
            if let Op::Copy { args, bytes } = *op {
                let bytes = self.values[bytes] as u64;
                let room = self.room(args, bases).min(self.room(args + 1, bases));
                if bytes > room {
                    let found = format!("{bytes} bytes");
                    return Err(self.bad_size("copy".into(), found, "the size of its memory"));
                }
            }
        }
        Ok(())
    }

    fn bad_size(&self, what: String, found: String, expected: &str) -> RuntimeError {
        let what = format!("bucket `{}`, {what}", self.name);
        RuntimeError::Size { what, found, expected: expected.into() }
    }

    /// The current value of a size, not negative.
    pub(crate) fn value(&self, size: Size) -> i64 {
        self.values[size]
    }

    /// Bytes of the memory behind argument `at` in the current step.
    pub(crate) fn room(&self, at: usize, bases: &Bases<'_>) -> u64 {
        match self.memory[at] {
            Memory::Fixed(bytes) => bytes,
            Memory::Buffer(i) => self.values[self.buffers[i].1] as u64,
            Memory::Input(i) => bases.inputs[i].bytes,
            Memory::Output(i) => bases.outputs[i].bytes,
            Memory::Symbol(_) => 0,
        }
    }

    /// Whether what is behind argument `at` lives for the current step alone.
    pub(crate) fn is_of_step(&self, at: usize) -> bool {
        matches!(self.memory[at], Memory::Buffer(_) | Memory::Output(_))
    }

    /// Bytes and operations that a launch cannot do without, for a step with these symbols.
    ///
    /// # Errors
    /// [`RuntimeError::Size`].
    pub(crate) fn work(
        &self,
        launch: &LaunchInfo,
        symbols: &[i64],
    ) -> Result<(u64, u64), RuntimeError> {
        let evaluate = |expr: &SizeExpr| {
            let value = expr.eval(symbols);
            value.and_then(|value| u64::try_from(value).ok()).ok_or_else(|| {
                let found = value.map_or("none".into(), |value| value.to_string());
                self.bad_size(format!("work of `{}`", launch.origin), found, "0 or more")
            })
        };
        Ok((evaluate(&launch.work.bytes)?, evaluate(&launch.work.flops)?))
    }
}

struct Builder<'a> {
    sources: Sources<'a>,
    known: HashMap<Vec<artifact::size::SizeOp>, Size>,
    program: Program,
}

impl Builder<'_> {
    /// Equal sizes are evaluated once.
    fn size(&mut self, expr: &SizeExpr) -> Size {
        let Builder { known, program, .. } = self;
        *known.entry(expr.0.clone()).or_insert_with(|| {
            program.sizes.push(expr.clone());
            program.sizes.len() - 1
        })
    }

    /// Appends an argument.
    fn arg(&mut self, arg: Arg) {
        let (address, memory) = match arg {
            Arg::Null => (0, Memory::Fixed(0)),
            Arg::Buffer(i) => (0, Memory::Buffer(i as usize)),
            Arg::Input(i) => (0, Memory::Input(i as usize)),
            Arg::Output(i) => (0, Memory::Output(i as usize)),
            Arg::Weight(i) => {
                let weight = &self.sources.plan.weights[i as usize];
                (self.sources.weights[i as usize], Memory::Fixed(weight.bytes))
            }
            Arg::State { state, layer } => {
                let (address, bytes) = self.sources.states.rows(state, layer);
                (address as u64, Memory::Fixed(bytes))
            }
        };
        self.push(address, memory);
    }

    fn push(&mut self, value: u64, memory: Memory) {
        self.program.args.push(value);
        self.program.memory.push(memory);
    }

    fn step(&mut self, step: &Step) {
        let op = match step {
            Step::Barrier => Op::Barrier,
            Step::Copy { from, to, bytes } => {
                let args = self.program.args.len();
                self.arg(*from);
                self.arg(*to);
                Op::Copy { args, bytes: self.size(bytes) }
            }
            Step::Launch(launch) => self.launch(launch),
        };
        self.program.ops.push(op);
    }

    fn launch(&mut self, launch: &Launch) -> Op {
        let args = self.program.args.len();
        launch.args.iter().for_each(|arg| self.arg(*arg));
        for symbol in &self.sources.plan.kernels[launch.kernel as usize].symbols {
            self.push(0, Memory::Symbol(*symbol as usize));
        }
        let count = match &launch.grid {
            Grid::Dense(count) => Count::Dense(self.size(count)),
            Grid::List { list, each } => {
                let at = self.program.args.len();
                self.arg(*list);
                Count::List { args: at, each: self.size(each) }
            }
        };
        let (origin, work) = (launch.origin.clone(), launch.work.clone());
        let info = LaunchInfo { kernel: launch.kernel, origin, work };
        self.program.launches.push(info);
        let kernel = self.sources.kernels[launch.kernel as usize];
        Op::Launch { kernel, args, count, launch: self.program.launches.len() as u32 - 1 }
    }
}
