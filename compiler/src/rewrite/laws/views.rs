//! Views: splits, merges, slices and concatenations through products and each other.

use super::pointwise::{self, Inner};
use crate::rewrite::law::{Law, Onto, Operand, Site};
use crate::rewrite::term::{ADD, Form, FormAttr, Label};
use check::Tag;
use egg::Id;
use ir::attr::Attr;
use ir::dim::Dim;

/// Laws of views.
pub fn laws() -> Vec<Law> {
    vec![
        split_through(),
        Law::new("slice-product", Tag::Exact, "slice(a.b) = slice a . slice b")
            .case("(slice ?q (contract ?r ?x0 ?x1))", |site| through(site, "slice", "contract", 2)),
        Law::new("merge-product", Tag::Exact, "merge(a).b = a.split(b), the merged axis summed")
            .case("(contract ?s (merge ?q ?a) ?b)", |site| merge_product(site, [0, 1]))
            .case("(contract ?s ?b (merge ?q ?a))", |site| merge_product(site, [1, 0])),
        Law::new("split-slice", Tag::Exact, "split(slice x) = slice(split x), of another axis")
            .case("(split ?q (slice ?h ?x))", split_slice),
        Law::new("merge-split", Tag::Exact, "merge(split x) = x = split(merge x)")
            .case("(merge ?p (split ?q ?x))", merge_split)
            .case("(split ?q (merge ?p ?x))", split_merge),
        Law::new("slice-concat", Tag::Exact, "a part of a concatenation is one of its parts")
            .case("(slice ?q (concat ?c ?a ?b))", slice_concat),
        Law::new("slice-slice", Tag::Exact, "a part of a part is a part")
            .case("(slice ?q (slice ?h ?x))", slice_slice),
        Law::new(
            "distribute",
            Tag::Reassociates,
            "[a, b].[c, d] = a.c + b.d, the joint axis summed",
        )
        .case("(contract ?s (concat ?p ?a ?b) (concat ?q ?c ?d))", distribute),
    ]
}

fn split_through() -> Law {
    let law = Law::new("split-through", Tag::Exact, "split(f(x)) = f(split x), element by element");
    pointwise::ELEMENTWISE.iter().fold(law, |law, (op, count)| {
        let pattern = format!("(split ?q {})", pointwise::pattern(op, *count));
        law.case(pattern, move |site| through(site, "split", op, *count))
    })
}

/// A view of one axis of an op's result is that view of each operand that has it.
fn through(site: &mut Site, view: &'static str, op: &'static str, count: usize) -> Vec<Id> {
    let form = site.form("?q");
    let label = form.label(0);
    let mut inner = Inner::at(site, count, &form.operands[0]);
    if !inner.operands.iter().any(|x| x.has(label)) {
        return vec![];
    }
    let operands = inner.operands.clone().into_iter();
    let operands: Vec<Operand> = operands.map(|x| viewed(site, view, &form, label, x)).collect();
    vec![inner.rebuilt(site, op, &operands, &form.result)]
}

/// The same view of another value, if it has the axis.
fn viewed(site: &mut Site, op: &'static str, view: &Form, label: Label, x: Operand) -> Operand {
    if !x.has(label) {
        return x;
    }
    let into: Vec<Label> =
        view.result.iter().copied().filter(|l| !view.operands[0].contains(l)).collect();
    let axes = replaced(&x.axes, label, &into);
    let form = view.relabelled(&[&x.axes], &axes);
    Operand { id: site.add(op, form, &[x.id]), axes }
}

/// Axes with others in place of one.
fn replaced(axes: &[Label], label: Label, by: &[Label]) -> Vec<Label> {
    axes.iter().flat_map(|l| if *l == label { by.to_vec() } else { vec![*l] }).collect()
}

fn merge_product(site: &mut Site, [merged, other]: [usize; 2]) -> Vec<Id> {
    let (product, merge) = (site.form("?s"), site.form("?q"));
    let mut onto = Onto::new(&merge.result, &product.operands[merged]);
    let a = onto.operand(&merge.operands[0], site.id("?a"));
    let label = onto.label(merge.label(1));
    let b = Operand { axes: product.operands[other].clone(), id: site.id("?b") };
    if product.result.contains(&label) || !b.has(label) {
        return vec![];
    }
    let parts: Vec<Label> = merge.labels(0).iter().map(|l| onto.label(*l)).collect();
    let shape = site.facts(a.id).shape.clone();
    let extent = |l: &Label| shape[a.axes.iter().position(|x| x == l).unwrap_or(0)].clone();
    let extents: Vec<(Label, Dim)> = parts.iter().map(|l| (*l, extent(l))).collect();
    let b = split_axis(site, b, label, &extents);
    vec![site.product(&a, &b, &product.result)]
}

/// An axis as several.
pub(super) fn split_axis(
    site: &mut Site,
    x: Operand,
    label: Label,
    into: &[(Label, Dim)],
) -> Operand {
    let parts: Vec<Label> = into.iter().map(|(l, _)| *l).collect();
    let axes = replaced(&x.axes, label, &parts);
    let attrs = [FormAttr::Label(label), FormAttr::Labels(parts)];
    let form = Form::new(&[&x.axes], &axes).with(attrs);
    let form = into.iter().fold(form, |form, (l, extent)| form.extent(*l, extent.clone()));
    Operand { id: site.add("split", form, &[x.id]), axes }
}

