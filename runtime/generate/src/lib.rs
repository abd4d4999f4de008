//! Text generation on a compiled model.
//!
//! - [`tokenize`]: text to token ids and back, as it streams
//! - [`chat`]: chat templates
//! - [`sample`]: choosing the next token

pub mod chat;
pub mod error;
mod pyjson;
pub mod sample;
pub mod tokenize;

pub use error::{GenerateError, Result};
