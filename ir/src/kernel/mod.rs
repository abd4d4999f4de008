//! Kernel IR: programs over tiles.
//!
//! One instance of a kernel's grid is one worker's item (CPU thread, CTA, work-group). Tiles have
//! static shapes; masks (`where <bound`) deal with edges: a masked-out element loads as 0 and is
//! not stored. There are no lanes, warps, swizzles or pointers: how a tile lies in lanes, AMX
//! registers or warps is the target's business.
//!
//! - [`builder`]: makes kernels, inferring types
//! - [`infer`]: the type of an operation's result
//! - [`packing`], [`layout`], [`code`]: where the elements of a tensor lie in memory, and how
//! - [`mod@print`], [`parse`]: the text form; `parse(print(k)) == k`
//! - [`verify`]: every check, all errors at once
//! - [`interp`]: the meaning, in f64 or f32
//! - [`error`]: E0140 to E0164
//!
//! Text (see `ir/README.md` for the grammar):
//!
//! ```text
//! kernel @gemv contraction{rows = 4} (
//!   %x: in bf16[n, 2048],
//!   %w: in bf16[1408, 2048] packed [0/16, 1/2, 0:16, 1:2],
//!   %y: out f32[n, 1408]
//! ) where 1 <= n <= 4 {
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

pub mod builder;
pub mod code;
pub mod error;
pub mod infer;
pub mod interp;
pub mod layout;
mod op;
pub mod packing;
pub mod parse;
pub mod print;
pub mod verify;

pub use error::KernelError;
pub use op::{Fold, Op};

use crate::attr::Attr;
use crate::dim::{Dim, Name, Symbols};
use crate::dtype::{DType, Encoding};
use std::fmt;

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

impl fmt::Display for TileType {
    /// `f32[4, 16]`; a scalar is `i32`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encoding)?;
        if self.shape.is_empty() {
            return Ok(());
        }
        let extents: Vec<_> = self.shape.iter().map(u32::to_string).collect();
        write!(f, "[{}]", extents.join(", "))
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

/// One step of a packed order: part of an axis, or the scales of the block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PackStep {
    /// `axis/divisor`: the outermost part of an axis, of extent `ceil(extent / divisor)`, padded
    /// with zeros.
    Outer {
        /// Which logical axis.
        axis: u32,
        /// Product of the inner factors of this axis.
        divisor: u32,
    },
    /// `axis:extent`, `axis/stride:extent`: the factor `(position / stride) % extent` of an axis.
    Inner {
        /// Which logical axis.
        axis: u32,
        /// Positions along the axis from one value of the factor to the next.
        stride: u32,
        /// Values of the factor.
        extent: u32,
    },
    /// `{..}`: the scales of the block that the steps before have chosen, laid out by these
    /// inner steps (whose positions count blocks of scales), before the codes that follow.
    Scales(Vec<PackStep>),
}

/// Physical order of a packed tensor: steps from slowest to fastest. Every axis has one `Outer`
/// step, and `Inner` factors whose strides and extents chain from 1 to the divisor; an axis that
/// is not split is `Outer` with divisor 1. Text: `packed [0/16, 1/2, 0:16, 1:2]`.
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

impl Grid {
    /// The variables of all axes, slowest first.
    pub fn variables(&self) -> Vec<ValueId> {
        let of = |axis: &GridAxis| match axis {
            GridAxis::Range { var, .. } => vec![*var],
            GridAxis::List { vars, .. } => vars.clone(),
        };
        self.axes.iter().flat_map(of).collect()
    }
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

impl Access {
    /// Calls `visit` with every value that the access reads; scratch comes first.
    pub fn visit_operands(&self, visit: &mut dyn FnMut(ValueId)) {
        if let Base::Scratch(v) = self.base {
            visit(v);
        }
        for coord in &self.coords {
            if let Start::Value(v) = coord.start {
                visit(v);
            }
            if let Some(Bound::Value(v)) = coord.bound {
                visit(v);
            }
        }
    }
}

/// Hints of a loop; none changes the meaning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoopHints {
    /// Iterations in flight: from 2 on, the body's products ask for memory that the next iteration
    /// reads while they multiply.
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
    /// Whether what it computes of a row must not depend, to the last bit, on how many other rows
    /// there are: every product then adds each element's terms in an order that the number of its
    /// rows has no part in, whatever tile they are divided by.
    pub batch_invariant: bool,
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
