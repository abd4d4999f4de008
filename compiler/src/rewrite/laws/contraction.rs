//! Products: in which order, and what vanishes in them.

use crate::rewrite::facts::{Facts, natural};
use crate::rewrite::law::{Law, Onto, Operand, Site};
use crate::rewrite::term::Label;
use check::Tag;
use egg::Id;

/// Laws of products.
pub fn laws() -> Vec<Law> {
    vec![
        Law::new("associate", Tag::Reassociates, "(a.b).c = a.(b.c) = b.(a.c)")
            .case("(contract ?s (contract ?r ?a ?b) ?c)", |site| regroup(site, [0, 1]))
            .case("(contract ?s ?c (contract ?r ?a ?b))", |site| regroup(site, [1, 0])),
        Law::new("one", Tag::Exact, "x.1 = x")
            .case("(contract ?s ?x ?w)", |site| one(site, [0, 1]))
            .case("(contract ?s ?w ?x)", |site| one(site, [1, 0])),
    ]
}

/// The inner product and the third factor stand at `[inner, other]` of the outer one.
fn regroup(site: &mut Site, [inner, other]: [usize; 2]) -> Vec<Id> {
    let (outer, form) = (site.form("?s"), site.form("?r"));
    let mut onto = Onto::new(&form.result, &outer.operands[inner]);
    let a = onto.operand(&form.operands[0], site.id("?a"));
    let b = onto.operand(&form.operands[1], site.id("?b"));
    let c = Operand { axes: outer.operands[other].clone(), id: site.id("?c") };
    let first = group(site, [&b, &c], &a, &outer.result);
    let second = group(site, [&a, &c], &b, &outer.result);
    first.into_iter().chain(second).collect()
}

/// `(x.y).z`, where it is of use.
fn group(site: &mut Site, [x, y]: [&Operand; 2], z: &Operand, result: &[Label]) -> Option<Id> {
    let (fx, fy) = (site.facts(x.id), site.facts(y.id));
    let free = fx.ones || fy.ones;
    let kept = |label: Label| z.has(label) || result.contains(&label);
    if is_outer(x, y, &kept) || !free && (misplaced(fx, fy) || misplaced(fy, fx)) {
        return None;
    }
    if !free && (spreads(fx, fy, x, y, &kept) || spreads(fy, fx, y, x, &kept)) {
        return None;
    }
    // Ones vanish in what they meet, or do not move.
    let (x, y) = if fx.ones { (y, x) } else { (x, y) };
    let axes = natural(&[&x.axes, &y.axes], kept);
    let mut inner = axes.clone();
    if free {
        if axes != x.axes {
            return None;
        }
    } else {
        let (x, y) = site.in_order(x, y);
        inner = natural(&[&x.axes, &y.axes], kept);
    }
    let product = Operand { id: site.product(x, y, &inner), axes: inner };
    Some(site.product(&product, z, result))
}

/// Whether the product is larger than either factor and sums nothing: more to hold for no work
/// saved.
fn is_outer(x: &Operand, y: &Operand, kept: &dyn Fn(Label) -> bool) -> bool {
    let within = |a: &Operand, b: &Operand| a.axes.iter().all(|l| b.has(*l));
    let summed = x.axes.iter().any(|l| y.has(*l) && !kept(*l));
    !summed && !within(x, y) && !within(y, x)
}

/// Whether `small` is a gain or a scale that would meet another activation: a factor moves to
/// constants, a scalar also to what is linear in one.
fn misplaced(small: &Facts, other: &Facts) -> bool {
    let home = if small.is_scalar() { other.linear } else { other.weight_like };
    small.constant && small.shape.len() <= 1 && !home
}

/// Whether an activation would be multiplied into rows chosen from a weight without a sum: these
/// rows are a view, the product would not be.
fn spreads(
    rows: &Facts,
    other: &Facts,
    r: &Operand,
    o: &Operand,
    kept: &dyn Fn(Label) -> bool,
) -> bool {
    let summed = o.axes.iter().any(|l| r.has(*l) && !kept(*l));
    rows.weight_like && !rows.constant && !other.weight_like && !summed
}

fn one(site: &mut Site, [x, w]: [usize; 2]) -> Vec<Id> {
    let form = site.form("?s");
    let ones = site.facts(site.id("?w")).ones;
    let (x_axes, w_axes) = (&form.operands[x], &form.operands[w]);
    let vanishes = *x_axes == form.result && w_axes.iter().all(|l| x_axes.contains(l));
    if ones && vanishes { vec![site.id("?x")] } else { vec![] }
}
