//! From a checkpoint to native code, a launch plan and packed weights.
//!
//! - [`import`]: checkpoint to graphs
//! - [`link`]: objects to one loadable image
//! - [`error`]: E02xx

#![warn(missing_docs)]

pub mod error;
pub mod import;
pub mod link;
