//! What is known of every value of the e-graph.

use super::law::Log;
use super::term::{ADD, Axes, Form, Label, MUL, Term};
use egg::{Analysis, DidMerge, EGraph, Id};
use ir::attr::Attr;
use ir::dim::{Dim, Name, Symbols};
use ir::dtype::{Class, DType, Encoding};
use ir::expr::Expr;
use ir::graph::Graph;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The e-graph of one block.
pub type Egraph = EGraph<Term, Block>;

/// A parameter of the block.
#[derive(Clone, Debug)]
pub struct Param {
    /// Extents of its axes.
    pub shape: Vec<Dim>,
    /// How it is stored.
    pub encoding: Encoding,
    /// Whether it is a constant of the model.
    pub constant: bool,
}

/// What the analysis knows beforehand: the block's parameters and symbols.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// In the graph's order.
    pub params: Vec<Param>,
    /// Symbols, as the graph binds them.
    pub symbols: Symbols,
    /// Step symbols: what depends on them is no constant.
    pub steps: BTreeSet<Name>,
    /// Extents that histories run over.
    pub context: BTreeSet<Dim>,
    /// By which laws e-nodes came about.
    pub log: Log,
}

impl Block {
    /// Of a graph, each parameter's axes in order.
    pub fn of(graph: &Graph) -> Block {
        let params = graph.params.iter().enumerate().map(|(i, id)| {
            let ty = graph.ty(*id);
            Param {
                shape: graph.extents(ty),
                encoding: ty.encoding,
                constant: graph.param_kind(i) == ir::graph::ParamKind::Weight,
            }
        });
        let histories = graph.nodes.iter().filter(|n| n.op.name() == "history");
        let context = histories.filter_map(|n| match n.attrs.0.get(1) {
            Some(Attr::Name(into)) => Some(graph.extent(into)),
            _ => None,
        });
        let (params, context) = (params.collect(), context.collect());
        let (symbols, steps) = (graph.symbols.clone(), steps(&graph.symbols));
        Block { params, symbols, steps, context, log: Log::default() }
    }

    /// Whether an extent is known only at each step.
    pub fn is_step(&self, dim: &Dim) -> bool {
        let mut found = false;
        dim.visit_symbols(&mut |name| found |= self.steps.contains(name));
        found
    }
}

fn steps(symbols: &Symbols) -> BTreeSet<Name> {
    let open = symbols.iter().filter(|(_, symbol)| symbol.value.is_none());
    open.map(|(name, _)| name.clone()).collect()
}

/// What is known of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Extents.
    pub shape: Vec<Dim>,
    /// Which axes run over the context or over what was chosen of it.
    pub context: Vec<bool>,
    /// What arithmetic it takes part in.
    pub class: Class,
    /// How it is stored, of a constant.
    pub encoding: Encoding,
    /// Made of weights and numbers alone: known when compiling.
    pub constant: bool,
    /// Constant, or rows chosen from a constant.
    pub weight_like: bool,
    /// Linear in a constant: a factor has somewhere to go.
    pub linear: bool,
    /// 1 everywhere.
    pub ones: bool,
    /// Of an index, the extent that it is below.
    pub below: Option<Dim>,
    /// Whether an index differs along its last axis.
    pub distinct: bool,
    /// Of an index, the extent that it is not below, where one is known.
    pub from: Option<Dim>,
    /// Of a form.
    pub form: Option<Arc<Form>>,
}

impl Facts {
    fn leaf(shape: Vec<Dim>, class: Class, encoding: Encoding) -> Facts {
        Facts {
            context: vec![false; shape.len()],
            shape,
            class,
            encoding,
            constant: false,
            weight_like: false,
            linear: false,
            ones: false,
            below: None,
            distinct: false,
            from: None,
            form: None,
        }
    }

    /// Whether it has no axes.
    pub fn is_scalar(&self) -> bool {
        self.shape.is_empty()
    }
}

/// Form of an application.
pub fn form_of(egraph: &Egraph, form: Id) -> Arc<Form> {
    egraph[form].data.form.clone().expect("the first child of an application is its form")
}

