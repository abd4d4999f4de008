//! `topk`: where the largest entries are.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::{Eval, spread};
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::{Data, Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};
use std::cmp::Ordering;

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "topk",
    summary: "distinct rows of the largest entries along `index`, largest first, as many as `into` \
              has; the lower row wins a tie, masked-out rows come last by number",
    operands: &["x"],
    mask: true,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `topk %score where %m {index = e, into = k} : i32[s, k]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.class(0, Class::Float)?;
        let x = node.operand(0);
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let at = node.position(0, index)?;
        node.mask_within(&x.indices)?;
        node.within(&Dim::constant(0), &node.extent(into), &node.extent(index))?;
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: DType::I32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, _operands: &[Range]) -> Result<Range, Beyond> {
        let index: &Name = node.get(INDEX);
        Ok(Range::rows(&node.extent(index).bind(&node.graph.symbols)))
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, _results: &[Type]) -> Dim {
        // At least one comparison for each entry.
        node.elements(node.operand(0))
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let x = &operands[0];
        let rest: Vec<Name> = x.indices.iter().filter(|i| *i != index).cloned().collect();
        let axes = [rest.as_slice(), std::slice::from_ref(index)].concat();
        let scores = tiles.permuted(x, &axes);
        let scores = tiles.widened(scores);
        let mask = mask.map(|m| tiles.aligned(node.graph, m, &axes)).transpose()?;
        let k = tiles.shape(node.graph, std::slice::from_ref(into))?[0];
        let chosen = tiles.kernel.topk(scores, mask, k);
        let chosen = Tile { value: chosen, indices: [rest, vec![into.clone()]].concat() };
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let indices = tiles.axes(&ty.indices);
        Ok(vec![Tile { value: tiles.permuted(&chosen, &indices), indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (own, index) = (&cx.node.operand(0).indices, cx.node.get(INDEX));
        let rest: Vec<Name> = own.iter().filter(|i| *i != index).cloned().collect();
        let rows_last: Vec<Name> = rest.iter().chain([index]).cloned().collect();
        let x = cx.arranged(0, &rows_last)?;
        let mask = cx.mask_over(&rows_last)?;
        let into = cx.node.get(INTO);
        let (extent, k) = (cx.extent(index)?, cx.extent(into)?);
        if k > extent {
            let (op, found) = (SCHEMA.name, k as i64);
            return Err(GraphError::OutOfRange { op, found, extent });
        }
        let mut chosen = Vec::with_capacity(elements(&cx.shape()?)?);
        for row in 0..elements(&cx.extents(&rest)?)? {
            let at = row * extent;
            let order = rank(&x[at..][..extent], mask.as_ref().map(|m| &m[at..][..extent]), cx.key);
            chosen.extend(order[..k].iter().map(|i| *i as i32));
        }
        let from: Vec<Name> = rest.iter().chain([into]).cloned().collect();
        let strides = cx.strides(&from, cx.indices())?;
        cx.result(Data::Int(spread(&chosen, &cx.shape()?, &strides)?))
    }
}

/// Rows from the largest on; NaN counts as larger than any number.
fn rank<N: Number>(x: &[N], mask: Option<&[bool]>, key: u64) -> Vec<usize> {
    let on = |i: usize| mask.is_none_or(|m| m[i]);
    let nan = |i: usize| x[i].is_nan();
    let falling = |a: usize, b: usize| match (on(a), on(b)) {
        (true, true) => x[b].order(x[a], key).unwrap_or_else(|| nan(b).cmp(&nan(a))),
        (false, false) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    };
    let mut rows: Vec<usize> = (0..x.len()).collect();
    rows.sort_by(|a, b| falling(*a, *b).then(a.cmp(b)));
    rows
}

impl GraphBuilder {
    /// Rows of the largest entries along `index`, as many as `into` has.
    pub fn topk(
        &mut self,
        x: ValueId,
        mask: Option<ValueId>,
        index: &str,
        into: &str,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[x], mask, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @ties(%x: f32[s, e]) -> i32[s, k]
  params e = 4, k = 3, s = 2 {
  %0 = topk %x {index = e, into = k} : i32[s, k]
  return %0
}",
        inputs: &[&[1.0, 3.0, 3.0, 1.0, -0.0, 0.0, f64::NEG_INFINITY, f64::NAN]],
        outputs: &[&[1.0, 2.0, 0.0, 3.0, 0.0, 1.0]],
    },
    Sample {
        graph: "graph @masked(%x: f32[e, s], %m: bool[e, s]) -> i32[k, s]
  params e = 3, k = 3, s = 2 {
  %0 = topk %x where %m {index = e, into = k} : i32[k, s]
  return %0
}",
        inputs: &[&[9.0, 1.0, 8.0, 2.0, 7.0, 3.0], &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]],
        outputs: &[&[2.0, 0.0, 0.0, 1.0, 1.0, 2.0]],
    },
];
