//! Every parser as a function of bytes, with inputs to begin from: for the seeded mutator of this
//! crate, and for cargo-fuzz (`tests/fuzz`).
//!
//! - [`texts`], [`checkpoints`], [`artifacts`], [`prompts`]: the parsers, and what must hold of
//!   what they take
//! - [`corpus`]: inputs to begin from, made of the project's own models
//! - [`mutate`]: inputs out of other inputs
//! - [`campaign`]: many executions, watched
//! - [`shrink`]: the shortest input that fails in the same way
//! - [`memory`]: an allocator that counts

pub mod artifacts;
pub mod campaign;
pub mod checkpoints;
pub mod corpus;
pub mod memory;
pub mod mutate;
pub mod prompts;
pub mod shrink;
pub mod texts;

use mutate::Form;
use std::fmt::Display;

/// Why a parser did not take an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The diagnostic's code.
    pub code: &'static str,
    /// The diagnostic.
    pub said: String,
}

impl Refusal {
    /// A diagnostic, which must say something.
    pub fn new(code: &'static str, error: impl Display) -> Refusal {
        let said = error.to_string();
        assert!(code.starts_with('E') && !said.is_empty(), "{code} says {said:?}");
        Refusal { code, said }
    }
}

/// What a parser made of an input: it took it, or said why not, in one diagnostic or many.
pub type Outcome = Result<(), Vec<Refusal>>;

/// What is not UTF-8 where files are read as text; no diagnostic of a parser.
pub const NOT_TEXT: &str = "E0000";

/// The input of a parser of text.
pub fn utf8(input: &[u8]) -> Result<&str, Vec<Refusal>> {
    std::str::from_utf8(input).map_err(|e| vec![Refusal::new(NOT_TEXT, e)])
}

/// What a default run must reach; an entry that refuses everything at the first byte does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Mutated inputs that were taken.
    pub taken: u64,
    /// Different codes of diagnostics.
    pub codes: usize,
    /// Different diagnostics, their names and numbers aside.
    pub diagnostics: usize,
}

/// A parser under test.
pub struct Entry {
    /// Its name, also that of its folder of saved inputs.
    pub name: &'static str,
    /// How its inputs are written.
    pub form: Form,
    /// Inputs to begin from: each is taken.
    pub corpus: fn() -> Vec<Vec<u8>>,
    /// Parses, and panics where something that must hold does not.
    pub run: fn(&[u8]) -> Outcome,
    /// Executions of a default run.
    pub executions: u64,
    /// What those must reach.
    pub floor: Floor,
}

/// A row of [`ENTRIES`].
macro_rules! entry {
    ($name:ident, $form:ident, $corpus:path, $run:path, $executions:literal,
     $taken:literal / $codes:literal / $diagnostics:literal) => {
        Entry {
            name: stringify!($name),
            form: Form::$form,
            corpus: $corpus,
            run: $run,
            executions: $executions,
            floor: Floor { taken: $taken, codes: $codes, diagnostics: $diagnostics },
        }
    };
}

/// Every parser.
pub const ENTRIES: &[Entry] = &[
    entry!(graph, Text, corpus::graphs, texts::graph, 1500, 15 / 12 / 60),
    entry!(program, Text, corpus::programs, texts::program, 300, 4 / 8 / 30),
    entry!(kernel, Text, corpus::kernels, texts::kernel, 1500, 15 / 8 / 35),
    entry!(packing, Text, corpus::packings, texts::packing, 3000, 150 / 2 / 3),
    entry!(certificate, Text, corpus::certificates, texts::certificate, 1000, 5 / 3 / 5),
    entry!(device, Text, corpus::devices, texts::device, 3000, 80 / 4 / 16),
    entry!(options, Text, corpus::options, texts::options, 3000, 150 / 1 / 6),
    entry!(config, Text, corpus::configs, checkpoints::config, 200, 5 / 2 / 8),
    entry!(generation, Text, corpus::generations, checkpoints::generation, 200, 8 / 1 / 4),
    entry!(shard, Binary, corpus::shards, checkpoints::shard, 3000, 30 / 4 / 40),
    entry!(index, Text, corpus::indices, checkpoints::index, 2000, 100 / 3 / 12),
    entry!(tensors, Text, corpus::headers, checkpoints::tensors, 200, 0 / 3 / 6),
    entry!(artifact, Binary, corpus::artifacts, artifacts::artifact, 2000, 15 / 6 / 12),
    entry!(manifest, Text, corpus::manifests, artifacts::manifest, 2000, 40 / 1 / 25),
    entry!(statement, Text, corpus::statements, artifacts::statement, 2000, 20 / 2 / 6),
    entry!(plan, Text, corpus::plans, artifacts::plan, 1000, 10 / 2 / 5),
    entry!(size, Binary, corpus::sizes, artifacts::size, 5000, 500 / 1 / 1),
    entry!(image, Binary, corpus::images, artifacts::image, 1000, 150 / 1 / 5),
    entry!(tokenizer, Text, corpus::tokenizers, prompts::tokenizer, 500, 12 / 1 / 10),
    entry!(template, Text, corpus::templates, prompts::template, 1000, 60 / 1 / 15),
    entry!(chat, Text, corpus::chats, prompts::chat, 1000, 40 / 3 / 15),
    entry!(goldens, Binary, corpus::goldens, prompts::goldens, 1000, 10 / 1 / 12),
    entry!(ids, Text, corpus::ids, prompts::ids, 3000, 80 / 2 / 8),
];

/// The parser of that name.
pub fn entry(name: &str) -> &'static Entry {
    let found = ENTRIES.iter().find(|entry| entry.name == name);
    found.unwrap_or_else(|| panic!("no parser is named {name}"))
}
