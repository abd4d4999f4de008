//! Terms as a graph again: axes get names, equal axes the same.
//!
//! Each application's labels are tied to those of its operands' results, unless two axes of one
//! value would become one; a `rename` stands there then.

use super::term::{ADD, Form, FormAttr, Label, MUL, RETURN, Term};
use egg::{Id, RecExpr};
use ir::attr::{Attr, Attrs};
use ir::dim::{Dim, Name};
use ir::dtype::{Class, DType};
use ir::error::IrError;
use ir::expr::{Binary, Expr};
use ir::graph::builder::GraphBuilder;
use ir::graph::{Graph, Type, ValueId};
use ir::op::OpRef;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// A set of axes that are one, by number.
type Set = usize;

/// One application of the term.
struct Node {
    op: &'static str,
    form: Arc<Form>,
    operands: Vec<usize>,
    /// For each operand, labels that its value has under another name.
    renamed: Vec<BTreeSet<Label>>,
}

/// Which axes are one: of applications by label, of parameters by position.
#[derive(Default)]
struct Ties {
    parent: Vec<Set>,
    /// Applications and parameters that each set's axes belong to.
    holders: Vec<BTreeSet<usize>>,
    of: HashMap<(usize, Label), Set>,
}

impl Ties {
    fn axis(&mut self, holder: usize, label: Label) -> Set {
        if let Some(set) = self.of.get(&(holder, label)) {
            return self.find(*set);
        }
        let set = self.parent.len();
        self.parent.push(set);
        self.holders.push(BTreeSet::from([holder]));
        self.of.insert((holder, label), set);
        set
    }

    fn find(&self, mut set: Set) -> Set {
        while self.parent[set] != set {
            set = self.parent[set];
        }
        set
    }

    /// Makes two axes one, unless a value would have it twice.
    fn tie(&mut self, a: Set, b: Set) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return true;
        }
        if !self.holders[a].is_disjoint(&self.holders[b]) {
            return false;
        }
        let (keep, gone) = (a.min(b), a.max(b));
        let moved = std::mem::take(&mut self.holders[gone]);
        self.holders[keep].extend(moved);
        self.parent[gone] = keep;
        true
    }
}

/// The graph of a term that is equal to the source: the same name, symbols, parameters and results.
///
/// Errors: a term that is no graph, a mistake of a law.
pub fn decode(source: &Graph, term: &RecExpr<Term>) -> Result<Graph, IrError> {
    let mut decoder = Decoder::new(source, term);
    decoder.tie_all();
    decoder.name_all();
    decoder.build()
}

struct Decoder<'a> {
    source: &'a Graph,
    /// By position in the term; none for forms and parameters.
    nodes: Vec<Option<Node>>,
    /// Position of each parameter's term, by parameter.
    params: Vec<Option<usize>>,
    shapes: Vec<Vec<Dim>>,
    ties: Ties,
    names: BTreeMap<Set, Name>,
    /// Where each name stands in a value whose order is free: as in the source.
    ranks: HashMap<Name, usize>,
    builder: GraphBuilder,
    values: HashMap<usize, ValueId>,
    root: usize,
}

impl<'a> Decoder<'a> {
    fn new(source: &'a Graph, term: &RecExpr<Term>) -> Self {
        let mut params = vec![None; source.params.len()];
        let mut forms: Vec<Option<Arc<Form>>> = vec![];
        let mut nodes = vec![];
        for (at, node) in term.as_ref().iter().enumerate() {
            forms.push(if let Term::Form(form) = node { Some(form.clone()) } else { None });
            if let Term::Param(param) = node {
                params[*param as usize] = Some(at);
            }
            nodes.push(application(node, &forms));
        }
        let mut builder = GraphBuilder::new(&source.name);
        for (name, symbol) in &source.symbols {
            builder.symbol(name, *symbol);
        }
        let (root, shapes) = (term.as_ref().len() - 1, vec![]);
        let (ties, names, values) = (Ties::default(), BTreeMap::new(), HashMap::new());
        let ranks = ranks(source);
        Decoder { source, nodes, params, shapes, ties, names, ranks, builder, values, root }
    }

