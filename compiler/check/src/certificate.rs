//! A certificate and its text.
//!
//! ```text
//! certificate
//! graph @block(..) .. { .. }
//! step RULE exact|reassociates|order|approximates
//! graph @block(..) .. { .. }
//! step ..
//! ```
//!
//! Each line that is not of a graph begins one; several certificates follow one another.

use crate::error::CheckError;
use ir::dim::Name;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use std::fmt;
use std::str::FromStr;

/// What a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tag {
    /// The same sums in the same order, up to views.
    Exact,
    /// Sums reordered or regrouped: equal but for rounding.
    Reassociates,
    /// Equal by a law that the field does not have, such as one of order.
    Order,
    /// Near.
    Approximates,
}

const TAGS: [(&str, Tag); 4] = [
    ("exact", Tag::Exact),
    ("reassociates", Tag::Reassociates),
    ("order", Tag::Order),
    ("approximates", Tag::Approximates),
];

impl Tag {
    /// For what cannot be seen in the field: how far apart values may be in f64, relative to
    /// 1 + magnitude.
    pub fn bound(self) -> Option<f64> {
        match self {
            Tag::Exact | Tag::Reassociates => None,
            Tag::Order => Some(1e-9),
            Tag::Approximates => Some(1e-2),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = TAGS.iter().find(|(_, tag)| tag == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromStr for Tag {
    type Err = ();

    fn from_str(word: &str) -> Result<Tag, ()> {
        TAGS.iter().find(|(w, _)| *w == word).map(|(_, tag)| *tag).ok_or(())
    }
}

/// One application of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Name of the rule: one word.
    pub rule: Name,
    /// What it keeps.
    pub tag: Tag,
    /// The graph after it.
    pub graph: Graph,
}

/// How a block was rewritten.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// As the importer states it.
    pub source: Graph,
    /// In order. Outputs and parameters correspond by position throughout.
    pub steps: Vec<Step>,
}

impl Certificate {
    /// The graph after the last step.
    pub fn chosen(&self) -> &Graph {
        self.steps.last().map_or(&self.source, |s| &s.graph)
    }

    /// The weakest tag of all steps.
    pub fn tag(&self) -> Tag {
        self.steps.iter().map(|s| s.tag).max().unwrap_or(Tag::Exact)
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate\n{}", self.source)?;
        self.steps.iter().try_for_each(|s| write!(f, "step {} {}\n{}", s.rule, s.tag, s.graph))
    }
}

/// What a line between graphs begins.
enum Head {
    Certificate,
    Step(Name, Tag),
}

/// Reads the certificates of a text.
///
/// Errors: E0285.
pub fn parse(text: &str) -> Result<Vec<Certificate>, CheckError> {
    let mut all: Vec<Certificate> = vec![];
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        let head = head(at + 1, line.trim_end())?;
        let mut body = String::new();
        while let Some((_, line)) = lines.next_if(|(_, l)| !is_head(l)) {
            body += line;
        }
        let graph = graph(at + 2, &body)?;
        match (head, all.last_mut()) {
            (Head::Certificate, _) => all.push(Certificate { source: graph, steps: vec![] }),
            (Head::Step(rule, tag), Some(last)) => last.steps.push(Step { rule, tag, graph }),
            (Head::Step(..), None) => return Err(wrong(at + 1, "a step", "`certificate`")),
        }
    }
    Ok(all)
}

fn is_head(line: &str) -> bool {
    line.starts_with("certificate") || line.starts_with("step ")
}

fn head(number: usize, line: &str) -> Result<Head, CheckError> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["certificate"] => Ok(Head::Certificate),
        ["step", rule, tag] if !rule.is_empty() => match tag.parse() {
            Ok(tag) => Ok(Head::Step(rule.into(), tag)),
            Err(()) => {
                let tags: Vec<&str> = TAGS.iter().map(|(word, _)| *word).collect();
                Err(wrong(number, &shown(tag), &format!("one of {}", tags.join(", "))))
            }
        },
        _ => Err(wrong(number, &shown(line), "`certificate` or `step RULE TAG`")),
    }
}

/// The graph whose text begins at a line.
fn graph(first: usize, text: &str) -> Result<Graph, CheckError> {
    parse_graph(text).map_err(|errors| {
        let error = errors.first();
        let start = error.and_then(|e| e.span).map_or(0, |s| s.start.min(text.len()));
        let before = text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
        let why = error.map_or_else(String::new, |e| format!("{}: {e}", e.kind.code()));
        wrong(first + before, &format!("a graph with {why}"), "a well-typed graph")
    })
}

/// The beginning of what may be long.
fn shown(text: &str) -> String {
    format!("`{}`", text.chars().take(40).collect::<String>())
}

fn wrong(line: usize, found: &str, expected: &str) -> CheckError {
    CheckError::Text { line, found: found.into(), expected: expected.into() }
}
