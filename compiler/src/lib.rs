//! From a checkpoint to native code, a launch plan and packed weights.
//!
//! - [`import`]: checkpoint to graphs
//! - [`options`]: what the user chooses
//! - [`rewrite`]: graphs to better ones, by equality saturation
//! - [`variants`]: which form runs in which steps
//! - [`explain`]: what rewriting decided, and why
//! - [`certificate`]: how forms came about, in an artifact
//! - [`lower`]: graphs to kernels and a plan
//! - [`pack`]: weights to the order their kernels read
//! - [`link`]: objects to one loadable image
//! - [`compile`]: everything to one file
//! - [`attest`]: what was built of what
//! - [`progress`]: how long work shows itself
//! - [`error`]: diagnostics of import, E02xx

#![warn(missing_docs)]

pub mod attest;
pub mod certificate;
pub mod compile;
pub mod error;
pub mod explain;
pub mod import;
pub mod link;
pub mod lower;
pub mod options;
pub mod pack;
pub mod progress;
pub mod rewrite;
pub mod variants;
