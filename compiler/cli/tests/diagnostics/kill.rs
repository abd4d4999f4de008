//! Compilations that are killed at any moment: what was there before stays whole, nothing partial
//! takes its name, and what is left beside it is removed by the next.

use crate::artifacts::lay_out_model;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Begins a compilation into `out` whose weights are made up from a seed.
fn compile(folder: &Path, seed: u64) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
    command.args(["compile", "model", "-o", "out", "--emit", "artifact", "-C", "isa=x86-64-v2"]);
    command.args(["-C", "backend=cranelift", "--dummy-weights", &seed.to_string()]);
    command.current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The whole result of a compilation, and how long it took.
fn whole(folder: &Path, seed: u64) -> (Vec<u8>, Duration) {
    let begun = Instant::now();
    assert!(compile(folder, seed).wait().unwrap().success());
    (fs::read(folder.join("out")).unwrap(), begun.elapsed())
}

/// Files that a compilation left which are neither its result nor the model.
fn left(folder: &Path) -> usize {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name != "out" && name != "model").count()
}

/// A number below 1, the same in every run.
fn fraction(i: u32) -> f64 {
    let mixed = (u64::from(i) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn a_killed_compilation_leaves_the_old_result_whole_and_no_growing_rest() {
    let moments = if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 20 } else { 5 };
    let scene = tempfile::tempdir().unwrap();
    let folder = scene.path();
    lay_out_model("rand-qwen2", &folder.join("model"));
    fs::remove_file(folder.join("model/model.safetensors")).unwrap();
    let (new, _) = whole(folder, 2);
    let (old, took) = whole(folder, 1);
    assert!(old != new);
    for i in 0..moments {
        let mut child = compile(folder, 2);
        // The last moments of a compilation are those in which it writes: they come up most.
        std::thread::sleep(took.mul_f64(fraction(i).sqrt()));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(folder.join("out")).unwrap();
        assert!(found == old || found == new, "a partial result, killed at moment {i}");
        assert!(left(folder) <= 1, "moment {i}: {} files are left", left(folder));
        fs::write(folder.join("out"), &old).unwrap();
    }
    // A file of one that is gone, whatever moments were met above.
    fs::write(folder.join(".out.4194999-0.tmp"), &old[..100]).unwrap();
    fs::write(folder.join(".out.weights.4194999-0.tmp"), &old[..100]).unwrap();
    assert!(whole(folder, 2).0 == new);
    assert_eq!(left(folder), 0);
}