/// Extents of a form's labels, given its operands.
pub fn label_extents(form: &Form, operands: &[&Facts]) -> BTreeMap<Label, Dim> {
    let mut extents = form.extents.clone();
    for (axes, facts) in form.operands.iter().zip(operands) {
        assert_eq!(axes.len(), facts.shape.len(), "{form}: an operand has {:?}", facts.shape);
        for (label, dim) in axes.iter().zip(&facts.shape) {
            let known = extents.entry(*label).or_insert_with(|| dim.clone());
            assert_eq!(known, dim, "{form}: two extents of one label");
        }
    }
    extents
}

fn flagged(form: &Form, operands: &[&Facts], context: &BTreeSet<Dim>) -> BTreeSet<Label> {
    let mut flags = BTreeSet::new();
    for (axes, facts) in form.operands.iter().zip(operands) {
        let marked = axes.iter().zip(&facts.context).filter(|(_, flag)| **flag);
        flags.extend(marked.map(|(label, _)| *label));
    }
    flags.extend(form.extents.iter().filter(|(_, d)| context.contains(d)).map(|(label, _)| *label));
    flags
}

impl Analysis<Term> for Block {
    type Data = Facts;

    fn make(egraph: &mut Egraph, node: &Term, _id: Id) -> Facts {
        match node {
            Term::Form(form) => {
                let form = Some(form.clone());
                Facts { form, ..Facts::leaf(vec![], Class::Bool, DType::Bool.into()) }
            }
            Term::Param(at) => {
                let Param { shape, encoding, constant } =
                    egraph.analysis.params[*at as usize].clone();
                let facts = Facts::leaf(shape, encoding.decoded().class(), encoding);
                let context = facts.shape.iter().map(|d| egraph.analysis.context.contains(d));
                let context = context.collect();
                Facts { constant, weight_like: constant, linear: constant, context, ..facts }
            }
            Term::Apply(op, children) => {
                let form = form_of(egraph, children[0]);
                let operands: Vec<&Facts> =
                    children[1..].iter().map(|c| &egraph[*c].data).collect();
                application(op, &form, &operands, &egraph.analysis)
            }
        }
    }

    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        assert_eq!(a.shape, b.shape, "a law changed a shape");
        assert_eq!((a.class, &a.below), (b.class, &b.below), "a law changed a type");
        let before = a.clone();
        a.constant |= b.constant;
        a.weight_like |= b.weight_like;
        a.linear |= b.linear;
        a.ones |= b.ones;
        a.distinct |= b.distinct;
        a.from = a.from.take().or_else(|| b.from.clone());
        a.context.iter_mut().zip(&b.context).for_each(|(a, b)| *a |= b);
        if b.encoding.code.bits() < a.encoding.code.bits() {
            a.encoding = b.encoding;
        }
        DidMerge(*a != before, *a != b)
    }
}

/// Facts of an op's result.
fn application(op: &str, form: &Form, operands: &[&Facts], block: &Block) -> Facts {
    let extents = label_extents(form, operands);
    let extent = |label: &Label| extents[label].clone();
    let shape: Vec<Dim> = form.result.iter().map(extent).collect();
    let flags = flagged(form, operands, &block.context);
    let context = form.result.iter().map(|label| flags.contains(label)).collect();
    let stepped = shape.iter().any(|d| block.is_step(d));
    let constant = operands.iter().all(|o| o.constant) && !stepped;
    let class = operands.first().map_or(Class::Float, |o| o.class);
    let first = operands.first();
    let plain = Facts { context, constant, ..Facts::leaf(shape, class, DType::F32.into()) };
    let plain = Facts { weight_like: constant, linear: constant, ..plain };
    let all = |of: fn(&Facts) -> bool| operands.iter().all(|o| of(o));
    let viewed = || Facts {
        weight_like: all(|o| o.weight_like),
        linear: all(|o| o.linear),
        ones: all(|o| o.ones),
        encoding: joint_encoding(operands),
        ..plain.clone()
    };
    match op {
        "contract" | MUL => product(form, operands, plain),
        ADD => Facts { linear: all(|o| o.linear), ..plain },
        "rope" => Facts { linear: first.is_some_and(|x| x.linear), ..plain },
        "slice" | "split" | "merge" => viewed(),
        "concat" => appended(form, operands, viewed()),
        "gather" => Facts {
            weight_like: operands[0].weight_like,
            linear: operands[0].linear,
            encoding: operands[0].encoding,
            below: operands[0].below.clone(),
            class: operands[0].class,
            ..plain
        },
        "scatter" => Facts { class: Class::Float, linear: false, ..plain },
        "topk" => Facts {
            class: Class::Int,
            below: Some(extent(&form.label(0))),
            distinct: form.result.last() == Some(&form.label(1)),
            ..plain
        },
        "const" => numbers(form, plain),
        "iota" => integers(form, &extents, plain),
        "map" => expression(form, operands, plain),
        "reduce" => Facts { class: result_class(form, operands), ..plain },
        "quantize" | "cast" => match form.plain(0) {
            Some(Attr::Encoding(to)) => Facts { encoding: *to, ..plain },
            _ => plain,
        },
        _ => plain,
    }
}

