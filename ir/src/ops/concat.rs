//! `concat`: one after the other along an index.

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
use crate::tensor::{Data, Tensor};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const ALONG: Key<Vec<Name>> = Key::new(0, "along");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "concat",
    summary: "operands one after the other: `along` names the index of each, `into` the joint one",
    operands: &["x.."],
    mask: false,
    attrs: &[ALONG.spec(), INTO.spec()],
    results: 1,
};

/// `concat %n, %r {along = [dn, dr], into = c} : f32[s, h, c]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (along, into) = (node.get(ALONG), node.get(INTO));
        if along.len() != node.operands.len() {
            let found = format!("{} names", along.len());
            return Err(node.wrong_attr(ALONG, found, "one index for each operand"));
        }
        let first = node.operand(0);
        let joint = |i: usize| -> Result<Vec<Name>, GraphError> {
            let at = node.position(i, &along[i])?;
            let mut indices = node.operand(i).indices.clone();
            indices[at] = into.clone();
            Ok(indices)
        };
        let indices = joint(0)?;
        for (i, index) in along.iter().enumerate().skip(1) {
            if joint(i)? != indices {
                let expected = format!("the indices of {first} with '{index}'");
                return Err(node.wrong_indices(i, expected));
            }
            if node.operand(i).dtype() != first.dtype() {
                let (op, operand, found) = (SCHEMA.name, "x..", node.operand(i).encoding);
                let expected = first.dtype().to_string();
                return Err(GraphError::OperandEncoding { op, operand, found, expected });
            }
        }
        let total = along.iter().fold(Dim::constant(0), |sum, i| sum.plus(&node.extent(i)));
        node.equal(&node.extent(into), &total)?;
        Ok(vec![Type { encoding: first.dtype().into(), indices }])
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

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let (along, into) = (node.get(ALONG), node.get(INTO));
        let indices = tiles.axes(&ty.indices);
        let at = indices.iter().position(|i| i == into).ok_or_else(|| undeclared(&SCHEMA))?;
        let mut parts = vec![];
        for (tile, along) in operands.iter().zip(along) {
            let mut axes = indices.clone();
            axes[at] = along.clone();
            parts.push(tiles.aligned(node.graph, tile, &axes)?);
        }
        let value = tiles.kernel.concat(&parts, at as u32);
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let along = cx.node.get(ALONG);
        let into = cx.node.get(INTO);
        let stride = cx.strides(cx.indices(), std::slice::from_ref(into))?[0];
        let total = cx.extent(into)?;
        let outer = cx.shape()?.iter().product::<usize>() / (stride * total).max(1);
        let mut data = Data::empty(cx.results[0].class());
        for i in 0..outer {
            for (x, index) in cx.operands.iter().zip(along) {
                let each = cx.extent(index)? * stride;
                data.extend(x.data(), i * each..(i + 1) * each);
            }
        }
        cx.result(data)
    }
}

impl GraphBuilder {
    /// Operands one after the other, each along its own index, as the index `into`.
    pub fn concat(&mut self, parts: &[(ValueId, &str)], into: &str) -> Result<ValueId, IrError> {
        let values: Vec<ValueId> = parts.iter().map(|(v, _)| *v).collect();
        let along: Vec<Name> = parts.iter().map(|(_, i)| Name::from(*i)).collect();
        let attrs = attrs([along.into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &values, None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @halves(%x: f32[s, a], %y: f32[s, b]) -> f32[s, c]
  params a = 1, b = 2, s = 2
  index c = a + b {
  %0 = concat %x, %y {along = [a, b], into = c} : f32[s, c]
  return %0
}",
        inputs: &[&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0]],
        outputs: &[&[1.0, 3.0, 4.0, 2.0, 5.0, 6.0]],
    },
    Sample {
        graph: "graph @rows(%x: i32[a, d], %y: i32[a, d], %z: i32[a, d]) -> i32[c, d]
  params a = 1, d = 1
  index c = 3*a {
  %0 = concat %x, %y, %z {along = [a, a, a], into = c} : i32[c, d]
  return %0
}",
        inputs: &[&[1.0], &[2.0], &[3.0]],
        outputs: &[&[1.0, 2.0, 3.0]],
    },
];
