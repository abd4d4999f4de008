//! Compilations that are killed at any moment: what was there before stays whole, nothing partial
//! takes its name, and what is left beside it is removed by the next.

use crate::artifacts::lay_out_model;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The files of a result, by name.
type Files = BTreeMap<&'static str, Vec<u8>>;

/// What a compilation may write, in the order in which it takes its name.
const NAMES: [&str; 3] = ["out.weights", "out", STATEMENT];
const STATEMENT: &str = "out.intoto.json";

/// Begins a compilation into `out` whose weights are made up from a seed.
fn compile(folder: &Path, seed: u64, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
    command.args(["compile", "model", "-o", "out", "--emit", "artifact", "-C", "isa=x86-64-v2"]);
    command.args(["-C", "backend=cranelift", "--dummy-weights", &seed.to_string()]).args(words);
    command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The files that are there.
fn found(folder: &Path) -> Files {
    let read = |name| Some((name, fs::read(folder.join(name)).ok()?));
    NAMES.into_iter().filter_map(read).collect()
}

/// The whole result of a compilation, and how long it took.
fn whole(folder: &Path, seed: u64, words: &[&str]) -> (Files, Duration) {
    let begun = Instant::now();
    assert!(compile(folder, seed, words).wait().unwrap().success());
    (found(folder), begun.elapsed())
}

/// Files that a compilation left which are neither its result nor the model.
fn left(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name != "model" && !NAMES.iter().any(|known| name == known)).count()
}

/// A number below 1, the same in every run.
fn fraction(i: u32) -> f64 {
    let mixed = (u64::from(i) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

/// What may be there from one result to the next: an old statement goes first, then each file that
/// is whole takes its name. No statement is ever beside files of another compilation.
fn moments(old: &Files, new: &Files) -> Vec<Files> {
    let mut all = vec![old.clone()];
    let mut now = old.clone();
    now.remove(STATEMENT);
    all.push(now.clone());
    for name in NAMES.into_iter().filter(|name| new.contains_key(name)) {
        now.insert(name, new[name].clone());
        all.push(now.clone());
    }
    assert_eq!(now, *new);
    all
}

/// Kills compilations that write what `words` ask for.
fn kill_at_moments(words: &[&str]) {
    let count = if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 20 } else { 5 };
    let scene = tempfile::tempdir().unwrap();
    let folder = scene.path();
    lay_out_model("rand-qwen2", &folder.join("model"));
    fs::remove_file(folder.join("model/model.safetensors")).unwrap();
    let (new, _) = whole(folder, 2, words);
    let (old, took) = whole(folder, 1, words);
    assert!(new.iter().all(|(name, bytes)| old[name] != *bytes), "{words:?}");
    let allowed = moments(&old, &new);
    for i in 0..count {
        let mut child = compile(folder, 2, words);
        // The last moments of a compilation are those in which it writes: they come up most.
        std::thread::sleep(took.mul_f64(fraction(i).sqrt()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(allowed.contains(&found(folder)), "{words:?}: killed at moment {i}");
        let most = new.len();
        assert!(left(folder) <= most, "{words:?}, moment {i}: {} files are left", left(folder));
        old.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    }
    // Files of one that is gone, whatever moments were met above.
    for name in NAMES {
        fs::write(folder.join(format!(".{name}.4194999-0.tmp")), &old["out"][..100]).unwrap();
    }
    assert!(whole(folder, 2, words).0 == new);
    assert_eq!(left(folder), 0);
}

#[test]
fn a_killed_compilation_leaves_the_old_result_whole_and_no_growing_rest() {
    kill_at_moments(&[]);
}

#[test]
fn so_does_one_that_writes_weights_and_a_statement_beside() {
    kill_at_moments(&["--weights", "external", "--attest"]);
}

/// Two files cannot take their names at once. Whoever kills between them leaves weights of another
/// compilation, and is told so by the next to load them.
#[test]
fn files_of_two_compilations_do_not_go_together() {
    let scene = tempfile::tempdir().unwrap();
    let folder = scene.path();
    lay_out_model("rand-qwen2", &folder.join("model"));
    let words = ["--weights", "external"];
    let ((old, _), (new, _)) = (whole(folder, 1, &words), whole(folder, 2, &words));
    for (name, bytes) in [("out", &old["out"]), ("out.weights", &old["out.weights"])] {
        fs::write(folder.join(name), bytes).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
        let ran = command.args(["verify", "out"]).current_dir(folder).output().unwrap();
        assert_eq!(ran.status.code(), Some(1));
        assert!(ran.stderr.starts_with(b"E0410\n"), "{}", String::from_utf8_lossy(&ran.stderr));
        fs::write(folder.join(name), &new[name]).unwrap();
    }
}
