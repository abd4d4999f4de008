//! A block's graph as terms.

use super::facts::Block;
use super::term::{ADD, Axes, Form, FormAttr, Label, MUL, RETURN, Term};
use egg::{Id, RecExpr};
use ir::attr::Attr;
use ir::dim::Name;
use ir::dtype::{Class, DType};
use ir::expr::{Binary, Expr};
use ir::graph::{Graph, Node, ParamKind, ValueId};
use std::collections::HashMap;

/// A block's results as one term, and which of the graph's indices each axis of a parameter is.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Rooted at [`RETURN`].
    pub term: RecExpr<Term>,
    /// What the analysis knows beforehand.
    pub block: Block,
}

/// A value on its way: its term, and the names of its axes in order.
#[derive(Clone, Debug)]
struct Value {
    term: Id,
    axes: Vec<Name>,
    /// Made of weights and numbers alone.
    constant: bool,
}

/// Two operands of what commutes: activations come first, so that their axes do in a result.
fn in_order<'v>(x: &'v Value, y: &'v Value) -> [&'v Value; 2] {
    if (x.constant, x.term) <= (y.constant, y.term) { [x, y] } else { [y, x] }
}

struct Encoder<'a> {
    graph: &'a Graph,
    term: RecExpr<Term>,
    known: HashMap<Term, Id>,
    values: HashMap<ValueId, Value>,
}

/// Terms of a verified graph. `None` where an op has several results, or rows are kept in states
/// already.
pub fn encode(graph: &Graph) -> Option<Encoded> {
    if (0..graph.params.len()).any(|at| graph.param_kind(at) == ParamKind::State) {
        return None;
    }
    let (term, known, values) = (RecExpr::default(), HashMap::new(), HashMap::new());
    let mut e = Encoder { graph, term, known, values };
    for (at, id) in graph.params.iter().enumerate() {
        let term = e.add(Term::Param(at as u32));
        let constant = graph.param_kind(at) == ParamKind::Weight;
        e.values.insert(*id, Value { term, axes: graph.ty(*id).indices.clone(), constant });
    }
    for node in &graph.nodes {
        let [result] = node.results[..] else { return None };
        let value = e.node(node);
        e.values.insert(result, value);
    }
    let outputs: Vec<Value> = graph.outputs.iter().map(|id| e.values[id].clone()).collect();
    e.results(&outputs);
    Some(Encoded { term: e.term, block: Block::of(graph) })
}

