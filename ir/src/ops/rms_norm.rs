//! `rms_norm`: division by the root of the mean square.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Graph, Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs, define};
use crate::tensor::Tensor;

const INDEX: Key<Name> = Key::new(0, "index");
const EPS: Key<f64> = Key::new(1, "eps");

const SCHEMA: Schema = Schema {
    name: "rms_norm",
    summary: "x / sqrt(mean of x^2 along `index` + eps), times w",
    operands: &["x", "w"],
    mask: false,
    attrs: &[INDEX.spec(), EPS.spec()],
    results: 1,
};

/// `rms_norm %x, %w {index = D, eps = 1e-6} : f32[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let index = node.get(INDEX);
        node.position(0, index)?;
        if node.operand(1).indices[..] != [index.clone()] {
            return Err(node.wrong_indices(1, format!("[{index}]")));
        }
        let eps = *node.get(EPS);
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(node.wrong_attr(EPS, eps, "a number not below 0"));
        }
        let indices = node.operand(0).indices.clone();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, results: &[Type]) -> Dim {
        // Square, sum, and two products.
        node.elements(&results[0]).times(&4.into())
    }

    fn tolerance(&self, node: &NodeView, _results: &[Type]) -> Tolerance {
        node.sum_tolerance([node.get(INDEX)])
    }

    fn definition(&self, node: &NodeView) -> Option<Result<Graph, IrError>> {
        Some(define(node, |b, operands, _| {
            let all = node.operand(0).indices.clone();
            let index = node.get(INDEX);
            let rest: Vec<&Name> = all.iter().filter(|i| *i != index).collect();
            let (x, w) = (("x", operands[0]), ("w", operands[1]));
            let squares = b.map("x * x", &[x], &all)?;
            let sum = b.reduce("sum", squares, None, &rest)?;
            let n = b.size(node.extent(index))?;
            let eps = b.splat::<&str>(*node.get(EPS), &[])?;
            let root = b.map(
                "1 / sqrt(sum / float(n) + eps)",
                &[("sum", sum), ("n", n), ("eps", eps)],
                &rest,
            )?;
            b.map("x * root * w", &[x, ("root", root), w], &all)
        }))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (own, index) = (cx.indices(), cx.node.get(INDEX));
        let rows_last: Vec<Name> =
            own.iter().filter(|i| *i != index).chain([index]).cloned().collect();
        let mut x = cx.arranged(0, &rows_last)?.into_owned();
        let w = cx.operands[1].as_floats();
        let n = N::from_i64(cx.extent(index)? as i64);
        let eps = N::from_f64(f64::from(*cx.node.get(EPS) as f32));
        for row in x.chunks_mut(w.len().max(1)) {
            let mean = N::dot(row, row).div(n)?;
            let root = mean.add(eps).inverse_root(cx.key)?;
            row.iter_mut().zip(w).for_each(|(x, w)| *x = x.mul(root).mul(*w));
        }
        cx.result_from(&rows_last, x)
    }
}

impl GraphBuilder {
    /// `x / sqrt(mean(x^2) + eps) * w`, the mean along `index`.
    pub fn rms_norm(
        &mut self,
        x: ValueId,
        w: ValueId,
        index: &str,
        eps: f64,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), eps.into()]);
        self.node1(OpRef(&Op), &[x, w], None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @row(%x: f32[s, D], weight %w: f32[D]) -> f32[s, D]
  params D = 2, s = 2 {
  %0 = rms_norm %x, %w {index = D, eps = 0} : f32[s, D]
  return %0
}",
        inputs: &[&[3.0, 3.0, -8.0, 0.0], &[1.0, 0.5]],
        outputs: &[&[1.0, 0.5, -std::f64::consts::SQRT_2, 0.0]],
    },
    Sample {
        graph: "graph @zeros(%x: f32[s, D], weight %w: f32[D]) -> f32[s, D]
  params D = 1, s = 1 {
  %0 = rms_norm %x, %w {index = D, eps = 1e-6} : f32[s, D]
  return %0
}",
        inputs: &[&[0.0], &[2.0]],
        outputs: &[&[0.0]],
    },
    Sample {
        graph: "graph @middle(%x: f32[s, c, h], weight %w: bf16[c]) -> f32[s, c, h]
  params c = 5, h = 2, s = 3 {
  %0 = rms_norm %x, %w {index = c, eps = 0.01} : f32[s, c, h]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
];
