//! Compilations that are killed at any moment: what was there before stays whole, nothing partial
//! takes its name, and what is left beside it is removed by the next.
//!
//! LATENTC_KILL_SEED=N chooses the moments, which are few without LATENTC_LONG_TESTS.

use crate::artifacts::lay_out_model;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The files of a result, by name.
type Files = BTreeMap<&'static str, Vec<u8>>;

/// What a compilation may write, in the order in which it takes its name.
const NAMES: [&str; 3] = ["out.weights", "out", STATEMENT];
const STATEMENT: &str = "out.intoto.json";

/// Two choices that give other weights, and two that leave them in their checkpoint as they are.
const SEEDS: [[&str; 2]; 2] = [["--dummy-weights", "1"], ["--dummy-weights", "2"]];
const CONTEXTS: [[&str; 2]; 2] = [["-C", "context=256"], ["-C", "context=512"]];

/// A way to write a model, and two choices with which no file of it stays the same.
struct Way {
    words: &'static [&'static str],
    choices: [[&'static str; 2]; 2],
}

static WAYS: [Way; 4] = [
    Way { words: &["--emit", "artifact"], choices: SEEDS },
    Way { words: &[], choices: CONTEXTS },
    Way { words: &["--emit", "artifact", "--weights", "checkpoint"], choices: CONTEXTS },
    Way { words: &["--weights", "external", "--attest"], choices: SEEDS },
];

/// Begins a compilation into `out`.
fn compile(folder: &Path, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
    command.args(["compile", "model", "-o", "out", "-C", "backend=cranelift"]);
    command.args(["-C", "isa=x86-64-v2"]).args(words);
    command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The files that are there.
fn found(folder: &Path) -> Files {
    let read = |name| Some((name, fs::read(folder.join(name)).ok()?));
    NAMES.into_iter().filter_map(read).collect()
}

/// Whether a file is there that a compilation has begun and not finished.
fn is_begun(folder: &Path, child: &Child) -> bool {
    let own = format!(".{}-", child.id());
    let mut names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.any(|name| name.to_string_lossy().contains(&own))
}

/// Waits until a compilation has begun a file, or has ended.
fn await_writing(folder: &Path, child: &mut Child) {
    while child.try_wait().unwrap().is_none() && !is_begun(folder, child) {
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The whole result of a compilation, and how long it took: until the first file was begun, and
/// from then on.
fn whole(folder: &Path, words: &[&str]) -> (Files, [Duration; 2]) {
    let begun = Instant::now();
    let mut child = compile(folder, words);
    await_writing(folder, &mut child);
    let before = begun.elapsed();
    assert!(child.wait().unwrap().success(), "{words:?}");
    (found(folder), [before, begun.elapsed() - before])
}

/// Files that a compilation left which are neither its result nor the model.
fn left(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name != "model" && !NAMES.iter().any(|known| name == known)).count()
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

/// A folder with a result, in which compilations of another are killed.
struct Scene {
    folder: TempDir,
    way: &'static Way,
    old: Files,
    new: Files,
    /// How long a compilation takes until it writes, and from then on.
    took: [Duration; 2],
}

impl Scene {
    fn new(way: &'static Way) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        lay_out_model("rand-qwen2", &folder.path().join("model"));
        let of = |choice: &[&str]| whole(folder.path(), &[way.words, choice].concat());
        let [(new, _), (old, took)] = [1, 0].map(|choice| of(&way.choices[choice]));
        assert!(new.iter().all(|(name, bytes)| old[name] != *bytes), "{:?}", way.words);
        Scene { folder, way, old, new, took }
    }

    /// The words of the compilation that is not yet done.
    fn words(&self) -> Vec<&'static str> {
        [self.way.words, &self.way.choices[1]].concat()
    }

    /// Kills a compilation when a part of its time is over, or of the time in which it writes; puts
    /// back what was there. `told` names the moment. Gives whether it was writing.
    fn kill(&self, writing: bool, part: f64, told: &str) -> bool {
        let folder = self.folder.path();
        let [before, writes] = self.took;
        let mut child = compile(folder, &self.words());
        if writing {
            await_writing(folder, &mut child);
        }
        let time = if writing { writes } else { before + writes };
        std::thread::sleep(time.mul_f64(part));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found(folder);
        assert!(moments(&self.old, &self.new).contains(&found), "{told}: {:?}", found.keys());
        let left = left(folder);
        assert!(left <= self.new.len(), "{told}: {left} files are left");
        self.old.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
        is_begun(folder, &child)
    }

    /// Compiles to the end, beside files of one that is gone, whatever moments were met before.
    fn finish(&self) {
        let folder = self.folder.path();
        for name in NAMES {
            let abandoned = folder.join(format!(".{name}.4194999-0.tmp"));
            fs::write(abandoned, &self.old["out"][..100]).unwrap();
        }
        assert!(whole(folder, &self.words()).0 == self.new, "{:?}", self.way.words);
        assert_eq!(left(folder), 0, "{:?}", self.way.words);
    }
}

#[test]
fn a_killed_compilation_leaves_the_old_result_whole_and_no_growing_rest() {
    const SEED: &str = "LATENTC_KILL_SEED";
    let seed = std::env::var(SEED).map_or(1, |text| text.parse().unwrap());
    let count = if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 40 } else { 8 };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scenes = WAYS.each_ref().map(Scene::new);
    let mut met = 0;
    for (i, scene) in (0..count).zip(scenes.iter().cycle()) {
        // A small model is written in no time: every other round aims there.
        let writing = i / scenes.len() % 2 == 1;
        let part = rng.next_u64() as f64 / u64::MAX as f64;
        let told = format!("{:?}, moment {i} of {SEED}={seed}", scene.way.words);
        met += u32::from(scene.kill(writing, part, &told));
    }
    println!("{met} of {count} compilations were killed while they wrote");
    scenes.iter().for_each(Scene::finish);
}

/// Two files cannot take their names at once. Whoever kills between them leaves weights of another
/// compilation, and is told so by the next to load them.
#[test]
fn files_of_two_compilations_do_not_go_together() {
    let scene = tempfile::tempdir().unwrap();
    let folder = scene.path();
    lay_out_model("rand-qwen2", &folder.join("model"));
    let words = ["--emit", "artifact", "--weights", "external"];
    let [(old, _), (new, _)] = SEEDS.map(|seed| whole(folder, &[&words[..], &seed].concat()));
    for (name, bytes) in [("out", &old["out"]), ("out.weights", &old["out.weights"])] {
        fs::write(folder.join(name), bytes).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
        let ran = command.args(["verify", "out"]).current_dir(folder).output().unwrap();
        assert_eq!(ran.status.code(), Some(1));
        assert!(ran.stderr.starts_with(b"E0410\n"), "{}", String::from_utf8_lossy(&ran.stderr));
        fs::write(folder.join(name), &new[name]).unwrap();
    }
}
