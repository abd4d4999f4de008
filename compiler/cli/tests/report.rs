//! `latentc report`: a page that holds everything, and says what `bench` and `explain` say.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use support::{Scene, elements, latentc};

/// What a command prints as JSON.
fn json(args: &[&str]) -> Value {
    let ran = latentc(args);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn the_page_shows_kernels_memory_and_graphs() {
    let scene = Scene::new("rand-v2-lite");
    scene.compile(&[]);
    let page = scene.path("page.html");
    let measure = ["--prompt-tokens", "40", "--gen-tokens", "4", "--repeat", "1", "--threads", "1"];
    let ran = latentc(&[&["report", &scene.out, "-o", &page], &measure[..]].concat());
    assert_eq!((ran.exit, ran.out.as_str()), (0, ""), "{}", ran.err);
    let text = fs::read_to_string(page).unwrap();
    let all = elements(text.strip_prefix("<!DOCTYPE html>").unwrap());
    let count = |name: &str, class: &str| {
        let class = format!("class=\"{class}");
        all.iter().filter(|(n, a)| n == name && a.contains(&class)).count()
    };

    let bench = json(&[&["bench", &scene.out, "--json"], &measure[..]].concat());
    let kernels = |key: &str| bench[key].as_array().unwrap().clone();
    let ran = [kernels("kernels"), kernels("prefill_kernels")].concat();
    for kernel in &ran {
        let name = kernel["name"].as_str().unwrap();
        assert!(text.contains(&format!(">{name}<br/>")), "{name}");
    }
    assert_eq!(text.matches("<br/>").count(), ran.len(), "a row for each kernel that ran");
    let multiply = ran.iter().filter(|k| k["flops"].as_u64() > Some(0)).count();
    assert_eq!((count("polyline", "roof"), count("circle", "dot")), (2, multiply));
    assert!(count("rect", "area") > ran.len(), "buffers of both steps");

    let explained = json(&["explain", &scene.out, "--json"]);
    let forms = explained["blocks"].as_array().unwrap().clone();
    assert_eq!(text.matches("<pre>").count(), 2 * forms.len());
    for form in forms {
        let name = form["name"].as_str().unwrap();
        assert!(text.contains(&format!("<code>@{name}</code>")), "{name}");
    }
    for stray in ["NaN", "inf ", "http:", "https:", "src="] {
        assert!(!text.contains(stray), "{stray}");
    }
}