    fn tie_all(&mut self) {
        self.shapes = vec![vec![]; self.nodes.len()];
        for (param, id) in self.source.params.iter().enumerate() {
            if let Some(at) = self.params[param] {
                let ty = self.source.ty(*id);
                self.shapes[at] = self.source.extents(ty);
                (0..ty.indices.len()).for_each(|axis| {
                    self.ties.axis(at, axis as Label);
                });
            }
        }
        for at in 0..self.nodes.len() {
            let Some(mut node) = self.nodes[at].take() else { continue };
            let mut extents = node.form.extents.clone();
            for label in node.form.all_labels() {
                self.ties.axis(at, label);
            }
            for k in 0..node.operands.len() {
                let operand = node.operands[k];
                for (axis, label) in node.form.operands[k].iter().enumerate() {
                    extents.insert(*label, self.shapes[operand][axis].clone());
                    let theirs = self.result_axis(operand, axis);
                    let ours = self.ties.axis(at, *label);
                    if !self.ties.tie(theirs, ours) {
                        node.renamed[k].insert(*label);
                    }
                }
            }
            self.shapes[at] = node.form.result.iter().map(|l| extents[l].clone()).collect();
            self.nodes[at] = Some(node);
        }
    }

    /// The set of an axis of a value.
    fn result_axis(&mut self, value: usize, axis: usize) -> Set {
        let label = match &self.nodes[value] {
            Some(node) => node.form.result[axis],
            None => axis as Label,
        };
        self.ties.axis(value, label)
    }

    /// Names each set: as the source names a parameter's axis, else as it names that extent.
    fn name_all(&mut self) {
        let mut taken = BTreeMap::new();
        for (param, id) in self.source.params.iter().enumerate() {
            let Some(at) = self.params[param] else { continue };
            for (axis, name) in self.source.ty(*id).indices.iter().enumerate() {
                let set = self.ties.axis(at, axis as Label);
                self.name(set, name, &self.source.extent(name), &mut taken);
            }
        }
        for at in 0..self.nodes.len() {
            let Some(node) = &self.nodes[at] else { continue };
            let form = node.form.clone();
            let mut extents = form.extents.clone();
            for (axes, operand) in form.operands.iter().zip(&node.operands) {
                extents.extend(axes.iter().copied().zip(self.shapes[*operand].iter().cloned()));
            }
            for label in form.all_labels() {
                let set = self.ties.axis(at, label);
                let extent = extents[&label].clone();
                let like = self.source.indices.iter().find(|(_, d)| **d == extent);
                let hint = extent.as_symbol().or(like.map(|(name, _)| name)).cloned();
                self.name(set, &hint.unwrap_or_else(|| "z".into()), &extent, &mut taken);
            }
        }
    }

    fn name(&mut self, set: Set, hint: &Name, extent: &Dim, taken: &mut BTreeMap<Name, Set>) {
        if self.names.contains_key(&set) {
            return;
        }
        let symbols = &self.source.symbols;
        let free = |name: &Name, taken: &BTreeMap<Name, Set>| {
            let other = symbols.contains_key(name) && extent.as_symbol() != Some(name);
            !taken.contains_key(name) && !other
        };
        let mut name = hint.clone();
        let mut count = 1;
        while !free(&name, taken) {
            count += 1;
            name = format!("{hint}_{count}").into();
        }
        if extent.as_symbol() != Some(&name) {
            self.builder.index(&name, extent.clone());
        }
        let rank = self.ranks.get(hint).copied().unwrap_or(usize::MAX);
        self.ranks.entry(name.clone()).or_insert(rank);
        taken.insert(name.clone(), set);
        self.names.insert(set, name);
    }

    fn name_of(&mut self, holder: usize, label: Label) -> Name {
        let set = self.ties.axis(holder, label);
        self.names[&set].clone()
    }

