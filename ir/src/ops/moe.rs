//! `moe`: a weighted sum of chosen gated networks.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::{Eval, walk};
use crate::graph::{Graph, Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs, define};
use crate::tensor::{Tensor, elements};

const EXPERTS: Key<Name> = Key::new(0, "experts");
const CHOSEN: Key<Name> = Key::new(1, "chosen");

const SCHEMA: Schema = Schema {
    name: "moe",
    summary: "sum over `chosen` of weight * w_down . swiglu(w_gate . x, w_up . x), the rows of \
              index naming one of `experts` each",
    operands: &["x", "index", "weight", "w_gate", "w_up", "w_down"],
    mask: false,
    attrs: &[EXPERTS.spec(), CHOSEN.spec()],
    results: 1,
};

/// `moe %x, %index, %weight, %w_gate, %w_up, %w_down {experts = e, chosen = k} : f32[s, D]`
///
/// Shapes: `x [s, D]`, `index` and `weight [s, k]`, `w_gate` and `w_up [e, f, D]`,
/// `w_down [e, D, f]` to `[s, D]`.
pub struct Op;

/// What each index is to the op.
struct Roles {
    /// Of x, index and the result.
    rows: Vec<Name>,
    /// Of the hidden layer.
    hidden: Vec<Name>,
    /// Of the result, after the rows.
    out: Vec<Name>,
}

fn roles(node: &NodeView) -> Result<Roles, GraphError> {
    let (experts, chosen) = (node.get(EXPERTS), node.get(CHOSEN));
    let [x, index, gate, down] = [0, 1, 3, 5].map(|i| node.operand(i));
    node.position(1, chosen)?;
    if node.operand(2).indices != index.indices {
        return Err(node.wrong_indices(2, format!("the indices of {index}")));
    }
    let rows: Vec<Name> = index.indices.iter().filter(|i| *i != chosen).cloned().collect();
    for row in &rows {
        node.position(0, row)?;
    }
    node.position(3, experts)?;
    node.position(5, experts)?;
    if node.operand(4).indices != gate.indices {
        return Err(node.wrong_indices(4, format!("the indices of {gate}")));
    }
    for summed in x.indices.iter().filter(|i| !rows.contains(i)) {
        node.position(3, summed)?;
    }
    let hidden: Vec<Name> =
        gate.indices.iter().filter(|i| *i != experts && !x.has(i)).cloned().collect();
    for index in &hidden {
        node.position(5, index)?;
    }
    let own = |i: &&Name| *i != experts && !hidden.contains(i);
    let out = down.indices.iter().filter(own).cloned().collect();
    Ok(Roles { rows, hidden, out })
}

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        for i in [0, 2, 3, 4, 5] {
            node.class(i, crate::dtype::Class::Float)?;
        }
        node.class(1, crate::dtype::Class::Int)?;
        let Roles { rows, out, .. } = roles(node)?;
        let indices = rows.into_iter().chain(out).collect();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, _results: &[Type]) -> Dim {
        let Ok(Roles { rows, hidden, out }) = roles(node) else { return Dim::default() };
        let summed = node.operand(0).indices.iter().filter(|i| !rows.contains(i));
        let (hidden, out) = (node.product(&hidden), node.product(&out));
        let into = node.product(summed).times(&hidden).times(&4.into());
        let back = hidden.times(&out).times(&2.into());
        let each = into.plus(&hidden.times(&3.into())).plus(&back).plus(&out.times(&2.into()));
        each.times(&node.elements(node.operand(1)))
    }

    fn tolerance(&self, node: &NodeView, _results: &[Type]) -> Tolerance {
        let Ok(Roles { rows, hidden, .. }) = roles(node) else { return Tolerance::Exact };
        let summed = node.operand(0).indices.iter().filter(|i| !rows.contains(i));
        node.sum_tolerance(summed.chain(&hidden))
    }

    fn definition(&self, node: &NodeView) -> Option<Result<Graph, IrError>> {
        Some(define(node, |b, operands, _| {
            // Every expert on every row, times a gate that is 0 for all but the chosen.
            let Roles { rows, hidden, out } = roles(node)?;
            let [x, index, weight, w_gate, w_up, w_down] =
                operands.try_into().expect("the number of operands has been checked");
            let (experts, chosen) = (node.get(EXPERTS), node.get(CHOSEN));
            let gate = b.scatter(index, weight, chosen, experts)?;
            let over = |of: &[Name]| [&rows[..], std::slice::from_ref(experts), of].concat();
            let g = b.contract(x, w_gate, &over(&hidden))?;
            let u = b.contract(x, w_up, &over(&hidden))?;
            let a = b.swiglu(g, u)?;
            let y = b.contract(a, w_down, &over(&out))?;
            b.contract(y, gate, &[&rows[..], &out].concat())
        }))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let Roles { rows, hidden, out } = roles(&cx.node)?;
        let (experts, chosen) = (cx.node.get(EXPERTS), cx.node.get(CHOSEN));
        let own = &cx.node.operand(0).indices;
        let summed: Vec<Name> = own.iter().filter(|i| !rows.contains(i)).cloned().collect();
        let of_expert = |a: &[Name], b: &[Name]| [std::slice::from_ref(experts), a, b].concat();
        let x = cx.arranged(0, &[&rows[..], &summed].concat())?;
        let rows_first = [&rows[..], std::slice::from_ref(chosen)].concat();
        let weight = cx.arranged(2, &rows_first)?;
        let gate = cx.arranged(3, &of_expert(&hidden, &summed))?;
        let up = cx.arranged(4, &of_expert(&hidden, &summed))?;
        let down = cx.arranged(5, &of_expert(&out, &hidden))?;
        let size = |names: &[Name]| elements(&cx.extents(names)?);
        let [d, f, o, k] = [size(&summed)?, size(&hidden)?, size(&out)?, cx.extent(chosen)?];
        let extent = cx.extent(experts)?;
        let mut sums = vec![N::default(); elements(&[size(&rows)?, o])?];
        let index = cx.operands[1].as_ints();
        let mut at = 0;
        let of_index = &cx.node.operand(1).indices;
        walk(&cx.extents(&rows_first)?, &[cx.strides(of_index, &rows_first)?], |place| {
            let named = index[place[0]];
            let Some(e) = usize::try_from(named).ok().filter(|e| *e < extent) else {
                let (op, found) = (SCHEMA.name, named.into());
                return Err(GraphError::OutOfRange { op, found, extent });
            };
            let row = at / k.max(1);
            let input = &x[row * d..][..d];
            let product = |w: &[N], i: usize| N::dot(input, &w[(e * f + i) * d..][..d]);
            let gated = |i| super::swiglu::gated(product(&gate, i), product(&up, i), cx.key);
            let activation: Vec<N> = (0..f).map(gated).collect();
            for (i, sum) in sums[row * o..][..o].iter_mut().enumerate() {
                let y = N::dot(&activation, &down[(e * o + i) * f..][..f]);
                *sum = sum.add(y.mul(weight[at]));
            }
            at += 1;
            Ok(())
        })?;
        cx.result_from(&[rows, out].concat(), sums)
    }
}

