//! Constants made of stored tensors: which numbers each element is a product of.
//!
//! A constant is a tensor cut into boxes. Within a box every element is the product of elements of
//! the same few sources, and where one of these lies is a sum of one distance for each axis. All
//! views of weights have this form, and so have concatenations of them and products of them with
//! what is repeated along some axes. It is canonical as far as weights, their order and
//! neighbouring boxes go, so that equal constants are packed once.

use artifact::pack::table::Table;
use ir::dim::Name;
use ir::graph::Graph;
use ir::graph::program::{Program, Weight};
use std::sync::Arc;

/// Boxes that no constant has more of.
const PARTS_MAX: usize = 1024;

/// A tensor made of stored numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Extents.
    pub dims: Vec<i64>,
    /// Boxes that cover it, none empty, none touched by another.
    pub parts: Vec<Part>,
}

/// A box of a constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its first position.
    pub start: Vec<i64>,
    /// Its extents.
    pub dims: Vec<i64>,
    /// What its elements are the product of; in this order, rounded to f32 after each.
    pub factors: Vec<View>,
}

/// Elements of a source, one for each position of a box.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Of what.
    pub source: Source,
    /// Where the element of the first position lies.
    pub base: i64,
    /// Distances from there along each axis, to be added up.
    pub along: Vec<Table>,
}

/// Numbers in a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A weight of the program: the elements of its stored tensors, one tensor after the other.
    Weight(Name),
    /// Numbers known when compiling, as f32.
    Numbers(Arc<[f64]>),
    /// What a graph makes of weights.
    Computed(Arc<Computed>),
}

/// A constant that no view is.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// One result; its parameters are weights.
    pub graph: Graph,
    /// What they are bound to, in order.
    pub weights: Vec<Name>,
    /// Bytes of memory that computing takes, at least: of weights and result.
    pub bytes: u64,
}

impl View {
    /// The elements of some positions along an axis.
    fn cut(&self, axis: usize, from: i64, len: i64) -> View {
        let mut cut = self.clone();
        if len == self.along[axis].len() {
            return cut;
        }
        let (first, table) = Table::of(self.along[axis].within(from, len));
        cut.base += first;
        cut.along[axis] = table;
        cut
    }
}

impl Part {
    fn end(&self, axis: usize) -> i64 {
        self.start[axis] + self.dims[axis]
    }

    /// What lies in a range of an axis; `None` where nothing does.
    fn cut(&self, axis: usize, from: i64, to: i64) -> Option<Part> {
        let (from, to) = (from.max(self.start[axis]), to.min(self.end(axis)));
        if from >= to {
            return None;
        }
        let mut part = self.clone();
        (part.start[axis], part.dims[axis]) = (from, to - from);
        let first = from - self.start[axis];
        part.factors = self.factors.iter().map(|f| f.cut(axis, first, to - from)).collect();
        Some(part)
    }

    /// This box and the next along an axis as one, where it is one of the same sources.
    fn joined(&self, next: &Part, axis: usize) -> Option<Part> {
        let beside = |a: usize| self.start[a] == next.start[a] && self.dims[a] == next.dims[a];
        let others = (0..self.dims.len()).filter(|a| *a != axis);
        if self.end(axis) != next.start[axis]
            || self.factors.len() != next.factors.len()
            || !others.clone().all(beside)
        {
            return None;
        }
        let mut joined = self.clone();
        joined.dims[axis] += next.dims[axis];
        for (factor, more) in joined.factors.iter_mut().zip(&next.factors) {
            let same = |a: usize| factor.along[a] == more.along[a];
            if factor.source != more.source || !others.clone().all(same) {
                return None;
            }
            let further = more.along[axis].places().map(|p| p + more.base - factor.base);
            factor.along[axis] = Table::of(factor.along[axis].places().chain(further)).1;
        }
        Some(joined)
    }
}

