//! Native code, made by every target and run by the runtime, against logits of an independent
//! implementation.
#![allow(clippy::unwrap_used)]

use compiler::import::{ImportOptions, import};
use compiler::options::{Compute, Options};
use compiler::pack::format::FORMATS;
use generate::engine::Engine;
use generate::logits::Feed;
use tests::goldens::{Prompt, model, prompts, relative_error};
use tests::is_long;
use tests::native::{Built, Levels, Stage, build, greedy, logits};

/// Room for all prompts of a model together, however pages divide them.
const TOKENS: usize = 4096;
/// Models whose rows are of whole blocks, mostly.
const WHOLE: [&str; 4] = ["rand-v2-lite", "rand-v3", "rand-qwen2", "tiny-v3"];

fn f32_options(page_tokens: u32) -> Options {
    Options { compute: Compute::F32, page_tokens, ..Options::default() }
}

/// Worst relative difference of two results, row by row.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>], vocab: usize) -> f64 {
    assert_eq!(a.len(), b.len());
    let rows = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.chunks_exact(vocab).zip(b.chunks_exact(vocab))
    });
    rows.map(|(a, b)| relative_error(a, b)).fold(0.0, |worst, e| if e <= worst { worst } else { e })
}

/// In f32: goldens, greedy tokens, and the same logits however the prompts are fed.
fn exact(name: &str, page_tokens: u32, which: Levels) {
    let built = build(&model(name), None, &f32_options(page_tokens), which);
    let all = prompts(name);
    for way in &built.ways {
        let whole = exact_way(name, &built, way, &all);
        fed_otherwise(name, &built, way, &all, &whole);
    }
}

fn exact_way(name: &str, built: &Built, way: &str, all: &[Prompt]) -> Vec<Vec<f32>> {
    let ids: Vec<Vec<i32>> = all.iter().map(|p| p.ids.clone()).collect();
    let mut engine = built.engine(way, 2, TOKENS);
    let whole = logits(&mut engine, &ids, Feed::Whole);
    let mut worst = 0f64;
    for (i, (prompt, found)) in all.iter().zip(&whole).enumerate() {
        for (row, error) in prompt.errors(found).into_iter().enumerate() {
            assert!(error < 1e-4, "{name}, {way}, prompt {i}, row {row}: {error:e}");
            worst = worst.max(error);
        }
        let sure = &prompt.greedy[..prompt.sure_steps];
        assert!(!sure.is_empty(), "{name}, prompt {i} has sure greedy tokens");
        assert_eq!(greedy(&mut engine, &prompt.ids, sure.len()), sure, "{name}, {way}, {i}");
    }
    println!("{name}, {way}, f32: {worst:.1e}");
    whole
}

/// Chunks, single tokens and batches give what whole prompts give.
fn fed_otherwise(name: &str, built: &Built, way: &str, all: &[Prompt], whole: &[Vec<f32>]) {
    let vocab = all[0].logits[0].len();
    let ids: Vec<Vec<i32>> = all.iter().map(|p| p.ids.clone()).collect();
    let mut engine = built.engine(way, 1, TOKENS);
    assert_eq!(engine.vocab(), vocab);
    // Token by token, which is slow, only as far as two pages of the default size.
    let short = |ids: &[i32]| ids[..ids.len().min(130)].to_vec();
    let begun: Vec<Vec<i32>> = ids.iter().map(|p| short(p)).collect();
    let heads: Vec<Vec<f32>> =
        begun.iter().zip(whole).map(|(p, w)| w[..p.len() * vocab].to_vec()).collect();
    let single = logits(&mut engine, &begun, Feed::Chunked(1));
    let apart = distance(&single, &heads, vocab);
    assert!(apart < 1e-5, "{name}, {way}, token by token: {apart:e}");
    // Steps of other sizes are served by kernels of other tiles: sums in another order.
    let feeds = [Feed::Chunked(7), Feed::Chunked(100), Feed::BatchedChunks(33), Feed::Batched];
    for feed in feeds {
        let apart = distance(&logits(&mut engine, &ids, feed), whole, vocab);
        assert!(apart < 1e-5, "{name}, {way}, {feed:?}: {apart:e}");
    }
}

/// In the default precision.
fn near(name: &str) {
    near_with(name, &Options::default());
}

fn near_by(name: &str, choices: &str) {
    let mut options = Options::default();
    choices.split(' ').for_each(|choice| options.set(choice).unwrap());
    near_with(name, &options);
}

fn near_with(name: &str, options: &Options) {
    let imported = import(&model(name), &ImportOptions::default()).unwrap();
    tests::near::check(name, &imported, Stage::Rewritten, &prompts(name), options);
}

/// What is computed over the context from rounded rows is not rounded once more.
#[test]
fn rounded_states_above_every_choice() {
    for name in ["rand-v3-fp8", "rand-v2"] {
        near_by(name, "bf16x2=all kv-dtype=bf16");
    }
}

/// A model in each format; with more time each model, and other activations beside integers.
#[test]
fn weights_in_every_format() {
    for (format, name) in FORMATS.iter().zip(WHOLE.iter().cycle()) {
        let names = if is_long() { &WHOLE[..] } else { std::slice::from_ref(name) };
        let computes = if is_long() { &["auto", "bf16"][..] } else { &["auto"] };
        for (name, compute) in names.iter().flat_map(|n| computes.iter().map(move |c| (n, c))) {
            near_by(name, &format!("weights={} compute={compute}", format.name));
        }
    }
}

/// Latents as codes, and keys and values of each head.
#[test]
fn states_of_codes() {
    near_by("tiny-v3", "kv-dtype=int8g32");
    near_by("rand-v3", "kv-dtype=int8");
    near_by("rand-v2", "kv-dtype=fp8");
    near_by("rand-qwen2", "kv-dtype=int8");
}

#[test]
fn two_terms_above_every_choice() {
    for name in ["rand-v3-fp8", "rand-v2"] {
        near_by(name, "bf16x2=all");
    }
}

// Each level has its turn in f32; in the default precision all are tried at the best.
macro_rules! models {
    ($($test:ident $near:ident $name:literal $which:expr;)*) => {
        $(
            #[test]
            fn $test() {
                exact($name, 64, $which);
            }

            #[test]
            fn $near() {
                near($name);
            }
        )*
    };
}

models! {
    tiny_v3 tiny_v3_in_bf16 "tiny-v3" Levels::Best;
    tiny_v3_fp8 tiny_v3_fp8_in_bf16 "tiny-v3-fp8" Levels::Best;
    v3 v3_in_bf16 "rand-v3" Levels::in_turn(0);
    v3_fp8 v3_fp8_in_bf16 "rand-v3-fp8" Levels::in_turn(1);
    v2 v2_in_bf16 "rand-v2" Levels::Best;
    v2_lite v2_lite_in_bf16 "rand-v2-lite" Levels::Best;
    llama llama_in_bf16 "rand-llama" Levels::in_turn(3);
    llama_tied llama_tied_in_bf16 "rand-llama-tied" Levels::Best;
    qwen2 qwen2_in_bf16 "rand-qwen2" Levels::in_turn(2);
}

#[test]
fn prompts_over_many_small_pages() {
    exact("rand-v2-lite", 16, Levels::Best);
    exact("rand-llama", 7, Levels::Best);
}
