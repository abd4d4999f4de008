//! Sums, and factors of what is linear.

use crate::rewrite::law::{Law, Operand, Site};
use crate::rewrite::term::{ADD, Form, Label, MUL};
use check::Tag;
use egg::Id;

/// Laws of sums.
pub fn laws() -> Vec<Law> {
    vec![
        Law::new("add-commute", Tag::Exact, "a + b = b + a")
            .case("(add ?s ?a ?b)", |site| swapped(site, ADD)),
        Law::new("mul-commute", Tag::Exact, "a * b = b * a")
            .case("(mul ?s ?a ?b)", |site| swapped(site, MUL)),
        Law::new("add-associate", Tag::Reassociates, "a + (b + c) = (a + b) + c")
            .case("(add ?s ?a (add ?r ?b ?c))", add_associate),
        Law::new(
            "scale-linear",
            Tag::Reassociates,
            "f(x) * c = f(x * c) for a scalar c and linear f",
        )
        .case("(contract ?s (rope ?r ?x ?y) ?c)", |site| scaled(site, "rope", [0, 1]))
        .case("(contract ?s ?c (rope ?r ?x ?y))", |site| scaled(site, "rope", [1, 0]))
        .case("(contract ?s (slice ?r ?x) ?c)", |site| scaled(site, "slice", [0, 1]))
        .case("(contract ?s ?c (slice ?r ?x))", |site| scaled(site, "slice", [1, 0]))
        .case("(contract ?s (split ?r ?x) ?c)", |site| scaled(site, "split", [0, 1]))
        .case("(contract ?s ?c (split ?r ?x))", |site| scaled(site, "split", [1, 0]))
        .case("(contract ?s (merge ?r ?x) ?c)", |site| scaled(site, "merge", [0, 1]))
        .case("(contract ?s ?c (merge ?r ?x))", |site| scaled(site, "merge", [1, 0])),
        Law::new("scale-sum", Tag::Reassociates, "(x + y) * c = x * c + y * c for a scalar c")
            .case("(contract ?s (add ?r ?x ?y) ?c)", |site| scaled_pair(site, ADD, [0, 1]))
            .case("(contract ?s ?c (add ?r ?x ?y))", |site| scaled_pair(site, ADD, [1, 0]))
            .case("(contract ?s (concat ?r ?x ?y) ?c)", |site| scaled_pair(site, "concat", [0, 1]))
            .case("(contract ?s ?c (concat ?r ?x ?y))", |site| scaled_pair(site, "concat", [1, 0])),
    ]
}

fn swapped(site: &mut Site, op: &'static str) -> Vec<Id> {
    let form = site.form("?s");
    let form = Form::new(&[&form.operands[1], &form.operands[0]], &form.result);
    let (a, b) = (site.id("?a"), site.id("?b"));
    vec![site.add(op, form, &[b, a])]
}

fn add_associate(site: &mut Site) -> Vec<Id> {
    let (outer, inner) = (site.form("?s"), site.form("?r"));
    // Labels of the inner sum are all in its result.
    let to = |axes: &[Label]| -> Vec<Label> {
        let place = |l: &Label| inner.result.iter().position(|r| r == l);
        axes.iter().filter_map(place).map(|at| outer.operands[1][at]).collect()
    };
    let (b, c) = (to(&inner.operands[0]), to(&inner.operands[1]));
    let a = &outer.operands[0];
    let [x, y, z] = ["?a", "?b", "?c"].map(|name| site.id(name));
    let sum = site.add(ADD, Form::new(&[a, &b], a), &[x, y]);
    vec![site.add(ADD, Form::new(&[a, &c], &outer.result), &[sum, z])]
}

/// Whether the operand at `scalar` is a constant number, and the product a view of the other.
fn is_scale(site: &Site, form: &Form, scalar: Id, [x, _]: [usize; 2]) -> bool {
    let facts = site.facts(scalar);
    facts.constant && facts.is_scalar() && form.operands[x] == form.result
}

/// The first operand is scaled; others stay.
fn scaled(site: &mut Site, op: &'static str, at: [usize; 2]) -> Vec<Id> {
    let (outer, inner, c) = (site.form("?s"), site.form("?r"), site.id("?c"));
    if !is_scale(site, &outer, c, at) {
        return vec![];
    }
    let x = Operand { axes: inner.operands[0].clone(), id: site.id("?x") };
    let by = Operand { axes: vec![], id: c };
    let mut operands = vec![site.product(&x, &by, &x.axes)];
    operands.extend((inner.operands.len() > 1).then(|| site.id("?y")));
    vec![site.add(op, (*inner).clone(), &operands)]
}

/// Both operands are scaled.
fn scaled_pair(site: &mut Site, op: &'static str, at: [usize; 2]) -> Vec<Id> {
    let (outer, inner, c) = (site.form("?s"), site.form("?r"), site.id("?c"));
    if !is_scale(site, &outer, c, at) {
        return vec![];
    }
    let by = Operand { axes: vec![], id: c };
    let operands: Vec<Id> = ["?x", "?y"]
        .iter()
        .zip(&inner.operands)
        .map(|(name, axes)| {
            let x = Operand { axes: axes.clone(), id: site.id(name) };
            site.product(&x, &by, axes)
        })
        .collect();
    vec![site.add(op, (*inner).clone(), &operands)]
}
