//! Native code in less than f32 against logits in f32: as near as its precision, that of weights
//! included, lets it be, and where a row is not, its experts were chosen otherwise at a gap that
//! rounding closes.

use crate::choices::{Flip, Open, ScoreError, Shown};
use crate::choices::{flips, is_reached, is_touched, row_error, score_errors};
use crate::goldens::Prompt;
use crate::native::{Levels, NativeCode, Stage, build_imported, logits, targets};
use compiler::import::Imported;
use compiler::lower::plan::lower_variants;
use compiler::options::Options;
use compiler::pack::format::Formats;
use generate::command::bounds::{self, BF16};
use generate::logits::Feed;
use ir::device::DeviceSpec;

/// Room for all prompts of a model together, however pages divide them.
const TOKENS: usize = 4096;
/// By how much native code may be worse than its precision alone.
const SLACK: f64 = 1.3;
/// What has nothing to do with the reference is further away.
const LOST: f64 = 1.0;
/// By how much a single row may be worse than the worst that precision alone makes.
const UNLUCKY: f64 = 2.0;
/// What sums of f32 in another order may add to it.
const REORDERED: f64 = 1e-6;

/// A model in f32 and in bf16, by the interpreter: what native code may differ by.
struct Expected<'a> {
    name: &'a str,
    all: &'a [Prompt],
    exact: Vec<Shown>,
    /// In bf16, told the experts of `exact`.
    rounded: Vec<Shown>,
    /// Error of the scores of each routing that bf16 by itself makes.
    scores: Vec<ScoreError>,
    /// Median error of the logits that the precision by itself makes.
    median: f64,
    /// The most that a row, and the median of rows, may be off by.
    most: Most,
}

/// Bounds of relative errors of logits.
struct Most {
    row: f64,
    median: f64,
    /// Of the median of all rows, those whose experts are others among them.
    anyhow: f64,
    /// How many times what precision makes of routers' scores their error may be.
    scores: f64,
}

impl<'a> Expected<'a> {
    fn new(name: &'a str, all: &'a [Prompt], open: &mut Open<'_>, options: &Options) -> Self {
        let exact: Vec<Shown> = all.iter().map(|p| open.exact(&p.ids)).collect();
        let rounded: Vec<Shown> =
            all.iter().zip(&exact).map(|(p, e)| open.rounded(&p.ids, e)).collect();
        let pairs: Vec<_> = exact.iter().zip(&rounded).collect();
        let scores = score_errors(open.routings.len(), &pairs);
        let rows: Vec<f64> =
            all.iter().zip(&rounded).flat_map(|(p, r)| p.errors(&r.logits)).collect();
        let (median, worst) = (median(&rows), rows.iter().copied().fold(0.0, f64::max));
        let codes = options.state.is_some_and(|format| format.has_scales());
        let most = match codes || options.weights != Formats::default() {
            // Other experts make another model: where most rows have such, errors are of any size.
            // Constants that are made of several weights are rounded as a whole, those here before.
            true => {
                Most { row: UNLUCKY * worst, median: SLACK * median, anyhow: LOST, scores: UNLUCKY }
            }
            false => {
                Most { row: BF16.row, median: BF16.median, anyhow: BF16.median, scores: SLACK }
            }
        };
        Expected { name, all, exact, rounded, scores, median, most }
    }

    /// Native code that is told which experts to take is as good as its precision: in its logits
    /// at every position, and in what its routers rank by.
    fn check_told(&self, way: &str, logits: &[&[f32]], told: Option<&[Shown]>) {
        let place = format!("{}, {way}", self.name);
        let mut rows = vec![];
        for (i, (prompt, found)) in self.all.iter().zip(logits).enumerate() {
            for (row, error) in prompt.errors(found).into_iter().enumerate() {
                assert!(error < self.most.row, "{place}, prompt {i}, row {row}: {error:e}");
                rows.push(error);
            }
        }
        let (median, worst) = (median(&rows), rows.iter().copied().fold(0.0, f64::max));
        println!("{place}, bf16, experts told: median {median:.1e}, worst {worst:.1e}");
        assert!(
            median < self.most.median && median < SLACK * self.median,
            "{place}: median {median:e}"
        );
        let Some(told) = told else { return };
        let pairs: Vec<_> = self.exact.iter().zip(told).collect();
        for (found, derived) in score_errors(self.scores.len(), &pairs).iter().zip(&self.scores) {
            let most = self.most.scores;
            let near = |found: f64, derived: f64| found <= most * derived + REORDERED;
            let sound = near(found.experts, derived.experts) && near(found.groups, derived.groups);
            assert!(sound, "{place}: scores' error {found:?}, by precision {derived:?}");
        }
    }

