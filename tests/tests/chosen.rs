//! Programs in forms that a rewriter may choose, native code against the graph interpreter.
#![allow(clippy::unwrap_used)]

use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::lower;
use compiler::options::Options;
use ir::device::DeviceSpec;
use ir::graph::program::Program;
use serde_json::json;
use tests::chosen::merged;
use tests::goldens::{made_up, model};
use tests::{exact, near};

/// Relative error allowed at each position in f32.
const BOUND: f64 = 1e-5;

/// In f32 and in the default precision.
fn check(name: &str, original: Imported, rewrite: impl Fn(&Program) -> Program) -> Imported {
    let imported = check_exact(name, original, rewrite);
    near::check(name, &imported, &exact::prompts_of(&imported), &Options::default());
    imported
}

/// In f32.
fn check_exact(name: &str, original: Imported, rewrite: impl Fn(&Program) -> Program) -> Imported {
    let prompts = exact::prompts_of(&original);
    let program = rewrite(&original.program);
    assert_ne!(program, original.program);
    let imported = Imported { program, ..original };
    for (a, b) in prompts.iter().zip(exact::prompts_of(&imported)) {
        let meaning: Vec<f32> = b.logits.concat();
        let worst = a.errors(&meaning).into_iter().fold(0.0, f64::max);
        assert!(worst < BOUND, "{name}: the program means something else: {worst:e}");
    }
    exact::check(name, &imported, 16, BOUND);
    imported
}

fn small(name: &str) -> Imported {
    import(&model(name), &ImportOptions::default()).unwrap()
}

#[test]
fn merged_projections_of_qwen2() {
    check("rand-qwen2", small("rand-qwen2"), merged);
}

#[test]
fn merged_projections_of_v2_lite() {
    check("rand-v2-lite", small("rand-v2-lite"), merged);
}

#[test]
fn merged_projections_of_v3_in_fp8() {
    // Ranks that are no whole blocks: products decoded to bf16, which is less than they had.
    let kept = check_exact("rand-v3-fp8", small("rand-v3-fp8"), merged);
    assert!(encodings(&kept).iter().all(|e| e == "bf16"), "{:?}", encodings(&kept));
    let blocks = json!({
        "q_lora_rank": 128, "intermediate_size": 256, "moe_intermediate_size": 128,
        "num_hidden_layers": 2,
    });
    let kept = check("v3 in whole blocks", made_up("rand-v3-fp8", &blocks, 11), merged);
    let fp8 = "fp8_e4m3<f32 128x128>";
    assert!(encodings(&kept).iter().all(|e| e == fp8), "{:?}", encodings(&kept));
}

/// Encodings of weights that are made of several.
fn encodings(imported: &Imported) -> Vec<String> {
    let lowered = lower(&imported.program, &Options::default(), &DeviceSpec::default()).unwrap();
    let weights = lowered.plan.weights.iter();
    let found: Vec<_> = weights.filter(|w| w.name.contains('+')).collect();
    assert!(found.iter().all(|w| w.source.len() > 1));
    assert!(!found.is_empty());
    found.into_iter().map(|w| w.encoding.clone()).collect()
}
