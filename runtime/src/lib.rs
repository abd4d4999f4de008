//! Executes compiled models: a loader, a thread pool and a plan walker. No parser, no compiler.
//!
//! - [`model`]: opens an artifact or executable, picks the code for this machine, maps weights
//! - [`session`]: states, arena and threads; runs steps. [`step`]: what a step is given
//! - [`state`]: pages of state rows
//! - [`isa`]: what this machine can run. [`ram`]: its memory. [`load`]: code images into memory
//! - [`probe`]: this machine's limits. [`profile`]: time per kernel. [`observe`]: a look at each launch
//! - [`unfinished`]: names of files on their way out
//!
//! ```no_run
//! # use runtime::{Batch, LoadOptions, Model, Sequence, Session, Want};
//! # fn main() -> Result<(), runtime::RuntimeError> {
//! let model = Model::open("model.latent".as_ref(), &LoadOptions::default())?;
//! let mut session = Session::new(model.into(), 64)?;
//! let page = session.states_mut().alloc_page()?;
//! let sequence = Sequence { tokens: &[0, 17], past: 0, pages: &[page], want: Want::Last };
//! let logits = session.step(&Batch { sequences: &[sequence] })?;
//! assert_eq!(logits.len(), session.model().manifest().model.vocab_size as usize);
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod affinity;
mod barrier;
mod checkpoint;
pub mod error;
mod hashed;
pub mod isa;
pub mod load;
mod memory;
pub mod model;
pub mod observe;
mod pool;
pub mod probe;
pub mod profile;
mod program;
pub mod ram;
pub mod session;
pub mod state;
pub mod step;
mod walk;

pub use artifact::{limit, manifest, unfinished};
pub use error::RuntimeError;
pub use model::{LoadOptions, Memory, Model};
pub use observe::{Launched, Observer};
pub use probe::Limits;
pub use profile::KernelTime;
pub use session::Session;
pub use state::StatePool;
pub use step::{Batch, Sequence, Shape, Want};
