//! `latentc diff`: right code, wrong code, two files, goldens, and files that it cannot say anything
//! of.
#![allow(clippy::unwrap_used)]

mod support;

use artifact::format::{MANIFEST, PROGRAM};
use serde_json::{Value, json};
use std::fs;
use support::{Scene, latentc, refused, root, section, with_section};

fn ids(scene: &Scene) -> String {
    let path = scene.path("ids.json");
    fs::write(&path, json!([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [7, 7]]).to_string()).unwrap();
    path
}

#[test]
fn right_code_is_within_its_tolerance() {
    let scene = Scene::new("rand-llama");
    scene.compile(&[]);
    let ran = latentc(&["diff", &scene.out, "--tokens", &ids(&scene), "--json"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["divergent"], &report["divergences"]), (&json!(0), &json!([])));
    assert!(report["launches"].as_u64().unwrap() > 50);
    let worst = report["worst"].as_f64().unwrap();
    assert!(0.0 < worst && worst < 1.0, "{worst}");
    let steps: Vec<(u64, u64)> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["rows"].as_u64().unwrap(), s["sequences"].as_u64().unwrap()))
        .collect();
    assert_eq!(steps, [(9, 1), (1, 1), (1, 1), (1, 1), (2, 2)]);
    let ran = latentc(&["diff", &scene.out]);
    assert!(ran.exit == 0 && ran.out.contains("none is beyond its tolerance"), "{}", ran.out);
}

#[test]
fn a_wrong_kernel_is_named_with_its_nodes_and_operands() {
    let scene = Scene::new("rand-llama");
    let text = latentc(&["compile", &scene.model, "--emit", "kernel"]).out;
    // What every norm divides by.
    let wrong = text.replacen("1 / sqrt(", "1 / sqrt(0.1 + ", 1);
    assert_ne!(text, wrong);
    let path = scene.path("wrong.kernel");
    fs::write(&path, wrong).unwrap();
    scene.compile(&["--from", &path]);
    let ran = latentc(&["diff", &scene.out, "--tokens", &ids(&scene)]);
    assert_eq!(ran.exit, 1, "{}", ran.err);
    for told in ["E0273", "beyond their tolerance, the first for @"] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
    for told in ["_row, row{ops = [", "rms_norm", "the interpreter has", "which reads", "    %p0["]
    {
        assert!(ran.out.contains(told), "{told}: {}", ran.out);
    }
}

#[test]
fn files_of_other_options_are_compared_call_by_call() {
    let scene = Scene::new("rand-llama");
    let second = scene.path("second");
    scene.compile(&["-C", "compute=f32", "-C", "page=8"]);
    fs::rename(&scene.out, &second).unwrap();
    scene.compile(&[]);
    let beside = ["diff", &scene.out, "--against", &second, "--tokens", &ids(&scene)];
    let ran = latentc(&[&beside[..], &["--json", "--against-isa", "x86-64-v2"]].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["divergent"], &report["divergences"]), (&json!(0), &json!([])));
    assert_eq!(report["files"][1]["isa"], "x86-64-v2");
    // An embedding, three layers and the head, in five steps.
    assert_eq!(report["calls"], 25);
    assert!(report["values"].as_u64().unwrap() > 100);
    let worst = report["worst"].as_f64().unwrap();
    assert!(0.0 < worst && worst < 1.0, "{worst}");
    let ran = latentc(&beside);
    assert!(ran.exit == 0 && ran.out.contains("none is beyond its tolerance"), "{}", ran.out);
}

#[test]
fn a_wrong_kernel_is_named_beside_a_right_file() {
    let scene = Scene::new("rand-llama");
    let (wrong, right) = (scene.path("wrong.kernel"), scene.path("right"));
    let text = latentc(&["compile", &scene.model, "--emit", "kernel"]).out;
    fs::write(&wrong, text.replacen("1 / sqrt(", "1 / sqrt(0.1 + ", 1)).unwrap();
    scene.compile(&[]);
    fs::rename(&scene.out, &right).unwrap();
    scene.compile(&["--from", &wrong]);
    for (files, name) in [([&scene.out, &right], "first"), ([&right, &scene.out], "second")] {
        let tokens = ids(&scene);
        let ran = latentc(&["diff", files[0], "--against", files[1], "--tokens", &tokens]);
        assert_eq!(ran.exit, 1, "{}", ran.err);
        assert!(ran.err.contains("E0275") && ran.err.contains("call 1, for @"), "{}", ran.err);
        let blamed =
            format!("in the {name} file, the code of a launch is not what its kernel means");
        for told in [&*blamed, "rms_norm", "which reads", "elements are beyond"] {
            assert!(ran.out.contains(told), "{told}: {}", ran.out);
        }
        assert_eq!(ran.out.matches("is not what its kernel means").count(), 1, "{}", ran.out);
    }
}

#[test]
fn goldens_say_which_row_is_off_and_launches_why() {
    let scene = Scene::new("rand-llama");
    scene.compile(&[]);
    let goldens = |name: &str| {
        root().join(format!("tests/goldens/{name}.json")).to_str().unwrap().to_string()
    };
    let beside = |name: &str| latentc(&["diff", &scene.out, "--goldens", &goldens(name), "--json"]);
    let ran = beside("rand-llama");
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["goldens"]["ok"], &report["first"]), (&json!(true), &Value::Null));
    // The goldens are another model's: each launch is what its kernel means.
    let ran = beside("rand-llama-tied");
    assert!(ran.exit == 1 && ran.err.contains("E0619"), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&report["first"]["prompt"], &report["first"]["position"]), (&json!(0), &json!(0)));
    assert_eq!(report["launches"]["divergent"], 0);
    // Every norm is wrong: the launch is named.
    let text = latentc(&["compile", &scene.model, "--emit", "kernel"]).out;
    let wrong = scene.path("wrong.kernel");
    fs::write(&wrong, text.replace("1 / sqrt(", "1 / sqrt(0.1 + ")).unwrap();
    scene.compile(&["--from", &wrong]);
    let ran = beside("rand-llama");
    assert!(ran.exit == 1 && ran.err.contains("E0273"), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(report["first"]["relative_error"].as_f64().unwrap() > 0.03, "{report}");
    assert!(report["launches"]["divergent"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn what_cannot_be_made_again_is_refused() {
    let scene = Scene::new("rand-llama");
    scene.compile(&[]);
    let with = |copy: &str, name: &str, text: Option<&str>| {
        with_section(&scene, copy, name, text.map(str::as_bytes))
    };
    let err = refused(&["diff", &with("none", PROGRAM, None)], 1, &["E0270"]);
    assert!(err.contains("found sections manifest, plan"), "{err}");
    refused(&["diff", &with("cut", PROGRAM, Some("program"))], 1, &["E0271"]);
    let mut manifest: Value = serde_json::from_str(&section(&scene, MANIFEST)).unwrap();
    let mut options = |key: &str, value: &str| {
        manifest["options"][key] = json!(value);
        let path = with(key, MANIFEST, Some(&manifest.to_string()));
        refused(&["diff", &path], 1, &["E0272"])
    };
    let err = options("page", "32");
    assert!(err.contains("is not what latentc") && err.contains("its states differ"), "{err}");
    let err = options("speed", "high");
    assert!(err.contains("found the key `speed`"), "{err}");
    let bad = scene.path("bad.json");
    fs::write(&bad, "[[999999]]").unwrap();
    refused(&["diff", &scene.out, "--tokens", &bad], 1, &["E0515"]);
}
