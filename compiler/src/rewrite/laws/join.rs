//! Sums of a sparse sum and one more term of its kind: that term is one more row, or several, always
//! chosen.

use super::pointwise;
use super::sparse::Scatter;
use super::views::split_axis;
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
    let sum = "sum of s.y over e, plus z = sum of [s, 1].[y, z], z one row or a sum of rows";
    let sum = Law::new("join-sum", Tag::Reassociates, sum)
        .case("(add ?t (contract ?s (scatter ?p ?i ?w) ?y) ?z)", |site| join_sum(site, [0, 1]))
        .case("(add ?t (contract ?s ?y (scatter ?p ?i ?w)) ?z)", |site| join_sum(site, [1, 0]));
    let through = Law::new("join-through", Tag::Exact, "[f(a), f(b)] = f([a, b])");
    let ops = [("contract", 2), (ADD, 2), (MUL, 2), ("map", 1), ("map", 2), ("swiglu", 2)];
    let through = ops.into_iter().fold(through, |law, (op, count)| {
        let first = pointwise::pattern(op, count);
        let second = first.replace("?x", "?y").replace("?r", "?v");
        law.case(format!("(concat ?q {first} {second})"), move |site| {
            join_through(site, op, count, Second::Rows)
        })
        .case(format!("(concat ?q {first} (contract ?u {second} ?one))"), move |site| {
            join_through(site, op, count, Second::Row)
        })
    });
    let scatter = "[scatter(i, w), u] = scatter([i, E, E + 1, ..], [w, u])";
    let scatter = Law::new("join-scatter", Tag::Exact, scatter)
        .case("(concat ?q (scatter ?p ?i ?w) ?u)", join_scatter);
    vec![sum, through, scatter]
}

const ONE_ROW: i64 = 1;
/// Labels of the joined axes, beyond those that a match takes.
const JOINT: Label = crate::rewrite::term::FRESH << 1;
const ROW: Label = JOINT + 1;
const JOINT_CHOICES: Label = JOINT + 2;
const PART: Label = JOINT + 3;
/// Before the labels of the second of two ops that are joined.
const SECOND: Label = JOINT + JOINT;

/// A value as one row of a new axis.
fn one_row(site: &mut Site, x: &Operand, row: Label) -> Operand {
    let ones = site.ones(&[(row, ONE_ROW.into())]);
    let axes = [&x.axes[..], &[row]].concat();
    Operand { id: site.product(x, &ones, &axes), axes }
}

/// `x` along `label` and then `y` along [`ROW`], as the axis `joint`.
fn appended(site: &mut Site, x: &Operand, label: Label, y: &Operand, joint: Label) -> Operand {
    let extent = extent(site, x, label).plus(&extent(site, y, ROW));
    let axes = renamed(&x.axes, label, joint);
    let form = Form::concat([&x.axes, &y.axes], [label, ROW], (joint, extent), &axes);
    Operand { id: site.add("concat", form, &[x.id, y.id]), axes }
}

fn extent(site: &Site, x: &Operand, label: Label) -> Dim {
    let at = x.axes.iter().position(|l| *l == label).expect("the axis is one of the operand's");
    site.facts(x.id).shape[at].clone()
}

fn renamed(axes: &[Label], from: Label, to: Label) -> Axes {
    axes.iter().map(|l| if *l == from { to } else { *l }).collect()
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
    if !y.axes.iter().all(|l| *l == label || z.has(*l)) {
        return vec![];
    }
    let Some(rows) = rows_like(site, &z, &y, label) else { return vec![] };
    // The gate of each new row is 1.
    let gate = scatter_operand(site, &s, &sparse);
    let ones = gate_rows(site, &gate, label, &extent(site, &rows, ROW));
    let gate = appended(site, &gate, label, &ones, JOINT);
    let values = appended(site, &y, label, &rows, JOINT);
    vec![site.product(&gate, &values, &sum.result)]
}

/// The scatter itself, found again from its parts.
fn scatter_operand(site: &mut Site, s: &Scatter, axes: &[Label]) -> Operand {
    let parts = [&s.index.axes[..], &s.values.axes[..]];
    let form = Form::scatter(parts, s.chosen, s.into.clone(), axes);
    Operand { id: site.add("scatter", form, &[s.index.id, s.values.id]), axes: axes.to_vec() }
}

