//! `latentc eval`: perplexities beside those that the written logits give.
#![allow(clippy::unwrap_used)]

mod support;

use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;
use support::{LEVEL, Scene, latentc};

const TEXT: &str = "In the beginning God created the heaven and the earth. And the earth was \
                    without form, and void; and darkness was upon the face of the deep.";

/// Mean negative log-likelihood of the tokens after the first, by the logits of each position.
fn nats(ids: &[usize], logits: &[f32]) -> f64 {
    let vocab = logits.len() / ids.len();
    let of = |(row, id): (&[f32], &usize)| {
        let all: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        all.iter().map(|v| (v - all[*id]).exp()).sum::<f64>().ln()
    };
    let each = logits.chunks_exact(vocab).zip(&ids[1..]).map(of);
    each.sum::<f64>() / (ids.len() - 1) as f64
}

#[test]
fn perplexity_is_that_of_the_logits() {
    let scene = Scene::new("tiny-v3-fp8");
    scene.compile(&["-C", LEVEL, "-C", "compute=f32", "-q"]);
    let text = scene.path("text");
    fs::write(&text, TEXT).unwrap();
    let eval = |more: &[&str]| -> Value {
        let all = [&["eval", &scene.out, "--perplexity", &text, "--json"], more].concat();
        let ran = latentc(&all);
        assert_eq!(ran.exit, 0, "{}", ran.err);
        serde_json::from_str(&ran.out).unwrap()
    };
    let tokenizer = generate::tokenize::Tokenizer::from_json(
        &fs::read(scene.file("tokenizer.json")).unwrap(),
        None,
    );
    let ids = tokenizer.unwrap().encode(TEXT, generate::tokenize::Bos::Add).unwrap();
    let (tokens, logits) = (scene.path("ids.json"), scene.path("logits.safetensors"));
    fs::write(&tokens, serde_json::to_string(&[&ids]).unwrap()).unwrap();
    let ran = latentc(&["logits", &scene.out, "--tokens", &tokens, "-o", &logits]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let bytes = fs::read(&logits).unwrap();
    let written = SafeTensors::deserialize(&bytes).unwrap();
    let written = written.tensor("logits.0").unwrap().data();
    let rows = written.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v));
    let ids: Vec<usize> = ids.iter().map(|id| usize::try_from(*id).unwrap()).collect();
    let expected = nats(&ids, &rows.collect::<Vec<f32>>());

    let whole = eval(&[]);
    let found = whole["nats"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-5, "{found}, expected {expected}");
    assert!((whole["perplexity"].as_f64().unwrap().ln() - found).abs() < 1e-9);
    let steps = eval(&["--chunk", "7"])["nats"].as_f64().unwrap();
    assert!((steps / expected - 1.0).abs() < 1e-5, "{steps}, expected {expected}");
    // Less is known of what is predicted in short windows, and another number of tokens is.
    let cut = eval(&["--window", "8"]);
    assert!(cut["nats"].as_f64().unwrap() > found, "{cut}");
    let first = eval(&["--tokens", "9"]);
    assert!(first["tokens"].as_u64().unwrap() <= 9, "{first}");
    let said = latentc(&["eval", &scene.out, "--perplexity", &text]);
    let shown = format!("perplexity {:.4}, give or take ", found.exp());
    assert!(said.out.starts_with(&shown), "{}", said.out);
}