impl GraphBuilder {
    /// Weighted sum of the `chosen` of `experts`; operands are x, index, weight, w_gate, w_up and
    /// w_down.
    pub fn moe(
        &mut self,
        operands: [ValueId; 6],
        experts: &str,
        chosen: &str,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(experts).into(), Name::from(chosen).into()]);
        self.node1(OpRef(&Op), &operands, None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @sparse(%x: f32[s, D], %index: i32[s, k], %weight: f32[s, k], \
                weight %w_gate: bf16[e, f, D], weight %w_up: bf16[e, f, D], \
                weight %w_down: bf16[e, D, f]) -> f32[s, D]
  params D = 3, e = 4, f = 2, k = 2, s = 2 {
  %0 = moe %x, %index, %weight, %w_gate, %w_up, %w_down {experts = e, chosen = k} : f32[s, D]
  return %0
}",
        inputs: &[&[], &[0.0, 3.0, 1.0, 0.0], &[], &[], &[], &[]],
        outputs: &[],
    },
    Sample {
        graph: "graph @one(%x: f32[s, D], %index: i32[s, k], %weight: f32[s, k], \
                %w_gate: f32[e, f, D], %w_up: f32[e, f, D], %w_down: f32[e, D, f]) -> f32[s, D]
  params D = 1, e = 2, f = 1, k = 1, s = 1 {
  %0 = moe %x, %index, %weight, %w_gate, %w_up, %w_down {experts = e, chosen = k} : f32[s, D]
  return %0
}",
        inputs: &[&[2.0], &[1.0], &[3.0], &[9.0, 0.5], &[9.0, 5.0], &[9.0, 4.0]],
        outputs: &[&[87.72702943560059]],
    },
];
