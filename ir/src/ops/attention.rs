//! `attention`: values averaged by the softmax of scores.

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

const OVER: Key<Name> = Key::new(0, "over");
const SCALE: Key<f64> = Key::new(1, "scale");
const CAUSAL: Key<bool> = Key::new(2, "causal");

const SCHEMA: Schema = Schema {
    name: "attention",
    summary: "softmax over t of scale * q.k (summed over `over`), times v; other indices of k or v \
              that q has are a batch; causal: the last row of q's first index sees all of t",
    operands: &["q", "k", "v"],
    mask: true,
    attrs: &[OVER.spec(), SCALE.spec(), CAUSAL.spec()],
    results: 1,
};

/// `attention %q, %k, %v {over = c, scale = 0.125, causal = true} : f32[s, h, d]`
///
/// Shapes: `q [s, .., c]`, `k [t, .., c]`, `v [t, .., d]` to `[s, .., d]`. The key rows `t` are the
/// one index of `k` that `q` lacks. Indices of `k` and `v` shared with `q` are a batch, so heads
/// may have keys of their own, share them in groups (`q [s, g, r, c]`, `k [t, g, c]`), or share
/// one (`k [t, c]`).
pub struct Op;

/// What each index is to the op.
struct Roles {
    t: Name,
    /// Indices of q but `over`.
    rows: Vec<Name>,
    /// Indices of v alone.
    own: Vec<Name>,
}

fn roles(node: &NodeView) -> Result<Roles, GraphError> {
    let [q, k, v] = [node.operand(0), node.operand(1), node.operand(2)];
    let over = node.get(OVER);
    node.position(0, over)?;
    node.position(1, over)?;
    let mut alien = k.indices.iter().filter(|i| !q.has(i));
    let (Some(t), None) = (alien.next(), alien.next()) else {
        return Err(node.wrong_indices(1, format!("one index beside those of {q}")));
    };
    node.position(2, t)?;
    if v.has(over) {
        return Err(node.wrong_indices(2, format!("no index '{over}'")));
    }
    let rows: Vec<Name> = q.indices.iter().filter(|i| *i != over).cloned().collect();
    if *node.get(CAUSAL) && q.indices.first() == Some(over) {
        return Err(node.wrong_indices(0, "query rows along its first index"));
    }
    let own = v.indices.iter().filter(|i| *i != t && !q.has(i)).cloned().collect();
    Ok(Roles { t: t.clone(), rows, own })
}

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let Roles { t, rows, own } = roles(node)?;
        let scores: Vec<Name> = rows.iter().cloned().chain([t]).collect();
        node.mask_within(&scores)?;
        let indices = rows.into_iter().chain(own).collect();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, _results: &[Type]) -> Dim {
        let Ok(Roles { t, rows, own }) = roles(node) else { return Dim::default() };
        let scores = node.product(rows.iter().chain([&t]));
        // Each score is a sum of products, softmax, and a product with a row of v.
        let over = node.get(OVER);
        let each = node.extent(over).times(&2.into()).plus(&6.into());
        let values = node.product(&own).times(&2.into());
        scores.times(&each.plus(&values))
    }

    fn tolerance(&self, node: &NodeView, _results: &[Type]) -> Tolerance {
        let t = node.operand(1).indices.iter().find(|i| !node.operand(0).has(i));
        node.sum_tolerance(t.into_iter().chain([node.get(OVER)]))
    }

    fn definition(&self, node: &NodeView) -> Option<Result<Graph, IrError>> {
        Some(define(node, |b, operands, mask| {
            let Roles { t, rows, own } = roles(node)?;
            let score_indices: Vec<Name> = rows.iter().cloned().chain([t.clone()]).collect();
            let scores = b.contract(operands[0], operands[1], &score_indices)?;
            let scale = b.splat::<&str>(*node.get(SCALE), &[])?;
            let scores = b.map("x * scale", &[("x", scores), ("scale", scale)], &score_indices)?;
            let mask = match (*node.get(CAUSAL), mask) {
                (false, mask) => mask,
                (true, mask) => {
                    let s = &node.operand(0).indices[0];
                    let q = b.iota(node.extent(&t).minus(&node.extent(s)), s)?;
                    let k = b.iota(0, &t)?;
                    let past = b.map("k <= q", &[("k", k), ("q", q)], &[s, &t])?;
                    Some(match mask {
                        None => past,
                        Some(m) => b.map("p & m", &[("p", past), ("m", m)], &score_indices)?,
                    })
                }
            };
            let p = b.softmax(scores, mask, &t)?;
            let out: Vec<&Name> = rows.iter().chain(&own).collect();
            b.contract(p, operands[2], &out)
        }))
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let Roles { t, rows, own } = roles(&cx.node)?;
        let over = cx.node.get(OVER);
        let batch = |of: usize| -> Vec<Name> {
            let ty = cx.node.operand(of);
            ty.indices.iter().filter(|i| rows.contains(i)).cloned().collect()
        };
        let (of_k, of_v) = (batch(1), batch(2));
        let one = |i: &Name| vec![i.clone()];
        let q = cx.arranged(0, &[&rows[..], &one(over)].concat())?;
        let k = cx.arranged(1, &[&of_k[..], &one(&t), &one(over)].concat())?;
        let v = cx.arranged(2, &[&of_v[..], &one(&t), &own].concat())?;
        let mask = cx.mask_over(&[&rows[..], &one(&t)].concat())?;
        let [c, keys] = [cx.extent(over)?, cx.extent(&t)?];
        let width = elements(&cx.extents(&own)?)?;
        let row_extents = cx.extents(&rows)?;
        let scale = N::from_f64(f64::from(*cx.node.get(SCALE) as f32));
        let past = keys as i64 - row_extents.first().map_or(1, |s| *s as i64);
        let per_position: usize = row_extents.iter().skip(1).product();
        let mut out = Vec::with_capacity(elements(&cx.shape()?)?);
        let (mut scores, mut visible) = (vec![], vec![]);
        let mut row = 0usize;
        walk(&row_extents, &[cx.strides(&of_k, &rows)?, cx.strides(&of_v, &rows)?], |at| {
            let last = past + (row / per_position.max(1)) as i64;
            let sees = |j: usize| {
                let causal = !*cx.node.get(CAUSAL) || j as i64 <= last;
                causal && mask.as_ref().is_none_or(|m| m[row * keys + j])
            };
            visible.clear();
            visible.extend((0..keys).filter(|j| sees(*j)));
            scores.clear();
            let query = &q[row * c..][..c];
            let key = |j: &usize| &k[(at[0] * keys + j) * c..][..c];
            scores.extend(visible.iter().map(|j| N::dot(query, key(j)).mul(scale)));
            N::softmax(&mut scores, cx.key)?;
            let from = out.len();
            out.resize(from + width, N::default());
            for (j, p) in visible.iter().zip(&scores) {
                let value = &v[(at[1] * keys + j) * width..][..width];
                let sums = out[from..].iter_mut().zip(value);
                sums.for_each(|(sum, v)| *sum = sum.add(p.mul(*v)));
            }
            row += 1;
            Ok(())
        })?;
        cx.result_from(&[rows, own].concat(), out)
    }
}

