//! The families that can be imported: one file and one line each.

use super::config::Fields;
use super::decoder::Model;

mod deepseek;
mod deepseek_v2;
mod deepseek_v3;
mod llama;
mod qwen2;

/// A family of models.
pub struct Family {
    /// What config.json calls it.
    pub architecture: &'static str,
    /// What we call it.
    pub name: &'static str,
    /// Reads its config.
    pub read: fn(&mut Fields) -> Box<dyn Model>,
}

/// Every family.
pub const FAMILIES: [Family; 4] =
    [deepseek_v2::FAMILY, deepseek_v3::FAMILY, llama::FAMILY, qwen2::FAMILY];
