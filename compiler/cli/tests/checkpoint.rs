//! `--weights checkpoint`: the same results as ever, and nothing believed that changed meanwhile.
#![allow(clippy::unwrap_used)]

#[path = "support/sparse.rs"]
mod sparse;
mod support;

use artifact::recipe::{Making, Recipe};
use artifact::{Plan, Reader};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use support::{LEVEL, Scene, latentc, refused, root};

const INSIDE: [&str; 2] = ["-C", LEVEL];
const STAY: [&str; 4] = ["--weights", "checkpoint", "-C", LEVEL];
/// Little code: one level, by the backend that is faster to compile, and nothing in front.
const LEAST: [&str; 6] = ["--emit", "artifact", "-C", "backend=cranelift", "-C", LEVEL];
/// Models with plain, scaled and computed weights.
const MODELS: [&str; 3] = ["rand-v2-lite", "rand-v3-fp8", "tiny-v3-fp8"];

/// A model compiled so that its weights stay where they are.
fn compiled(name: &str) -> Scene {
    let scene = Scene::new(name);
    scene.compile(&STAY);
    scene
}

/// What `logits` writes for a file.
fn logits(scene: &Scene, file: &str, more: &[&str]) -> Vec<u8> {
    let (ids, out) = (scene.path("ids.json"), scene.path("logits"));
    fs::write(&ids, "[[1, 2, 3, 400, 5, 66, 7], [9, 8]]").unwrap();
    let mut args = vec!["logits", file, "--tokens", &ids, "-o", &out];
    args.extend(more);
    let ran = latentc(&args);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    fs::read(out).unwrap()
}

