//! Values as one expression over the elements of others.

use crate::lower::linear::number;
use crate::lower::partition::op_name;
use ir::attr::Attr;
use ir::dtype::DType;
use ir::expr::{Binary, Expr};
use ir::graph::{Def, Graph, Node, NodeId, ValueId};
use ir::op::NodeView;
use std::collections::BTreeSet;

/// Most nodes that are looked into.
const NODES_MAX: usize = 256;
/// Greatest size of an expression: it is a tree, and sharing makes it grow.
const SIZE_MAX: usize = 1024;

/// Operands of an expression, in the order in which it numbers them.
#[derive(Clone, Debug)]
pub struct Leaves<L>(pub Vec<L>);

impl<L> Default for Leaves<L> {
    fn default() -> Self {
        Leaves(vec![])
    }
}

/// A value as an expression over leaves. `leaf` says what a value is, if it is one; numbers are
/// part of the expression. `through` takes the nodes in between. `None` where something on the way
/// is neither a leaf nor computed element by element.
pub fn compose<L: PartialEq>(
    graph: &Graph,
    value: ValueId,
    leaf: &mut dyn FnMut(ValueId) -> Option<L>,
    leaves: &mut Leaves<L>,
    through: &mut BTreeSet<NodeId>,
) -> Option<Expr> {
    let mut number_of = |value| {
        let found = leaf(value)?;
        let known = leaves.0.iter().position(|l| *l == found);
        Some(Expr::Arg(known.unwrap_or_else(|| {
            leaves.0.push(found);
            leaves.0.len() - 1
        })))
    };
    let mut composer = Composer { graph, left: NODES_MAX, through };
    composer.value(value, &mut number_of)
}

struct Composer<'g, 't> {
    graph: &'g Graph,
    left: usize,
    through: &'t mut BTreeSet<NodeId>,
}

impl Composer<'_, '_> {
    fn value(
        &mut self,
        value: ValueId,
        leaf: &mut dyn FnMut(ValueId) -> Option<Expr>,
    ) -> Option<Expr> {
        if let Some((_, x)) = number(self.graph, value) {
            return Some(Expr::Num(x));
        }
        if let Some(found) = leaf(value) {
            return Some(found);
        }
        let Def::Node(id, _) = self.graph.value(value).def else { return None };
        self.left = self.left.checked_sub(1)?;
        let node = self.graph.node(id);
        let result = self.graph.ty(value);
        let found = match (op_name(node), &node.attrs.0[..]) {
            ("map", [Attr::Expr(expr)]) => {
                let args: Option<Vec<Expr>> =
                    node.operands.iter().map(|v| self.value(*v, leaf)).collect();
                let args = args?;
                let sizes: Vec<usize> = args.iter().map(|a| size(a, &[])).collect();
                (size(expr, &sizes) <= SIZE_MAX).then_some(())?;
                substituted(expr, &args)
            }
            ("cast", _) if result.dtype() == DType::F32 => self.value(node.operands[0], leaf)?,
            ("contract", _) => {
                let kept = |v: &ValueId| self.graph.ty(*v).indices.iter().all(|i| result.has(i));
                node.operands.iter().all(kept).then_some(())?;
                let factors: Option<Vec<Expr>> =
                    node.operands.iter().map(|v| self.value(*v, leaf)).collect();
                factors?.into_iter().reduce(|a, b| a.binary(Binary::Mul, b))?
            }
            _ => self.definition(node, leaf)?,
        };
        self.through.insert(id);
        Some(found)
    }

    /// A composite by the graph that defines it.
    fn definition(
        &mut self,
        node: &Node,
        leaf: &mut dyn FnMut(ValueId) -> Option<Expr>,
    ) -> Option<Expr> {
        if node.masked || node.results.len() != 1 {
            return None;
        }
        let (operands, declared) =
            (self.graph.types(&node.operands), self.graph.types(&node.results));
        let view = NodeView {
            schema: node.op.0.schema(),
            graph: self.graph,
            operands: &operands,
            mask: None,
            attrs: &node.attrs.0,
            declared: Some(&declared),
        };
        let definition = node.op.0.definition(&view)?.ok()?;
        let args: Option<Vec<Expr>> = node.operands.iter().map(|v| self.value(*v, leaf)).collect();
        let args = args?;
        let mut inner_leaf = |value: ValueId| {
            let at = definition.params.iter().position(|p| *p == value)?;
            Some(args[at].clone())
        };
        let mut inside = BTreeSet::new();
        let [output] = definition.outputs[..] else { return None };
        let mut inner = Composer { graph: &definition, left: self.left, through: &mut inside };
        let found = inner.value(output, &mut inner_leaf);
        self.left = inner.left;
        found
    }
}

/// Number of functions, numbers and operands, given what operands count for (1 by default).
fn size(expr: &Expr, of: &[usize]) -> usize {
    match expr {
        Expr::Arg(i) => of.get(*i).copied().unwrap_or(1),
        Expr::Num(_) | Expr::Lowest => 1,
        Expr::Unary(_, a) => size(a, of).saturating_add(1),
        Expr::Binary(_, a, b) => size(a, of).saturating_add(size(b, of)).saturating_add(1),
        Expr::Select(x) => x.iter().fold(1usize, |n, e| n.saturating_add(size(e, of))),
    }
}

/// An expression with its operands replaced.
fn substituted(expr: &Expr, args: &[Expr]) -> Expr {
    match expr {
        Expr::Arg(i) => args[*i].clone(),
        Expr::Num(_) | Expr::Lowest => expr.clone(),
        Expr::Unary(f, a) => substituted(a, args).unary(*f),
        Expr::Binary(f, a, b) => substituted(a, args).binary(*f, substituted(b, args)),
        Expr::Select(x) => {
            let [c, a, b] = &**x;
            let [c, a, b] = [c, a, b].map(|e| substituted(e, args));
            c.select(a, b)
        }
    }
}
