//! `latentc verify`: what the file's own `verify` checks, and the certificates of its rewriting.

use crate::diagnostic::Failure;
use crate::{Source, open};
use artifact::error::ArtifactError;
use artifact::format::CERTIFICATE;
use compiler::certificate::{self, Checked};
use generate::GenerateError;
use generate::command::Streams;
use generate::command::args::{LoadArgs, VerifyArgs};
use generate::command::verify::{Fact, verify as verify_file};
use generate::engine::Model;
use runtime::RuntimeError;
use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Verifies.
pub fn verify(source: Source, args: &VerifyArgs) -> Result<(), Failure> {
    let model = open(source, &LoadArgs { check: true, ..args.load.clone() })?;
    let fact = certificate_fact(&model)?;
    match Streams::standard(|streams| verify_file(&Arc::new(model), args, &[fact], streams)) {
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
