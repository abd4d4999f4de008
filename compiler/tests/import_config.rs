//! Descriptions that are wrong: every fault at once, with key, what was found and what is expected.

mod support;

use compiler::error::{ImportError, ImportErrors};
use compiler::import::{ImportOptions, Warning, import};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

fn config(name: &str) -> Value {
    let path: PathBuf = support::at("tests/configs").join(name).join("config.json");
    serde_json::from_slice(&std::fs::read(path).expect("a config")).expect("JSON")
}

/// New values by key; a dot leads into an object.
type Changes<'a> = &'a [(&'a str, Value)];

/// What is wrong with a config after changes; made-up weights stand behind it.
fn faults(name: &str, changes: Changes) -> Vec<ImportError> {
    let mut config = config(name);
    for (key, value) in changes {
        match key.split_once('.') {
            Some((outer, inner)) => config[outer][inner] = value.clone(),
            None => config[*key] = value.clone(),
        }
    }
    let dir = TempDir::new().expect("a temporary directory");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    match import(dir.path(), &options) {
        Ok(_) => vec![],
        Err(ImportErrors(errors)) => errors,
    }
}

#[test]
fn each_absurd_value_is_named() {
    let absurd = [json!(0), json!(-1), json!(1u64 << 62), json!("many"), json!(1.5), json!([])];
    let keys = [
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "max_position_embeddings",
        "num_attention_heads",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "num_nextn_predict_layers",
        "rms_norm_eps",
        "rope_theta",
        "routed_scaling_factor",
        "rope_scaling.factor",
    ];
    for key in keys {
        for value in &absurd {
            let number = ["rms_norm_eps", "rope_theta", "routed_scaling_factor"];
            let real = number.contains(&key) || key.starts_with("rope_scaling");
            if (real && *value == json!(1.5))
                || (key == "num_nextn_predict_layers" && *value == json!(0))
            {
                continue;
            }
            let faults = faults("v3", &[(key, value.clone())]);
            let named = |e: &ImportError| e.code() == "E0204" && e.to_string().contains(key);
            assert!(faults.iter().any(named), "{key} = {value}: {faults:?}");
            assert_eq!(faults.len(), 1, "{key} = {value} is one fault: {faults:?}");
        }
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let changes = [
        ("hidden_size", json!(0)),
        ("hidden_act", json!("gelu")),
        ("n_group", json!(7)),
        ("topk_method", json!("best")),
        ("rope_scaling.type", json!("stretch")),
        ("bos_token_id", json!(999_999)),
    ];
    let faults = faults("v3", &changes);
    let text: Vec<String> = faults.iter().map(|e| e.to_string()).collect();
    for (key, _) in changes {
        let key = key.replace("rope_scaling.type", "rope_scaling.rope_type");
        let key = if key == "n_group" { "n_routed_experts" } else { &key };
        assert!(text.iter().any(|t| t.contains(key)), "{key} in {text:#?}");
    }
}

#[test]
fn contradictions() {
    let cases: [(&str, Changes, &str); 9] = [
        ("v3", &[("num_experts_per_tok", json!(300))], "num_experts_per_tok"),
        ("v3", &[("num_experts_per_tok", json!(130)), ("topk_group", json!(4))], "num_experts"),
        ("v3", &[("topk_group", json!(9))], "topk_group"),
        ("v3", &[("n_group", json!(256)), ("topk_group", json!(8))], "two experts"),
        ("v3", &[("qk_rope_head_dim", json!(63))], "even"),
        ("v3", &[("first_k_dense_replace", json!(62))], "first_k_dense_replace"),
        ("v3", &[("num_hidden_layers", json!(16384))], "n_routed_experts"),
        ("qwen2-1.5b", &[("num_key_value_heads", json!(5))], "num_key_value_heads"),
        ("qwen2-1.5b", &[("hidden_size", json!(1537))], "head_dim"),
    ];
    for (name, changes, word) in cases {
        let faults = faults(name, changes);
        let hit = |e: &ImportError| e.code() == "E0204" && e.to_string().contains(word);
        assert!(faults.iter().any(hit), "{changes:?}: {faults:?}");
    }
}

#[test]
fn variants_that_are_not_supported() {
    let cases: [(&str, &str, Value); 8] = [
        ("v3", "scoring_func", json!("softmax")),
        ("v3", "attention_bias", json!(true)),
        ("v3", "moe_layer_freq", json!(2)),
        ("v2-lite", "topk_method", json!("noaux_tc")),
        ("v2-lite", "norm_topk_prob", json!(true)),
        ("qwen2-1.5b", "use_sliding_window", json!(true)),
        ("qwen2-1.5b", "torch_dtype", json!("int8")),
        ("v3", "quantization_config", json!({"quant_method": "gptq"})),
    ];
    for (name, key, value) in cases {
        let faults = faults(name, &[(key, value)]);
        let hit = |e: &ImportError| e.code() == "E0205" && e.to_string().contains(key);
        assert!(faults.iter().any(hit), "{key}: {faults:?}");
    }
}

#[test]
fn unknown_architecture_lists_the_known() {
    let faults = faults("v3", &[("architectures", json!(["GPTNeoXForCausalLM"]))]);
    let text = faults[0].to_string();
    assert_eq!(faults[0].code(), "E0203");
    for word in ["GPTNeoX", "DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM", "Llama", "Qwen2"] {
        assert!(text.contains(word), "{text}");
    }
}

/// Nothing that a program of ours selects or divides by goes beyond its bounds.
#[test]
fn published_shapes_stay_within_bounds() {
    for name in ["v3", "v2", "v2-lite", "glm5", "qwen2-1.5b"] {
        let dir = support::at("tests/configs").join(name);
        let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
        let imported = import(&dir.join("config.json"), &options).expect("a published config");
        assert_eq!(imported.check_reach(), Ok(()), "{name}");
    }
}

/// The published shapes import from a lone config.json, and come to the published sizes.
#[test]
fn published_shapes_import_without_weights() {
    let cases = [("v3", 671.0e9 + 11.5e9), ("v2-lite", 15.7e9), ("qwen2-1.5b", 1.54e9)];
    for (name, parameters) in cases {
        let dir = support::at("tests/configs").join(name);
        let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
        let imported = import(&dir.join("config.json"), &options).expect("a published config");
        let total: f64 = imported
            .program
            .weights
            .iter()
            .map(|w| w.dims.iter().map(|d| *d as f64).product::<f64>())
            .sum();
        assert!((total / parameters - 1.0).abs() < 0.01, "{name}: {total:e}");
        assert_eq!(imported.warnings, vec![Warning::MadeUp(1)], "{name}");
        for weight in &imported.program.weights {
            let key = &weight.source.tensors[0];
            assert!(imported.weights.tensor(key).is_some(), "{key} can be read");
        }
    }
}
