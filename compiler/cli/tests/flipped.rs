//! Bytes flipped in every part of what a compilation writes: each is refused with its code, and
//! finding that out takes every byte of the weights once.
#![allow(clippy::unwrap_used)]

mod support;

use artifact::format::{FOOTER_BYTES, PAGE, Section};
use artifact::recipe::Recipe;
use artifact::{Location, Reader};
use runtime::{LoadOptions, Model, Session};
use safetensors::{SafeTensors, tensor::TensorView};
use serde_json::json;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{LEVEL, Scene, latentc};

/// Bytes per hash of weights, as the format has it.
const CHUNK: u64 = artifact::format::CHUNK;

/// Loads a file as `verify` does; of one that is refused, the code.
fn load(path: &str) -> Result<Model, &'static str> {
    let options = LoadOptions { check: true, threads: Some(2), ..LoadOptions::default() };
    Model::open(Path::new(path), &options).map_err(|error| error.code())
}

/// A place in a file, what lies there, and codes that say so.
struct Place {
    at: u64,
    what: String,
    codes: &'static [&'static str],
}

/// The first, middle and last byte of a range.
fn ends(range: Range<u64>, what: &str, codes: &'static [&'static str]) -> Vec<Place> {
    let Range { start, end } = range;
    let mut all = vec![start, start + (end - start) / 2, end.saturating_sub(1)];
    all.retain(|at| (start..end).contains(at));
    all.dedup();
    let place = |at| Place { at, what: format!("{what}, byte {}", at - start), codes };
    all.into_iter().map(place).collect()
}

/// Each chunk's ends.
fn chunks(range: Range<u64>, what: &str, codes: &'static [&'static str]) -> Vec<Place> {
    let starts = range.clone().step_by(CHUNK as usize);
    let of = |at: u64| ends(at..(at + CHUNK).min(range.end), &format!("{what} at {at}"), codes);
    starts.flat_map(of).collect()
}

fn number(bytes: &[u8], at: u64) -> u64 {
    u64::from_le_bytes(*bytes[at as usize..].first_chunk().unwrap())
}

/// Places in everything that an artifact has, with or without an executable in front.
fn places(bytes: &[u8]) -> Vec<Place> {
    let reader = Reader::open(bytes).unwrap();
    let end = bytes.len() as u64;
    let footer = end - FOOTER_BYTES;
    let (base, table) = (number(bytes, footer), number(bytes, footer + 8));
    let header = base..base + PAGE;
    let mut used = vec![header.clone(), table..end];
    let mut all = ends(header.start..header.start + 16, "header", &["E0406"]);
    all.extend(ends(header.start + 16..header.end, "rest of the header's page", &["E0406"]));
    for section in reader.sections() {
        let Section { name, location: Location::Here { offset }, .. } = section else { continue };
        let range = *offset..offset + section.bytes;
        all.extend(match section.chunks {
            Some(_) => chunks(range.clone(), name, &["E0408"]),
            None => ends(range.clone(), name, &["E0407"]),
        });
        used.push(range);
    }
    used.sort_by_key(|range| range.start);
    for pair in used.windows(2) {
        all.extend(ends(pair[0].end..pair[1].start, "padding", &["E0406"]));
    }
    let rows = (table..footer).step_by(16);
    all.extend(rows.flat_map(|at| ends(at..at + 1, &format!("table at {at}"), &["E0405"])));
    // Its numbers, hash, version and magic: some contradict the file before any hash is looked at.
    let codes = &["E0401", "E0402", "E0403", "E0404", "E0405", "E0406"];
    all.extend((footer..end).flat_map(|at| ends(at..at + 1, &format!("footer at {at}"), codes)));
    all
}

/// Flips each place of a file in turn; `artifact` must be refused every time, and be whole again at
/// the end.
fn flip_each(path: &Path, artifact: &str, places: &[Place]) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    for Place { at, what, codes } in places {
        let mut byte = [0];
        file.read_exact_at(&mut byte, *at).unwrap();
        for mask in [0x01, 0x80, 0xff] {
            file.write_all_at(&[byte[0] ^ mask], *at).unwrap();
            let found = load(artifact).map(drop);
            let code = found.expect_err(&format!("{what}: accepted with {mask:#x} flipped"));
            assert!(codes.contains(&code), "{what}: {code}, expected one of {codes:?}");
        }
        file.write_all_at(&byte, *at).unwrap();
    }
    load(artifact).unwrap();
}

/// Lengths that a file does not have: one byte less, one more.
fn resize(path: &Path, artifact: &str, codes: &[&str]) {
    let whole = fs::read(path).unwrap();
    for bytes in [&whole[..whole.len() - 1], &[&whole[..], &[0]].concat()] {
        fs::write(path, bytes).unwrap();
        let code = load(artifact).map(drop).expect_err("accepted with another length");
        assert!(codes.contains(&code), "{code}");
    }
    fs::write(path, whole).unwrap();
}