/// Boxes in order, neighbours joined; `None` for too many of them.
fn tidy(mut parts: Vec<Part>, rank: usize) -> Option<Vec<Part>> {
    parts.retain(|p| !p.dims.contains(&0));
    loop {
        let before = parts.len();
        for axis in (0..rank).rev() {
            parts.sort_by_key(|p| {
                let mut start = p.start.clone();
                let at = start.remove(axis);
                start.push(at);
                start
            });
            let mut kept: Vec<Part> = vec![];
            for part in parts {
                match kept.last().and_then(|last| last.joined(&part, axis)) {
                    Some(joined) => *kept.last_mut().expect("it was joined with") = joined,
                    None => kept.push(part),
                }
            }
            parts = kept;
        }
        if parts.len() == before {
            parts.sort_by(|a, b| a.start.cmp(&b.start));
            return (before <= PARTS_MAX).then_some(parts);
        }
    }
}

impl Constant {
    fn one(dims: &[i64], factor: View) -> Constant {
        let part = Part { start: vec![0; dims.len()], dims: dims.to_vec(), factors: vec![factor] };
        let parts = if dims.contains(&0) { vec![] } else { vec![part] };
        Constant { dims: dims.to_vec(), parts }
    }

    /// A weight as the program sees it.
    pub fn weight(weight: &Weight) -> Constant {
        let source = &weight.source;
        let stored = source.stored_dims.iter().fold(1i64, |n, d| n.saturating_mul(*d));
        let stacked = source.stacked.then_some(stored);
        let steps = stacked.into_iter().chain(source.view.strides.iter().copied());
        let along = steps.zip(&weight.dims).map(|(step, dim)| Table::steps(step, *dim)).collect();
        let (base, of) = (source.view.offset, Source::Weight(weight.name.clone()));
        Constant::one(&weight.dims, View { source: of, base, along })
    }

    /// Elements in row-major order.
    pub fn dense(source: Source, dims: &[i64]) -> Constant {
        let mut along = vec![];
        let mut step = 1i64;
        for dim in dims.iter().rev() {
            along.insert(0, Table::steps(step, *dim));
            step = step.saturating_mul(*dim);
        }
        Constant::one(dims, View { source, base: 0, along })
    }

    /// Numbers in row-major order.
    pub fn numbers(values: &[f64], dims: &[i64]) -> Constant {
        Constant::dense(Source::Numbers(values.into()), dims)
    }

    /// One number everywhere.
    pub fn splat(value: f64, dims: &[i64]) -> Constant {
        let along = dims.iter().map(|d| Table::steps(0, *d)).collect();
        let source = Source::Numbers([value].into());
        Constant::one(dims, View { source, base: 0, along })
    }

    fn made(dims: Vec<i64>, parts: Vec<Part>) -> Option<Constant> {
        let parts = tidy(parts, dims.len())?;
        Some(Constant { dims, parts })
    }

    /// A range of an axis; `None` as for all of these where it would have too many boxes.
    pub fn slice(&self, axis: usize, start: i64, len: i64) -> Option<Constant> {
        let mut dims = self.dims.clone();
        dims[axis] = len;
        let cut = |part: &Part| {
            let mut part = part.cut(axis, start, start + len)?;
            part.start[axis] -= start;
            Some(part)
        };
        Constant::made(dims, self.parts.iter().filter_map(cut).collect())
    }

    /// An axis as two, the second of extent `inner`.
    pub fn split(&self, axis: usize, inner: i64) -> Option<Constant> {
        let mut dims = self.dims.clone();
        dims.splice(axis..=axis, [self.dims[axis] / inner.max(1), inner]);
        let mut parts = vec![];
        for part in &self.parts {
            if let Some(whole) = part.evenly(axis, inner) {
                parts.push(whole);
                continue;
            }
            let first = part.start[axis] / inner;
            for outer in first..(part.end(axis) - 1) / inner + 1 {
                let row = part.cut(axis, outer * inner, (outer + 1) * inner)?;
                parts.push(row.under(axis, outer, inner));
                // What comes of it may be few boxes all the same.
                if parts.len() >= 2 * PARTS_MAX {
                    parts = tidy(parts, dims.len())?;
                }
            }
        }
        Constant::made(dims, parts)
    }

