//! Extraction against the exact optimum, found by branch and bound over all e-nodes.

#[allow(dead_code, reason = "the tests of laws use the rest")]
#[path = "laws"]
mod laws {
    pub mod draft;
    pub mod instances;
}
#[path = "support/chain.rs"]
mod chain;
mod support;

use chain::chain;
use compiler::rewrite::cost::{Machine, Point};
use compiler::rewrite::encode::encode;
use compiler::rewrite::extract::{Choice, extract};
use compiler::rewrite::facts::Egraph;
use compiler::rewrite::law;
use compiler::rewrite::merge::merge_projections;
use compiler::rewrite::saturate::{Limits, saturate};
use egg::{Id, Language};
use ir::device::DeviceSpec;
use ir::graph::Graph;
use laws::instances;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const POINTS: [Point; 4] = [
    Point { batch: 1, tokens: 1, context: 4096 },
    Point { batch: 64, tokens: 1, context: 4096 },
    Point { batch: 1, tokens: 4096, context: 4096 },
    Point { batch: 1, tokens: 16, context: 131_072 },
];
const STORED: [&str; 3] = ["latent", "chosen_keys", "experts"];
/// Prices within this of one another are equal: ties between views are settled by less.
const NEAR: f64 = 1e-9;
/// Branches after which a search is given up.
const BRANCHES: usize = 2_000_000;

/// Draws for each law.
fn draws() -> u64 {
    if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 100 } else { 8 }
}

fn device(name: &str) -> DeviceSpec {
    DeviceSpec::built_in(name).expect("a built-in device")
}

/// An e-node: what it costs, and classes below it.
struct Node {
    price: f64,
    below: BTreeSet<usize>,
}

/// The least price of a term, one e-node for each class, each class counted once.
struct Exact {
    nodes: Vec<Vec<Node>>,
    root: usize,
    /// By class: the least price of its e-nodes.
    least: Vec<f64>,
    /// By class: classes that every term of it has.
    required: Vec<BTreeSet<usize>>,
    /// Only prices below this are looked for.
    bound: f64,
    branches: usize,
}

impl Exact {
    /// Classes that a term of the root may have.
    fn of(egraph: &Egraph, root: Id, machine: &Machine) -> Exact {
        let (mut number, mut ids) = (HashMap::new(), vec![egraph.find(root)]);
        number.insert(ids[0], 0);
        let (mut nodes, mut next) = (vec![], 0);
        while let Some(id) = ids.get(next).copied() {
            next += 1;
            let mut own = vec![];
            for term in &egraph[id].nodes {
                let mut below = BTreeSet::new();
                for child in term.children().iter().map(|c| egraph.find(*c)) {
                    let new = number.len();
                    below.insert(*number.entry(child).or_insert_with(|| {
                        ids.push(child);
                        new
                    }));
                }
                own.push(Node { price: machine.price_ns(egraph, id, term), below });
            }
            nodes.push(own);
        }
        let (least, required, bound) = (vec![], vec![], f64::INFINITY);
        Exact { nodes, root: 0, least, required, bound, branches: 0 }
    }

    /// The least price below a bound, if there is one.
    fn below(mut self, bound: f64) -> Option<f64> {
        self.bound = bound;
        while self.learn() || self.prune() {}
        let first = BTreeSet::from([self.root]);
        self.branch(&mut BTreeMap::new(), &first);
        assert!(self.branches < BRANCHES, "too large for an exact search");
        (self.bound < bound).then_some(self.bound)
    }

    /// Finds anew what is the least and what is required. False, always: nothing was pruned.
    fn learn(&mut self) -> bool {
        let count = self.nodes.len();
        let least = |nodes: &Vec<Node>| nodes.iter().map(|n| n.price).fold(f64::INFINITY, f64::min);
        self.least = self.nodes.iter().map(least).collect();
        let all: BTreeSet<usize> = (0..count).collect();
        self.required = vec![all; count];
        let mut changed = true;
        while changed {
            changed = false;
            for class in (0..count).rev() {
                let of_nodes = self.nodes[class].iter().map(|node| self.required_by(node));
                let Some(mut now) = of_nodes.reduce(|a, b| &a & &b) else { continue };
                now.insert(class);
                changed |= std::mem::replace(&mut self.required[class], now.clone()) != now;
            }
        }
        false
    }

