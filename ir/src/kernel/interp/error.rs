//! What can go wrong while a kernel runs, E0163 and E0164.

use crate::dim::Name;
use thiserror::Error;

/// A kernel that verifies did what it must not, or was given what it does not take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InterpError {
    /// An access beyond an axis, not masked.
    #[error("position {position} of axis {axis} of {base}, expected 0 to below {extent}")]
    OutOfBounds {
        /// What is accessed.
        base: Name,
        /// Along which axis.
        axis: usize,
        /// Where.
        position: i64,
        /// The axis' extent.
        extent: u64,
    },
    /// Two instances of the grid meet in one element of a parameter.
    #[error("instances {first} and {second} both touch element {element:?} of {param}")]
    Race {
        /// The parameter.
        param: Name,
        /// Logical position.
        element: Vec<u64>,
        /// The instance that wrote it.
        first: i64,
        /// The instance that wrote or read it after.
        second: i64,
    },
    /// Scratch read before it was written.
    #[error("scratch {name} is read before it is written")]
    Uninitialised {
        /// The scratch.
        name: Name,
    },
    /// Memory of a parameter that is missing, read-only or too short.
    #[error("parameter {param} has {found} bytes, expected {expected}")]
    Buffer {
        /// The parameter.
        param: Name,
        /// Bytes given (for writing, where it is written).
        found: u64,
        /// Bytes needed.
        expected: u64,
    },
    /// Division of integers by zero or less.
    #[error("division of an integer by {divisor}, expected a positive number")]
    Divisor {
        /// What was divided by.
        divisor: i32,
    },
    /// A symbol, size or count out of its bounds, or not given.
    #[error("{what} is {found:?}, expected {lo} to {hi}")]
    Size {
        /// What it is.
        what: Name,
        /// Its value, if it has one.
        found: Option<i64>,
        /// Least.
        lo: i64,
        /// Greatest.
        hi: i64,
    },
    /// A position of `pick` or `place` beyond the tile.
    #[error("{op} at position {position}, expected 0 to below {extent}")]
    Position {
        /// The operation.
        op: &'static str,
        /// What was named.
        position: i32,
        /// The last extent.
        extent: usize,
    },
    /// An encoded tile stored across blocks of scales.
    #[error(
        "encoded tile stored at position {position} of axis {axis} of {base}, \
         expected a multiple of {block}"
    )]
    Block {
        /// What is accessed.
        base: Name,
        /// Along which axis.
        axis: usize,
        /// Where.
        position: u64,
        /// Extent of a block.
        block: u64,
    },
}

impl InterpError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0163", "a kernel that does what it must not, or is given what it does not take"),
        ("E0164", "two instances of the grid meet in one element of a parameter"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            InterpError::Race { .. } => "E0164",
            InterpError::OutOfBounds { .. }
            | InterpError::Uninitialised { .. }
            | InterpError::Buffer { .. }
            | InterpError::Divisor { .. }
            | InterpError::Size { .. }
            | InterpError::Position { .. }
            | InterpError::Block { .. } => "E0163",
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            InterpError::Block { .. } => "let encoded tiles begin where blocks of scales do",
            InterpError::OutOfBounds { .. } => "mask the edge with `where <bound`",
            InterpError::Race { .. } => "let the grid divide what is written among its instances",
            InterpError::Uninitialised { .. } => "store to all of the scratch that is loaded",
            InterpError::Buffer { .. } => "size the buffer as `layout::Layout::size_bytes` says",
            InterpError::Divisor { .. } => "divide by positive integers only",
            InterpError::Size { .. } => "bind every symbol within its bounds",
            InterpError::Position { .. } => "keep positions within the tile",
        }
    }
}
