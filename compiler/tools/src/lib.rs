//! What works on a compiled model with the compiler at hand.
//!
//! - [`mod@remade`]: the kernels of a file, lowered again from the program that it holds
//! - [`mod@diff`]: each launch of a file's code against the kernel interpreter
//! - [`mod@against`]: two files of one model, call by call
//! - [`mod@report`]: where time and memory of a model go, as a page

#![warn(missing_docs)]

pub mod against;
pub mod diff;
pub mod error;
pub mod remade;
pub mod report;
