//! The forms of a block in the steps that a compiled plan tells apart.

use crate::lower::schedule::BUCKETS;
use crate::rewrite::cost::Point;
use crate::rewrite::program::Rewriter;
use crate::variants::Steps;
use serde::Serialize;
use std::fmt;

/// The form of a block in a range of steps.
#[derive(Clone, Debug, Serialize)]
pub struct BucketReport {
    /// Name of the plan's bucket: that of its rows.
    pub name: String,
    /// Rows of the step.
    pub rows: Range,
    /// New tokens of a sequence, on average.
    pub tokens: Range,
    /// Longest context.
    pub context: Range,
    /// The step that the form is chosen for: sequences, new tokens of each, and tokens of each with
    /// the past.
    pub at: [i64; 3],
    /// Nanoseconds of that step by the cost model.
    pub cost_ns: f64,
    /// Position of the first range with the same graph.
    pub same_as: usize,
    /// The graph's text.
    pub graph: String,
}

/// Both ends are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The least.
    pub from: i64,
    /// The greatest, if there is one.
    pub to: Option<i64>,
}

impl Range {
    fn new((from, to): (i64, i64)) -> Range {
        Range { from, to: (to < i64::MAX).then_some(to) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(to) if to == self.from => write!(f, "{to}"),
            Some(to) => write!(f, "{} to {to}", self.from),
            None => write!(f, "from {}", self.from),
        }
    }
}

impl fmt::Display for BucketReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BucketReport { name, rows, tokens, context, .. } = self;
        write!(f, "{name}, rows {rows}, new tokens {tokens}, context {context}")
    }
}

/// The forms of the block at a position in the program, in the order in which a plan tries them.
pub(super) fn buckets(rewriter: &Rewriter, steps: &[Steps], at: usize) -> Vec<BucketReport> {
    let mut reports: Vec<BucketReport> = vec![];
    for Steps { bucket, range, point, form } in steps {
        let Some((graph, cost_ns)) = rewriter.block_in(form, at, *point) else { continue };
        let graph = graph.to_string();
        let known = reports.iter().position(|report| report.graph == graph);
        let fewer = BUCKETS.iter().map(|b| b.rows_max).filter(|rows| *rows < bucket.rows_max);
        let Point { batch, tokens, context } = *point;
        reports.push(BucketReport {
            name: bucket.name.into(),
            rows: Range::new((fewer.max().unwrap_or(0) + 1, bucket.rows_max)),
            tokens: Range::new((range.tokens.0.max(1), range.tokens.1)),
            context: Range::new((range.context.0.max(1), range.context.1)),
            at: [batch, tokens, context],
            cost_ns,
            same_as: known.unwrap_or(reports.len()),
            graph,
        });
    }
    reports
}
