//! Grouped experts among primitives: rows times weights that an index of each row chooses, what is
//! computed of such products element by element, a product with weights of the same choice behind
//! it, and the sum over the choices.
//!
//! What is between two products and no function of single elements is left to row kernels: then
//! each product is a group of its own.

use crate::lower::claims::elementwise::{Leaves, compose};
use crate::lower::claims::{Claim, Form as ClaimForm};
use crate::lower::code::Viewed;
use crate::lower::constant::is_constant;
use crate::lower::partition::{GroupKind, op_name, row_index};
use ir::attr::Attr;
use ir::dim::Name;
use ir::dtype::Class;
use ir::expr::Expr;
use ir::graph::{Def, Graph, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// A weight that the index chooses from.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The constant.
    pub of: Viewed,
    /// Its index that is chosen from.
    pub experts: Name,
}

/// An operand of what is computed element by element.
#[derive(Clone, Debug, PartialEq)]
pub enum Leaf {
    /// The product with a table.
    Branch(Table),
    /// A value that rows have for each choice.
    Choice(ValueId),
    /// A value that rows have once.
    Row(ValueId),
}

/// How results of choices become the group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// Each by itself.
    Keep,
    /// Added up.
    Sum,
    /// Added up, times a number of each choice.
    Weighted(ValueId),
}

/// A group: `combine_k(down_i(f(x · tables_i, ..)))`, `i` the index of row and choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// Which expert each choice of each row is.
    pub index: ValueId,
    /// Indices of the choices of a row.
    pub chosen: Vec<Name>,
    /// What enters the first products.
    pub x: ValueId,
    /// Whether it differs by choice.
    pub by_choice: bool,
    /// Indices that these sum over.
    pub width: Vec<Name>,
    /// Their other indices.
    pub hidden: Vec<Name>,
    /// What is computed of them and of other operands.
    pub leaves: Vec<Leaf>,
    /// How.
    pub expr: Expr,
    /// The product behind, over the hidden indices, and its own indices.
    pub down: Option<(Table, Vec<Name>)>,
    /// What becomes of it.
    pub combine: Combine,
    /// The result.
    pub result: ValueId,
}

impl Form {
    /// Tables of the first products, in order.
    pub fn branches(&self) -> impl Iterator<Item = &Table> {
        self.leaves.iter().filter_map(|l| if let Leaf::Branch(t) = l { Some(t) } else { None })
    }

    /// Indices of a choice's result.
    pub fn out(&self) -> &[Name] {
        self.down.as_ref().map_or(&self.hidden, |(_, out)| out)
    }
}

/// Every group of experts of a graph.
pub fn find(graph: &Graph) -> Vec<Claim> {
    let finder = Finder::new(graph);
    let mut claims: Vec<Claim> = vec![];
    let mut taken: BTreeSet<NodeId> = BTreeSet::new();
    for product in finder.products.values() {
        if let Some(claim) = finder.whole(product) {
            taken.extend(&claim.nodes);
            claims.push(claim);
        }
    }
    let alone = finder.products.values().filter(|p| !taken.contains(&p.node));
    claims.extend(alone.map(|p| finder.alone(p)));
    claims
}

fn numbered(graph: &Graph) -> impl Iterator<Item = (NodeId, &Node)> {
    graph.nodes.iter().enumerate().map(|(i, node)| (NodeId(i as u32), node))
}

/// A product of rows with a gathered weight.
#[derive(Clone, Debug)]
struct Product {
    node: NodeId,
    table: Table,
    /// The gather, and views between it and the product.
    nodes: BTreeSet<NodeId>,
    index: ValueId,
    /// The activation, and which operand it is.
    x: (ValueId, usize),
    by_choice: bool,
    chosen: Vec<Name>,
    /// Whether choices are still apart in the result.
    keeps: bool,
    summed: Vec<Name>,
    free: Vec<Name>,
}

struct Finder<'g> {
    graph: &'g Graph,
    products: BTreeMap<NodeId, Product>,
    /// Nodes that read each value.
    readers: BTreeMap<ValueId, Vec<NodeId>>,
}