impl Encoder<'_> {
    fn add(&mut self, term: Term) -> Id {
        if let Some(id) = self.known.get(&term) {
            return *id;
        }
        let id = self.term.add(term.clone());
        self.known.insert(term, id);
        id
    }

    fn apply(&mut self, op: &'static str, form: Form, operands: &[Id]) -> Id {
        let form = self.add(Term::Form(form.canonical()));
        self.add(Term::Apply(op, [&[form], operands].concat().into()))
    }

    /// The root: each result's axes, and in which order callers know them.
    fn results(&mut self, outputs: &[Value]) {
        let mut labels = Labels::default();
        let axes: Vec<Axes> = outputs.iter().map(|v| labels.of_all(&v.axes)).collect();
        let axes: Vec<&[Label]> = axes.iter().map(|a| &a[..]).collect();
        let known = |id: &ValueId| FormAttr::Labels(labels.of_all(&self.graph.ty(*id).indices));
        let form =
            Form::new(&axes, &[]).with(self.graph.outputs.iter().map(known).collect::<Vec<_>>());
        let operands: Vec<Id> = outputs.iter().map(|v| v.term).collect();
        self.apply(RETURN, form, &operands);
    }

    fn node(&mut self, node: &Node) -> Value {
        let operands: Vec<Value> = node.operands.iter().map(|id| self.values[id].clone()).collect();
        let result = &self.graph.ty(node.results[0]).indices;
        match (node.op.name(), &operands[..]) {
            // Names are gone, but for what becomes of them.
            ("rename", [x]) => renamed(x, node),
            ("contract", [x]) => {
                let one = self.number(1.0);
                self.product(x, &one, result)
            }
            ("contract", [x, y]) => self.product(x, y, result),
            ("rms_norm", [x, gain]) => self.normed(node, x, gain),
            ("map", _) => match node.attrs.0.first() {
                Some(Attr::Expr(expr)) if self.is_polynomial(expr, node) => {
                    let value = self.polynomial(expr, &operands);
                    self.repeated(value, result)
                }
                _ => self.opaque(node, &operands, result),
            },
            _ => self.opaque(node, &operands, result),
        }
    }

    /// An op that says all there is to say by its form.
    fn opaque(&mut self, node: &Node, operands: &[Value], result: &[Name]) -> Value {
        let axes = match VIEWS.contains(&node.op.name()) {
            true => in_place(&operands[0].axes, node, result),
            false => ordered(operands, result),
        };
        let form = self.form(node, operands, &axes);
        let ids: Vec<Id> = operands.iter().map(|v| v.term).collect();
        let constant = operands.iter().all(|v| v.constant) && !self.is_step(&axes);
        Value { term: self.apply(node.op.name(), form, &ids), axes, constant }
    }

    /// Whether extents are known only at each step.
    fn is_step(&self, axes: &[Name]) -> bool {
        axes.iter().any(|a| self.graph.extent(a).bound_value(&self.graph.symbols).is_none())
    }

    fn form(&self, node: &Node, operands: &[Value], result: &[Name]) -> Form {
        let mut labels = Labels::default();
        let operand_axes: Vec<Axes> = operands.iter().map(|v| labels.of_all(&v.axes)).collect();
        let operand_axes: Vec<&[Label]> = operand_axes.iter().map(|a| &a[..]).collect();
        let result_axes = labels.of_all(result);
        let mut form = Form::new(&operand_axes, &result_axes);
        form.attrs = node.attrs.0.iter().map(|attr| labels.attr(attr)).collect();
        if matches!(node.op.name(), "const") {
            let encoding = self.graph.ty(node.results[0]).encoding;
            form.attrs.push(FormAttr::Plain(Attr::Encoding(encoding)));
        }
        form.masked = node.masked;
        for (name, label) in labels.0 {
            form.extents.insert(label, self.graph.extent(&name));
        }
        form
    }

    /// The gain of a norm is a factor like any other.
    fn normed(&mut self, node: &Node, x: &Value, gain: &Value) -> Value {
        let ones = self.ones(&gain.axes);
        let plain = self.opaque(node, &[x.clone(), ones], &x.axes);
        let axes = plain.axes.clone();
        self.product(&plain, gain, &axes)
    }

    fn product(&mut self, x: &Value, y: &Value, result: &[Name]) -> Value {
        let [x, y] = in_order(x, y);
        let axes = ordered(&[x.clone(), y.clone()], result);
        self.related("contract", [x, y], axes)
    }

    /// A binary op whose form is all in its axes.
    fn related(&mut self, op: &'static str, [x, y]: [&Value; 2], axes: Vec<Name>) -> Value {
        let mut labels = Labels::default();
        let (a, b) = (labels.of_all(&x.axes), labels.of_all(&y.axes));
        let form = Form::new(&[&a, &b], &labels.of_all(&axes));
        let term = self.apply(op, form, &[x.term, y.term]);
        Value { term, axes, constant: x.constant && y.constant }
    }

    fn number(&mut self, value: f64) -> Value {
        self.constant(value, &[])
    }

    fn ones(&mut self, axes: &[Name]) -> Value {
        self.constant(1.0, axes)
    }

    fn constant(&mut self, value: f64, axes: &[Name]) -> Value {
        let mut labels = Labels::default();
        let mut form = Form::new(&[], &labels.of_all(axes));
        let dtype = FormAttr::Plain(Attr::Encoding(DType::F32.into()));
        form.attrs = vec![FormAttr::Plain(Attr::Floats(vec![value])), dtype];
        for (name, label) in labels.0 {
            form.extents.insert(label, self.graph.extent(&name));
        }
        let constant = !self.is_step(axes);
        Value { term: self.apply("const", form, &[]), axes: axes.to_vec(), constant }
    }

    /// Whether an expression is sums and products of numbers alone, which laws see through.
    fn is_polynomial(&self, expr: &Expr, node: &Node) -> bool {
        let float = |id: &ValueId| self.graph.ty(*id).class() == Class::Float;
        node.operands.iter().all(float) && is_polynomial(expr)
    }

    fn polynomial(&mut self, expr: &Expr, operands: &[Value]) -> Value {
        match expr {
            Expr::Arg(i) => operands[*i].clone(),
            Expr::Num(value) => self.number(*value),
            Expr::Binary(Binary::Add, x, y) => {
                let (x, y) = (self.polynomial(x, operands), self.polynomial(y, operands));
                let axes = union(&x.axes, &y.axes);
                let (x, y) = (self.repeated(x, &axes), self.repeated(y, &axes));
                let [x, y] = in_order(&x, &y);
                self.related(ADD, [x, y], x.axes.clone())
            }
            Expr::Binary(_, x, y) => {
                let (x, y) = (self.polynomial(x, operands), self.polynomial(y, operands));
                let axes = union(&x.axes, &y.axes);
                let same = x.axes.len() == axes.len() && y.axes.len() == axes.len();
                if !same {
                    return self.product(&x, &y, &axes);
                }
                let [x, y] = in_order(&x, &y);
                self.related(MUL, [x, y], x.axes.clone())
            }
            Expr::Unary(..) | Expr::Select(..) | Expr::Lowest => {
                unreachable!("a polynomial has sums and products alone")
            }
        }
    }

    /// Along more axes: a product with ones.
    fn repeated(&mut self, x: Value, axes: &[Name]) -> Value {
        let more: Vec<Name> = axes.iter().filter(|a| !x.axes.contains(a)).cloned().collect();
        if more.is_empty() {
            return x;
        }
        let ones = self.ones(&more);
        let axes = [&x.axes[..], &more[..]].concat();
        self.related("contract", [&x, &ones], axes)
    }
}

