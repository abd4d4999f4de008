//! Which form of a program runs in which steps.
//!
//! Steps differ by rows, by new tokens of a sequence and by context. For each range of rows and of
//! contexts the forms of steps from short to long are chosen, and between neighbours the step at
//! which the cost model ranks them the other way around. Ranges with one form become one variant.

use crate::lower::schedule::{BUCKETS, RowBucket};
use crate::lower::variant::{StepRange, Variant};
use crate::options::Options;
use crate::rewrite::choose::Plan;
use crate::rewrite::cost::Point;
use crate::rewrite::program::{Form, Limited, RewriteError, Rewriter};
use check::Certificate;
use ir::device::DeviceSpec;
use ir::graph::program::Program;

/// Least and greatest.
type Range = (i64, i64);

/// Ends of the ranges of contexts that are told apart, before the model's longest.
const CONTEXTS: [i64; 3] = [1 << 10, 1 << 13, 1 << 16];
/// New tokens of a sequence for which forms are chosen.
const TOKENS: [i64; 6] = [1, 8, 32, 128, 512, 2048];
/// Longest context for which a form is chosen.
const LONGEST: i64 = 1 << 20;
/// By how much a form must be better than those of other steps.
const GAIN: f64 = 1.01;

/// The forms of a naive program, and how they came about.
#[derive(Clone, Debug)]
pub struct ProgramForms {
    /// In the order in which the plan tries them.
    pub variants: Vec<Variant>,
    /// From each block as stated to each of its forms.
    pub certificates: Vec<Certificate>,
    /// Blocks whose saturation met a limit.
    pub limited: Vec<Limited>,
}

/// Some steps, and the form of the program in them.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Rows of the step.
    pub bucket: RowBucket,
    /// Which of these steps.
    pub range: StepRange,
    /// The step that the form was chosen for: of ranges that were joined, the one with the shortest
    /// context.
    pub point: Point,
    /// The form.
    pub form: Form,
}

/// [`forms`] without how they came about.
///
/// Errors: E0283, E0284.
pub fn variants(
    program: &Program,
    options: &Options,
    device: &DeviceSpec,
) -> Result<Vec<Variant>, RewriteError> {
    Ok(forms(program, options, device)?.variants)
}

/// The forms of a naive program in the steps that its plan tells apart.
///
/// Errors: E0283, E0284.
pub fn forms(
    program: &Program,
    options: &Options,
    device: &DeviceSpec,
) -> Result<ProgramForms, RewriteError> {
    let plan = Plan::of(options, device);
    let mut rewriter = Rewriter::new(program, &plan);
    let mut variants: Vec<(Variant, Form)> = vec![];
    for Steps { bucket, range, form, .. } in steps(&mut rewriter, program, &plan)? {
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
    Ok(ProgramForms { certificates, limited: rewriter.limited(), variants })
}

/// The steps that a plan tells apart, with the form of the program in each: by rows, then by
/// context, then by new tokens of a sequence. All steps are among them.
///
/// Errors: E0283, E0284.
pub fn steps(
    rewriter: &mut Rewriter,
    program: &Program,
    plan: &Plan,
) -> Result<Vec<Steps>, RewriteError> {
    let mut forms = Forms { source: rewriter, known: vec![] };
    // The decode point comes first: it settles what is packed.
    forms.at(plan.decode)?;
    let longest = program.symbols.get("t").map_or(LONGEST, |t| t.hi.min(LONGEST));
    let mut all = vec![];
    for bucket in BUCKETS {
        for (context, typical) in contexts(longest) {
            let most = bucket.rows_max.min(typical);
            let samples = TOKENS.into_iter().filter(|tokens| *tokens <= most);
            let point = |tokens: i64| Point {
                batch: (bucket.typical / tokens).max(1),
                tokens,
                context: typical,
            };
            for Run { first, last, point, form } in forms.runs(samples, &point)? {
                let first = if first == 1 { 0 } else { first };
                let range = StepRange { tokens: (first, last), context };
                all.push(Steps { bucket, range, point, form });
            }
        }
    }
    Ok(joined(all))
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

/// What can be written in the form that is best for a step.
pub trait Source {
    /// A form.
    type Form: Clone + PartialEq;
    /// What keeps it from being found.
    type Error;

    /// The best form for a step.
    ///
    /// Errors: as the implementation says.
    fn best(&mut self, point: Point) -> Result<Self::Form, Self::Error>;

    /// Nanoseconds of a form in a step, by the cost model.
    fn price_ns(&self, form: &Self::Form, point: Point) -> f64;
}

impl Source for Rewriter<'_> {
    type Form = Form;
    type Error = RewriteError;

    fn best(&mut self, point: Point) -> Result<Form, RewriteError> {
        self.at(point)
    }

    fn price_ns(&self, form: &Form, point: Point) -> f64 {
        Rewriter::price_ns(self, form, point)
    }
}

/// Forms as they are found.
pub struct Forms<'s, S: Source> {
    /// Where they come from.
    pub source: &'s mut S,
    /// All so far, in the order in which they were found.
    pub known: Vec<S::Form>,
}

