//! What a compilation says of where its result came from.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Scene, latentc};

/// The SHA-256 digest of some bytes, by another program.
fn sha256(bytes: &[u8]) -> String {
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    out.split(' ').next().unwrap().to_string()
}

/// The header of a file of tensors, its length with it.
fn header(bytes: &[u8]) -> &[u8] {
    &bytes[..8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize]
}

fn inspected(file: &str) -> Value {
    let ran = latentc(&["inspect", file, "--json"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn a_manifest_names_what_was_read_by_hash() {
    let scene = Scene::new("tiny-v3-fp8");
    scene.compile(&["-C", "isa=x86-64-v2"]);
    let inputs = inspected(&scene.out)["inputs"].clone();
    let names = ["config.json", "generation_config.json", "model-00001-of-000002.safetensors"];
    let more = ["model-00002-of-000002.safetensors", "model.safetensors.index.json"];
    let names = [&names[..], &more, &["tokenizer.json", "tokenizer_config.json"]].concat();
    let found: Vec<&str> =
        inputs.as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(found, names, "all but README.md, which is not read");
    for input in inputs.as_array().unwrap() {
        let name = input["name"].as_str().unwrap();
        let bytes = fs::read(scene.file(name)).unwrap();
        let hashed = if name.ends_with(".safetensors") { header(&bytes) } else { &bytes };
        assert_eq!(input["bytes"], bytes.len(), "{name}");
        assert_eq!(input["hashed_bytes"], hashed.len(), "{name}");
        assert_eq!(input["sha256"], sha256(hashed), "{name}");
    }
    let text = latentc(&["inspect", &scene.out]).out;
    let index = inputs[4]["sha256"].as_str().unwrap();
    assert!(text.contains(&format!("sha256 {index}\n")), "{text}");
    assert!(text.contains("sha256 of its header"), "{text}");
}

#[test]
fn made_up_weights_leave_the_description_as_the_one_input() {
    let scene = Scene::new("rand-llama");
    scene.compile(&["-C", "isa=x86-64-v2", "--dummy-weights", "3"]);
    let inputs = inspected(&scene.out)["inputs"].clone();
    let bytes = fs::read(Path::new(&scene.model).join("config.json")).unwrap();
    assert_eq!(inputs.as_array().unwrap().len(), 1);
    assert_eq!(inputs[0]["sha256"], sha256(&bytes));
}
