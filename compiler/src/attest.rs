//! Statements of provenance: what was built of what, as in-toto's Statement v1 with the provenance
//! of SLSA v1 in it. They are not signed; whoever signs has tools that take them as they are.
//!
//! Sources: <https://in-toto.io/Statement/v1>, <https://slsa.dev/provenance/v1>.

use crate::import::Imported;
use crate::import::inputs::sha256;
use crate::progress::Progress;
use artifact::Manifest;
use artifact::error::ArtifactError;
use artifact::format::hex;
use artifact::regular;
use artifact::threads::share;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use thiserror::Error;

/// Kind of statement.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Kind of what a statement says.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// What `latentc compile` does: the meaning of [`BuildDefinition::external_parameters`].
pub const BUILD: &str = "urn:latentc:compile:v1";
/// Who builds: `latentc`, run by whoever ran it.
pub const BUILDER: &str = "urn:latentc:cli";
/// Name of the builder's version.
const LATENTC: &str = "latentc";
/// Name of the algorithm of digests.
const SHA256: &str = "sha256";
/// Bytes of a file that are held at a time.
const PIECE: usize = 1 << 24;

/// What a statement says; names of fields are those of its sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// Always [`STATEMENT`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// Files that were built.
    pub subject: Vec<Resource>,
    /// Always [`PROVENANCE`].
    pub predicate_type: String,
    /// How they were built.
    pub predicate: Provenance,
}

/// A file, by digests of the algorithms named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its name, without a folder.
    pub name: String,
    /// Digests, lower-case and hexadecimal, by algorithm.
    pub digest: BTreeMap<String, String>,
}

/// How files were built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// Of what.
    pub build_definition: BuildDefinition,
    /// By whom.
    pub run_details: RunDetails,
}

/// What a build was asked for, and what went into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// Always [`BUILD`].
    pub build_type: String,
    /// What was asked for.
    pub external_parameters: Parameters,
    /// Files that went in.
    pub resolved_dependencies: Vec<Resource>,
}

/// What was asked for on the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Name of the model.
    pub model: String,
    /// Flags by their long names, with their values.
    pub flags: BTreeMap<String, String>,
    /// Choices of `-C`, as they were in force.
    pub options: BTreeMap<String, String>,
}

/// Who built, and when if that may be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetails {
    /// Who.
    pub builder: Builder,
    /// When; absent where no time is given from outside, so that equal builds have equal statements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Times>,
}

/// A builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// Always [`BUILDER`].
    pub id: String,
    /// Versions by name.
    pub version: BTreeMap<String, String>,
}

/// When something was built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// RFC 3339.
    pub started_on: String,
    /// RFC 3339.
    pub finished_on: String,
}

/// What the caller knows of a compilation that is to be attested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Files beside those that the manifest names.
    pub files: Vec<Resource>,
    /// Time to state, if any.
    pub time: Option<Timestamp>,
}

/// Why a statement does not hold of a file.
#[derive(Clone, Debug, Error)]
pub enum AttestError {
    /// It is no statement, or one of another kind.
    #[error("{statement}, {what}: found {found}, expected {expected}")]
    NoStatement {
        /// The statement's file.
        statement: String,
        /// Part of it.
        what: &'static str,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// It speaks of other bytes.
    #[error("{statement}: found {name} of sha256 {found}, expected {expected}")]
    OtherBytes {
        /// The statement's file.
        statement: String,
        /// The file that it should speak of.
        name: String,
        /// Digest of that file.
        found: String,
        /// Digests that the statement has.
        expected: String,
    },
    /// It says something else than the file itself.
    #[error("{statement}, {what}: found {found}, expected {expected} as the file itself says")]
    Contradiction {
        /// The statement's file.
        statement: String,
        /// What it says.
        what: String,
        /// As the statement has it.
        found: String,
        /// As the file's manifest has it.
        expected: String,
    },
}

impl AttestError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0282", "a statement of provenance that contradicts the file it speaks of"),
        ("E0298", "a text that is no statement of provenance"),
        ("E0299", "a statement of provenance about other bytes"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            AttestError::Contradiction { .. } => "E0282",
            AttestError::NoStatement { .. } => "E0298",
            AttestError::OtherBytes { .. } => "E0299",
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            AttestError::NoStatement { .. } => {
                "name the file that `latentc compile --attest` wrote, without its signature"
            }
            AttestError::OtherBytes { .. } => {
                "name the statement that was written together with the file, or compile it again \
                 with --attest"
            }
            AttestError::Contradiction { .. } => {
                "the statement changed after it was written: compile again with --attest"
            }
        }
    }
}

