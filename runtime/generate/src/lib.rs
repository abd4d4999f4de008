//! Text generation on a compiled model.
//!
//! - [`tokenize`]: text to token ids and back, as it streams
//! - [`chat`]: chat templates
//! - [`engine`]: what is needed of a model
//! - [`sequence`], [`schedule`]: many sequences in one step, over paged states
//! - [`sample`]: choosing the next token
//! - [`generator`]: all of that as a stream of text
//! - [`logits`]: the logits of every position of given prompts; [`perplexity`]: what they say of a
//!   text
//! - [`command`]: the commands of an executable

pub mod chat;
pub mod command;
mod confined;
pub mod engine;
pub mod error;
pub mod generator;
pub mod logits;
mod namespaces;
mod pages;
pub mod perplexity;
mod pyjson;
pub mod sample;
pub mod schedule;
pub mod sequence;
mod tags;
pub mod tokenize;

pub use error::{GenerateError, Result};
