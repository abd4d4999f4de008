//! One file's step: what its launches give and take, and what they are given of another's.

use super::Side;
use crate::diff::compare::{Compared, Launches, Ranked, narrowest};
use crate::diff::launches;
use crate::diff::report::Operand;
use crate::error::ToolError;
use artifact::plan::Launch;
use compiler::lower::called::{Called, Held};
use ir::dim::Name;
use ir::dtype::{Class, Encoding};
use ir::kernel::layout::{Layout, for_each_position};
use ir::kernel::{Kernel, Op, Role, Stmt};
use ir::number::{mix, round};
use runtime::{Launched, Observer};
use std::collections::BTreeMap;
use std::ops::Range;

/// A value as it was in memory.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Position in the bucket of the launch that wrote it last; of what a call is given, that read
    /// it first.
    pub launch: usize,
    /// The launch's parameter that it was.
    pub param: usize,
    /// Which of the block's parameters it is, of what a call is given.
    pub given: Option<usize>,
    /// Its indices as it lies, rows of the step first.
    pub indices: Vec<Name>,
    /// Their extents.
    pub dims: Vec<u64>,
    /// How it is stored.
    pub encoding: Encoding,
    /// Its elements, row-major.
    pub numbers: Vec<f64>,
}

impl Reading {
    /// What its elements are.
    pub fn class(&self) -> Class {
        self.encoding.decoded().class()
    }
}

/// What a call did.
#[derive(Default)]
pub struct CallSeen {
    /// Its block's values, in the widest form that each was seen in.
    pub values: BTreeMap<Name, Reading>,
    /// Of what launches wrote that choose: what each row was chosen by.
    pub ranked: BTreeMap<Name, Vec<Option<Ranked>>>,
}

/// What a step did.
#[derive(Default)]
pub struct Seen {
    /// The plan's bucket.
    pub bucket: usize,
    /// In order.
    pub calls: Vec<CallSeen>,
}

/// What the calls of a step are given: what another file's calls were given.
#[derive(Clone, Copy)]
pub struct Feed<'a> {
    /// The other's step.
    pub from: &'a Seen,
    /// For a bucket and a call, the part of each number by which it is moved up or down.
    pub moved: Option<&'a dyn Fn(usize, usize) -> f64>,
}

/// A launch to look at, and those of its call before it.
pub struct Look {
    /// Positions in the bucket: the launch is the last.
    pub launches: Range<usize>,
    /// The launch's parameter and element.
    pub at: (usize, u64),
    /// The grid's instance that wrote the element.
    pub instance: Option<i64>,
    /// What that instance read.
    pub operands: Vec<Operand>,
    /// The first launch whose code is not what its kernel means.
    pub wrong: Option<usize>,
}

/// Watches a step.
pub struct Watch<'a> {
    side: Side<'a>,
    feed: Option<Feed<'a>>,
    /// A launch to look at.
    pub look: Option<Look>,
    before: Vec<Option<Vec<u8>>>,
    seen: Seen,
    error: Option<ToolError>,
}

