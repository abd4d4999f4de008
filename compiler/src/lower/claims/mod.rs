//! Claims: groups of many nodes that one generator lowers together, found by structure alone.
//!
//! A matcher finds all groups of its kind in a graph. What a claim's generator computes for
//! itself, its nodes, needs no kernel of its own; what it reads and makes is in memory. Claims may
//! share nodes, such as a mask that several attentions see through.

pub mod attention;
pub mod elementwise;
pub mod experts;
pub mod source;

use crate::lower::error::LowerError;
use crate::lower::partition::GroupKind;
use ir::dim::Name;
use ir::graph::{Def, Graph, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Finds every group of one kind in a graph.
///
/// Errors: E0261 for a group that no generator takes.
type Matcher = fn(&Graph) -> Result<Vec<Claim>, LowerError>;

/// One line for each kind of group.
const MATCHERS: &[Matcher] = &[attention::find, |graph| Ok(experts::find(graph))];

/// A group of nodes, and what its generator needs to know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// By what it is lowered.
    pub kind: GroupKind,
    /// The node that the group is known by, such as in [`crate::lower::precision::Operands`].
    pub root: NodeId,
    /// Index that the rows run over.
    pub rows: Name,
    /// Nodes that the generator stands for.
    pub nodes: BTreeSet<NodeId>,
    /// Values of the graph, weights apart, that it reads from memory.
    pub reads: BTreeSet<ValueId>,
    /// Values that it makes.
    pub results: Vec<ValueId>,
    /// Nodes with a tile product, and which operand of each enters it as rows.
    pub products: BTreeMap<NodeId, usize>,
    /// What was found.
    pub form: Form,
}

/// What a matcher found, in the terms of its generator.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// Attention over histories.
    Attention(attention::Form),
    /// Products with weights that an index chooses.
    Experts(experts::Form),
}

impl Claim {
    /// Whether a value enters a tile product as rows.
    pub fn enters(&self, graph: &Graph, value: ValueId) -> bool {
        self.products.iter().any(|(node, at)| graph.node(*node).operands[*at] == value)
    }
}

/// Every claim of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// Finds them.
    ///
    /// Errors: E0261 for a group that no generator takes.
    pub fn of(graph: &Graph) -> Result<Claims, LowerError> {
        let mut all = vec![];
        for find in MATCHERS {
            all.extend(find(graph)?);
        }
        Ok(Claims(all))
    }

    /// All of them, by matcher and then in definition order.
    pub fn all(&self) -> &[Claim] {
        &self.0
    }

    /// The claim that stands for a node.
    pub fn covering(&self, node: NodeId) -> Option<&Claim> {
        self.0.iter().find(|c| c.nodes.contains(&node))
    }

    /// Position of the claim that makes a value.
    pub fn making(&self, value: ValueId) -> Option<usize> {
        self.0.iter().position(|c| c.results.contains(&value))
    }

    /// Which claims make something that is needed, and which nodes are needed one by one: those
    /// that results and states are reached from, through what claims read.
    pub fn needed(&self, graph: &Graph) -> (Vec<bool>, Vec<bool>) {
        let mut claims = vec![false; self.0.len()];
        let mut nodes = vec![false; graph.nodes.len()];
        let mut seen: HashSet<ValueId> = HashSet::new();
        let kept = graph.nodes.iter().filter(|n| n.op.name() == "append");
        let mut wanted: Vec<ValueId> = kept.map(|n| n.results[0]).collect();
        wanted.extend(&graph.outputs);
        while let Some(value) = wanted.pop() {
            if !seen.insert(value) {
                continue;
            }
            if let Some(claim) = self.making(value) {
                claims[claim] = true;
                wanted.extend(&self.0[claim].reads);
            } else if let Def::Node(node, _) = graph.value(value).def {
                nodes[node.0 as usize] = true;
                wanted.extend(&graph.node(node).operands);
            }
        }
        (claims, nodes)
    }
}
