//! Projections of one activation as one: `x.W1` and `x.W2` are parts of `x.[W1, W2]`, whether the
//! weights are whole or rows of them chosen by one index.
//!
//! As a law it would make every subset. As a pass over a chosen term it makes one candidate for
//! each activation, which a second extraction takes or leaves.

use super::extract::Choice;
use super::facts::{Egraph, form_of};
use super::law::Step;
use super::term::{Axes, FRESH, Form, FormAttr, Label, Term};
use check::Tag;
use egg::Id;
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::Encoding;
use std::collections::{BTreeMap, BTreeSet};

/// Name of this law in proofs.
pub const NAME: &str = "merge-projections";

/// What an axis of a weight is to its projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// In the result, of the weight alone: by number.
    Free(usize),
    /// Summed with this axis of the activation.
    Summed(usize),
    /// Replaced by the rows that an index names.
    Chosen,
}

/// What an axis of an index is: an axis of the activation, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Shared(usize),
    Own(usize),
}

/// What projections must share to be merged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    activation: Id,
    /// Axes of the activation that are summed.
    summed: Vec<usize>,
    /// The index of the chosen rows, its axes, and how many rows there are to choose from.
    chosen: Option<(Id, Vec<Row>, Dim)>,
    encoding: Encoding,
}

/// One projection.
#[derive(Clone, Debug)]
struct Member {
    product: Term,
    /// A constant, and what its axes are.
    weight: Id,
    roles: Vec<Role>,
    /// Extents of its free axes.
    free: Vec<Dim>,
    /// What the axes of the result are, in the labels of [`Labels`].
    result: Axes,
}

// Labels of the pass: axes of the activation from FRESH on, of the index, free axes of a weight,
// parts of the joint axis.
const JOINT: Label = 0;
const PART: Label = 1;
const CHOSEN: Label = 2;
const ROWS: Label = FRESH;
const OWN: Label = ROWS + FRESH;
const FREE: Label = OWN + FRESH;
const PARTS: Label = FREE + FRESH;

fn row(axis: usize) -> Label {
    ROWS + axis as Label
}

fn own(axis: usize) -> Label {
    OWN + axis as Label
}

fn free(axis: usize) -> Label {
    FREE + axis as Label
}

fn along(part: usize) -> Label {
    PARTS + part as Label
}

/// Adds merged projections for a chosen term. Returns how many there are.
pub fn merge_projections(egraph: &mut Egraph, chosen: &Choice) -> usize {
    let mut groups: BTreeMap<Key, Vec<Member>> = BTreeMap::new();
    let deciding = deciding(egraph, chosen);
    let mut classes: Vec<(&Id, &Term)> = chosen.nodes.iter().collect();
    classes.sort();
    for (_, term) in classes.into_iter().filter(|(class, _)| !deciding.contains(class)) {
        if let Some((key, member)) = projection(egraph, term, chosen) {
            groups.entry(key).or_default().push(member);
        }
    }
    groups.iter_mut().for_each(|(key, members)| on_block_edges(egraph, key, members));
    groups.retain(|_, members| members.len() > 1);
    groups.iter().for_each(|(key, members)| unite(egraph, key, members));
    egraph.rebuild();
    groups.len()
}

/// Keeps members whose joint weight keeps their encoding: blocks of scales end where a part ends,
/// but for the last part.
fn on_block_edges(egraph: &Egraph, key: &Key, members: &mut Vec<Member>) {
    let Some(scale) = key.encoding.scale else { return };
    let whole = |m: &Member| {
        let length = m.length().bound_value(&egraph.analysis.symbols);
        length.is_some_and(|l| l % i64::from(scale.rows) == 0)
    };
    let (mut aligned, rest): (Vec<Member>, Vec<Member>) = members.drain(..).partition(whole);
    aligned.extend(rest.into_iter().next());
    *members = aligned;
}

/// Products from which a choice is reached element by element: they are computed more precisely
/// than others.
fn deciding(egraph: &Egraph, chosen: &Choice) -> BTreeSet<Id> {
    let choices = chosen.nodes.values().filter(|term| term.op() == Some("topk"));
    let operands = |term: &Term| -> Vec<Id> {
        term.parts().map_or(vec![], |(_, ids)| ids.iter().map(|id| egraph.find(*id)).collect())
    };
    let mut reached: Vec<Id> = choices.flat_map(operands).collect();
    let mut seen: BTreeSet<Id> = reached.iter().copied().collect();
    let mut products = BTreeSet::new();
    while let Some(class) = reached.pop() {
        let Some(term) = chosen.nodes.get(&class) else { continue };
        if term.op() == Some("contract") {
            products.insert(class);
            continue;
        }
        reached.extend(operands(term).into_iter().filter(|id| seen.insert(*id)));
    }
    products
}