/// Steps of one form, by new tokens of a sequence: both ends are in it, and the last has none.
pub struct Run<F> {
    /// The fewest.
    pub first: i64,
    /// The most.
    pub last: i64,
    /// The first step that the form was chosen for.
    pub point: Point,
    /// The form.
    pub form: F,
}

/// Where a form takes over: from the step `first` on, having been chosen for the step `at`.
struct Turn<F> {
    first: i64,
    at: i64,
    form: F,
}

impl<S: Source> Forms<'_, S> {
    /// The form for a step: a known one, unless another is better by so much that it pays.
    ///
    /// Errors: the source's.
    pub fn at(&mut self, point: Point) -> Result<S::Form, S::Error> {
        let best = self.source.best(point)?;
        let most = GAIN * self.source.price_ns(&best, point);
        let priced = self.known.iter().map(|form| (self.source.price_ns(form, point), form));
        let near = priced.filter(|(price, _)| *price <= most);
        if let Some((_, form)) = near.min_by(|(a, _), (b, _)| a.total_cmp(b)) {
            return Ok(form.clone());
        }
        self.known.push(best.clone());
        Ok(best)
    }

    /// Forms by new tokens of a sequence, from those of some steps, few tokens to many: between two
    /// that differ, the form changes where their prices cross.
    ///
    /// Errors: the source's.
    pub fn runs(
        &mut self,
        samples: impl Iterator<Item = i64>,
        point: &dyn Fn(i64) -> Point,
    ) -> Result<Vec<Run<S::Form>>, S::Error> {
        let mut runs: Vec<Run<S::Form>> = vec![];
        let mut before = 1;
        for tokens in samples {
            let form = self.at(point(tokens))?;
            let turns = match runs.last() {
                None => vec![Turn { first: tokens, at: tokens, form }],
                Some(last) => {
                    let price = |form, tokens| self.source.price_ns(form, point(tokens));
                    let pays = |tokens| price(&form, tokens) < price(&last.form, tokens);
                    // It may have been a little better before, by less than is asked for.
                    let earlier = pays(before) && !pays(last.first);
                    let from = (if earlier { last.first } else { before }, last.form.clone());
                    self.turns(from, (tokens, form), point)?
                }
            };
            for Turn { first, at, form } in turns {
                if let Some(run) = runs.last_mut() {
                    run.last = first - 1;
                }
                runs.push(Run { first, last: i64::MAX, point: point(at), form });
            }
            before = tokens;
        }
        Ok(runs)
    }

    /// Where forms change from that of one step to that of a longer one, and to which: where their
    /// prices cross, by way of any that is better there.
    fn turns(
        &mut self,
        (no, from): (i64, S::Form),
        (yes, to): (i64, S::Form),
        point: &dyn Fn(i64) -> Point,
    ) -> Result<Vec<Turn<S::Form>>, S::Error> {
        if from == to {
            return Ok(vec![]);
        }
        let price = |form, tokens| self.source.price_ns(form, point(tokens));
        let first = first_of(no, yes, &|tokens| price(&to, tokens) < price(&from, tokens));
        let there = self.at(point(first))?;
        if there == from || there == to {
            return Ok(vec![Turn { first, at: yes, form: to }]);
        }
        let mut turns = self.turns((no, from), (first, there.clone()), point)?;
        turns.extend(self.turns((first, there), (yes, to), point)?);
        Ok(turns)
    }
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
