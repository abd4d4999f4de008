//! Loop IR: what [`expand`](crate::expand) makes of a kernel, for targets that think in scalars
//! and short vectors. Registers are in SSA form; memory is bytes at 64-bit addresses.
//!
//! A program is the body of the CPU kernel signature
//! `fn(args: *const u64, begin: i64, end: i64, scratch: *mut u8)`: it contains the loop over its
//! instances. It calls nothing.

pub mod interp;
mod print;
pub mod verify;

use crate::dim::Name;
use crate::dtype::Encoding;

/// A virtual register, assigned once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// Element of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Elem {
    /// binary32
    F32,
    /// binary64 (scalars only)
    F64,
    /// 32 bits
    I32,
    /// 64 bits, also addresses (scalars only)
    I64,
    /// Truth value: result of a comparison, operand of `Select`, `And`, `Or`, `Not`.
    Bool,
}

/// Type of a register: an element, or a vector of `lanes` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegType {
    /// Element.
    pub elem: Elem,
    /// 1 for a scalar, else the vector width the program was expanded for.
    pub lanes: u32,
}

/// Type of elements in memory. Narrow integers are widened on load and cut on store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemElem {
    /// As `Elem::F32`.
    F32,
    /// As `Elem::I32`.
    I32,
    /// As `Elem::I64`.
    I64,
    /// `Elem::I32`, zero-extended.
    U16,
    /// `Elem::I32`, zero-extended.
    U8,
    /// `Elem::I32`, sign-extended.
    I8,
}

/// Arithmetic on equal types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arith {
    /// Sum (wraps).
    Add,
    /// Difference (wraps).
    Sub,
    /// Product (wraps).
    Mul,
    /// Float quotient; integer quotient rounded towards zero (scalars only, divisor not 0).
    Div,
    /// Integer remainder, sign of the dividend (scalars only, divisor not 0).
    Rem,
    /// Lesser (floats: any result if one is NaN; signed integers).
    Min,
    /// Greater.
    Max,
    /// Bitwise, or of truth values.
    And,
    /// Bitwise, or of truth values.
    Or,
    /// Bitwise, or of truth values.
    Xor,
    /// Shift left (integers).
    Shl,
    /// Shift right, zeros in.
    ShrU,
    /// Shift right, sign in.
    ShrS,
}

/// Functions of one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Func {
    /// Float negation.
    Neg,
    /// Float magnitude.
    Abs,
    /// Float square root.
    Sqrt,
    /// Float, towards minus infinity.
    Floor,
    /// Float, to nearest even.
    Nearest,
    /// Truth value.
    Not,
}

/// Conversions; lanes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Convert {
    /// I32 to F32, to nearest.
    I32ToF32,
    /// F32 to I32, towards zero, saturating, NaN to 0.
    F32ToI32,
    /// Exact.
    F32ToF64,
    /// To nearest.
    F64ToF32,
    /// F64 to I64, towards zero, saturating.
    F64ToI64,
    /// Exact up to 53 bits.
    I64ToF64,
    /// Sign-extended.
    I32ToI64,
    /// Cut.
    I64ToI32,
    /// Truth value to 0 or 1.
    BoolToI32,
    /// Not 0.
    I32ToBool,
    /// Bits kept.
    F32Bits,
    /// Bits kept.
    I32Bits,
}

/// Comparisons, to `Bool` of the same lanes. Integers are signed; of floats all but `Ne` are
/// false on NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cmp {
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
}

/// Computes a register.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Inst {
    /// A float constant in every lane.
    Float(f64),
    /// An integer or truth constant in every lane.
    Int(i64),
    /// `begin`, as I64.
    Begin,
    /// `end`, as I64.
    End,
    /// Address of scratch plus a constant.
    Scratch(u64),
    /// `args[i]`, as I64.
    Argument(u32),
    /// Two operands of the result's type.
    Arith(Arith, Reg, Reg),
    /// `a * b + c`, rounded once where the target can.
    Fma(Reg, Reg, Reg),
    /// One operand.
    Func(Func, Reg),
    /// Another type, same lanes.
    Convert(Convert, Reg),
    /// Truth value of two operands of one type.
    Cmp(Cmp, Reg, Reg),
    /// `Bool, a, b` lane by lane.
    Select(Reg, Reg, Reg),
    /// A scalar in every lane.
    Splat(Reg),
    /// 0, 1, 2, .. (I32 or F32).
    Iota,
    /// One lane of a vector, as a scalar.
    Extract(Reg, u32),
    /// Sum, `Min` or `Max` over the lanes of a vector, as a scalar, in any order.
    Across(Arith, Reg),
    /// Elements at `address + offset`, contiguous. Alignment is that of an element.
    Load {
        /// In memory.
        elem: MemElem,
        /// I64.
        address: Reg,
        /// Bytes.
        offset: i64,
    },
}

