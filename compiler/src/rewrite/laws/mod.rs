//! The laws, by theme. None knows a model: forms and facts are all that they read.

pub mod contraction;
pub mod history;
pub mod join;
pub mod pointwise;
pub mod sparse;
pub mod sums;
pub mod views;
