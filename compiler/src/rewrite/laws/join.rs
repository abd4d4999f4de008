//! Sums of a sparse sum and one more term of its kind: that term is one more row, always chosen.

use super::pointwise;
use super::sparse::Scatter;
use crate::rewrite::facts::form_of;
use crate::rewrite::law::{Law, Onto, Operand, Site};
use crate::rewrite::term::{ADD, Axes, Form, FormAttr, Label, MUL, Term};
use check::Tag;
use egg::Id;
use ir::attr::Attr;
use ir::dim::Dim;
use ir::expr::Expr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Laws of joining.
pub fn laws() -> Vec<Law> {
    let sum =
        Law::new("join-sum", Tag::Reassociates, "sum of s.y over e, plus z = sum of [s, 1].[y, z]")
            .case("(add ?t (contract ?s (scatter ?p ?i ?w) ?y) ?z)", |site| join_sum(site, [0, 1]))
            .case("(add ?t (contract ?s ?y (scatter ?p ?i ?w)) ?z)", |site| join_sum(site, [1, 0]));
    let through = Law::new("join-through", Tag::Exact, "[f(a), f(b)] = f([a, b]), b one row");
    let ops = [("contract", 2), (ADD, 2), (MUL, 2), ("map", 1), ("map", 2), ("swiglu", 2)];
    let through = ops.into_iter().fold(through, |law, (op, count)| {
        let second = pointwise::pattern(op, count).replace("?x", "?y").replace("?r", "?v");
        let pattern =
            format!("(concat ?q {} (contract ?u {second} ?one))", pointwise::pattern(op, count));
        law.case(pattern, move |site| join_through(site, op, count))
    });
    let scatter =
        Law::new("join-scatter", Tag::Exact, "[scatter(i, w), u] = scatter([i, E], [w, u])")
            .case("(concat ?q (scatter ?p ?i ?w) ?u)", join_scatter);
    vec![sum, through, scatter]
}

const ONE_ROW: i64 = 1;
/// Labels of the joined axes, beyond those that a match takes.
const JOINT: Label = crate::rewrite::term::FRESH << 1;
const ROW: Label = JOINT + 1;
const JOINT_CHOICES: Label = JOINT + 2;
/// Before the labels of the second of two ops that are joined.
const SECOND: Label = JOINT + JOINT;

/// A value as one row of a new axis.
fn one_row(site: &mut Site, x: &Operand, row: Label) -> Operand {
    let ones = site.ones(&[(row, ONE_ROW.into())]);
    let axes = [&x.axes[..], &[row]].concat();
    Operand { id: site.product(x, &ones, &axes), axes }
}

/// `x` along `label` and then one row of `y`, as the axis `joint`.
fn joined(site: &mut Site, x: &Operand, label: Label, y: &Operand, joint: Label) -> Operand {
    let y = one_row(site, y, ROW);
    appended(site, x, label, &y, joint)
}

/// `x` along `label` and then `y` along [`ROW`], as the axis `joint`.
fn appended(site: &mut Site, x: &Operand, label: Label, y: &Operand, joint: Label) -> Operand {
    let at = x.axes.iter().position(|l| *l == label).expect("the axis is one of the operand's");
    let extent = site.facts(x.id).shape[at].plus(&ONE_ROW.into());
    let axes: Axes = x.axes.iter().map(|l| if *l == label { joint } else { *l }).collect();
    let form = Form::concat([&x.axes, &y.axes], [label, ROW], (joint, extent), &axes);
    Operand { id: site.add("concat", form, &[x.id, y.id]), axes }
}

