//! Constant values of a block: what depends on weights alone, and what the packer makes it from.
//!
//! Views, concatenations and products of weights become boxes of stored elements; any other op
//! over constants is computed when packing.

use crate::lower::code::Viewed;
use crate::lower::error::LowerError;
use crate::lower::partition::op_name;
use crate::pack::constant::{Computed, Constant, Source};
use ir::attr::Attr;
use ir::dim::{Dim, Name};
use ir::dtype::{Class, DType};
use ir::expr::{Binary, Expr};
use ir::graph::builder::GraphBuilder;
use ir::graph::program::Weight;
use ir::graph::{Def, Graph, Node, NodeId, ParamKind, ValueId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Greatest extent of an axis that is looked into.
const EXTENT_MAX: i64 = 1 << 27;
/// Most elements of a constant that is computed: it is held in memory whole.
const COMPUTED_MAX: i64 = 1 << 31;

/// What a value is made from: parameters, and nodes in order. `None` where something in it is
/// neither a weight nor known when compiling.
struct Closure {
    weights: BTreeSet<ValueId>,
    nodes: BTreeSet<NodeId>,
}

fn closure(graph: &Graph, value: ValueId) -> Option<Closure> {
    let mut found = Closure { weights: BTreeSet::new(), nodes: BTreeSet::new() };
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        let fixed = |i: &Name| is_fixed(graph, &graph.extent(i));
        if !graph.ty(value).indices.iter().all(fixed) {
            return None;
        }
        match graph.value(value).def {
            Def::Param(_, ParamKind::Weight) => {
                found.weights.insert(value);
            }
            Def::Param(..) => return None,
            Def::Node(id, _) => {
                let node = graph.node(id);
                let is_told = |a: &Attr| !matches!(a, Attr::Dim(d) if !is_fixed(graph, d));
                if !node.attrs.0.iter().all(is_told) {
                    return None;
                }
                if found.nodes.insert(id) {
                    open.extend(&node.operands);
                }
            }
        }
    }
    Some(found)
}

fn is_fixed(graph: &Graph, dim: &Dim) -> bool {
    dim.bound_value(&graph.symbols).is_some()
}

/// Whether a value depends on weights, and on nothing else that is not known when compiling: a
/// kernel reads it as it reads a weight.
pub fn is_constant(graph: &Graph, value: ValueId) -> bool {
    closure(graph, value).is_some_and(|c| !c.weights.is_empty())
}

/// Weight parameters that a constant is made of.
pub fn weights(graph: &Graph, value: ValueId) -> BTreeSet<ValueId> {
    closure(graph, value).map_or_else(BTreeSet::new, |c| c.weights)
}

/// What a constant value is packed from, given the weights that a call binds to parameters.
///
/// Errors: E0261 where it cannot be packed.
pub fn resolve<'w>(
    graph: &Graph,
    value: ValueId,
    bound: &dyn Fn(ValueId) -> Option<&'w Weight>,
) -> Result<Constant, LowerError> {
    let refuse = |found: String, expected: &str| LowerError::Form {
        graph: graph.name.clone(),
        node: match graph.value(value).def {
            Def::Node(id, _) => op_name(graph.node(id)),
            Def::Param(..) => "weight",
        },
        found,
        expected: expected.to_string(),
    };
    let name = || format!("%{}", graph.value(value).name);
    let closure = closure(graph, value).ok_or_else(|| refuse(name(), "a constant"))?;
    let mut made: HashMap<ValueId, Constant> = HashMap::new();
    let resolver = Resolver { graph, bound };
    for param in &closure.weights {
        let weight = bound(*param).ok_or_else(|| refuse(name(), "a bound weight"))?;
        made.insert(*param, Constant::weight(weight));
    }
    let is_real = |v: &ValueId| graph.ty(*v).class() == Class::Float;
    for id in &closure.nodes {
        let node = graph.node(*id);
        let view = resolver.view(node, &made);
        for result in node.results.iter().filter(|v| is_real(v)) {
            // What cannot be computed by itself may be a part of what can.
            let constant = view.clone().or_else(|| resolver.computed(*result).ok());
            made.extend(constant.map(|c| (*result, c)));
        }
    }
    let found = made.remove(&value).map_or_else(|| resolver.computed(value), Ok);
    let found = found.map_err(|found| refuse(found, "one that memory holds"))?;
    let ty = graph.ty(value);
    if !is_real(&value) || found.dims.iter().any(|d| *d > EXTENT_MAX) {
        return Err(refuse(ty.to_string(), "a constant of real numbers"));
    }
    Ok(found)
}

