//! CPU code by LLVM 22: loop IR to functions, tile products to micro-kernels.
//!
//! - [`isa`]: levels of the instruction sets
//! - [`target`]: [`Llvm`], which compiles
//! - [`memory`]: what happens where there is none
//! - [`error`]: what can go wrong
//!
//! On the way: `emit` writes a program's function, `mma` the functions of its tile products,
//! `module` runs LLVM on it, `join` makes one object of many.

#![warn(missing_docs)]

mod code;
mod emit;
pub mod error;
pub mod isa;
mod join;
pub mod memory;
mod mma;
mod module;
pub mod target;

pub use error::LlvmError;
pub use target::Llvm;
