//! Two files of one model, call by call: of other options, levels, backends or forms.
//!
//! Both run the same steps. Each call of a block is given in the second file what it was given in
//! the first, so that errors do not add up over layers and the first call that is apart has the
//! launch at fault. Within a call, every value that both files have in memory is compared.
//!
//! - [`same`]: whether the files are of one model, and which of their values are the same
//! - [`watch`]: what a step's calls give and take
//! - [`mod@judge`]: how far values may be apart, and are
//! - [`report`]: what was found, for people and as JSON

pub mod judge;
pub mod report;
pub mod same;
pub mod watch;

use crate::diff::launches;
use crate::diff::steps::{Schedule, StepOf};
use crate::error::ToolError;
use crate::remade::Remade;
use compiler::progress::Progress;
use judge::{Beyond, Three, judge};
use report::{Divergence, File, Report, StepReport};
use runtime::{Batch, Model, Session};
use same::Same;
use std::sync::Arc;
use watch::{Feed, Look, Seen, Watch, precision, rounding};

/// Most divergences that are told of.
const MOST: usize = 8;

/// By what part inputs are moved at least: what sums of f32 lose.
const FINEST: f64 = 1.0 / (1u64 << 21) as f64;

/// A file, with what it was made from.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The file.
    pub model: &'a Arc<Model>,
    /// What it was made from.
    pub made: &'a Remade,
}

/// Both files on their way.
struct Files<'a> {
    sides: [Side<'a>; 2],
    /// Of the first file, of the second, and of that with inputs moved: what this keeps of a
    /// sequence is moved, too.
    sessions: [Session; 3],
    schedules: &'a [Schedule; 2],
}

/// The session of the second file that is given moved inputs.
const MOVED: usize = 2;

/// What a step did in the first file, in the second, and in that with inputs moved.
struct Steps {
    first: Seen,
    second: Seen,
    moved: Seen,
}

/// Runs sequences of token ids through two files and compares every call. It ends with the first
/// step that has a call beyond its tolerance: later ones read what that one kept.
///
/// # Errors
/// [`ToolError`]: the files are of different models, or a step cannot be run.
pub fn against(
    sides: [Side<'_>; 2],
    sequences: &[Vec<i32>],
    progress: &mut dyn Progress,
) -> Result<Report, ToolError> {
    let mut same = Same::new(sides)?;
    let schedules = schedules(sides, sequences);
    let session = |i: usize| Session::new(Arc::clone(sides[i].model), schedules[i].pages());
    let sessions = [session(0)?, session(1)?, session(1)?];
    let mut files = Files { sides, sessions, schedules: &schedules };
    let mut report = Report::new(sides);
    let count = schedules[0].steps().len();
    progress.begin("steps", count as u64);
    for at in 0..count {
        let steps = files.run(at)?;
        let beyond = compare(&mut same, sides, &steps, &mut report)?;
        let step = &schedules[0].steps()[at];
        report.steps.push(StepReport {
            buckets: [(0, &steps.first), (1, &steps.second)].map(|(i, s)| sides[i].bucket(s)),
            rows: step.rows(),
            sequences: step.count(),
        });
        progress.done(1);
        if beyond.is_empty() {
            continue;
        }
        report.divergent = beyond.len();
        for (nth, (call, beyond)) in beyond.into_iter().take(MOST).enumerate() {
            let mut found = Divergence::new((at, call), sides, &steps, &beyond);
            if nth == 0 {
                files.look(at, &steps, call, &beyond, &mut found)?;
            }
            report.divergences.push(found);
        }
        break;
    }
    Ok(report)
}

/// The same steps for both files, in the pages of each.
fn schedules(sides: [Side<'_>; 2], sequences: &[Vec<i32>]) -> [Schedule; 2] {
    // Sequences that are made up must be in the context of both.
    let context = |s: &Side<'_>| s.model.manifest().model.context_length;
    let shorter = sides.iter().min_by_key(|s| context(s)).unwrap_or(&sides[0]);
    let both = Schedule::new(shorter.model, sequences);
    sides.map(|s| Schedule::new(s.model, both.sequences()))
}

impl Side<'_> {
    fn bucket(&self, seen: &Seen) -> String {
        self.model.plan().entries[0].buckets[seen.bucket].name.clone()
    }

    /// A launch of a bucket.
    fn place(&self, bucket: usize, launch: usize) -> report::Place {
        let mut all = launches(&self.model.plan().entries[0].buckets[bucket]);
        let planned = all.nth(launch).expect("the runtime walks the file's plan");
        let kernel = &self.made.lowered.kernels[planned.kernel as usize];
        report::Place {
            launch,
            origin: planned.origin.clone(),
            kernel: kernel.name.to_string(),
            family: kernel.family.to_string(),
        }
    }
}

impl Files<'_> {
    /// Runs a step of a session.
    fn step(
        &mut self,
        session: usize,
        at: usize,
        feed: Option<Feed<'_>>,
        look: Option<Look>,
    ) -> Result<(Seen, Option<Look>), ToolError> {
        let file = session.min(1);
        let steps = self.schedules[file].steps();
        let step: &StepOf<'_> = &steps[at];
        let mut watch = Watch::new(self.sides[file], feed);
        watch.look = look;
        let batch = Batch { sequences: &step.sequences() };
        self.sessions[session].step_observed(&batch, &mut watch)?;
        watch.finish()
    }

    /// Runs a step of both.
    fn run(&mut self, at: usize) -> Result<Steps, ToolError> {
        let (first, _) = self.step(0, at, None, None)?;
        let sides = self.sides;
        let part = |bucket: usize, call: usize| part(sides, [first.bucket, bucket], call);
        let feed = Feed { from: &first, moved: Some(&part) };
        let (moved, _) = self.step(MOVED, at, Some(feed), None)?;
        let feed = Feed { from: &first, moved: None };
        let (second, _) = self.step(1, at, Some(feed), None)?;
        Ok(Steps { first, second, moved })
    }

    /// Runs a step of both files once more, to see what the launches of a value read.
    fn look(
        &mut self,
        at: usize,
        steps: &Steps,
        call: usize,
        beyond: &Beyond,
        found: &mut Divergence,
    ) -> Result<(), ToolError> {
        let feed = Feed { from: &steps.first, moved: None };
        let each = [
            (&steps.first, None, beyond.element),
            (&steps.second, Some(feed), beyond.second_element),
        ];
        for (file, (seen, feed, element)) in each.into_iter().enumerate() {
            let reading = &seen.calls[call].values[&beyond.names[file]];
            let called = &self.sides[file].made.lowered.called[seen.bucket][call];
            let look = Look {
                launches: called.launches.start..reading.launch + 1,
                at: (reading.param, element),
                instance: None,
                operands: vec![],
                wrong: None,
            };
            let (_, look) = self.step(file, at, feed, Some(look))?;
            let Some(Look { instance, operands, wrong, .. }) = look else { continue };
            let place = |at| self.sides[file].place(seen.bucket, at);
            let side = &mut found.sides[file];
            (side.instance, side.operands, side.wrong) = (instance, operands, wrong.map(place));
        }
        Ok(())
    }
}

