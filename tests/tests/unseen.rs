//! Models that nobody made: the families with other numbers and made-up weights, native code
//! against the graph interpreter.
#![allow(clippy::unwrap_used)]

use compiler::import::{ImportOptions, Imported, import};
use compiler::options::{Compute, Options};
use generate::logits::Feed;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tests::goldens::{Prompt, model};
use tests::native::{Levels, build_imported, logits};
use tests::near;
use tests::reference::Reference;

/// Lengths of the prompts.
const LENGTHS: [usize; 3] = [1, 7, 70];
/// Relative error allowed at each position.
const BOUND: f64 = 1e-4;

/// The config of a model with other values for some keys; null removes a key.
fn config(dir: &Path, base: &str, changes: &Value) -> PathBuf {
    let text = std::fs::read_to_string(model(base).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(map.remove(key)),
            value => drop(map.insert(key.clone(), value.clone())),
        }
    }
    let path = dir.join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn check(base: &str, changes: Value, page_tokens: u32, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let path = config(dir.path(), base, &changes);
    let options = ImportOptions { dummy_weights: Some(seed), ..ImportOptions::default() };
    let imported = import(&path, &options).unwrap_or_else(|e| panic!("{base}: {e:?}"));
    in_f32(base, &changes, &imported, page_tokens);
    near::check(base, &imported, &prompts_of(&imported), &Options::default());
}

/// Prompts with the graph interpreter's logits.
fn prompts_of(imported: &Imported) -> Vec<Prompt> {
    let vocab = imported.info.vocab as usize;
    let mut reference = Reference::new(imported);
    let prompt = |n: &usize| {
        let ids: Vec<i32> = (0..*n).map(|i| ((i * i * 37 + i * 11 + n) % vocab) as i32).collect();
        let logits = reference.logits(&ids).chunks_exact(vocab).map(<[f32]>::to_vec).collect();
        Prompt { ids, first: 0, logits, greedy: vec![], sure_steps: 0 }
    };
    LENGTHS.iter().map(prompt).collect()
}

fn in_f32(base: &str, changes: &Value, imported: &Imported, page_tokens: u32) {
    let prompts = prompts_of(imported);
    let ids: Vec<Vec<i32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let options = Options { compute: Compute::F32, page_tokens, ..Options::default() };
    let built = build_imported(imported, &options, Levels::All);
    for way in &built.ways {
        let mut worst = 0f64;
        for feed in [Feed::Whole, Feed::BatchedChunks(5)] {
            let found = logits(&mut built.engine(way, 2, 256), &ids, feed);
            for (p, (prompt, found)) in prompts.iter().zip(&found).enumerate() {
                for (row, error) in prompt.errors(found).into_iter().enumerate() {
                    let place = format!("{base} {way} {feed:?}, prompt {p}, row {row}");
                    assert!(error < BOUND, "{place}: {error:e}");
                    worst = worst.max(error);
                }
            }
        }
        println!("{base} {changes} {way}: {worst:.1e}");
    }
}

/// Numbers that divide nothing.
fn odd_latent() -> Value {
    json!({
        "hidden_size": 200, "intermediate_size": 333, "moe_intermediate_size": 37,
        "vocab_size": 1003, "num_attention_heads": 3, "num_key_value_heads": 3,
        "q_lora_rank": 44, "kv_lora_rank": 36, "qk_nope_head_dim": 20, "qk_rope_head_dim": 12,
        "v_head_dim": 28, "n_routed_experts": 24, "n_group": 3, "topk_group": 2,
        "num_experts_per_tok": 5, "num_hidden_layers": 2, "rope_scaling": null,
    })
}

fn with(mut base: Value, more: Value) -> Value {
    let map = base.as_object_mut().unwrap();
    map.extend(more.as_object().unwrap().clone());
    base
}

#[test]
fn v3_with_odd_numbers() {
    check("rand-v3", odd_latent(), 7, 1);
}

#[test]
fn v3_of_one_layer_without_query_rank() {
    let more = json!({
        "q_lora_rank": null, "num_hidden_layers": 1, "first_k_dense_replace": 0,
        "n_shared_experts": 3, "tie_word_embeddings": true,
    });
    check("rand-v3", with(odd_latent(), more), 16, 2);
}

#[test]
fn v3_in_fp8_with_partial_blocks() {
    check("rand-v3-fp8", odd_latent(), 7, 3);
}

#[test]
fn v3_in_fp8_with_odd_blocks() {
    let quantization = json!({
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": [48, 80],
    });
    let more = json!({ "quantization_config": quantization, "num_hidden_layers": 2 });
    check("rand-v3-fp8", with(odd_latent(), more), 5, 4);
}

#[test]
fn v2_with_odd_numbers() {
    let more = json!({ "n_shared_experts": 2, "num_experts_per_tok": 7 });
    check("rand-v2", with(odd_latent(), more), 1, 5);
}

#[test]
fn v2_lite_of_experts_alone() {
    let changes = json!({
        "hidden_size": 72, "num_hidden_layers": 1, "first_k_dense_replace": 0,
        "n_routed_experts": 5, "num_experts_per_tok": 5, "moe_intermediate_size": 9,
        "kv_lora_rank": 17, "qk_nope_head_dim": 5, "qk_rope_head_dim": 2, "v_head_dim": 3,
        "vocab_size": 67, "num_attention_heads": 7, "num_key_value_heads": 7,
        "n_shared_experts": 0,
    });
    check("rand-v2-lite", changes, 64, 6);
}

#[test]
fn llama_with_five_queries_for_each_key() {
    let changes = json!({
        "hidden_size": 200, "intermediate_size": 333, "vocab_size": 1003, "head_dim": 18,
        "num_attention_heads": 10, "num_key_value_heads": 2, "num_hidden_layers": 2,
        "rope_scaling": null, "tie_word_embeddings": true,
    });
    check("rand-llama", changes, 7, 7);
}

#[test]
fn llama_with_one_key_for_all() {
    let changes = json!({
        "hidden_size": 33, "intermediate_size": 65, "vocab_size": 130, "head_dim": 6,
        "num_attention_heads": 7, "num_key_value_heads": 1, "num_hidden_layers": 1,
    });
    check("rand-llama", changes, 3, 8);
}

#[test]
fn qwen2_with_keys_of_their_own() {
    let changes = json!({
        "hidden_size": 130, "intermediate_size": 97, "vocab_size": 333,
        "num_attention_heads": 5, "num_key_value_heads": 5, "num_hidden_layers": 2,
        "tie_word_embeddings": false,
    });
    check("rand-qwen2", changes, 33, 9);
}
