//! The e-graph as numbered lists, and what a choice in it costs.

use crate::rewrite::cost::Machine;
use crate::rewrite::facts::Egraph;
use crate::rewrite::term::Term;
use egg::Id;
use std::collections::HashMap;

/// The e-graph as numbered lists, priced on one machine.
pub(super) struct Problem<'a> {
    pub(super) egraph: &'a Egraph,
    pub(super) ids: Vec<Id>,
    /// By class: its e-nodes.
    pub(super) nodes: Vec<Vec<Candidate>>,
    /// By class: classes that use it.
    pub(super) parents: Vec<Vec<usize>>,
    pub(super) root: usize,
}

pub(super) struct Candidate {
    pub(super) term: Term,
    pub(super) children: Vec<usize>,
    pub(super) price: f64,
}

impl<'a> Problem<'a> {
    pub(super) fn new(egraph: &'a Egraph, root: Id, machine: &Machine) -> Self {
        let mut ids: Vec<Id> = egraph.classes().map(|c| c.id).collect();
        ids.sort();
        let number: HashMap<Id, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let mut parents = vec![vec![]; ids.len()];
        let mut nodes = vec![];
        for (at, id) in ids.iter().enumerate() {
            let mut own = vec![];
            for term in &egraph[*id].nodes {
                let operands = egg::Language::children(term).iter();
                let mut children: Vec<usize> = operands.map(|c| number[&egraph.find(*c)]).collect();
                children.sort();
                children.dedup();
                children.iter().for_each(|c| parents[*c].push(at));
                let price = machine.price_ns(egraph, *id, term);
                own.push(Candidate { term: term.clone(), children, price });
            }
            nodes.push(own);
        }
        parents.iter_mut().for_each(|p| {
            p.sort();
            p.dedup();
        });
        let root = number[&egraph.find(root)];
        Problem { egraph, ids, nodes, parents, root }
    }

    /// Classes from the leaves on, as far as cycles allow.
    pub(super) fn upward(&self) -> Vec<usize> {
        let (mut order, mut seen) = (vec![], vec![false; self.ids.len()]);
        let mut stack = vec![(self.root, self.below(self.root), 0)];
        seen[self.root] = true;
        while let Some((class, below, next)) = stack.pop() {
            match below.get(next).copied() {
                None => order.push(class),
                Some(child) => {
                    stack.push((class, below, next + 1));
                    if !seen[child] {
                        seen[child] = true;
                        stack.push((child, self.below(child), 0));
                    }
                }
            }
        }
        order
    }

    pub(super) fn below(&self, class: usize) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.nodes[class].iter().flat_map(|n| n.children.iter().copied()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The cost of a choice from the root; `None` if it has a cycle or a gap.
    pub(super) fn price(&self, choice: &[Option<usize>], limit: f64) -> Option<f64> {
        // 1: on the path, 2: done.
        let mut state = vec![0u8; self.ids.len()];
        let mut total = 0.0;
        let mut stack = vec![(self.root, 0)];
        while let Some((class, next)) = stack.pop() {
            let node = &self.nodes[class][choice[class]?];
            if next == 0 {
                if state[class] == 2 {
                    continue;
                }
                state[class] = 1;
                total += node.price;
                if total > limit {
                    return None;
                }
            }
            match node.children.get(next) {
                None => state[class] = 2,
                Some(child) => {
                    stack.push((class, next + 1));
                    match state[*child] {
                        0 => stack.push((*child, 0)),
                        1 => return None,
                        _ => {}
                    }
                }
            }
        }
        Some(total)
    }

    /// Whether a move may make a choice better: some e-node costs less than the one that it
    /// replaces, or lacks a child of it.
    pub(super) fn may_pay(&self, change: &[(usize, usize)], old: &[Option<usize>]) -> bool {
        change.iter().zip(old).any(|((class, at), old)| {
            let Some(old) = old else { return true };
            let [new, old] = [*at, *old].map(|at| &self.nodes[*class][at]);
            new.price < old.price || !old.children.iter().all(|c| new.children.contains(c))
        })
    }

    /// Classes that a choice uses.
    pub(super) fn used(&self, choice: &[Option<usize>]) -> Vec<usize> {
        self.used_without(choice, None)
    }

    /// Classes that a choice uses not only for one of them.
    pub(super) fn used_without(
        &self,
        choice: &[Option<usize>],
        without: Option<usize>,
    ) -> Vec<usize> {
        let mut seen = vec![false; self.ids.len()];
        let mut used = vec![self.root];
        seen[self.root] = true;
        without.into_iter().for_each(|class| seen[class] = true);
        let mut next = 0;
        while let Some(class) = used.get(next).copied() {
            next += 1;
            let Some(node) = choice[class] else { continue };
            for child in &self.nodes[class][node].children {
                if !std::mem::replace(&mut seen[*child], true) {
                    used.push(*child);
                }
            }
        }
        used
    }

    /// Of some classes that a choice uses, those that use one class, and this itself.
    pub(super) fn above(
        &self,
        choice: &[Option<usize>],
        used: &[usize],
        class: usize,
    ) -> Vec<bool> {
        let (mut above, mut is_used) = (vec![false; self.ids.len()], vec![false; self.ids.len()]);
        used.iter().for_each(|class| is_used[*class] = true);
        above[class] = true;
        let mut open = vec![class];
        while let Some(below) = open.pop() {
            for parent in self.parents[below].iter().filter(|parent| is_used[**parent]) {
                let node = choice[*parent].map(|at| &self.nodes[*parent][at]);
                let uses = node.is_some_and(|n| n.children.contains(&below));
                if uses && !std::mem::replace(&mut above[*parent], true) {
                    open.push(*parent);
                }
            }
        }
        above
    }
}
