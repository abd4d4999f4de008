//! Greedy choice over the DAG.
//!
//! Greedy keeps for each class the set of classes that its best term is made of. A class that every
//! path from the root to anything below it passes stands for all that is below it, so that sums
//! stay short in long chains.

use super::problem::{Candidate, Problem};
use std::collections::VecDeque;

/// Classes, one bit each.
type Bits = Vec<u64>;

const WORD: usize = u64::BITS as usize;

fn has(bits: &[u64], class: usize) -> bool {
    bits[class / WORD] >> (class % WORD) & 1 == 1
}

fn set(bits: &mut [u64], class: usize) {
    bits[class / WORD] |= 1 << (class % WORD);
}

/// The best term known of a class.
pub(super) struct Best {
    pub(super) node: usize,
    /// The class and those below it; one that stands for all below it comes without these.
    pub(super) parts: Bits,
    pub(super) total: f64,
}

/// Greedy choice over the DAG, as far as it is known.
pub(super) struct Greedy<'p> {
    pub(super) problem: &'p Problem<'p>,
    /// Classes that stand for all below them.
    pub(super) whole: &'p [bool],
    pub(super) best: Vec<Option<Best>>,
    /// What a class adds where it is a part.
    pub(super) price: Vec<f64>,
}

impl<'p> Greedy<'p> {
    pub(super) fn new(problem: &'p Problem<'p>, whole: &'p [bool]) -> Self {
        let count = problem.ids.len();
        let best = (0..count).map(|_| None).collect();
        Greedy { problem, whole, best, price: vec![0.0; count] }
    }

    /// Makes a class cost nothing, with the e-node that is chosen in it.
    pub(super) fn give(&mut self, class: usize, node: usize) {
        let parts = vec![0; self.best.len().div_ceil(WORD)];
        self.best[class] = Some(Best { node, parts, total: 0.0 });
    }

    /// Finds the best terms of classes that are open.
    pub(super) fn run(&mut self, upward: &[usize], open: &[bool]) {
        let mut queue: VecDeque<usize> = upward.iter().copied().filter(|c| open[*c]).collect();
        let mut queued = open.to_vec();
        while let Some(class) = queue.pop_front() {
            queued[class] = false;
            if !self.improve(class) {
                continue;
            }
            for parent in &self.problem.parents[class] {
                if open[*parent] && !std::mem::replace(&mut queued[*parent], true) {
                    queue.push_back(*parent);
                }
            }
        }
    }

    /// Takes a better term of a class than the one known, if there is one.
    fn improve(&mut self, class: usize) -> bool {
        let nodes = &self.problem.nodes[class];
        let mut found: Option<Best> = None;
        for (at, node) in nodes.iter().enumerate() {
            let known = found.as_ref().or(self.best[class].as_ref());
            let known = known.map_or(f64::INFINITY, |b| b.total);
            let Some(parts) = self.parts_of(node, class) else { continue };
            let total = node.price + self.sum(&parts);
            if total < known * (1.0 - 1e-12) {
                found = Some(Best { node: at, parts, total });
            }
        }
        let Some(mut best) = found else { return false };
        set(&mut best.parts, class);
        self.price[class] = if self.whole[class] { best.total } else { nodes[best.node].price };
        self.best[class] = Some(best);
        true
    }

    /// Everything below an e-node; `None` where a child has no term yet or uses the class itself.
    fn parts_of(&self, node: &Candidate, class: usize) -> Option<Bits> {
        let mut parts = vec![0; self.best.len().div_ceil(WORD)];
        for child in &node.children {
            let own = self.best[*child].as_ref()?;
            if self.whole[*child] {
                set(&mut parts, *child);
            } else {
                parts.iter_mut().zip(&own.parts).for_each(|(all, more)| *all |= more);
            }
        }
        (!has(&parts, class)).then_some(parts)
    }

    fn sum(&self, parts: &[u64]) -> f64 {
        let mut sum = 0.0;
        for (at, word) in parts.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                sum += self.price[at * WORD + rest.trailing_zeros() as usize];
                rest &= rest - 1;
            }
        }
        sum
    }
}