impl<'g> Finder<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut readers: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
        for (id, node) in numbered(graph) {
            for value in &node.operands {
                readers.entry(*value).or_default().push(id);
            }
        }
        let mut finder = Finder { graph, products: BTreeMap::new(), readers };
        let found = numbered(graph).filter_map(|(id, n)| Some((id, finder.product(id, n)?)));
        finder.products = found.collect();
        finder
    }

    fn own(&self, value: ValueId) -> Vec<Name> {
        let rows = row_index(self.graph, value);
        self.graph.ty(value).indices.iter().filter(|i| Some(*i) != rows).cloned().collect()
    }

    fn made_by(&self, value: ValueId) -> Option<(NodeId, &'g Node)> {
        match self.graph.value(value).def {
            Def::Node(id, _) => Some((id, self.graph.node(id))),
            Def::Param(..) => None,
        }
    }

    fn product(&self, id: NodeId, node: &Node) -> Option<Product> {
        if op_name(node) != "contract" || node.operands.len() != 2 {
            return None;
        }
        let tables: Vec<_> = node.operands.iter().map(|v| self.gathered(*v)).collect();
        let (at, (table, index, nodes)) = match <[_; 2]>::try_from(tables).ok()? {
            [None, Some(found)] => (0, found),
            [Some(found), None] => (1, found),
            _ => return None,
        };
        let (x, result) = (node.operands[at], node.results[0]);
        let rows = row_index(self.graph, result)?;
        if row_index(self.graph, x) != Some(rows) || row_index(self.graph, index) != Some(rows) {
            return None;
        }
        let (chosen, own, kept) = (self.own(index), self.own(x), self.own(result));
        let all = |of: &[Name]| chosen.iter().all(|i| of.contains(i));
        let none = |of: &[Name]| !chosen.iter().any(|i| of.contains(i));
        let (by_choice, keeps) = (all(&own) && !chosen.is_empty(), all(&kept));
        let weight: Vec<Name> =
            self.own(node.operands[1 - at]).into_iter().filter(|i| !chosen.contains(i)).collect();
        let (free, summed): (Vec<Name>, Vec<Name>) =
            weight.into_iter().partition(|i| kept.contains(i));
        let in_x = own.iter().filter(|i| !chosen.contains(i)).cloned().collect::<BTreeSet<_>>();
        let sums = summed.iter().cloned().collect::<BTreeSet<_>>() == in_x && !summed.is_empty();
        let whole = (by_choice || none(&own)) && (keeps || none(&kept));
        let summed = own.into_iter().filter(|i| summed.contains(i)).collect();
        let x = (x, at);
        (sums && whole).then_some(())?;
        let node = id;
        Some(Product { node, table, nodes, index, x, by_choice, chosen, keeps, summed, free })
    }

    /// A constant gathered by an index of rows, perhaps viewed: the table, the index, and nodes.
    fn gathered(&self, value: ValueId) -> Option<(Table, ValueId, BTreeSet<NodeId>)> {
        let (mut views, mut at) = (vec![], value);
        loop {
            let (id, node) = self.made_by(at)?;
            match (op_name(node), &node.attrs.0[..]) {
                ("gather", [Attr::Name(experts)]) if !node.masked => {
                    let [table, index] = node.operands[..] else { return None };
                    let chooses = row_index(self.graph, index).is_some();
                    if !chooses || !is_constant(self.graph, table) {
                        return None;
                    }
                    // Views must leave rows and choices alone.
                    let fixed = &self.graph.ty(index).indices;
                    if fixed.iter().any(|i| !self.graph.ty(value).has(i)) {
                        return None;
                    }
                    views.reverse();
                    let nodes = views.iter().copied().chain([id]).collect();
                    let of = Viewed { value: table, through: views };
                    return Some((Table { of, experts: experts.clone() }, index, nodes));
                }
                _ if is_view(self.graph, node) => views.push(id),
                _ => return None,
            }
            at = node.operands[0];
        }
    }

    /// The branch of a product that a value is, seen through views.
    fn branch(&self, value: ValueId) -> Option<(&Product, Table, Vec<NodeId>)> {
        let (mut views, mut at) = (vec![], value);
        loop {
            let (id, node) = self.made_by(at)?;
            if let Some(product) = self.products.get(&id) {
                let fixed = product.chosen.iter().all(|i| self.graph.ty(value).has(i));
                if !fixed || !product.keeps || product.by_choice {
                    return None;
                }
                views.reverse();
                let mut table = product.table.clone();
                table.of.through.extend(&views);
                return Some((product, table, views));
            }
            if !is_view(self.graph, node) {
                return None;
            }
            views.push(id);
            at = node.operands[0];
        }
    }

    /// A product with what is computed of other products of the same choice.
    fn whole(&self, last: &Product) -> Option<Claim> {
        if !last.by_choice {
            return None;
        }
        let mut first: Vec<&Product> = vec![];
        let mut nodes: BTreeSet<NodeId> = BTreeSet::new();
        let all: BTreeSet<Name> = self.own(last.x.0).into_iter().collect();
        let mut leaf = |value: ValueId| -> Option<Leaf> {
            if let Some((product, table, views)) = self.branch(value) {
                (self.own(value).into_iter().collect::<BTreeSet<_>>() == all).then_some(())?;
                nodes.extend(views.iter().chain(&product.nodes).chain([&product.node]));
                first.push(product);
                return Some(Leaf::Branch(table));
            }
            let own = self.own(value);
            let is_real = self.graph.ty(value).class() == Class::Float;
            let of_rows = is_real && row_index(self.graph, value).is_some();
            match of_rows {
                true if own.is_empty() => Some(Leaf::Row(value)),
                true if own == last.chosen => Some(Leaf::Choice(value)),
                _ => None,
            }
        };
        let mut leaves = Leaves::default();
        let mut through = BTreeSet::new();
        let expr = compose(self.graph, last.x.0, &mut leaf, &mut leaves, &mut through)?;
        let up = *first.first()?;
        let experts = |p: &Product| self.graph.extent(&p.table.experts);
        let alike =
            |p: &&Product| p.index == last.index && p.x.0 == up.x.0 && experts(p) == experts(last);
        first.iter().all(alike).then_some(())?;
        nodes.extend(through);
        nodes.extend(&last.nodes);
        nodes.insert(last.node);
        let own = self.own(last.x.0);
        let hidden: Vec<Name> = own.into_iter().filter(|i| !last.chosen.contains(i)).collect();
        let (leaves, expr) = branches_first(leaves.0, expr);
        let form = Form {
            index: last.index,
            chosen: last.chosen.clone(),
            x: up.x.0,
            by_choice: false,
            width: up.summed.clone(),
            hidden,
            leaves,
            expr,
            down: Some((last.table.clone(), last.free.clone())),
            combine: Combine::Keep,
            result: self.graph.node(last.node).results[0],
        };
        let mut products: BTreeMap<NodeId, usize> = first.iter().map(|p| (p.node, p.x.1)).collect();
        products.insert(last.node, last.x.1);
        let claim = self.combined(last, form, nodes, products);
        self.is_closed(&claim).then_some(claim)
    }

    /// A product by itself.
    fn alone(&self, product: &Product) -> Claim {
        let form = Form {
            index: product.index,
            chosen: product.chosen.clone(),
            x: product.x.0,
            by_choice: product.by_choice,
            width: product.summed.clone(),
            hidden: product.free.clone(),
            leaves: vec![Leaf::Branch(product.table.clone())],
            expr: Expr::Arg(0),
            down: None,
            combine: Combine::Keep,
            result: self.graph.node(product.node).results[0],
        };
        let mut nodes = product.nodes.clone();
        nodes.insert(product.node);
        let products = BTreeMap::from([(product.node, product.x.1)]);
        self.combined(product, form, nodes, products)
    }

    /// The claim, with the sum over the choices that follows, if one does.
    fn combined(
        &self,
        last: &Product,
        mut form: Form,
        mut nodes: BTreeSet<NodeId>,
        products: BTreeMap<NodeId, usize>,
    ) -> Claim {
        if !last.keeps {
            form.combine = Combine::Sum;
        } else if let Some((id, combine)) = self.sum_of(form.result, &form.chosen) {
            form.combine = combine;
            form.result = self.graph.node(id).results[0];
            nodes.insert(id);
        }
        let rows = row_index(self.graph, form.result).cloned();
        let rows = rows.expect("a product of rows has rows");
        let mut reads = BTreeSet::from([form.index, form.x]);
        if let Combine::Weighted(share) = form.combine {
            reads.insert(share);
        }
        reads.extend(form.leaves.iter().filter_map(|leaf| match leaf {
            Leaf::Branch(_) => None,
            Leaf::Choice(value) | Leaf::Row(value) => Some(*value),
        }));
        let (kind, root, results) = (GroupKind::Experts, last.node, vec![form.result]);
        Claim { kind, root, rows, nodes, reads, results, products, form: ClaimForm::Experts(form) }
    }

    /// The node that sums a value over the choices and does nothing else, if it alone reads it.
    fn sum_of(&self, value: ValueId, chosen: &[Name]) -> Option<(NodeId, Combine)> {
        let [id] = self.readers.get(&value)?[..] else { return None };
        let node = self.graph.node(id);
        let result = node.results[0];
        let left: Vec<Name> = self.own(value).into_iter().filter(|i| !chosen.contains(i)).collect();
        let rows = row_index(self.graph, value);
        if self.graph.outputs.contains(&value)
            || chosen.is_empty()
            || rows.is_none()
            || row_index(self.graph, result) != rows
            || self.own(result).iter().collect::<BTreeSet<_>>() != left.iter().collect()
        {
            return None;
        }
        match (op_name(node), &node.operands[..]) {
            ("contract", [_]) => Some((id, Combine::Sum)),
            ("reduce", [_]) if is_sum(node) => Some((id, Combine::Sum)),
            ("contract", [a, b]) => {
                let share = if *a == value { *b } else { *a };
                let by_choice = self.own(share) == chosen && row_index(self.graph, share) == rows;
                by_choice.then_some((id, Combine::Weighted(share)))
            }
            _ => None,
        }
    }

    /// Whether only nodes of the claim read what it computes on the way.
    fn is_closed(&self, claim: &Claim) -> bool {
        let values = claim.nodes.iter().flat_map(|n| &self.graph.node(*n).results);
        let inner = values.filter(|v| !claim.results.contains(v) && !claim.reads.contains(v));
        inner.into_iter().all(|v| {
            let readers = self.readers.get(v).map_or([].as_slice(), |r| r);
            // Gathers and views of them are made anew by whoever reads them.
            let is_table = self.gathered(*v).is_some();
            is_table
                || (!self.graph.outputs.contains(v)
                    && readers.iter().all(|n| claim.nodes.contains(n)))
        })
    }
}