fn is_polynomial(expr: &Expr) -> bool {
    match expr {
        Expr::Arg(_) => true,
        // A constant is an f32.
        Expr::Num(value) => f64::from(*value as f32) == *value,
        Expr::Binary(Binary::Add | Binary::Mul, x, y) => is_polynomial(x) && is_polynomial(y),
        _ => false,
    }
}

fn union(a: &[Name], b: &[Name]) -> Vec<Name> {
    let more = b.iter().filter(|name| !a.contains(name));
    a.iter().chain(more).cloned().collect()
}

fn renamed(x: &Value, node: &Node) -> Value {
    let (Some(Attr::Names(from)), Some(Attr::Names(to))) =
        (node.attrs.0.first(), node.attrs.0.get(1))
    else {
        return x.clone();
    };
    let new = |name: &Name| from.iter().position(|f| f == name).map_or(name, |at| &to[at]).clone();
    Value { axes: x.axes.iter().map(new).collect(), ..x.clone() }
}

/// A result's indices: as the operands have them, then those that no operand has.
fn ordered(operands: &[Value], result: &[Name]) -> Vec<Name> {
    let mut axes: Vec<Name> = vec![];
    for name in operands.iter().flat_map(|v| &v.axes).chain(result) {
        if result.contains(name) && !axes.contains(name) {
            axes.push(name.clone());
        }
    }
    axes
}

/// Ops that put new axes where their first operand has the ones that they replace, so that a view
/// and its inverse give back what they were made of.
const VIEWS: [&str; 5] = ["concat", "history", "merge", "slice", "split"];

/// A view's indices: as the operand has them, new ones where the first is missing, in the order in
/// which the op names them.
fn in_place(operand: &[Name], node: &Node, result: &[Name]) -> Vec<Name> {
    let words = node.attrs.0.iter().flat_map(|attr| match attr {
        Attr::Name(name) => std::slice::from_ref(name),
        Attr::Names(names) => &names[..],
        _ => &[],
    });
    let is_new = |name: &Name| result.contains(name) && !operand.contains(name);
    let mut new: Vec<Name> = words.filter(|name| is_new(name)).cloned().collect();
    let unnamed: Vec<Name> =
        result.iter().filter(|name| is_new(name) && !new.contains(name)).cloned().collect();
    new.extend(unnamed);
    let mut axes = vec![];
    for name in operand {
        match result.contains(name) {
            true => axes.push(name.clone()),
            false => axes.append(&mut new),
        }
    }
    axes.append(&mut new);
    axes
}

/// Labels of names, in order of first use.
#[derive(Default)]
struct Labels(Vec<(Name, Label)>);

impl Labels {
    fn of(&mut self, name: &Name) -> Label {
        if let Some((_, label)) = self.0.iter().find(|(n, _)| n == name) {
            return *label;
        }
        let label = self.0.len() as Label;
        self.0.push((name.clone(), label));
        label
    }

    fn of_all(&mut self, names: &[Name]) -> Axes {
        names.iter().map(|name| self.of(name)).collect()
    }

    /// Words that name no index of the node stay words.
    fn attr(&mut self, attr: &Attr) -> FormAttr {
        let known = |labels: &Labels, name: &Name| labels.0.iter().any(|(n, _)| n == name);
        match attr {
            Attr::Name(name) if known(self, name) => FormAttr::Label(self.of(name)),
            Attr::Names(names) if names.iter().all(|n| known(self, n)) => {
                FormAttr::Labels(self.of_all(names))
            }
            other => FormAttr::Plain(other.clone()),
        }
    }
}