fn gate_rows(site: &mut Site, gate: &Operand, label: Label, count: &Dim) -> Operand {
    let shape = site.facts(gate.id).shape.clone();
    let rest = gate.axes.iter().copied().zip(shape).filter(|(l, _)| *l != label);
    let extents: Vec<(Label, Dim)> = rest.chain([(ROW, count.clone())]).collect();
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

/// `z` as rows of which each is computed as one along `label` of `y` is: a product of two factors
/// that both have the axis. `z` is one such row, or the sum of several: a product of factors that
/// have the axes less that one, of equal extents, but for one summed axis that is as many times as
/// long as there are rows.
fn rows_like(site: &mut Site, z: &Operand, y: &Operand, label: Label) -> Option<Operand> {
    let of_z = products(site, z.id);
    for (form, a, b) in products(site, y.id) {
        let mut onto = Onto::new(&form.result, &y.axes);
        let [a, b] = [onto.operand(&form.operands[0], a), onto.operand(&form.operands[1], b)];
        if !a.has(label) || !b.has(label) {
            continue;
        }
        for (form, c, d) in &of_z {
            let mut onto = Onto::new(&form.result, &z.axes);
            let c = onto.operand(&form.operands[0], *c);
            let d = onto.operand(&form.operands[1], *d);
            for factors in [[&c, &d], [&d, &c]] {
                let mut names = Names::sharing(&z.axes);
                let fit = [&a, &b].into_iter().zip(factors);
                if fit.into_iter().all(|(y, z)| names.fit(site, [y, z], [label, ROW])) {
                    return match names.longer {
                        None => Some(one_row(site, z, ROW)),
                        Some(longer) => apart(site, z, factors, &longer),
                    };
                }
            }
        }
    }
    None
}

/// The product of two factors, a part of the summed axis for each row.
fn apart(site: &mut Site, z: &Operand, of: [&Operand; 2], longer: &Longer) -> Option<Operand> {
    let Longer { label, rows, part } = longer;
    let steps = site.egraph.analysis.is_step(rows) || site.egraph.analysis.is_step(part);
    if steps || !of.iter().all(|x| keeps_blocks(site, x, part)) {
        return None;
    }
    let into = [(ROW, rows.clone()), (PART, part.clone())];
    let [c, d] = of.map(|x| split_axis(site, x.clone(), *label, &into));
    let axes = [&z.axes[..], &[ROW]].concat();
    Some(Operand { id: site.product(&c, &d, &axes), axes })
}

/// Whether parts of a constant keep its encoding: blocks of scales end where a part ends.
fn keeps_blocks(site: &Site, x: &Operand, part: &Dim) -> bool {
    let facts = site.facts(x.id);
    let Some(scale) = facts.encoding.scale.filter(|_| facts.constant) else { return true };
    let part = part.bound_value(&site.egraph.analysis.symbols);
    let whole = |block: u32| part.is_some_and(|part| part % i64::from(block) == 0);
    whole(scale.rows) && whole(scale.cols)
}

/// What the axes of one op's operands are called in another's.
struct Names<'a> {
    /// Axes that both results have, of one name in both.
    shared: &'a [Label],
    /// The others, which are summed.
    of: BTreeMap<Label, Label>,
    /// The one of these that may be longer in the other op, if it is.
    longer: Option<Longer>,
}

/// A summed axis as long as that of another op, so many times.
struct Longer {
    label: Label,
    rows: Dim,
    part: Dim,
}