/// Distance in memory from one element to the next along an axis, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stride {
    /// Known.
    Bytes(i64),
    /// I64.
    Reg(Reg),
}

/// A memory operand of [`Mma`]: element `(i, k)` at `address + i*row + k*col`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strided {
    /// I64.
    pub address: Reg,
    /// From row to row.
    pub row: Stride,
    /// From column to column.
    pub col: Stride,
}

/// Left operand of [`Mma`]: `[m, k]`. Plain F32, BF16 or F16, or codes of a scaled encoding, one
/// byte or more wide (offered only to a target that may claim it, decoded otherwise). Where the
/// encoding keeps sums of codes, `scales` says where they lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Left {
    /// Element type.
    pub encoding: Encoding,
    /// Where its elements or codes are.
    pub at: Strided,
    /// Scales of a scaled encoding.
    pub scales: Option<Scales>,
}

/// Right operand of [`Mma`]: `[n, k]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Right {
    /// Plain memory of F32, BF16 or F16 with any strides.
    Strided {
        /// Element type.
        encoding: Encoding,
        /// Element `(j, k)`: `row` is the distance along n, `col` along k.
        at: Strided,
    },
    /// Blocks of `lanes` columns; in a block, for every group of `group` k's, `lanes` by `group`
    /// elements: `[n/lanes, k/group, n:lanes, k:group]`. Padded with zeros in both. The tile
    /// begins at a multiple of `lanes` and of `group`. Codes below a byte fill it from the low
    /// bits.
    Blocked {
        /// Element type; of `Encoding::scale` blocks, scales lie apart at `scales`.
        encoding: Encoding,
        /// I64: the block that holds the tile's first column, at the tile's first k.
        address: Reg,
        /// I64: bytes from block to block.
        block_bytes: Reg,
        /// Columns of a block.
        lanes: u32,
        /// k's that lie together.
        group: u32,
        /// Scales of a scaled encoding.
        scales: Option<Scales>,
    },
    /// Units of some columns by some k's, each a run of bytes in which codes, and perhaps scales,
    /// lie in an order of their own; units along k follow one another. Padded to whole units. The
    /// tile begins at a multiple of a unit's columns and of its depth.
    Units {
        /// Element type.
        encoding: Encoding,
        /// I64: the unit that holds the tile's first element.
        address: Reg,
        /// I64: bytes from a unit to that of the columns behind its own.
        block_bytes: Reg,
        /// What lies in a unit.
        unit: Unit,
        /// Scales of a scaled encoding, if they lie apart and not in the units.
        scales: Option<Scales>,
    },
}

/// What lies in a unit of [`Right::Units`].
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Columns that it covers.
    pub lanes: u32,
    /// k's that it covers.
    pub depth: u32,
    /// Bytes of it.
    pub bytes: u32,
    /// Where its codes are.
    pub codes: Nested,
    /// Where its scales are, if they are in it.
    pub scales: Option<Nested>,
}

/// Places within a unit: that of element `(j, k)`, counted from the unit's first, is `begin` plus
/// each term's share, in bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Nested {
    /// Bits before the first.
    pub begin: u32,
    /// What column and k add.
    pub terms: Vec<Term>,
}

/// `(x / divisor) % extent * bits` of a column or k `x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Whether x is a k, and not a column.
    pub along_k: bool,
    /// Positive.
    pub divisor: u32,
    /// Positive.
    pub extent: u32,
    /// Distance from one to the next.
    pub bits: u32,
}

impl Nested {
    /// Bits from a unit's beginning to what belongs to element `(j, k)` of it.
    pub fn bit(&self, j: u32, k: u32) -> u32 {
        let share = |t: &Term| (if t.along_k { k } else { j }) / t.divisor % t.extent * t.bits;
        self.begin + self.terms.iter().map(share).sum::<u32>()
    }
}

