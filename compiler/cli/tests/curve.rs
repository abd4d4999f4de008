//! `latentc explain --curve`: the picture, its JSON, and that both say where the form changes.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use support::{Scene, elements, latentc, refused, root};

/// Costs within this part of one another are equal.
const EQUAL: f64 = 1e-3;

struct Drawn {
    report: Value,
    svg: String,
}

fn config(name: &str) -> String {
    root().join("tests/configs").join(name).join("config.json").to_str().unwrap().to_string()
}

fn explained(name: &str, more: &[&str]) -> Value {
    let model = config(name);
    let args = ["explain", &model, "--json", "--device", "h100"];
    let ran = latentc(&[&args[..], more].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn drawn(name: &str, step: &[&str]) -> Drawn {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("curve.svg");
    let report = explained(name, &[step, &["--curve", path.to_str().unwrap()]].concat());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    Drawn { report, svg: fs::read_to_string(path).unwrap() }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// What every picture must have of the curves in JSON.
fn agrees(drawn: &Drawn) {
    let Drawn { report, svg } = drawn;
    let all = elements(svg);
    let lines = |class: &str| {
        let class = format!("class=\"{class} ");
        all.iter().filter(|(name, a)| name == "polyline" && a.starts_with(&class)).count()
    };
    let curves = rows(&report["curve"]);
    let keeping = rows(&report["blocks"]).iter().filter(|b| !rows(&b["state"]).is_empty());
    let names: Vec<&Value> = keeping.map(|b| &b["name"]).collect();
    assert_eq!(curves.iter().map(|c| &c["block"]).collect::<Vec<_>>(), names);
    let forms = || curves.iter().flat_map(|c| rows(&c["forms"]));
    assert_eq!(lines("form"), forms().count());
    assert_eq!(lines("chosen"), forms().map(|f| rows(&f["chosen"]).len()).sum::<usize>());
    for form in forms() {
        let name = form["name"].as_str().unwrap();
        assert!(svg.contains(&format!(">{name}")), "{name} is in the legend");
    }
    let switches: Vec<&Value> = curves.iter().flat_map(|c| rows(&c["switches"])).collect();
    let marks = all.iter().filter(|(_, a)| a.starts_with("class=\"switch\"")).count();
    assert_eq!(marks, switches.len());
    for switch in switches {
        assert!(svg.contains(&format!(">{}</text>", switch["tokens"])), "{switch}");
    }
    for told in ["new tokens of a sequence</text>", "time of one call", " us</text>", "ms</text>"] {
        assert!(svg.contains(told), "{told}");
    }
    assert!(svg.contains("prefers-color-scheme: dark"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

/// Checks a curve by itself: each step has one chosen form, and none is cheaper. Gives its switches.
fn switches(curve: &Value, longest: i64) -> Vec<i64> {
    let tokens: Vec<i64> = rows(&curve["tokens"]).iter().map(|t| t.as_i64().unwrap()).collect();
    assert!(tokens[0] == 1 && tokens.last() == Some(&longest) && tokens.is_sorted());
    let forms = rows(&curve["forms"]);
    assert_eq!(forms[0]["name"], "as stated");
    // The source keeps keys and values themselves.
    let kept = |form: &Value| -> f64 {
        rows(&form["state"]).iter().map(|s| number(&s["bytes_per_token"])).sum()
    };
    let (source, forms) = forms.split_first().unwrap();
    assert!(forms.iter().all(|f| kept(f) == kept(&forms[0]) && kept(f) < kept(source)));
    for (at, tokens) in tokens.iter().enumerate() {
        let within = |range: &Value| {
            range[0].as_i64().unwrap() <= *tokens && *tokens <= range[1].as_i64().unwrap()
        };
        let ns = |form: &Value| number(&form["ns"][at]);
        let chosen: Vec<f64> =
            forms.iter().filter(|f| rows(&f["chosen"]).iter().any(within)).map(ns).collect();
        let least = forms.iter().map(ns).fold(f64::INFINITY, f64::min);
        let [chosen] = chosen[..] else { panic!("{tokens}: {chosen:?}") };
        assert_eq!(chosen, least, "{tokens}");
    }
    rows(&curve["switches"]).iter().map(|s| s["tokens"].as_i64().unwrap()).collect()
}

/// Whether rows of the context are made anew.
fn is_expanded(block: &Value) -> bool {
    let of_context = |c: &Value| {
        let extents = c["result"].as_str().unwrap().trim_matches(['[', ']']).to_string();
        let has = |name: &str| extents.split(", ").any(|extent| extent == name);
        has("t") && !has("s")
    };
    rows(&block["contractions"]).iter().any(of_context)
}

#[test]
fn the_switch_is_where_single_steps_have_it() {
    let drawn = drawn("v3", &["--context", "16384"]);
    agrees(&drawn);
    for (nth, curve) in rows(&drawn.report["curve"]).iter().enumerate() {
        let [switch] = switches(curve, 4096)[..] else { panic!("{curve}") };
        let step = |tokens: i64| {
            let tokens = tokens.to_string();
            let report = explained("v3", &["--context", "16384", "--tokens", &tokens]);
            let mut blocks = rows(&report["blocks"]).iter();
            let block = blocks.find(|b| b["name"] == curve["block"]).unwrap();
            (is_expanded(block), number(&block["cost_ns"]["chosen"]))
        };
        let (after, ns) = step(switch);
        assert!(after && (number(&curve["switches"][0]["ns"]) / ns - 1.0).abs() < EQUAL, "{ns}");
        // Of layers with experts, other forms cost the same but for a trifle there.
        let before = if nth == 0 { switch - 1 } else { switch * 98 / 100 };
        assert!(!step(before).0);
    }
}

/// The plan has one form for all blocks at once, and contexts by ranges: at the end of a range it
/// changes where the layers with experts do, which are most; others do a little earlier or later.
#[test]
fn the_plan_changes_its_form_there_too() {
    for context in [1024, 8192, 65536] {
        // As many sequences as the plan's steps of so many new tokens have.
        let context_text = context.to_string();
        let step = ["--context", &context_text, "--batch", if context == 1024 { "3" } else { "2" }];
        let report = drawn("v3", &step).report;
        let block = rows(&report["blocks"]).iter().find(|b| b["name"] == "expert").unwrap();
        let mut ranges = rows(&block["buckets"]).iter();
        let range = ranges.find(|b| b["context"]["to"] == context && b["tokens"]["from"] != 1);
        let planned = number(&range.unwrap()["tokens"]["from"]);
        for curve in rows(&report["curve"]) {
            let [switch] = switches(curve, 4096.min(context))[..] else { panic!("{curve}") };
            let near = if curve["block"] == "expert" { 0.03 } else { 0.1 };
            assert!((switch as f64 / planned - 1.0).abs() < near, "{switch} and {planned}");
        }
    }
}

/// Keys of GLM-5 are narrower than its values, and expanded earlier: between lies a third form, which
/// saves little.
#[test]
fn each_form_is_a_line_beside_the_source() {
    for (gain, forms) in [("form-gain=10", 2), ("form-gain=1", 3)] {
        let drawn = drawn("glm5", &["--context", "131072", "-C", gain]);
        agrees(&drawn);
        let curve = &rows(&drawn.report["curve"])[0];
        let lines = (rows(&curve["forms"]).len(), switches(curve, 4096).len());
        assert_eq!(lines, (forms + 1, forms - 1), "{gain}");
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let scene = Scene::new("rand-v2-lite");
    let svg = scene.path("curve.svg");
    let err = refused(&["explain", &scene.model, "--curve", "/nowhere/c.svg"], 2, &["E0291"]);
    assert!(err.contains("found no folder /nowhere"), "{err}");
    scene.compile(&[]);
    let err = refused(&["explain", &scene.out, "--curve", &svg], 2, &["E0291"]);
    assert!(err.contains("found --curve with what was compiled"), "{err}");
    // A step of one token alone has one place.
    let ran = latentc(&["explain", &scene.model, "--curve", &svg]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let text = fs::read_to_string(svg).unwrap();
    elements(&text);
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
}
