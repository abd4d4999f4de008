//! Tests that no single crate can hold: dependency edges, the ladder from source graph to loaded
//! artifact, file tests.
//!
//! - [`oracle`]: walks a plan with the kernel interpreter
//! - [`goldens`]: logits of an independent implementation
//! - [`mod@reference`]: logits by the graph interpreter
//! - [`native`]: models compiled, loaded and stepped in this process

#![allow(clippy::unwrap_used)]

pub mod goldens;
pub mod native;
pub mod oracle;
pub mod reference;