fn split_slice(site: &mut Site) -> Vec<Id> {
    let (split, slice) = (site.form("?q"), site.form("?h"));
    let mut onto = Onto::new(&slice.result, &split.operands[0]);
    let x = onto.operand(&slice.operands[0], site.id("?x"));
    let [from, into] = [0, 1].map(|at| onto.label(slice.label(at)));
    if split.label(0) == into {
        return vec![];
    }
    let x = viewed(site, "split", &split, split.label(0), x);
    let attrs = [FormAttr::Label(from), FormAttr::Label(into), slice.attrs[2].clone()];
    let form = Form::new(&[&x.axes], &split.result).with(attrs);
    let extent = slice.extents[&slice.label(1)].clone();
    vec![site.add("slice", form.extent(into, extent), &[x.id])]
}

fn merge_split(site: &mut Site) -> Vec<Id> {
    let (merge, split) = (site.form("?p"), site.form("?q"));
    let mut onto = Onto::new(&split.result, &merge.operands[0]);
    let parts: Vec<Label> = split.labels(1).iter().map(|l| onto.label(*l)).collect();
    let x = onto.axes(&split.operands[0]);
    let label = onto.label(split.label(0));
    let back: Vec<Label> =
        x.iter().map(|l| if *l == label { merge.label(1) } else { *l }).collect();
    let same = parts == merge.labels(0) && back == merge.result;
    if same { vec![site.id("?x")] } else { vec![] }
}

fn split_merge(site: &mut Site) -> Vec<Id> {
    let (split, merge) = (site.form("?q"), site.form("?p"));
    let mut onto = Onto::new(&merge.result, &split.operands[0]);
    let whole = onto.label(merge.label(1));
    if whole != split.label(0) || merge.labels(0).len() != split.labels(1).len() {
        return vec![];
    }
    // The split's parts are the merge's, in order, if their extents are.
    let shape = &site.facts(site.id("?x")).shape;
    let extent = |l: &Label| merge.operands[0].iter().position(|x| x == l).map(|at| &shape[at]);
    let mut parts = merge.labels(0).iter().zip(split.labels(1));
    if !parts.all(|(m, s)| extent(m) == split.extents.get(s)) {
        return vec![];
    }
    for (m, s) in merge.labels(0).iter().zip(split.labels(1)) {
        onto.tie(*m, *s);
    }
    let x = onto.axes(&merge.operands[0]);
    if x == split.result { vec![site.id("?x")] } else { vec![] }
}

fn start_and_length(form: &Form) -> (Dim, Dim) {
    (form.dim(2).clone(), form.extents[&form.label(1)].clone())
}

fn slice_concat(site: &mut Site) -> Vec<Id> {
    let (slice, concat) = (site.form("?q"), site.form("?c"));
    if slice.label(0) != slice.operands[0][position(&concat.result, concat.label(1))] {
        return vec![];
    }
    let (start, length) = start_and_length(&slice);
    let along = concat.labels(0).to_vec();
    let parts = [("?a", 0usize), ("?b", 1)];
    let extent = |site: &Site, (name, k): (&str, usize)| {
        site.facts(site.id(name)).shape[position(&concat.operands[k], along[k])].clone()
    };
    let first = extent(site, parts[0]);
    let starts = [Dim::constant(0), first];
    let found =
        parts.into_iter().find(|part| starts[part.1] == start && extent(site, *part) == length);
    let Some((name, k)) = found else { return vec![] };
    let mut onto = Onto::new(&concat.result, &slice.operands[0]);
    onto.tie(along[k], slice.label(1));
    let axes = onto.axes(&concat.operands[k]);
    if axes == slice.result { vec![site.id(name)] } else { vec![] }
}

fn position(axes: &[Label], label: Label) -> usize {
    axes.iter().position(|l| *l == label).expect("an attribute names an axis of its form")
}

fn slice_slice(site: &mut Site) -> Vec<Id> {
    let (outer, inner) = (site.form("?q"), site.form("?h"));
    let mut onto = Onto::new(&inner.result, &outer.operands[0]);
    if onto.label(inner.label(1)) != outer.label(0) {
        return vec![];
    }
    let x = onto.operand(&inner.operands[0], site.id("?x"));
    let (more, length) = start_and_length(&outer);
    let start = inner.dim(2).plus(&more);
    let attrs = [
        FormAttr::Label(onto.label(inner.label(0))),
        FormAttr::Label(outer.label(1)),
        FormAttr::Plain(Attr::Dim(start)),
    ];
    let form = Form::new(&[&x.axes], &outer.result).with(attrs).extent(outer.label(1), length);
    vec![site.add("slice", form, &[x.id])]
}

fn distribute(site: &mut Site) -> Vec<Id> {
    let (product, p, q) = (site.form("?s"), site.form("?p"), site.form("?q"));
    let mut left = Onto::new(&p.result, &product.operands[0]);
    let mut right = Onto::new(&q.result, &product.operands[1]);
    let joint = left.label(p.label(1));
    if joint != right.label(q.label(1)) || product.result.contains(&joint) {
        return vec![];
    }
    let mut parts = vec![];
    for (k, [x, y]) in [["?a", "?c"], ["?b", "?d"]].into_iter().enumerate() {
        // Each pair of parts is summed along the joint axis' label.
        left.tie(p.labels(0)[k], joint);
        right.tie(q.labels(0)[k], joint);
        let x = left.operand(&p.operands[k], site.id(x));
        let y = right.operand(&q.operands[k], site.id(y));
        let extent = |o: &Operand| site.facts(o.id).shape[position(&o.axes, joint)].clone();
        if extent(&x) != extent(&y) {
            return vec![];
        }
        parts.push((x, y));
    }
    let terms: Vec<Id> = parts.iter().map(|(x, y)| site.product(x, y, &product.result)).collect();
    let axes = &product.result;
    vec![site.add(ADD, Form::new(&[axes, axes], axes), &terms)]
}
