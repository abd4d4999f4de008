//! What a compilation says of where its result came from.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{LEVEL, Ran, Scene, latentc, refused};

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
    scene.compile(&["-C", LEVEL]);
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
    scene.compile(&["-C", LEVEL, "--dummy-weights", "3"]);
    let inputs = inspected(&scene.out)["inputs"].clone();
    let bytes = fs::read(Path::new(&scene.model).join("config.json")).unwrap();
    assert_eq!(inputs.as_array().unwrap().len(), 1);
    assert_eq!(inputs[0]["sha256"], sha256(&bytes));
}

#[test]
fn a_manifest_has_the_flags_that_decide_the_file() {
    let scene = Scene::new("rand-llama");
    scene.compile(&["-C", LEVEL, "--threads", "2", "-q"]);
    let usual = json!({"emit": "artifact", "target": "cpu", "weights": "inline"});
    assert_eq!(inspected(&scene.out)["flags"], usual, "no threads, and nothing of what is said");
    scene.compile(&["-C", LEVEL, "--weights", "checkpoint"]);
    assert_eq!(inspected(&scene.out)["flags"]["weights"], "checkpoint");
    let text = latentc(&["inspect", &scene.out]).out;
    assert!(text.contains("\n--emit artifact\n--target cpu\n--weights checkpoint\n"), "{text}");
}

#[test]
fn a_manifest_says_that_weights_are_made_up() {
    let scene = Scene::new("rand-llama");
    let ran = scene.compile(&["-C", LEVEL, "--dummy-weights", "31"]);
    let manifest = inspected(&scene.out);
    assert_eq!(manifest["flags"]["dummy-weights"], "31");
    let warning = "the weights are made up from the seed 31";
    assert_eq!(manifest["warnings"], json!([warning]));
    let text = latentc(&["inspect", &scene.out]).out;
    for text in [ran.err, text] {
        assert!(text.contains(&format!("warning: {warning}\n")), "{text}");
    }
    scene.compile(&["-C", LEVEL]);
    assert_eq!(inspected(&scene.out)["warnings"], json!([]));
}

#[test]
fn a_manifest_names_a_text_that_took_the_place_of_a_phase() {
    let scene = Scene::new("rand-llama");
    for phase in ["graph", "kernel"] {
        let name = format!("edited.{phase}");
        let path = scene.path(&name);
        let text = latentc(&["compile", &scene.model, "--emit", phase]).out + "\n// Edited.\n";
        fs::write(&path, &text).unwrap();
        scene.compile(&["-C", LEVEL, "--from", &path]);
        let manifest = inspected(&scene.out);
        assert_eq!(manifest["flags"]["from"], json!(name));
        let length = text.len();
        let input = json!({"name": name, "bytes": length, "hashed_bytes": length,
            "sha256": sha256(text.as_bytes())});
        let inputs = manifest["inputs"].as_array().unwrap();
        assert_eq!(inputs.iter().filter(|i| i["name"] == json!(name)).count(), 1);
        assert!(inputs.contains(&input), "{inputs:?}");
        assert!(inputs.is_sorted_by_key(|i| i["name"].as_str().unwrap()), "{inputs:?}");
        let ran = latentc(&["verify", &scene.out]);
        assert_eq!(ran.exit, 0, "{}", ran.err);
    }
}

