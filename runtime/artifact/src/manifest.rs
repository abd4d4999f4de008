//! What a file holds, for people, tools and the runtime's defaults.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The manifest section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the file format, major and minor.
    pub format_version: (u16, u16),
    /// Release of the compiler that wrote the file.
    pub compiler_version: String,
    /// The model.
    pub model: ModelInfo,
    /// What the code sections were compiled for.
    pub targets: Vec<TargetInfo>,
    /// Options that the file was compiled with, with their values' text.
    pub options: BTreeMap<String, String>,
    /// Flags that decide what is in the file, by their long names, with their values. None are known
    /// of files that an earlier release wrote.
    #[serde(default)]
    pub flags: BTreeMap<String, String>,
    /// Files that were read, by name: those of the model's directory, and a text that was given in
    /// place of what a phase makes. None are known of files that an earlier release wrote.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// Sampling defaults that the checkpoint states.
    pub generation: GenerationDefaults,
    /// Warnings of the compilation that a user of the file should know.
    pub warnings: Vec<String>,
}

/// Of the options of a [`Manifest`] those by which weights are in other formats than the
/// checkpoint's.
pub fn formats(options: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let options = options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    options.filter(|(key, value)| key.starts_with("weights") && !["stored", "auto"].contains(value))
}

/// A file that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Its name, without a folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// How many of its first bytes the digest is of: all, but of files with tensors the header
    /// alone, which says what tensors there are.
    pub hashed_bytes: u64,
    /// SHA-256 digest of these bytes, lower-case and hexadecimal.
    pub sha256: String,
}

impl Input {
    /// Whether the digest is of all bytes.
    pub fn is_whole(&self) -> bool {
        self.bytes == self.hashed_bytes
    }
}

/// Facts of the model that the runtime and its users need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Family, as the checkpoint's configuration names it, e.g. `deepseek_v3`.
    pub family: String,
    /// Name for people, e.g. `DeepSeek-V2-Lite`.
    pub name: String,
    /// Number of token ids; logits have this many columns.
    pub vocab_size: u32,
    /// Most tokens of one sequence.
    pub context_length: u64,
    /// Token ids that begin a sequence.
    pub bos: Vec<u32>,
    /// Token ids that end a sequence.
    pub eos: Vec<u32>,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Number of decoder layers.
    pub layers: u32,
    /// Number format of the checkpoint's matrices, as canonical text.
    pub dtype: String,
}

/// A target and the levels of its instruction set that the file has code for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// Name, e.g. `cpu`.
    pub name: String,
    /// Levels, e.g. `x86-64-v3`.
    pub isa_levels: Vec<String>,
}

/// Sampling defaults; what the checkpoint does not state is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationDefaults {
    /// Divisor of the logits.
    pub temperature: Option<f64>,
    /// Mass of the nucleus.
    pub top_p: Option<f64>,
    /// Number of candidates.
    pub top_k: Option<u32>,
    /// Whether to sample at all; otherwise the most likely token is taken.
    pub do_sample: Option<bool>,
    /// Token ids that end generation.
    pub eos: Vec<u32>,
}
