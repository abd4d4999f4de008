//! Where rows over the context come from: views of what a state keeps, or of what a step computes
//! from it.

use crate::lower::partition::{context_index, is_expanded, is_history, op_name};
use ir::attr::Attr;
use ir::dim::Name;
use ir::dtype::Class;
use ir::expr::Expr;
use ir::graph::{Def, Graph, Node, NodeId, ValueId};

/// One axis of a row in memory, as a view names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The view's index.
    pub index: Name,
    /// First position along the axis in memory that the view shows.
    pub start: i64,
}

/// Rows over the context, as a view of a value that lies in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The history, or what the step computes from one.
    pub base: ValueId,
    /// Axes of a row in memory, in order.
    pub axes: Vec<Axis>,
    /// Nodes between the base and the view.
    pub views: Vec<NodeId>,
}

impl Source {
    /// What a value over the context shows, if it is a view of what is in memory; else the value
    /// that is none, on the way to it.
    pub fn of(graph: &Graph, value: ValueId) -> Result<Source, ValueId> {
        let mut views = vec![];
        let mut at = value;
        while !is_history(graph, at) && !is_expanded(graph, at) {
            let Def::Node(id, _) = graph.value(at).def else { return Err(at) };
            if !is_view(graph, graph.node(id)) {
                return Err(at);
            }
            views.push(id);
            at = graph.node(id).operands[0];
        }
        views.reverse();
        let context = context_index(graph, at);
        let row = graph.ty(at).indices.iter().filter(|i| Some(*i) != context);
        let axes = row.map(|i| Axis { index: i.clone(), start: 0 }).collect();
        let mut source = Source { base: at, axes, views: vec![] };
        for id in views {
            source.through(graph, graph.node(id)).ok_or(graph.node(id).results[0])?;
            source.views.push(id);
        }
        Ok(source)
    }

    fn through(&mut self, graph: &Graph, node: &Node) -> Option<()> {
        match (op_name(node), &node.attrs.0[..]) {
            ("slice", [Attr::Name(index), Attr::Name(into), Attr::Dim(start)]) => {
                let axis = self.axes.iter_mut().find(|a| a.index == *index)?;
                axis.start += start.bound_value(&graph.symbols)?;
                axis.index = into.clone();
            }
            ("rename", [Attr::Names(from), Attr::Names(to)]) => {
                for axis in &mut self.axes {
                    if let Some(at) = from.iter().position(|f| *f == axis.index) {
                        axis.index = to[at].clone();
                    }
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Whether a node shows elements of its operand without computing anything.
fn is_view(graph: &Graph, node: &Node) -> bool {
    let floats = || {
        let classes = [node.operands[0], node.results[0]].map(|v| graph.ty(v).class());
        classes == [Class::Float, Class::Float]
    };
    match (op_name(node), node.attrs.0.first()) {
        ("slice" | "rename", _) => true,
        ("cast" | "dequantize", _) => floats(),
        // An index that is new repeats the operand: whoever reads it finds it missing.
        ("map", Some(Attr::Expr(expr))) => node.operands.len() == 1 && *expr == Expr::Arg(0),
        _ => false,
    }
}
