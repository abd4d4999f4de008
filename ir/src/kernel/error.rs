//! What can be wrong with a kernel, E0140 to E0162.

use super::TileType;
use super::packing::PackingError;
use crate::dim::Name;
use crate::dtype::Encoding;
use crate::expr::ExprError;
use thiserror::Error;

/// A broken rule of kernel IR.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Operands whose extents do not agree.
    #[error("{op} of shapes {left:?} and {right:?}, expected extents that agree")]
    Shapes {
        /// The operation.
        op: &'static str,
        /// One operand's extents.
        left: Vec<u32>,
        /// The other's.
        right: Vec<u32>,
    },
    /// An operand or result of an encoding that the operation does not take.
    #[error("{op} of {found}, expected {expected}")]
    Encoding {
        /// The operation.
        op: &'static str,
        /// What was given.
        found: Encoding,
        /// What it takes.
        expected: &'static str,
    },
    /// An operand of a rank that the operation does not take.
    #[error("{op} of a tile of rank {found}, expected rank {expected}")]
    Rank {
        /// The operation.
        op: &'static str,
        /// What was given.
        found: usize,
        /// What it takes.
        expected: usize,
    },
    /// An axis, factor, start or count that does not fit the operand.
    #[error("{op}: {found} does not fit a tile of shape {shape:?}")]
    Axis {
        /// The operation.
        op: &'static str,
        /// What was given.
        found: u64,
        /// The tile's extents.
        shape: Vec<u32>,
    },
    /// A result declared with another type than follows from the operands.
    #[error("result declared {found}, expected {expected}")]
    Declared {
        /// As written.
        found: TileType,
        /// As inferred.
        expected: TileType,
    },
    /// A result whose type does not follow from the operands and was not given.
    #[error("{op} without a result type")]
    Undeclared {
        /// The operation.
        op: &'static str,
    },
    /// An expression that has no type.
    #[error("{0}")]
    Expr(ExprError),
    /// A value used where it is not defined.
    #[error("value {name} is not defined here")]
    Unknown {
        /// Its name, or position among the values.
        name: String,
    },
    /// A name given twice, or a value defined twice.
    #[error("{name} is defined twice")]
    Redefined {
        /// The name.
        name: Name,
    },
    /// A name that the text form or C cannot spell.
    #[error("name {name:?}, expected letters, digits and underscores")]
    Name {
        /// The name.
        name: Name,
    },
    /// A packing that does not fit its tensor.
    #[error(transparent)]
    Packing(#[from] PackingError),
    /// An access with more or fewer coordinates than axes.
    #[error("{found} coordinates of {base}, expected {expected}")]
    Coords {
        /// What is accessed.
        base: Name,
        /// Coordinates given.
        found: usize,
        /// Axes.
        expected: usize,
    },
    /// More than one gathered coordinate, or a gather along the last axis of an encoded tensor.
    #[error("{base} gathered along {found} axes, expected one at most, and not the last if scaled")]
    Gather {
        /// What is accessed.
        base: Name,
        /// Coordinates that are tiles.
        found: usize,
    },
    /// A parameter used otherwise than declared.
    #[error("{param} is {role}, it cannot be {used}")]
    Role {
        /// The parameter.
        param: Name,
        /// As declared.
        role: &'static str,
        /// What was tried.
        used: &'static str,
    },
    /// A carried or yielded value of another type than its initial value or the other branch's.
    #[error("yielded value {index} is {found}, expected {expected}")]
    Yield {
        /// Position.
        index: usize,
        /// As yielded.
        found: TileType,
        /// As it began.
        expected: TileType,
    },
    /// A stored tile of another type than what it is stored to.
    #[error("stored {found}, expected {expected}")]
    Stored {
        /// The value's type.
        found: TileType,
        /// The access's.
        expected: TileType,
    },
    /// Two lists that must be of one length are not.
    #[error("{found} {what}, expected {expected}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A symbol that no bound declares, or whose bounds no kernel can use.
    #[error("symbol {name} has no usable bounds")]
    Symbol {
        /// The symbol.
        name: Name,
    },
    /// An extent, step or size out of its range.
    #[error("{what} {found} is out of range")]
    Extent {
        /// What it is of.
        what: &'static str,
        /// The number.
        found: u64,
    },
    /// Scratch used as a tile, or a tile as scratch.
    #[error("{name}: scratch is only loaded and stored, and only scratch is")]
    Scratch {
        /// The value.
        name: Name,
    },
    /// A family parameter that has no text of its own.
    #[error("family parameter {name} cannot be written")]
    Family {
        /// Its key.
        name: Name,
    },
    /// Statements nested beyond what a text may hold.
    #[error("statements nested deeper than {limit}")]
    Depth {
        /// The limit.
        limit: usize,
    },
}

