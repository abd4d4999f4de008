//! Which form of a program runs in which steps.
//!
//! Steps differ by rows, by new tokens of a sequence and by context. Forms are added for the steps
//! that are furthest from the best there is, until none gains enough by another; then each step has
//! the cheapest of them, and between neighbours the form changes where the cost model ranks them the
//! other way around. Ranges with one form become one variant.

use crate::lower::schedule::{BUCKETS, RowBucket};
use crate::lower::variant::{StepRange, Variant};
use crate::options::Options;
use crate::rewrite::choose::Plan;
use crate::rewrite::cost::Point;
use crate::rewrite::program::{Form, Limited, RewriteError, Rewriter};
use check::Certificate;
use ir::device::DeviceSpec;
use ir::graph::program::Program;
use serde::Serialize;
use std::fmt;

/// Least and greatest.
type Range = (i64, i64);

/// Ends of the ranges of contexts that are told apart, before the model's longest.
const CONTEXTS: [i64; 3] = [1 << 10, 1 << 13, 1 << 16];
/// New tokens of a sequence for which forms are chosen.
const TOKENS: [i64; 6] = [1, 8, 32, 128, 512, 2048];
/// Longest context for which a form is chosen.
const LONGEST: i64 = 1 << 20;

/// The forms of a naive program, and how they came about.
#[derive(Clone, Debug)]
pub struct ProgramForms {
    /// In the order in which the plan tries them.
    pub variants: Vec<Variant>,
    /// From each block as stated to each of its forms.
    pub certificates: Vec<Certificate>,
    /// Blocks whose saturation met a limit.
    pub limited: Vec<Limited>,
    /// Whether there is but one form, so that steps may be batch-invariant.
    pub invariance: Invariance,
}

impl ProgramForms {
    /// Choices with those made that were left to what the forms would cost.
    pub fn decided(&self, options: &Options) -> Options {
        Options { batch_invariant: Some(self.invariance.holds), ..options.clone() }
    }
}

/// What one form for all steps would cost, and whether that was done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Invariance {
    /// Whether all steps have one form.
    pub holds: bool,
    /// How many times as long the step takes that loses most by it, by the cost model.
    pub slower: f64,
    /// That step.
    pub at: Point,
}

impl Invariance {
    /// Slower than this is nobody's default.
    const FREE: f64 = 1.03;

    fn of(slower: f64, at: Point, asked: Option<bool>) -> Invariance {
        Invariance { holds: asked.unwrap_or(slower < Invariance::FREE), slower, at }
    }
}

impl fmt::Display for Invariance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Invariance { holds, slower, at: Point { batch, tokens, context } } = *self;
        let word = if holds { "yes" } else { "no" };
        write!(f, "batch-invariant: {word}; of one form for all steps ")?;
        match (slower - 1.0) * 100.0 {
            more if more < 0.05 => write!(f, "none is slower"),
            more => write!(
                f,
                "{batch} x {tokens} new tokens at context {context} are slowed most, by {more:.1} %"
            ),
        }
    }
}

/// Some steps, and the form of the program in them.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Rows of the step.
    pub bucket: RowBucket,
    /// Which of these steps.
    pub range: StepRange,
    /// One of them: of ranges that were joined, one with the shortest context.
    pub point: Point,
    /// The form.
    pub form: Form,
}

/// [`forms`] without how they came about.
///
/// Errors: E0284.
pub fn variants(
    program: &Program,
    options: &Options,
    device: &DeviceSpec,
) -> Result<Vec<Variant>, RewriteError> {
    Ok(forms(program, options, device)?.variants)
}