impl Resource {
    /// A file of these bytes.
    pub fn of(name: &str, bytes: &[u8]) -> Resource {
        Resource::new(name, sha256(bytes))
    }

    fn new(name: &str, digest: String) -> Resource {
        Resource { name: name.into(), digest: [(SHA256.to_string(), digest)].into() }
    }

    /// Its SHA-256 digest; empty where it has none.
    pub fn sha256(&self) -> &str {
        self.digest.get(SHA256).map_or("", String::as_str)
    }
}

/// What is built of `imported` as it was `asked` for: a statement without its subject. Every file
/// with tensors is read whole to be hashed, which packing, that reads tensors in an order of its
/// own, could not do on the way.
pub fn statement(
    imported: &Imported,
    manifest: &Manifest,
    asked: &Asked,
    threads: usize,
    progress: &mut dyn Progress,
) -> Statement {
    let own = imported.inputs.iter().filter(|input| input.is_whole());
    let own = own.map(|input| Resource::new(&input.name, input.sha256.clone()));
    let mut dependencies: Vec<Resource> = own.collect();
    dependencies.extend(shards(&imported.weights.files(), threads, progress));
    dependencies.sort_by(|a, b| a.name.cmp(&b.name));
    dependencies.extend(asked.files.iter().cloned());
    let time = asked.time.map(|time| time.to_string());
    Statement {
        kind: STATEMENT.into(),
        subject: vec![],
        predicate_type: PROVENANCE.into(),
        predicate: Provenance {
            build_definition: BuildDefinition {
                build_type: BUILD.into(),
                external_parameters: Parameters {
                    model: manifest.model.name.clone(),
                    flags: manifest.flags.clone(),
                    options: manifest.options.clone(),
                },
                resolved_dependencies: dependencies,
            },
            run_details: RunDetails {
                builder: Builder {
                    id: BUILDER.into(),
                    version: [(LATENTC.to_string(), manifest.compiler_version.clone())].into(),
                },
                metadata: time.map(|at| Times { started_on: at.clone(), finished_on: at }),
            },
        },
    }
}

/// The first key whose values differ, with both of them.
fn first_difference(
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
) -> Option<(String, String, String)> {
    let key = ours.keys().chain(theirs.keys()).find(|key| ours.get(*key) != theirs.get(*key))?;
    let value =
        |of: &BTreeMap<String, String>| of.get(key).map_or("nothing", String::as_str).into();
    Some((key.clone(), value(ours), value(theirs)))
}

fn name_of(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Hashes mapped files, each by one thread.
fn shards(files: &[(&Path, &[u8])], threads: usize, progress: &mut dyn Progress) -> Vec<Resource> {
    let size = |files: &[(&Path, &[u8])]| files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    progress.begin("digests", size(files));
    let mut all = vec![];
    for batch in files.chunks(threads.max(1)) {
        let digest = |(path, bytes): &(&Path, &[u8])| Resource::of(&name_of(path), bytes);
        all.extend(share(batch.len(), batch, &digest));
        progress.done(size(batch));
    }
    all
}

/// The SHA-256 digest of a file, as text.
///
/// Errors: [`ArtifactError::Io`].
pub fn digest(path: &Path) -> Result<String, ArtifactError> {
    let failed = |source| ArtifactError::Io { action: "read", path: path.to_owned(), source };
    let mut file = regular::open(path).map_err(failed)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&piece[..read]),
        }
    }
}

