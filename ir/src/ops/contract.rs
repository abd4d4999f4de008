//! `contract`: sums of products.

use crate::attr::Attrs;
use crate::dim::{Dim, Name};
use crate::dtype::DType;
use crate::error::IrError;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::Eval;
use crate::graph::{Type, ValueId};
use crate::kernel;
use crate::kernel::Fold;
use crate::kernel::TileType;
use crate::number::Number;
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance};
use crate::tensor::{Tensor, elements};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};
use std::borrow::Cow;

const SCHEMA: Schema = Schema {
    name: "contract",
    summary: "product of one or two operands, summed over every index absent from the result",
    operands: &["x.."],
    mask: false,
    attrs: &[],
    results: 1,
};

/// `contract %x, %w : f32[s, h, d]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        node.floats()?;
        let found = node.operands.len();
        if found > 2 {
            let (op, expected) = (SCHEMA.name, "1 or 2".to_string());
            return Err(GraphError::OperandCount { op, found, expected });
        }
        let indices = node.declared()?.indices.clone();
        let covered = |i: &&crate::dim::Name| node.operands.iter().any(|o| o.has(i));
        if let Some(index) = indices.iter().find(|i| !covered(i)) {
            let (op, operand, found) = (SCHEMA.name, "x", node.operand(0).clone());
            return Err(GraphError::MissingIndex { op, operand, found, index: index.clone() });
        }
        Ok(vec![Type { encoding: DType::F32.into(), indices }])
    }

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, _results: &[Type]) -> Dim {
        // One multiplication and one addition for each combination of all indices.
        let mut all: Vec<&Name> = node.operands.iter().flat_map(|o| &o.indices).collect();
        all.sort();
        all.dedup();
        node.product(all).times(&2.into())
    }

    fn tolerance(&self, node: &NodeView, results: &[Type]) -> Tolerance {
        let mut all: Vec<&Name> = node.operands.iter().flat_map(|o| &o.indices).collect();
        all.sort();
        all.dedup();
        node.sum_tolerance(all.into_iter().filter(|i| !results[0].has(i)))
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let indices = tiles.axes(&ty.indices);
        let mut axes = indices.clone();
        for index in operands.iter().flat_map(|o| &o.indices) {
            if !axes.contains(index) {
                axes.push(index.clone());
            }
        }
        if let [a, b] = operands
            && let Some(value) = product_of_matrices(tiles, node, [a, b], &indices)?
        {
            return Ok(vec![Tile { value, indices }]);
        }
        let mut factors = vec![];
        for operand in operands {
            factors.push(tiles.aligned(node.graph, operand, &axes)?);
        }
        let mut value = match factors[..] {
            [a, b] => tiles.kernel.map("a * b", &[("a", a), ("b", b)]),
            _ => tiles.kernel.map("a * 1", &[("a", factors[0])]),
        };
        for axis in (indices.len()..axes.len()).rev() {
            value = tiles.kernel.reduce(Fold::Add, axis as u32, value);
        }
        Ok(vec![Tile { value, indices }])
    }
}

/// `[m.., k..] · [n.., k..]` as one tile product, where no index is a batch and the result's are
/// those of the one and then those of the other.
fn product_of_matrices(
    tiles: &mut Tiles,
    node: &NodeView,
    [a, b]: [&Tile; 2],
    indices: &[Name],
) -> Result<Option<kernel::ValueId>, Unlowered> {
    let own = |x: &Tile, y: &Tile| -> Option<Vec<Name>> {
        let kept = x.indices.iter().filter(|i| indices.contains(i));
        kept.map(|i| (!y.indices.contains(i)).then(|| i.clone())).collect()
    };
    let (Some(rows), Some(cols)) = (own(a, b), own(b, a)) else { return Ok(None) };
    let summed: Vec<Name> = a.indices.iter().filter(|i| !indices.contains(i)).cloned().collect();
    let same = |i: &Name| indices.contains(i) || summed.contains(i);
    let whole = b.indices.iter().all(same) && summed.iter().all(|i| b.indices.contains(i));
    let begins = |first: &[Name]| indices.starts_with(first);
    let (a, b, rows, cols) = match (begins(&rows), begins(&cols)) {
        (true, _) => (a, b, rows, cols),
        (_, true) => (b, a, cols, rows),
        _ => return Ok(None),
    };
    let in_order = |own: &[Name]| -> Vec<Name> {
        indices.iter().filter(|i| own.contains(i)).cloned().collect()
    };
    let (rows, cols) = (in_order(&rows), in_order(&cols));
    if !whole || summed.is_empty() || rows.is_empty() || cols.is_empty() {
        return Ok(None);
    }
    let left = matrix(tiles, a, &rows, &summed);
    let right = matrix(tiles, b, &cols, &summed);
    let (m, n) = (tiles.kernel.ty(left).shape[0], tiles.kernel.ty(right).shape[0]);
    let zero = tiles.kernel.splat(0.0, TileType::new(DType::F32, &[m, n]));
    let product = tiles.kernel.mma(zero, left, right);
    let extents = tiles.shape(node.graph, &cols)?;
    let wide = tiles.unflattened(product, &extents);
    let extents = tiles.shape(node.graph, &rows)?;
    Ok(Some(if rows.len() > 1 { tiles.kernel.split(wide, 0, &extents) } else { wide }))
}