/// A constant with names for its axes.
#[derive(Clone, Debug, PartialEq)]
struct Named {
    constant: Constant,
    indices: Vec<Name>,
}

impl Named {
    fn position(&self, index: &str) -> Option<usize> {
        self.indices.iter().position(|i| &**i == index)
    }

    /// As a node that moves elements shows it; `None` for any other node.
    fn through(&self, graph: &Graph, node: &Node) -> Option<Named> {
        let extent = |i: &Name| extent(graph, i);
        let (constant, mut indices) = (&self.constant, self.indices.clone());
        let constant = match (op_name(node), &node.attrs.0[..]) {
            ("slice", [Attr::Name(index), Attr::Name(into), Attr::Dim(start)]) => {
                let (at, start) = (self.position(index)?, start.bound_value(&graph.symbols)?);
                indices[at] = into.clone();
                constant.slice(at, start, extent(into)?)?
            }
            ("split", [Attr::Name(index), Attr::Names(into)]) => {
                let at = self.position(index)?;
                let inner: Option<Vec<i64>> = into.iter().map(extent).collect();
                indices.splice(at..=at, into.iter().cloned());
                let inner = inner?;
                (1..inner.len()).try_fold(constant.clone(), |split, i| {
                    split.split(at + i - 1, inner[i..].iter().product())
                })?
            }
            ("merge", [Attr::Names(merged), Attr::Name(into)]) => {
                let first = merged.first()?;
                indices.retain(|i| i == first || !merged.contains(i));
                let at = indices.iter().position(|i| i == first)?;
                let mut order = indices.clone();
                order.splice(at..=at, merged.iter().cloned());
                let order: Option<Vec<usize>> = order.iter().map(|i| self.position(i)).collect();
                indices[at] = into.clone();
                let joint = constant.permuted(&order?)?;
                (1..merged.len()).try_fold(joint, |joint, _| joint.merge(at))?
            }
            ("rename", [Attr::Names(from), Attr::Names(to)]) => {
                for index in &mut indices {
                    let at = from.iter().position(|f| f == index);
                    *index = at.map_or(index.clone(), |at| to[at].clone());
                }
                constant.clone()
            }
            ("cast", _) if keeps_numbers(graph, node) => constant.clone(),
            _ => return None,
        };
        Some(Named { constant, indices })
    }
}

/// What a constant is packed from, as batch, rows and columns, given the weights that a call binds
/// to parameters.
///
/// Errors: E0261 where it cannot be packed.
pub fn grouped<'w>(
    graph: &Graph,
    of: &Viewed,
    axes: &[Vec<Name>; 3],
    bound: &dyn Fn(ValueId) -> Option<&'w Weight>,
) -> Result<Constant, LowerError> {
    let constant = resolve(graph, of.value, bound)?;
    let indices = graph.ty(of.value).indices.clone();
    let seen = of
        .through
        .iter()
        .try_fold(Named { constant, indices }, |named, id| named.through(graph, graph.node(*id)));
    let grouped = seen.and_then(|named| {
        let positions = |group: &Vec<Name>| group.iter().map(|i| named.position(i)).collect();
        let [batch, rows, cols]: [Option<Vec<usize>>; 3] = axes.each_ref().map(positions);
        let (batch, rows, cols) = (batch?, rows?, cols?);
        let all = batch.len() + rows.len() + cols.len() == named.indices.len();
        if all { named.constant.grouped([&batch, &rows, &cols]) } else { None }
    });
    grouped.ok_or_else(|| LowerError::Form {
        graph: graph.name.clone(),
        node: "weight",
        found: format!("%{} of too many parts", graph.value(of.value).name),
        expected: format!("few that make up {axes:?}"),
    })
}

