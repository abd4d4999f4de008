//! What can be wrong with a certificate, E0285 to E0289.

use ir::dim::Name;
use ir::graph::error::GraphError;
use std::fmt;
use thiserror::Error;

/// A graph of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number; 0 is the source.
    pub step: usize,
    /// The rule that made it.
    pub rule: Name,
}

impl Place {
    /// The graph that all steps begin from.
    pub fn source() -> Place {
        Place { step: 0, rule: "".into() }
    }

    /// The graph before this one, whose rule is not known here.
    pub(crate) fn before(&self) -> Place {
        Place { step: self.step.saturating_sub(1), rule: "".into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.step, &*self.rule) {
            (0, _) => f.write_str("the source"),
            (n, "") => write!(f, "step {n}"),
            (n, rule) => write!(f, "step {n} ({rule})"),
        }
    }
}

/// Why a certificate proves nothing.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CheckError {
    /// A text that is no certificate.
    #[error("line {line}: found {found}, expected {expected}")]
    Text {
        /// Line, from 1.
        line: usize,
        /// What stands there.
        found: String,
        /// What could.
        expected: String,
    },
    /// A graph that is ill-typed, or takes or gives something else than the one before.
    #[error("{place}: {why}")]
    Unsound {
        /// The graph.
        place: Place,
        /// What is wrong with it.
        why: String,
    },
    /// A step that changes a result.
    #[error(
        "{place}: output {output} differs at element {element} of evaluation {after}: found \
         {found}, expected {expected}"
    )]
    Differs {
        /// The first wrong step.
        place: Place,
        /// 1, or 2 for the one with a past.
        after: usize,
        /// Position among the outputs.
        output: usize,
        /// Position in row-major order.
        element: usize,
        /// Its value after the step.
        found: String,
        /// Its value before.
        expected: String,
    },
    /// A graph that has no value at small extents.
    #[error("{place} cannot be evaluated: {error}")]
    Unevaluable {
        /// The graph.
        place: Place,
        /// Why.
        error: Box<GraphError>,
    },
    /// A graph that is not small even at small extents.
    #[error("{place}: evaluating takes {work} operations or elements, at most {limit} are taken")]
    TooLarge {
        /// The graph, or the one before.
        place: Place,
        /// Operations and elements, saturated.
        work: u64,
        /// How many are taken.
        limit: u64,
    },
}

impl CheckError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0285", "a text that is no certificate"),
        ("E0286", "a graph of a certificate that is ill-typed or of another signature"),
        ("E0287", "a step of a certificate that changes a result"),
        ("E0288", "a graph of a certificate that has no value at small extents"),
        ("E0289", "a graph of a certificate that is too large to evaluate"),
    ];

    /// Whether the graph that was given has no value, whatever is made of it.
    pub fn is_of_source(&self) -> bool {
        matches!(self, CheckError::Unevaluable { place, .. } if *place == Place::source())
    }

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            CheckError::Text { .. } => "E0285",
            CheckError::Unsound { .. } => "E0286",
            CheckError::Differs { .. } => "E0287",
            CheckError::Unevaluable { .. } => "E0288",
            CheckError::TooLarge { .. } => "E0289",
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            CheckError::Text { .. } => "compile the model again: the file is damaged",
            CheckError::Unsound { .. } | CheckError::Differs { .. } => {
                "do not use the file; compile again, and report the rule if it happens again"
            }
            CheckError::Unevaluable { .. } | CheckError::TooLarge { .. } => {
                "extents must be written with symbols, so that they can be bound to small values"
            }
        }
    }
}
