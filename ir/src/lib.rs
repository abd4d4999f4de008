//! What a program is: graph IR, kernel IR, loop IR, their texts, verifiers and interpreters.
//!
//! - [`dtype`]: element types and encodings
//! - [`dim`]: extents as expressions over symbols
//! - [`expr`]: scalar expressions
//! - [`attr`], [`op`], [`ops`]: what an op is, and all of them
//! - [`number`], [`tensor`]: what interpreters compute with
//! - [`graph`]: tensors with named indices
//! - [`kernel`]: programs over tiles
//! - [`loops`]: programs over scalars and short vectors
//! - [`expand`]: the former to the latter
//! - [`tiles`]: nodes of a graph as tiles of a kernel
//! - [`device`]: numbers that describe a device
//! - [`target`]: what turns kernels into code
//! - [`text`]: tokens, and the grammar that the texts share
//! - [`error`]: what can be wrong, E01xx

#![warn(missing_docs)]

pub mod attr;
pub mod device;
pub mod dim;
pub mod dtype;
pub mod error;
pub mod expand;
pub mod expr;
pub mod graph;
pub mod kernel;
pub mod loops;
pub mod number;
pub mod op;
pub mod ops;
pub mod target;
pub mod tensor;
pub mod text;
pub mod tiles;