/// Operands with the branches in front, and the expression over them.
fn branches_first(leaves: Vec<Leaf>, expr: Expr) -> (Vec<Leaf>, Expr) {
    let is_branch = |at: &usize| matches!(leaves[*at], Leaf::Branch(_));
    let (mut order, others): (Vec<usize>, Vec<usize>) = (0..leaves.len()).partition(is_branch);
    order.extend(others);
    let place = |old: usize| order.iter().position(|o| *o == old).unwrap_or(old);
    let expr = expr.renumber(&mut |old| place(old));
    (order.iter().map(|o| leaves[*o].clone()).collect(), expr)
}

fn is_sum(node: &Node) -> bool {
    let op =
        node.attrs.0.iter().find_map(|a| if let Attr::Name(n) = a { Some(&**n) } else { None });
    !node.masked && op == Some("sum")
}

/// Whether a node shows elements of its operand, each once, without computing anything.
fn is_view(graph: &Graph, node: &Node) -> bool {
    match op_name(node) {
        "slice" | "rename" | "split" | "merge" => true,
        "cast" => {
            let [from, to] = [node.operands[0], node.results[0]].map(|v| graph.ty(v).dtype());
            from == to || (from.class() == Class::Float && to.bits() == 32)
        }
        _ => false,
    }
}
