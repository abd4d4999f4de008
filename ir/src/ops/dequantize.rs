//! `dequantize`: the numbers that codes and scales stand for.

use crate::attr::Attrs;
use crate::dim::Dim;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema};
use crate::tensor::Tensor;
use crate::tiles::{Tile, Tiles, Unlowered};

const SCHEMA: Schema = Schema {
    name: "dequantize",
    summary: "the f32 values of an encoded operand",
    operands: &["x"],
    mask: false,
    attrs: &[],
    results: 1,
};

/// `dequantize %x : f32[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        Ok(vec![Type { encoding: DType::F32.into(), indices: node.operand(0).indices.clone() }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, results: &[Type]) -> Dim {
        node.elements(&results[0])
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        _node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let value = tiles.kernel.decode(operands[0].value);
        Ok(vec![Tile { value, ..operands[0].clone() }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        cx.result(cx.operands[0].data().clone())
    }
}

impl GraphBuilder {
    /// The numbers that codes and scales stand for.
    pub fn dequantize(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], None, Attrs::default(), None)
    }
}

const SAMPLES: &[Sample] = &[Sample {
    graph: "graph @codes(%x: i8<f32 1x32>[s, D]) -> f32[s, D]
  params D = 2, s = 1 {
  %0 = dequantize %x : f32[s, D]
  return %0
}",
    inputs: &[&[0.5, -3.0]],
    outputs: &[&[0.5, -3.0]],
}];
