//! The architecture as a test: which crate may import which, and what no file may hold.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate, and the crates of ours that it may import. `tests` may import anything.
const EDGES: &[(&str, &[&str])] = &[
    ("ir", &[]),
    ("artifact", &[]),
    ("check", &["ir"]),
    ("compiler", &["ir", "artifact", "check"]),
    ("target-cranelift", &["ir"]),
    ("target-llvm", &["ir"]),
    ("runtime", &["artifact"]),
    ("generate", &["runtime"]),
    ("stub", &["generate"]),
    (
        "latentc",
        &[
            "ir",
            "artifact",
            "check",
            "compiler",
            "target-cranelift",
            "target-llvm",
            "runtime",
            "generate",
        ],
    ),
];

/// Outside crate, and the only crate of ours that may name it.
const CONFINED: &[(&str, &str)] =
    &[("inkwell", "target-llvm"), ("cranelift-codegen", "target-cranelift"), ("egg", "compiler")];

/// Crates that must not be anywhere below the deployed executable.
const NOT_DEPLOYED: &[&str] = &["ir", "compiler", "check", "inkwell", "cranelift-codegen", "egg"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn metadata(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every workspace crate with the names of all its dependencies, of any kind.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let deps = |p: &Value| {
        p["dependencies"].as_array().unwrap().iter().map(|d| text(&d["name"])).collect()
    };
    let meta = metadata(&["--no-deps"]);
    meta["packages"].as_array().unwrap().iter().map(|p| (text(&p["name"]), deps(p))).collect()
}

#[test]
fn crates_import_only_along_the_edges() {
    let all = dependencies();
    for (name, deps) in &all {
        if name == "tests" || name == "examples" {
            continue;
        }
        let edges = EDGES.iter().find(|(n, _)| n == name);
        let (_, allowed) = edges.unwrap_or_else(|| panic!("{name} has no row in EDGES"));
        for dep in deps.iter().filter(|d| all.contains_key(*d)) {
            assert!(allowed.contains(&dep.as_str()), "{name} must not import {dep}");
        }
    }
}

#[test]
fn outside_crates_stay_where_they_belong() {
    for (name, deps) in dependencies() {
        for (outside, owner) in CONFINED {
            assert!(
                name == *owner || name == "tests" || !deps.contains(*outside),
                "{name} must not name {outside}: that is {owner}'s"
            );
        }
    }
}

/// Every crate, of ours or not, that a crate is built from.
fn below(name: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", name, "-e", "normal", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|l| Some(l.split_whitespace().next()?.to_string())).collect()
}

#[test]
fn the_deployed_executable_holds_no_compiler() {
    let names = below("stub");
    assert!(names.contains("runtime"), "the tree lists crates");
    for name in NOT_DEPLOYED {
        assert!(!names.contains(*name), "the deployed executable must not hold {name}");
    }
}

/// What checks certificates shares nothing with what makes them.
#[test]
fn the_checker_knows_no_rewriter() {
    let names = below("check");
    assert!(names.contains("ir"), "the tree lists crates");
    let ours: BTreeSet<String> = dependencies().into_keys().collect();
    let below: Vec<&String> = names.intersection(&ours).collect();
    assert_eq!(below, ["check", "ir"]);
    assert!(!names.contains("egg"), "the checker must not hold an e-graph");
    let mut files = vec![];
    sources(&root(), &mut files);
    let folder = root().join("compiler/src/rewrite");
    // Put together, or this file would name it.
    let name = ["egg", "::"].concat();
    let named = |file: &&PathBuf| std::fs::read_to_string(file).unwrap().contains(&name);
    let named: Vec<&PathBuf> = files.iter().filter(named).collect();
    assert!(named.len() > 5, "the rewriter names it");
    for file in named {
        let allowed = file.starts_with(&folder) || file.starts_with(root().join("compiler/tests"));
        assert!(allowed, "{}: only compiler/src/rewrite names egg", file.display());
    }
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_have_one_reason_to_exist() {
    let mut files = vec![];
    sources(&root(), &mut files);
    assert!(files.len() > 20);
    let banned = ["utils", "util", "common", "helpers", "helper", "misc", "manager"];
    for file in files {
        let stem = file.file_stem().unwrap().to_str().unwrap();
        assert!(!banned.contains(&stem), "{}: a name that says nothing", file.display());
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().count();
        assert!(lines <= 600, "{}: {lines} lines of code", file.display());
    }
}

/// Targets lower tiles; what a model calls them is none of their business.
#[test]
fn targets_know_no_model_words() {
    let words = ["attention", "expert", "moe", "rope", "deepseek", "llama", "softmax", "rms_norm"];
    let mut files = vec![];
    for target in ["targets/llvm/src", "targets/cranelift/src"] {
        sources(&root().join(target), &mut files);
    }
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap().to_lowercase();
        for word in words {
            assert!(!text.contains(word), "{}: names {word}", file.display());
        }
    }
}
