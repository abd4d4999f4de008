//! What formats of weights, activations and the KV cache cost: the perplexity of a small model that
//! was trained.

use compiler::options::Options;
use generate::engine::{LoadOptions, Model, ModelEngine};
use generate::perplexity::{Windows, score};
use generate::tokenize::{Bos, Tokenizer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tests::is_long;
use tests::native::{Levels, build};

/// Choices, and the most that perplexity may grow by.
const FORMATS: [(&str, f64); 15] = [
    ("weights=int8", 0.005),
    ("weights=int4", 0.06),
    ("weights=fp8", 0.01),
    ("weights=mxfp4", 0.06),
    ("kv-dtype=int8", 0.005),
    ("weights=int8 compute=bf16", 0.005),
    ("weights=int4 compute=bf16", 0.06),
    ("weights=f16", 0.001),
    ("weights=int8g32 compute=bf16", 0.005),
    ("weights=int8g32", 0.005),
    ("weights=int4g64 compute=bf16", 0.06),
    ("weights=int4g64", 0.06),
    ("weights=int4e8m0", 0.06),
    ("kv-dtype=int8g32", 0.005),
    ("kv-dtype=fp8", 0.01),
];
/// How many of them are tried where time is short, and on how many tokens.
const FEW: (usize, usize) = (5, 6000);
/// Tokens of a window: of those that the model was trained on.
const WINDOW: usize = 512;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn windows(model: &Path) -> Windows {
    let read = |path: PathBuf| std::fs::read(path).expect("a file of the project");
    let config = read(model.join("tokenizer_config.json"));
    let tokenizer = Tokenizer::from_json(&read(model.join("tokenizer.json")), Some(&config));
    let tokenizer = tokenizer.expect("a tokenizer");
    let text = String::from_utf8(read(root().join("tests/texts/kjv-validation.txt")));
    let mut tokens = tokenizer.encode(&text.expect("UTF-8"), Bos::AsWritten).expect("tokens");
    tokens.truncate(if is_long() { usize::MAX } else { FEW.1 });
    Windows::new(tokenizer.prefix(), &tokens, WINDOW).expect("tokens to predict")
}

fn perplexity(model: &Path, windows: &Windows, choices: &str) -> f64 {
    let mut options = Options::default();
    choices.split(' ').for_each(|choice| options.set(choice).expect("a choice"));
    let built = build(model, None, &options, Levels::Best);
    let model = Arc::new(Model::open(&built.path, &LoadOptions::default()).expect("a model"));
    let mut engine = ModelEngine::new(&model, windows.length()).expect("a session");
    score(&mut engine, windows, WINDOW, &mut |_| {}).expect("a score").perplexity()
}

#[test]
fn perplexity_grows_little() {
    let model = root().join("examples/models/tiny-v3");
    let windows = windows(&model);
    let exact = perplexity(&model, &windows, "compute=f32");
    let count = if is_long() { FORMATS.len() } else { FEW.0 };
    for (choices, bound) in &FORMATS[..count] {
        let found = perplexity(&model, &windows, choices);
        let growth = found / exact - 1.0;
        println!("{choices}: perplexity {found:.4}, in f32 {exact:.4}: {:.2} %", 100.0 * growth);
        assert!(growth < *bound, "{choices}: {found} of {exact}");
    }
}
