//! Scatters: what is zero but where an index says. A gate of experts and a mask of chosen keys are
//! the same op, and the same laws serve both.

use super::pointwise::{self, Inner};
use crate::rewrite::facts::natural;
use crate::rewrite::law::{Law, Onto, Operand, Site};
use crate::rewrite::term::{Axes, Form, FormAttr, Label};
use check::Tag;
use egg::Id;
use ir::attr::Attr;
use ir::dim::Dim;
use ir::expr::{Binary, Expr};

/// Laws of scatters and gathers.
pub fn laws() -> Vec<Law> {
    let through = Law::new("gather-through", Tag::Exact, "gather(f(x), i) = f(gather(x, i))");
    let through = pointwise::by_rows().fold(through, |law, (op, count)| {
        let pattern = format!("(gather ?g {} ?i)", pointwise::pattern(op, count));
        law.case(pattern, move |site| gather_through(site, op, count))
    });
    vec![
        Law::new("sparse-product", Tag::Reassociates, "scatter(i, w).y = w.gather(y, i)")
            .case("(contract ?s (scatter ?p ?i ?w) ?y)", |site| sparse_product(site, [0, 1]))
            .case("(contract ?s ?y (scatter ?p ?i ?w))", |site| sparse_product(site, [1, 0])),
        Law::new("sparse-multiple", Tag::Exact, "scatter(i, w) * y = scatter(i, w * gather(y, i))")
            .case("(mul ?s (scatter ?p ?i ?w) ?y)", |site| sparse_multiple(site, [0, 1]))
            .case("(mul ?s ?y (scatter ?p ?i ?w))", |site| sparse_multiple(site, [1, 0])),
        Law::new(
            "sparse-softmax",
            Tag::Reassociates,
            "softmax(x where scatter(i, 1) != 0) = scatter(i, softmax(gather(x, i)))",
        )
        .case("(softmax ?s ?x (map ?f (scatter ?p ?i ?w)))", |site| sparse_softmax(site, None))
        .case("(softmax ?s ?x (map ?b (map ?f (scatter ?p ?i ?w)) ?m))", |site| {
            sparse_softmax(site, Some([0, 1]))
        })
        .case("(softmax ?s ?x (map ?b ?m (map ?f (scatter ?p ?i ?w))))", |site| {
            sparse_softmax(site, Some([1, 0]))
        }),
        through,
        Law::new("fold-chosen", Tag::Reassociates, "gather(w, i).c = gather(w.c, i) of constants")
            .case("(contract ?s (gather ?g ?x ?i) ?c)", |site| fold_chosen(site, [0, 1]))
            .case("(contract ?s ?c (gather ?g ?x ?i))", |site| fold_chosen(site, [1, 0])),
        Law::new("gather-scatter", Tag::Exact, "gather(scatter(i, w), i) = w, i distinct")
            .case("(gather ?g (scatter ?p ?i ?w) ?i)", gather_scatter),
    ]
}

/// A scatter as it stands inside another op's operand.
pub(super) struct Scatter {
    /// Which rows.
    pub index: Operand,
    /// What stands there.
    pub values: Operand,
    /// Axis of the values that the index has one row for each of.
    pub chosen: Label,
    /// Axis of the result, and its extent.
    pub into: (Label, Dim),
}

impl Scatter {
    /// The scatter `?p` of `?i` and `?w`, whose result reads `axes` outside.
    pub fn at(site: &Site, axes: &[Label]) -> Scatter {
        let form = site.form("?p");
        let mut onto = Onto::new(&form.result, axes);
        let index = onto.operand(&form.operands[0], site.id("?i"));
        let values = onto.operand(&form.operands[1], site.id("?w"));
        let (chosen, into) = (onto.label(form.label(0)), onto.label(form.label(1)));
        let extent = form.extents[&form.label(1)].clone();
        Scatter { index, values, chosen, into: (into, extent) }
    }

