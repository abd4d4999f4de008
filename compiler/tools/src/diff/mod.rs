//! A compiled model beside the kernel interpreter, launch by launch.
//!
//! Each launch is run by the file's code and, on a copy of the same memory, by the interpreter: in
//! f32, and in f64 as the reference. So errors do not add up from launch to launch, and the first
//! launch that is off is the one at fault. What f32 makes of f64 at the same launch says what may be
//! expected of any order of the same operations.
//!
//! - [`steps`]: which steps are run: a prompt, then token by token, then sequences together
//! - [`compare`]: memory against memory
//! - [`report`]: what was found, for people and as JSON

pub mod compare;
pub mod report;
pub mod steps;

use crate::error::ToolError;
use artifact::plan::{Bucket, Launch, Step};
use compare::{Compared, Launches};
use compiler::lower::Lowered;
use compiler::progress::Progress;
use report::{Divergence, Report, StepReport};
use runtime::{Batch, Launched, Model, Observer, Session};
use std::sync::Arc;
use steps::Schedule;

/// Most divergences that are told of: later ones may follow from the first.
const MOST: usize = 8;

/// Runs sequences of token ids through a model and compares every launch.
///
/// # Errors
/// [`ToolError`]: a step cannot be run, by the code or by the interpreter.
pub fn diff(
    model: &Arc<Model>,
    lowered: &Lowered,
    sequences: &[Vec<i32>],
    progress: &mut dyn Progress,
) -> Result<Report, ToolError> {
    let schedule = Schedule::new(model, sequences);
    let mut session = Session::new(Arc::clone(model), schedule.pages())?;
    let mut report = Report::new(model);
    let buckets = &model.plan().entries[0].buckets;
    progress.begin("launches", schedule.launches(model));
    for (at, step) in schedule.steps().iter().enumerate() {
        let mut watch = Watch {
            launches: Launches::new(model.plan(), lowered),
            buckets,
            step: at,
            report: &mut report,
            progress: &mut *progress,
            before: vec![],
            bucket: None,
            error: None,
        };
        session.step_observed(&Batch { sequences: &step.sequences() }, &mut watch)?;
        let Watch { error, bucket, .. } = watch;
        if let Some(error) = error {
            return Err(error);
        }
        let bucket = bucket.map_or(String::new(), |at| buckets[at].name.clone());
        report.steps.push(StepReport { bucket, rows: step.rows(), sequences: step.count() });
    }
    Ok(report)
}

/// The launches of a bucket, in order.
pub(crate) fn launches(bucket: &Bucket) -> impl Iterator<Item = &Launch> {
    bucket.steps.iter().filter_map(|step| match step {
        Step::Launch(launch) => Some(launch),
        Step::Copy { .. } | Step::Barrier => None,
    })
}

/// Compares the launches of one step.
struct Watch<'a> {
    launches: Launches<'a>,
    buckets: &'a [Bucket],
    step: usize,
    report: &'a mut Report,
    progress: &'a mut dyn Progress,
    /// What the launch's parameters held before it ran: those that it writes.
    before: Vec<Option<Vec<u8>>>,
    bucket: Option<usize>,
    error: Option<ToolError>,
}

impl<'a> Watch<'a> {
    fn launch(&self, launched: &Launched<'_>) -> &'a Launch {
        let bucket = &self.buckets[launched.bucket()];
        launches(bucket).nth(launched.position()).expect("the runtime walks the file's plan")
    }

    fn compare(&mut self, launched: &Launched<'_>) -> Result<(), ToolError> {
        let launch = self.launch(launched);
        let Compared { worst, divergence } =
            self.launches.compare(launch, launched, &self.before)?;
        self.report.launches += 1;
        self.report.worst = self.report.worst.max(worst);
        if let Some(found) = divergence {
            self.report.divergent += 1;
            if self.report.divergences.len() < MOST {
                let bucket = self.buckets[launched.bucket()].name.clone();
                let place = (self.step, bucket, launched.position());
                self.report.divergences.push(Divergence::new(place, launch, found));
            }
        }
        Ok(())
    }
}

impl Observer for Watch<'_> {
    fn before(&mut self, launched: &mut Launched<'_>) {
        self.bucket = Some(launched.bucket());
        self.before = self.launches.written(self.launch(launched), launched);
    }

    fn after(&mut self, launched: &Launched<'_>) {
        if self.error.is_none() {
            self.error = self.compare(launched).err();
        }
        self.progress.done(1);
    }
}
