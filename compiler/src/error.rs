//! Diagnostics of the compiler, E02xx. Import has E0200 to E0216 and [`MISTAKE`].

use artifact::limit::{self, Limit};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The code of what a phase made and the next one's checks refuse, with what it stands for.
pub const MISTAKE: (&str, &str) =
    ("E0284", "what was made is not what it was made from (mostly a mistake of latentc)");

/// One thing wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The system refuses a path.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// What was opened.
        path: PathBuf,
        /// The system's reason.
        why: String,
        /// The machine's limit that it tells of.
        limit: Option<Limit>,
    },
    /// Something is there, but not what a checkpoint has there.
    #[error("{}: found {found}, expected {expected}", path.display())]
    NotACheckpoint {
        /// What was opened.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What could be there.
        expected: String,
    },
    /// A JSON file that is none, or has another structure.
    #[error("{}: {why}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        why: String,
    },
    /// An architecture that no importer takes.
    #[error("config.json: the architecture is {found}, expected one of {}", known.join(", "))]
    UnknownArchitecture {
        /// What config.json names.
        found: String,
        /// Every architecture that has an importer.
        known: Vec<&'static str>,
    },
    /// A value in config.json that is missing, absurd or at odds with another.
    #[error("{file}: {key} is {found}, expected {expected}")]
    Config {
        /// The file.
        file: &'static str,
        /// The field.
        key: String,
        /// Its value.
        found: String,
        /// What it could be.
        expected: String,
    },
    /// A variant of the model that is known, but not supported.
    #[error("{file}: {key} is {found}, supported is {supported}")]
    Unsupported {
        /// The file.
        file: &'static str,
        /// The field.
        key: String,
        /// Its value.
        found: String,
        /// The values that are supported.
        supported: String,
    },
    /// The index names a file that is not there.
    #[error("shard {} is missing, expected by {tensors} tensors of the index", path.display())]
    MissingShard {
        /// The file.
        path: PathBuf,
        /// How many tensors the index places in it.
        tensors: usize,
    },
    /// The first bytes of a safetensors file are not such a header.
    #[error("{}: header is {found}, expected {expected}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What could be there.
        expected: String,
    },
    /// A safetensors file shorter than its header says.
    #[error("{}: found {found} bytes, expected {expected} by its header", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// Where its last tensor ends.
        expected: u64,
    },
    /// A header entry that contradicts itself or another.
    #[error("{}: {key} has {found}, expected {expected}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// What the entry says.
        found: String,
        /// What it could say.
        expected: String,
    },
    /// A key that stands twice in one JSON object.
    #[error("{}: found {key} twice, expected it once", path.display())]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// The index places a tensor in a shard that does not have it.
    #[error("{}: {key} not found, expected by the index", path.display())]
    NotInShard {
        /// The shard.
        path: PathBuf,
        /// The tensor.
        key: String,
    },
    /// A tensor that the model needs.
    #[error("tensor {key} not found, expected {expected}")]
    MissingTensor {
        /// The tensor.
        key: String,
        /// Its element type and shape.
        expected: String,
    },
    /// A tensor of another shape or element type than the model needs.
    #[error("tensor {key} is {found}, expected {expected}")]
    Misfit {
        /// The tensor.
        key: String,
        /// Its element type and shape.
        found: String,
        /// What they could be.
        expected: String,
    },
    /// A range of a tensor that is read, but does not exist.
    #[error("tensor {key}: read of bytes {start}..{end}, expected a range within {len}")]
    Range {
        /// The tensor.
        key: String,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// The tensor's bytes.
        len: u64,
    },
    /// Weights that are no numbers.
    #[error("tensor {key} holds {nan} NaN and {infinite} infinite elements, expected finite ones")]
    NotFinite {
        /// The tensor.
        key: String,
        /// How many elements are NaN.
        nan: u64,
        /// How many are infinite.
        infinite: u64,
    },
    /// A graph that the importer stated and the IR refuses.
    #[error("block {block}: {why}")]
    Graph {
        /// The block.
        block: String,
        /// The IR's diagnostic, with its code.
        why: String,
    },
}

impl ImportError {
    /// A path that the system refuses.
    pub fn unreadable(path: &Path, error: &io::Error) -> ImportError {
        let limit = Limit::of(error);
        ImportError::Unreadable { path: path.into(), why: error.to_string(), limit }
    }