/// By what part the inputs of a call are moved: as much as the coarser file rounds in it.
fn part(sides: [Side<'_>; 2], buckets: [usize; 2], call: usize) -> f64 {
    let of = |file: usize| precision(sides[file], buckets[file], call);
    of(0).max(of(1)).max(FINEST)
}

/// Compares all calls of a step; gives those that are beyond their tolerance.
fn compare(
    same: &mut Same<'_>,
    sides: [Side<'_>; 2],
    steps: &Steps,
    report: &mut Report,
) -> Result<Vec<(usize, Beyond)>, ToolError> {
    let Steps { first, second, moved } = steps;
    let buckets = [first.bucket, second.bucket];
    let narrow = |file: usize, at: usize| {
        let bucket = &sides[file].model.plan().entries[0].buckets[buckets[file]];
        let launch = launches(bucket).nth(at).expect("the runtime walks the file's plan");
        rounding(&sides[file].made.lowered.kernels[launch.kernel as usize])
    };
    let mut beyond = vec![];
    let calls = first.calls.iter().zip(&second.calls).zip(&moved.calls);
    for (call, ((first, second), moved)) in calls.enumerate() {
        let pairs = same.pairs(buckets, call)?;
        let part = part(sides, buckets, call);
        let judged = judge(Three { first, second, moved, part, pairs: &pairs }, &narrow);
        report.calls += 1;
        report.values += judged.values;
        report.turned += judged.turned;
        report.worst = report.worst.max(judged.worst);
        beyond.extend(judged.beyond.map(|b| (call, b)));
    }
    Ok(beyond)
}

impl Report {
    fn new(sides: [Side<'_>; 2]) -> Report {
        let file = |side: Side<'_>| File {
            path: side.model.path().display().to_string(),
            isa: side.model.isa().into(),
            backend: side.model.backend().into(),
        };
        Report {
            files: sides.map(file),
            steps: vec![],
            calls: 0,
            values: 0,
            worst: 0.0,
            turned: 0,
            divergent: 0,
            divergences: vec![],
        }
    }
}

impl Divergence {
    fn new(
        (step, call): (usize, usize),
        sides: [Side<'_>; 2],
        steps: &Steps,
        beyond: &Beyond,
    ) -> Divergence {
        let side = |file: usize| {
            let (side, seen) = (sides[file], [&steps.first, &steps.second][file]);
            let launch = seen.calls[call].values[&beyond.names[file]].launch;
            report::Side {
                bucket: side.bucket(seen),
                place: side.place(seen.bucket, launch),
                value: format!("%{}", beyond.names[file]),
                number: beyond.numbers[file],
                instance: None,
                operands: vec![],
                wrong: None,
            }
        };
        Divergence {
            step,
            call,
            sides: [side(0), side(1)],
            position: beyond.position.clone(),
            error: beyond.error,
            tolerance: beyond.tolerance,
            beyond: beyond.beyond,
            of: beyond.of,
        }
    }
}
