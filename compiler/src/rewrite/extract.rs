//! Extraction: one e-node for each class, so that the whole term, each class counted once, costs
//! least: greedy over the DAG, then local search.
//!
//! Greedy keeps for each class the set of classes that its best term is made of. A class that every
//! path from the root to anything below it passes stands for all that is below it, so that sums
//! stay short in long chains.

use super::cost::Machine;
use super::facts::Egraph;
use super::term::Term;
use egg::{Id, RecExpr};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A chosen term.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Position of the chosen e-node in each class, where it can be computed.
    pub nodes: HashMap<Id, Term>,
    /// Its price in nanoseconds.
    pub price_ns: f64,
}

/// The e-graph as numbered lists, priced on one machine.
struct Problem<'a> {
    egraph: &'a Egraph,
    ids: Vec<Id>,
    /// By class: its e-nodes.
    nodes: Vec<Vec<Candidate>>,
    /// By class: classes that use it.
    parents: Vec<Vec<usize>>,
    root: usize,
}

struct Candidate {
    term: Term,
    children: Vec<usize>,
    price: f64,
}

impl<'a> Problem<'a> {
    fn new(egraph: &'a Egraph, root: Id, machine: &Machine) -> Self {
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
    fn upward(&self) -> Vec<usize> {
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

    fn below(&self, class: usize) -> Vec<usize> {
        let mut all: Vec<usize> =
            self.nodes[class].iter().flat_map(|n| n.children.iter().copied()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The cost of a choice from the root; `None` if it has a cycle or a gap.
    fn price(&self, choice: &[Option<usize>], limit: f64) -> Option<f64> {
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
    fn may_pay(&self, change: &[(usize, usize)], old: &[Option<usize>]) -> bool {
        change.iter().zip(old).any(|((class, at), old)| {
            let Some(old) = old else { return true };
            let [new, old] = [*at, *old].map(|at| &self.nodes[*class][at]);
            new.price < old.price || !old.children.iter().all(|c| new.children.contains(c))
        })
    }

    /// Classes that a choice uses.
    fn used(&self, choice: &[Option<usize>]) -> Vec<usize> {
        self.used_without(choice, None)
    }

    /// Classes that a choice uses not only for one of them.
    fn used_without(&self, choice: &[Option<usize>], without: Option<usize>) -> Vec<usize> {
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
    fn above(&self, choice: &[Option<usize>], used: &[usize], class: usize) -> Vec<bool> {
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
struct Best {
    node: usize,
    /// The class and those below it; one that stands for all below it comes without these.
    parts: Bits,
    total: f64,
}

/// Greedy choice over the DAG, as far as it is known.
struct Greedy<'p> {
    problem: &'p Problem<'p>,
    /// Classes that stand for all below them.
    whole: &'p [bool],
    best: Vec<Option<Best>>,
    /// What a class adds where it is a part.
    price: Vec<f64>,
}

impl<'p> Greedy<'p> {
    fn new(problem: &'p Problem<'p>, whole: &'p [bool]) -> Self {
        let count = problem.ids.len();
        let best = (0..count).map(|_| None).collect();
        Greedy { problem, whole, best, price: vec![0.0; count] }
    }

    /// Makes a class cost nothing, with the e-node that is chosen in it.
    fn give(&mut self, class: usize, node: usize) {
        let parts = vec![0; self.best.len().div_ceil(WORD)];
        self.best[class] = Some(Best { node, parts, total: 0.0 });
    }

    /// Finds the best terms of classes that are open.
    fn run(&mut self, upward: &[usize], open: &[bool]) {
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

/// Classes that every path from the root to anything below them passes, leaves without a price
/// apart: dominators with all of their descendants.
fn stand_alone(problem: &Problem, upward: &[usize]) -> Vec<bool> {
    let count = problem.ids.len();
    let mut place = vec![usize::MAX; count];
    upward.iter().rev().enumerate().for_each(|(i, class)| place[*class] = i);
    let free =
        |class: usize| problem.nodes[class].iter().all(|n| n.children.is_empty() && n.price == 0.0);
    let dominator = dominators(problem, upward, &place);
    // An edge out of a class' subtree of dominated classes: none of the classes up to the common
    // dominator stands for all below it.
    let mut escapes = vec![0i64; count];
    for class in upward {
        for child in problem.below(*class) {
            if !free(child) {
                escapes[*class] += 1;
                escapes[dominator[child]] -= 1;
            }
        }
    }
    let mut whole = vec![false; count];
    for class in upward {
        whole[*class] = escapes[*class] == 0;
        if *class != problem.root {
            escapes[dominator[*class]] += escapes[*class];
        }
    }
    whole
}

/// The immediate dominator of each class (Cooper, Harvey, Kennedy: A Simple, Fast Dominance
/// Algorithm).
fn dominators(problem: &Problem, upward: &[usize], place: &[usize]) -> Vec<usize> {
    let mut dominator = vec![usize::MAX; problem.ids.len()];
    dominator[problem.root] = problem.root;
    let mut seen = vec![0; problem.ids.len()];
    let (mut round, mut changed) = (0, true);
    while changed {
        changed = false;
        for class in upward.iter().rev().filter(|c| **c != problem.root) {
            round += 1;
            let known = problem.parents[*class].iter().filter(|p| dominator[**p] != usize::MAX);
            let meet = |a, b| met(&dominator, place, [a, b], (&mut seen, round));
            let Some(new) = known.copied().reduce(meet) else { continue };
            changed |= std::mem::replace(&mut dominator[*class], new) != new;
        }
    }
    dominator
}

/// The nearest common dominator of `a`, which already is one of several classes, and `b`. Classes
/// on the ways from these up are marked: from such a one on, the way to `a` is known.
fn met(
    dominator: &[usize],
    place: &[usize],
    [mut a, mut b]: [usize; 2],
    (seen, round): (&mut [usize], usize),
) -> usize {
    while a != b {
        if place[a] > place[b] {
            a = dominator[a];
        } else if std::mem::replace(&mut seen[b], round) == round {
            return a;
        } else {
            b = dominator[b];
        }
    }
    a
}

/// Moves that may pay together only: all classes that are views of one merged product.
fn joint_moves(problem: &Problem) -> Vec<Vec<(usize, usize)>> {
    let mut parts: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (of, class, at) in views(problem, "slice") {
        parts.entry(of).or_default().push((class, at));
    }
    let mut split: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (of, class, at) in views(problem, "split") {
        split.entry(of).or_default().push((class, at));
    }
    let groups = parts.into_values().filter(|group| group.len() > 1);
    groups
        .map(|group| {
            let further = group.iter().filter_map(|(class, _)| split.get(class)).flatten().copied();
            group.iter().copied().chain(further.collect::<Vec<_>>()).collect()
        })
        .collect()
}

/// Views by an op: of which class, in which class, at which place in it.
fn views(problem: &Problem, op: &str) -> Vec<(usize, usize, usize)> {
    let mut found = vec![];
    for (class, nodes) in problem.nodes.iter().enumerate() {
        for (at, node) in nodes.iter().enumerate() {
            let (true, Some((_, [of]))) = (node.term.op() == Some(op), node.term.parts()) else {
                continue;
            };
            if let Ok(of) = problem.ids.binary_search(&problem.egraph.find(*of)) {
                found.push((of, class, at));
            }
        }
    }
    found
}

/// Moves from a choice as long as one makes it better.
struct Search<'p> {
    problem: &'p Problem<'p>,
    upward: &'p [usize],
    whole: &'p [bool],
    joint: Vec<Vec<(usize, usize)>>,
    choice: Vec<Option<usize>>,
    price: f64,
}

/// Share of the whole price from which on a class is worth doing without.
const DEAR: f64 = 1e-3;
/// Share of the whole price that a move must save.
const SAVED: f64 = 1e-9;

impl Search<'_> {
    fn run(&mut self) {
        loop {
            let before = self.price;
            // Classes that are not used are as they would cost least beside those that are.
            self.choice = self.around(None).unwrap_or_else(|| self.choice.clone());
            self.single();
            if self.price >= before && !self.without() {
                return;
            }
        }
    }

    /// Tries every other e-node of every class, and moves that pay together.
    fn single(&mut self) {
        let problem = self.problem;
        let single = problem.used(&self.choice).into_iter().flat_map(|class| {
            let nodes = 0..problem.nodes[class].len();
            nodes.filter(move |_| problem.nodes[class].len() > 1).map(move |at| vec![(class, at)])
        });
        let moves: Vec<Vec<(usize, usize)>> = self.joint.iter().cloned().chain(single).collect();
        for change in moves {
            let old: Vec<Option<usize>> =
                change.iter().map(|(class, _)| self.choice[*class]).collect();
            if !problem.may_pay(&change, &old) {
                continue;
            }
            change.iter().for_each(|(class, at)| self.choice[*class] = Some(*at));
            match problem.price(&self.choice, self.price * (1.0 - SAVED)) {
                Some(better) => self.price = better,
                None => {
                    let pairs = change.iter().zip(&old);
                    pairs.for_each(|((class, _), old)| self.choice[*class] = *old);
                }
            }
        }
    }

    /// Tries to do without a dear class. Whether that was better.
    fn without(&mut self) -> bool {
        let price =
            |class: usize| self.choice[class].map_or(0.0, |at| self.problem.nodes[class][at].price);
        let mut dear = self.problem.used(&self.choice);
        dear.retain(|class| price(*class) > DEAR * self.price);
        for class in dear {
            let Some(choice) = self.around(Some(class)) else { continue };
            if let Some(better) = self.problem.price(&choice, self.price * (1.0 - SAVED)) {
                (self.choice, self.price) = (choice, better);
                return true;
            }
        }
        false
    }

    /// The best choice where classes that are used cost nothing; without one class, and what is
    /// used for it alone. `None` where the root needs it.
    fn around(&self, without: Option<usize>) -> Option<Vec<Option<usize>>> {
        let problem = self.problem;
        let mut greedy = Greedy::new(problem, self.whole);
        let mut open = vec![false; problem.ids.len()];
        self.upward.iter().for_each(|class| open[*class] = true);
        let used = problem.used_without(&self.choice, without);
        let above = without.map(|class| problem.above(&self.choice, &used, class));
        for class in used {
            let is_above = above.as_ref().is_some_and(|above| above[class]);
            if let (false, Some(at)) = (is_above, self.choice[class]) {
                greedy.give(class, at);
                open[class] = false;
            }
        }
        without.into_iter().for_each(|class| open[class] = false);
        greedy.run(self.upward, &open);
        greedy.best[problem.root].as_ref()?;
        let found = greedy.best.into_iter().zip(&self.choice);
        Some(found.map(|(best, old)| best.map_or(*old, |b| Some(b.node))).collect())
    }
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
