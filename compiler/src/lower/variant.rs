//! The forms of a program, and the steps that each is for.

use crate::lower::plan::symbols;
use crate::lower::schedule::{BUCKETS, RowBucket};
use crate::lower::size::size_expr;
use artifact::plan::Condition;
use ir::dim::Dim;
use ir::graph::program::Program;

/// Steps by new tokens and by context: both ends of a range are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRange {
    /// New tokens of a sequence, on average.
    pub tokens: (i64, i64),
    /// Longest context.
    pub context: (i64, i64),
}

impl StepRange {
    /// Every step.
    pub const ALL: StepRange = StepRange { tokens: (0, i64::MAX), context: (0, i64::MAX) };
}

/// A program as it is to run in some steps.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Rows of the step.
    pub bucket: RowBucket,
    /// Which of these steps.
    pub steps: Vec<StepRange>,
    /// Its form.
    pub program: Program,
}

impl Variant {
    /// A program of one form, in every step.
    pub fn of_all(program: &Program) -> Vec<Variant> {
        let variant =
            |bucket| Variant { bucket, steps: vec![StepRange::ALL], program: program.clone() };
        BUCKETS.map(variant).to_vec()
    }
}

/// What must hold of a step's symbols in a range.
pub(super) fn conditions(bucket: RowBucket, range: StepRange) -> Vec<Condition> {
    let (rows, sequences, context) = (Dim::symbol("n"), Dim::symbol("b"), Dim::symbol("t"));
    let symbols = symbols();
    let within =
        |dim: &Dim, (lo, hi): (i64, i64)| Condition { expr: size_expr(dim, &symbols), lo, hi };
    let each = |tokens: i64| rows.minus(&sequences.times(&tokens.into()));
    let mut all = vec![within(&rows, (1, bucket.rows_max))];
    if range.tokens.0 > 0 {
        all.push(within(&each(range.tokens.0), (0, i64::MAX)));
    }
    if range.tokens.1 < i64::MAX {
        all.push(within(&each(range.tokens.1 + 1), (i64::MIN, -1)));
    }
    if range.context != StepRange::ALL.context {
        all.push(within(&context, range.context));
    }
    all
}
