//! Text generation on a compiled model.
//!
//! - [`tokenize`]: text to token ids and back, as it streams
//! - [`chat`]: chat templates

pub mod chat;
pub mod error;
mod pyjson;
pub mod tokenize;

pub use error::{GenerateError, Result};