    fn build(mut self) -> Result<Graph, IrError> {
        for (param, id) in self.source.params.iter().enumerate() {
            let value = self.source.value(*id);
            let mut ty = value.ty.clone();
            if let Some(at) = self.params[param] {
                ty.indices = (0..ty.indices.len()).map(|i| self.name_of(at, i as Label)).collect();
            } else {
                self.declare_unused(&ty);
            }
            let kind = self.source.param_kind(param);
            let value = self.builder.param(&value.name, kind, ty);
            if let Some(at) = self.params[param] {
                self.values.insert(at, value);
            }
        }
        for at in 0..self.nodes.len() {
            let Some(node) = self.nodes[at].take() else { continue };
            if at == self.root {
                self.outputs(&node)?;
                break;
            }
            if node.operands.is_empty() {
                // Numbers are made where they are used: some vanish in what uses them.
                self.nodes[at] = Some(node);
                continue;
            }
            let value = self.node(at, &node)?;
            self.values.insert(at, value);
            self.nodes[at] = Some(node);
        }
        self.builder.finish().map_err(|mut errors| errors.swap_remove(0))
    }

    /// Indices of a parameter that nothing reads.
    fn declare_unused(&mut self, ty: &Type) {
        for name in &ty.indices {
            let known = self.builder.graph().indices.contains_key(name);
            if !known && !self.source.symbols.contains_key(name) {
                self.builder.index(name, self.source.extent(name));
            }
        }
    }

    /// An operand under the names that its user has for it.
    fn operand(&mut self, at: usize, node: &Node, k: usize) -> Result<ValueId, IrError> {
        let value = self.value(node.operands[k])?;
        if node.renamed[k].is_empty() {
            return Ok(value);
        }
        let (mut from, mut to) = (vec![], vec![]);
        for (axis, label) in node.form.operands[k].iter().enumerate() {
            if node.renamed[k].contains(label) {
                let set = self.result_axis(node.operands[k], axis);
                from.push(self.names[&set].clone());
                to.push(self.name_of(at, *label));
            }
        }
        let pairs: Vec<(&str, &str)> = from.iter().zip(&to).map(|(f, t)| (&**f, &**t)).collect();
        self.builder.rename(value, &pairs)
    }

    fn value(&mut self, at: usize) -> Result<ValueId, IrError> {
        if let Some(value) = self.values.get(&at) {
            return Ok(*value);
        }
        let node = self.nodes[at].take().expect("operands come before what uses them");
        let value = self.node(at, &node)?;
        self.values.insert(at, value);
        self.nodes[at] = Some(node);
        Ok(value)
    }

    /// Operands that a node computes with: ones that only repeat the other factor are none.
    fn operands(&mut self, at: usize, node: &Node) -> Result<Vec<ValueId>, IrError> {
        let all = 0..node.operands.len();
        if node.op != "contract" {
            return all.map(|k| self.operand(at, node, k)).collect();
        }
        match self.vanishing(node) {
            Some(one) => Ok(vec![self.operand(at, node, 1 - one)?]),
            None => all.map(|k| self.operand(at, node, k)).collect(),
        }
    }

    fn node(&mut self, at: usize, node: &Node) -> Result<ValueId, IrError> {
        let operands = self.operands(at, node)?;
        let mut result: Vec<Name> = node.form.result.iter().map(|l| self.name_of(at, *l)).collect();
        result.sort_by_key(|name| self.ranks[name]);
        let operands = match node.op {
            "concat" | "swiglu" => self.aligned(at, node, operands)?,
            _ => operands,
        };
        match node.op {
            ADD => self.pair(Binary::Add, &operands, &result),
            MUL => self.pair(Binary::Mul, &operands, &result),
            "contract" => self.product(at, node, &operands, &result),
            _ => self.opaque(at, node, &operands, &result),
        }
    }

