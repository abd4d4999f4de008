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

/// Steps that stand for each range of rows in reports.
pub fn points(options: &Options) -> Vec<(RowBucket, Point)> {
    let context = i64::from(options.decode.0);
    let point = |bucket: RowBucket| match bucket.is_narrow() {
        true => Point { batch: bucket.typical, tokens: 1, context },
        false => Point { batch: 1, tokens: bucket.typical, context: bucket.typical },
    };
    BUCKETS.into_iter().map(|bucket| (bucket, point(bucket))).collect()
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
    let mut forms = Forms { rewriter: Rewriter::new(program, &plan), known: vec![] };
    // The decode point comes first: it settles what is packed.
    forms.at(plan.decode)?;
    let longest = program.symbols.get("t").map_or(LONGEST, |t| t.hi.min(LONGEST));
    let mut variants = vec![];
    for bucket in BUCKETS {
        let mut chosen: Vec<(Form, Vec<StepRange>)> = vec![];
        for (context, typical) in contexts(longest) {
            for (tokens, form) in forms.runs(bucket, typical)? {
                let range = StepRange { tokens, context };
                match chosen.iter_mut().find(|(known, _)| *known == form) {
                    Some((_, ranges)) => ranges.push(range),
                    None => chosen.push((form, vec![range])),
                }
            }
        }
        variants.extend(chosen.into_iter().map(|(form, steps)| Variant {
            bucket,
            steps: joined(steps),
            program: forms.rewriter.program(&form),
        }));
    }
    let is_used = |c: &Certificate| {
        let form = |v: &Variant| v.program.block(&c.source.name) == Some(c.chosen());
        variants.iter().any(form)
    };
    let mut certificates = forms.rewriter.certificates();
    certificates.retain(is_used);
    Ok(ProgramForms { certificates, limited: forms.rewriter.limited(), variants })
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

/// Forms as they are found.
struct Forms<'a> {
    rewriter: Rewriter<'a>,
    known: Vec<Form>,
}

impl Forms<'_> {
    /// The form for a step: a known one, unless another is better by so much that it pays.
    fn at(&mut self, point: Point) -> Result<Form, RewriteError> {
        let best = self.rewriter.at(point)?;
        let most = GAIN * self.rewriter.price_ns(&best, point);
        let priced = self.known.iter().map(|form| (self.rewriter.price_ns(form, point), form));
        let near = priced.filter(|(price, _)| *price <= most);
        if let Some((_, form)) = near.min_by(|(a, _), (b, _)| a.total_cmp(b)) {
            return Ok(form.clone());
        }
        self.known.push(best.clone());
        Ok(best)
    }

    /// Forms of steps of a bucket by new tokens of a sequence, from few to many.
    fn runs(
        &mut self,
        bucket: RowBucket,
        context: i64,
    ) -> Result<Vec<(Range, Form)>, RewriteError> {
        let point =
            |tokens: i64| Point { batch: (bucket.typical / tokens).max(1), tokens, context };
        let most = bucket.rows_max.min(context);
        let mut runs: Vec<(i64, Form)> = vec![];
        let mut before = 1;
        for tokens in TOKENS.into_iter().filter(|tokens| *tokens <= most) {
            let form = self.at(point(tokens))?;
            match runs.last() {
                None => runs.push((0, form)),
                Some((_, last)) if *last == form => {}
                Some((_, last)) => {
                    let price = |form, tokens| self.rewriter.price_ns(form, point(tokens));
                    let pays = |tokens| price(&form, tokens) < price(last, tokens);
                    runs.push((first_of(before, tokens, &pays), form));
                }
            }
            before = tokens;
        }
        let ends: Vec<i64> =
            runs.iter().skip(1).map(|(first, _)| first - 1).chain([i64::MAX]).collect();
        Ok(runs.into_iter().zip(ends).map(|((first, form), end)| ((first, end), form)).collect())
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

/// Ranges of the same tokens whose contexts meet, as one.
fn joined(ranges: Vec<StepRange>) -> Vec<StepRange> {
    let mut joined: Vec<StepRange> = vec![];
    for range in ranges {
        let meets = |r: &&mut StepRange| {
            r.tokens == range.tokens && r.context.1.checked_add(1) == Some(range.context.0)
        };
        match joined.iter_mut().find(meets) {
            Some(r) => r.context.1 = range.context.1,
            None => joined.push(range),
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
        let range = |tokens, context| StepRange { tokens, context };
        let all = vec![
            range((0, 99), (0, 10)),
            range((0, 99), (11, 20)),
            range((0, 120), (21, 30)),
            range((0, 99), (31, i64::MAX)),
        ];
        let expected =
            [range((0, 99), (0, 20)), range((0, 120), (21, 30)), range((0, 99), (31, i64::MAX))];
        assert_eq!(joined(all), expected);
    }
}
