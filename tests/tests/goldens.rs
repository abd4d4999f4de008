//! Native code, made by every target and run by the runtime, against logits of an independent
//! implementation.
#![allow(clippy::unwrap_used)]

use compiler::import::{ImportOptions, import};
use compiler::lower::lower;
use compiler::options::{Compute, Options};
use generate::engine::Engine;
use generate::logits::Feed;
use ir::device::DeviceSpec;
use tests::choices::{Flip, Open, ScoreError, Shown};
use tests::choices::{flips, is_reached, is_touched, score_errors};
use tests::goldens::{Prompt, model, prompts, relative_error};
use tests::native::{Built, Levels, NativeCode, targets};
use tests::native::{build, build_imported, greedy, logits};

/// Room for all prompts of a model together, however pages divide them.
const TOKENS: usize = 4096;

fn f32_options(page_tokens: u32) -> Options {
    Options { compute: Compute::F32, page_tokens, ..Options::default() }
}

/// Relative error at each stored position.
fn errors(prompt: &Prompt, found: &[f32]) -> Vec<f64> {
    let width = prompt.logits[0].len();
    let rows = found.chunks_exact(width).skip(prompt.first);
    let errors: Vec<f64> =
        rows.zip(&prompt.logits).map(|(row, golden)| relative_error(row, golden)).collect();
    assert_eq!(errors.len(), prompt.logits.len(), "a row for each stored position");
    errors
}

/// Worst relative difference of two results, row by row.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>], vocab: usize) -> f64 {
    assert_eq!(a.len(), b.len());
    let rows = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.chunks_exact(vocab).zip(b.chunks_exact(vocab))
    });
    rows.map(|(a, b)| relative_error(a, b)).fold(0.0, |worst, e| if e <= worst { worst } else { e })
}

/// In f32: goldens, greedy tokens, and the same logits however the prompts are fed.
fn exact(name: &str, page_tokens: u32, which: Levels) {
    let built = build(&model(name), None, &f32_options(page_tokens), which);
    let all = prompts(name);
    for way in &built.ways {
        let whole = exact_way(name, &built, way, &all);
        fed_otherwise(name, &built, way, &all, &whole);
    }
}

fn exact_way(name: &str, built: &Built, way: &str, all: &[Prompt]) -> Vec<Vec<f32>> {
    let ids: Vec<Vec<i32>> = all.iter().map(|p| p.ids.clone()).collect();
    let mut engine = built.engine(way, 2, TOKENS);
    let whole = logits(&mut engine, &ids, Feed::Whole);
    let mut worst = 0f64;
    for (i, (prompt, found)) in all.iter().zip(&whole).enumerate() {
        for (row, error) in errors(prompt, found).into_iter().enumerate() {
            assert!(error < 1e-4, "{name}, {way}, prompt {i}, row {row}: {error:e}");
            worst = worst.max(error);
        }
        let sure = &prompt.greedy[..prompt.sure_steps];
        assert!(!sure.is_empty(), "{name}, prompt {i} has sure greedy tokens");
        assert_eq!(greedy(&mut engine, &prompt.ids, sure.len()), sure, "{name}, {way}, {i}");
    }
    println!("{name}, {way}, f32: {worst:.1e}");
    whole
}