impl<'a> Watch<'a> {
    /// Of a file, with what its calls are given if they do not take what they find.
    pub fn new(side: Side<'a>, feed: Option<Feed<'a>>) -> Watch<'a> {
        Watch { side, feed, look: None, before: vec![], seen: Seen::default(), error: None }
    }

    /// What was seen.
    ///
    /// # Errors
    /// The interpreter's.
    pub fn finish(self) -> Result<(Seen, Option<Look>), ToolError> {
        self.error.map_or(Ok((self.seen, self.look)), Err)
    }

    fn launches(&self) -> Launches<'a> {
        Launches::new(self.side.model.plan(), &self.side.made.lowered)
    }

    /// The launch, its call and that call's position.
    fn place(&self, launched: &Launched<'_>) -> Option<(&'a Launch, &'a Called, usize)> {
        let bucket = &self.side.model.plan().entries[0].buckets[launched.bucket()];
        let launch = launches(bucket).nth(launched.position())?;
        let calls = &self.side.made.lowered.called[launched.bucket()];
        let at = calls.iter().position(|c| c.launches.contains(&launched.position()))?;
        Some((launch, &calls[at], at))
    }

    fn read(&self, launched: &Launched<'_>, held: &Held, param: usize) -> Option<Reading> {
        let dims = self.dims(launched, held)?;
        let layout = Layout::new(held.encoding, None, &dims).ok()?;
        let memory = launched.memory(param);
        if (memory.len() as u64) < layout.size_bytes() {
            return None;
        }
        let mut numbers = vec![];
        for_each_position(&dims, &mut |at| numbers.push(layout.read(memory, at)));
        let (launch, encoding, indices) =
            (launched.position(), held.encoding, held.indices.clone());
        Some(Reading { launch, param, given: held.param, indices, dims, encoding, numbers })
    }

    fn dims(&self, launched: &Launched<'_>, held: &Held) -> Option<Vec<u64>> {
        let names = &self.side.model.plan().symbols;
        let value = |name: &str| {
            let at = names.iter().position(|n| n == name)?;
            launched.symbols().get(at).copied()
        };
        held.dims.iter().map(|d| u64::try_from(d.eval(&value)?).ok()).collect()
    }

    /// Keeps a reading, unless there is a wider one of the same launch.
    fn keep(&mut self, call: usize, name: &Name, reading: Reading) {
        let calls = &mut self.seen.calls;
        if calls.len() <= call {
            calls.resize_with(call + 1, CallSeen::default);
        }
        let values = &mut calls[call].values;
        let bits = |r: &Reading| r.encoding.code.bits();
        let is_worse = |known: &Reading| match known.given {
            Some(_) => bits(known) < bits(&reading),
            None => known.launch < reading.launch || bits(known) < bits(&reading),
        };
        if values.get(name).is_none_or(is_worse) {
            values.insert(name.clone(), reading);
        }
    }

    /// Writes what another file's call was given in place of what this one finds.
    fn give(&self, feed: Feed<'_>, launched: &mut Launched<'_>, held: &Held, at: (usize, usize)) {
        let (call, param) = at;
        let values = feed.from.calls.get(call).map(|c| &c.values);
        let given = values.and_then(|all| all.values().find(|r| r.given == held.param));
        let (Some(given), Some(dims)) = (given, self.dims(launched, held)) else { return };
        let is_real = given.class() == Class::Float && held.encoding.is_plain();
        if given.dims != dims || !is_real {
            return;
        }
        let Ok(layout) = Layout::new(held.encoding, None, &dims) else { return };
        let part = feed.moved.map_or(0.0, |part| part(launched.bucket(), call));
        let Some(memory) = launched.memory_mut(param) else { return };
        if (memory.len() as u64) < layout.size_bytes() {
            return;
        }
        let mut element = 0usize;
        for_each_position(&dims, &mut |position| {
            let way = if mix(element as u64) & 1 == 0 { 1.0 } else { -1.0 };
            let number = given.numbers[element] * (1.0 + way * part);
            layout.write_code(memory, position, round::to_dtype(number, held.encoding.code));
            element += 1;
        });
    }

    fn after_launch(&mut self, launched: &Launched<'_>) -> Result<(), ToolError> {
        let Some((launch, called, call)) = self.place(launched) else { return Ok(()) };
        let kernel = self.launches().kernel(launch);
        for (param, arg) in launch.args.iter().enumerate() {
            let own = |h: &&Held| h.arg == *arg && h.param.is_none();
            let Some(held) = called.values.iter().find(own) else { continue };
            if !kernel.params[param].role.is_written() {
                continue;
            }
            let Some(reading) = self.read(launched, held, param) else { continue };
            let width: u64 = reading.dims[1..].iter().product();
            self.keep(call, &held.name, reading);
            if self.feed.is_some() && chooses(&kernel.body) {
                let ranked = self.launches().choices(launch, launched, (param, width))?;
                self.seen.calls[call].ranked.insert(held.name.clone(), ranked);
            }
        }
        self.look_at(launch, launched)
    }

    fn look_at(&mut self, launch: &Launch, launched: &Launched<'_>) -> Result<(), ToolError> {
        let (all, before) = (self.launches(), std::mem::take(&mut self.before));
        let position = launched.position();
        let Some(look) = self.look.as_mut().filter(|l| l.launches.contains(&position)) else {
            return Ok(());
        };
        let is_wrong = |c: Compared| c.divergence.is_some();
        if look.wrong.is_none() && is_wrong(all.compare(launch, launched, &before)?) {
            look.wrong = Some(position);
        }
        if position + 1 == look.launches.end {
            (look.instance, look.operands) = all.writer(launch, launched, &before, look.at)?;
        }
        Ok(())
    }
}

impl Observer for Watch<'_> {
    fn before(&mut self, launched: &mut Launched<'_>) {
        self.seen.bucket = launched.bucket();
        let Some((launch, called, call)) = self.place(launched) else { return };
        let kernel = self.launches().kernel(launch);
        for (param, arg) in launch.args.iter().enumerate() {
            let given = |h: &&Held| h.arg == *arg && h.param.is_some();
            let Some(held) = called.values.iter().find(given) else { continue };
            if kernel.params[param].role != Role::In {
                continue;
            }
            if let Some(feed) = self.feed {
                self.give(feed, launched, held, (call, param));
            }
            if let Some(reading) = self.read(launched, held, param) {
                self.keep(call, &held.name, reading);
            }
        }
        if self.look.as_ref().is_some_and(|l| l.launches.contains(&launched.position())) {
            self.before = self.launches().written(launch, launched);
        }
    }

    fn after(&mut self, launched: &Launched<'_>) {
        if self.error.is_none() {
            self.error = self.after_launch(launched).err();
        }
    }
}

/// Whether a kernel chooses the greatest of something.
fn chooses(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Let { op, .. } => matches!(op, Op::TopK { .. }),
        Stmt::Store { .. } => false,
        Stmt::For(f) => chooses(&f.body),
        Stmt::If(i) => chooses(&i.then.0) || chooses(&i.otherwise.0),
    })
}

/// Relative distance of neighbours in the coarsest type that launches of a call round to.
pub fn precision(side: Side<'_>, bucket: usize, call: usize) -> f64 {
    let called = &side.made.lowered.called[bucket][call];
    let kernels = launches(&side.model.plan().entries[0].buckets[bucket]);
    let own = kernels.skip(called.launches.start).take(called.launches.len());
    let of = |launch: &Launch| rounding(&side.made.lowered.kernels[launch.kernel as usize]);
    own.map(of).fold(0.0, f64::max)
}

/// Relative distance of neighbours in the coarsest type that a kernel rounds to.
pub fn rounding(kernel: &Kernel) -> f64 {
    narrowest(&kernel.body, kernel)
}
