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
    ("tools", &["ir", "artifact", "check", "compiler", "runtime"]),
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
            "tools",
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

/// A line of code without its comment and the insides of its texts.
fn bare(line: &str) -> String {
    let mut bare = String::new();
    let mut chars = line.chars().peekable();
    let mut inside = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if inside => drop(chars.next()),
            '"' => inside = !inside,
            '/' if !inside && chars.peek() == Some(&'/') => break,
            _ if !inside => bare.push(c),
            _ => {}
        }
    }
    bare
}

/// Whole numbers of a line of code; what belongs to a name or to a number with a point or an
/// exponent is none.
fn integers(line: &str) -> Vec<u64> {
    let (mut words, mut word) = (vec![], String::new());
    for c in line.chars().chain([' ']) {
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        let exponent = number && word.ends_with('e') && c == '-';
        if exponent || c.is_alphanumeric() || c == '_' || c == '.' {
            word.push(c);
        } else {
            words.push(std::mem::take(&mut word));
        }
    }
    // A range is two numbers; a type may stand behind one.
    let words = words.iter().flat_map(|word| word.split(".."));
    let words = words.map(|word| {
        let number = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let plain = number.strip_suffix(['u', 'i']).unwrap_or(word);
        plain.trim_end_matches("usize").replace('_', "")
    });
    words.filter_map(|word| word.parse().ok()).collect()
}

fn rewriter() -> Vec<(PathBuf, String)> {
    let mut files = vec![];
    sources(&root().join("compiler/src/rewrite"), &mut files);
    assert!(files.len() > 10, "the rewriter has files");
    let text = |file: &PathBuf| std::fs::read_to_string(file).unwrap();
    files.iter().map(|file| (file.clone(), text(file))).collect()
}

/// Laws are about ops: what comes out for a model is nothing that they know of.
#[test]
fn rewriting_knows_no_model() {
    let names = ["deepseek", "llama", "qwen", "glm", "mistral", "mixtral", "kimi", "mla", "moe"];
    let versions = ["v2", "v3", "v32", "r1"];
    let parts = ["attention", "expert", "router"];
    for (file, text) in rewriter() {
        let text = text.to_lowercase();
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        let shown = file.display();
        for name in names {
            assert!(!words.iter().any(|w| w.starts_with(name)), "{shown}: names {name}");
        }
        for version in versions {
            assert!(!words.contains(version), "{shown}: names {version}");
        }
        for (at, line) in text.lines().enumerate() {
            for part in parts {
                assert!(!bare(line).contains(part), "{shown}:{}: names {part}", at + 1);
            }
        }
    }
}

/// Limits and prices have names; extents come from graphs.
#[test]
fn rewriting_knows_no_dimension() {
    const LARGEST: u64 = 3;
    for (file, text) in rewriter() {
        for (at, line) in text.lines().enumerate() {
            let code = bare(line);
            let named = code.trim_start().trim_start_matches("pub ").starts_with("const ");
            let large = integers(&code).into_iter().find(|n| *n > LARGEST && !named);
            assert_eq!(large, None, "{}:{}: {line}", file.display(), at + 1);
        }
    }
}

#[test]
fn integers_are_told_from_other_numbers() {
    assert_eq!(integers("x[128] + 7_168 << 4, 0..512"), [128, 7168, 4, 0, 512]);
    assert_eq!(integers("1e9 + 2.5 * x64 - 1e-12 + f(0.125)"), [0u64; 0]);
    assert_eq!(integers("64u32 + 32usize"), [64, 32]);
    assert_eq!(bare("let x = \"a // 512\"; // 1024"), "let x = ; ");
}
