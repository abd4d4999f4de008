//! `append`: new rows after those of a state.

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
use crate::tensor::Tensor;

const INTO: Key<Name> = Key::new(0, "into");

const SCHEMA: Schema = Schema {
    name: "append",
    summary: "rows of a state and then new ones, as index `into`; the state keeps them all",
    operands: &["state", "x"],
    mask: false,
    attrs: &[INTO.spec()],
    results: 1,
};

/// `append %past, %c {into = t} : bf16[t, r]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (state, x) = (node.operand(0), node.operand(1));
        let (Some(past), Some(new)) = (state.indices.first(), x.indices.first()) else {
            let scalar = if state.indices.is_empty() { 0 } else { 1 };
            return Err(node.wrong_indices(scalar, "rows along its first index"));
        };
        if state.indices[1..] != x.indices[1..] {
            return Err(node.wrong_indices(1, format!("rows as of {state}")));
        }
        if state.encoding != x.encoding {
            let (op, operand, found) = (SCHEMA.name, "x", x.encoding);
            let expected = state.encoding.to_string();
            return Err(GraphError::OperandEncoding { op, operand, found, expected });
        }
        let into = node.get(INTO);
        node.equal(&node.extent(into), &node.extent(past).plus(&node.extent(new)))?;
        let mut indices = state.indices.clone();
        indices[0] = into.clone();
        Ok(vec![Type { encoding: state.encoding, indices }])
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

    fn reads(&self, node: &NodeView, _results: &[Type]) -> Dim {
        // The past stays where it is; only new rows move.
        node.bytes(node.operand(1))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (past, new) = (cx.operands[0], cx.operands[1]);
        let mut data = past.data().clone();
        data.extend(new.data(), 0..new.data().len());
        cx.result(data)
    }
}

impl GraphBuilder {
    /// The rows of a state and then those of `x`, along `into`; the state keeps them.
    pub fn append(&mut self, state: ValueId, x: ValueId, into: &str) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[state, x], None, attrs([Name::from(into).into()]), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @keep(state %past: bf16[u, r], %x: bf16[s, r]) -> bf16[t, r]
  params r = 2, s = 1, t = 3
  index u = -s + t {
  %0 = append %past, %x {into = t} : bf16[t, r]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0]],
        outputs: &[&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
    },
    Sample {
        graph: "graph @first(state %past: i32[u], %x: i32[s]) -> i32[t]
  params s = 2, t = 2
  index u = -s + t {
  %0 = append %past, %x {into = t} : i32[t]
  return %0
}",
        inputs: &[&[], &[5.0, 6.0]],
        outputs: &[&[5.0, 6.0]],
    },
];
