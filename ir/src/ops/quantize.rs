//! `quantize`: codes and scales for blocks of elements.

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
    name: "quantize",
    summary: "to codes with one scale for each block of the last two indices",
    operands: &["x"],
    mask: false,
    attrs: &[TO.spec()],
    results: 1,
};

/// `quantize %x {to = i8<f32 1x32>} : i8<f32 1x32>[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let to = *node.get(TO);
        let codes = [DType::F8E4M3, DType::F4E2M1, DType::I8, DType::I4];
        let scales = [DType::F32, DType::F16, DType::BF16, DType::E8M0];
        if !codes.contains(&to.code) || !to.scale.is_some_and(|s| scales.contains(&s.dtype)) {
            return Err(node.wrong_attr(TO, to, "small codes with float scales"));
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
        // Magnitude, maximum, product, rounding.
        node.elements(&results[0]).times(&4.into())
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let value = tiles.kernel.encode(operands[0].value, *node.get(TO));
        Ok(vec![Tile { value, ..operands[0].clone() }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let to = *cx.node.get(TO);
        let shape = cx.shape()?;
        let mut x = cx.operands[0].as_floats().to_vec();
        let (cols, rows) = match shape[..] {
            [] => (1, 1),
            [cols] => (cols, 1),
            [.., rows, cols] => (cols, rows),
        };
        let scale = to.scale.map_or((1, 1), |s| (s.rows as usize, s.cols as usize));
        for matrix in x.chunks_mut((rows * cols).max(1)) {
            for row in (0..rows).step_by(scale.0) {
                for col in (0..cols).step_by(scale.1) {
                    let span = col..cols.min(col + scale.1);
                    let at = |r: usize| r * cols + span.start..r * cols + span.end;
                    let block = row..rows.min(row + scale.0);
                    let mut codes: Vec<N> =
                        block.clone().flat_map(|r| matrix[at(r)].to_vec()).collect();
                    N::quantize(&mut codes, to, cx.key);
                    for (r, part) in block.zip(codes.chunks(span.len())) {
                        matrix[at(r)].copy_from_slice(part);
                    }
                }
            }
        }
        cx.result(Data::Float(x))
    }
}

impl GraphBuilder {
    /// Codes and scales.
    pub fn quantize(&mut self, x: ValueId, to: Encoding) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], None, attrs([to.into()]), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @rows(%x: f32[s, D]) -> i8<f32 1x2>[s, D]
  params D = 3, s = 2 {
  %0 = quantize %x {to = i8<f32 1x2>} : i8<f32 1x2>[s, D]
  return %0
}",
        inputs: &[&[127.0, 1.4, 254.0, 0.0, 0.0, -63.5]],
        outputs: &[&[127.0, 1.0, 254.0, 0.0, 0.0, -63.5]],
    },
    Sample {
        graph: "graph @powers(%x: f32[D]) -> fp4_e2m1<e8m0 1x32>[D]
  params D = 3 {
  %0 = quantize %x {to = fp4_e2m1<e8m0 1x32>} : fp4_e2m1<e8m0 1x32>[D]
  return %0
}",
        inputs: &[&[7.0, 0.9, -5.0]],
        outputs: &[&[8.0, 1.0, -4.0]],
    },
    Sample {
        graph: "graph @blocks(%x: f32[a, b]) -> i4<f32 2x2>[a, b]
  params a = 3, b = 1 {
  %0 = quantize %x {to = i4<f32 2x2>} : i4<f32 2x2>[a, b]
  return %0
}",
        inputs: &[&[7.0, 3.4, 0.5]],
        outputs: &[&[7.0, 3.0, 0.5]],
    },
];
