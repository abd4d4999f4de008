//! `swiglu`: a gated product.

use crate::attr::Attrs;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::IrError;
use crate::expr::Unary;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Graph, Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, define};
use crate::tensor::{Data, Tensor};

const SCHEMA: Schema = Schema {
    name: "swiglu",
    summary: "gate * sigmoid(gate) * up",
    operands: &["gate", "up"],
    mask: false,
    attrs: &[],
    results: 1,
};

/// `swiglu %g, %u : f32[s, f]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let gate = node.operand(0);
        if node.operand(1).indices != gate.indices {
            return Err(node.wrong_indices(1, format!("the indices of {gate}")));
        }
        Ok(vec![Type { encoding: DType::F32.into(), indices: gate.indices.clone() }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, results: &[Type]) -> Dim {
        node.elements(&results[0]).times(&3.into())
    }

    fn tolerance(&self, _node: &NodeView, _results: &[Type]) -> Tolerance {
        Tolerance::Ulps(8.0)
    }

    fn definition(&self, node: &NodeView) -> Option<Result<Graph, IrError>> {
        Some(define(node, |b, operands, _| {
            let (g, u) = (("g", operands[0]), ("u", operands[1]));
            b.map("g * sigmoid(g) * u", &[g, u], &node.operand(0).indices)
        }))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (gate, up) = (cx.operands[0].as_floats(), cx.operands[1].as_floats());
        let of = |(g, u): (&N, &N)| gated(*g, *u, cx.key);
        cx.result(Data::Float(gate.iter().zip(up).map(of).collect()))
    }
}

/// `gate * sigmoid(gate) * up`
pub(crate) fn gated<N: Number>(gate: N, up: N, key: u64) -> N {
    gate.mul(gate.unary(Unary::Sigmoid, key)).mul(up)
}

impl GraphBuilder {
    /// `gate * sigmoid(gate) * up`
    pub fn swiglu(&mut self, gate: ValueId, up: ValueId) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[gate, up], None, Attrs::default(), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @gated(%gate: f32[s, f], %up: f32[s, f]) -> f32[s, f]
  params f = 3, s = 1 {
  %0 = swiglu %gate, %up : f32[s, f]
  return %0
}",
        inputs: &[&[0.0, 1.0, f64::NAN], &[7.0, 2.0, 0.0]],
        outputs: &[&[0.0, 1.4621171572600098, f64::NAN]],
    },
    Sample {
        graph: "graph @random(%gate: f32[s, f], %up: f32[s, f]) -> f32[s, f]
  params f = 5, s = 3 {
  %0 = swiglu %gate, %up : f32[s, f]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
];
