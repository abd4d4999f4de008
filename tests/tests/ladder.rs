//! The ladder, from goldens down: kernels as the interpreter runs them.
#![allow(clippy::unwrap_used)]

use compiler::compile::lower;
use compiler::import::{ImportOptions, import};
use compiler::options::{Compute, Options};
use ir::device::DeviceSpec;
use tests::goldens::{model, prompts, relative_error};
use tests::oracle::{Oracle, Part};

/// Worst relative error of the logits of a model's short prompts.
fn worst(name: &str, options: &Options) -> f64 {
    let imported = import(&model(name), &ImportOptions::default()).unwrap();
    let lowered = lower(&imported.program, options, &DeviceSpec::default()).unwrap();
    let mut worst = 0f64;
    for prompt in prompts(name).iter().filter(|p| p.ids.len() <= 16) {
        let mut oracle = Oracle::new(&imported, &lowered, 2);
        let part = Part { tokens: &prompt.ids, past: 0, pages: &[1, 0] };
        let logits = oracle.step::<f32>(&[part]);
        let width = prompt.logits[0].len();
        for (i, golden) in prompt.logits.iter().enumerate() {
            let row = &logits[(prompt.first + i) * width..][..width];
            worst = worst.max(relative_error(row, golden));
        }
    }
    worst
}

fn options() -> Options {
    Options { compute: Compute::F32, page_tokens: 16, ..Options::default() }
}

#[test]
fn kernels_of_llama_give_the_goldens() {
    for name in ["rand-llama", "rand-llama-tied", "rand-qwen2"] {
        let worst = worst(name, &options());
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}

#[test]
fn kernels_of_deepseek_give_the_goldens() {
    for name in ["rand-v2", "rand-v2-lite", "rand-v3", "rand-v3-fp8"] {
        let worst = worst(name, &options());
        assert!(worst < 1e-5, "{name}: {worst:e}");
    }
}