/// The forms of a naive program in the steps that its plan tells apart.
///
/// Errors: E0284.
pub fn forms(
    program: &Program,
    options: &Options,
    device: &DeviceSpec,
) -> Result<ProgramForms, RewriteError> {
    let plan = Plan::of(options, device).with_formats(program, &options.weights);
    let mut rewriter = Rewriter::new(program, &plan);
    let mut variants: Vec<(Variant, Form)> = vec![];
    let (steps, invariance) = steps(&mut rewriter, program, &plan)?;
    for Steps { bucket, range, form, .. } in steps {
        let same = |(v, of): &&mut (Variant, Form)| v.bucket == bucket && *of == form;
        match variants.iter_mut().find(same) {
            Some((known, _)) => known.steps.push(range),
            None => {
                let program = rewriter.program(&form);
                variants.push((Variant { bucket, steps: vec![range], program }, form));
            }
        }
    }
    let variants: Vec<Variant> = variants.into_iter().map(|(variant, _)| variant).collect();
    let is_used = |c: &Certificate| {
        let form = |v: &Variant| v.program.block(&c.source.name) == Some(c.chosen());
        variants.iter().any(form)
    };
    let mut certificates = rewriter.certificates();
    certificates.retain(is_used);
    Ok(ProgramForms { certificates, limited: rewriter.limited(), invariance, variants })
}

/// The steps that a plan tells apart, with the form of the program in each: by rows, then by
/// context, then by new tokens of a sequence. All steps are among them. With them, what one form in
/// all of them costs, and whether the plan has it so.
///
/// Errors: E0284.
pub fn steps(
    rewriter: &mut Rewriter,
    program: &Program,
    plan: &Plan,
) -> Result<(Vec<Steps>, Invariance), RewriteError> {
    let longest = program.symbols.get("t").map_or(LONGEST, |t| t.hi.min(LONGEST));
    let lines: Vec<Line> = BUCKETS.into_iter().flat_map(|b| Line::of(b, longest)).collect();
    let mut forms = worthwhile(rewriter, &lines, plan)?;
    let invariance = invariance(rewriter, &lines, &forms, plan);
    if invariance.holds {
        forms.truncate(1);
    }
    let mut all = vec![];
    for line in &lines {
        for Run { first, last, at, form } in line.runs(rewriter, &forms) {
            let first = if first == 1 { 0 } else { first };
            let range = StepRange { tokens: (first, last), context: line.contexts };
            let (bucket, point, form) = (line.bucket, line.point(at), forms[form].clone());
            all.push(Steps { bucket, range, point, form });
        }
    }
    Ok((joined(all), invariance))
}

/// What it costs to have the first form in all steps.
fn invariance(rewriter: &Rewriter, lines: &[Line], forms: &[Form], plan: &Plan) -> Invariance {
    let slower = |point: &Point| {
        let prices = || forms.iter().map(|form| rewriter.price_ns(form, *point));
        let (first, best) = (prices().next(), prices().fold(f64::INFINITY, f64::min));
        first.map_or(1.0, |first| first / best)
    };
    let all = lines.iter().flat_map(Line::points).map(|point| (slower(&point), point));
    let worst = all.max_by(|(a, _), (b, _)| a.total_cmp(b));
    let (slower, at) = worst.unwrap_or((1.0, plan.decode));
    Invariance::of(slower, at, plan.batch_invariant)
}

/// Steps of the same rows and contexts, by new tokens of a sequence.
struct Line {
    bucket: RowBucket,
    contexts: Range,
    /// The context that forms are chosen for.
    typical: i64,
}

impl Line {
    fn of(bucket: RowBucket, longest: i64) -> impl Iterator<Item = Line> {
        let ranges = contexts(longest).into_iter();
        ranges.map(move |(contexts, typical)| Line { bucket, contexts, typical })
    }

    fn samples(&self) -> Vec<i64> {
        let most = self.bucket.rows_max.min(self.typical);
        TOKENS.into_iter().filter(|tokens| *tokens <= most).collect()
    }

    fn points(&self) -> Vec<Point> {
        self.samples().into_iter().map(|tokens| self.point(tokens)).collect()
    }

    fn point(&self, tokens: i64) -> Point {
        let batch = (self.bucket.typical / tokens).max(1);
        Point { batch, tokens, context: self.typical }
    }

    fn runs(&self, rewriter: &Rewriter, forms: &[Form]) -> Vec<Run> {
        let price = |form: usize, tokens| rewriter.price_ns(&forms[form], self.point(tokens));
        runs(&self.samples(), forms.len(), &price)
    }
}