    /// Native code that chooses for itself: rows whose experts, and whose context's experts, are
    /// the reference's are near; every first departure is at a gap that bf16 closes.
    fn check_own(&self, way: &str, open: &Open<'_>, own: &[Shown]) {
        let place = format!("{}, {way}", self.name);
        let (mut alike, mut whole) = (vec![], vec![]);
        for (i, (prompt, found)) in self.all.iter().zip(own).enumerate() {
            let flips = flips(&open.routings, &self.exact[i], found);
            let first: Vec<&Flip> =
                flips.iter().filter(|f| !is_reached(&flips, f.routing, f.row)).collect();
            for flip in &first {
                let closed = self.error(open, i, flip).closes(flip);
                assert!(flip.gap < closed, "{place}, prompt {i}: {flip:?}, error {closed:e}");
            }
            for (at, error) in prompt.errors(&found.logits).into_iter().enumerate() {
                let row = prompt.first + at;
                whole.push(error);
                if !is_touched(&flips, open.routings.len(), row) {
                    assert!(error < self.most.row, "{place}, prompt {i}, row {row}: {error:e}");
                    alike.push(error);
                } else if error >= self.most.row {
                    let cause = first.iter().filter(|f| f.row <= row).min_by_key(|f| f.routing);
                    let cause = cause.expect("a flip above reaches the row");
                    let cause = self.explain(open, i, cause);
                    println!("{place}, prompt {i}, row {row}: {error:.1e} as {cause}");
                    assert!(error < LOST, "{place}, prompt {i}, row {row}: {error:e}");
                }
            }
        }
        // Perhaps no row has the reference's experts.
        let near = alike.first().map_or(0.0, |_| median(&alike));
        let all = median(&whole);
        let (rows, of) = (alike.len(), whole.len());
        println!("{place}, bf16: median {near:.1e} of {rows} rows alike, {all:.1e} of all {of}");
        assert!(near < self.most.median, "{place}: median {near:e}");
        assert!(all < self.most.anyhow, "{place}: median of all {all:e}");
    }

    /// Error that bf16 by itself makes where a row flipped: of all rows, or of this one if it is one
    /// of those that rounding hits harder.
    fn error(&self, open: &Open<'_>, prompt: usize, flip: &Flip) -> ScoreError {
        let at = flip.routing;
        let [a, b] = [&self.exact, &self.rounded].map(|all| &all[prompt].routed[at]);
        self.scores[at].max(row_error(&open.routings[at], flip.row, [a, b]))
    }

    fn explain(&self, open: &Open<'_>, prompt: usize, flip: &Flip) -> String {
        let what = if flip.of_groups { "groups" } else { "experts" };
        let closed = self.error(open, prompt, flip).closes(flip);
        let (routing, row, gap) = (flip.routing, flip.row, flip.gap);
        format!(
            "routing {routing} sent row {row} to other {what}: gap {gap:.1e}, error {closed:.1e}"
        )
    }
}

/// At every stored position of all prompts: in bf16 the median error under 2e-2, and rows beyond
/// 3e-2 only where experts were chosen otherwise at a gap smaller than the error that bf16
/// makes in the routers' scores. Random routers have such gaps in every longer prompt. In coarser
/// formats both bounds are what rounding alone makes, by the interpreter.
pub fn check(name: &str, imported: &Imported, stage: Stage, all: &[Prompt], options: &Options) {
    let mut open = Open::new(imported, stage, options);
    let expected = Expected::new(name, all, &mut open, options);
    let built = build_imported(imported, stage, options, Levels::Best);
    let lowered = lower_variants(&open.forms, options, &DeviceSpec::default()).unwrap();
    let ids: Vec<Vec<i32>> = all.iter().map(|p| p.ids.clone()).collect();
    for (target, way) in targets().iter().zip(&built.ways) {
        let shipped = logits(&mut built.engine(way, 2, TOKENS), &ids, Feed::Whole);
        if open.routings.is_empty() {
            let shipped: Vec<&[f32]> = shipped.iter().map(Vec::as_slice).collect();
            expected.check_told(way, &shipped, None);
            continue;
        }
        let code = NativeCode::new(&lowered, &**target);
        let run = |choices: Option<&[Shown]>| -> Vec<Shown> {
            let one =
                |i: usize| open.native(imported, &lowered, &code, &ids[i], choices.map(|c| &c[i]));
            (0..ids.len()).map(one).collect()
        };
        let told = run(Some(&expected.exact));
        let told_logits: Vec<&[f32]> = told.iter().map(|t| t.logits.as_slice()).collect();
        expected.check_told(way, &told_logits, Some(&told));
        let own = run(None);
        // What was looked into is what is shipped.
        for (i, (own, shipped)) in own.iter().zip(&shipped).enumerate() {
            assert!(own.logits == *shipped, "{name}, {way}, prompt {i}: other logits");
        }
        expected.check_own(way, &open, &own);
    }
}

fn median(values: &[f64]) -> f64 {
    bounds::median(values.iter().copied()).expect("there are rows")
}
