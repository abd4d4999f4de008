//! Lowering: a program to kernels, a plan, and what to pack.
//!
//! - [`precision`], [`codes`]: how activations enter products
//! - [`claims`]: groups of many nodes that one generator lowers together
//! - [`order`]: indices of products in the order in which they are written
//! - [`partition`]: nodes to fused groups
//! - [`block`]: groups to kernels and launches, for one shape bucket
//! - [`row`], [`contraction`], [`context`], [`attention`], [`experts`], [`probe`]: the generators
//! - [`constant`]: values that depend on weights alone, and what they are packed from
//! - [`mixture`]: memory and launches of groups of experts
//! - [`schedule`]: tile shapes
//! - [`states`]: histories to states
//! - [`called`]: where values lie while a plan runs
//! - [`variant`]: forms of a program, and the steps that each is for
//! - [`plan`]: calls to launches, values to buffers
//! - [`linear`]: values as sums of others
//! - [`arena`], [`size`], [`work`]: memory of a step and what launches must do, symbolic

pub mod arena;
pub mod attention;
pub mod block;
pub mod called;
pub mod claims;
pub mod code;
pub mod codes;
pub mod constant;
pub mod context;
pub mod contraction;
pub mod error;
pub mod experts;
pub mod linear;
pub mod mixture;
pub mod order;
pub mod partition;
pub mod plan;
pub mod precision;
pub mod probe;
pub mod row;
pub mod schedule;
pub mod size;
pub mod states;
pub mod variant;
pub mod work;

pub use error::LowerError;
pub use plan::{Lowered, lower};
