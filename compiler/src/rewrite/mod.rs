//! Rewriting by equality saturation: a block's graph to the equal graph that costs least.

pub mod choose;
pub mod cost;
pub mod decode;
pub mod encode;
pub mod extract;
pub mod facts;
pub mod law;
pub mod laws;
pub mod merge;
pub mod program;
pub mod saturate;
pub mod term;
