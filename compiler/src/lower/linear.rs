//! Values as sums of others, each times a number.

use crate::lower::partition::op_name;
use ir::attr::Attr;
use ir::expr::{Binary, Expr, Unary};
use ir::graph::{Def, Graph, Node, NodeId, ValueId};
use std::collections::BTreeSet;

/// `factor` times the result of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// The number.
    pub factor: f64,
    /// The node.
    pub node: NodeId,
}

/// A sum of terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sum {
    /// In the order of the expressions.
    pub terms: Vec<Term>,
    /// Nodes between the terms and the sum, and the numbers' nodes.
    pub through: BTreeSet<NodeId>,
}

/// Most terms of a sum: beyond, something else is the matter.
const TERMS_MAX: usize = 64;

/// A value as the sum of results of nodes that `is_term` accepts, through additions and
/// multiplications by constants; or the value on the way that is no such sum.
pub fn terms(
    graph: &Graph,
    value: ValueId,
    is_term: &dyn Fn(&Node) -> bool,
) -> Result<Sum, ValueId> {
    let mut sum = Sum::default();
    let mut open = vec![(1.0, value)];
    while let Some((factor, value)) = open.pop() {
        let Def::Node(id, _) = graph.value(value).def else { return Err(value) };
        let node = graph.node(id);
        if is_term(node) {
            match sum.terms.iter_mut().find(|t| t.node == id) {
                Some(term) => term.factor += factor,
                None => sum.terms.push(Term { factor, node: id }),
            }
            continue;
        }
        let ("map", [Attr::Expr(expr)]) = (op_name(node), &node.attrs.0[..]) else {
            return Err(value);
        };
        let Some(Linear { constant: 0.0, factors }) = linear(graph, node, expr) else {
            return Err(value);
        };
        sum.through.insert(id);
        sum.through.extend(node.operands.iter().filter_map(|v| Some(number(graph, *v)?.0)));
        open.extend(factors.iter().rev().map(|(f, at)| (factor * f, node.operands[*at])));
        if open.len() > TERMS_MAX {
            return Err(value);
        }
    }
    Ok(sum)
}

/// `constant + Σ factor · operand`.
struct Linear {
    constant: f64,
    factors: Vec<(f64, usize)>,
}

impl Linear {
    fn constant(constant: f64) -> Linear {
        Linear { constant, factors: vec![] }
    }

    fn scaled(mut self, by: f64) -> Linear {
        self.constant *= by;
        self.factors.iter_mut().for_each(|(f, _)| *f *= by);
        self
    }

    fn plus(mut self, other: Linear) -> Linear {
        self.constant += other.constant;
        self.factors.extend(other.factors);
        self
    }
}

fn linear(graph: &Graph, node: &Node, expr: &Expr) -> Option<Linear> {
    let of = |e: &Expr| linear(graph, node, e);
    Some(match expr {
        Expr::Num(x) => Linear::constant(*x),
        Expr::Arg(at) => match number(graph, node.operands[*at]) {
            Some((_, x)) => Linear::constant(x),
            None => Linear { constant: 0.0, factors: vec![(1.0, *at)] },
        },
        Expr::Unary(Unary::Neg, a) => of(a)?.scaled(-1.0),
        Expr::Binary(Binary::Add, a, b) => of(a)?.plus(of(b)?),
        Expr::Binary(Binary::Sub, a, b) => of(a)?.plus(of(b)?.scaled(-1.0)),
        Expr::Binary(Binary::Mul, a, b) => match (of(a)?, of(b)?) {
            (a, b) if b.factors.is_empty() => a.scaled(b.constant),
            (a, b) if a.factors.is_empty() => b.scaled(a.constant),
            _ => return None,
        },
        Expr::Binary(Binary::Div, a, b) => match of(b)? {
            b if b.factors.is_empty() && b.constant != 0.0 => of(a)?.scaled(1.0 / b.constant),
            _ => return None,
        },
        _ => return None,
    })
}

/// The number that every element of a value is, and the node that says so.
pub fn number(graph: &Graph, value: ValueId) -> Option<(NodeId, f64)> {
    let Def::Node(id, _) = graph.value(value).def else { return None };
    let node = graph.node(id);
    match (op_name(node), &node.attrs.0[..]) {
        ("const", [Attr::Floats(values)]) => match values[..] {
            [first, ref rest @ ..] if rest.iter().all(|v| *v == first) => Some((id, first)),
            _ => None,
        },
        _ => None,
    }
}