fn recipe(scene: &Scene) -> (Plan, Recipe) {
    let bytes = fs::read(&scene.out).unwrap();
    let reader = Reader::open(&bytes).unwrap();
    let plan = reader.plan().unwrap();
    let recipe = reader.recipe(&plan).unwrap().unwrap();
    (plan, recipe)
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn results_are_those_of_weights_inside() {
    for name in MODELS {
        let scene = compiled(name);
        let stay = logits(&scene, &scene.out, &[]);
        let verified = latentc(&["verify", &scene.out]);
        assert_eq!(verified.exit, 0, "{name}: {}", verified.err);
        let (plan, recipe) = recipe(&scene);
        let kinds = |kind: fn(&Making) -> bool| recipe.weights.iter().any(kind);
        assert!(kinds(|m| matches!(m, Making::Mapped { .. })), "{name}: nothing is mapped");
        assert!(kinds(|m| matches!(m, Making::Packed(_))), "{name}: nothing is packed");
        let small = fs::metadata(&scene.out).unwrap().len();
        scene.compile(&INSIDE);
        assert!(logits(&scene, &scene.out, &[]) == stay, "{name}: other logits");
        let weights: u64 = plan.weights.iter().map(|w| w.bytes).sum();
        let saved = fs::metadata(&scene.out).unwrap().len() - small;
        assert!(saved > weights / 2, "{name}: {saved} of {weights} bytes saved");
    }
}

#[test]
fn a_checkpoint_may_move() {
    let scene = compiled("rand-v2-lite");
    let before = logits(&scene, &scene.out, &[]);
    let moved = scene.path("elsewhere");
    fs::rename(&scene.model, &moved).unwrap();
    let err = refused(&["verify", &scene.out], 1, &["E0415"]);
    assert!(err.contains("model.safetensors") && err.contains("--checkpoint DIR"), "{err}");
    assert!(logits(&scene, &scene.out, &["--checkpoint", &moved]) == before);
    assert_eq!(latentc(&["verify", &scene.out, "--checkpoint", &moved]).exit, 0);
}

#[test]
fn an_artifact_and_its_checkpoint_may_move_together() {
    let scene = Scene::new("rand-llama");
    let (results, moved) = (scene.path("a/results"), scene.path("b"));
    fs::create_dir_all(&results).unwrap();
    fs::rename(&scene.model, scene.path("a/model")).unwrap();
    let (model, out) = (scene.path("a/model"), format!("{results}/out"));
    let words = ["--emit", "artifact", "-C", "backend=cranelift"];
    let ran = latentc(&[&["compile", &model, "-o", &out][..], &words, &STAY].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    fs::rename(scene.path("a"), &moved).unwrap();
    assert_eq!(latentc(&["verify", &format!("{moved}/results/out")]).exit, 0);
    // A link stands for the file that it leads to.
    let link = scene.path("link");
    std::os::unix::fs::symlink(format!("{moved}/results/out"), &link).unwrap();
    assert_eq!(latentc(&["verify", &link]).exit, 0);
}

#[test]
fn changed_checkpoints_are_refused() {
    let scene = compiled("rand-v3-fp8");
    let (_, recipe) = recipe(&scene);
    let file = |number: u32| scene.file(&recipe.files[number as usize].name);
    let mapped = recipe.weights.iter().find_map(|making| match making {
        Making::Mapped { file: of, offset } => Some((file(*of), *offset)),
        _ => None,
    });
    let packed = recipe.weights.iter().rev().find_map(|making| match making {
        Making::Packed(packed) => packed.tensors().last(),
        _ => None,
    });
    let tensor = recipe.tensors[packed.unwrap() as usize];
    let last = tensor.offset + tensor.bytes - 1;
    for (path, at) in [mapped.unwrap(), (file(tensor.file), last)] {
        flip(&path, at);
        let err = refused(&["verify", &scene.out], 1, &["E0415"]);
        assert!(err.contains("hash of chunk 0 at byte 0: found "), "{err}");
        refused(&["run", &scene.out, "--prompt-ids", "1,2"], 1, &["E0415"]);
        flip(&path, at);
    }
    let path: PathBuf = file(tensor.file);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let err = refused(&["verify", &scene.out], 1, &["E0415"]);
    assert!(err.contains(", length: found "), "{err}");
    fs::remove_file(&path).unwrap();
    refused(&["verify", &scene.out], 1, &["E0415"]);
    fs::write(&path, whole).unwrap();
    assert_eq!(latentc(&["verify", &scene.out]).exit, 0);
}

#[test]
fn weights_must_lie_in_a_checkpoint() {
    let scene = Scene::new("rand-v2-lite");
    scene.refused(&["--weights", "checkpoint", "--dummy-weights", "1"], 2, &["E0291"]);
    scene.compile(&INSIDE);
    let err = refused(&["verify", &scene.out, "--checkpoint", &scene.model], 1, &["E0506"]);
    assert!(err.contains("`--checkpoint` is given"), "{err}");
}

/// A folder with nothing but a description, made a checkpoint of holes.
fn sparse(config: &Path) -> Scene {
    let scene = Scene::new("rand-v3-fp8");
    for entry in fs::read_dir(&scene.model).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::copy(config, scene.file("config.json")).unwrap();
    sparse::write_weights(Path::new(&scene.model));
    scene
}

/// The bytes that a checkpoint of holes seems to have.
fn apparent_bytes(scene: &Scene) -> u64 {
    let files = fs::read_dir(&scene.model).unwrap().map(|e| e.unwrap().metadata().unwrap());
    let (bytes, on_disk) = files.fold((0, 0), |(b, d), m| (b + m.len(), d + m.blocks() * 512));
    assert!(on_disk < 100 << 20, "{on_disk} of {bytes} bytes on disk");
    bytes
}

/// Compiles a checkpoint of holes as `words` ask; gives the recipe, and the bytes of the result.
fn compile_sparse(scene: &Scene, words: &[&str]) -> (Recipe, u64) {
    let args = ["compile", &scene.model, "-o", &scene.out, "--weights", "checkpoint"];
    let ran = latentc(&[&args, words].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.err.contains("weights stay in "), "{}", ran.err);
    assert_eq!(latentc(&["inspect", &scene.out]).exit, 0);
    (recipe(scene).1, fs::metadata(&scene.out).unwrap().len())
}

#[test]
fn weights_that_stay_take_no_room() {
    let scene = sparse(&root().join("tests/configs/v2-lite-4/config.json"));
    let bytes = apparent_bytes(&scene);
    let (recipe, artifact) = compile_sparse(&scene, &LEAST);
    assert!(bytes > 4 << 30 && artifact < 16 << 20, "{artifact} of {bytes} bytes");
    let moves = |making: &Making| !matches!(making, Making::Stored(_));
    assert!(recipe.weights.iter().filter(|making| moves(making)).count() > 50);
}

/// LATENTC_LONG_TESTS compiles a checkpoint of the shape of DeepSeek-V3, in fp8: with the least
/// code, and as it is done where nothing else is asked for.
#[test]
fn the_largest_shape_takes_little() {
    if std::env::var_os("LATENTC_LONG_TESTS").is_none() {
        return;
    }
    let description = fs::read(root().join("tests/configs/v3/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&description).unwrap();
    config["quantization_config"] = serde_json::json!({
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128],
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let scene = sparse(&path);
    assert!(apparent_bytes(&scene) > 650_000_000_000);
    for words in [&LEAST[..], &[]] {
        let since = Instant::now();
        let (recipe, artifact) = compile_sparse(&scene, words);
        let (took, memory) = (since.elapsed(), greatest_memory());
        println!("{words:?}: {took:.0?}, {memory} bytes of memory, {artifact} of disk");
        assert!(took.as_secs() < 600, "{words:?}: {took:?}");
        assert!(memory < 8_000_000_000, "{words:?}: {memory} bytes");
        assert!(artifact < 2_000_000_000, "{words:?}: {artifact} bytes");
        assert!(recipe.tensors.len() > 80_000 && recipe.files.len() > 100);
    }
}

/// Bytes of memory of the process that had most, of those that this one has waited for.
fn greatest_memory() -> i64 {
    // SAFETY: zeros are a value of it, and the call writes it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    usage.ru_maxrss * 1024
}
