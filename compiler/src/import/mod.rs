//! Import: a checkpoint becomes a program over named tensors.
//!
//! - [`checkpoint`], [`shard`], [`json`]: files, mapped and checked
//! - [`inputs`]: what was read, by hash
//! - [`dummy`]: weights from a seed
//! - [`source`]: what both are to the rest of the compiler
//! - [`values`]: a weight's numbers, for interpreters
//! - [`config`], [`rope`]: config.json, typed, with every fault at once
//! - [`catalogue`]: which tensors are needed, and how each is stored
//! - [`assembly`], [`layers`], [`decoder`]: graphs, from pieces to the program
//! - [`families`]: one file for each family
//!
//! ```no_run
//! use compiler::import::{ImportOptions, import};
//! let imported = import("DeepSeek-V2-Lite".as_ref(), &ImportOptions::default())?;
//! println!("{} blocks", imported.program.blocks.len());
//! # Ok::<(), compiler::error::ImportErrors>(())
//! ```

pub mod assembly;
pub mod catalogue;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod dummy;
pub mod families;
pub mod finite;
pub mod inputs;
pub mod json;
pub mod layers;
pub mod rope;
pub mod shard;
pub mod source;
mod stated;
pub mod values;

use crate::error::{ImportError, ImportErrors};
use artifact::manifest::Input;
use assembly::Assembly;
use catalogue::{Catalogue, Found, Origin};
use checkpoint::{CONFIG, Checkpoint, Companion};
use config::{Common, Fields};
use decoder::layer_prefix;
use families::{FAMILIES, Family};
use ir::graph::program::Program;
use source::WeightSource;
use std::fmt;
use std::path::{Path, PathBuf};

/// What the caller chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Make weights up from this seed; a lone config.json is enough then.
    pub dummy_weights: Option<u64>,
    /// Longest sequence, if less than the model's.
    pub context: Option<i64>,
    /// Whether to import the draft (MTP) layer.
    pub draft: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions { dummy_weights: None, context: None, draft: true }
    }
}

/// A model, ready to be compiled.
pub struct Imported {
    /// Graphs and how they are called.
    pub program: Program,
    /// What the runtime needs to know beside.
    pub info: ModelInfo,
    /// Where the program's weights are read from.
    pub weights: Box<dyn WeightSource>,
    /// Tokenizer and the like, as they are.
    pub companions: Vec<Companion>,
    /// config.json, as it is.
    pub config: Vec<u8>,
    /// Files that were read, sorted by name; [`Imported::reads`] adds to them.
    pub inputs: Vec<Input>,
    /// What is odd, but no fault.
    pub warnings: Vec<Warning>,
}

impl Imported {
    /// Counts a file among the inputs that was read in place of what a phase makes.
    pub fn reads(&mut self, path: &Path, bytes: &[u8]) {
        self.inputs.push(inputs::whole(path, bytes));
        self.inputs.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// What a model is called and how it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Name of its directory.
    pub name: String,
    /// Name of its family.
    pub family: &'static str,
    /// What config.json calls the family.
    pub architecture: &'static str,
    /// Width of the residual stream.
    pub hidden: i64,
    /// Token ids, padding included.
    pub vocab: i64,
    /// Longest sequence.
    pub context: i64,
    /// Tokens that begin a sequence (one or none).
    pub bos: Vec<u32>,
    /// Tokens that end one: those of generation_config.json, else of config.json.
    pub eos: Vec<u32>,
    /// Defaults of sampling.
    pub generation: Generation,
}

/// Defaults of sampling from generation_config.json; absent where the file does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generation {
    /// Whether to sample at all.
    pub sample: Option<bool>,
    /// Temperature.
    pub temperature: Option<f64>,
    /// Share of probability kept.
    pub top_p: Option<f64>,
    /// Tokens kept.
    pub top_k: Option<i64>,
}

/// Something odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Fields of config.json that the importer does not know.
    UnknownFields(Vec<String>),
    /// Tensors that the model does not need.
    UnusedTensors(Vec<String>),
    /// Tensors in a shard that the index leaves out.
    UnlistedTensors(Vec<String>),
    /// config.json speaks of a draft layer, and there are no tensors for one.
    NoDraftLayer,
    /// The weights are no model's: they are made up from this seed.
    MadeUp(u64),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |list: &[String]| {
            let more = if list.len() > 3 { ", .." } else { "" };
            format!("{} ({}{more})", list.len(), list[..list.len().min(3)].join(", "))
        };
        match self {
            Warning::UnknownFields(l) => write!(f, "config.json: {} unknown fields", some(l)),
            Warning::UnusedTensors(l) => write!(f, "{} tensors are not used", some(l)),
            Warning::UnlistedTensors(l) => write!(f, "{} tensors are not in the index", some(l)),
            Warning::NoDraftLayer => {
                f.write_str("the draft layer of config.json is not in the checkpoint")
            }
            Warning::MadeUp(seed) => write!(f, "the weights are made up from the seed {seed}"),
        }
    }
}

