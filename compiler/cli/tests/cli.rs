//! `latentc` as its users meet it: the built binary, on whole and on damaged input.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Scene, latentc, root};

#[test]
fn help_needs_no_model() {
    let ran = latentc(&["compile", "-C", "help"]);
    assert_eq!(ran.exit, 0);
    assert!(ran.out.contains("-C compute=auto|bf16|f32"), "{}", ran.out);
    assert_eq!(latentc(&["--version"]).exit, 0);
    assert!(latentc(&["compile", "--help"]).out.contains("--dummy-weights"));
}

#[test]
fn ops_are_listed() {
    let ran = latentc(&["ops"]);
    assert_eq!(ran.exit, 0);
    assert!(ran.out.contains("gather x, rows [where mask] {index}\n    x with"), "{}", ran.out);
    let names = ran.out.lines().filter(|l| !l.starts_with(' ')).count();
    assert_eq!(names, ir::ops::ALL.len());
}

/// Rust files below the crates' `src` folders.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let skipped = ["target", "tests", "benches"].contains(&name) || name.starts_with('.');
        if path.is_dir() && !skipped {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// Codes in string literals of a text.
fn codes_in(text: &str) -> BTreeSet<String> {
    let is_code = |s: &&str| {
        s.len() == 5 && s.starts_with("E0") && s[1..].bytes().all(|b| b.is_ascii_digit())
    };
    text.split('"').filter(is_code).map(String::from).collect()
}

#[test]
fn every_code_is_listed_once_and_no_other() {
    let ran = latentc(&["ops", "--errors"]);
    assert_eq!(ran.exit, 0);
    let rows = ran.out.lines().filter_map(|l| l.strip_prefix("  "));
    let listed: Vec<(&str, &str)> = rows.map(|r| r.split_once("  ").unwrap()).collect();
    assert!(listed.iter().all(|(_, meaning)| meaning.len() > 5), "{}", ran.out);
    let unique: BTreeSet<String> = listed.iter().map(|r| r.0.to_string()).collect();
    assert_eq!(unique.len(), listed.len(), "{}", ran.out);

    let mut files = vec![];
    sources(&root(), &mut files);
    let mut used = BTreeSet::new();
    for file in files {
        if !cfg!(feature = "llvm") && file.components().any(|c| c.as_os_str() == "llvm") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        used.extend(codes_in(text.split("\n#[cfg(test)]").next().unwrap()));
    }
    assert!(used.len() > 100);
    assert_eq!(used, unique);
}

#[test]
fn a_text_may_go_to_a_device() {
    let scene = Scene::new("rand-llama");
    let ran = latentc(&["compile", &scene.model, "--emit", "graph", "-o", "/dev/stdout"]);
    assert!(ran.exit == 0 && ran.out.contains("graph @"), "{}", ran.err);
    assert!(fs::metadata("/dev/null").is_ok_and(|m| !m.is_file()));
}

#[test]
fn mistakes_in_texts_are_shown_where_they_are_all_at_once() {
    let scene = Scene::new("rand-llama");
    let text = |kind: &str| {
        let ran = latentc(&["compile", &scene.model, "--emit", kind]);
        assert_eq!(ran.exit, 0, "{}", ran.err);
        ran.out
    };
    let (graph, kernel) = (scene.path("m.graph"), scene.path("m.kernel"));
    let whole = text("graph");
    fs::write(&graph, whole.replace("= rms_norm", "= rmsnorm")).unwrap();
    let count = whole.matches("= rms_norm").count();
    let err = scene.refused(&["--from", &graph], 1, &vec!["E0102"; count]);
    let line = 1 + whole.lines().position(|l| l.contains("= rms_norm")).unwrap();
    assert!(err.contains(&format!("m.graph:{line}:")) && err.contains("^^^^^^^"), "{err}");

    let whole = text("kernel");
    fs::write(&kernel, whole.replacen("= mma", "= mmm", 2)).unwrap();
    let err = scene.refused(&["--from", &kernel], 1, &["E0101", "E0101"]);
    assert!(err.contains("found `mmm`"), "{err}");
    for (content, code) in [("", "E0294"), (&*whole.replacen("kernel @", "kernel @x", 1), "E0294")]
    {
        fs::write(&kernel, content).unwrap();
        scene.refused(&["--from", &kernel], 1, &[code]);
    }
    // A name is shown where a kernel has it, not where a comment does.
    let name = whole.split(['@', ' ']).nth(2).unwrap();
    let renamed = format!("// @renamed was @{name}\nkernel @renamed ");
    fs::write(&kernel, whole.replacen(&format!("kernel @{name} "), &renamed, 1)).unwrap();
    let err = scene.refused(&["--from", &kernel], 1, &["E0294"]);
    assert!(err.contains("m.kernel:2:8"), "{err}");
    fs::write(&graph, [0xff, 0xfe, 0]).unwrap();
    scene.refused(&["--from", &graph], 1, &["E0292"]);
    scene.refused(&["--from", "/nowhere/m.graph"], 1, &["E0292"]);
    // What was printed is taken again.
    fs::write(&kernel, whole).unwrap();
    scene.compile(&["--from", &kernel]);
}

#[test]
fn a_compilation_stops_where_it_is_told_to() {
    let scene = Scene::new("rand-llama");
    let stopped = |phase: &str, emit: &str| {
        let args = ["compile", &scene.model, "-C", "backend=cranelift"];
        let ran = latentc(&[&args[..], &["--stop-after", phase, "--emit", emit]].concat());
        assert_eq!(ran.exit, 0, "{}", ran.err);
        ran.out
    };
    for emit in ["exe", "asm", "llvm-ir"] {
        assert!(stopped("import", emit).contains("graph @"), "{emit}");
        assert!(stopped("lower", emit).starts_with("kernel @"), "{emit}");
    }
}

#[test]
fn a_model_without_tokenizer_runs_on_ids() {
    let scene = Scene::new("rand-llama");
    let ran = scene.compile(&[]);
    assert!(ran.err.contains("warning: no tokenizer.json"), "{}", ran.err);
    assert!(ran.err.contains("needs: ") && ran.err.contains("result: "), "{}", ran.err);
    let ran = latentc(&["run", &scene.out, "--prompt-ids", "1,2,3", "--max-tokens", "4"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert_eq!(ran.out.split_whitespace().count(), 4, "{}", ran.out);
}

#[test]
fn quiet_says_nothing() {
    let scene = Scene::new("rand-llama");
    let ran = scene.compile(&["--quiet"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("", ""));
    assert!(Path::new(&scene.out).is_file());
}

/// A command that takes signals as it would from a terminal, whatever this test ignores.
const BY_DEFAULT: [&str; 2] = ["env", "--default-signal"];

/// A command that writes for a while, and what it has begun to write.
fn begun(scene: &Scene, words: &[&str]) -> (Child, PathBuf) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let is_begun = |p: &PathBuf| p.to_str().is_some_and(|p| p.ends_with(".tmp"));
    loop {
        if let Some(path) = scene.names().into_iter().find(is_begun) {
            return (child, path);
        }
        assert_eq!(child.try_wait().unwrap(), None, "it ended too soon");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Token ids of a model that takes a while to write, and of one that takes far longer than a signal.
const MANY: u32 = 300_000;
const FAR_TOO_MANY: u32 = 10 * MANY;

/// A compilation that writes for a while.
fn begun_compilation(scene: &Scene, vocab: u32, wrapper: &[&str]) -> (Child, PathBuf) {
    fs::remove_file(scene.file("model.safetensors")).unwrap();
    scene.edit(|c| c["vocab_size"] = json!(vocab));
    let args = scene.args(&["--dummy-weights", "1", "--threads", "1"]);
    begun(scene, &[wrapper, &[env!("CARGO_BIN_EXE_latentc")], &args].concat())
}

fn send(signal: &str, child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

#[test]
fn an_interrupted_compilation_leaves_what_was_there() {
    let old = || Some(b"old".to_vec());
    for (signal, status, was) in
        [("-INT", 130, None), ("-INT", 130, old()), ("-TERM", 143, old()), ("-HUP", 129, old())]
    {
        let scene = Scene::new("rand-llama");
        was.iter().for_each(|bytes| fs::write(&scene.out, bytes).unwrap());
        let (mut child, path) = begun_compilation(&scene, FAR_TOO_MANY, &BY_DEFAULT);
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        assert!(!path.exists() && fs::read(&scene.out).ok() == was, "{signal}");
    }
    // Whoever had it ignore the loss of the terminal wants it to go on.
    let scene = Scene::new("rand-llama");
    let (mut child, _) = begun_compilation(&scene, MANY, &["nohup"]);
    send("-HUP", &child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(Path::new(&scene.out).is_file());
}

/// So does one that has not begun to write: at first, and when it has said what is to come, which is
/// code to be compiled.
#[test]
fn a_compilation_interrupted_early_leaves_what_was_there() {
    let scene = Scene::new("rand-v3");
    fs::write(&scene.out, "old").unwrap();
    let before = scene.names();
    let words = [&BY_DEFAULT[1..], &[env!("CARGO_BIN_EXE_latentc")], &scene.args(&[])].concat();
    for (lines, signal) in [(0, "-INT"), (1, "-INT"), (1, "-TERM")] {
        let mut command = Command::new(BY_DEFAULT[0]);
        let mut child = command.args(&words).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(said.by_ref().take(lines).count(), lines);
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), None, "{signal} after {lines} lines");
        let left = (fs::read(&scene.out).unwrap(), scene.names());
        assert_eq!(left, (b"old".to_vec(), before.clone()), "{signal} after {lines} lines");
    }
}

#[test]
fn interrupted_logits_leave_nothing() {
    let scene = Scene::new("rand-llama");
    scene.compile(&[]);
    let (ids, out) = (scene.path("ids.json"), scene.path("logits.safetensors"));
    fs::write(&ids, json!(vec![vec![1; 1024]; 100]).to_string()).unwrap();
    let own = env!("CARGO_BIN_EXE_latentc");
    let [env, signals] = BY_DEFAULT;
    let words =
        [env, signals, own, "logits", &scene.out, "--tokens", &ids, "-o", &out, "--chunk", "1"];
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let (mut child, path) = begun(&scene, &words);
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal}");
        assert!(!path.exists() && !Path::new(&out).exists(), "{signal}");
    }
}

#[test]
fn damaged_artifacts_are_refused() {
    let scene = Scene::new("rand-llama");
    scene.compile(&[]);
    let whole = fs::read(&scene.out).unwrap();
    let damaged = scene.path("damaged");
    let run = |bytes: &[u8]| {
        fs::write(&damaged, bytes).unwrap();
        let ran = latentc(&["run", &damaged, "--prompt-ids", "1", "--max-tokens", "1"]);
        assert_eq!(ran.exit, 1, "{}", ran.err);
        assert!(ran.err.starts_with("E04") && ran.err.contains("\n  help: "), "{}", ran.err);
    };
    for place in 0..16 {
        let mut bytes = whole.clone();
        let at = place * (whole.len() - 1) / 15;
        bytes[at] ^= 0x55;
        run(&bytes);
        run(&whole[..at]);
    }
}

#[test]
fn external_weights_are_found_beside_the_file() {
    let scene = Scene::new("rand-llama");
    let ran = scene.compile(&["--weights", "external"]);
    let weights = format!("{}.weights", scene.out);
    assert!(ran.err.contains(&weights), "{}", ran.err);
    let run = || latentc(&["run", &scene.out, "--prompt-ids", "1,2", "--max-tokens", "2"]);
    assert_eq!(run().exit, 0);
    fs::rename(&weights, scene.path("elsewhere")).unwrap();
    let ran = run();
    assert_eq!(ran.exit, 1);
    assert!(ran.err.contains(".weights") && ran.err.contains("\n  help: "), "{}", ran.err);
}

#[test]
fn a_lone_config_compiles_with_made_up_weights() {
    let scene = Scene::new("rand-qwen2");
    fs::remove_file(scene.file("model.safetensors")).unwrap();
    let err = scene.refused(&[], 1, &["E0201"]);
    assert!(err.contains("--dummy-weights"), "{err}");
    let ran = scene.compile(&["--dummy-weights", "7", "-C", "context=999999"]);
    assert!(ran.err.contains("context=999999 is more than the model has"), "{}", ran.err);
}

/// A copy of rand-v3's goldens, with a change to each prompt's description.
fn goldens(scene: &Scene, to: &str, change: impl Fn(&mut Map<String, Value>)) -> String {
    let from = root().join("tests/goldens/rand-v3");
    let (json, tensors) = (scene.path(to) + ".json", scene.path(to) + ".safetensors");
    fs::copy(from.with_extension("safetensors"), tensors).unwrap();
    let text = fs::read(from.with_extension("json")).unwrap();
    let mut all: Value = serde_json::from_slice(&text).unwrap();
    for prompt in all["prompts"].as_array_mut().unwrap() {
        change(prompt.as_object_mut().unwrap());
    }
    fs::write(&json, all.to_string()).unwrap();
    json
}

#[test]
fn goldens_are_held_to_the_models_precision() {
    let scene = Scene::new("rand-v3");
    let own = goldens(&scene, "own", |_| {});
    let verify =
        |more: &[&str]| latentc(&[&["verify", &*scene.out, "--goldens", &own], more].concat());
    scene.compile(&["-C", "bf16x2=none"]);
    let ran = verify(&["--json"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let all = &serde_json::from_str::<Value>(&ran.out).unwrap()["goldens"];
    assert_eq!((&all["precision"], &all["ok"]), (&json!("bf16"), &json!(true)));
    assert!(all["median"].as_f64().unwrap() < 0.02, "{all}");
    // A row of the prompt of 64 goes to other experts, and is what excuses are for.
    let prompt = &all["prompts"][2];
    assert!(!prompt["excused_positions"].as_array().unwrap().is_empty(), "{prompt}");
    assert!(prompt["max_relative_error"].as_f64().unwrap() > 0.1);
    let ran = verify(&[]);
    assert!(ran.exit == 0 && ran.out.contains("\nexcused: "), "{}", ran.out);
    assert_eq!(verify(&["--tolerance=-1"]).exit, 2);

    // Without a choice that is close there is no excuse.
    let wide = goldens(&scene, "wide", |p| drop(p.remove("choice_gaps_prompt")));
    let ran = latentc(&["verify", &scene.out, "--goldens", &wide]);
    assert_eq!(ran.exit, 1, "{}", ran.out);
    assert!(ran.err.starts_with("E0619\n") && ran.err.contains(" of 5 golden prompts "));

    scene.compile(&["-C", "compute=f32"]);
    let ran = verify(&["--json"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let all = &serde_json::from_str::<Value>(&ran.out).unwrap()["goldens"];
    assert_eq!((&all["precision"], &all["tolerance"]), (&json!("f32"), &json!(0.001)));
    let compared = |p: &Value| p["greedy_tokens"] == json!(48) && p["greedy_equal"] == json!(48);
    assert!(all["prompts"].as_array().unwrap().iter().all(compared), "{all}");
}

#[test]
fn the_interpreter_writes_logits() {
    let scene = Scene::new("rand-llama");
    let (ids, out) = (scene.path("ids.json"), scene.path("logits.safetensors"));
    fs::write(&ids, "[[1, 2, 3]]").unwrap();
    let args = ["logits", &scene.model, "--interpret", "--tokens", &ids, "-o", &out];
    assert_eq!(latentc(&args).exit, 0);
    assert!(Path::new(&out).is_file());
}
