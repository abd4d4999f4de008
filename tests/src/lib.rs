//! Tests that no single crate can hold: dependency edges, the ladder from source graph to loaded
//! artifact, file tests.
//!
//! - [`goldens`]: logits of an independent implementation
//! - [`mod@reference`]: logits by the graph interpreter
//! - [`oracle`]: walks a plan with the kernel interpreter, or with native code
//! - [`kernel`]: single kernels by every target and by interpreters
//! - [`latent`]: latent attention as rewriting may choose it
//! - [`native`]: models compiled, loaded and stepped in this process
//! - [`rebuild`]: programs edited node by node
//! - [`chosen`]: programs in forms that a rewriter may choose
//! - [`exact`]: f32 against the graph interpreter
//! - [`near`]: bf16 against f32
//! - [`written`]: models written by hand
//! - [`fuzz`]: every parser, and inputs that try to break it
//! - [`choices`]: which experts rows go to, and where two computations part

#![allow(clippy::unwrap_used)]

pub mod choices;
pub mod chosen;
pub mod exact;
pub mod fuzz;
pub mod goldens;
pub mod kernel;
pub mod latent;
pub mod native;
pub mod near;
pub mod oracle;
pub mod rebuild;
pub mod reference;
pub mod written;

/// Whether tests that take minutes, or an hour, are asked for.
pub fn is_long() -> bool {
    std::env::var_os("LATENTC_LONG_TESTS").is_some()
}