    /// Whether a limit of the machine is the cause, not the input.
    pub fn is_limit(&self) -> bool {
        matches!(self, ImportError::Unreadable { limit: Some(_), .. })
    }

    /// Every code with what it stands for.
    pub const CODES: [(&'static str, &'static str); 16] = [
        ("E0200", "a path cannot be read"),
        ("E0201", "no checkpoint there"),
        ("E0202", "malformed JSON"),
        ("E0203", "unknown architecture"),
        ("E0204", "bad value in config.json"),
        ("E0205", "unsupported variant of a model"),
        ("E0206", "missing shard"),
        ("E0207", "malformed safetensors header"),
        ("E0208", "truncated safetensors file"),
        ("E0209", "bad entry in a safetensors header"),
        ("E0210", "duplicate key"),
        ("E0211", "tensor not in the shard that the index names"),
        ("E0212", "missing tensor"),
        ("E0213", "tensor of the wrong shape or type"),
        ("E0216", "weights that are NaN or infinite"),
        MISTAKE,
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            ImportError::Unreadable { .. } => "E0200",
            ImportError::NotACheckpoint { .. } => "E0201",
            ImportError::Json { .. } => "E0202",
            ImportError::UnknownArchitecture { .. } => "E0203",
            ImportError::Config { .. } => "E0204",
            ImportError::Unsupported { .. } => "E0205",
            ImportError::MissingShard { .. } => "E0206",
            ImportError::Header { .. } => "E0207",
            ImportError::Truncated { .. } => "E0208",
            ImportError::Entry { .. } => "E0209",
            ImportError::Duplicate { .. } => "E0210",
            ImportError::NotInShard { .. } => "E0211",
            ImportError::MissingTensor { .. } => "E0212",
            ImportError::Misfit { .. } => "E0213",
            ImportError::NotFinite { .. } => "E0216",
            ImportError::Range { .. } | ImportError::Graph { .. } => MISTAKE.0,
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            ImportError::Unreadable { limit, .. } => limit::help(*limit),
            ImportError::NotACheckpoint { .. } => {
                "give a Hugging Face checkpoint directory: config.json beside model.safetensors, \
                 or shards with model.safetensors.index.json; for a lone config.json add \
                 --dummy-weights SEED"
            }
            ImportError::Json { .. } | ImportError::Duplicate { .. } => {
                "restore the file from where the checkpoint came from"
            }
            ImportError::UnknownArchitecture { .. } => {
                "convert the checkpoint to one of these architectures"
            }
            ImportError::Config { .. } => "correct the value in config.json",
            ImportError::Unsupported { .. } => "use a checkpoint without this variant",
            ImportError::MissingShard { .. } | ImportError::Truncated { .. } => {
                "download the file again: the download probably stopped early"
            }
            ImportError::Header { .. } | ImportError::Entry { .. } => {
                "download the file again (`git lfs pull`, where git fetched it), and compare its \
                 checksum with the published one"
            }
            ImportError::NotFinite { .. } => {
                "compare the file's checksum with the published one; if it is the same, the model \
                 itself is broken"
            }
            ImportError::NotInShard { .. } => {
                "download the index and the shards from the same revision"
            }
            ImportError::MissingTensor { .. } | ImportError::Misfit { .. } => {
                "check that config.json and the weights belong to the same model"
            }
            ImportError::Range { .. } | ImportError::Graph { .. } => {
                "this is a fault of the compiler: please report it with the config.json"
            }
        }
    }
}

/// Everything wrong with a checkpoint, at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportErrors(pub Vec<ImportError>);

impl ImportErrors {
    /// `Ok` where nothing was found wrong.
    pub fn into_result(self) -> Result<(), ImportErrors> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for ImportErrors {
    /// One line for each, code first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, e) in self.0.iter().enumerate() {
            write!(f, "{}{}: {e}", if i == 0 { "" } else { "\n" }, e.code())?;
        }
        Ok(())
    }
}

impl std::error::Error for ImportErrors {}

impl From<ImportError> for ImportErrors {
    fn from(e: ImportError) -> Self {
        ImportErrors(vec![e])
    }
}
