//! File tests of diagnostics, `tests/files/errors/NAME.test`: what is done to a small input, the
//! command that meets it, and what the command must say. The form is described in
//! `tests/files/errors/README.md`.
#![allow(clippy::unwrap_used)]

mod artifacts;
mod case;
mod command;
mod damage;
mod kill;
mod memory;
mod tensors;

use case::Case;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rewrites what is expected where this is set.
const BLESS: &str = "LATENTC_BLESS";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All cases, by name. One whose text cannot be read fails here.
fn cases() -> BTreeMap<String, Case> {
    let folder = root().join("tests/files/errors");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let tests = paths.filter(|path| path.extension().is_some_and(|e| e == "test"));
    let case = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let case = Case::parse(path, &text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, case)
    };
    tests.map(case).collect()
}

#[test]
fn every_damage_gets_its_diagnostic() {
    let all = cases();
    let only = std::env::var("LATENTC_CASE").unwrap_or_default();
    let chosen: Vec<(&String, &Case)> = all.iter().filter(|(n, _)| n.contains(&only)).collect();
    assert!(!chosen.is_empty());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, case)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = case.run(std::env::var_os(BLESS).is_some()) {
                        failed.lock().unwrap().insert(name.to_string(), why);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let texts: Vec<String> = failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert!(failed.is_empty(), "{} of {}\n{}", failed.len(), chosen.len(), texts.join("\n"));
}

#[test]
fn every_code_has_a_file() {
    let listed = Command::new(env!("CARGO_BIN_EXE_latentc")).args(["ops", "--errors"]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let listed: BTreeSet<&str> =
        listed.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).collect();
    let cases = cases();
    let in_files: BTreeSet<&str> = cases.values().flat_map(Case::codes).collect();
    let missing: Vec<_> = listed.iter().filter(|c| !in_files.contains(*c)).collect();
    assert!(missing.is_empty(), "codes without a file: {missing:?}");
    let unlisted: Vec<_> = in_files.iter().filter(|c| !listed.contains(*c)).collect();
    assert!(unlisted.is_empty(), "codes that `ops --errors` does not list: {unlisted:?}");
}

#[test]
fn at_least_120_damaged_inputs_are_refused() {
    let cases = cases();
    let refused = cases.values().filter(|case| case.codes().next().is_some()).count();
    assert!(refused >= 120, "{refused}");
}
