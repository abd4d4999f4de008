//! Operations on tiles.

use super::{Access, ValueId};
use crate::dim::Dim;
use crate::expr::Expr;

/// How elements of an axis are combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fold {
    /// Sum.
    Add,
    /// Greatest; of floats, no NaN.
    Max,
    /// Least; of floats, no NaN.
    Min,
}

/// An operation on tiles. Unless said otherwise operands and result have equal shapes; an operand
/// of lower rank is repeated along the trailing axes it lacks (`f32[64]` with `f32[64, 512]`).
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Every element is the number. Result: any plain type.
    Splat(f64),
    /// Position along an axis, `i32`.
    Iota {
        /// Which axis of the result.
        axis: u32,
    },
    /// An expression over the operands' elements. Result: `f32`, `i32` or `bool`.
    Map {
        /// Operands.
        args: Vec<ValueId>,
        /// Over the operands, by position.
        expr: Expr,
    },
    /// The value of a host-known size, a scalar `i32`.
    Dim(Dim),
    /// Round to the result's plain dtype (to nearest even; integers saturate).
    Cast(ValueId),
    /// Quantise to the result's scaled encoding (absolute maximum over each block).
    Encode(ValueId),
    /// The values of an encoded tile, as `f32`.
    Decode(ValueId),
    /// Combine along an axis, which the result lacks.
    Reduce {
        /// How.
        fold: Fold,
        /// Which axis of the operand.
        axis: u32,
        /// Operand.
        arg: ValueId,
    },
    /// Running combination along an axis, inclusive.
    Scan {
        /// How.
        fold: Fold,
        /// Which axis.
        axis: u32,
        /// Operand.
        arg: ValueId,
    },
    /// `a` where `cond`, else `b`, element by element; shapes broadcast as in `map`.
    Where {
        /// `bool`.
        cond: ValueId,
        /// Taken where true.
        a: ValueId,
        /// Taken where false.
        b: ValueId,
    },
    /// `acc[i, j] + Σ_k a[i, k]·b[j, k]`, accumulated in the accumulator's `f32` (or `i32`).
    /// Operands may be encoded: then the sum over blocks of the product of scales times the
    /// product of codes.
    Mma {
        /// `[m, n]`
        acc: ValueId,
        /// `[m, k]`
        a: ValueId,
        /// `[n, k]`
        b: ValueId,
    },
    /// Axes permuted: result axis `i` is operand axis `order[i]`.
    Transpose {
        /// Operand.
        arg: ValueId,
        /// Permutation.
        order: Vec<u32>,
    },
    /// One axis made into several, row-major.
    Split {
        /// Operand.
        arg: ValueId,
        /// Which axis.
        axis: u32,
        /// Extents of the new axes.
        extents: Vec<u32>,
    },
    /// Adjacent axes `axis .. axis + count` made into one, row-major.
    Merge {
        /// Operand.
        arg: ValueId,
        /// First of them.
        axis: u32,
        /// How many.
        count: u32,
    },
    /// Part of a tile: per axis a static start; extents are the result's.
    Slice {
        /// Operand.
        arg: ValueId,
        /// First element along each axis.
        starts: Vec<u32>,
    },
    /// Tiles one after another along an axis.
    Concat {
        /// Operands.
        args: Vec<ValueId>,
        /// Which axis.
        axis: u32,
    },
    /// A new axis inserted at `axis`, along which the operand is repeated.
    Broadcast {
        /// Operand.
        arg: ValueId,
        /// Position of the new axis in the result.
        axis: u32,
    },
    /// Positions of the `k` greatest along the last axis, `i32[.., k]`, greatest first; the lower
    /// position wins a tie; masked-out elements come last, by position.
    TopK {
        /// Operand.
        arg: ValueId,
        /// `bool`, of the operand's shape: which take part.
        mask: Option<ValueId>,
        /// How many.
        k: u32,
    },
    /// Elements of a tile named along its last axis: `out[.., i] = arg[.., index[.., i]]`.
    Pick {
        /// Operand.
        arg: ValueId,
        /// `i32`, equal to the operand but for the last axis.
        index: ValueId,
    },
    /// The inverse: `out[.., index[.., i]] += arg[.., i]`, 0 elsewhere. The result's last extent
    /// is the type's.
    Place {
        /// Values.
        arg: ValueId,
        /// `i32`, of the operand's shape.
        index: ValueId,
    },
    /// `table[arg]`: a constant table of 16 or 256 numbers indexed by codes.
    Lookup {
        /// Integer codes.
        arg: ValueId,
        /// The table.
        table: Vec<f64>,
    },
    /// Scratch memory of the result's type, private to the instance, contents undefined.
    Alloc,
    /// Read a tile. Gathers if a coordinate's start is a tile.
    Load {
        /// From where.
        access: Access,
        /// Stay encoded.
        keep: bool,
    },
}

impl Op {
    /// Name in text.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Splat(_) => "splat",
            Op::Iota { .. } => "iota",
            Op::Map { .. } => "map",
            Op::Dim(_) => "dim",
            Op::Cast(_) => "cast",
            Op::Encode(_) => "encode",
            Op::Decode(_) => "decode",
            Op::Reduce { .. } => "reduce",
            Op::Scan { .. } => "scan",
            Op::Where { .. } => "where",
            Op::Mma { .. } => "mma",
            Op::Transpose { .. } => "transpose",
            Op::Split { .. } => "split",
            Op::Merge { .. } => "merge",
            Op::Slice { .. } => "slice",
            Op::Concat { .. } => "concat",
            Op::Broadcast { .. } => "broadcast",
            Op::TopK { .. } => "topk",
            Op::Pick { .. } => "pick",
            Op::Place { .. } => "place",
            Op::Lookup { .. } => "lookup",
            Op::Alloc => "alloc",
            Op::Load { .. } => "load",
        }
    }

    /// Calls `visit` with every value that the operation reads, in the order of the text.
    pub fn visit_operands(&self, visit: &mut dyn FnMut(ValueId)) {
        match self {
            Op::Splat(_) | Op::Iota { .. } | Op::Dim(_) | Op::Alloc => {}
            Op::Map { args, .. } | Op::Concat { args, .. } => args.iter().copied().for_each(visit),
            Op::Cast(arg)
            | Op::Encode(arg)
            | Op::Decode(arg)
            | Op::Reduce { arg, .. }
            | Op::Scan { arg, .. }
            | Op::Transpose { arg, .. }
            | Op::Split { arg, .. }
            | Op::Merge { arg, .. }
            | Op::Slice { arg, .. }
            | Op::Broadcast { arg, .. }
            | Op::Lookup { arg, .. } => visit(*arg),
            Op::Where { cond: a, a: b, b: c } | Op::Mma { acc: a, a: b, b: c } => {
                [*a, *b, *c].into_iter().for_each(visit)
            }
            Op::TopK { arg, mask, .. } => {
                visit(*arg);
                mask.iter().copied().for_each(visit);
            }
            Op::Pick { arg, index } | Op::Place { arg, index } => {
                visit(*arg);
                visit(*index);
            }
            Op::Load { access, .. } => access.visit_operands(visit),
        }
    }
}