    /// Two neighbouring axes as one.
    pub fn merge(&self, axis: usize) -> Option<Constant> {
        let inner = self.dims[axis + 1];
        let mut dims = self.dims.clone();
        dims.splice(axis..=axis + 1, [self.dims[axis].checked_mul(inner)?]);
        let mut parts = vec![];
        for part in &self.parts {
            if part.dims[axis + 1] == inner {
                parts.push(part.flat(axis, inner));
                continue;
            }
            if part.dims[axis] > PARTS_MAX as i64 {
                return None;
            }
            let rows = part.start[axis]..part.end(axis);
            let row = |outer| Some(part.cut(axis, outer, outer + 1)?.flat(axis, inner));
            parts.extend(rows.filter_map(row));
        }
        Constant::made(dims, parts)
    }

    /// Axes in another order.
    pub fn permuted(&self, order: &[usize]) -> Option<Constant> {
        fn pick<T: Clone>(from: &[T], order: &[usize]) -> Vec<T> {
            order.iter().map(|a| from[*a].clone()).collect()
        }
        let permute = |part: &Part| {
            let mut part = part.clone();
            part.start = pick(&part.start, order);
            part.dims = pick(&part.dims, order);
            for factor in &mut part.factors {
                factor.along = pick(&factor.along, order);
            }
            part
        };
        let parts = self.parts.iter().map(permute).collect();
        Constant::made(pick(&self.dims, order), parts)
    }

    /// Repeated along a new axis.
    pub fn repeated(&self, axis: usize, extent: i64) -> Option<Constant> {
        let repeat = |part: &Part| {
            let mut part = part.clone();
            part.start.insert(axis, 0);
            part.dims.insert(axis, extent);
            part.factors.iter_mut().for_each(|f| f.along.insert(axis, Table::steps(0, extent)));
            part
        };
        let mut dims = self.dims.clone();
        dims.insert(axis, extent);
        Constant::made(dims, self.parts.iter().map(repeat).collect())
    }

    /// Without an axis of extent 1.
    pub fn without(&self, axis: usize) -> Option<Constant> {
        let squeeze = |part: &Part| {
            let mut part = part.clone();
            part.start.remove(axis);
            part.dims.remove(axis);
            for factor in &mut part.factors {
                factor.along.remove(axis);
            }
            part
        };
        let mut dims = self.dims.clone();
        dims.remove(axis);
        Constant::made(dims, self.parts.iter().map(squeeze).collect())
    }

    /// One after the other along an axis; all other extents are equal.
    pub fn concat(of: &[Constant], axis: usize) -> Option<Constant> {
        let mut dims = of.first()?.dims.clone();
        dims[axis] = 0;
        let mut parts = vec![];
        for constant in of {
            parts.extend(constant.parts.iter().cloned().map(|mut part| {
                part.start[axis] += dims[axis];
                part
            }));
            dims[axis] = dims[axis].checked_add(constant.dims[axis])?;
        }
        Constant::made(dims, parts)
    }

    /// Element by element with one of equal extents.
    pub fn times(&self, other: &Constant) -> Option<Constant> {
        let mut parts = vec![];
        for (a, b) in self.parts.iter().flat_map(|a| other.parts.iter().map(move |b| (a, b))) {
            let common = |of: &Part, with: &Part| {
                let axes = 0..with.dims.len();
                axes.into_iter()
                    .try_fold(of.clone(), |of, axis| of.cut(axis, with.start[axis], with.end(axis)))
            };
            let (Some(mut part), Some(more)) = (common(a, b), common(b, a)) else { continue };
            part.factors.extend(more.factors);
            parts.push(part);
            if parts.len() > PARTS_MAX {
                return None;
            }
        }
        Constant::made(self.dims.clone(), parts)
    }

    /// As `[batch, rows, columns]`, each the product of some axes.
    pub fn grouped(&self, axes: [&[usize]; 3]) -> Option<Constant> {
        let mut grouped = self.permuted(&axes.concat())?;
        for (at, group) in axes.iter().enumerate() {
            if group.is_empty() {
                grouped = grouped.repeated(at, 1)?;
            }
            for _ in 1..group.len() {
                grouped = grouped.merge(at)?;
            }
        }
        Some(grouped)
    }