fn join_sum(site: &mut Site, [at, other]: [usize; 2]) -> Vec<Id> {
    let (sum, product) = (site.form("?t"), site.form("?s"));
    let mut onto = Onto::new(&product.result, &sum.operands[0]);
    let sparse = onto.axes(&product.operands[at]);
    let s = Scatter::at(site, &sparse);
    let label = s.into.0;
    let y = onto.operand(&product.operands[other], site.id("?y"));
    let z = Operand { axes: sum.operands[1].clone(), id: site.id("?z") };
    let whole = onto.axes(&product.result);
    if whole.contains(&label) || !y.has(label) || y.axes.len() != z.axes.len() + 1 {
        return vec![];
    }
    if !y.axes.iter().all(|l| *l == label || z.has(*l)) || !is_slice_of(site, &z, &y, label) {
        return vec![];
    }
    // The gate of the new row is 1.
    let gate = scatter_operand(site, &s, &sparse);
    let row = gate_row(site, &gate, label);
    let gate = appended(site, &gate, label, &row, JOINT);
    let values = joined(site, &y, label, &z, JOINT);
    vec![site.product(&gate, &values, &sum.result)]
}

/// The scatter itself, found again from its parts.
fn scatter_operand(site: &mut Site, s: &Scatter, axes: &[Label]) -> Operand {
    let parts = [&s.index.axes[..], &s.values.axes[..]];
    let form = Form::scatter(parts, s.chosen, s.into.clone(), axes);
    Operand { id: site.add("scatter", form, &[s.index.id, s.values.id]), axes: axes.to_vec() }
}

fn gate_row(site: &mut Site, gate: &Operand, label: Label) -> Operand {
    let shape = site.facts(gate.id).shape.clone();
    let rest = gate.axes.iter().copied().zip(shape).filter(|(l, _)| *l != label);
    let extents: Vec<(Label, Dim)> = rest.chain([(ROW, ONE_ROW.into())]).collect();
    site.ones(&extents)
}

/// Products of a class, as forms with operands.
fn products(site: &Site, class: Id) -> Vec<(Arc<Form>, Id, Id)> {
    let nodes = site.egraph[class].nodes.iter();
    let product = |node: &Term| match node {
        Term::Apply("contract", ids) => Some((form_of(site.egraph, ids[0]), ids[1], ids[2])),
        _ => None,
    };
    nodes.filter_map(product).collect()
}

/// Whether `z` is computed as one row along `label` of `y` is: a product of two factors that both
/// have the axis, less the axis, of equal extents.
fn is_slice_of(site: &Site, z: &Operand, y: &Operand, label: Label) -> bool {
    let of_z = products(site, z.id);
    products(site, y.id).iter().any(|(form, a, b)| {
        let mut onto = Onto::new(&form.result, &y.axes);
        let sides = [onto.operand(&form.operands[0], *a), onto.operand(&form.operands[1], *b)];
        let both = sides.iter().all(|side| side.has(label));
        both && of_z.iter().any(|(form, c, d)| {
            let mut onto = Onto::new(&form.result, &z.axes);
            let c = onto.operand(&form.operands[0], *c);
            let d = onto.operand(&form.operands[1], *d);
            let [a, b] = &sides;
            let fit = |pair| pairs(site, [a, b], pair, label, &z.axes);
            fit([&c, &d]) || fit([&d, &c])
        })
    })
}

/// Whether each of `y`'s factors less an axis has the axes and extents of `z`'s.
fn pairs(site: &Site, y: [&Operand; 2], z: [&Operand; 2], label: Label, shared: &[Label]) -> bool {
    let mut names = Names { shared, of: BTreeMap::new() };
    y.iter().zip(z).all(|(y, z)| names.fit(site, y, z, label))
}

/// What the axes of one op's operands are called in another's.
struct Names<'a> {
    /// Axes that both results have, of one name in both.
    shared: &'a [Label],
    /// The others, which are summed.
    of: BTreeMap<Label, Label>,
}