    /// Operands whose indices must be in one order, in that of the first.
    fn aligned(
        &mut self,
        at: usize,
        node: &Node,
        operands: Vec<ValueId>,
    ) -> Result<Vec<ValueId>, IrError> {
        let along: Vec<Name> = match node.form.attrs.first() {
            Some(FormAttr::Labels(labels)) => labels.iter().map(|l| self.name_of(at, *l)).collect(),
            _ => vec![],
        };
        let first = self.builder.ty(operands[0]).indices.clone();
        let mut aligned = vec![];
        for (k, value) in operands.into_iter().enumerate() {
            let own = |name: &Name| match (along.first(), along.get(k)) {
                (Some(joint), Some(own)) if joint == name => own.clone(),
                _ => name.clone(),
            };
            let wanted: Vec<Name> = first.iter().map(own).collect();
            let found = &self.builder.ty(value).indices;
            aligned.push(match *found == wanted {
                true => value,
                false => self.builder.map_expr(Expr::Arg(0), &[value], &wanted)?,
            });
        }
        self.of_one_type(aligned)
    }

    /// Operands in f32, unless they are of one type anyway.
    fn of_one_type(&mut self, operands: Vec<ValueId>) -> Result<Vec<ValueId>, IrError> {
        let dtype = |b: &GraphBuilder, id: ValueId| b.ty(id).dtype();
        let first = dtype(&self.builder, operands[0]);
        if operands.iter().all(|id| dtype(&self.builder, *id) == first) {
            return Ok(operands);
        }
        let widened = |id: ValueId| match dtype(&self.builder, id) {
            DType::F32 => Ok(id),
            _ => self.builder.cast(id, DType::F32),
        };
        operands.into_iter().map(widened).collect()
    }

    fn pair(&mut self, f: Binary, of: &[ValueId], result: &[Name]) -> Result<ValueId, IrError> {
        let (expr, args) = match of[0] == of[1] {
            true => (Expr::Arg(0).binary(f, Expr::Arg(0)), &of[..1]),
            false => (Expr::Arg(0).binary(f, Expr::Arg(1)), of),
        };
        self.builder.map_expr(expr, args, result)
    }

    /// Which factor of a product is ones that need not be multiplied by: with nothing summed, or
    /// with no axes but the other's.
    fn vanishing(&self, node: &Node) -> Option<usize> {
        let form = &node.form;
        let one = node.operands.iter().position(|o| self.is_one(*o))?;
        let within = form.operands[one].iter().all(|l| form.operands[1 - one].contains(l));
        let summed = form.all_labels().len() > form.result.len();
        (within || !summed).then_some(one)
    }

    /// A product: a sum as `contract`, else element by element.
    fn product(
        &mut self,
        at: usize,
        node: &Node,
        operands: &[ValueId],
        result: &[Name],
    ) -> Result<ValueId, IrError> {
        let summed = node.form.all_labels().len() > node.form.result.len();
        match (self.vanishing(node), summed) {
            (_, true) => self.sum(operands, result),
            (Some(one), false) if self.is_unit(node.operands[one]) => {
                self.with_unit(at, node, one, operands[0])
            }
            (Some(_), false) => self.builder.map_expr(Expr::Arg(0), operands, result),
            (None, false) => self.pair(Binary::Mul, operands, result),
        }
    }

    fn is_one(&self, at: usize) -> bool {
        let Some(node) = &self.nodes[at] else { return false };
        let one = matches!(node.form.plain(0), Some(Attr::Floats(v)) if v[..] == [1.0]);
        node.op == "const" && one
    }

    /// Whether all axes of a value have one row.
    fn is_unit(&self, at: usize) -> bool {
        !self.shapes[at].is_empty() && self.shapes[at].iter().all(|d| *d == Dim::constant(1))
    }

    /// A value with axes of one row more: a split, which is a view.
    fn with_unit(
        &mut self,
        at: usize,
        node: &Node,
        one: usize,
        x: ValueId,
    ) -> Result<ValueId, IrError> {
        let ones = node.form.operands[one].clone();
        let mut into: Vec<Name> = ones.iter().map(|l| self.name_of(at, *l)).collect();
        let Some(first) = self.builder.ty(x).indices.first().cloned() else {
            return self.builder.map_expr(Expr::Arg(0), &[x], &into);
        };
        into.push(first.clone());
        let into: Vec<&str> = into.iter().map(|n| &**n).collect();
        self.builder.split(x, &first, &into)
    }