    fn required_by(&self, node: &Node) -> BTreeSet<usize> {
        node.below.iter().flat_map(|c| self.required[*c].iter().copied()).collect()
    }

    fn sum(&self, classes: impl IntoIterator<Item = usize>) -> f64 {
        classes.into_iter().map(|c| self.least[c]).sum()
    }

    /// Drops e-nodes that no term below the bound has, or that another can stand for. Whether there
    /// were any.
    fn prune(&mut self) -> bool {
        let always = self.required[self.root].clone();
        let mut kept = vec![];
        let mut pruned = false;
        for class in 0..self.nodes.len() {
            let needs: Vec<BTreeSet<usize>> =
                self.nodes[class].iter().map(|node| self.required_by(node)).collect();
            let keeps = |at: usize| {
                let node = &self.nodes[class][at];
                let mut with = &needs[at] | &always;
                with.insert(class);
                let total = self.sum(with) - self.least[class] + node.price;
                let cheap = total < self.bound && !needs[at].contains(&class);
                let beaten = self.nodes[class].iter().enumerate().any(|(other, by)| {
                    let cheaper = (by.price, other) < (node.price, at);
                    cheaper && by.below.is_subset(&needs[at])
                });
                cheap && !beaten
            };
            let keep: Vec<bool> = (0..self.nodes[class].len()).map(keeps).collect();
            pruned |= keep.contains(&false);
            kept.push(keep);
        }
        for (nodes, keep) in self.nodes.iter_mut().zip(kept) {
            let mut keep = keep.into_iter();
            nodes.retain(|_| keep.next() == Some(true));
        }
        if pruned {
            self.learn();
        }
        pruned
    }

    /// Tries every way to go on from e-nodes chosen so far and classes needed.
    fn branch(&mut self, chosen: &mut BTreeMap<usize, usize>, needed: &BTreeSet<usize>) {
        self.branches += 1;
        if self.branches >= BRANCHES {
            return;
        }
        let paid: f64 = chosen.iter().map(|(class, at)| self.nodes[*class][*at].price).sum();
        let all: BTreeSet<usize> =
            needed.iter().flat_map(|c| self.required[*c].iter().copied()).collect();
        let open: Vec<usize> = all.into_iter().filter(|c| !chosen.contains_key(c)).collect();
        if paid + self.sum(open.iter().copied()) >= self.bound {
            return;
        }
        // Classes without a choice first, then those nearest to the root.
        let Some(class) = open.iter().copied().min_by_key(|c| (self.nodes[*c].len() > 1, *c))
        else {
            if self.is_acyclic(chosen) {
                self.bound = paid;
            }
            return;
        };
        let mut order: Vec<usize> = (0..self.nodes[class].len()).collect();
        let price = |at: &usize| {
            let node = &self.nodes[class][*at];
            node.price
                + self.sum(self.required_by(node).into_iter().filter(|c| !needed.contains(c)))
        };
        let prices: Vec<f64> = order.iter().map(price).collect();
        order.sort_by(|a, b| prices[*a].total_cmp(&prices[*b]));
        for at in order {
            let mut more = needed.clone();
            more.insert(class);
            more.extend(&self.nodes[class][at].below);
            chosen.insert(class, at);
            self.branch(chosen, &more);
            chosen.remove(&class);
        }
    }

    fn is_acyclic(&self, chosen: &BTreeMap<usize, usize>) -> bool {
        let mut done: BTreeSet<usize> = BTreeSet::new();
        loop {
            let ready = chosen.iter().filter(|(class, at)| {
                !done.contains(*class) && self.nodes[**class][**at].below.is_subset(&done)
            });
            let ready: Vec<usize> = ready.map(|(class, _)| *class).collect();
            if ready.is_empty() {
                return done.contains(&self.root);
            }
            done.extend(ready);
        }
    }
}

/// The price of a choice's term. Panics where it has a cycle or a gap.
fn price(egraph: &Egraph, root: Id, choice: &Choice, machine: &Machine) -> f64 {
    let term = choice.term(egraph, root, &[]);
    let used: BTreeSet<Id> = choice.nodes.keys().copied().collect();
    assert_eq!(term.as_ref().len(), used.len(), "all that is chosen is used");
    let nodes: BTreeMap<Id, _> = choice.nodes.iter().map(|(id, term)| (*id, term)).collect();
    nodes.into_iter().map(|(id, term)| machine.price_ns(egraph, id, term)).sum()
}

