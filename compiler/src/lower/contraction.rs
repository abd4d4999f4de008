//! Generator of contractions: rows of the step with a packed weight, any encoding, any row count.

use crate::lower::precision::Operand;
use crate::lower::schedule::{ContractionTile, LANES, UNIT, staged};
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::{DType, Encoding};
use ir::kernel::builder::{At, KernelBuilder, packed, tensor};
use ir::kernel::{PackStep, Packing, ParamId, Role, TileType, ValueId};

/// `y[i, b, j] = Σ_k x[i, b, k] · w[b, j, k]`
#[derive(Clone, Debug, PartialEq)]
pub struct Contraction {
    /// Symbol of the rows, and its greatest value.
    pub rows: (&'static str, i64),
    /// Rows of `x` for each row of the step.
    pub rows_each: i64,
    /// Batches `b`, columns `j`, depth `k`.
    pub extents: (i64, i64, i64),
    /// How `x` is stored.
    pub x: Encoding,
    /// How `x` enters the product.
    pub left: Operand,
    /// How the weight is packed.
    pub weight: Encoding,
    /// How results are stored, one output for each.
    pub outs: Vec<Encoding>,
    /// Tile.
    pub tile: ContractionTile,
}

impl Contraction {
    /// Number of rows of `x`.
    pub fn rows(&self) -> Dim {
        Dim::symbol(self.rows.0).times(&self.rows_each.into())
    }
}

/// Order of a `[batch, rows, cols]` weight beside activations that enter so: blocks of 16 rows in
/// the lanes, and the columns that make up four bytes together. Beside codes, scales of few columns
/// lie before those columns, and four bytes hold four columns in their low halves, the next four in
/// the high ones.
pub fn weight_packing(encoding: Encoding, left: Operand) -> Packing {
    let outer = |axis, divisor| PackStep::Outer { axis, divisor };
    let inner = |axis, stride, extent| PackStep::Inner { axis, stride, extent };
    let bits = encoding.code.bits();
    let group = (32 / bits).max(1);
    let lanes = inner(1, 1, LANES);
    let mut steps = vec![outer(0, 1), outer(1, LANES)];
    let scale = encoding.scale.filter(|s| left == Operand::I8 && UNIT.is_multiple_of(s.cols));
    match scale.filter(|s| s.dtype != DType::E8M0) {
        Some(scale) => {
            steps.push(outer(2, UNIT));
            steps.push(PackStep::Scales(vec![inner(2, 1, UNIT / scale.cols), lanes.clone()]));
            steps.push(inner(2, group, UNIT / group));
        }
        None => steps.push(outer(2, group)),
    }
    steps.push(lanes);
    if left == Operand::I8 && bits == 4 {
        steps.extend([inner(2, 1, group / 2), inner(2, group / 2, 2)]);
    } else if group > 1 {
        steps.push(inner(2, 1, group));
    }
    Packing(steps)
}

/// A coordinate along `extent`: the tile's part from `start`, masked where it can pass the edge.
pub fn part(start: ValueId, tile: u32, extent: i64) -> At {
    let at = At::tile(start, tile);
    if extent % i64::from(tile) == 0 { at } else { at.bound(extent) }
}

/// Writes a tile to outputs, each stored in its own way.
pub fn store_all(b: &mut KernelBuilder, value: ValueId, outs: &[(ParamId, Encoding)], at: &[At]) {
    for (param, encoding) in outs {
        let rounded = b.rounded(value, *encoding);
        b.store(rounded, *param, at);
    }
}

/// The kernel. Parameters: x, w, one output for each of `outs`.
pub fn kernel(c: &Contraction) -> KernelBuilder {
    let mut b = KernelBuilder::new("contraction", "contraction");
    let (batches, cols, depth) = c.extents;
    b.family_param("rows", Attr::Dim(i64::from(c.tile.rows).into()));
    b.family_param("depth", Attr::Dim(depth.into()));
    b.symbol(c.rows.0, 0, c.rows.1);
    let n = c.rows();
    let dims = |last: i64| -> Vec<Dim> { vec![n.clone(), batches.into(), last.into()] };
    let x = b.param("x", Role::In, tensor(c.x, &dims(depth)));
    let w_dims = [batches.into(), cols.into(), depth.into()];
    let w = b.param("w", Role::In, packed(c.weight, &w_dims, weight_packing(c.weight, c.left)));
    let outs: Vec<_> = c
        .outs
        .iter()
        .enumerate()
        .map(|(i, d)| (b.param(&format!("y{i}"), Role::Out, tensor(*d, &dims(cols))), *d))
        .collect();
    let tile = c.tile;
    // Columns first: a worker's weights are one contiguous span.
    let batch = b.grid_range("b", batches, 1);
    let j = b.grid_range("j", cols, tile.cols);
    let i = b.grid_range("i", n.clone(), tile.rows);
    let rows = At::tile(i, tile.rows).bound(&n);
    let zero = b.splat(0.0, TileType::new(DType::F32, &[tile.rows * c.left.terms(), tile.cols]));
    let product = |b: &mut KernelBuilder, sum: ValueId, k: At| {
        let xt = c.left.load(b, x, &[rows.clone(), At::one(batch), k.clone()]);
        let wt = b.load_keep(w, &[At::one(batch), part(j, tile.cols, cols), k]);
        b.mma(sum, xt, wt)
    };
    let sum = if i64::from(tile.depth) == depth {
        product(&mut b, zero, At::tile(0, tile.depth))
    } else {
        let carry = [("sum", zero)];
        b.for_loop(0, depth, tile.depth, &carry, staged(tile.rows), |b, k, sum| {
            vec![product(b, sum[0], part(k, tile.depth, depth))]
        })[0]
    };
    let sum = c.left.leave(&mut b, sum);
    store_all(&mut b, sum, &outs, &[rows.clone(), At::one(batch), part(j, tile.cols, cols)]);
    b
}