/// What an attention takes beside its operands.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionAttrs<'a> {
    /// Index of the scores' sum.
    pub over: &'a str,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether a row of q sees no later row of k.
    pub causal: bool,
}

impl GraphBuilder {
    /// Averages `v` by the softmax of `scale * q.k`, where `mask` holds.
    pub fn attention(
        &mut self,
        [q, k, v]: [ValueId; 3],
        mask: Option<ValueId>,
        AttentionAttrs { over, scale, causal }: AttentionAttrs,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(over).into(), scale.into(), causal.into()]);
        self.node1(OpRef(&Op), &[q, k, v], mask, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @first_sees_itself(%q: f32[s, h, c], %k: f32[t, h, c], %v: f32[t, h, d]) \
                -> f32[s, h, d]
  params c = 1, d = 2, h = 1, s = 2, t = 2 {
  %0 = attention %q, %k, %v {over = c, scale = 1, causal = true} : f32[s, h, d]
  return %0
}",
        inputs: &[&[5.0, 0.0], &[1.0, 7.0], &[1.0, 2.0, 3.0, 4.0]],
        outputs: &[&[1.0, 2.0, 2.0, 3.0]],
    },
    Sample {
        graph: "graph @grouped(%q: f32[s, g, r, c], %k: f32[t, g, c], %v: f32[t, g, d]) \
                -> f32[s, g, r, d]
  params c = 5, d = 3, g = 2, r = 2, s = 3, t = 7 {
  %0 = attention %q, %k, %v {over = c, scale = 0.5, causal = true} : f32[s, g, r, d]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
    Sample {
        graph: "graph @one_key_masked(%q: f32[s, h, c], %k: f32[t, c], %v: f32[t, d], \
                %m: bool[s, t]) -> f32[s, h, d]
  params c = 4, d = 1, h = 3, s = 2, t = 5 {
  %0 = attention %q, %k, %v where %m {over = c, scale = 2, causal = true} : f32[s, h, d]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
    Sample {
        graph: "graph @both_ways(%q: f32[h, s, c], %k: f32[h, t, c], %v: f32[t, d]) -> f32[h, s, d]
  params c = 2, d = 2, h = 2, s = 1, t = 3 {
  %0 = attention %q, %k, %v {over = c, scale = 1, causal = false} : f32[h, s, d]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
];