/// A model whose weights take more than one chunk.
fn large() -> Scene {
    let scene = Scene::new("rand-llama");
    fs::remove_file(scene.file("model.safetensors")).unwrap();
    scene.edit(|config| config["vocab_size"] = json!(40_000));
    scene
}

const MADE_UP: [&str; 4] = ["--dummy-weights", "1", "-C", LEVEL];

/// A model as its session begins, when all weights are where kernels find them.
fn begun(path: &str) -> Arc<Model> {
    let model = Arc::new(load(path).unwrap());
    drop(Session::new(model.clone(), 4).unwrap());
    model
}

#[test]
fn every_part_of_an_artifact_counts() {
    let scene = large();
    scene.compile(&MADE_UP);
    let places = places(&fs::read(&scene.out).unwrap());
    let chunks = places.iter().filter(|place| place.what.starts_with("weights at")).count();
    assert!(chunks >= 6, "{chunks} places in the weights' chunks");
    flip_each(Path::new(&scene.out), &scene.out, &places);
    resize(Path::new(&scene.out), &scene.out, &["E0401", "E0402"]);
    let model = begun(&scene.out);
    assert_eq!(model.hashed_bytes(), model.memory().weights_bytes);
}

#[test]
fn every_part_of_an_executable_counts() {
    let scene = Scene::new("rand-llama");
    let words = ["-o", &scene.out, "-C", "backend=cranelift", "-C", LEVEL];
    let ran = latentc(&[&["compile", &scene.model][..], &words].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let places = places(&fs::read(&scene.out).unwrap());
    assert!(places.iter().any(|place| place.what.starts_with("stub")));
    flip_each(Path::new(&scene.out), &scene.out, &places);
    let model = begun(&scene.out);
    assert_eq!(model.hashed_bytes(), model.memory().weights_bytes);
}

#[test]
fn every_part_of_a_weights_file_counts() {
    let scene = large();
    scene.compile(&[&MADE_UP[..], &["--weights", "external"]].concat());
    let weights = PathBuf::from(format!("{}.weights", scene.out));
    let end = fs::metadata(&weights).unwrap().len();
    // Magic, byte order and version are told apart; all else of the page is compared whole.
    let codes = &["E0401", "E0403", "E0404", "E0410"];
    let mut places: Vec<Place> =
        (0..96).flat_map(|at| ends(at..at + 1, &format!("header at {at}"), codes)).collect();
    places.extend(ends(96..PAGE, "rest of the header's page", &["E0410"]));
    places.extend(chunks(PAGE..end, "weights", &["E0408"]));
    flip_each(&weights, &scene.out, &places);
    resize(&weights, &scene.out, &["E0410"]);
    let model = begun(&scene.out);
    assert_eq!(model.hashed_bytes(), model.memory().weights_bytes);
}

/// Adds a tensor that no model needs, so that the file takes more than one chunk.
fn enlarge(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let more = vec![7; CHUNK as usize];
    let shape = vec![more.len()];
    let more = TensorView::new(safetensors::Dtype::U8, shape, &more).unwrap();
    let mut tensors = stored.tensors();
    tensors.push(("unused".to_string(), more));
    let whole = safetensors::serialize(tensors, None).unwrap();
    fs::write(path, whole).unwrap();
}

#[test]
fn every_part_of_a_checkpoint_counts() {
    let scene = Scene::new("rand-llama");
    enlarge(&scene.file("model.safetensors"));
    scene.compile(&["-C", LEVEL, "--weights", "checkpoint"]);
    let bytes = fs::read(&scene.out).unwrap();
    let reader = Reader::open(&bytes).unwrap();
    let recipe = reader.recipe(&reader.plan().unwrap()).unwrap().unwrap();
    let stored = reader.sections().iter().find(|s| s.name == "weights").unwrap().bytes;
    flip_each(Path::new(&scene.out), &scene.out, &places(&bytes));
    for file in &recipe.files {
        let path = scene.file(&file.name);
        let header = 8 + number(&fs::read(&path).unwrap(), 0);
        let mut places = ends(0..8, "length of the header", &["E0415"]);
        places.extend(ends(8..header, "header", &["E0415"]));
        places.extend(chunks(0..file.bytes, "chunk", &["E0415"]));
        places.extend(ends(header..file.bytes, "tensors", &["E0415"]));
        flip_each(&path, &scene.out, &places);
        resize(&path, &scene.out, &["E0415"]);
    }
    let files: u64 = recipe.files.iter().map(|file| file.bytes).sum();
    assert_eq!(begun(&scene.out).hashed_bytes(), files + stored);
    only_weights_are_read(&scene, &recipe);
}

/// The description's bytes mean nothing to an artifact: what it says went into the plan and the
/// code when compiling, and loading reads only files that the recipe names.
fn only_weights_are_read(scene: &Scene, recipe: &Recipe) {
    assert!(recipe.files.iter().all(|file| file.name.ends_with(".safetensors")));
    fs::write(scene.file("config.json"), "{}").unwrap();
    load(&scene.out).unwrap();
}
