//! Extraction: one e-node for each class, so that the whole term, each class counted once, costs
//! least: greedy over the DAG, then local search.
//!
//! Greedy keeps for each class the set of classes that its best term is made of. A class that every
//! path from the root to anything below it passes stands for all that is below it, so that sets
//! stay small in long chains.

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

    /// Classes that a choice uses.
    fn used(&self, choice: &[Option<usize>]) -> Vec<usize> {
        let mut seen = vec![false; self.ids.len()];
        let mut used = vec![self.root];
        seen[self.root] = true;
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
}

/// The best term known of a class: which e-node, and the classes below it with their prices.
#[derive(Clone)]
struct Best {
    node: usize,
    /// Sorted by class; one pair alone where the class stands for all below it.
    parts: Vec<(usize, f64)>,
    total: f64,
}

/// Greedy choice over the DAG.
fn greedy(problem: &Problem) -> Vec<Option<usize>> {
    let order = problem.upward();
    let whole = stand_alone(problem, &order);
    let mut best: Vec<Option<Best>> = vec![None; problem.ids.len()];
    let mut queue: VecDeque<usize> = order.iter().copied().collect();
    let mut queued = vec![false; problem.ids.len()];
    order.iter().for_each(|c| queued[*c] = true);
    let reachable = queued.clone();
    while let Some(class) = queue.pop_front() {
        queued[class] = false;
        let Some(found) = improve_class(problem, class, &best, &whole) else { continue };
        best[class] = Some(found);
        for parent in &problem.parents[class] {
            if reachable[*parent] && !std::mem::replace(&mut queued[*parent], true) {
                queue.push_back(*parent);
            }
        }
    }
    best.into_iter().map(|b| b.map(|b| b.node)).collect()
}

/// A better term of a class than the one known, if there is one.
fn improve_class(
    problem: &Problem,
    class: usize,
    best: &[Option<Best>],
    whole: &[bool],
) -> Option<Best> {
    let mut found: Option<Best> = None;
    for (at, node) in problem.nodes[class].iter().enumerate() {
        let known = found.as_ref().or(best[class].as_ref()).map_or(f64::INFINITY, |b| b.total);
        let Some(parts) = parts_of(node, class, best, whole) else { continue };
        let total = node.price + parts.iter().map(|(_, price)| price).sum::<f64>();
        if total < known * (1.0 - 1e-12) {
            found = Some(Best { node: at, parts, total });
        }
    }
    found.map(|mut b| {
        let price = problem.nodes[class][b.node].price;
        let at = b.parts.partition_point(|(c, _)| *c < class);
        b.parts.insert(at, (class, price));
        b
    })
}

/// Everything below an e-node; `None` where a child has no term yet or uses the class itself.
fn parts_of(
    node: &Candidate,
    class: usize,
    best: &[Option<Best>],
    whole: &[bool],
) -> Option<Vec<(usize, f64)>> {
    let mut parts: Vec<(usize, f64)> = vec![];
    for child in &node.children {
        let own = best[*child].as_ref()?;
        let alone = [(*child, own.total)];
        let more = if whole[*child] { &alone[..] } else { &own.parts[..] };
        if more.iter().any(|(c, _)| *c == class) {
            return None;
        }
        parts = union(&parts, more);
    }
    Some(parts)
}

fn union(a: &[(usize, f64)], b: &[(usize, f64)]) -> Vec<(usize, f64)> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        match a[i].0.cmp(&b[j].0) {
            std::cmp::Ordering::Less => {
                out.push(a[i]);
                i += 1;
            }
            std::cmp::Ordering::Greater => {
                out.push(b[j]);
                j += 1;
            }
            std::cmp::Ordering::Equal => {
                out.push(a[i]);
                (i, j) = (i + 1, j + 1);
            }
        }
    }
    out.extend_from_slice(&a[i..]);
    out.extend_from_slice(&b[j..]);
    out
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
    let meet = |dominator: &[usize], mut a: usize, mut b: usize| {
        while a != b {
            while place[a] > place[b] {
                a = dominator[a];
            }
            while place[b] > place[a] {
                b = dominator[b];
            }
        }
        a
    };
    let mut changed = true;
    while changed {
        changed = false;
        for class in upward.iter().rev().filter(|c| **c != problem.root) {
            let known = problem.parents[*class].iter().filter(|p| dominator[**p] != usize::MAX);
            let Some(new) = known.copied().reduce(|a, b| meet(&dominator, a, b)) else { continue };
            changed |= std::mem::replace(&mut dominator[*class], new) != new;
        }
    }
    dominator
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
fn search(problem: &Problem, choice: &mut [Option<usize>]) -> f64 {
    let joint = joint_moves(problem);
    let mut price = problem.price(choice, f64::INFINITY).unwrap_or(f64::INFINITY);
    loop {
        let single = problem.used(choice).into_iter().flat_map(|class| {
            let nodes = 0..problem.nodes[class].len();
            nodes.filter(move |_| problem.nodes[class].len() > 1).map(move |at| vec![(class, at)])
        });
        let moves: Vec<Vec<(usize, usize)>> = joint.iter().cloned().chain(single).collect();
        let before = price;
        for change in moves {
            let old: Vec<Option<usize>> = change.iter().map(|(class, _)| choice[*class]).collect();
            if change.iter().zip(&old).all(|((_, at), old)| Some(*at) == *old) {
                continue;
            }
            change.iter().for_each(|(class, at)| choice[*class] = Some(*at));
            match problem.price(choice, price * (1.0 - 1e-9)) {
                Some(better) => price = better,
                None => {
                    let pairs = change.iter().zip(&old);
                    pairs.for_each(|((class, _), old)| choice[*class] = *old);
                }
            }
        }
        if price >= before {
            return price;
        }
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
    let mut choice = greedy(&problem);
    let price_ns = search(&problem, &mut choice);
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
