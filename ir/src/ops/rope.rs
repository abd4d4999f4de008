//! `rope`: rotates pairs by a table of rotations.

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

const SCHEMA: Schema = Schema {
    name: "rope",
    summary: "the pair (a, b) along `index` becomes (a cos - b sin, b cos + a sin)",
    operands: &["x", "table"],
    mask: false,
    attrs: &[INDEX.spec()],
    results: 1,
};

/// `rope %x, %table {index = z} : f32[s, h, i, z]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let index = node.get(INDEX);
        node.position(0, index)?;
        node.position(1, index)?;
        node.equal(&node.extent(index), &Dim::constant(2))?;
        let (x, table) = (node.operand(0), node.operand(1));
        if let Some(alien) = table.indices.iter().find(|i| !x.has(i)) {
            node.position(0, alien)?;
        }
        Ok(vec![Type { encoding: DType::F32.into(), indices: x.indices.clone() }])
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
        Tolerance::Sum(2.0)
    }

    fn definition(&self, node: &NodeView) -> Option<Result<Graph, IrError>> {
        Some(define(node, |b, operands, _| {
            // A rotation is linear: out[to] = sum over from, part of x[from] table[part] sign.
            let index = node.get(INDEX);
            let (part, to) = (b.fresh_index("part", &2.into()), b.fresh_index("to", &2.into()));
            let signs = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, -1.0, 0.0];
            let signs = b.constant(DType::F32, &signs, &[index, &part, &to])?;
            let table = b.rename(operands[1], &[(index, &part)])?;
            let of_table = node.operand(1).indices.iter().filter(|i| *i != index);
            let turn: Vec<&Name> = of_table.chain([index, &to]).collect();
            let turn = b.contract(table, signs, &turn)?;
            let replaced = |i| if i == index { &to } else { i };
            let out: Vec<&Name> = node.operand(0).indices.iter().map(replaced).collect();
            let out = b.contract(operands[0], turn, &out)?;
            b.rename(out, &[(&to, index)])
        }))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (own, index) = (cx.indices(), cx.node.get(INDEX));
        let pairs_last: Vec<Name> =
            own.iter().filter(|i| *i != index).chain([index]).cloned().collect();
        let (x, table) = (cx.arranged(0, &pairs_last)?, cx.arranged(1, &pairs_last)?);
        let mut out = Vec::with_capacity(x.len());
        for (x, turn) in x.chunks_exact(2).zip(table.chunks_exact(2)) {
            let ([a, b], [cos, sin]) = ([x[0], x[1]], [turn[0], turn[1]]);
            out.push(a.mul(cos).sub(b.mul(sin)));
            out.push(b.mul(cos).add(a.mul(sin)));
        }
        cx.result_from(&pairs_last, out)
    }
}

impl GraphBuilder {
    /// Rotates the pairs of `x` along `index`, of extent 2, by a [`GraphBuilder::rope_table`].
    pub fn rope(&mut self, x: ValueId, table: ValueId, index: &str) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x, table], None, attrs([Name::from(index).into()]), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @interleaved(%x: f32[s, i, z], %table: f32[s, i, z]) -> f32[s, i, z]
  params i = 1, s = 2
  index z = 2 {
  %0 = rope %x, %table {index = z} : f32[s, i, z]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0], &[0.0, 1.0, 0.5, -0.25]],
        outputs: &[&[-2.0, 1.0, 2.5, 1.25]],
    },
    Sample {
        graph: "graph @half_split(%x: f32[s, h, z, i], %table: f32[s, i, z]) -> f32[s, h, z, i]
  params h = 2, i = 3, s = 2
  index z = 2 {
  %0 = rope %x, %table {index = z} : f32[s, h, z, i]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
];
