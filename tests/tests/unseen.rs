//! Models that nobody made: the families with other numbers and made-up weights, native code
//! against the graph interpreter; each at one level of every target, with LATENTC_LONG_TESTS at all.
#![allow(clippy::unwrap_used)]

use compiler::options::Options;
use serde_json::{Value, json};
use tests::goldens::made_up;
use tests::native::{Levels, Stage};
use tests::{exact, near};

/// Relative error allowed at each position.
const BOUND: f64 = 1e-4;

fn check(base: &str, changes: Value, page_tokens: u32, seed: u64) {
    let imported = made_up(base, &changes, seed);
    let name = format!("{base} {changes}");
    let levels = Levels::in_turn(seed as usize);
    exact::check(&name, &imported, Stage::Rewritten, page_tokens, BOUND, levels);
    near::check(
        base,
        &imported,
        Stage::Rewritten,
        &exact::prompts_of(&imported),
        &Options::default(),
    );
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
