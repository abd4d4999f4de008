//! Extraction: one e-node for each class, so that the whole term, each class counted once, costs
//! least: greedy over the DAG, then local search.

mod dominators;
mod greedy;
mod problem;
mod search;

use super::cost::Machine;
use super::facts::Egraph;
use super::term::Term;
use dominators::stand_alone;
use egg::{Id, RecExpr};
use greedy::Greedy;
use problem::Problem;
use search::{Search, joint_moves};
use std::collections::{HashMap, HashSet};

/// A chosen term.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Position of the chosen e-node in each class, where it can be computed.
    pub nodes: HashMap<Id, Term>,
    /// Its price in nanoseconds.
    pub price_ns: f64,
}

/// The price of a term that the e-graph has, each class counted once.
pub fn price_of(egraph: &Egraph, root: Id, term: &HashMap<Id, Term>, machine: &Machine) -> f64 {
    let (mut seen, mut open) = (HashSet::from([root]), vec![root]);
    let mut total = 0.0;
    while let Some(class) = open.pop() {
        let Some(node) = term.get(&class) else { return f64::INFINITY };
        total += machine.price_ns(egraph, class, node);
        let children = egg::Language::children(node).iter().map(|c| egraph.find(*c));
        open.extend(children.filter(|c| seen.insert(*c)));
    }
    total
}

/// Chooses a term for the root.
pub fn extract(egraph: &Egraph, root: Id, machine: &Machine) -> Choice {
    let problem = Problem::new(egraph, root, machine);
    let upward = problem.upward();
    let whole = stand_alone(&problem, &upward);
    let mut greedy = Greedy::new(&problem, &whole);
    let mut open = vec![false; problem.ids.len()];
    upward.iter().for_each(|class| open[*class] = true);
    greedy.run(&upward, &open);
    let choice: Vec<Option<usize>> =
        greedy.best.into_iter().map(|best| best.map(|b| b.node)).collect();
    let price = problem.price(&choice, f64::INFINITY).unwrap_or(f64::INFINITY);
    let (upward, whole, joint) = (&upward[..], &whole[..], joint_moves(&problem));
    let mut search = Search { problem: &problem, upward, whole, joint, choice, price };
    search.run();
    let (choice, price_ns) = (search.choice, search.price);
    let used = problem.used(&choice);
    let chosen = used.into_iter().filter_map(|class| {
        let node = &problem.nodes[class][choice[class]?];
        Some((problem.ids[class], node.term.clone()))
    });
    Choice { nodes: chosen.collect(), price_ns }
}

impl Choice {
    /// The chosen term. What is needed of the classes `first` comes before all else, in that order.
    pub fn term(&self, egraph: &Egraph, root: Id, first: &[Id]) -> RecExpr<Term> {
        let mut term = RecExpr::default();
        let mut done: HashMap<Id, Id> = HashMap::new();
        let mut stack = vec![(egraph.find(root), false)];
        let used: HashSet<Id> = self.reached(egraph, root);
        let first = first.iter().rev().map(|id| egraph.find(*id));
        stack.extend(first.filter(|id| used.contains(id)).map(|id| (id, false)));
        while let Some((class, ready)) = stack.pop() {
            if done.contains_key(&class) {
                continue;
            }
            let node = &self.nodes[&class];
            if ready {
                let node = egg::Language::map_children(node.clone(), |c| done[&egraph.find(c)]);
                done.insert(class, term.add(node));
                continue;
            }
            stack.push((class, true));
            let children = egg::Language::children(node);
            stack.extend(children.iter().rev().map(|c| (egraph.find(*c), false)));
        }
        term
    }

    fn reached(&self, egraph: &Egraph, root: Id) -> HashSet<Id> {
        let mut reached = HashSet::from([egraph.find(root)]);
        let mut stack = vec![egraph.find(root)];
        while let Some(class) = stack.pop() {
            let children = egg::Language::children(&self.nodes[&class]);
            let new = children.iter().map(|c| egraph.find(*c)).filter(|c| reached.insert(*c));
            stack.extend(new);
        }
        reached
    }
}
