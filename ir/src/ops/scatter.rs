//! `scatter`: adds entries at the rows that an index tensor names.

use crate::attr::Key;
use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::{Eval, walk};
use crate::graph::range::{Beyond, Range};
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs};
use crate::tensor::{Data, Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

const INDEX: Key<Name> = Key::new(0, "index");
const INTO: Key<Name> = Key::new(1, "into");

const SCHEMA: Schema = Schema {
    name: "scatter",
    summary: "zeros along `into`, with x added where the rows name it, in place of `index`",
    operands: &["rows", "x"],
    mask: false,
    attrs: &[INDEX.spec(), INTO.spec()],
    results: 1,
};

/// `scatter %rows, %gate {index = k, into = e} : f32[s, e]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let (rows, x) = (node.operand(0), node.operand(1));
        let (index, into) = (node.get(INDEX), node.get(INTO));
        if rows.encoding != DType::I32.into() {
            let (op, operand, found) = (SCHEMA.name, "rows", rows.encoding);
            let expected = "i32".to_string();
            return Err(GraphError::OperandEncoding { op, operand, found, expected });
        }
        node.class(1, Class::Float)?;
        node.position(0, index)?;
        let at = node.position(1, index)?;
        if let Some(alien) = rows.indices.iter().find(|i| !x.has(i)) {
            node.position(1, alien)?;
        }
        let mut indices = x.indices.clone();
        indices[at] = into.clone();
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, operands: &[Range]) -> Result<Range, Beyond> {
        node.rows_within(&operands[0], node.get(INTO))?;
        Ok(Range::any())
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, _results: &[Type]) -> Dim {
        node.elements(node.operand(1))
    }

    fn tolerance(&self, node: &NodeView, _results: &[Type]) -> Tolerance {
        node.sum_tolerance([node.get(INDEX)])
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let [rows, x] = operands else { return Err(undeclared(&SCHEMA)) };
        let (index, into) = (node.get(INDEX), node.get(INTO));
        let mut rest = x.indices.clone();
        rest.extend(rows.indices.iter().filter(|i| !x.indices.contains(i)).cloned());
        rest.retain(|i| i != index);
        let axes = [rest.as_slice(), std::slice::from_ref(index)].concat();
        let named = tiles.aligned(node.graph, rows, &axes)?;
        let values = tiles.aligned(node.graph, x, &axes)?;
        let values = tiles.widened(values);
        let extent = tiles.shape(node.graph, std::slice::from_ref(into))?[0];
        let placed = tiles.kernel.place(values, named, extent);
        let placed = Tile { value: placed, indices: [rest, vec![into.clone()]].concat() };
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let indices = tiles.axes(&ty.indices);
        Ok(vec![Tile { value: tiles.permuted(&placed, &indices), indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let (index, into) = (cx.node.get(INDEX), cx.node.get(INTO));
        let (rows, x) = (&cx.node.operand(0).indices, &cx.node.operand(1).indices);
        let out = cx.indices();
        let extent = cx.extent(into)?;
        let stride = cx.strides(out, std::slice::from_ref(into))?[0];
        // Where x goes but for the row: x's own index moves nothing.
        let place = cx.strides(out, x)?;
        let place: Vec<usize> =
            x.iter().zip(place).map(|(i, s)| if i == index { 0 } else { s }).collect();
        let mut sums = vec![N::default(); elements(&cx.shape()?)?];
        let (named, values) = (cx.operands[0].as_ints(), cx.operands[1].as_floats());
        let mut from = 0;
        walk(&cx.extents(x)?, &[place, cx.strides(rows, x)?], |at| {
            let row = named[at[1]];
            let Some(row) = usize::try_from(row).ok().filter(|r| *r < extent) else {
                let (op, found) = (SCHEMA.name, row.into());
                return Err(GraphError::OutOfRange { op, found, extent });
            };
            let sum = &mut sums[at[0] + row * stride];
            *sum = sum.add(values[from]);
            from += 1;
            Ok(())
        })?;
        cx.result(Data::Float(sums))
    }
}

impl GraphBuilder {
    /// Adds `x` at the places along `into` that `rows` names, summing over `index`.
    pub fn scatter(
        &mut self,
        rows: ValueId,
        x: ValueId,
        index: &str,
        into: &str,
    ) -> Result<ValueId, IrError> {
        let attrs = attrs([Name::from(index).into(), Name::from(into).into()]);
        self.node1(OpRef(&Op), &[rows, x], None, attrs, None)
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @gate(%rows: i32[s, k], %w: f32[s, k]) -> f32[s, e]
  params e = 3, k = 2, s = 2 {
  %0 = scatter %rows, %w {index = k, into = e} : f32[s, e]
  return %0
}",
        inputs: &[&[2.0, 0.0, 1.0, 1.0], &[5.0, 6.0, 7.0, 8.0]],
        outputs: &[&[6.0, 0.0, 5.0, 0.0, 15.0, 0.0]],
    },
    Sample {
        graph: "graph @heads(%rows: i32[k], %w: f32[k, h]) -> f32[e, h]
  params e = 1, h = 3, k = 1 {
  %0 = scatter %rows, %w {index = k, into = e} : f32[e, h]
  return %0
}",
        inputs: &[&[0.0], &[1.0, 2.0, 3.0]],
        outputs: &[&[1.0, 2.0, 3.0]],
    },
];
