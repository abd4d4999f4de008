//! What works on a compiled model with the compiler at hand.
//!
//! - [`mod@remade`]: the kernels of a file, lowered again from the program that it holds
//! - [`mod@diff`]: each launch of a file's code against the kernel interpreter

#![warn(missing_docs)]

pub mod diff;
pub mod error;
pub mod remade;
