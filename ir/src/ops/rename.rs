//! `rename`: other names for indices.

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
use crate::tiles::{Tile, Tiles, Unlowered};

const FROM: Key<Vec<Name>> = Key::new(0, "from");
const TO: Key<Vec<Name>> = Key::new(1, "to");

const SCHEMA: Schema = Schema {
    name: "rename",
    summary: "the same value with other names, of equal extents, for some of its indices",
    operands: &["x"],
    mask: false,
    attrs: &[FROM.spec(), TO.spec()],
    results: 1,
};

/// `rename %x {from = [t], to = [s]} : f32[s, d]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let x = node.operand(0);
        let (from, to) = (node.get(FROM), node.get(TO));
        if from.len() != to.len() {
            let found = format!("{} names", to.len());
            return Err(node.wrong_attr(TO, found, "as many as 'from'"));
        }
        let mut indices = x.indices.clone();
        for (old, new) in from.iter().zip(to) {
            indices[node.position(0, old)?] = new.clone();
            node.equal(&node.extent(old), &node.extent(new))?;
        }
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
        _tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let mut tile = operands[0].clone();
        for index in &mut tile.indices {
            if let Some(at) = node.get(FROM).iter().position(|f| f == index) {
                *index = node.get(TO)[at].clone();
            }
        }
        Ok(vec![tile])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        cx.result(cx.operands[0].data().clone())
    }
}

impl GraphBuilder {
    /// Other names for some indices: `rename(x, &[("t", "s")])`.
    pub fn rename(&mut self, x: ValueId, names: &[(&str, &str)]) -> Result<ValueId, IrError> {
        let from: Vec<Name> = names.iter().map(|(from, _)| Name::from(*from)).collect();
        let to: Vec<Name> = names.iter().map(|(_, to)| Name::from(*to)).collect();
        self.node1(OpRef(&Op), &[x], None, attrs([from.into(), to.into()]), None)
    }
}

const SAMPLES: &[Sample] = &[Sample {
    graph: "graph @rows(%x: f32[t, d]) -> f32[s, e]
  params d = 1, s = 3
  index e = d, t = s {
  %0 = rename %x {from = [t, d], to = [s, e]} : f32[s, e]
  return %0
}",
    inputs: &[&[1.0, f64::NAN, -0.0]],
    outputs: &[&[1.0, f64::NAN, -0.0]],
}];