fn statement_of(scene: &Scene) -> String {
    format!("{}.intoto.json", scene.out)
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Compiles with a time given from outside.
fn compile_at(scene: &Scene, time: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
    command.args(scene.args(&["--attest", "-C", LEVEL])).env("SOURCE_DATE_EPOCH", time);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let exit = output.status.code().unwrap();
    Ran { exit, out: text(output.stdout), err: text(output.stderr) }
}

/// Name and digest of each file that a list of a statement has.
fn digests(list: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_string();
    let of = |file: &Value| (text(&file["name"]), text(&file["digest"]["sha256"]));
    list.as_array().unwrap().iter().map(of).collect()
}

fn digest_of(name: &str, path: impl AsRef<Path>) -> (String, String) {
    (name.to_string(), sha256(&fs::read(path).unwrap()))
}

#[test]
fn a_statement_says_what_was_built_of_what() {
    let scene = Scene::new("rand-v3-fp8");
    let ran = scene.compile(&["--attest", "--weights", "external", "-C", LEVEL]);
    assert!(ran.err.contains(&format!("wrote {}\n", statement_of(&scene))), "{}", ran.err);
    let statement = read(&statement_of(&scene));
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let weights = format!("{}.weights", scene.out);
    let built = [digest_of("out", &scene.out), digest_of("out.weights", weights)];
    assert_eq!(digests(&statement["subject"]), built);
    let definition = &statement["predicate"]["buildDefinition"];
    let names: Vec<String> =
        (1..4).map(|i| format!("model-0000{i}-of-000003.safetensors")).collect();
    let names = ["config.json", &names[0], &names[1], &names[2], "model.safetensors.index.json"];
    let inputs = names.map(|name| digest_of(name, scene.file(name)));
    assert_eq!(digests(&definition["resolvedDependencies"]), inputs);
    let parameters = &definition["externalParameters"];
    assert_eq!(parameters["options"], inspected(&scene.out)["options"]);
    let flags = json!({"emit": "artifact", "target": "cpu", "weights": "external"});
    assert_eq!(parameters["flags"], flags);
    let details = &statement["predicate"]["runDetails"];
    assert_eq!(details["builder"]["version"]["latentc"], env!("CARGO_PKG_VERSION"));
    assert_eq!(details.get("metadata"), None, "no time but one that is given");
}

#[test]
fn what_is_not_the_models_is_stated_too() {
    let scene = Scene::new("rand-llama");
    let kernels = scene.path("edited.kernel");
    let text = latentc(&["compile", &scene.model, "--emit", "kernel"]).out;
    fs::write(&kernels, text).unwrap();
    let words = ["compile", &scene.model, "-o", &scene.out, "-C", "backend=cranelift", "-C", LEVEL];
    let more = ["--attest", "--from", &kernels, "--dummy-weights", "7"];
    let ran = latentc(&[&words[..], &more].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let statement = read(&statement_of(&scene));
    let definition = &statement["predicate"]["buildDefinition"];
    let runtime = Path::new(env!("CARGO_BIN_EXE_latentc")).with_file_name("latent-run");
    let inputs = [
        digest_of("config.json", scene.file("config.json")),
        digest_of("edited.kernel", &kernels),
        digest_of("latent-run", runtime),
    ];
    assert_eq!(digests(&definition["resolvedDependencies"]), inputs);
    let flags = &definition["externalParameters"]["flags"];
    assert_eq!((&flags["dummy-weights"], &flags["from"]), (&json!("7"), &json!("edited.kernel")));
    assert_eq!(flags["emit"], "exe");
    let ran = latentc(&["verify", &scene.out, "--attestation", &statement_of(&scene)]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
}

#[test]
fn statements_are_checked() {
    let scene = Scene::new("rand-llama");
    scene.compile(&["--attest", "-C", LEVEL]);
    let statement = statement_of(&scene);
    let ran = latentc(&["verify", &scene.out, "--attestation", &statement]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let (_, config) = digest_of("config.json", scene.file("config.json"));
    assert!(ran.out.contains(&format!("\n  {config}  config.json\n")), "{}", ran.out);
    let ran = latentc(&["verify", &scene.out, "--attestation", &statement, "--json"]);
    let verified: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(verified["attestation"], read(&statement));
    // Another name is none of other bytes.
    let renamed = scene.path("renamed");
    fs::copy(&scene.out, &renamed).unwrap();
    assert_eq!(latentc(&["verify", &renamed, "--attestation", &statement]).exit, 0);
    // A later compilation without a statement leaves one that does not hold of it.
    scene.compile(&["-C", LEVEL, "-C", "compute=f32"]);
    let err = refused(&["verify", &scene.out, "--attestation", &statement], 1, &["E0299"]);
    assert!(err.contains(&digest_of("out", &scene.out).1), "{err}");
    assert_eq!(latentc(&["verify", &renamed, "--attestation", &statement]).exit, 0);
}

#[test]
fn weights_of_another_compilation_are_none_of_the_statement() {
    let scene = Scene::new("rand-llama");
    let compile = |seed: &str| {
        scene.compile(&["--attest", "-C", LEVEL, "--weights", "external", "--dummy-weights", seed]);
        fs::read(statement_of(&scene)).unwrap()
    };
    let (old, new) = (compile("1"), compile("2"));
    let statement = scene.path("statement");
    let verified = |text: &[u8]| {
        fs::write(&statement, text).unwrap();
        latentc(&["verify", &scene.out, "--attestation", &statement]).exit
    };
    assert_eq!((verified(&old), verified(&new)), (1, 0));
    // Of the file alone, the statement does not cover what it runs with.
    let mut half: Value = serde_json::from_slice(&new).unwrap();
    half["subject"].as_array_mut().unwrap().pop().unwrap();
    fs::write(&statement, half.to_string()).unwrap();
    let err = refused(&["verify", &scene.out, "--attestation", &statement], 1, &["E0299"]);
    assert!(err.contains("out.weights"), "{err}");
}

#[test]
fn a_time_is_stated_where_one_is_given() {
    let scene = Scene::new("rand-llama");
    assert_eq!(compile_at(&scene, "86400").exit, 0);
    let times = read(&statement_of(&scene))["predicate"]["runDetails"]["metadata"].clone();
    let day = "1970-01-02T00:00:00Z";
    assert_eq!(times, json!({"startedOn": day, "finishedOn": day}));
    let ran = compile_at(&scene, "yesterday");
    assert_eq!(ran.exit, 2);
    assert!(ran.err.starts_with("E0291\n"), "{}", ran.err);
}
