//! `split`: one index as several.

use crate::attr::Key;
use crate::dim::Name;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::Tensor;
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Vec<Name>> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "split",
    summary: "an index as several whose extents multiply to its own, slowest first",
    operands: &["x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `split %x {index = c, into = [h, d]} : f32[s, h, d]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        node.equal(&node.extent(index), &node.product(into))?;
        let mut indices = x.indices.clone();
        indices.splice(at..=at, into.iter().cloned());
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
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let x = &operands[0];
        let at = x.indices.iter().position(|i| i == index).ok_or_else(|| undeclared(&SCHEMA))?;
        let extents = tiles.shape(node.graph, into)?;
        let value = tiles.kernel.split(x.value, at as u32, &extents);
        let mut indices = x.indices.clone();
        indices.splice(at..=at, into.iter().cloned());
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        cx.result(cx.operands[0].data().clone())
    }
}

impl GraphBuilder {
    /// An index as several, slowest first.
    pub fn split(&mut self, x: ValueId, index: &str, into: &[&str]) -> Result<ValueId, IrError> {
        let into: Vec<Name> = into.iter().map(|i| Name::from(*i)).collect();
        let attrs = attrs([Name::from(index).into(), into.into()]);
        self.node1(OpRef(&Op), &[x], None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @heads(%x: f32[s, c]) -> f32[s, h, d]
  params d = 3, h = 2, s = 1
  index c = d*h {
  %0 = split %x {index = c, into = [h, d]} : f32[s, h, d]
  return %0
}",
        inputs: &[&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]],
        outputs: &[&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]],
    },
    Sample {
        graph: "graph @units(%x: bool[c]) -> bool[a, b, c1]
  params c = 2
  index a = 1, b = 1, c1 = c {
  %0 = split %x {index = c, into = [a, b, c1]} : bool[a, b, c1]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
];
