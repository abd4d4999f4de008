//! Where the elements of a tensor lie in memory, packed or row-major.
//!
//! The place of an element is a sum of one term for each axis (every factor of a packing belongs
//! to one axis), so a [`Layout`] is a table of offsets per axis.
//!
//! A scaled tensor holds codes, scales and perhaps sums of codes:
//! - *within* the codes, where its packing has a `{..}` step: each block begins with its scales,
//!   in the order of the nested steps, then (if the encoding keeps sums) the sums as `i32` in the
//!   same order, then its codes;
//! - *apart* otherwise: the codes, then from the next multiple of 64 bytes the whole grid of
//!   scales, row-major: one scale, of the encoding's scale type, for each block of the last two
//!   axes, for each position of the axes before them; then, from the next multiple of 64 bytes, the
//!   sums in the same order as `i32`.
//!
//! Codes of four bits fill a byte from its low half. Padding is zeros everywhere.

use crate::dtype::Encoding;
use thiserror::Error;

/// A packing that does not fit its tensor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PackingError {
    /// An axis that the tensor does not have.
    #[error("packing names axis {axis} of a tensor of rank {rank}")]
    Axis {
        /// As written.
        axis: u32,
        /// The tensor's rank.
        rank: usize,
    },
    /// An axis without exactly one outer step.
    #[error("axis {axis} has {found} outer steps, expected one")]
    Outer {
        /// Which axis.
        axis: u32,
        /// How many it has.
        found: usize,
    },
    /// Factors whose strides and extents do not chain from 1 to the divisor.
    #[error("factors of axis {axis} reach {found}, expected its divisor {divisor}")]
    Factors {
        /// Which axis.
        axis: u32,
        /// Positions that the factors tell apart.
        found: u64,
        /// As the outer step says.
        divisor: u32,
    },
    /// Scales in a packing of an encoding that has none, twice, or not between whole blocks.
    #[error("scales do not stand before whole blocks of {encoding}")]
    Scales {
        /// The tensor's encoding.
        encoding: Encoding,
    },
    /// A tensor too large, or of a block that is no whole number of bytes.
    #[error("a tensor of extents {dims:?} in {encoding} has no size in bytes")]
    Size {
        /// Its extents.
        dims: Vec<u64>,
        /// Its encoding.
        encoding: Encoding,
    },
}
