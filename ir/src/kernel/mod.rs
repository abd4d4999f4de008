//! Kernel IR: programs over tiles.
//!
//! One instance of a kernel's grid is one worker's item (CPU thread, CTA, work-group). Tiles have
//! static shapes; masks (`where <bound`) deal with edges: a masked-out element loads as 0 and is
//! not stored. There are no lanes, warps, swizzles or pointers: how a tile lies in lanes, AMX
//! registers or warps is the target's business.
//!
//! - [`builder`]: makes kernels, inferring types
//! - [`print`], [`parse`]: the text form; `parse(print(k)) == k`
//! - [`verify`]: every check, all errors at once
//! - [`interp`]: the meaning, in f64 or f32
//!
//! Text (see `ir/README.md` for the grammar):
//!
//! ```text
//! kernel @gemv contraction{rows = 4} (%x: in bf16[n, 2048], %w: in bf16[1408, 2048] packed [0/16, 1/2, 0:16, 1:2],
//!     %y: out f32[n, 1408]) where 1 <= n <= 4 {
//!   grid %j in 0..1408 step 16 {
//!     %zero = splat 0 : f32[4, 16]
//!     %acc = for %k in 0..2048 step 256 carry %a = %zero fan=9 {
//!       %xt = load %x[0+4 where <n, %k+256] : bf16[4, 256]
//!       %wt = load %w[%j+16, %k+256] keep : bf16[16, 256]
//!       %b = mma %a, %xt, %wt : f32[4, 16]
//!       yield %b
//!     }
//!     store %acc, %y[0+4 where <n, %j+16]
//!   }
//! }
//! ```

use crate::attr::Attr;
use crate::dim::{Dim, Name, Symbols};
use crate::dtype::{DType, Encoding};
use crate::expr::Expr;

/// A tile value of a kernel (or a scalar: a tile of rank 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub u32);

/// Encoding and static extents of a tile. Scalars, loop variables and grid variables have rank 0;
/// coordinates are `i32`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TileType {
    /// How elements are held; scaled encodings only for tiles loaded with `keep` or encoded.
    pub encoding: Encoding,
    /// Extents, slowest first.
    pub shape: Vec<u32>,
}

impl TileType {
    /// A tile of plain elements.
    pub fn new(dtype: DType, shape: &[u32]) -> Self {
        TileType { encoding: dtype.into(), shape: shape.to_vec() }
    }

    /// A scalar.
    pub fn scalar(dtype: DType) -> Self {
        TileType::new(dtype, &[])
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|e| *e as u64).product()
    }
}

/// How a kernel uses a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Read.
    In,
    /// Written.
    Out,
    /// Read and written.
    InOut,
    /// What the worker touches after this kernel; only prefetched. May be absent (null).
    Prefetch,
}

/// One step of a packed order: part of an axis, or a nested group of the block's scales or codes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PackStep {
    /// `axis / divisor`: the outermost part of an axis, of extent `ceil(extent / divisor)`,
    /// padded with zeros.
    Outer {
        /// Which logical axis.
        axis: u32,
        /// Product of the inner factors of this axis.
        divisor: u32,
    },
    /// `axis : extent`: an inner factor of an axis, in order from slow to fast.
    Inner {
        /// Which logical axis.
        axis: u32,
        /// Extent of the factor.
        extent: u32,
    },
    /// `{scale: ..}`: the scales of the block so far, laid out by these steps, before the codes
    /// that follow. The steps' axes count blocks of scales, not elements.
    Scales(Vec<PackStep>),
}

/// Physical order of a packed tensor: steps from slowest to fastest. Every axis is split into one
/// `Outer` and static `Inner` factors whose product is the divisor; an axis that is not split is
/// `Outer` with divisor 1. Text: `packed [0/16, 1/2, 0:16, 1:2]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packing(pub Vec<PackStep>);

/// What a parameter's memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParamType {
    /// A tensor, row-major unless packed.
    Tensor {
        /// How elements are stored.
        encoding: Encoding,
        /// Logical extents.
        dims: Vec<Dim>,
        /// Physical order, if not row-major.
        packing: Option<Packing>,
    },
    /// A work list: `i32[1 + max, fields]`, element `[0][0]` is the number of tuples, tuple `r`
    /// lies in row `1 + r`.
    List {
        /// Names of a tuple's fields.
        fields: Vec<Name>,
        /// Greatest number of tuples.
        max: Dim,
    },
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name in text.
    pub name: Name,
    /// How it is used.
    pub role: Role,
    /// What it is.
    pub ty: ParamType,
}

/// One axis of a grid.
#[derive(Clone, Debug, PartialEq)]
pub enum GridAxis {
    /// `%v in 0..extent step step`
    Range {
        /// Bound to multiples of `step`.
        var: ValueId,
        /// One past the last value.
        extent: Dim,
        /// Distance between values.
        step: u32,
    },
    /// `(%a, %b, ..) in %list`
    List {
        /// Bound to a tuple's fields.
        vars: Vec<ValueId>,
        /// The list.
        list: ParamId,
    },
}

