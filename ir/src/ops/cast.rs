//! `cast`: rounding to another float type.

use crate::attr::Key;
use crate::dim::Dim;
use crate::dtype::{Class, DType, Encoding};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::{Data, Tensor};
use crate::tiles::{Tile, Tiles, Unlowered};

const TO: Key<Encoding> = Key::new(0, "to");

const SCHEMA: Schema = Schema {
    name: "cast",
    summary: "to another plain float type, to nearest, ties to even; the identity in the field",
    operands: &["x"],
    mask: false,
    attrs: &[TO.spec()],
    results: 1,
};

/// `cast %x {to = bf16} : bf16[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let to = *node.get(TO);
        if !to.is_plain() || to.code.class() != Class::Float || to.code == DType::E8M0 {
            return Err(node.wrong_attr(TO, to, "a plain float type"));
        }
        Ok(vec![Type { encoding: to, indices: node.operand(0).indices.clone() }])
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
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let value = tiles.kernel.cast(operands[0].value, node.get(TO).code);
        Ok(vec![Tile { value, ..operands[0].clone() }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let to = cx.node.get(TO).code;
        let x = cx.operands[0].as_floats();
        cx.result(Data::Float(x.iter().map(|v| v.round(to)).collect()))
    }
}

impl GraphBuilder {
    /// Rounds to another float type.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], None, attrs([Encoding::plain(to).into()]), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @to_bf16(%x: f32[s]) -> bf16[s]
  params s = 5 {
  %0 = cast %x {to = bf16} : bf16[s]
  return %0
}",
        inputs: &[&[1.00390625, 1.01171875, -0.0, f64::NAN, f64::NEG_INFINITY]],
        outputs: &[&[1.0, 1.015625, -0.0, f64::NAN, f64::NEG_INFINITY]],
    },
    Sample {
        graph: "graph @to_fp8(%x: f32[s]) -> fp8_e4m3[s]
  params s = 3 {
  %0 = cast %x {to = fp8_e4m3} : fp8_e4m3[s]
  return %0
}",
        inputs: &[&[1000.0, 0.001, 17.0]],
        outputs: &[&[448.0, 0.001953125, 16.0]],
    },
];