/// Forms such that no step gains by another as much as a plan asks for: that of the decode point,
/// then, again and again, the one that is best for the step which lacks most. Steps are samples, and
/// those in which one form takes over from another: there, a third may be better than both.
///
/// Errors: E0284.
fn worthwhile(
    rewriter: &mut Rewriter,
    lines: &[Line],
    plan: &Plan,
) -> Result<Vec<Form>, RewriteError> {
    // The decode point comes first: it settles what is packed.
    let mut forms = vec![rewriter.at(plan.decode)?];
    let mut points: Vec<Point> = lines.iter().flat_map(Line::points).collect();
    let mut best: Vec<(Point, Form)> = vec![];
    loop {
        for point in points {
            if best.iter().all(|(known, _)| *known != point) {
                best.push((point, rewriter.at(point)?));
            }
        }
        let lacks = |(point, best): &(Point, Form)| {
            let prices = forms.iter().map(|form| rewriter.price_ns(form, *point));
            prices.fold(f64::INFINITY, f64::min) / rewriter.price_ns(best, *point)
        };
        let most = best.iter().map(|b| (lacks(b), b)).max_by(|(a, _), (b, _)| a.total_cmp(b));
        match most {
            Some((lack, (_, form))) if lack > plan.gain => forms.push(form.clone()),
            _ => return Ok(forms),
        }
        let turns = |line: &Line| -> Vec<Point> {
            let runs = line.runs(rewriter, &forms);
            runs.iter().skip(1).map(|run| line.point(run.first)).collect()
        };
        points = lines.iter().flat_map(turns).collect();
    }
}

/// Ranges of contexts, the last without an end, with the context that forms are chosen for.
fn contexts(longest: i64) -> Vec<(Range, i64)> {
    let mut ends: Vec<i64> = CONTEXTS.into_iter().filter(|end| *end < longest).collect();
    ends.push(longest);
    let range = |(i, end): (usize, &i64)| {
        let first = if i == 0 { 0 } else { ends[i - 1] + 1 };
        let last = if i + 1 == ends.len() { i64::MAX } else { *end };
        ((first, last), *end)
    };
    ends.iter().enumerate().map(range).collect()
}

/// Steps of one form, by new tokens of a sequence: both ends are in it, and the last has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The fewest.
    pub first: i64,
    /// The most.
    pub last: i64,
    /// One of them: a sample, or the first.
    pub at: i64,
    /// Which of the forms.
    pub form: usize,
}

/// Which of so many forms is the cheapest, by new tokens of a sequence: from samples, few tokens to
/// many. Between two that differ, the form changes where their prices cross.
pub fn runs(samples: &[i64], forms: usize, price: &dyn Fn(usize, i64) -> f64) -> Vec<Run> {
    let cheapest = |tokens: &i64| {
        let order = |a: &usize, b: &usize| price(*a, *tokens).total_cmp(&price(*b, *tokens));
        (*tokens, (0..forms).min_by(order).expect("there is a form"))
    };
    let found: Vec<(i64, usize)> = samples.iter().map(cheapest).collect();
    let begin =
        |(at, form): &(i64, usize)| Run { first: *at, last: i64::MAX, at: *at, form: *form };
    let mut runs: Vec<Run> = found.first().map(begin).into_iter().collect();
    for pair in found.windows(2) {
        for run in turns(pair[0], pair[1], &|tokens| cheapest(&tokens).1, price) {
            if let Some(before) = runs.last_mut() {
                before.last = run.first - 1;
            }
            runs.push(run);
        }
    }
    runs
}

/// Where forms change from that of one step to that of a longer one, and to which: where their
/// prices cross, by way of any that is cheaper there.
fn turns(
    (no, from): (i64, usize),
    (yes, to): (i64, usize),
    cheapest: &dyn Fn(i64) -> usize,
    price: &dyn Fn(usize, i64) -> f64,
) -> Vec<Run> {
    if from == to {
        return vec![];
    }
    let first = first_of(no, yes, &|tokens| price(to, tokens) < price(from, tokens));
    let there = cheapest(first);
    if there == from || there == to {
        return vec![Run { first, last: i64::MAX, at: yes, form: to }];
    }
    let mut found = turns((no, from), (first, there), cheapest, price);
    found.extend(turns((first, there), (yes, to), cheapest, price));
    found
}

