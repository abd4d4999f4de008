//! Pieces of blocks that families share, each stated as its equation reads.
//!
//! Names of indices: `D` hidden, `V` vocabulary, `h` heads, `f` width of a network, `fe` of an
//! expert, `e` experts, `k` chosen ones, `i` and `z` pairs of a rotation and their two parts.

pub mod causal;
pub mod ends;
pub mod experts;
pub mod grouped_attention;
pub mod latent_attention;
pub mod mlp;
pub mod rotary;
pub mod router;