/// A product of an activation with a constant or with rows of one.
fn projection(egraph: &Egraph, term: &Term, chosen: &Choice) -> Option<(Key, Member)> {
    let Term::Apply("contract", ids) = term else { return None };
    let form = form_of(egraph, ids[0]);
    let weight_like = |k: usize| egraph[ids[1 + k]].data.weight_like;
    let w = match (weight_like(0), weight_like(1)) {
        (false, true) => 1,
        (true, false) => 0,
        _ => return None,
    };
    let activation = egraph.find(ids[2 - w]);
    // Rows of the context are computed where they are read: there is nothing to launch less.
    if egraph[activation].data.context.contains(&true) {
        return None;
    }
    let source = Source::of(egraph, ids[1 + w], &form.operands[w], chosen)?;
    let view = Projection::of(&form, &form.operands[1 - w], &source)?;
    let shape = &egraph[source.weight].data.shape;
    let of_role = |wanted: fn(&Role) -> bool| -> Vec<Dim> {
        let axes = view.roles.iter().zip(shape).filter(|(role, _)| wanted(role));
        axes.map(|(_, extent)| extent.clone()).collect()
    };
    let key = Key {
        activation,
        summed: view.summed(),
        chosen: source.index.map(|index| {
            let from = of_role(|r| *r == Role::Chosen).pop().unwrap_or_default();
            (index, source.index_axes.iter().map(|l| view.index_row(*l)).collect(), from)
        }),
        encoding: egraph[source.weight].data.encoding,
    };
    let result = form.result.iter().map(|l| view.name(*l)).collect();
    let (product, weight) = (term.clone(), source.weight);
    let free = of_role(|r| matches!(r, Role::Free(_)));
    Some((key, Member { product, weight, roles: view.roles, free, result }))
}

/// What a projection's labels are.
struct Projection<'a> {
    activation: &'a [Label],
    roles: Vec<Role>,
    /// Labels of the weight's free axes.
    free: Axes,
    /// Labels that the index alone has.
    own: Axes,
}

