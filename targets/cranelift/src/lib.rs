//! Kernels to native code by Cranelift.
#![warn(missing_docs)]