fn extent(graph: &Graph, index: &str) -> Option<i64> {
    let extent = graph.extent(index).bound_value(&graph.symbols)?;
    (extent <= EXTENT_MAX).then_some(extent)
}

/// Whether a cast keeps every number: to f32, or to what the numbers have been before.
fn keeps_numbers(graph: &Graph, cast: &Node) -> bool {
    let to = graph.ty(cast.results[0]).dtype();
    if to == DType::F32 {
        return graph.ty(cast.operands[0]).class() == Class::Float;
    }
    let mut open = vec![cast.operands[0]];
    let mut seen = BTreeSet::new();
    while let Some(value) = open.pop() {
        if graph.ty(value).dtype() == to || !seen.insert(value) {
            continue;
        }
        let Def::Node(id, _) = graph.value(value).def else { return false };
        let node = graph.node(id);
        let moves = match (op_name(node), &node.attrs.0[..]) {
            ("slice" | "split" | "merge" | "rename" | "concat" | "cast", _) => true,
            ("map", [Attr::Expr(expr)]) => *expr == Expr::Arg(0),
            _ => false,
        };
        if !moves {
            return false;
        }
        open.extend(&node.operands);
    }
    true
}

/// Turns nodes over constants into constants.
struct Resolver<'g, 'b, 'w> {
    graph: &'g Graph,
    bound: &'b dyn Fn(ValueId) -> Option<&'w Weight>,
}

