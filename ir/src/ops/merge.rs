//! `merge`: several indices as one.

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

const INDICES: Key<Vec<Name>> = Key::new(0, "indices");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "merge",
    summary: "indices, slowest first, as one that stands where the first of them stood",
    operands: &["x"],
    mask: false,
    attrs: &[INDICES.spec(), INTO.spec()],
    results: 1,
};

/// `merge %x {indices = [h, d], into = c} : f32[s, c]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (merged, into) = (node.get(INDICES), node.get(INTO));
        let Some(first) = merged.first() else {
            return Err(node.wrong_attr(INDICES, "empty", "at least one index"));
        };
        for (i, index) in merged.iter().enumerate() {
            node.position(0, index)?;
            if merged[..i].contains(index) {
                return Err(GraphError::RepeatedIndex(index.clone()));
            }
        }
        node.equal(&node.extent(into), &node.product(merged))?;
        let stay = x.indices.iter().filter(|i| *i == first || !merged.contains(i));
        let indices = stay.map(|i| if i == first { into.clone() } else { i.clone() }).collect();
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
        let (merged, into) = (node.get(INDICES), node.get(INTO));
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let indices = tiles.axes(&ty.indices);
        let at = indices.iter().position(|i| i == into).ok_or_else(|| undeclared(&SCHEMA))?;
        let mut axes = indices.clone();
        axes.splice(at..=at, merged.iter().cloned());
        let value = tiles.permuted(&operands[0], &axes);
        let value = match merged.len() {
            1 => value,
            count => tiles.kernel.merge(value, at as u32, count as u32),
        };
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let merged = cx.node.get(INDICES);
        let own = &cx.node.operand(0).indices;
        // The result's order, with the merged indices spelt out where the joint one stands.
        let spelt = |i: &Name| match i == cx.node.get(INTO) {
            true => merged.clone(),
            false => vec![i.clone()],
        };
        let order: Vec<Name> = cx.indices().iter().flat_map(spelt).collect();
        let (extents, strides) = (cx.extents(&order)?, cx.strides(own, &order)?);
        cx.result(cx.operands[0].data().spread(&extents, &strides)?)
    }
}

impl GraphBuilder {
    /// Several indices, slowest first, as one.
    pub fn merge(&mut self, x: ValueId, indices: &[&str], into: &str) -> Result<ValueId, IrError> {
        let indices: Vec<Name> = indices.iter().map(|i| Name::from(*i)).collect();
        let attrs = attrs([indices.into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[x], None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @heads(%x: f32[s, h, d]) -> f32[s, c]
  params d = 2, h = 2, s = 1
  index c = d*h {
  %0 = merge %x {indices = [h, d], into = c} : f32[s, c]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0]],
        outputs: &[&[1.0, 2.0, 3.0, 4.0]],
    },
    Sample {
        graph: "graph @across(%x: i32[h, s, d]) -> i32[s, c]
  params d = 2, h = 2, s = 3
  index c = d*h {
  %0 = merge %x {indices = [d, h], into = c} : i32[s, c]
  return %0
}",
        inputs: &[&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]],
        outputs: &[&[0.0, 6.0, 1.0, 7.0, 2.0, 8.0, 3.0, 9.0, 4.0, 10.0, 5.0, 11.0]],
    },
];