impl<'a> Names<'a> {
    fn sharing(shared: &'a [Label]) -> Names<'a> {
        Names { shared, of: BTreeMap::new(), longer: None }
    }

    /// Whether an operand has the axes of another, of equal extents, each less an axis.
    fn fit(&mut self, site: &Site, [x, y]: [&Operand; 2], less: [Label; 2]) -> bool {
        let axes = |o: &Operand, less: Label| -> Vec<(Label, Dim)> {
            let all = o.axes.iter().copied().zip(site.facts(o.id).shape.iter().cloned());
            all.filter(|(label, _)| *label != less).collect()
        };
        let (rest, mut free) = (axes(x, less[0]), axes(y, less[1]));
        rest.len() == free.len() && rest.into_iter().all(|axis| self.take(&mut free, axis))
    }

    /// Whether axes of one value are the same in both ops.
    fn tie(&mut self, x: &[Label], y: &[Label]) -> bool {
        let shared = self.shared;
        x.iter().zip(y).all(|(x, y)| match shared.contains(x) {
            true => x == y,
            false => !shared.contains(y) && *self.of.entry(*x).or_insert(*y) == *y,
        })
    }

    /// Finds an axis among those of the other operand that are left.
    fn take(&mut self, free: &mut Vec<(Label, Dim)>, (label, extent): (Label, Dim)) -> bool {
        let known =
            if self.shared.contains(&label) { Some(label) } else { self.of.get(&label).copied() };
        let named = |other: Label| match known {
            Some(name) => name == other,
            None => !self.shared.contains(&other),
        };
        let equal = free.iter().position(|(other, dim)| named(*other) && *dim == extent);
        let found = equal.or_else(|| self.longer(free, &named, &extent));
        let Some(at) = found else { return false };
        self.of.insert(label, free.remove(at).0);
        true
    }

    /// An axis as long as another, so many times: the one that was found before, or the first.
    fn longer(
        &mut self,
        free: &[(Label, Dim)],
        named: &dyn Fn(Label) -> bool,
        part: &Dim,
    ) -> Option<usize> {
        let summed = |l: &Label| named(*l) && !self.shared.contains(l);
        let at = free.iter().position(|(l, dim)| summed(l) && dim.quotient(part).is_some())?;
        let label = free[at].0;
        match &self.longer {
            Some(longer) => (longer.label == label).then_some(at),
            None => {
                let (rows, part) = (free[at].1.quotient(part)?, part.clone());
                self.longer = Some(Longer { label, rows, part });
                Some(at)
            }
        }
    }
}

/// What the second of two joined applications is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Second {
    /// One row, by a product with ones.
    Row,
    /// Rows itself.
    Rows,
}

/// Two applications of one op, joined along an axis: the op of joined operands.
fn join_through(site: &mut Site, op: &'static str, count: usize, is: Second) -> Vec<Id> {
    let (concat, first, second) = (site.form("?q"), site.form("?r"), site.form("?v"));
    let [label, row] = [concat.labels(0)[0], concat.labels(0)[1]];
    let Some(outside) = outside(site, &concat, is) else { return vec![] };
    let shared: Axes = outside.iter().copied().filter(|l| *l != row).collect();
    if first.result.len() != shared.len() + 1 || !same_attrs(&first, &second) {
        return vec![];
    }
    let mut onto = Onto::new(&first.result, &concat.operands[0]);
    let mut other = Onto::after(&second.result, &outside, SECOND);
    let xs: Vec<Operand> =
        (0..count).map(|i| onto.operand(&first.operands[i], site.id(&format!("?x{i}")))).collect();
    let ys: Vec<Operand> = (0..count)
        .map(|i| other.operand(&second.operands[i], site.id(&format!("?y{i}"))))
        .collect();
    let orders: &[bool] = if pointwise::commutes(op) { &[false, true] } else { &[false] };
    for flipped in orders {
        let ys: Vec<Operand> =
            if *flipped { ys.iter().rev().cloned().collect() } else { ys.clone() };
        let along = Along { label, row, joint: concat.label(1), shared: &shared, is };
        if let Some(operands) = joined_operands(site, &xs, &ys, &along) {
            return vec![joint_op(site, op, &first, &operands, &concat)];
        }
    }
    vec![]
}

/// Axes of the result of the second of two joined applications.
fn outside(site: &Site, concat: &Form, is: Second) -> Option<Axes> {
    let second = &concat.operands[1];
    if is == Second::Rows {
        return Some(second.clone());
    }
    let (unit, one) = (site.form("?u"), site.id("?one"));
    let whole = is_row(site, &unit, one, concat, concat.labels(0)[1]);
    whole.then(|| Onto::new(&unit.result, second).axes(&unit.operands[0]))
}

fn joint_op(
    site: &mut Site,
    op: &'static str,
    first: &Form,
    operands: &[Operand],
    concat: &Form,
) -> Id {
    if let Some(id) = pointwise::ordered(site, op, operands, &concat.result) {
        return id;
    }
    let axes: Vec<&[Label]> = operands.iter().map(|o| &o.axes[..]).collect();
    let mut form = Form::new(&axes, &concat.result);
    form.attrs = first.attrs.clone();
    let ids: Vec<Id> = operands.iter().map(|o| o.id).collect();
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
    /// Of the second, if that is rows.
    row: Label,
    /// Of the result.
    joint: Label,
    /// Axes that both results have.
    shared: &'a [Label],
    /// What the second is.
    is: Second,
}