impl Names<'_> {
    /// Whether `z` has the axes of `y` less one, of equal extents.
    fn fit(&mut self, site: &Site, y: &Operand, z: &Operand, label: Label) -> bool {
        let axes = |o: &Operand| -> Vec<(Label, Dim)> {
            o.axes.iter().copied().zip(site.facts(o.id).shape.iter().cloned()).collect()
        };
        let (mut rest, mut free) = (axes(y), axes(z));
        rest.retain(|(l, _)| *l != label);
        rest.len() == free.len() && rest.into_iter().all(|axis| self.take(&mut free, axis))
    }

    /// Finds an axis among those of the other operand that are left.
    fn take(&mut self, free: &mut Vec<(Label, Dim)>, (label, extent): (Label, Dim)) -> bool {
        let known =
            if self.shared.contains(&label) { Some(label) } else { self.of.get(&label).copied() };
        let found = free.iter().position(|(other, dim)| {
            let name = match known {
                Some(name) => name == *other,
                None => !self.shared.contains(other),
            };
            name && *dim == extent
        });
        let Some(at) = found else { return false };
        self.of.insert(label, free.remove(at).0);
        true
    }
}

/// Two applications of one op, joined along an axis: the op of joined operands.
fn join_through(site: &mut Site, op: &'static str, count: usize) -> Vec<Id> {
    let (concat, unit, one) = (site.form("?q"), site.form("?u"), site.id("?one"));
    let (first, second) = (site.form("?r"), site.form("?v"));
    let [label, row] = [concat.labels(0)[0], concat.labels(0)[1]];
    let joint = concat.label(1);
    if !is_row(site, &unit, one, &concat, row) || first.result.len() != second.result.len() + 1 {
        return vec![];
    }
    let mut onto = Onto::new(&first.result, &concat.operands[0]);
    let outside = Onto::new(&unit.result, &concat.operands[1]).axes(&unit.operands[0]);
    let mut other = Onto::after(&second.result, &outside, SECOND);
    let xs: Vec<Operand> =
        (0..count).map(|i| onto.operand(&first.operands[i], site.id(&format!("?x{i}")))).collect();
    let ys: Vec<Operand> = (0..count)
        .map(|i| other.operand(&second.operands[i], site.id(&format!("?y{i}"))))
        .collect();
    if !same_attrs(&first, &second) {
        return vec![];
    }
    let commutes = ["contract", ADD, MUL].contains(&op);
    let orders: &[bool] = if commutes { &[false, true] } else { &[false] };
    for flipped in orders {
        let ys: Vec<Operand> =
            if *flipped { ys.iter().rev().cloned().collect() } else { ys.clone() };
        let along = Along { label, joint, shared: &outside };
        if let Some(operands) = joined_operands(site, &xs, &ys, &along) {
            return vec![joint_op(site, op, &first, &operands, &concat)];
        }
    }
    vec![]
}

fn joint_op(
    site: &mut Site,
    op: &'static str,
    first: &Form,
    operands: &[Operand],
    concat: &Form,
) -> Id {
    let axes: Vec<&[Label]> = operands.iter().map(|o| &o.axes[..]).collect();
    let mut form = Form::new(&axes, &concat.result);
    form.attrs = first.attrs.clone();
    let ids: Vec<Id> = operands.iter().map(|o| o.id).collect();
    if let (true, [x, y]) = (["contract", ADD, MUL].contains(&op), operands) {
        let (x, y) = site.in_order(x, y);
        let form = Form::new(&[&x.axes, &y.axes], &concat.result);
        return site.add(op, form, &[x.id, y.id]);
    }
    site.add(op, form, &ids)
}

/// Whether the second part of a concatenation is one row, by a product with ones.
fn is_row(site: &Site, unit: &Form, one: Id, concat: &Form, row: Label) -> bool {
    let facts = site.facts(one);
    let mut onto = Onto::new(&unit.result, &concat.operands[1]);
    facts.ones
        && facts.shape == [Dim::constant(ONE_ROW)]
        && onto.axes(&unit.operands[1]) == [row]
        && !unit.operands[0].contains(&unit.operands[1][0])
}

/// Attributes that are no axes.
fn same_attrs(a: &Form, b: &Form) -> bool {
    let plain = |f: &Form| -> Vec<Attr> {
        let attrs = f.attrs.iter();
        attrs
            .filter_map(|a| if let FormAttr::Plain(a) = a { Some(a.clone()) } else { None })
            .collect()
    };
    plain(a) == plain(b)
}