/// Imports a checkpoint directory; with made-up weights, also a lone config.json.
///
/// # Errors
/// Everything that is wrong with the files, else with the config, else with the tensors.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Imported, ImportErrors> {
    let (dir, config_path) = locate(path)?;
    let config = checkpoint::read_json(&config_path)?;
    let mut fields = Fields::parse(&config_path, &config)?;
    let family = family_of(&mut fields)?;
    let model = (family.read)(&mut fields);
    let unknown = fields.unknown();
    fields.finish()?;
    let common = model.common();
    let companions = checkpoint::companions(&dir)?;
    let (generation, eos) = read_generation(&dir, &companions)?;
    let mut inputs = vec![inputs::whole(&config_path, &config)];
    inputs.extend(companions.iter().map(|c| inputs::whole(c.name.as_ref(), &c.bytes)));
    let origin = match options.dummy_weights {
        Some(seed) => Origin::MadeUp { seed, dtype: common.dtype },
        None => {
            let checkpoint = Checkpoint::open(&dir)?;
            inputs.extend(checkpoint.inputs());
            Origin::Stored(checkpoint)
        }
    };
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    let info = ModelInfo {
        name: model_name(&dir),
        family: family.name,
        architecture: family.architecture,
        hidden: common.hidden,
        vocab: common.vocab,
        context: options.context.unwrap_or(common.context).clamp(1, common.context),
        bos: common.bos.clone(),
        eos: if eos.is_empty() { common.eos.clone() } else { eos },
        generation,
    };
    let catalogue = Catalogue::new(origin, common.fp8_block);
    let drafts = options.draft && model.drafts() > 0;
    let present = drafts && catalogue.has_prefix(&format!("{}.", layer_prefix(common.layers)));
    let mut assembly = Assembly::new(&info.name, catalogue, info.context);
    decoder::state(&mut assembly, &*model, present)?;
    let (mut program, catalogue) = assembly.finish();
    let (weights, found) = catalogue.finish()?;
    program.weights = weights;
    let mut warnings = warnings_of(&found, common, unknown);
    warnings.extend((drafts && !present).then_some(Warning::NoDraftLayer));
    warnings.extend(options.dummy_weights.map(Warning::MadeUp));
    let weights = found.source;
    Ok(Imported { program, info, weights, companions, config, inputs, warnings })
}

/// The checkpoint's directory and its config.json, of which either may be given.
fn locate(path: &Path) -> Result<(PathBuf, PathBuf), ImportError> {
    let expected = || "a checkpoint directory or its config.json".to_string();
    if path.is_dir() {
        let config = path.join(CONFIG);
        if config.is_file() {
            return Ok((path.into(), config));
        }
        let found = format!("no {CONFIG}");
        return Err(ImportError::NotACheckpoint { path: path.into(), found, expected: expected() });
    }
    if let Err(e) = std::fs::metadata(path) {
        return Err(ImportError::unreadable(path, &e));
    }
    if path.extension().is_some_and(|e| e == "json") {
        let dir = path.parent().unwrap_or(Path::new("."));
        return Ok((dir.into(), path.into()));
    }
    let found = "a file".to_string();
    Err(ImportError::NotACheckpoint { path: path.into(), found, expected: expected() })
}

fn family_of(fields: &mut Fields) -> Result<&'static Family, ImportError> {
    let named = fields.words("architectures");
    let known = |f: &&Family| named.iter().any(|n| n == f.architecture);
    let unnamed = if fields.has("architectures") { "no list of names" } else { "not stated" };
    FAMILIES.iter().find(known).ok_or_else(|| ImportError::UnknownArchitecture {
        found: if named.is_empty() { unnamed.into() } else { named.join(", ") },
        known: FAMILIES.iter().map(|f| f.architecture).collect(),
    })
}

/// Name of a directory, also of `.`.
fn model_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.into());
    whole.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned())
}

fn read_generation(
    dir: &Path,
    companions: &[Companion],
) -> Result<(Generation, Vec<u32>), ImportErrors> {
    const NAME: &str = "generation_config.json";
    let Some(file) = companions.iter().find(|c| c.name == NAME) else {
        return Ok((Generation::default(), vec![]));
    };
    let mut f = Fields::parse_named(NAME, &dir.join(NAME), &file.bytes)?;
    let generation = Generation {
        sample: f.has("do_sample").then(|| f.flag("do_sample", false)),
        temperature: f.optional_number("temperature", 100.0),
        top_p: f.optional_number("top_p", 1.0),
        top_k: f.optional_int("top_k", 0..=1 << 26),
    };
    let eos = f.token_ids("eos_token_id");
    f.finish()?;
    Ok((generation, eos))
}

fn warnings_of(found: &Found, common: &Common, unknown: Vec<String>) -> Vec<Warning> {
    let draft = format!("{}.", layer_prefix(common.layers));
    // Copies that loaders ignore: buffers, a tied head, the draft layer's embedding and head.
    let copy = |key: &str| {
        key.ends_with("rotary_emb.inv_freq")
            || (common.tied && key == "lm_head.weight")
            || (key.starts_with(&draft)
                && (key.ends_with("embed_tokens.weight") || key.ends_with("head.head.weight")))
    };
    let unused: Vec<String> = found
        .source
        .keys()
        .into_iter()
        .filter(|key| !found.needed.contains(*key) && !copy(key))
        .map(String::from)
        .collect();
    let mut warnings = vec![];
    let mut warn = |list: Vec<String>, of: fn(Vec<String>) -> Warning| {
        if !list.is_empty() {
            warnings.push(of(list));
        }
    };
    warn(unknown, Warning::UnknownFields);
    warn(unused, Warning::UnusedTensors);
    warn(found.unlisted.clone(), Warning::UnlistedTensors);
    warnings
}