/// The first number above `no` of which something holds that does not of `no`, and does of `yes`.
fn first_of(mut no: i64, mut yes: i64, holds: &dyn Fn(i64) -> bool) -> i64 {
    while yes - no > 1 {
        let middle = no + (yes - no) / 2;
        if holds(middle) {
            yes = middle;
        } else {
            no = middle;
        }
    }
    yes
}

/// Steps of one form and of the same tokens whose contexts meet, as one.
fn joined(all: Vec<Steps>) -> Vec<Steps> {
    let mut joined: Vec<Steps> = vec![];
    for steps in all {
        let meets = |s: &&mut Steps| {
            s.bucket == steps.bucket
                && s.form == steps.form
                && s.range.tokens == steps.range.tokens
                && s.range.context.1.checked_add(1) == Some(steps.range.context.0)
        };
        match joined.iter_mut().find(meets) {
            Some(s) => s.range.context.1 = steps.range.context.1,
            None => joined.push(steps),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_leave_nothing_out() {
        assert_eq!(contexts(512), [((0, i64::MAX), 512)]);
        assert_eq!(contexts(4096), [((0, 1024), 1024), ((1025, i64::MAX), 4096)]);
        let all = contexts(1 << 20);
        assert_eq!(all.len(), 4);
        assert!(all.windows(2).all(|w| w[0].0.1 + 1 == w[1].0.0));
    }

    #[test]
    fn the_first_is_found() {
        assert_eq!(first_of(8, 512, &|n| n >= 168), 168);
        assert_eq!(first_of(1, 2, &|n| n >= 2), 2);
    }

    #[test]
    fn each_step_has_the_cheapest_form() {
        // Cheapest from the first token on, from 200, and from 500.
        let price =
            |form: usize, tokens: i64| [10 * tokens, 1000 + 5 * tokens, 3000 + tokens][form] as f64;
        let found = |samples: &[i64], forms| -> Vec<(i64, i64, usize)> {
            let runs = runs(samples, forms, &price);
            assert!(runs.iter().all(|r| (r.first..=r.last).contains(&r.at)));
            runs.iter().map(|r| (r.first, r.last, r.form)).collect()
        };
        assert_eq!(found(&[1, 8, 2048], 1), [(1, i64::MAX, 0)]);
        assert_eq!(found(&[1, 128, 2048], 2), [(1, 200, 0), (201, i64::MAX, 1)]);
        let all = [(1, 200, 0), (201, 500, 1), (501, i64::MAX, 2)];
        assert_eq!(found(&[1, 300, 2048], 3), all);
        assert_eq!(found(&[1, 2048], 3), all, "found where the other two cross");
        assert_eq!(found(&[600, 2048], 3), [(600, i64::MAX, 2)]);
        assert_eq!(found(&[], 3), []);
    }

    #[test]
    fn ranges_are_joined_where_they_meet() {
        let of = |(tokens, context): (Range, Range)| Steps {
            bucket: BUCKETS[0],
            range: StepRange { tokens, context },
            point: Point { batch: 1, tokens: 1, context: context.1 },
            form: Form::default(),
        };
        let all = [
            ((0, 99), (0, 10)),
            ((0, 99), (11, 20)),
            ((0, 120), (21, 30)),
            ((0, 99), (31, i64::MAX)),
        ];
        let joined = joined(all.map(of).to_vec());
        let ranges: Vec<(Range, Range)> =
            joined.iter().map(|s| (s.range.tokens, s.range.context)).collect();
        let expected = [((0, 99), (0, 20)), ((0, 120), (21, 30)), ((0, 99), (31, i64::MAX))];
        assert_eq!(ranges, expected);
        assert_eq!(joined[0].point.context, 10, "the shortest context's");
        let [mut one, other] = [all[0], all[1]].map(of);
        one.bucket = BUCKETS[1];
        assert_eq!(super::joined(vec![one, other]).len(), 2, "of different rows");
    }
}