/// A kernel's instances, numbered row-major over its axes as written (the first is slowest). A
/// worker runs a contiguous span of them, so the first axis is what workers divide.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Grid {
    /// Axes, slowest first; at most one is a list. No axes: a single instance.
    pub axes: Vec<GridAxis>,
}

/// Where an access begins along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// A constant.
    Const(i64),
    /// A scalar `i32`, or (in one coordinate of an access) an `i32` tile of rank 1: a gather or
    /// scatter of the rows it names.
    Value(ValueId),
}

/// What masks an edge: elements at or beyond it do not take part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A size known to the host.
    Dim(Dim),
    /// A scalar `i32`.
    Value(ValueId),
}

/// One coordinate of an access: `start`, `start+extent`, `start+extent where <bound`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Coord {
    /// First element, or the elements' positions.
    pub start: Start,
    /// Extent along this axis; `None` for a single element, whose axis the tile does not have.
    /// For a gather it is the extent of the position tile.
    pub extent: Option<u32>,
    /// Elements `start + i >= bound` are masked out. (Of a gather: positions `>= bound` or < 0.)
    pub bound: Option<Bound>,
}

/// What an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// A parameter.
    Param(ParamId),
    /// Scratch made by `alloc`.
    Scratch(ValueId),
}

/// A tile of a parameter or of scratch, in logical coordinates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it goes to.
    pub base: Base,
    /// One coordinate per axis.
    pub coords: Vec<Coord>,
}

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

/// Hints of a loop; none changes the meaning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoopHints {
    /// Copies or decodes in flight.
    pub stages: u32,
    /// Pages over which the next block is prefetched (0: none).
    pub fan: u32,
    /// Parameter (of role `Prefetch`) whose memory is prefetched after the loop's own span.
    pub then: Option<ParamId>,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// `%v = op ..`
    Let {
        /// Defined value.
        result: ValueId,
        /// How.
        op: Op,
    },
    /// Write a tile. Scatters if a coordinate's start is a tile. Elements of plain params are
    /// rounded to the parameter's dtype by an explicit `cast` before.
    Store {
        /// What.
        value: ValueId,
        /// To where.
        access: Access,
    },
    /// `%r.. = for %var in lo..hi step s carry %c = init, .. { .. yield .. }`
    For(For),
    /// `%r.. = if cond { .. yield .. } else { .. yield .. }`
    If(If),
}

/// A counted loop.
#[derive(Clone, Debug, PartialEq)]
pub struct For {
    /// Values after the last iteration (the initial ones if there was none).
    pub results: Vec<ValueId>,
    /// Scalar `i32`.
    pub var: ValueId,
    /// First value.
    pub lo: Bound,
    /// One past the last value.
    pub hi: Bound,
    /// Distance, positive.
    pub step: u32,
    /// Carried values as the body sees them, with their initial values.
    pub carry: Vec<(ValueId, ValueId)>,
    /// Performance only.
    pub hints: LoopHints,
    /// Statements.
    pub body: Vec<Stmt>,
    /// Next values of the carried.
    pub yields: Vec<ValueId>,
}

/// A choice.
#[derive(Clone, Debug, PartialEq)]
pub struct If {
    /// Values of the branch taken.
    pub results: Vec<ValueId>,
    /// Scalar `bool`.
    pub cond: ValueId,
    /// Where true, and what it yields.
    pub then: (Vec<Stmt>, Vec<ValueId>),
    /// Where false, and what it yields.
    pub otherwise: (Vec<Stmt>, Vec<ValueId>),
}

/// `family{key = value, ..}`: what targets and plugins match to override a kernel; the body
/// defines it.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Name, e.g. `contraction`, `attention`, `row`, `dispatch`.
    pub name: Name,
    /// Parameters, in order.
    pub params: Vec<(Name, Attr)>,
}

/// A tile value's name and type.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Name in text, unique in the kernel.
    pub name: Name,
    /// Encoding and static shape.
    pub ty: TileType,
}

/// A tile program.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Symbol of the compiled code: a C identifier.
    pub name: Name,
    /// What it is one of.
    pub family: Family,
    /// Step symbols that dims speak of, with bounds. All are passed to the kernel, in this order.
    pub symbols: Symbols,
    /// Parameters, in order.
    pub params: Vec<Param>,
    /// All values.
    pub values: Vec<Value>,
    /// Instances.
    pub grid: Grid,
    /// What an instance does.
    pub body: Vec<Stmt>,
}

impl Kernel {
    /// A value of this kernel.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// A value's type.
    pub fn ty(&self, id: ValueId) -> &TileType {
        &self.value(id).ty
    }

    /// A parameter of this kernel.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0 as usize]
    }

    /// What an access goes to.
    pub fn base_encoding(&self, base: Base) -> Encoding {
        match base {
            Base::Param(p) => match &self.param(p).ty {
                ParamType::Tensor { encoding, .. } => *encoding,
                ParamType::List { .. } => DType::I32.into(),
            },
            Base::Scratch(v) => self.ty(v).encoding,
        }
    }
}