impl KernelError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0140", "operands whose extents do not agree"),
        ("E0141", "an operand or result of an encoding that the operation does not take"),
        ("E0142", "an operand of a rank that the operation does not take"),
        ("E0143", "an axis, factor, start or count that does not fit the operand"),
        ("E0144", "a result declared with another type than follows from the operands, or none"),
        ("E0146", "an expression that has no type"),
        ("E0148", "a value used where it is not defined"),
        ("E0149", "a name given twice, or a value defined twice"),
        ("E0150", "a name that the text form or C cannot spell"),
        ("E0151", "a packing that does not fit its tensor"),
        ("E0152", "an access with more or fewer coordinates than axes"),
        ("E0153", "gathered coordinates that do not fit the tensor"),
        ("E0154", "a parameter used otherwise than declared"),
        ("E0155", "a carried or yielded value of another type than before"),
        ("E0156", "two lists that must be of one length are not"),
        ("E0157", "a symbol that no bound declares, or whose bounds no kernel can use"),
        ("E0158", "an extent, step or size out of its range"),
        ("E0159", "scratch used as a tile, or a tile as scratch"),
        ("E0160", "a family parameter that has no text of its own"),
        ("E0161", "statements nested beyond what a text may hold"),
        ("E0162", "a stored tile of another type than what it is stored to"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            KernelError::Shapes { .. } => "E0140",
            KernelError::Encoding { .. } => "E0141",
            KernelError::Rank { .. } => "E0142",
            KernelError::Axis { .. } => "E0143",
            KernelError::Declared { .. } | KernelError::Undeclared { .. } => "E0144",
            KernelError::Expr(_) => "E0146",
            KernelError::Unknown { .. } => "E0148",
            KernelError::Redefined { .. } => "E0149",
            KernelError::Name { .. } => "E0150",
            KernelError::Packing(_) => "E0151",
            KernelError::Coords { .. } => "E0152",
            KernelError::Gather { .. } => "E0153",
            KernelError::Role { .. } => "E0154",
            KernelError::Yield { .. } => "E0155",
            KernelError::Count { .. } => "E0156",
            KernelError::Symbol { .. } => "E0157",
            KernelError::Extent { .. } => "E0158",
            KernelError::Scratch { .. } => "E0159",
            KernelError::Family { .. } => "E0160",
            KernelError::Depth { .. } => "E0161",
            KernelError::Stored { .. } => "E0162",
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            KernelError::Shapes { .. } | KernelError::Rank { .. } | KernelError::Axis { .. } => {
                "bring the operands to one shape with slice, broadcast, split or merge"
            }
            KernelError::Encoding { .. } => "cast, decode or encode the operand first",
            KernelError::Declared { .. } | KernelError::Undeclared { .. } => {
                "write the type that follows from the operands"
            }
            KernelError::Expr(_) => "convert between classes with float() and int()",
            KernelError::Unknown { .. } => {
                "define the value before its use, in this block or above"
            }
            KernelError::Redefined { .. } | KernelError::Name { .. } => "choose another name",
            KernelError::Packing(_) => {
                "give every axis one outer step and inner factors that multiply to its divisor"
            }
            KernelError::Coords { .. } => "give one coordinate for each axis",
            KernelError::Gather { .. } => "gather along one axis, in a load of its own",
            KernelError::Role { .. } => "change the parameter's role or the statement",
            KernelError::Yield { .. } => "yield a value of the initial value's type",
            KernelError::Count { .. } => "give as many as there are expected",
            KernelError::Symbol { .. } => "declare the symbol after `where` with its bounds",
            KernelError::Extent { .. } => "choose a positive size that fits",
            KernelError::Scratch { .. } => "load a tile from the scratch",
            KernelError::Family { .. } => "use a number, a word, a list or an encoding",
            KernelError::Depth { .. } => "unnest the statements",
            KernelError::Stored { .. } => "cast or encode the value to what memory holds",
        }
    }
}