    /// Every weight that it is made of, in order of appearance.
    pub fn weights(&self) -> Vec<&Name> {
        let mut found: Vec<&Name> = vec![];
        for factor in self.parts.iter().flat_map(|p| &p.factors) {
            let of = match &factor.source {
                Source::Weight(name) => std::slice::from_ref(name),
                Source::Numbers(_) => &[],
                Source::Computed(computed) => &computed.weights,
            };
            for name in of {
                if !found.contains(&name) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// Bytes of memory held while it is packed, beside batches of panels.
    pub fn held_bytes(&self) -> u64 {
        let mut known: Vec<&Source> = vec![];
        let mut bytes = 0u64;
        for factor in self.parts.iter().flat_map(|p| &p.factors) {
            if let Source::Computed(computed) = &factor.source
                && !known.contains(&&factor.source)
            {
                known.push(&factor.source);
                bytes = bytes.saturating_add(computed.bytes);
            }
        }
        bytes
    }

    /// Name for reports: weights of concatenations with `+`, of products with `*`.
    pub fn name(&self) -> String {
        let mut terms: Vec<String> = vec![];
        for part in &self.parts {
            let names: Vec<String> = part.factors.iter().map(|f| f.source.name()).collect();
            let term = names.join("*");
            if !terms.contains(&term) {
                terms.push(term);
            }
        }
        terms.join("+")
    }

    /// The one weight of every box, where elements are elements of weights.
    pub fn views<'p>(&self, program: &'p Program) -> Option<Vec<(&Part, &'p Weight)>> {
        let view = |part: &Part| match &part.factors[..] {
            [View { source: Source::Weight(name), .. }] => program.weight(name),
            _ => None,
        };
        self.parts.iter().map(|part| Some((part, view(part)?))).collect()
    }
}

impl Part {
    /// An axis as two, where the box has whole rows of the second and even steps.
    fn evenly(&self, axis: usize, inner: i64) -> Option<Part> {
        let even = |f: &View| f.along[axis].step().is_some();
        let whole = self.start[axis] % inner == 0 && self.dims[axis] % inner == 0;
        if !whole || !self.factors.iter().all(even) {
            return None;
        }
        let mut part = self.clone();
        let rows = self.dims[axis] / inner;
        part.start.splice(axis..=axis, [self.start[axis] / inner, 0]);
        part.dims.splice(axis..=axis, [rows, inner]);
        for factor in &mut part.factors {
            let step = factor.along[axis].step()?;
            let tables = [Table::steps(step * inner, rows), Table::steps(step, inner)];
            factor.along.splice(axis..=axis, tables);
        }
        Some(part)
    }

    /// A row of a split axis: the box's range of it as one of the second axis.
    fn under(mut self, axis: usize, outer: i64, inner: i64) -> Part {
        self.start[axis] -= outer * inner;
        self.start.insert(axis, outer);
        self.dims.insert(axis, 1);
        self.factors.iter_mut().for_each(|f| f.along.insert(axis, Table::steps(0, 1)));
        self
    }

    /// Two axes as one; the box has all of the second, or one position of the first.
    fn flat(&self, axis: usize, inner: i64) -> Part {
        let mut part = self.clone();
        let (start, dim) = (part.start.remove(axis + 1), part.dims.remove(axis + 1));
        part.start[axis] = part.start[axis] * inner + start;
        part.dims[axis] *= dim;
        for factor in &mut part.factors {
            let second = factor.along.remove(axis + 1);
            let first = &factor.along[axis];
            let places = first.places().flat_map(|a| second.places().map(move |b| a + b));
            factor.along[axis] = Table::of(places).1;
        }
        part
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::Weight(name) => name.to_string(),
            Source::Numbers(_) => "const".to_string(),
            Source::Computed(computed) => format!("f({})", computed.weights.join(", ")),
        }
    }
}