    /// A scatter of other values by the same index.
    fn of(&self, site: &mut Site, values: &Operand, result: &[Label]) -> Id {
        let axes = [&self.index.axes[..], &values.axes[..]];
        let form = Form::scatter(axes, self.chosen, self.into.clone(), result);
        site.add("scatter", form, &[self.index.id, values.id])
    }

    /// Rows of a value where the index says.
    fn chosen_of(&self, site: &mut Site, x: &Operand) -> Operand {
        site.gathered(x, self.into.0, &self.index)
    }

    /// Axes with the scattered axis replaced by that of the chosen rows.
    fn inward(&self, axes: &[Label]) -> Axes {
        axes.iter().map(|l| if *l == self.into.0 { self.chosen } else { *l }).collect()
    }

    /// Whether the index has no axes but these and that of the chosen rows.
    fn within(&self, axes: &[Label]) -> bool {
        self.index.axes.iter().all(|l| *l == self.chosen || axes.contains(l))
    }
}

fn sparse_product(site: &mut Site, [at, other]: [usize; 2]) -> Vec<Id> {
    let form = site.form("?s");
    let s = Scatter::at(site, &form.operands[at]);
    let y = Operand { axes: form.operands[other].clone(), id: site.id("?y") };
    let kept = form.result.contains(&s.into.0);
    if kept && !s.within(&form.result) {
        return vec![];
    }
    let y = s.chosen_of(site, &y);
    if !kept {
        return vec![site.product(&s.values, &y, &form.result)];
    }
    let result = s.inward(&form.result);
    let axes = natural(&[&s.values.axes, &y.axes], |l| result.contains(&l));
    let product = Operand { id: site.product(&s.values, &y, &axes), axes };
    vec![s.of(site, &product, &form.result)]
}

fn sparse_multiple(site: &mut Site, [at, other]: [usize; 2]) -> Vec<Id> {
    let form = site.form("?s");
    let s = Scatter::at(site, &form.operands[at]);
    let y = Operand { axes: form.operands[other].clone(), id: site.id("?y") };
    let inside = s.inward(&form.result);
    let whole =
        inside.len() == s.values.axes.len() && s.values.axes.iter().all(|l| inside.contains(l));
    if !whole || !s.within(&form.result) {
        return vec![];
    }
    let y = s.chosen_of(site, &y);
    let (a, b) = site.in_order(&s.values, &y);
    let form_of = Form::new(&[&a.axes, &b.axes], &a.axes);
    let product = Operand { id: site.add("mul", form_of, &[a.id, b.id]), axes: a.axes.clone() };
    vec![s.of(site, &product, &form.result)]
}

/// Whether an expression says of 0 and 1 which it is. Comparisons by order do so too, but not in
/// the prime field, where no check could see that the law holds.
fn tells_one(form: &Form) -> bool {
    let Some(Attr::Expr(Expr::Binary(f, x, c))) = form.plain(0) else { return false };
    match (f, &**x, &**c) {
        (Binary::Ne, Expr::Arg(0), Expr::Num(c)) => *c == 0.0,
        _ => false,
    }
}

fn is_both(form: &Form) -> bool {
    let both = Expr::Arg(0).binary(Binary::And, Expr::Arg(1));
    matches!(form.plain(0), Some(Attr::Expr(expr)) if *expr == both)
}

