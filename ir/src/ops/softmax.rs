//! `softmax`: exponentials over their sum.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Graph, Type, ValueId};
use crate::kernel::Fold;
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs, define};
use crate::tensor::Tensor;
use crate::tiles::{Tile, Tiles, Unlowered};

const INDEX: Key<Name> = Key::new(0, "index");

const SCHEMA: Schema = Schema {
    name: "softmax",
    summary: "exp over the sum of exp along `index`; 0 where masked, also where all is",
    operands: &["x"],
    mask: true,
    attrs: &[INDEX.spec()],
    results: 1,
};

/// `softmax %p where %m {index = t} : f32[s, h, t]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let index = node.get(INDEX);
        node.position(0, index)?;
        let indices = node.operand(0).indices.clone();
        node.mask_within(&indices)?;
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, results: &[Type]) -> Dim {
        // Maximum, difference, exp, sum, quotient.
        node.elements(&results[0]).times(&5.into())
    }

    fn tolerance(&self, node: &NodeView, _results: &[Type]) -> Tolerance {
        node.sum_tolerance([node.get(INDEX)])
    }

    fn definition(&self, node: &NodeView) -> Option<Result<Graph, IrError>> {
        Some(define(node, |b, operands, mask| {
            let all = node.operand(0).indices.clone();
            let index = node.get(INDEX);
            let rest: Vec<&Name> = all.iter().filter(|i| *i != index).collect();
            let e = b.map("exp(x)", &[("x", operands[0])], &all)?;
            let sum = b.reduce("sum", e, mask, &rest)?;
            let Some(mask) = mask else {
                return b.map("e / sum", &[("e", e), ("sum", sum)], &all);
            };
            b.map("select(m, e / sum, 0)", &[("m", mask), ("e", e), ("sum", sum)], &all)
        }))
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let index = node.get(INDEX);
        let x = &operands[0];
        let rest: Vec<Name> = x.indices.iter().filter(|i| *i != index).cloned().collect();
        let axes = [rest.as_slice(), std::slice::from_ref(index)].concat();
        let last = rest.len() as u32;
        let scores = tiles.permuted(x, &axes);
        let mut scores = tiles.widened(scores);
        let mask = mask.map(|m| tiles.aligned(node.graph, m, &axes)).transpose()?;
        if let Some(mask) = mask {
            let lowest = tiles.splat(f64::from(f32::MIN), scores, DType::F32);
            scores = tiles.kernel.choose(mask, scores, lowest);
        }
        let most = tiles.kernel.reduce(Fold::Max, last, scores);
        let mut weights = tiles.kernel.map("exp(a - b)", &[("a", scores), ("b", most)]);
        if let Some(mask) = mask {
            let zero = tiles.splat(0.0, weights, DType::F32);
            weights = tiles.kernel.choose(mask, weights, zero);
        }
        let total = tiles.kernel.reduce(Fold::Add, last, weights);
        let share = "select(b > 0, a / b, 0)";
        let value = tiles.kernel.map(share, &[("a", weights), ("b", total)]);
        let shares = Tile { value, indices: axes };
        Ok(vec![Tile { value: tiles.permuted(&shares, &x.indices), indices: x.indices.clone() }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (own, index) = (cx.indices(), cx.node.get(INDEX));
        let rows_last: Vec<Name> =
            own.iter().filter(|i| *i != index).chain([index]).cloned().collect();
        let mut x = cx.arranged(0, &rows_last)?.into_owned();
        let mask = cx.mask_over(&rows_last)?;
        let extent = cx.extent(index)?.max(1);
        let mut left = Vec::with_capacity(extent);
        for (r, row) in x.chunks_mut(extent).enumerate() {
            let on = |i: usize| mask.as_ref().is_none_or(|m| m[r * extent + i]);
            left.clear();
            left.extend((0..extent).filter(|i| on(*i)).map(|i| row[i]));
            N::softmax(&mut left, cx.key)?;
            let mut rest = left.iter();
            for (i, v) in row.iter_mut().enumerate() {
                *v = if on(i) { rest.next().copied().unwrap_or_default() } else { N::default() };
            }
        }
        cx.result_from(&rows_last, x)
    }
}

impl GraphBuilder {
    /// Exponentials over their sum along `index`, where `mask` holds.
    pub fn softmax(
        &mut self,
        x: ValueId,
        mask: Option<ValueId>,
        index: &str,
    ) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x], mask, attrs([Name::from(index).into()]), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @one(%x: f32[s, t]) -> f32[s, t]
  params s = 2, t = 1 {
  %0 = softmax %x {index = t} : f32[s, t]
  return %0
}",
        inputs: &[&[500.0, -500.0]],
        outputs: &[&[1.0, 1.0]],
    },
    Sample {
        graph: "graph @masked(%x: f32[s, t, h], %m: bool[s, t]) -> f32[s, t, h]
  params h = 2, s = 2, t = 3 {
  %0 = softmax %x where %m {index = t} : f32[s, t, h]
  return %0
}",
        inputs: &[
            &[1.0, 5.0, 1.0, 5.0, 9.0, f64::INFINITY, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        ],
        outputs: &[&[0.5, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]],
    },
    Sample {
        graph: "graph @random(%x: f32[s, t], %m: bool[t]) -> f32[s, t]
  params s = 3, t = 7 {
  %0 = softmax %x where %m {index = t} : f32[s, t]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
];
