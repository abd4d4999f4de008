//! `iota`: the integers from a start.

use crate::attr::Key;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::kernel::TileType;
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::{Data, Tensor};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const START: Key<Dim> = Key::new(0, "start");

const SCHEMA: Schema = Schema {
    name: "iota",
    summary: "start, start + 1, .. along the one index of the result; start alone if it has none",
    operands: &[],
    mask: false,
    attrs: &[START.spec()],
    results: 1,
};

/// `iota {start = t - s} : i32[s]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let indices = node.declared()?.indices.clone();
        if indices.len() > 1 {
            let declared = node.declared()?.clone();
            let inferred = Type { encoding: DType::I32.into(), indices: indices[..1].to_vec() };
            return Err(GraphError::ResultType { declared, inferred });
        }
        Ok(vec![Type { encoding: DType::I32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, _operands: &[Range]) -> Result<Range, Beyond> {
        let bind = |dim: &Dim| dim.bind(&node.graph.symbols);
        let indices = node.declared.into_iter().flatten().flat_map(|ty| &ty.indices);
        let (start, extent) = (bind(node.get(START)), bind(&node.product(indices)));
        let last = start.plus(&extent).minus(&1.into());
        Ok(Range::between(start, last).wrapped(&node.graph.symbols))
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        _operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let start = node.get(START);
        let indices = tiles.axes(&ty.indices);
        if indices.len() < ty.indices.len() {
            let of_new_tokens = Dim::symbol("t").minus(&Dim::symbol("s"));
            let position = tiles.row.as_ref().and_then(|r| r.position);
            return match position.filter(|_| *start == of_new_tokens) {
                Some(value) => Ok(vec![Tile { value, indices }]),
                None => Err(Unlowered {
                    op: SCHEMA.name,
                    found: format!("start {start}"),
                    expected: "positions of new tokens, start t - s",
                }),
            };
        }
        let Some(start) = start.bound_value(&node.graph.symbols) else {
            let (op, found) = (SCHEMA.name, format!("start {start}"));
            return Err(Unlowered { op, found, expected: "a start known when compiling" });
        };
        let shape = tiles.shape(node.graph, &indices)?;
        let first = tiles.kernel.splat(start as f64, TileType::new(DType::I32, &shape));
        if shape.is_empty() {
            return Ok(vec![Tile { value: first, indices }]);
        }
        let steps = tiles.kernel.iota(0, &shape);
        let value = tiles.kernel.map("a + b", &[("a", first), ("b", steps)]);
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let start = cx.dim(cx.node.get(START))?;
        let n: usize = cx.shape()?.iter().product();
        let value = |i: usize| i32::try_from(start.checked_add(i as i64)?).ok();
        let values: Option<Vec<i32>> = (0..n).map(value).collect();
        cx.result(Data::Int(values.ok_or(GraphError::Unbound(cx.node.get(START).clone()))?))
    }
}

impl GraphBuilder {
    /// `start + position` along `index`, as i32: positions of new tokens with `start = t - s`.
    pub fn iota(&mut self, start: impl Into<Dim>, index: &str) -> Result<ValueId, IrError> {
        let ty = Type::new(DType::I32, &[index]);
        self.node1(OpRef(&Op), &[], None, attrs([start.into().into()]), Some(ty))
    }

    /// The value of an extent, as an i32 without indices.
    pub fn size(&mut self, extent: impl Into<Dim>) -> Result<ValueId, IrError> {
        let ty = Type::new::<&str>(DType::I32, &[]);
        self.node1(OpRef(&Op), &[], None, attrs([extent.into().into()]), Some(ty))
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @positions() -> i32[s]
  params s = 3, t = 5 {
  %0 = iota {start = t - s} : i32[s]
  return %0
}",
        inputs: &[],
        outputs: &[&[2.0, 3.0, 4.0]],
    },
    Sample {
        graph: "graph @size() -> i32[]
  params s = 3 {
  %0 = iota {start = 2*s} : i32[]
  return %0
}",
        inputs: &[],
        outputs: &[&[6.0]],
    },
];