    fn opaque(
        &mut self,
        at: usize,
        node: &Node,
        operands: &[ValueId],
        result: &[Name],
    ) -> Result<ValueId, IrError> {
        let op = ir::ops::find(node.op).expect("an application's op is listed");
        let count = op.0.schema().attrs.len();
        let attrs: Vec<Attr> =
            node.form.attrs.iter().take(count).map(|a| self.attr(at, a)).collect();
        let (data, mask) = match (node.form.masked, operands.split_last()) {
            (true, Some((mask, data))) => (data, Some(*mask)),
            _ => (operands, None),
        };
        let declared = self.declared(node, data, result);
        let made = self.builder.node1(op, data, mask, Attrs(attrs), declared)?;
        Ok(made)
    }

    fn attr(&mut self, at: usize, attr: &FormAttr) -> Attr {
        match attr {
            FormAttr::Label(label) => Attr::Name(self.name_of(at, *label)),
            FormAttr::Labels(labels) => {
                Attr::Names(labels.iter().map(|l| self.name_of(at, *l)).collect())
            }
            FormAttr::Plain(attr) => attr.clone(),
        }
    }

    /// The result's type, where the op asks to be told.
    fn declared(&self, node: &Node, operands: &[ValueId], result: &[Name]) -> Option<Type> {
        let class = |id: &ValueId| self.builder.ty(*id).class();
        let classes: Vec<Class> = operands.iter().map(class).collect();
        let of_class = |class: Class| match class {
            Class::Float => DType::F32.into(),
            Class::Int => DType::I32.into(),
            Class::Bool => DType::Bool.into(),
        };
        let encoding = match (node.op, node.form.plain(0), node.form.plain(1)) {
            ("const", _, Some(Attr::Encoding(encoding))) => *encoding,
            ("iota", ..) => of_class(Class::Int),
            ("map", Some(Attr::Expr(expr)), _) => of_class(expr.class(&classes).ok()?),
            ("reduce", ..) => of_class(*classes.first()?),
            _ => return None,
        };
        Some(Type { encoding, indices: result.to_vec() })
    }

    /// Results in the order of indices that callers know.
    fn outputs(&mut self, root: &Node) -> Result<(), IrError> {
        for k in 0..root.operands.len() {
            let value = self.operand(self.root, root, k)?;
            let known = root.form.labels(k).to_vec();
            let known: Vec<Name> = known.iter().map(|l| self.name_of(self.root, *l)).collect();
            let value = match self.builder.ty(value).indices == known {
                true => value,
                false => self.builder.map_expr(Expr::Arg(0), &[value], &known)?,
            };
            self.builder.output(value);
        }
        Ok(())
    }

    fn sum(&mut self, operands: &[ValueId], result: &[Name]) -> Result<ValueId, IrError> {
        let ty = Type { encoding: DType::F32.into(), indices: result.to_vec() };
        let op = OpRef(&ir::ops::contract::Op);
        self.builder.node1(op, operands, None, Attrs::default(), Some(ty))
    }
}

/// Indices in order of first appearance among results, then parameters; those of each step first.
fn ranks(source: &Graph) -> HashMap<Name, usize> {
    let mut names: Vec<Name> = vec![];
    let results = source.nodes.iter().flat_map(|n| &n.results);
    for name in results.chain(&source.params).flat_map(|v| &source.ty(*v).indices) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let fixed = |name: &Name| source.extent(name).bound_value(&source.symbols).is_some();
    names.sort_by_key(fixed);
    names.into_iter().enumerate().map(|(rank, name)| (name, rank)).collect()
}

fn application(node: &Term, forms: &[Option<Arc<Form>>]) -> Option<Node> {
    let (form, operands) = node.parts()?;
    let form = forms[usize::from(form)].clone().expect("the first child is a form");
    let operands: Vec<usize> = operands.iter().map(|id: &Id| usize::from(*id)).collect();
    let renamed = vec![BTreeSet::new(); operands.len()];
    let op = node.op().unwrap_or(RETURN);
    Some(Node { op, form, operands, renamed })
}