/// `further` says where in a conjunction the scatter and another mask stand.
fn sparse_softmax(site: &mut Site, further: Option<[usize; 2]>) -> Vec<Id> {
    let form = site.form("?s");
    let axis = form.label(0);
    let mut mask_axes = form.operands[1].clone();
    let mut mask = None;
    if let Some([open, other]) = further {
        let both = site.form("?b");
        if !is_both(&both) {
            return vec![];
        }
        let mut onto = Onto::new(&both.result, &mask_axes);
        mask = Some(onto.operand(&both.operands[other], site.id("?m")));
        mask_axes = onto.axes(&both.operands[open]);
    }
    let test = site.form("?f");
    let inside = Onto::new(&test.result, &mask_axes).axes(&test.operands[0]);
    let s = Scatter::at(site, &inside);
    let (ones, distinct) = (site.facts(s.values.id).ones, site.facts(s.index.id).distinct);
    let x = Operand { axes: form.operands[0].clone(), id: site.id("?x") };
    if !tells_one(&test) || s.into.0 != axis || !ones || !distinct || !s.within(&x.axes) {
        return vec![];
    }
    let rows = s.chosen_of(site, &x);
    let mask = mask.map(|m| s.chosen_of(site, &m));
    let mut operands = vec![rows.clone()];
    operands.extend(mask);
    let axes: Vec<&[Label]> = operands.iter().map(|o| &o.axes[..]).collect();
    let mut inner = Form::new(&axes, &rows.axes).with([FormAttr::Label(s.chosen)]);
    inner.masked = operands.len() > 1;
    let ids: Vec<Id> = operands.iter().map(|o| o.id).collect();
    let weights = Operand { id: site.add("softmax", inner, &ids), axes: rows.axes };
    vec![s.of(site, &weights, &form.result)]
}

/// An op of rows, each chosen before instead of behind it.
fn gather_through(site: &mut Site, op: &'static str, count: usize) -> Vec<Id> {
    let gather = site.form("?g");
    let label = gather.label(0);
    let mut inner = Inner::at(site, count, &gather.operands[0]);
    let index = Operand { axes: gather.operands[1].clone(), id: site.id("?i") };
    let new = inner.new_labels(&gather.operands[0]);
    if inner.names(label) || new.iter().any(|l| *l == label || index.has(*l)) {
        return vec![];
    }
    let named = index.axes.iter().any(|l| inner.names(*l));
    if named {
        return vec![];
    }
    let operands: Vec<Operand> =
        inner.operands.clone().iter().map(|x| site.gathered(x, label, &index)).collect();
    vec![inner.rebuilt(site, op, &operands, &gather.result)]
}

fn fold_chosen(site: &mut Site, [at, other]: [usize; 2]) -> Vec<Id> {
    let (form, gather) = (site.form("?s"), site.form("?g"));
    let mut onto = Onto::new(&gather.result, &form.operands[at]);
    let x = onto.operand(&gather.operands[0], site.id("?x"));
    let index = onto.operand(&gather.operands[1], site.id("?i"));
    let c = Operand { axes: form.operands[other].clone(), id: site.id("?c") };
    let label = onto.label(gather.label(0));
    let constant = site.facts(x.id).constant && site.facts(c.id).constant;
    let apart = index.axes.iter().all(|l| form.result.contains(l) && !c.has(*l) && !x.has(*l));
    if !constant || !apart {
        return vec![];
    }
    let axes = natural(&[&x.axes, &c.axes], |l| l == label || form.result.contains(&l));
    let product = Operand { id: site.product(&x, &c, &axes), axes };
    let gather = Form::gather(&product.axes, &index.axes, label, &form.result);
    vec![site.add("gather", gather, &[product.id, index.id])]
}

fn gather_scatter(site: &mut Site) -> Vec<Id> {
    let gather = site.form("?g");
    let s = Scatter::at(site, &gather.operands[0]);
    // The chosen rows may be called otherwise outside.
    let outside = &gather.operands[1];
    let same = s.index.axes.iter().zip(outside).all(|(i, o)| i == o || *i == s.chosen);
    let Some(at) = s.index.axes.iter().position(|l| *l == s.chosen) else { return vec![] };
    let name = outside[at];
    let axes: Axes = s.values.axes.iter().map(|l| if *l == s.chosen { name } else { *l }).collect();
    let whole = same && s.into.0 == gather.label(0) && axes == gather.result;
    if whole && site.facts(s.index.id).distinct { vec![site.id("?w")] } else { vec![] }
}
