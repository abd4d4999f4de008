//! Each law alone: both sides are equal in the prime field, on terms drawn at random.

mod apply;
mod draft;
mod instances;
mod planted;
#[path = "../support/mod.rs"]
mod support;

use apply::{Alone, Applied, term_at_random};
use check::check_pair;
use compiler::rewrite::encode::encode;
use compiler::rewrite::law;
use compiler::rewrite::saturate::{Limits, saturate};
use draft::Rng;
use std::collections::BTreeMap;

/// Terms that each law is applied to.
fn wanted() -> usize {
    if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 1000 } else { 100 }
}

/// Graphs of which terms are taken.
const STORED: [&str; 3] = ["latent", "chosen_keys", "experts"];

/// Draws after which a case that never applies is given up.
const DRAWS_FOR_EACH: usize = 60;

/// Both sides, and which of a law's cases they are.
fn equal(law: &Alone, applied: &Applied, seed: u64) {
    let report = check_pair(&applied.left, &applied.right, law.law.tag, seed);
    report.unwrap_or_else(|e| {
        let (name, case) = (law.law.name, &law.law.cases[applied.case].0);
        panic!("{name}: {case}: {e}\n{}\n{}", applied.left, applied.right)
    });
}

/// Applies a law to graphs drawn for it until it has been applied so often, in every case.
fn hold(law: &Alone, wanted: usize) -> usize {
    let mut fired: BTreeMap<usize, usize> = BTreeMap::new();
    let mut terms = 0;
    for seed in 0..(wanted * DRAWS_FOR_EACH) as u64 {
        let Some(source) = instances::drawn(law.law.name, seed) else { continue };
        let encoded = encode(&source).expect("every op has one result");
        let applied = law.applications(&source, &encoded.term, 2);
        // Few of each term, of cases that applied least.
        let mut sides = applied.sides.clone();
        sides.sort_by_key(|(case, ..)| fired.get(case).copied().unwrap_or(0));
        terms += usize::from(!sides.is_empty());
        for side in sides.into_iter().take(2) {
            equal(law, &applied.graphs(side), seed);
            *fired.entry(side.0).or_insert(0) += 1;
        }
        if terms >= wanted && fired.len() == law.cases() {
            break;
        }
    }
    let name = law.law.name;
    let silent: Vec<&String> =
        (0..law.cases()).filter(|c| !fired.contains_key(c)).map(|c| &law.law.cases[c].0).collect();
    assert!(silent.is_empty(), "{name}: never applied: {silent:#?}");
    assert!(terms >= wanted, "{name}: {terms} terms");
    terms
}

/// One part of all laws, so that parts run at the same time.
fn part(at: usize, of: usize) {
    for law in law::all().into_iter().map(Alone::new).skip(at).step_by(of) {
        let start = std::time::Instant::now();
        let terms = hold(&law, wanted());
        println!("{:20} {terms} terms, {:?}", law.law.name, start.elapsed());
    }
}

/// Terms of each stored graph, of which every law is applied to one place.
fn wanted_of_stored() -> u64 {
    if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 60 } else { 3 }
}

#[test]
fn laws_hold_on_terms_of_saturated_graphs() {
    let laws: Vec<Alone> = law::all().into_iter().map(Alone::new).collect();
    let mut applied_to: BTreeMap<&str, usize> = BTreeMap::new();
    for name in STORED {
        let source = support::graph(name);
        let encoded = encode(&source).expect("every op has one result");
        let saturated = saturate(&encoded, law::all(), Limits { nodes: 4000, rounds: 6 });
        for seed in 0..wanted_of_stored() {
            let mut rng = Rng::new(seed);
            let term = term_at_random(&saturated.egraph, saturated.root, &mut rng);
            for law in &laws {
                let applied = law.applications(&source, &term, 1);
                if applied.sides.is_empty() {
                    continue;
                }
                equal(law, &applied.graphs(rng.pick(&applied.sides)), seed);
                *applied_to.entry(law.law.name).or_insert(0) += 1;
            }
        }
    }
    let needed = ["associate", "history-inward", "gather-through", "sparse-product"];
    assert!(needed.iter().all(|law| applied_to.contains_key(law)), "{applied_to:?}");
}

#[test]
fn laws_hold_in_the_field_0() {
    part(0, 2);
}

#[test]
fn laws_hold_in_the_field_1() {
    part(1, 2);
}
