//! How the forms of an artifact's blocks came about: what is written of it, and what a file's plan
//! and certificates must have in common.

use artifact::format::{CERTIFICATE, digest};
use artifact::plan::{Form, Plan};
use check::certificate::parse;
use check::{Certificate, CheckError, check};
use ir::dim::Name;
use ir::graph::Graph;
use ir::graph::program::Program;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// What is wrong with the certificates of an artifact.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// Bytes that are no text of certificates.
    #[error("section `{CERTIFICATE}`: {0}")]
    Text(CheckError),
    /// A step that proves nothing.
    #[error("block @{block}: {error}")]
    Step {
        /// The block.
        block: Name,
        /// The first wrong step.
        error: CheckError,
    },
    /// A graph was compiled that no certificate leads to.
    #[error(
        "block @{block} in bucket `{bucket}`: found certificates that end with {found}, expected \
         one that ends with the compiled graph {expected}"
    )]
    Uncertified {
        /// The block.
        block: String,
        /// The bucket.
        bucket: String,
        /// Hashes of the graphs that certificates of this block end with.
        found: String,
        /// Hash of the graph that was compiled.
        expected: String,
    },
    /// Two certificates of a block prove forms of two things.
    #[error("block @{block}: found certificates that begin from {found} graphs, expected one")]
    Sources {
        /// The block.
        block: Name,
        /// Different source graphs.
        found: usize,
    },
    /// A bucket that does not say what was compiled.
    #[error("bucket `{bucket}` of the plan: found no forms, expected one for each block")]
    Formless {
        /// The bucket.
        bucket: String,
    },
}

impl CertificateError {
    /// Every code with what it stands for; steps have those of the crate `check`.
    pub const CODES: &[(&str, &str)] = &[
        ("E0295", "a block was compiled to a form that no certificate leads to"),
        ("E0296", "certificates of a block that begin from different graphs"),
        ("E0297", "a plan that does not say which forms were compiled"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            CertificateError::Text(error) | CertificateError::Step { error, .. } => error.code(),
            CertificateError::Uncertified { .. } => "E0295",
            CertificateError::Sources { .. } => "E0296",
            CertificateError::Formless { .. } => "E0297",
        }
    }

    /// What to do next.
    pub fn help(&self) -> &'static str {
        match self {
            CertificateError::Text(error) | CertificateError::Step { error, .. } => error.help(),
            CertificateError::Formless { .. } => "compile the model again with this release",
            _ => "do not use the file: its code is not proven to be the model's; compile it again",
        }
    }
}

/// What was checked of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Distinct blocks.
    pub blocks: usize,
    /// Forms of blocks, each with its certificate.
    pub forms: usize,
    /// Steps that are equal in the prime field.
    pub field: usize,
    /// Steps that are near in f64, being tagged as what the field cannot see.
    pub near: usize,
}

/// The text of certificates, one after the other.
pub fn text(certificates: &[Certificate]) -> String {
    certificates.iter().map(ToString::to_string).collect()
}

/// What the plan says of a program whose entry is lowered: each block that it calls, with its graph.
pub fn forms(program: &Program, entry: &str) -> Vec<Form> {
    let calls = program.entry(entry).into_iter().flat_map(|entry| &entry.calls);
    let called: BTreeSet<&Name> = calls.map(|call| &call.block).collect();
    let blocks = program.blocks.iter().filter(|graph| called.contains(&graph.name));
    blocks.map(|graph| Form { block: graph.name.to_string(), graph: hash(graph) }).collect()
}

fn hash(graph: &Graph) -> String {
    digest(graph.to_string().as_bytes())
}

/// Reads a file's certificates.
///
/// Errors: E0285.
pub fn read(bytes: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        let found = "bytes that are no UTF-8".to_string();
        CertificateError::Text(CheckError::Text { line, found, expected: "text".into() })
    })?;
    parse(text).map_err(CertificateError::Text)
}

/// The certificate that leads to a form.
pub fn leading_to<'c>(certificates: &'c [Certificate], form: &Form) -> Option<&'c Certificate> {
    let ends = |c: &&Certificate| *c.source.name == *form.block && hash(c.chosen()) == form.graph;
    certificates.iter().find(ends)
}

/// Checks that certificates prove every form of a plan equal to one graph for each block. `seed`
/// chooses extents and inputs.
///
/// Errors: E0286 to E0289 for the first wrong step; E0295 to E0297.
pub fn verify(
    certificates: &[Certificate],
    plan: &Plan,
    seed: u64,
) -> Result<Checked, CertificateError> {
    let mut checked = Checked::default();
    for certificate in certificates {
        let block = || certificate.source.name.clone();
        let report = check(certificate, seed);
        let report = report.map_err(|error| CertificateError::Step { block: block(), error })?;
        checked.field += report.field;
        checked.near += report.near;
    }
    let mut sources: BTreeMap<&Name, Vec<&Graph>> = BTreeMap::new();
    for Certificate { source, .. } in certificates {
        let known = sources.entry(&source.name).or_default();
        if !known.contains(&source) {
            known.push(source);
        }
    }
    if let Some((block, found)) = sources.iter().find(|(_, graphs)| graphs.len() > 1) {
        let (block, found) = ((*block).clone(), found.len());
        return Err(CertificateError::Sources { block, found });
    }
    every_form(certificates, plan)?;
    Ok(Checked { blocks: sources.len(), forms: certificates.len(), ..checked })
}

fn every_form(certificates: &[Certificate], plan: &Plan) -> Result<(), CertificateError> {
    for bucket in plan.entries.iter().flat_map(|entry| &entry.buckets) {
        if bucket.forms.is_empty() {
            return Err(CertificateError::Formless { bucket: bucket.name.clone() });
        }
        for form in &bucket.forms {
            if leading_to(certificates, form).is_some() {
                continue;
            }
            let own = certificates.iter().filter(|c| *c.source.name == *form.block);
            let ends: Vec<String> = own.map(|c| hash(c.chosen())).collect();
            return Err(CertificateError::Uncertified {
                block: form.block.clone(),
                bucket: bucket.name.clone(),
                found: if ends.is_empty() { "nothing".into() } else { ends.join(", ") },
                expected: form.graph.clone(),
            });
        }
    }
    Ok(())
}
