//! `history`: rows kept over time.

use crate::attr::{AttrValue, Key};
use crate::dim::{Dim, Name, Sort};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Graph, Node, NodeId, Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::Tensor;

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "history",
    summary: "x of all steps: rows of earlier ones and then this one's along `into`, in place of \
              `index`",
    operands: &["x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `history %c {index = s, into = t} : f32[t, r]`
///
/// The extent of `into` is a symbol: that of `index` and as many rows as earlier steps had. An
/// evaluation is given the earlier rows, and gives all of them back.
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        let extent = node.extent(into);
        let symbol = extent.as_symbol().and_then(|name| node.graph.symbols.get(name));
        if !symbol.is_some_and(|s| s.sort == Sort::Step || s.value.is_some()) {
            let found = format!("{into} of extent {extent}");
            return Err(node.wrong_attr(INTO, found, "an index whose extent is a step symbol"));
        }
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn reads(&self, node: &NodeView, _results: &[Type]) -> Dim {
        // The past stays where it is; only new rows move.
        node.bytes(node.operand(0))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let own = &cx.node.operand(0).indices;
        let (index, into) = (cx.node.get(INDEX), cx.node.get(INTO));
        let rows_first = |first: &Name| -> Vec<Name> {
            [first].into_iter().chain(own.iter().filter(|i| *i != index)).cloned().collect()
        };
        let mut rows = cx.past.map_or(vec![], |past| past.as_floats().to_vec());
        rows.extend_from_slice(&cx.arranged(0, &rows_first(index))?);
        cx.result_from(&rows_first(into), rows)
    }
}

impl Graph {
    /// Its `history` nodes in order, each with the axis of its result that the rows are along.
    pub fn histories(&self) -> Vec<(NodeId, usize)> {
        let axis = |node: &Node| {
            let into = Name::of(node.attrs.0.get(INTO.at)?)?;
            self.ty(*node.results.first()?).position(into)
        };
        let nodes = self.nodes.iter().enumerate().filter(|(_, n)| n.op == OpRef(&Op));
        nodes.filter_map(|(i, n)| Some((NodeId(i as u32), axis(n)?))).collect()
    }
}

impl GraphBuilder {
    /// All rows of `x` so far, along `into`: those of earlier steps, and then these along `index`.
    pub fn history(&mut self, x: ValueId, index: &str, into: &str) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[x], None, attrs, None)
    }
}

// A sample has no past: `t` is `s`.
const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @first(%x: f32[s, r]) -> f32[t, r]
  params r = 2, s = 3, t = 3 {
  %0 = history %x {index = s, into = t} : f32[t, r]
  return %0
}",
        inputs: &[&[1.0, -0.0, 3.0, f64::NAN, f64::INFINITY, 6.0]],
        outputs: &[&[1.0, -0.0, 3.0, f64::NAN, f64::INFINITY, 6.0]],
    },
    Sample {
        graph: "graph @heads_first(%x: bf16[h, s, r]) -> bf16[h, t, r]
  params h = 2, r = 1, s = 2, t = 2 {
  %0 = history %x {index = s, into = t} : bf16[h, t, r]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0]],
        outputs: &[&[1.0, 2.0, 3.0, 4.0]],
    },
];