/// Extracts at every point, and compares with the optimum.
fn optimal(what: &str, egraph: &Egraph, root: Id, source: &Graph, device: &DeviceSpec) -> Choice {
    let mut last = None;
    for point in POINTS {
        let machine = Machine::new(device, point, &source.symbols);
        let machine = Machine { history_ns_per_byte: 1e9 / device.read_bytes_per_s, ..machine };
        let choice = extract(egraph, root, &machine);
        let found = choice.price_ns;
        let own = price(egraph, root, &choice, &machine);
        assert!((found - own).abs() <= NEAR * own, "{what}, {point:?}: {found} is {own}");
        let better = Exact::of(egraph, root, &machine).below(found * (1.0 - NEAR));
        assert_eq!(better, None, "{what}, {point:?}: instead of {found}");
        last = Some(choice);
    }
    last.expect("there are points")
}

fn both(what: &str, source: &Graph, limits: Limits, device: &DeviceSpec) -> usize {
    let encoded = encode(source).expect("every op has one result");
    let mut saturated = saturate(&encoded, law::all(), limits);
    let root = saturated.root;
    let choice = optimal(what, &saturated.egraph, root, source, device);
    if merge_projections(&mut saturated.egraph, &choice) > 0 {
        let what = format!("{what}, merged");
        optimal(&what, &saturated.egraph, root, source, device);
    }
    saturated.egraph.total_number_of_nodes()
}

#[test]
fn drawn_graphs_are_extracted_at_the_optimum() {
    let devices = ["h100", "ddr5-desktop"].map(device);
    let (mut graphs, mut nodes) = (0, 0);
    for law in law::all() {
        for seed in 0..draws() {
            let Some(source) = instances::drawn(law.name, seed) else { continue };
            let what = format!("{} {seed}", law.name);
            let limits = Limits { nodes: 400, rounds: 8 };
            nodes += both(&what, &source, limits, &devices[seed as usize % 2]);
            graphs += 1;
        }
    }
    println!("{graphs} graphs of {nodes} e-nodes");
    assert!(graphs > 100, "{graphs} graphs");
}

#[test]
fn stored_graphs_are_extracted_at_the_optimum() {
    for name in STORED {
        for device in ["h100", "ddr5-desktop"].map(device) {
            let nodes = both(name, &support::graph(name), Limits::default(), &device);
            println!("{name} on {}: {nodes} e-nodes", device.name);
        }
    }
}

#[test]
fn the_exact_search_finds_what_is_better() {
    let device = device("h100");
    for name in STORED {
        let source = support::graph(name);
        let encoded = encode(&source).expect("every op has one result");
        let saturated = saturate(&encoded, law::all(), Limits::default());
        let machine = Machine::new(&device, POINTS[0], &source.symbols);
        let best = extract(&saturated.egraph, saturated.root, &machine).price_ns;
        let exact = Exact::of(&saturated.egraph, saturated.root, &machine);
        let found = exact.below(best * 1.02).expect("the optimum is below");
        assert!((found - best).abs() <= NEAR * best, "{name}: {found}, {best}");
    }
}

#[test]
fn long_chains_are_extracted() {
    let device = device("h100");
    for (length, shared) in [(20_000, false), (5_000, true)] {
        let encoded = chain(length, shared);
        let saturated = saturate(&encoded, vec![], Limits { nodes: 1 << 20, rounds: 1 });
        let machine = Machine::new(&device, POINTS[2], &encoded.block.symbols);
        let choice = extract(&saturated.egraph, saturated.root, &machine);
        let nodes = encoded.term.as_ref().len();
        assert_eq!(choice.nodes.len(), nodes);
        let own = price(&saturated.egraph, saturated.root, &choice, &machine);
        assert!((choice.price_ns - own).abs() <= NEAR * own);
        // Each function is a pass: it writes its rows once.
        let pass = 4096.0 * 2.0 / device.read_bytes_per_s * 1e9;
        let expected = pass * length as f64;
        assert!((own / expected - 1.0).abs() < 1e-3, "{own} instead of {expected}");
    }
}
