//! Rewriting as users meet it in `latentc compile`: its limits, its texts.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use support::{Scene, latentc, refused, root};

/// Compares a compiled model with the results of an independent implementation, token by token.
fn holds_goldens(scene: &Scene, name: &str) {
    let goldens = root().join("tests/goldens").join(name).with_extension("json");
    let ran = latentc(&["verify", &scene.out, "--goldens", goldens.to_str().unwrap(), "--json"]);
    assert_eq!(ran.exit, 0, "{}{}", ran.out, ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let prompts = report["goldens"]["prompts"].as_array().unwrap();
    assert!(!prompts.is_empty());
    for prompt in prompts {
        assert_eq!(prompt["greedy_tokens"], prompt["greedy_equal"], "{prompt}");
    }
    assert_eq!(report["certificate"]["field_check"], "equal");
}

#[test]
fn limits_too_small_to_finish_are_told_and_leave_a_model_that_is_right() {
    for name in ["rand-llama", "rand-v2-lite"] {
        let scene = Scene::new(name);
        for nodes in ["10", "150"] {
            let limit = format!("max-e-nodes={nodes}");
            let ran = scene.compile(&["-C", "compute=f32", "-C", &limit]);
            let told = ran.err.lines().filter(|l| l.starts_with("warning: block @"));
            let told: Vec<&str> = told.filter(|l| l.contains("met its e-node limit")).collect();
            assert!(!told.is_empty(), "{}", ran.err);
            assert!(told.iter().all(|l| l.contains("the best graph found until then is used")));
            holds_goldens(&scene, name);
        }
        let ran = scene.compile(&[]);
        assert!(!ran.err.contains("e-node limit"), "{}", ran.err);
    }
}

#[test]
fn without_laws_a_model_is_right_and_certified() {
    let scene = Scene::new("rand-v2-lite");
    scene.compile(&["-C", "compute=f32", "-C", "exact"]);
    holds_goldens(&scene, "rand-v2-lite");
    scene.compile(&["-C", "compute=f32", "-C", "rules=-associate,-history-inward"]);
    holds_goldens(&scene, "rand-v2-lite");
    let err = refused(&scene.args(&["-C", "rules=-nope"]), 2, &["E0290"]);
    assert!(err.contains("expected -NAME,.. of ") && err.contains("history-inward"), "{err}");
}

#[test]
fn rewritten_graphs_are_shown_for_each_range_of_steps() {
    let scene = Scene::new("rand-v2-lite");
    let stop = |phase: &str, more: &[&str]| {
        let args = ["compile", &scene.model, "--stop-after", phase, "-C", "backend=cranelift"];
        let ran = latentc(&[&args[..], more].concat());
        assert_eq!(ran.exit, 0, "{}", ran.err);
        ran.out
    };
    let (stated, chosen) = (stop("import", &[]), stop("rewrite", &[]));
    for range in ["// decode: steps of 1 row; ", "// prefill: steps of any number of rows; "] {
        assert!(chosen.contains(range), "{chosen}");
    }
    let programs: Vec<&str> = chosen.split("// ").skip(1).collect();
    assert!(programs.len() >= 3);
    // Routed experts: all of them on every token as stated, chosen ones as rewritten.
    for program in programs {
        let (_, text) = program.split_once('\n').unwrap();
        let parsed = ir::graph::parse::parse_program(text).unwrap();
        assert_eq!(parsed.blocks.len(), stated.matches("graph @").count());
        assert!(text.contains("= gather ") && text != stated);
    }
}

#[test]
fn whatever_law_or_limit_is_missing_the_form_can_be_lowered() {
    let laws = latentc(&["compile", "x", "-C", "rules=-none-of-them"]).err;
    let (_, laws) = laws.split_once("expected -NAME,.. of ").unwrap();
    let laws: Vec<&str> = laws.lines().next().unwrap().split(", ").collect();
    assert!(laws.len() > 20, "{laws:?}");
    for name in ["rand-llama", "rand-v2-lite"] {
        let model = root().join("tests/models").join(name);
        let lower = |choice: &str| {
            let model = model.to_str().unwrap();
            let ran = latentc(&["compile", model, "-q", "--stop-after", "lower", "-C", choice]);
            assert_eq!(ran.exit, 0, "{name} -C {choice}: {}", ran.err);
            assert!(ran.out.starts_with("kernel @"));
        };
        laws.iter().for_each(|law| lower(&format!("rules=-{law}")));
        for nodes in [1, 50, 100, 150, 200, 300, 500, 800] {
            lower(&format!("max-e-nodes={nodes}"));
        }
        lower("exact");
    }
}