/// Chunks, single tokens and batches give what whole prompts give.
fn fed_otherwise(name: &str, built: &Built, way: &str, all: &[Prompt], whole: &[Vec<f32>]) {
    let vocab = all[0].logits[0].len();
    let ids: Vec<Vec<i32>> = all.iter().map(|p| p.ids.clone()).collect();
    let mut engine = built.engine(way, 1, TOKENS);
    assert_eq!(engine.vocab(), vocab);
    // Token by token, which is slow, only as far as two pages of the default size.
    let short = |ids: &[i32]| ids[..ids.len().min(130)].to_vec();
    let begun: Vec<Vec<i32>> = ids.iter().map(|p| short(p)).collect();
    let heads: Vec<Vec<f32>> =
        begun.iter().zip(whole).map(|(p, w)| w[..p.len() * vocab].to_vec()).collect();
    let single = logits(&mut engine, &begun, Feed::Chunked(1));
    let apart = distance(&single, &heads, vocab);
    assert!(apart < 1e-5, "{name}, {way}, token by token: {apart:e}");
    // Steps of other sizes are served by kernels of other tiles: sums in another order.
    let feeds = [Feed::Chunked(7), Feed::Chunked(100), Feed::BatchedChunks(33), Feed::Batched];
    for feed in feeds {
        let apart = distance(&logits(&mut engine, &ids, feed), whole, vocab);
        assert!(apart < 1e-5, "{name}, {way}, {feed:?}: {apart:e}");
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Largest relative error of a row in bf16 whose experts are the reference's.
const ROW: f64 = 3e-2;
/// Largest median of rows in bf16.
const MEDIAN: f64 = 2e-2;
/// By how much native code may be worse than its precision alone.
const SLACK: f64 = 1.3;
/// The model of which more than half of the stored rows see a token with other experts than in
/// f32: row 1 of its prompt of 64 stored rows is sent elsewhere at a gap of 1.8e-4, and the rows
/// behind see it.
const MOSTLY_TOUCHED: &str = "rand-v3";

/// A model in f32 and in bf16, by the interpreter: what native code may differ by.
struct Expected<'a> {
    name: &'a str,
    all: &'a [Prompt],
    exact: Vec<Shown>,
    /// Error of the scores of each routing that bf16 by itself makes.
    scores: Vec<ScoreError>,
    /// Median error of the logits that bf16 by itself makes.
    median: f64,
}

impl<'a> Expected<'a> {
    fn new(name: &'a str, all: &'a [Prompt], open: &mut Open<'_>) -> Self {
        let exact: Vec<Shown> = all.iter().map(|p| open.exact(&p.ids)).collect();
        let rounded: Vec<Shown> =
            all.iter().zip(&exact).map(|(p, e)| open.rounded(&p.ids, e)).collect();
        let pairs: Vec<_> = exact.iter().zip(&rounded).collect();
        let scores = score_errors(open.routings.len(), &pairs);
        let rows: Vec<f64> =
            all.iter().zip(&rounded).flat_map(|(p, r)| errors(p, &r.logits)).collect();
        Expected { name, all, exact, scores, median: median(&rows) }
    }

    /// Native code that is told which experts to take is as good as its precision: in its logits
    /// at every position, and in what its routers rank by.
    fn check_told(&self, way: &str, logits: &[&[f32]], told: Option<&[Shown]>) {
        let place = format!("{}, {way}", self.name);
        let mut rows = vec![];
        for (i, (prompt, found)) in self.all.iter().zip(logits).enumerate() {
            for (row, error) in errors(prompt, found).into_iter().enumerate() {
                assert!(error < ROW, "{place}, prompt {i}, row {row}: {error:e}");
                rows.push(error);
            }
        }
        let (median, worst) = (median(&rows), rows.iter().copied().fold(0.0, f64::max));
        println!("{place}, bf16, experts told: median {median:.1e}, worst {worst:.1e}");
        assert!(median < MEDIAN && median < SLACK * self.median, "{place}: median {median:e}");
        let Some(told) = told else { return };
        let pairs: Vec<_> = self.exact.iter().zip(told).collect();
        for (found, derived) in score_errors(self.scores.len(), &pairs).iter().zip(&self.scores) {
            let sound =
                found.experts < SLACK * derived.experts && found.groups <= SLACK * derived.groups;
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
                let closed = self.scores[flip.routing].closes(flip);
                assert!(flip.gap < closed, "{place}, prompt {i}: {flip:?}, error {closed:e}");
            }
            for (at, error) in errors(prompt, &found.logits).into_iter().enumerate() {
                let row = prompt.first + at;
                whole.push(error);
                if !is_touched(&flips, open.routings.len(), row) {
                    assert!(error < ROW, "{place}, prompt {i}, row {row}: {error:e}");
                    alike.push(error);
                } else if error >= ROW {
                    let cause = first.iter().filter(|f| f.row <= row).min_by_key(|f| f.routing);
                    let cause = self.explain(cause.expect("a flip above reaches the row"));
                    println!("{place}, prompt {i}, row {row}: {error:.1e} as {cause}");
                    assert!(error < 1.0, "{place}, prompt {i}, row {row}: {error:e}");
                }
            }
        }
        let (near, all) = (median(&alike), median(&whole));
        let (rows, of) = (alike.len(), whole.len());
        println!("{place}, bf16: median {near:.1e} of {rows} rows alike, {all:.1e} of all {of}");
        assert!(near < MEDIAN, "{place}: median {near:e}");
        assert!(all < MEDIAN || self.name == MOSTLY_TOUCHED, "{place}: median of all {all:e}");
    }

    fn explain(&self, flip: &Flip) -> String {
        let what = if flip.of_groups { "groups" } else { "experts" };
        let closed = self.scores[flip.routing].closes(flip);
        let (routing, row, gap) = (flip.routing, flip.row, flip.gap);
        format!(
            "routing {routing} sent row {row} to other {what}: gap {gap:.1e}, error {closed:.1e}"
        )
    }
}

/// In bf16, at every stored position of all prompts: the median error under 2e-2, and rows beyond
/// [`ROW`] only where experts were chosen otherwise at a gap smaller than the error that bf16
/// makes in the routers' scores. Random routers have such gaps in every longer prompt. Of rand-v3
/// even the median of all rows is larger (6.6e-2), by such choices alone: told the reference's
/// experts, the same code has a median of 1.0e-2 and no row beyond 2e-2.
fn near(name: &str) {
    let imported = import(&model(name), &ImportOptions::default()).unwrap();
    let all = prompts(name);
    let mut open = Open::new(&imported);
    let expected = Expected::new(name, &all, &mut open);
    let options = Options::default();
    let built = build_imported(&imported, &options, Levels::Best);
    let lowered = lower(&open.program, &options, &DeviceSpec::default()).unwrap();
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
                |i: usize| open.native(&imported, &lowered, &code, &ids[i], choices.map(|c| &c[i]));
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

macro_rules! models {
    ($($test:ident $near:ident $name:literal $which:ident;)*) => {
        $(
            #[test]
            fn $test() {
                exact($name, 64, Levels::$which);
            }

            #[test]
            fn $near() {
                near($name);
            }
        )*
    };
}

models! {
    tiny_v3 tiny_v3_in_bf16 "tiny-v3" Best;
    tiny_v3_fp8 tiny_v3_fp8_in_bf16 "tiny-v3-fp8" Best;
    v3 v3_in_bf16 "rand-v3" All;
    v3_fp8 v3_fp8_in_bf16 "rand-v3-fp8" All;
    v2 v2_in_bf16 "rand-v2" Best;
    v2_lite v2_lite_in_bf16 "rand-v2-lite" Best;
    llama llama_in_bf16 "rand-llama" Best;
    llama_tied llama_tied_in_bf16 "rand-llama-tied" Best;
    qwen2 qwen2_in_bf16 "rand-qwen2" All;
}

#[test]
fn prompts_over_many_small_pages() {
    exact("rand-v2-lite", 16, Levels::Best);
    exact("rand-llama", 7, Levels::Best);
}
