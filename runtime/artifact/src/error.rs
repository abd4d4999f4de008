//! Everything that can be wrong with an artifact.

use crate::limit::{self, Limit};
use std::path::PathBuf;

/// Why a file could not be written or was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Neither header nor footer is there.
    #[error("not an artifact: {bytes} bytes without the artifact's footer at their end")]
    NotAnArtifact {
        /// Length of the file.
        bytes: u64,
    },
    /// The file ends early.
    #[error("truncated: {what} needs {expected} bytes, found {found}")]
    Truncated {
        /// Part of the file.
        what: &'static str,
        /// Bytes it needs.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Written by an incompatible release.
    #[error("{what} version {}.{} cannot be read, expected {}.x", found.0, found.1, expected.0)]
    Version {
        /// Whose version: `format` or `plan`.
        what: &'static str,
        /// Version in the file.
        found: (u16, u16),
        /// Version that this crate writes.
        expected: (u16, u16),
    },
    /// Not little-endian.
    #[error("byte order mark is {found:#010x}, expected {expected:#010x} (little-endian)")]
    ByteOrder {
        /// Mark in the file, read as little-endian.
        found: u32,
        /// Mark of a little-endian file.
        expected: u32,
    },
    /// The table or the footer was changed after writing.
    #[error("section table has hash {found}, expected {expected}")]
    TableDamaged {
        /// Hash of the bytes that are there.
        found: String,
        /// Hash stated in the footer.
        expected: String,
    },
    /// A part of the file is not what the format says.
    #[error("{what}: found {found}, expected {expected}")]
    Malformed {
        /// Part of the file.
        what: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A section was changed after writing.
    #[error("section `{name}` has hash {found}, expected {expected}")]
    SectionDamaged {
        /// Name of the section.
        name: String,
        /// Hash of the bytes that are there.
        found: String,
        /// Hash stated in the table.
        expected: String,
    },
    /// A chunk of the weights was changed after writing.
    #[error("weights chunk {chunk} at byte {offset} has hash {found}, expected {expected}")]
    WeightsDamaged {
        /// Number of the chunk.
        chunk: usize,
        /// Its first byte in the weights.
        offset: u64,
        /// Hash of the bytes that are there.
        found: String,
        /// Hash stated in the table.
        expected: String,
    },
    /// A section that the caller needs is absent.
    #[error("no section `{name}`, found {found}")]
    MissingSection {
        /// Name of the section.
        name: String,
        /// Names that are there.
        found: String,
    },
    /// The weights file is not the one that the artifact was written with.
    #[error("weights file `{file}`: {what} is {found}, expected {expected}")]
    ExternalWeights {
        /// Name of the weights file.
        file: String,
        /// What differs.
        what: &'static str,
        /// What is there.
        found: String,
        /// What the artifact refers to.
        expected: String,
    },
    /// A file of the checkpoint is not the one that the artifact was compiled from.
    #[error("not the file of the checkpoint, {what}: found {found}, expected {expected}")]
    Checkpoint {
        /// What differs.
        what: String,
        /// What is there.
        found: String,
        /// What the artifact refers to.
        expected: String,
    },
    /// A section is not the JSON that its schema says.
    #[error("section `{section}` does not match its schema: {message}")]
    Schema {
        /// Name of the section.
        section: &'static str,
        /// What the parser said.
        message: String,
    },
    /// The plan contradicts itself.
    #[error("plan, {at}: found {found}, expected {expected}")]
    Plan {
        /// Where in the plan.
        at: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// The writer was called out of order.
    #[error("writing an artifact: found {found}, expected {expected}")]
    Order {
        /// What was called.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The name of a file that must stand in an artifact's text.
    #[error("cannot write `{}`: its name is not UTF-8, in which the artifact would hold it", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl ArtifactError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0401", "neither header nor footer is there"),
        ("E0402", "the file ends early"),
        ("E0403", "written by an incompatible release"),
        ("E0404", "not little-endian"),
        ("E0405", "the table or the footer was changed after writing"),
        ("E0406", "a part of the file is not what the format says"),
        ("E0407", "a section was changed after writing"),
        ("E0408", "a chunk of the weights was changed after writing"),
        ("E0409", "a section that the caller needs is absent"),
        ("E0410", "the weights file is not the one that the artifact was written with"),
        ("E0411", "a section is not the JSON that its schema says"),
        ("E0412", "the plan contradicts itself"),
        ("E0413", "what is to be written makes no artifact"),
        ("E0414", "the system refused"),
        ("E0415", "a file of the checkpoint is not the one that the artifact was compiled from"),
    ];

    /// Stable code of this kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            ArtifactError::NotAnArtifact { .. } => "E0401",
            ArtifactError::Truncated { .. } => "E0402",
            ArtifactError::Version { .. } => "E0403",
            ArtifactError::ByteOrder { .. } => "E0404",
            ArtifactError::TableDamaged { .. } => "E0405",
            ArtifactError::Malformed { .. } => "E0406",
            ArtifactError::SectionDamaged { .. } => "E0407",
            ArtifactError::WeightsDamaged { .. } => "E0408",
            ArtifactError::MissingSection { .. } => "E0409",
            ArtifactError::ExternalWeights { .. } => "E0410",
            ArtifactError::Schema { .. } => "E0411",
            ArtifactError::Plan { .. } => "E0412",
            ArtifactError::Order { .. } | ArtifactError::Name { .. } => "E0413",
            ArtifactError::Io { .. } => "E0414",
            ArtifactError::Checkpoint { .. } => "E0415",
        }
    }

    /// Whether a limit of the machine is the cause.
    pub fn is_limit(&self) -> bool {
        matches!(self, ArtifactError::Io { source, .. } if Limit::of(source).is_some())
    }

    /// What the reader of the message can do next.
    pub fn help(&self) -> &'static str {
        match self {
            ArtifactError::NotAnArtifact { .. } => {
                "name a file that `latentc compile` wrote; `strip` removes what is appended to an \
                 executable"
            }
            ArtifactError::Truncated { .. } => "copy the file again, or compile it again",
            ArtifactError::Version { .. } | ArtifactError::ByteOrder { .. } => {
                "compile the checkpoint again with this release"
            }
            ArtifactError::TableDamaged { .. }
            | ArtifactError::SectionDamaged { .. }
            | ArtifactError::WeightsDamaged { .. } => {
                "the file changed after it was written: copy it again, or compile it again"
            }
            ArtifactError::Malformed { .. }
            | ArtifactError::MissingSection { .. }
            | ArtifactError::Schema { .. }
            | ArtifactError::Plan { .. } => {
                "compile the checkpoint again; if it persists, this is a defect of the compiler \
                 that wrote the file"
            }
            ArtifactError::ExternalWeights { .. } => {
                "put the weights file that was written together with the artifact beside it"
            }
            ArtifactError::Checkpoint { .. } => {
                "name the checkpoint's folder with --checkpoint DIR, or compile it again"
            }
            ArtifactError::Name { .. } => "choose an output whose name is UTF-8",
            ArtifactError::Order { .. } => "this is a defect of the program that writes the file",
            ArtifactError::Io { source, .. } => limit::help(Limit::of(source)),
        }
    }
}
