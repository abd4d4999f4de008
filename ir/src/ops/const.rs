//! `const`: numbers in the text.

use crate::attr::Key;
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::kernel::TileType;
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::{Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const VALUES: Key<Vec<f64>> = Key::new(0, "values");

const SCHEMA: Schema = Schema {
    name: "const",
    summary: "one number everywhere, or one for each element in row-major order",
    operands: &[],
    mask: false,
    attrs: &[VALUES.spec()],
    results: 1,
};

/// `const {values = [1.0]} : f32[s, k]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let ty = node.declared()?.clone();
        let values = node.get(VALUES);
        let elements = node.product(&ty.indices).bind(&node.graph.symbols).as_constant();
        if values.len() != 1 && elements != Some(values.len() as i64) {
            let expected = "one number, or one for each element of bound extents";
            return Err(node.wrong_attr(VALUES, format!("{} numbers", values.len()), expected));
        }
        let dtype = ty.encoding.code;
        if !ty.encoding.is_plain() || ![DType::F32, DType::I32, DType::Bool].contains(&dtype) {
            let inferred = Type { encoding: DType::F32.into(), indices: ty.indices.clone() };
            return Err(GraphError::ResultType { declared: ty, inferred });
        }
        let fits = |v: &f64| match dtype.class() {
            Class::Float => true,
            Class::Int => v.fract() == 0.0 && *v >= i32::MIN as f64 && *v <= i32::MAX as f64,
            Class::Bool => *v == 0.0 || *v == 1.0,
        };
        match values.iter().find(|v| !fits(v)) {
            None => Ok(vec![ty]),
            Some(v) => Err(node.wrong_attr(VALUES, v, "numbers of the result's dtype")),
        }
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, _operands: &[Range]) -> Result<Range, Beyond> {
        let integers = node.get(VALUES).iter().map(|v| *v as i64);
        let (lo, hi) = (integers.clone().min(), integers.max());
        Ok(lo.zip(hi).map_or_else(Range::any, |(lo, hi)| Range::between(lo.into(), hi.into())))
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
        let indices = tiles.axes(&ty.indices);
        let shape = tiles.shape(node.graph, &indices)?;
        let value = match node.get(VALUES).as_slice() {
            [same] => tiles.kernel.splat(*same, TileType::new(ty.dtype(), &shape)),
            values => tiles.constant(ty.dtype(), &shape, values),
        };
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let values = cx.node.get(VALUES);
        let ty = &cx.results[0];
        let shape = cx.shape()?;
        let n = elements(&shape)?;
        // What is stored is an f32, whatever evaluates it.
        let exact = |v: f64| if ty.class() == Class::Float { f64::from(v as f32) } else { v };
        let all: Vec<f64> = values.iter().copied().cycle().take(n).map(exact).collect();
        Ok(vec![Tensor::from_f64(ty.class(), &shape, &all)?])
    }
}

impl GraphBuilder {
    /// The same real number everywhere.
    pub fn splat<I: AsRef<str>>(&mut self, value: f64, indices: &[I]) -> Result<ValueId, IrError> {
        self.constant(DType::F32, &[value], indices)
    }

    /// Numbers in row-major order, or one for all.
    pub fn constant<I: AsRef<str>>(
        &mut self,
        dtype: DType,
        values: &[f64],
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let ty = Type::new(dtype, indices);
        self.node1(OpRef(&Op), &[], None, attrs([values.to_vec().into()]), Some(ty))
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @everywhere() -> f32[s, k]
  params k = 1, s = 3 {
  %0 = const {values = [-0]} : f32[s, k]
  return %0
}",
        inputs: &[],
        outputs: &[&[-0.0, -0.0, -0.0]],
    },
    Sample {
        graph: "graph @each() -> f32[k]
  params k = 4 {
  %0 = const {values = [0.1, nan, inf, -inf]} : f32[k]
  return %0
}",
        inputs: &[],
        outputs: &[&[0.100000001490116, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]],
    },
    Sample {
        graph: "graph @flags() -> bool[k]
  params k = 2 {
  %0 = const {values = [1, 0]} : bool[k]
  return %0
}",
        inputs: &[],
        outputs: &[&[1.0, 0.0]],
    },
];
