//! Packing: stored elements into the order that kernels read, when compiling and when loading.
//!
//! A packed weight is rows of bytes put into [`panel`]s. Rows that only move are read by
//! [`gather`] out of stored tensors; what has to be computed is made by whoever can. [`table`] is
//! how places along an axis are written down.

pub mod gather;
pub mod panel;
pub mod table;
