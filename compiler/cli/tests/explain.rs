//! `latentc explain`: on lone configurations, on what was compiled, for described devices.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Scene, latentc, refused, root};

fn config(name: &str) -> String {
    root().join("tests/configs").join(name).join("config.json").to_str().unwrap().to_string()
}

fn explained(model: &str, more: &[&str]) -> Value {
    let ran = latentc(&[&["explain", model, "--json"], more].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Blocks that keep something of a sequence.
fn keeping(report: &Value) -> Vec<&Value> {
    let all: Vec<&Value> =
        rows(&report["blocks"]).iter().filter(|b| !rows(&b["state"]).is_empty()).collect();
    assert!(!all.is_empty());
    all
}

/// Bytes of a token in the calls of a block that keep it in a dtype, with how many these are.
fn kept_in(block: &Value, dtype: &str) -> (u64, u64) {
    let calls = rows(&block["state"]).iter().flat_map(|s| rows(&s["calls"]));
    let of: Vec<&Value> = calls.filter(|k| k["encoding"] == dtype).collect();
    let bytes = of.iter().map(|k| k["bytes_per_token"].as_u64().unwrap()).sum();
    (bytes, of.first().map_or(0, |k| k["count"].as_u64().unwrap()))
}

fn bytes_per_token(block: &Value) -> u64 {
    rows(&block["state"]).iter().map(|s| s["bytes_per_token"].as_u64().unwrap()).sum()
}

/// Whether rows of the context are made anew: products with an axis over the context and none over
/// the step's tokens.
fn is_expanded(block: &Value) -> bool {
    let extents = |c: &Value| -> Vec<String> {
        let text = c["result"].as_str().unwrap().to_string();
        text.trim_matches(['[', ']']).split(", ").map(str::to_string).collect()
    };
    let has = |all: &[String], name: &str| all.iter().any(|extent| extent == name);
    rows(&block["contractions"]).iter().any(|c| has(&extents(c), "t") && !has(&extents(c), "s"))
}

#[test]
fn lone_configs_of_latent_models_keep_the_latent_and_the_rotated_key() {
    for name in ["v3", "v2", "v2-lite", "glm5"] {
        let config = config(name);
        let stated: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        let width = |key: &str| stated[key].as_u64().unwrap();
        let expected = 2 * (width("kv_lora_rank") + width("qk_rope_head_dim"));
        assert!(name != "v3" || expected == 1152);
        let report = explained(&config, &["--device", "h100", "--context", "4096"]);
        for block in keeping(&report) {
            assert_eq!(bytes_per_token(block), expected, "{name}");
            assert_eq!(rows(&block["state"]).len(), 2);
            assert!(!is_expanded(block), "{name}");
            has_the_stated_fields(block);
        }
        let layers = width("num_hidden_layers");
        assert_eq!(report["memory"]["kv_bytes_per_token"], json!(layers * expected), "{name}");
        assert_eq!(report["device"]["name"], "h100");
        for key in ["weights", "arena"] {
            assert!(report["memory"][key].as_u64().unwrap() > 0, "{key}");
        }
        for key in ["prefill_tokens_per_s", "decode_tokens_per_s"] {
            assert!(report["predicted"][key].as_f64().unwrap() > 0.0, "{key}");
        }
        assert!(
            ["memory", "arithmetic", "launches"]
                .map(Value::from)
                .contains(&report["predicted"]["bound"])
        );
    }
}

fn has_the_stated_fields(block: &Value) {
    for key in ["count", "e_nodes"] {
        assert!(block[key].as_u64().unwrap() > 0, "{key}");
    }
    assert_eq!((&block["tokens"], &block["context"]), (&json!(1), &json!(4096)));
    let cost = |key: &str| block["cost_ns"][key].as_f64().unwrap();
    assert!(cost("chosen") > 0.0 && cost("chosen") < cost("source"));
    assert_eq!(block["stopped"], "saturated");
    assert!(block["ms"].as_f64().unwrap() > 0.0);
    assert!(rows(&block["rules"]).iter().all(|r| r["applications"].as_u64().unwrap() > 0));
    assert!(!rows(&block["rules"]).is_empty() && !rows(&block["contractions"]).is_empty());
    assert_eq!(block["certificate"]["field_check"], "equal");
    assert!(block["certificate"]["steps"].as_u64().unwrap() > 0);
    for key in ["graph", "source"] {
        assert!(block[key].as_str().unwrap().starts_with("graph @"), "{key}");
    }
    assert_ne!(block["graph"], block["source"]);
    let buckets = rows(&block["buckets"]);
    assert!(buckets.len() >= 2 && buckets[0]["graph"] == block["graph"], "{buckets:?}");
    assert!(buckets.iter().any(|b| b["same_as"] != 0), "prefill has its own form");
    // Each alternative says what it would cost and which difference decides.
    let alternatives = rows(&block["alternatives"]);
    assert!(alternatives.len() >= 3, "{alternatives:?}");
    for a in alternatives {
        let why = a["why"].as_str().unwrap();
        assert!(why.contains(" instead of "), "{why}");
        assert!(a["cost_ns"].as_f64().unwrap() > cost("chosen"), "{a}");
    }
    let keeps_more = |a: &&Value| bytes_per_token(a) > bytes_per_token(block);
    let expanded = alternatives.iter().find(keeps_more).expect("keys and values of each head");
    let why = expanded["why"].as_str().unwrap();
    assert!(why.contains("rows of the context") || why.contains("holding them"), "{why}");
}

/// What comes before the first choice of experts is not rounded: three dense layers of V3, and
/// attention of the first of its layers with experts.
#[test]
fn states_above_the_first_choice_are_counted_as_they_are_kept() {
    let report = explained(&config("v3"), &["--device", "h100", "--context", "4096"]);
    let [dense, expert] = keeping(&report)[..] else { panic!("{report}") };
    assert_eq!([kept_in(dense, "bf16"), kept_in(dense, "f16")], [(0, 0), (1152, 3)]);
    assert_eq!([kept_in(expert, "bf16"), kept_in(expert, "f16")], [(1152, 57), (1152, 1)]);
    assert_eq!(report["memory"]["kv_bytes_per_token"], 61 * 1152);
    let wide = ["--device", "h100", "--context", "4096", "-C", "kv-dtype=f32"];
    assert!(keeping(&explained(&config("v3"), &wide)).iter().all(|b| bytes_per_token(b) == 2304));
}

#[test]
fn long_prefill_shows_the_expanded_form_and_why() {
    let report = explained(&config("v3"), &["--device", "h100", "--tokens", "4096"]);
    for block in keeping(&report) {
        assert!(is_expanded(block), "{}", block["graph"]);
        assert_eq!(bytes_per_token(block), 1152);
        let absorbed = rows(&block["alternatives"]).iter();
        let mut absorbed =
            absorbed.filter(|a| a["name"].as_str().unwrap().contains("x 1 new tokens"));
        let why =
            absorbed.next().expect("the form of decoding")["why"].as_str().unwrap().to_string();
        assert!(why.contains("operations instead of"), "{why}");
    }
    let batch = ["--device", "h100", "--batch", "256", "--context", "4096"];
    assert!(keeping(&explained(&config("v3"), &batch)).iter().all(|b| !is_expanded(b)));
}

#[test]
fn what_one_form_for_all_steps_costs_is_told() {
    let device = ["--device", "h100", "--context", "4096"];
    let of = |name: &str, choice: &str| {
        let report = explained(&config(name), &[&device[..], &["-C", choice]].concat());
        let told = &report["batch_invariant"];
        (told["holds"].as_bool().unwrap(), told["slower"].as_f64().unwrap(), report.clone())
    };
    // Grouped queries have one form anyway; latent attention has another for long prompts.
    let (holds, slower, _) = of("qwen2-1.5b", "batch-invariant=auto");
    assert!(holds && slower < 1.03, "{slower}");
    let (holds, slower, _) = of("v2-lite", "batch-invariant=auto");
    assert!(!holds && slower > 1.03, "{slower}");
    let (holds, same, report) = of("v2-lite", "batch-invariant");
    assert!(holds && same == slower, "{same}");
    for block in keeping(&report) {
        assert!(rows(&block["buckets"]).iter().all(|b| b["same_as"] == 0), "{}", block["name"]);
    }
}

#[test]
fn states_are_counted_in_their_own_dtype() {
    let bytes = |more: &[&str]| bytes_per_token(keeping(&explained(&config("v2-lite"), more))[0]);
    assert_eq!(bytes(&["-C", "kv-dtype=f32"]), 2 * bytes(&["-C", "kv-dtype=bf16"]));
    assert!(bytes(&["-C", "kv=expanded"]) > 4 * bytes(&[]));
}

#[test]
fn this_machine_is_measured() {
    let native = ["--device", "native", "-C", "backend=cranelift"];
    let report = explained(&config("v2-lite"), &native);
    let device = &report["device"];
    assert_eq!((&device["name"], &device["kind"]), (&json!("native"), &json!("cpu")));
    for key in ["f32_flops_per_s", "bf16_flops_per_s", "read_bytes_per_s", "memory_bytes"] {
        assert!(device[key].as_f64().unwrap() > 1e7, "{key}: {device}");
    }
    assert!(report["predicted"]["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    // What was measured is a description that is taken again.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("this.json").to_str().unwrap().to_string();
    fs::write(&path, device.to_string()).unwrap();
    assert_eq!(&explained(&config("v2-lite"), &["--device", &path])["device"], device);
}

#[test]
fn reports_are_for_people_too() {
    let ran = latentc(&["explain", &config("v2-lite"), "--context", "4096", "--graphs"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    for told in [
        "device cpu\n",
        "\n  time: ",
        "\n  search: saturated at ",
        "\n  keeps [r]: 1024 bytes of a token in f16\n",
        "\n  keeps [r]: 1024 bytes of a token in bf16 (25 calls), 1024 bytes of a token in f16 (1 call)\n",
        "\n  runner-up, ",
        "\n  every bucket: this form\n",
        "\n  bucket 0, decode, rows 1, new tokens from 1, context from 1: this form (1 x 1 tokens of 1024: ",
        "\n  bucket 1, batch, rows 2 to 8, new tokens from 1, context from 1: this form (",
        "\n  laws: ",
        " steps, equal in the prime field\n",
        "\nas stated:\ngraph @",
        "\nas chosen:\ngraph @",
        "\nin bucket 3, prefill, rows from 9, new tokens ",
        "\nmemory: weights 31.4 GB, 31.1 KB of a token",
        "\n  state bf16[512] in 25 layers: 1024 bytes of a token each\n",
        "\npredicted: prefill ",
    ] {
        assert!(ran.out.contains(told), "{told}\n{}", ran.out);
    }
}

#[test]
fn limits_that_were_met_are_told() {
    let ran = latentc(&["explain", &config("v2-lite"), "-C", "max-e-nodes=10"]);
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.contains("search: e-node limit at "), "{}", ran.out);
    assert!(ran.out.contains(": the best graph found until then is used\n"), "{}", ran.out);
}

#[test]
fn what_was_compiled_is_explained_from_its_certificates() {
    let scene = Scene::new("rand-v3");
    scene.compile(&[]);
    let report = explained(&scene.out, &[]);
    let wide = |b: &&&Value| b["buckets"].as_array().unwrap().contains(&json!("decode"));
    let decode: Vec<&Value> = keeping(&report).into_iter().filter(|b| wide(&b)).collect();
    let model: Value =
        serde_json::from_slice(&fs::read(scene.file("config.json")).unwrap()).unwrap();
    let width = |key: &str| model[key].as_u64().unwrap();
    for block in decode {
        let kept = rows(&block["state"]).iter().map(|s| s["elements_per_token"].as_u64().unwrap());
        assert_eq!(kept.sum::<u64>(), width("kv_lora_rank") + width("qk_rope_head_dim"));
        assert_eq!(block["certificate"]["field_check"], "equal");
        assert!(block["graph"].as_str().unwrap().starts_with("graph @"));
        assert!(!rows(&block["rules"]).is_empty());
    }
    let states = rows(&report["memory"]["states"])
        .iter()
        .map(|s| s["bytes_per_token"].as_u64().unwrap() * s["layers"].as_u64().unwrap());
    assert_eq!(report["memory"]["kv_bytes_per_token"], states.sum::<u64>());
    let inspected = latentc(&["inspect", &scene.out, "--json"]);
    let inspected: Value = serde_json::from_str(&inspected.out).unwrap();
    for key in ["weights", "kv_bytes_per_token"] {
        assert_eq!(report["memory"][key], inspected["memory"][key], "{key}");
    }
    // Before compiling, the same was said of what is kept.
    let before = explained(&scene.model, &[]);
    for key in ["kv_bytes_per_token", "states"] {
        assert_eq!(before["memory"][key], report["memory"][key], "{key}");
    }
    let ran = latentc(&["explain", &scene.out, "--graphs"]);
    assert!(ran.exit == 0 && ran.out.contains("\nas compiled:\ngraph @"), "{}{}", ran.out, ran.err);
    fs::write(&scene.out, b"\x7fELF and no more").unwrap();
    refused(&["explain", &scene.out], 1, &["E0401"]);
}

#[test]
fn wrong_questions_are_usage() {
    let config = config("v2-lite");
    let explain = |more: &[&str], exit, code: &str| {
        refused(&[&["explain", config.as_str()], more].concat(), exit, &[code])
    };
    let err = explain(&["--tokens", "8", "--context", "4"], 2, "E0291");
    assert!(err.contains("found --context 4, expected at least --tokens 8"), "{err}");
    for zero in ["--tokens", "--context", "--batch"] {
        explain(&[zero, "0"], 2, "E0291");
    }
    let err = explain(&["-C", "rules=-nope"], 2, "E0290");
    assert!(err.contains("found `-nope` for rules") && err.contains("associate, "), "{err}");
    for form in ["rules=associate", "rules=-associate;-one", "rules=+associate", "rules=-"] {
        explain(&["-C", form], 2, "E0290");
    }
    explain(&["-C", "max-e-nodes=0"], 2, "E0290");
    explain(&["-C", "max-e-nodes=many"], 2, "E0290");
    refused(&["explain", "/nowhere"], 1, &["E0200"]);
}

/// Numbers of tokens multiply, beyond what integers hold.
#[test]
fn the_largest_steps_have_a_price() {
    let most = u32::MAX.to_string();
    let decode = [format!("state.context={most}"), format!("state.batch={most}")];
    let step = ["--tokens", &most, "--batch", &most];
    let report =
        explained(&config("v2-lite"), &[&step[..], &["-C", &decode[0], "-C", &decode[1]]].concat());
    for block in rows(&report["blocks"]) {
        assert!(block["cost_ns"]["chosen"].as_f64().is_some_and(|ns| ns >= 0.0), "{block}");
    }
}

#[test]
fn devices_that_none_is_are_refused() {
    let config = config("v2-lite");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.json").to_str().unwrap().to_string();
    let known = fs::read_to_string(root().join("ir/devices/h100.json")).unwrap();
    let with = |text: &str, code: &str| {
        fs::write(&path, text).unwrap();
        let err = refused(&["explain", &config, "--device", &path], 1, &[code]);
        assert!(err.contains("device.json: "), "{err}");
        err
    };
    let changed = |key: &str, value: Value| {
        let mut device: Value = serde_json::from_str(&known).unwrap();
        device[key] = value;
        device.to_string()
    };
    with("", "E0195");
    with("[]", "E0195");
    with("bandwidth: enough", "E0195");
    let keys = ["workers", "l1_bytes", "l2_bytes", "bf16_flops_per_s", "read_bytes_per_s"];
    for key in [&keys[..], &["f32_flops_per_s", "launch_ns", "name", "kind"]].concat() {
        let mut device: Value = serde_json::from_str(&known).unwrap();
        device.as_object_mut().unwrap().remove(key).unwrap();
        assert!(with(&device.to_string(), "E0195").contains(&format!("missing field `{key}`")));
    }
    for key in keys {
        assert!(with(&changed(key, json!(0)), "E0196").contains(&format!("found {key} = 0e0")));
    }
    for (value, code) in [(json!(-1), "E0196"), (json!(1e300), "E0196"), (json!("fast"), "E0195")] {
        with(&changed("read_bytes_per_s", value), code);
    }
    with(&known.replace("3.35e12", "1e999"), "E0195");
    with(&changed("workers", json!(-2)), "E0195");
    with(&changed("workers", json!(2.5)), "E0195");
    with(&changed("launch_ns", json!(-1)), "E0196");
    with(&changed("fp8_flops_per_s", json!(0)), "E0196");
    with(&changed("bandwith", json!(1)), "E0195");
    assert!(with(&changed("kind", json!("abacus")), "E0198").contains("cpu, cuda, plugin"));
    let err = refused(&["explain", &config, "--device", "h1000"], 1, &["E0197"]);
    assert!(
        err.contains("found no device 'h1000'") && err.contains("ascend-910b, native"),
        "{err}"
    );
    // What describes a device is taken, and named.
    fs::write(&path, changed("name", json!("mine"))).unwrap();
    assert_eq!(explained(&config, &["--device", &path])["device"]["name"], "mine");
}