impl Along<'_> {
    /// The axis of each of both.
    fn axes(&self) -> [Label; 2] {
        [self.label, self.row]
    }
}

/// Operands joined pair by pair; one that lacks the axis must be the same in both.
fn joined_operands(
    site: &mut Site,
    xs: &[Operand],
    ys: &[Operand],
    along: &Along,
) -> Option<Vec<Operand>> {
    let mut names = Names::sharing(along.shared);
    // What both share says most of what axes are called.
    let mut pairs: Vec<(&Operand, &Operand)> = xs.iter().zip(ys).collect();
    pairs.sort_by_key(|(x, _)| x.has(along.label));
    for (x, y) in pairs {
        let (in_x, in_y) = (x.has(along.label), y.has(along.row));
        let fit = match in_x {
            true => in_y == (along.is == Second::Rows) && names.fit(site, [x, y], along.axes()),
            false => !in_y && site.same(x.id, y.id) && names.tie(&x.axes, &y.axes),
        };
        if !fit || names.longer.is_some() {
            return None;
        }
    }
    // Summed axes of the second op are called as the first one's, and its rows as all rows are.
    let mut back: BTreeMap<Label, Label> = names.of.into_iter().map(|(a, b)| (b, a)).collect();
    back.insert(along.row, ROW);
    let mut operands = vec![];
    for (x, y) in xs.iter().zip(ys) {
        let axes: Axes = y.axes.iter().map(|l| *back.get(l).unwrap_or(l)).collect();
        let y = Operand { axes, id: y.id };
        let rows = match along.is {
            Second::Row if x.has(along.label) => one_row(site, &y, ROW),
            _ => y,
        };
        operands.push(match x.has(along.label) {
            true => appended(site, x, along.label, &rows, along.joint),
            false => x.clone(),
        });
    }
    Some(operands)
}

fn join_scatter(site: &mut Site) -> Vec<Id> {
    let concat = site.form("?q");
    let [label, row] = [concat.labels(0)[0], concat.labels(0)[1]];
    let s = Scatter::at(site, &concat.operands[0]);
    let u = Operand { axes: renamed(&concat.operands[1], row, ROW), id: site.id("?u") };
    let count = extent(site, &u, ROW);
    let rest = |o: &Operand, but: Label| o.axes.iter().filter(|l| **l != but).count();
    let whole = rest(&u, ROW) == rest(&s.values, s.chosen)
        && u.axes.iter().all(|l| *l == ROW || s.values.has(*l));
    if s.into.0 != label || site.egraph.analysis.is_step(&count) || !whole {
        return vec![];
    }
    let new = last_rows(site, &s, &count);
    let index = appended(site, &s.index, s.chosen, &new, JOINT_CHOICES);
    let values = appended(site, &s.values, s.chosen, &u, JOINT_CHOICES);
    let extent = s.into.1.plus(&count);
    let axes = [&index.axes[..], &values.axes[..]];
    let form = Form::scatter(axes, JOINT_CHOICES, (concat.label(1), extent), &concat.result);
    vec![site.add("scatter", form, &[index.id, values.id])]
}

/// Indices of so many rows behind the last one, for every row of an index.
fn last_rows(site: &mut Site, s: &Scatter, count: &Dim) -> Operand {
    let shape = site.facts(s.index.id).shape.clone();
    let rest: Vec<(Label, Dim)> =
        s.index.axes.iter().copied().zip(shape).filter(|(l, _)| *l != s.chosen).collect();
    let start = FormAttr::Plain(Attr::Dim(s.into.1.clone()));
    let form = Form::new(&[], &[ROW]).with([start]).extent(ROW, count.clone());
    let last = site.add("iota", form, &[]);
    if rest.is_empty() {
        return Operand { axes: vec![ROW], id: last };
    }
    let axes: Axes = rest.iter().map(|(l, _)| *l).chain([ROW]).collect();
    let form = Form::new(&[&[ROW]], &axes).with([FormAttr::Plain(Attr::Expr(Expr::Arg(0)))]);
    let form = rest.into_iter().fold(form, |form, (l, extent)| form.extent(l, extent));
    Operand { id: site.add("map", form, &[last]), axes }
}