impl Statement {
    /// Adds a file that was built: it is to have the name of `path`, and is `found` now.
    ///
    /// Errors: [`ArtifactError::Io`].
    pub fn add(&mut self, path: &Path, found: &Path) -> Result<(), ArtifactError> {
        self.subject.push(Resource::new(&name_of(path), digest(found)?));
        self.subject.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    /// JSON with a line break at its end.
    pub fn text(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("texts and maps of texts are JSON") + "\n"
    }

    /// Reads the text of the file `name`.
    ///
    /// Errors: E0298.
    pub fn parse(name: &str, text: &[u8]) -> Result<Statement, AttestError> {
        let fault = |what, found: String, expected: &str| AttestError::NoStatement {
            statement: name.into(),
            what,
            found,
            expected: expected.into(),
        };
        let read: Statement = serde_json::from_slice(text)
            .map_err(|e| fault("JSON", format!("a fault ({e})"), "a statement of in-toto"))?;
        let definition = &read.predicate.build_definition;
        let kinds = [
            ("_type", &read.kind, STATEMENT),
            ("predicateType", &read.predicate_type, PROVENANCE),
            ("buildType", &definition.build_type, BUILD),
        ];
        for (what, found, expected) in kinds {
            if found != expected {
                return Err(fault(what, format!("{found:?}"), expected));
            }
        }
        Ok(read)
    }

    /// Checks that the statement, read from the file `name`, speaks of a file of this digest.
    ///
    /// Errors: E0299.
    pub fn check_subject(&self, name: &str, of: &Path, found: &str) -> Result<(), AttestError> {
        if self.subject.iter().any(|subject| subject.sha256() == found) {
            return Ok(());
        }
        let digests = self.subject.iter().map(|s| format!("{} ({})", s.sha256(), s.name));
        let expected: Vec<String> = digests.collect();
        Err(AttestError::OtherBytes {
            statement: name.into(),
            name: of.display().to_string(),
            found: found.into(),
            expected: if expected.is_empty() { "none".into() } else { expected.join(", ") },
        })
    }

    /// The version of latentc that built.
    pub fn version(&self) -> &str {
        self.predicate.run_details.builder.version.get(LATENTC).map_or("", String::as_str)
    }

    /// Files that went in.
    pub fn dependencies(&self) -> &[Resource] {
        &self.predicate.build_definition.resolved_dependencies
    }

    /// Checks that the statement, read from the file `name`, says what the manifest does: the same
    /// model, flags, choices, compiler and inputs.
    ///
    /// Errors: E0282.
    pub fn check_build(&self, name: &str, manifest: &Manifest) -> Result<(), AttestError> {
        let differs = |what: &str, found: String, expected: String| AttestError::Contradiction {
            statement: name.into(),
            what: what.into(),
            found,
            expected,
        };
        let definition = &self.predicate.build_definition;
        let Parameters { model, flags, options } = &definition.external_parameters;
        let said = [
            ("model", model, &manifest.model.name),
            ("version of latentc", &self.version().to_string(), &manifest.compiler_version),
        ];
        for (what, found, expected) in said {
            if found != expected {
                return Err(differs(what, format!("{found:?}"), format!("{expected:?}")));
            }
        }
        // Files that an earlier release wrote know no flags.
        let flags = if manifest.flags.is_empty() { &manifest.flags } else { flags };
        let maps = [("--", flags, &manifest.flags), ("-C ", options, &manifest.options)];
        for (sign, stated, own) in maps {
            if let Some((key, found, expected)) = first_difference(stated, own) {
                return Err(differs(&format!("{sign}{key}"), found, expected));
            }
        }
        for input in &manifest.inputs {
            let stated = self.dependencies().iter().find(|r| r.name == input.name);
            let equal = |r: &Resource| !input.is_whole() || r.sha256() == input.sha256;
            if !stated.is_some_and(equal) {
                let found = stated.map(|r| format!("sha256 {}", r.sha256()));
                let found = found.unwrap_or_else(|| "nothing".into());
                let of = if input.is_whole() { "" } else { " of its header" };
                return Err(differs(&input.name, found, format!("sha256{of} {}", input.sha256)));
            }
        }
        Ok(())
    }
}
