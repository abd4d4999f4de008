//! Saturation: laws applied until nothing is new, or a limit is met.

use super::encode::Encoded;
use super::facts::{Block, Egraph};
use super::law::Law;
use super::term::Term;
use egg::{Id, Rewrite};
use std::collections::BTreeMap;

/// How large an e-graph may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// E-nodes.
    pub nodes: usize,
    /// Rounds.
    pub rounds: usize,
}

const DEFAULT_NODES: usize = 30_000;
const DEFAULT_ROUNDS: usize = 64;

impl Default for Limits {
    fn default() -> Self {
        Limits { nodes: DEFAULT_NODES, rounds: DEFAULT_ROUNDS }
    }
}

/// Why saturation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// No law gives anything new.
    Saturated,
    /// As many e-nodes as allowed.
    Nodes,
    /// As many rounds as allowed.
    Rounds,
}

impl Stop {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Stop::Saturated => "saturated",
            Stop::Nodes => "e-node limit",
            Stop::Rounds => "round limit",
        }
    }
}

/// A saturated e-graph.
pub struct Saturated {
    /// The e-graph.
    pub egraph: Egraph,
    /// The block's results.
    pub root: Id,
    /// Why it ended.
    pub stop: Stop,
    /// How often each law gave something new.
    pub applied: BTreeMap<&'static str, usize>,
}

/// Applies laws to a block's term.
pub fn saturate(encoded: &Encoded, laws: Vec<Law>, limits: Limits) -> Saturated {
    let mut egraph = Egraph::new(encoded.block.clone());
    let root = egraph.add_expr(&encoded.term);
    egraph.rebuild();
    let rewrites: Vec<(&'static str, Rewrite<Term, Block>)> = laws
        .into_iter()
        .flat_map(|law| {
            let name = law.name;
            law.rewrites().into_iter().map(move |rewrite| (name, rewrite))
        })
        .collect();
    let (stop, applied) = run(&mut egraph, &rewrites, limits);
    let root = egraph.find(root);
    Saturated { egraph, root, stop, applied }
}

/// Applies rewrites until one of [`Stop`] holds.
fn run(
    egraph: &mut Egraph,
    rewrites: &[(&'static str, Rewrite<Term, Block>)],
    limits: Limits,
) -> (Stop, BTreeMap<&'static str, usize>) {
    let mut applied = BTreeMap::new();
    for _ in 0..limits.rounds {
        let found: Vec<_> = rewrites.iter().map(|(_, rewrite)| rewrite.search(egraph)).collect();
        let mut changed = false;
        for ((name, rewrite), matches) in rewrites.iter().zip(&found) {
            let united = rewrite.apply(egraph, matches).len();
            *applied.entry(*name).or_insert(0) += united;
            changed |= united > 0;
            if egraph.total_number_of_nodes() > limits.nodes {
                egraph.rebuild();
                return (Stop::Nodes, applied);
            }
        }
        egraph.rebuild();
        if !changed {
            return (Stop::Saturated, applied);
        }
    }
    (Stop::Rounds, applied)
}
