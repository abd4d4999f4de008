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

/// Codes of mistakes of latentc itself, and of limits that no test may push a machine to: each
/// with the test that makes the error by the shortest way inside.
const INSIDE: &[(&str, &str)] = &[
    ("E0112", "ir/tests/ops.rs"),
    ("E0121", "ir/tests/graph_text.rs"),
    ("E0125", "ir/tests/graph_text.rs"),
    ("E0126", "ir/tests/field.rs"),
    ("E0127", "ir/tests/program.rs"),
    ("E0128", "ir/tests/program.rs"),
    ("E0130", "ir/src/graph/source.rs"),
    ("E0137", "ir/src/number/scalar.rs"),
    ("E0138", "ir/tests/graph_text.rs"),
    ("E0145", "ir/src/kernel/infer.rs"),
    ("E0147", "ir/src/kernel/interp/memory.rs"),
    ("E0163", "ir/tests/kernel_errors.rs"),
    ("E0165", "ir/tests/kernel_errors.rs"),
    ("E0166", "ir/tests/kernel_errors.rs"),
    ("E0167", "ir/tests/kernel_errors.rs"),
    ("E0168", "ir/tests/kernel_errors.rs"),
    ("E0169", "ir/tests/kernel_errors.rs"),
    ("E0180", "targets/cranelift/tests/target.rs"),
    ("E0181", "ir/src/loops/verify.rs"),
    ("E0214", "compiler/src/import/dummy.rs"),
    ("E0215", "compiler/tests/constants.rs"),
    ("E0250", "compiler/src/link/tests.rs"),
    ("E0251", "compiler/src/link/tests.rs"),
    ("E0252", "compiler/src/link/tests.rs"),
    ("E0253", "compiler/src/link/tests.rs"),
    ("E0254", "compiler/src/link/tests.rs"),
    ("E0255", "compiler/src/link/tests.rs"),
    ("E0256", "compiler/src/link/tests.rs"),
    ("E0257", "compiler/src/link/tests.rs"),
    ("E0258", "compiler/src/link/tests.rs"),
    ("E0259", "compiler/src/link/tests.rs"),
    ("E0264", "compiler/src/lower/code.rs"),
    ("E0265", "compiler/src/lower/plan.rs"),
    ("E0283", "compiler/tests/laws/planted.rs"),
    ("E0301", "targets/cranelift/tests/target.rs"),
    ("E0303", "targets/cranelift/src/object.rs"),
    ("E0304", "targets/cranelift/src/object.rs"),
    ("E0305", "targets/cranelift/tests/target.rs"),
    ("E0330", "targets/llvm/tests/code.rs"),
    ("E0331", "targets/llvm/src/module.rs"),
    ("E0332", "targets/llvm/tests/code.rs"),
    ("E0333", "targets/llvm/tests/code.rs"),
    ("E0334", "targets/llvm/tests/code.rs"),
    ("E0335", "targets/llvm/tests/code.rs"),
    ("E0336", "targets/llvm/src/join.rs"),
    ("E0338", "targets/llvm/src/join.rs"),
    ("E0413", "runtime/artifact/tests/round_trip.rs"),
    ("E0510", "runtime/src/pool.rs"),
    ("E0511", "runtime/src/state.rs"),
    ("E0512", "runtime/src/state.rs"),
    ("E0514", "runtime/src/step.rs"),
    ("E0517", "runtime/src/step.rs"),
    ("E0518", "runtime/src/step.rs"),
    ("E0522", "runtime/tests/session.rs"),
    ("E0613", "runtime/generate/tests/schedule.rs"),
    ("E0614", "runtime/generate/src/engine.rs"),
    ("E0616", "runtime/generate/tests/commands.rs"),
];

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
    let inside: BTreeSet<&str> = INSIDE.iter().map(|(code, _)| *code).collect();
    let missing: Vec<_> = listed.iter().filter(|c| !in_files.contains(*c)).collect();
    let missing: Vec<_> = missing.into_iter().filter(|c| !inside.contains(*c)).collect();
    assert!(missing.is_empty(), "codes without a file: {missing:?}");
    let both: Vec<_> = inside.intersection(&in_files).collect();
    assert!(both.is_empty(), "{both:?} have files, and are listed as not to be reached");
    for (code, file) in INSIDE {
        assert!(tests_of(file).contains(code), "no test in {file} names {code}");
    }
}

/// The tests of a file: all of it, or of one that is not tests alone, what follows its mark.
fn tests_of(file: &str) -> String {
    let text = fs::read_to_string(root().join(file)).unwrap();
    match file.contains("/tests/") || file.ends_with("/tests.rs") {
        true => text,
        false => text.split_once("#[cfg(test)]").unwrap_or_default().1.to_string(),
    }
}

#[test]
fn at_least_120_damaged_inputs_are_refused() {
    let cases = cases();
    let refused = cases.values().filter(|case| case.codes().next().is_some()).count();
    assert!(refused >= 120, "{refused}");
}