/// Where the scales of an encoded operand lie, a row-major grid: the block of the tile's element
/// `(i, k)` is `((first_row + i) / rows, (first_col + k) / cols)`. Their type is the encoding's
/// `scale.dtype`. Sums of each block's codes, if they are at hand, are i32 in a grid of the same
/// extents; a sum is of the whole block, also of codes that the tile does not hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// I64: of the scale of block (0, 0).
    pub address: Reg,
    /// I64: scales in a row of the grid.
    pub per_row: Reg,
    /// I32: the tile's first row within the tensor's matrix.
    pub first_row: Reg,
    /// I32: the tile's first k within the tensor's matrix.
    pub first_col: Reg,
    /// A number that `first_col` is a multiple of; 0 if it is 0.
    pub multiple: u32,
    /// I64: of the sum of block (0, 0).
    pub sums: Option<Reg>,
    /// Extent of a block along rows.
    pub rows: u32,
    /// Extent of a block along k.
    pub cols: u32,
}

/// Memory that will be read soon after a product: `rows` runs of `bytes`. The target may ask for
/// it while it multiplies; any address is safe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ahead {
    /// I64: the first run.
    pub address: Reg,
    /// From run to run.
    pub pitch: Stride,
    /// Number of runs.
    pub rows: u32,
    /// Of a run.
    pub bytes: u32,
}

/// `acc[i, j] += Σ_k left[i, k] * right[j, k]` for `i < m_valid`, `j < n_valid`, `k < k_valid`;
/// other elements of the accumulator stay as they are. Operands do not overlap the accumulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Mma {
    /// Static extents of the tile.
    pub m: u32,
    /// Columns.
    pub n: u32,
    /// Depth.
    pub k: u32,
    /// I32, at most `m` and perhaps negative (none valid); absent if all are.
    pub m_valid: Option<Reg>,
    /// As `m_valid`.
    pub n_valid: Option<Reg>,
    /// As `m_valid`.
    pub k_valid: Option<Reg>,
    /// F32 accumulator (element `(i, j)`), columns contiguous.
    pub acc: Strided,
    /// `[m, k]`
    pub left: Left,
    /// `[n, k]`
    pub right: Right,
    /// What is read next; performance only.
    pub ahead: Option<Ahead>,
    /// Whether an element must be the same, to the last bit, in a product of fewer or more rows.
    pub batch_invariant: bool,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Define a register.
    Let(Reg, Inst),
    /// Write a register to memory; contiguous lanes, cut to the element.
    Store {
        /// In memory.
        elem: MemElem,
        /// I64.
        address: Reg,
        /// Bytes.
        offset: i64,
        /// What.
        value: Reg,
    },
    /// Hint that a cache line will be read; any address is safe.
    Prefetch {
        /// I64.
        address: Reg,
        /// Bytes.
        offset: i64,
    },
    /// Counted loop.
    For(For),
    /// `if cond`, no results.
    If {
        /// Scalar Bool.
        cond: Reg,
        /// Where true.
        then: Vec<Stmt>,
        /// Where false.
        otherwise: Vec<Stmt>,
    },
    /// A tile product, only in programs expanded for a target that claims it.
    Mma(Box<Mma>),
}

/// `for var in lo..hi step step`, with carried registers.
#[derive(Clone, Debug, PartialEq)]
pub struct For {
    /// I64.
    pub var: Reg,
    /// I64.
    pub lo: Reg,
    /// I64.
    pub hi: Reg,
    /// Positive.
    pub step: i64,
    /// `(in the body, initial value, next value, after the loop)`
    pub carry: Vec<Carry>,
    /// Statements.
    pub body: Vec<Stmt>,
}

/// A register carried by a loop. All four have one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// As the body sees it.
    pub inside: Reg,
    /// Before the first iteration.
    pub init: Reg,
    /// Defined in the body: its value in the next iteration.
    pub next: Reg,
    /// After the last iteration (`init` if there was none).
    pub after: Reg,
}

/// A kernel as loops.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Symbol of the code.
    pub name: Name,
    /// Vector width in lanes of 32 bits.
    pub lanes: u32,
    /// Types of the registers.
    pub regs: Vec<RegType>,
    /// Scratch needed by a worker, in bytes.
    pub scratch_bytes: u64,
    /// Statements.
    pub body: Vec<Stmt>,
}