/// A tile as `[rows, cols]`.
fn matrix(tiles: &mut Tiles, tile: &Tile, rows: &[Name], cols: &[Name]) -> kernel::ValueId {
    let value = tiles.permuted(tile, &[rows, cols].concat());
    let value = tiles.flattened(value, rows.len());
    match rows.len() {
        1 => value,
        count => tiles.kernel.merge(value, 0, count as u32),
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let out = cx.indices();
        let a = &cx.node.operand(0).indices;
        if cx.operands.len() == 1 {
            let kept: Vec<Name> = out.to_vec();
            return cx.result_from(out, sum_rest(cx, 0, &kept)?.into_owned());
        }
        let b = &cx.node.operand(1).indices;
        let pick = |from: &[Name], in_b: bool, in_out: bool| -> Vec<Name> {
            let wanted = |i: &&Name| b.contains(i) == in_b && out.contains(i) == in_out;
            from.iter().filter(wanted).cloned().collect()
        };
        let (batch, rows) = (pick(a, true, true), pick(a, false, true));
        let summed = pick(a, true, false);
        let cols: Vec<Name> =
            b.iter().filter(|i| !a.contains(i) && out.contains(i)).cloned().collect();
        let size = |names: &[Name]| elements(&cx.extents(names)?);
        let [batches, m, n, k] = [size(&batch)?, size(&rows)?, size(&cols)?, size(&summed)?];
        let left = sum_rest(cx, 0, &[&batch[..], &rows, &summed].concat())?;
        let right = sum_rest(cx, 1, &[&batch[..], &cols, &summed].concat())?;
        let mut c = vec![N::default(); elements(&[batches, m, n])?];
        for i in 0..if k == 0 { 0 } else { batches } {
            let (l, r) = (&left[i * m * k..][..m * k], &right[i * n * k..][..n * k]);
            products(l, r, k, &mut c[i * m * n..][..m * n]);
        }
        cx.result_from(&[batch, rows, cols].concat(), c)
    }
}

/// Elements of the right operand that stay in a core's cache while the left one's rows pass.
const BLOCK: usize = 1 << 15;

/// `c[i, j] = sum over p of a[i, p] * b[j, p]`, rows of `k > 0`.
fn products<N: Number>(a: &[N], b: &[N], k: usize, c: &mut [N]) {
    let n = b.len() / k;
    let block = (BLOCK / k).max(1);
    for from in (0..n).step_by(block) {
        let to = n.min(from + block);
        for (row, out) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
            let columns = b[from * k..to * k].chunks_exact(k);
            for (sum, column) in out[from..to].iter_mut().zip(columns) {
                *sum = N::dot(row, column);
            }
        }
    }
}

/// An operand with its indices in this order, summed over those not in it.
fn sum_rest<'a, N: Number>(
    cx: &'a Eval<'_, N>,
    operand: usize,
    kept: &[Name],
) -> Result<Cow<'a, [N]>, GraphError> {
    let own = &cx.node.operand(operand).indices;
    let rest: Vec<Name> = own.iter().filter(|i| !kept.contains(i)).cloned().collect();
    let arranged = cx.arranged(operand, &[kept, &rest].concat())?;
    if rest.is_empty() {
        return Ok(arranged);
    }
    let each = elements(&cx.extents(&rest)?)?;
    let sum = |of: &[N]| of.iter().fold(N::default(), |sum, x| sum.add(*x));
    let sums = match each {
        0 => vec![N::default(); elements(&cx.extents(kept)?)?],
        _ => arranged.chunks_exact(each).map(sum).collect(),
    };
    Ok(Cow::Owned(sums))
}

impl GraphBuilder {
    /// Sum of products over every index that `indices` does not have.
    pub fn contract<I: AsRef<str>>(
        &mut self,
        x: ValueId,
        w: ValueId,
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let ty = Type::new(DType::F32, indices);
        self.node1(OpRef(&Op), &[x, w], None, Attrs::default(), Some(ty))
    }
}

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @matrix(%x: f32[s, D], weight %w: bf16[h, d, D]) -> f32[s, h, d]
  params D = 3, d = 1, h = 2, s = 1 {
  %0 = contract %x, %w : f32[s, h, d]
  return %0
}",
        inputs: &[&[1.0, 2.0, 3.0], &[1.0, 0.0, -1.0, 0.5, 0.5, 2.0]],
        outputs: &[&[-2.0, 7.5]],
    },
    Sample {
        graph: "graph @batch(%x: f32[s, h, d], %y: f32[d, h, e, z]) -> f32[e, h, s]
  params d = 37, e = 2, h = 3, s = 5, z = 2 {
  %0 = contract %x, %y : f32[e, h, s]
  return %0
}",
        inputs: &[],
        outputs: &[],
    },
    Sample {
        graph: "graph @sum(%x: f32[s, d]) -> f32[d]
  params d = 2, s = 3 {
  %0 = contract %x : f32[d]
  return %0
}",
        inputs: &[&[1.0, f64::INFINITY, 3.0, 4.0, 5.0, 6.0]],
        outputs: &[&[9.0, f64::INFINITY]],
    },
];
