//! Less and less memory, until nothing can be done with it: every command ends in a sentence.

use crate::artifacts::{compiled, lay_out_model};
use crate::command::Setting;
use std::fs;
use std::path::Path;

/// By how many bytes limits differ.
const STEP: u64 = 8 << 20;

/// Exit code and what is said, within so many bytes of address space.
fn within(bytes: u64, scene: &Path, words: &[String]) -> String {
    let mut setting = Setting::default();
    setting.take(&["limit", "memory", &bytes.to_string()]).unwrap();
    setting.run(scene, words).unwrap()
}

/// Runs a command within every limit from the first that lets its program begin to the first that
/// suffices. Counts those that end with E0507.
fn without_memory(scene: &Path, words: &[&str]) -> usize {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    let version = [words[0].clone(), "--version".into()];
    let mut limits = (1..).map(|step| step * STEP);
    let begins = limits.find(|bytes| within(*bytes, scene, &version).starts_with("exit 0"));
    let files = || fs::read_dir(scene).unwrap().count();
    let before = files();
    let refused = (begins.unwrap()..).step_by(STEP as usize).map_while(|bytes| {
        let given = within(bytes, scene, &words);
        if given.starts_with("exit 0\n") {
            return None;
        }
        let code = given.strip_prefix("exit 3\n").and_then(|said| said.split("E0").nth(1));
        assert!(code.is_some(), "{words:?} within {bytes} bytes: {given}");
        assert_eq!(files(), before, "{words:?} within {bytes} bytes left files");
        Some(given.contains("E0507"))
    });
    refused.filter(|of_memory| *of_memory).count()
}

#[test]
fn compiling_without_memory_ends_in_a_sentence() {
    for backend in ["backend=cranelift", "backend=llvm"] {
        if backend == "backend=llvm" && !cfg!(feature = "llvm") {
            continue;
        }
        let scene = tempfile::tempdir().unwrap();
        lay_out_model("rand-llama", &scene.path().join("model"));
        let compile = ["latentc", "compile", "model", "-o", "out", "--emit", "artifact", "-q"];
        let options = ["-C", backend, "-C", "isa=x86-64-v2", "--threads", "2"];
        assert!(without_memory(scene.path(), &[&compile[..], &options].concat()) > 0, "{backend}");
    }
}

#[test]
fn running_without_memory_ends_in_a_sentence() {
    let scene = tempfile::tempdir().unwrap();
    compiled(true, "rand-llama", &[], scene.path());
    let run = ["model.exe", "run", "--prompt-ids", "1,2", "--max-tokens", "2", "--threads", "2"];
    without_memory(scene.path(), &run);
}
