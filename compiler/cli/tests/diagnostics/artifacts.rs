//! Small models, and what is compiled of them: once each, however many cases use it.

use crate::root;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use tempfile::TempDir;

/// Copies a model of `tests/models`.
pub fn lay_out_model(name: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(root().join("tests/models").join(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// Copies the executable that carries no model yet, which `./x setup` puts beside `latentc`.
pub fn lay_out_runtime(scene: &Path) {
    let from = Path::new(env!("CARGO_BIN_EXE_latentc")).with_file_name("latent-run");
    fs::copy(&from, scene.join("latent-run")).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

type Made = Arc<OnceLock<PathBuf>>;

/// What was compiled, by the words that asked for it; the folder lives as long as the tests.
static COMPILED: LazyLock<(TempDir, Mutex<BTreeMap<String, Made>>)> =
    LazyLock::new(|| (tempfile::tempdir().unwrap(), Mutex::default()));

/// Puts a model compiled with `options` into the scene as `model.lat` or, executable, `model.exe`,
/// with the weights file where there is one.
pub fn compiled(executable: bool, name: &str, options: &[&str], scene: &Path) {
    let key = format!("{executable} {name} {options:?}");
    let made = {
        let mut all = COMPILED.1.lock().unwrap();
        let count = all.len();
        let made = all.entry(key).or_default().clone();
        (made, count)
    };
    let own = if executable { "model.exe" } else { "model.lat" };
    let from = made.0.get_or_init(|| compile(executable, name, options, made.1).join(own));
    for file in [own.to_string(), format!("{own}.weights")] {
        let from = from.with_file_name(&file);
        if from.is_file() {
            fs::copy(from, scene.join(file)).unwrap();
        }
    }
}

fn compile(executable: bool, name: &str, options: &[&str], number: usize) -> PathBuf {
    let folder = COMPILED.0.path().join(number.to_string());
    fs::create_dir(&folder).unwrap();
    let (emit, own) = if executable { ("exe", "model.exe") } else { ("artifact", "model.lat") };
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
    command.arg("compile").arg(root().join("tests/models").join(name));
    command.args(["-q", "-C", "backend=cranelift", "-C", "isa=x86-64-v2", "--emit", emit]);
    command.arg("-o").arg(folder.join(own)).args(options);
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
    folder
}
