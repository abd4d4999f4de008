//! Tests that no single crate can hold: dependency edges, the ladder from source graph to loaded
//! artifact, file tests.
//!
//! - [`oracle`]: walks a plan with the kernel interpreter
//! - [`goldens`]: logits of an independent implementation

#![allow(clippy::unwrap_used)]

pub mod goldens;
pub mod oracle;
