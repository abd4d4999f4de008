//! `slice`: a range of an index.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::{Data, Tensor};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");
const START: Key<Dim> = Key::new(2, "start");

const SCHEMA: Schema = Schema {
    name: "slice",
    summary: "the rows of `index` from `start` on, as many as `into` has",
    operands: &["x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec(), START.spec()],
    results: 1,
};

/// `slice %x {index = c, into = dr, start = dn} : f32[s, h, dr]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        node.within(node.get(START), &node.extent(into), &node.extent(index))?;
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, operands: &[Range]) -> Result<Range, Beyond> {
        Ok(node.ranges(operands))
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let (index, into, start) = (node.get(INDEX), node.get(INTO), node.get(START));
        let x = &operands[0];
        let at = x.indices.iter().position(|i| i == index).ok_or_else(|| undeclared(&SCHEMA))?;
        let first = start.bound_value(&node.graph.symbols).and_then(|v| u32::try_from(v).ok());
        let Some(first) = first else {
            let (op, found) = (SCHEMA.name, format!("start {start}"));
            return Err(Unlowered { op, found, expected: "a start known when compiling" });
        };
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        let mut starts = vec![0; indices.len()];
        starts[at] = first;
        let extents = tiles.shape(node.graph, &indices)?;
        let value = tiles.kernel.slice(x.value, &starts, &extents);
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (own, index) = (&cx.node.operand(0).indices, cx.node.get(INDEX));
        let into = cx.node.get(INTO);
        let (start, into) = (cx.dim(cx.node.get(START))?, cx.extent(into)?);
        let extent = cx.extent(index)?;
        let end = start.saturating_add(into as i64);
        if start < 0 || end > extent as i64 {
            return Err(GraphError::OutOfRange { op: SCHEMA.name, found: end - 1, extent });
        }
        let stride = cx.strides(own, std::slice::from_ref(index))?[0];
        let outer: usize = cx.extents(own)?.iter().product::<usize>() / (stride * extent).max(1);
        let mut data = Data::empty(cx.results[0].class());
        for i in 0..outer {
            let from = (i * extent + start as usize) * stride;
            data.extend(cx.operands[0].data(), from..from + into * stride);
        }
        cx.result(data)
    }
}

impl GraphBuilder {
    /// The rows of `index` from `start` on, as many as `into` has.
    pub fn slice(
        &mut self,
        x: ValueId,
        index: &str,
        into: &str,
        start: impl Into<Dim>,
    ) -> Result<ValueId, IrError> {
        let names = [Name::from(index).into(), Name::from(into).into(), start.into().into()];
        self.node1(OpRef(&Op), &[x], None, attrs(names), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @middle(%x: f32[s, c, d]) -> f32[s, n, d]
  params c = 3, d = 2, n = 1, s = 2 {
  %0 = slice %x {index = c, into = n, start = 1} : f32[s, n, d]
  return %0
}",
        inputs: &[&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, -0.0]],
        outputs: &[&[2.0, 3.0, 8.0, 9.0]],
    },
    Sample {
        graph: "graph @last(%x: i32[c]) -> i32[n]
  params c = 5, n = 2 {
  %0 = slice %x {index = c, into = n, start = c - n} : i32[n]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0, 5.0]],
        outputs: &[&[4.0, 5.0]],
    },
];
