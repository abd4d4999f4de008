//! `latentc verify`: what the file's own `verify` checks, the certificates of its rewriting, and
//! what a statement of provenance says.

use crate::diagnostic::Failure;
use crate::{Source, open};
use artifact::Location;
use artifact::error::ArtifactError;
use artifact::format::CERTIFICATE;
use compiler::attest::{self, Statement};
use compiler::certificate::{self, Checked};
use compiler::compile::CompileError;
use generate::GenerateError;
use generate::command::Streams;
use generate::command::args::{LoadArgs, VerifyArgs};
use generate::command::verify::{Fact, verify as verify_file};
use generate::engine::Model;
use runtime::RuntimeError;
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

/// Verifies.
pub fn verify(mut source: Source, args: &VerifyArgs) -> Result<(), Failure> {
    let attestation = source.attestation.take();
    let model = open(source, &LoadArgs { check: true, ..args.load.clone() })?;
    let mut facts = vec![certificate_fact(&model)?];
    if let Some(statement) = attestation {
        facts.push(statement_fact(&model, &statement)?);
    }
    match Streams::standard(|streams| verify_file(&Arc::new(model), args, &facts, streams)) {
        Err(GenerateError::OutputClosed) => Ok(()),
        other => Ok(other?),
    }
}

/// The section of certificates.
///
/// Errors: E0409.
pub fn certificates(model: &Model) -> Result<&[u8], Failure> {
    let missing = || {
        let names: Vec<&str> = model.sections().iter().map(|s| s.name.as_str()).collect();
        let (name, found) = (CERTIFICATE.to_string(), names.join(", "));
        let error = ArtifactError::MissingSection { name, found };
        let path = model.path().to_path_buf();
        GenerateError::from(RuntimeError::Artifact { path, error })
    };
    Ok(model.section(CERTIFICATE).ok_or_else(missing)?)
}

/// Chooses inputs that nobody could have known before.
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one(CERTIFICATE)
}

/// Checks the certificates.
fn certificate_fact(model: &Model) -> Result<Fact, Failure> {
    let seed = fresh_seed();
    let certificates = certificate::read(certificates(model)?)?;
    let Checked { blocks, forms, field, near } =
        certificate::verify(&certificates, model.plan(), seed)?;
    let value = json!({
        "blocks": blocks,
        "forms": forms,
        "steps": field + near,
        "steps_near": near,
        "field_check": "equal",
        "seed": seed,
    });
    let mut line = format!(
        "certificates of {forms} forms of {blocks} blocks: {field} steps equal in the prime field"
    );
    if near > 0 {
        line += &format!(", {near} near in f64");
    }
    Ok(Fact { key: "certificate", value, line })
}

/// Checks that a statement speaks of the file, and of the weights beside it if there are any.
fn statement_fact(model: &Model, path: &Path) -> Result<Fact, Failure> {
    let text = std::fs::read(path).map_err(|e| Failure::io("read", path, &e))?;
    let name = path.display().to_string();
    let statement = Statement::parse(&name, &text)?;
    let weights = model.sections().iter().filter_map(|section| match &section.location {
        Location::External { file } => Some(model.path().with_file_name(file)),
        Location::Here { .. } => None,
    });
    for file in [model.path().to_path_buf()].into_iter().chain(weights) {
        let found = attest::digest(&file).map_err(CompileError::Artifact)?;
        statement.check_subject(&name, &file, &found)?;
    }
    statement.check_build(&name, model.manifest())?;
    let mut line = format!("built by latentc {}, as {name} says, of", statement.version());
    for of in statement.dependencies() {
        line += &format!("\n  {}  {}", of.sha256(), of.name);
    }
    Ok(Fact { key: "attestation", value: json!(statement), line })
}