impl<'a> Projection<'a> {
    /// `None` where the product is more than a projection: a batch, a sum over the choices.
    fn of(form: &Form, activation: &'a [Label], source: &Source) -> Option<Projection<'a>> {
        let (mut roles, mut free) = (vec![], vec![]);
        for label in &source.axes {
            let at = activation.iter().position(|l| l == label);
            roles.push(match (*label == source.gathered, at, form.result.contains(label)) {
                (true, ..) => Role::Chosen,
                (false, Some(at), false) => Role::Summed(at),
                (false, None, true) => {
                    free.push(*label);
                    Role::Free(free.len() - 1)
                }
                _ => return None,
            });
        }
        let own = source.index_axes.iter().copied().filter(|l| !activation.contains(l));
        let own: Axes = own.collect();
        let each = own.iter().all(|l| form.result.contains(l));
        let sums = roles.iter().any(|r| matches!(r, Role::Summed(_)));
        (each && sums && !free.is_empty()).then_some(Projection { activation, roles, free, own })
    }

    fn summed(&self) -> Vec<usize> {
        let at = |r: &Role| if let Role::Summed(at) = r { Some(*at) } else { None };
        let mut summed: Vec<usize> = self.roles.iter().filter_map(at).collect();
        summed.sort_unstable();
        summed
    }

    fn index_row(&self, label: Label) -> Row {
        match self.activation.iter().position(|l| *l == label) {
            Some(at) => Row::Shared(at),
            None => Row::Own(position(&self.own, label)),
        }
    }

    /// A label of the result in the pass' own.
    fn name(&self, label: Label) -> Label {
        match self.activation.iter().position(|l| *l == label) {
            Some(at) => row(at),
            None if self.own.contains(&label) => own(position(&self.own, label)),
            None => free(position(&self.free, label)),
        }
    }
}

fn position(axes: &[Label], label: Label) -> usize {
    axes.iter().position(|l| *l == label).expect("a label of the result is an operand's")
}

/// A weight, or the constant that its rows are chosen from.
struct Source {
    weight: Id,
    axes: Axes,
    index: Option<Id>,
    index_axes: Axes,
    /// Label of the axis that rows are chosen along.
    gathered: Label,
}

impl Source {
    fn of(egraph: &Egraph, id: Id, axes: &[Label], chosen: &Choice) -> Option<Source> {
        let none = Label::MAX;
        if egraph[id].data.constant {
            let axes = axes.to_vec();
            return Some(Source {
                weight: id,
                axes,
                index: None,
                index_axes: vec![],
                gathered: none,
            });
        }
        let Term::Apply("gather", ids) = chosen.nodes.get(&egraph.find(id))? else { return None };
        let gather = form_of(egraph, ids[0]);
        let mut onto = super::law::Onto::new(&gather.result, axes);
        let source = Source {
            weight: ids[1],
            axes: onto.axes(&gather.operands[0]),
            index: Some(egraph.find(ids[2])),
            index_axes: onto.axes(&gather.operands[1]),
            gathered: onto.label(gather.label(0)),
        };
        egraph[ids[1]].data.constant.then_some(source)
    }
}

fn add(egraph: &mut Egraph, op: &'static str, form: Form, operands: &[Id]) -> Id {
    let form = egraph.add(Term::Form(form.canonical()));
    egraph.add_uncanonical(Term::Apply(op, [&[form], operands].concat().into()))
}

/// A weight with its free axes as one, [`PART`].
fn flat(egraph: &mut Egraph, member: &Member) -> (Id, Axes) {
    let single = member.free.len() == 1;
    let name = |role: &Role| match role {
        Role::Free(_) if single => PART,
        Role::Free(at) => free(*at),
        Role::Summed(at) => row(*at),
        Role::Chosen => CHOSEN,
    };
    let axes: Axes = member.roles.iter().map(name).collect();
    if single {
        return (member.weight, axes);
    }
    let parts: Axes = (0..member.free.len()).map(free).collect();
    let rest = axes.iter().copied().filter(|l| !parts.contains(l));
    let result: Axes = [PART].into_iter().chain(rest).collect();
    let attrs = [FormAttr::Labels(parts), FormAttr::Label(PART)];
    let form = Form::new(&[&axes], &result).with(attrs).extent(PART, member.length());
    (add(egraph, "merge", form, &[member.weight]), result)
}

impl Member {
    /// Extent of its part of the joint axis.
    fn length(&self) -> Dim {
        self.free.iter().fold(Dim::constant(1), |product, d| product.times(d))
    }
}

fn replaced(axes: &[Label], from: Label, to: Label) -> Axes {
    axes.iter().map(|l| if *l == from { to } else { *l }).collect()
}

/// All weights of a group as one constant, [`JOINT`] in place of each one's part.
fn joint_weight(egraph: &mut Egraph, members: &[Member]) -> (Id, Axes) {
    let (mut ids, mut operands) = (vec![], vec![]);
    let mut whole = vec![];
    for (i, member) in members.iter().enumerate() {
        let (id, axes) = flat(egraph, member);
        if i == 0 {
            whole = replaced(&axes, PART, JOINT);
        }
        operands.push(replaced(&axes, PART, along(i)));
        ids.push(id);
    }
    let total = members.iter().fold(Dim::constant(0), |sum, m| sum.plus(&m.length()));
    let axes: Vec<&[Label]> = operands.iter().map(|o| &o[..]).collect();
    let parts = FormAttr::Labels((0..members.len()).map(along).collect());
    let form = Form::new(&axes, &whole).with([parts, FormAttr::Label(JOINT)]);
    (add(egraph, "concat", form.extent(JOINT, total), &ids), whole)
}

fn unite(egraph: &mut Egraph, key: &Key, members: &[Member]) {
    let (mut weight, mut axes) = joint_weight(egraph, members);
    if let Some((index, rows, _)) = &key.chosen {
        let name = |r: &Row| match r {
            Row::Shared(at) => row(*at),
            Row::Own(at) => own(*at),
        };
        let index_axes: Axes = rows.iter().map(name).collect();
        let more = index_axes.iter().copied();
        let result: Axes = axes.iter().copied().filter(|l| *l != CHOSEN).chain(more).collect();
        let form = Form::gather(&axes, &index_axes, CHOSEN, &result);
        weight = add(egraph, "gather", form, &[weight, *index]);
        axes = result;
    }
    let rank = egraph[key.activation].data.shape.len();
    let x: Axes = (0..rank).map(row).collect();
    let summed = |l: &Label| key.summed.iter().any(|at| row(*at) == *l);
    let mut result: Axes = vec![];
    for label in x.iter().chain(&axes).filter(|l| !summed(l) && **l != JOINT) {
        if !result.contains(label) {
            result.push(*label);
        }
    }
    result.push(JOINT);
    let form = Form::new(&[&x, &axes], &result);
    let merged = add(egraph, "contract", form, &[key.activation, weight]);
    let mut start = Dim::constant(0);
    for member in members {
        let view = part_of(egraph, (merged, &result), &start, member);
        let new = egraph.id_to_node(view).clone();
        let left = egraph.add(member.product.clone());
        if egraph.union(left, view) {
            let step = Step { law: NAME, tag: Tag::Exact };
            egraph.analysis.log.record(&new, step, Some(member.product.clone()));
        }
        start = start.plus(&member.length());
    }
}

/// A member's part of the merged product, with its own axes in its own order.
fn part_of(egraph: &mut Egraph, (merged, axes): (Id, &[Label]), start: &Dim, m: &Member) -> Id {
    let single = m.free.len() == 1;
    let part =
        if single { replaced(&m.result, free(0), PART) } else { replaced(axes, JOINT, PART) };
    let start = FormAttr::Plain(Attr::Dim(start.clone()));
    let attrs = [FormAttr::Label(JOINT), FormAttr::Label(PART), start];
    let form = Form::new(&[axes], &part).with(attrs).extent(PART, m.length());
    let slice = add(egraph, "slice", form, &[merged]);
    if single {
        return slice;
    }
    let parts: Axes = (0..m.free.len()).map(free).collect();
    let attrs = [FormAttr::Label(PART), FormAttr::Labels(parts)];
    let form = Form::new(&[&part], &m.result).with(attrs);
    let extents = m.free.iter().enumerate();
    let form = extents.fold(form, |form, (i, extent)| form.extent(free(i), extent.clone()));
    add(egraph, "split", form, &[slice])
}
