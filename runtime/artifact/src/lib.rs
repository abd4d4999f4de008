//! What compiler and runtime share: the file format, the plan, the manifest.
//!
//! - [`plan`]: launch lists, states, packed weights; [`check`]: what must hold of a plan
//! - [`size`]: sizes evaluated per step
//! - [`manifest`]: what a file holds, for people and tools
//! - [`mod@format`]: the bytes of header, section table and footer
//! - [`recipe`]: weights that stay in the checkpoint; [`pack`]: stored elements into the order of
//!   kernels
//! - [`chunks`]: hashes of the pieces of large files; [`regular`]: files that have all of them;
//!   [`limit`]: the machine's, that files meet; [`threads`]: work on several
//! - [`writer`] and [`reader`]: files out and in; [`unfinished`]: names of files on their way out

pub mod check;
pub mod chunks;
pub mod error;
pub mod format;
pub mod limit;
pub mod manifest;
pub mod pack;
pub mod plan;
pub mod reader;
pub mod recipe;
pub mod regular;
pub mod size;
pub mod threads;
pub mod unfinished;
pub mod writer;

pub use error::ArtifactError;
pub use format::{Hash, Location, Section};
pub use manifest::Manifest;
pub use plan::Plan;
pub use reader::Reader;
pub use recipe::Recipe;
pub use writer::{Summary, WeightsPlace, Writer};
