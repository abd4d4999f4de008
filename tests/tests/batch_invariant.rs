//! With `-C batch-invariant`, a token's logits are the same to the last bit however it is fed:
//! with its prompt or alone, beside others or not, by any number of threads, in any code.
#![allow(clippy::unwrap_used)]

use compiler::options::{Compute, Options};
use generate::engine::Engine;
use generate::logits::Feed;
use tests::goldens::model;
use tests::is_long;
use tests::native::{Built, Levels, build, logits};

/// Lengths of prompts: around the rows of tiles and of pages, and beyond the first part of a
/// context that is divided.
const LENGTHS: [usize; 5] = [1, 9, 65, 130, 600];
/// Room for all of them together.
const TOKENS: usize = 2048;

/// Ways to feed prompts whose steps have other rows, other neighbours and other ends.
const FEEDS: [Feed; 5] = [
    Feed::Chunked(1),
    Feed::Chunked(7),
    Feed::Chunked(200),
    Feed::BatchedChunks(1),
    Feed::BatchedChunks(33),
];

fn prompts(vocab: usize) -> Vec<Vec<i32>> {
    let id = |prompt: usize, at: usize| ((prompt * 7919 + at * 104_729) % vocab) as i32;
    LENGTHS.iter().enumerate().map(|(i, n)| (0..*n).map(|at| id(i, at)).collect()).collect()
}

/// How many bits of logits differ from those of whole prompts, by way and feed.
fn differing(built: &Built, way: &str) -> Vec<String> {
    let mut engine = built.engine(way, 2, TOKENS);
    let prompts = prompts(engine.vocab());
    let whole = logits(&mut engine, &prompts, Feed::Whole);
    let mut found = vec![];
    for (feed, threads) in FEEDS.into_iter().zip([1, 2, 3].into_iter().cycle()) {
        let fed = logits(&mut built.engine(way, threads, TOKENS), &prompts, feed);
        for (prompt, (a, b)) in whole.iter().zip(&fed).enumerate() {
            assert_eq!(a.len(), b.len());
            let unlike = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            if unlike > 0 {
                let all = a.len();
                found.push(format!("{way}, {feed:?}: prompt {prompt}: {unlike} of {all} differ"));
            }
        }
    }
    found
}

fn check(name: &str, options: &Options) {
    let which = if is_long() { Levels::All } else { Levels::Best };
    let options = Options { batch_invariant: Some(true), ..options.clone() };
    let built = build(&model(name), None, &options, which);
    let found: Vec<String> = built.ways.iter().flat_map(|way| differing(&built, way)).collect();
    assert!(found.is_empty(), "{name}:\n{}", found.join("\n"));
}

#[test]
fn latent_attention_and_experts() {
    check("rand-v3-fp8", &Options::default());
}

#[test]
fn grouped_queries() {
    check("rand-qwen2", &Options::default());
}

#[test]
fn small_pages() {
    check("rand-llama", &Options { page_tokens: 7, ..Options::default() });
}

#[test]
fn activations_as_codes() {
    let mut options = Options::default();
    options.set("weights=int4").expect("a format");
    check("rand-v2-lite", &options);
}

#[test]
fn every_model_in_both_precisions() {
    if !is_long() {
        return;
    }
    for name in ["rand-v2", "rand-v2-lite", "rand-v3", "rand-llama-tied", "tiny-v3"] {
        for compute in [Compute::Bf16, Compute::F32] {
            check(name, &Options { compute, ..Options::default() });
        }
    }
}

/// What the option is for: without it, steps of other sizes give other bits. Threads never do.
#[test]
fn otherwise_bits_follow_the_step() {
    let options = Options { batch_invariant: Some(false), ..Options::default() };
    let built = build(&model("rand-v3-fp8"), None, &options, Levels::Best);
    assert!(built.ways.iter().any(|way| !differing(&built, way).is_empty()));
    for way in &built.ways {
        for feed in [Feed::Whole, Feed::BatchedChunks(33)] {
            let [one, two, three] = [1, 2, 3].map(|threads| {
                let mut engine = built.engine(way, threads, TOKENS);
                let prompts = prompts(engine.vocab());
                let all = logits(&mut engine, &prompts, feed).concat();
                all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
            assert!(one == two && one == three, "{way}, {feed:?}: threads change bits");
        }
    }
}