impl Resolver<'_, '_, '_> {
    fn extents(&self, indices: &[Name]) -> Option<Vec<i64>> {
        indices.iter().map(|i| extent(self.graph, i)).collect()
    }

    /// A node that moves elements or multiplies them; `None` for any other.
    fn view(&self, node: &Node, made: &HashMap<ValueId, Constant>) -> Option<Constant> {
        let result = self.graph.ty(*node.results.first()?);
        let operand = |v: &ValueId| {
            let (constant, ty) = (made.get(v)?.clone(), self.graph.ty(*v));
            Some(Named { constant, indices: ty.indices.clone() })
        };
        match (op_name(node), &node.attrs.0[..]) {
            ("concat", [Attr::Names(along), _]) => {
                let parts: Option<Vec<Named>> = node.operands.iter().map(operand).collect();
                let parts = parts?;
                let at = parts.first()?.position(along.first()?)?;
                let parts: Vec<Constant> = parts.into_iter().map(|p| p.constant).collect();
                Constant::concat(&parts, at)
            }
            ("const", [Attr::Floats(values)]) if result.class() == Class::Float => {
                let dims = self.extents(&result.indices)?;
                Some(match values[..] {
                    [value] => Constant::splat(value, &dims),
                    _ => Constant::numbers(values, &dims),
                })
            }
            ("contract", _) => {
                let factors: Vec<Expr> = (0..node.operands.len()).map(Expr::Arg).collect();
                self.product(node, &factors, made)
            }
            ("map", [Attr::Expr(expr)]) if result.class() == Class::Float => {
                let mut factors = vec![];
                product_of(expr, &mut factors).then_some(())?;
                self.product(node, &factors, made)
            }
            _ => Some(operand(node.operands.first()?)?.through(self.graph, node)?.constant),
        }
    }

    /// Operands and numbers multiplied, each repeated along the result's indices that it lacks.
    fn product(
        &self,
        node: &Node,
        factors: &[Expr],
        made: &HashMap<ValueId, Constant>,
    ) -> Option<Constant> {
        let indices = &self.graph.ty(node.results[0]).indices;
        let dims = self.extents(indices)?;
        let mut product: Option<Constant> = None;
        for factor in factors {
            let factor = match factor {
                Expr::Arg(i) => {
                    let value = *node.operands.get(*i)?;
                    self.aligned(made.get(&value)?, &self.graph.ty(value).indices, indices)?
                }
                Expr::Num(value) => Constant::splat(*value, &dims),
                _ => return None,
            };
            product = Some(match product {
                Some(so_far) => so_far.times(&factor)?,
                None => factor,
            });
        }
        product
    }

    /// A constant over other indices: of extent 1 where one is missing there.
    fn aligned(&self, constant: &Constant, own: &[Name], indices: &[Name]) -> Option<Constant> {
        let (mut aligned, mut own) = (constant.clone(), own.to_vec());
        while let Some(at) = own.iter().position(|i| !indices.contains(i)) {
            if aligned.dims[at] != 1 {
                return None;
            }
            aligned = aligned.without(at)?;
            own.remove(at);
        }
        let present = indices.iter().filter(|i| own.contains(i));
        let order: Vec<usize> = present.filter_map(|i| own.iter().position(|o| o == i)).collect();
        aligned = aligned.permuted(&order)?;
        for (at, index) in indices.iter().enumerate() {
            if !own.contains(index) {
                aligned = aligned.repeated(at, extent(self.graph, index)?)?;
            }
        }
        Some(aligned)
    }

    /// A value as the graph of it alone.
    ///
    /// Errors: what is wrong with it.
    fn computed(&self, value: ValueId) -> Result<Constant, String> {
        let ty = self.graph.ty(value);
        let size = |d: &Vec<i64>| d.iter().try_fold(1i64, |n, d| n.checked_mul(*d));
        let held = |v: &ValueId| {
            let ty = self.graph.ty(*v);
            let dims =
                self.extents(&ty.indices).filter(|d| size(d).is_some_and(|n| n <= COMPUTED_MAX));
            dims.ok_or_else(|| format!("a computed constant {ty}"))
        };
        let dims = held(&value)?;
        let closure = closure(self.graph, value).ok_or_else(|| format!("{ty}"))?;
        let mut builder = GraphBuilder::like("constant", self.graph);
        let mut copies: HashMap<ValueId, ValueId> = HashMap::new();
        let mut weights = vec![];
        for param in &closure.weights {
            let name = format!("w{}", weights.len());
            let weight = (self.bound)(*param).ok_or_else(|| format!("unbound {ty}"))?;
            weights.push(weight.name.clone());
            let ty = self.graph.ty(*param).clone();
            copies.insert(*param, builder.param(&name, ParamKind::Weight, ty));
        }
        for id in &closure.nodes {
            let node = self.graph.node(*id);
            let mut operands: Vec<ValueId> = node.operands.iter().map(|v| copies[v]).collect();
            let mask = if node.masked { operands.pop() } else { None };
            let types = self.graph.types(&node.results);
            let attrs = node.attrs.clone();
            let results = builder.node(node.op, &operands, mask, attrs, Some(&types));
            let results = results.map_err(|e| e.to_string())?;
            copies.extend(node.results.iter().copied().zip(results));
        }
        builder.output(copies[&value]);
        let graph = builder.finish().map_err(|errors| {
            errors.first().map_or_else(|| format!("{ty}"), ToString::to_string)
        })?;
        let params: Vec<Vec<i64>> =
            closure.weights.iter().map(&held).collect::<Result<_, String>>()?;
        for id in &closure.nodes {
            self.graph.node(*id).results.iter().try_for_each(|v| held(v).map(|_| ()))?;
        }
        let sizes = params.iter().chain([&dims]).filter_map(size);
        let bytes = sizes.fold(0u64, |sum, n| sum.saturating_add(4 * n as u64));
        let computed = Computed { graph, weights, bytes };
        Ok(Constant::dense(Source::Computed(Arc::new(computed)), &dims))
    }
}

/// Takes an expression apart into operands and numbers that it multiplies; false for any other.
fn product_of(expr: &Expr, factors: &mut Vec<Expr>) -> bool {
    match expr {
        Expr::Arg(_) | Expr::Num(_) => {
            factors.push(expr.clone());
            true
        }
        Expr::Binary(Binary::Mul, a, b) => product_of(a, factors) && product_of(b, factors),
        _ => false,
    }
}