/// Along which axis operands are joined.
struct Along<'a> {
    /// Of the first operand.
    label: Label,
    /// Of the result.
    joint: Label,
    /// Axes that both results have.
    shared: &'a [Label],
}

/// Operands joined pair by pair; one that lacks the axis must be the same in both.
fn joined_operands(
    site: &mut Site,
    xs: &[Operand],
    ys: &[Operand],
    along: &Along,
) -> Option<Vec<Operand>> {
    let mut names = Names { shared: along.shared, of: BTreeMap::new() };
    for (x, y) in xs.iter().zip(ys) {
        let fit = names.fit(site, x, y, along.label);
        if !fit || !x.has(along.label) && !site.same(x.id, y.id) {
            return None;
        }
    }
    // Summed axes of the second op are called as the first one's.
    let back: BTreeMap<Label, Label> = names.of.into_iter().map(|(a, b)| (b, a)).collect();
    let mut operands = vec![];
    for (x, y) in xs.iter().zip(ys) {
        let axes: Axes = y.axes.iter().map(|l| *back.get(l).unwrap_or(l)).collect();
        let y = Operand { axes, id: y.id };
        match x.has(along.label) {
            true => operands.push(joined(site, x, along.label, &y, along.joint)),
            false if y.axes == x.axes => operands.push(x.clone()),
            false => return None,
        }
    }
    Some(operands)
}

fn join_scatter(site: &mut Site) -> Vec<Id> {
    let concat = site.form("?q");
    let [label, row] = [concat.labels(0)[0], concat.labels(0)[1]];
    let s = Scatter::at(site, &concat.operands[0]);
    let u = Operand { axes: concat.operands[1].clone(), id: site.id("?u") };
    let at = u.axes.iter().position(|l| *l == row).expect("an attribute names an axis of its form");
    let single = site.facts(u.id).shape[at] == Dim::constant(ONE_ROW);
    let rest = |o: &Operand, but: Label| o.axes.iter().filter(|l| **l != but).count();
    let whole = rest(&u, row) == rest(&s.values, s.chosen)
        && u.axes.iter().all(|l| *l == row || s.values.has(*l));
    if s.into.0 != label || !single || !whole {
        return vec![];
    }
    let new = last_row(site, &s);
    let index = appended(site, &s.index, s.chosen, &new, JOINT_CHOICES);
    let u =
        Operand { axes: u.axes.iter().map(|l| if *l == row { ROW } else { *l }).collect(), ..u };
    let values = appended(site, &s.values, s.chosen, &u, JOINT_CHOICES);
    let extent = s.into.1.plus(&ONE_ROW.into());
    let axes = [&index.axes[..], &values.axes[..]];
    let form = Form::scatter(axes, JOINT_CHOICES, (concat.label(1), extent), &concat.result);
    vec![site.add("scatter", form, &[index.id, values.id])]
}

/// The index of the row behind the last one, for every row of an index.
fn last_row(site: &mut Site, s: &Scatter) -> Operand {
    let shape = site.facts(s.index.id).shape.clone();
    let rest: Vec<(Label, Dim)> =
        s.index.axes.iter().copied().zip(shape).filter(|(l, _)| *l != s.chosen).collect();
    let start = FormAttr::Plain(Attr::Dim(s.into.1.clone()));
    let form = Form::new(&[], &[ROW]).with([start]).extent(ROW, ONE_ROW.into());
    let last = site.add("iota", form, &[]);
    if rest.is_empty() {
        return Operand { axes: vec![ROW], id: last };
    }
    let axes: Axes = [ROW].into_iter().chain(rest.iter().map(|(l, _)| *l)).collect();
    let form = Form::new(&[&[ROW]], &axes).with([FormAttr::Plain(Attr::Expr(Expr::Arg(0)))]);
    let form = rest.into_iter().fold(form, |form, (l, extent)| form.extent(l, extent));
    Operand { id: site.add("map", form, &[last]), axes }
}
