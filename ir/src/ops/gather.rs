//! `gather`: rows that an index tensor names.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::{Eval, together, walk};
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, attrs};
use crate::tensor::{Data, Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const INDEX: Key<Name> = Key::new(0, "index");

const SCHEMA: Schema = Schema {
    name: "gather",
    summary: "x with `index` replaced by what the rows name, 0 where masked; shared indices are a \
              batch",
    operands: &["x", "rows"],
    mask: true,
    attrs: &[INDEX.spec()],
    results: 1,
};

/// `gather %table, %ids {index = V} : bf16[s, D]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (x, rows) = (node.operand(0), node.operand(1));
        let index = node.get(INDEX);
        let at = node.position(0, index)?;
        if rows.encoding != DType::I32.into() {
            let (op, operand, found) = (SCHEMA.name, "rows", rows.encoding);
            let expected = "i32".to_string();
            return Err(GraphError::OperandEncoding { op, operand, found, expected });
        }
        if rows.has(index) {
            return Err(node.wrong_indices(1, format!("no index '{index}'")));
        }
        let mut indices = x.indices.clone();
        let own = rows.indices.iter().filter(|i| !x.has(i)).cloned();
        indices.splice(at..=at, own);
        node.mask_within(&indices)?;
        Ok(vec![Type { encoding: x.dtype().into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, operands: &[Range]) -> Result<Range, Beyond> {
        // Rows that are masked out are not used, but may be read.
        node.rows_within(&operands[1], node.get(INDEX))?;
        Ok(node.ranges(&operands[..1]))
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn reads(&self, node: &NodeView, results: &[Type]) -> Dim {
        // The rows that are named, not all there are.
        let rows = Type { encoding: node.operand(0).encoding, ..results[0].clone() };
        let mask = node.mask.map(|m| node.bytes(m)).unwrap_or_default();
        node.bytes(&rows).plus(&node.bytes(node.operand(1))).plus(&mask)
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let [x, rows] = operands else { return Err(undeclared(&SCHEMA)) };
        let index = node.get(INDEX);
        let rest: Vec<Name> = x.indices.iter().filter(|i| *i != index).cloned().collect();
        let own = rows.indices.iter().filter(|i| !x.indices.contains(i));
        let own: Vec<Name> = own.cloned().collect();
        let table = tiles.permuted(x, &[rest.as_slice(), std::slice::from_ref(index)].concat());
        let named = tiles.aligned(node.graph, rows, &[rest.as_slice(), &own].concat())?;
        let named = tiles.flattened(named, rest.len());
        let picked = tiles.kernel.pick(table, named);
        let extents = tiles.shape(node.graph, &own)?;
        let value = tiles.unflattened(picked, &extents);
        let flat = Tile { value, indices: [rest, own.clone()].concat() };
        let at = x.indices.iter().position(|i| i == index).unwrap_or(0);
        let mut indices = x.indices.clone();
        indices.splice(at..=at, own);
        let mut value = tiles.permuted(&flat, &indices);
        if let Some(mask) = mask {
            let mask = tiles.aligned(node.graph, mask, &indices)?;
            let dtype = tiles.kernel.ty(value).encoding.code;
            let zero = tiles.splat(0.0, value, dtype);
            value = tiles.kernel.choose(mask, value, zero);
        }
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (x, rows) = (&cx.node.operand(0).indices, &cx.node.operand(1).indices);
        let index = cx.node.get(INDEX);
        let (indices, shape) = (cx.indices(), cx.shape()?);
        let stride = cx.strides(x, std::slice::from_ref(index))?[0];
        // A result index of the same name as the replaced one is the rows', not x's.
        let others: Vec<Name> = x.iter().filter(|i| *i != index).cloned().collect();
        let over = cx.strides(x, indices)?;
        let over: Vec<usize> =
            indices.iter().zip(over).map(|(i, s)| if others.contains(i) { s } else { 0 }).collect();
        let extent = cx.extent(index)?;
        // What lies together is taken at once, unless rows or mask tell it apart.
        let apart = |i: &Name| rows.contains(i) || cx.node.mask.is_some_and(|m| m.has(i));
        let alike = indices.iter().rev().take_while(|i| !apart(i)).count();
        let outer = shape.len() - alike.min(together(&shape, &over));
        let each = elements(&shape[outer..])?;
        let mask = cx.mask_over(&indices[..outer])?;
        let mut masks = mask.into_iter().flatten();
        let (x, named) = (cx.operands[0].data(), cx.operands[1].as_ints());
        let strides = [over, cx.strides(rows, indices)?].map(|s| s[..outer].to_vec());
        let mut data = Data::empty(cx.results[0].class());
        walk(&shape[..outer], &strides, |at| {
            let row = named[at[1]];
            match usize::try_from(row) {
                _ if masks.next() == Some(false) => data.extend_empty(each),
                Ok(row) if row < extent => {
                    let from = at[0] + row * stride;
                    data.extend(x, from..from + each);
                }
                _ => {
                    let (op, found) = (SCHEMA.name, row.into());
                    return Err(GraphError::OutOfRange { op, found, extent });
                }
            }
            Ok(())
        })?;
        cx.result(data)
    }
}

impl GraphBuilder {
    /// Replaces `index` of `x` by the rows that `rows` names; 0 where `mask` does not hold.
    pub fn gather(
        &mut self,
        x: ValueId,
        rows: ValueId,
        mask: Option<ValueId>,
        index: &str,
    ) -> Result<ValueId, IrError> {
        self.node1(OpRef(&Op), &[x, rows], mask, attrs([Name::from(index).into()]), None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @embed(weight %table: bf16[V, D], %ids: i32[s]) -> bf16[s, D]
  params D = 2, V = 3, s = 2 {
  %0 = gather %table, %ids {index = V} : bf16[s, D]
  return %0
}",
        inputs: &[&[0.0, 1.0, 2.0, 3.0, 4.0, f64::NAN], &[2.0, 0.0]],
        outputs: &[&[4.0, f64::NAN, 0.0, 1.0]],
    },
    Sample {
        graph: "graph @batch(%x: f32[s, e], %rows: i32[s, k], %m: bool[k]) -> f32[s, k]
  params e = 3, k = 2, s = 2 {
  %0 = gather %x, %rows where %m {index = e} : f32[s, k]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2.0, -9.0, 0.0, 99.0], &[1.0, 0.0]],
        outputs: &[&[3.0, 0.0, 4.0, 0.0]],
    },
    Sample {
        graph: "graph @rows_of_each(%x: f32[t, d], %rows: i32[s, k]) -> f32[s, k, d]
  params d = 1, k = 2, s = 1, t = 3 {
  %0 = gather %x, %rows {index = t} : f32[s, k, d]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0], &[1.0, 1.0]],
        outputs: &[&[2.0, 2.0]],
    },
];