/// A product; with ones, and nothing summed, it is a view that repeats the other factor.
fn product(form: &Form, operands: &[&Facts], plain: Facts) -> Facts {
    let linear = operands.iter().any(|o| o.linear);
    let repeats = form.all_labels().len() == form.result.len();
    let other = match operands {
        [x, one] if one.ones && repeats => x,
        [one, x] if one.ones && repeats => x,
        _ => return Facts { linear, ..plain },
    };
    Facts { linear, ones: other.ones, encoding: other.encoding, ..plain }
}

/// The encoding that views of operands keep: their own, if they share one.
fn joint_encoding(operands: &[&Facts]) -> Encoding {
    match operands.split_first() {
        Some((first, rest)) if rest.iter().all(|o| o.encoding == first.encoding) => first.encoding,
        _ => DType::F32.into(),
    }
}

/// A constant's attributes are its values and, of the e-graph alone, its dtype.
fn numbers(form: &Form, plain: Facts) -> Facts {
    let one = matches!(form.plain(0), Some(Attr::Floats(values)) if values[..] == [1.0]);
    let dtype = match form.plain(1) {
        Some(Attr::Encoding(encoding)) => encoding.code,
        _ => DType::F32,
    };
    let class = dtype.class();
    Facts { class, encoding: dtype.into(), ones: one && class == Class::Float, ..plain }
}

/// Operands one after the other: rows of an index stay distinct where others follow that are
/// behind them all.
fn appended(form: &Form, operands: &[&Facts], joint: Facts) -> Facts {
    let [first, last] = operands else { return joint };
    if last.from.is_none() || first.below != last.from {
        return joint;
    }
    let along = form.result.last() == Some(&form.label(1));
    let distinct = along && first.distinct && last.distinct;
    Facts { below: last.below.clone(), from: first.from.clone(), distinct, ..joint }
}

/// The integers from a start on: rows of an axis.
fn integers(form: &Form, extents: &BTreeMap<Label, Dim>, plain: Facts) -> Facts {
    let count = form.result.first().map_or(Dim::constant(1), |label| extents[label].clone());
    let from = plain.constant.then(|| form.dim(0).clone());
    let below = from.as_ref().map(|from| from.plus(&count));
    Facts { class: Class::Int, distinct: true, from, below, ..plain }
}

/// An expression: a repeated operand keeps what it is.
fn expression(form: &Form, operands: &[&Facts], plain: Facts) -> Facts {
    let class = result_class(form, operands);
    match (form.plain(0), operands) {
        (Some(Attr::Expr(Expr::Arg(0))), [x]) => {
            let last = form.operands[0].last() == form.result.last();
            let (below, distinct) = (x.below.clone(), x.distinct && last);
            Facts { class, below, from: x.from.clone(), distinct, ones: x.ones, ..plain }
        }
        _ => Facts { class, ..plain },
    }
}

/// Class of an expression's or a reduction's result.
fn result_class(form: &Form, operands: &[&Facts]) -> Class {
    let classes: Vec<Class> = operands.iter().map(|o| o.class).collect();
    match form.plain(0) {
        Some(Attr::Expr(expr)) => expr.class(&classes).unwrap_or(Class::Float),
        _ => classes.first().copied().unwrap_or(Class::Float),
    }
}

/// Labels of a product's result in their natural order: those of the one operand, then of the
/// other.
pub fn natural(operands: &[&[Label]], keep: impl Fn(Label) -> bool) -> Axes {
    let mut result = vec![];
    for label in operands.iter().copied().flatten() {
        if keep(*label) && !result.contains(label) {
            result.push(*label);
        }
    }
    result
}
