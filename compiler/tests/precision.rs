//! Which activations enter products as two bf16 numbers: those above the choices asked for, found
//! from what reaches what.

mod support;

use compiler::import::{ImportOptions, import};
use compiler::lower::precision::{Operand, operands};
use compiler::lower::states::with_states;
use compiler::options::{Above, Compute, Options};

/// Operands of each call's products, run by run, as `COUNT OPERAND`.
fn found(model: &str, compute: Compute, bf16x2: Above) -> Vec<String> {
    let dir = support::at("tests/models").join(model);
    let program = import(&dir, &ImportOptions::default()).expect("a sound checkpoint").program;
    let options = Options { compute, bf16x2, ..Options::default() };
    let program = with_states(&program, &options).expect("rows of known sizes");
    let entry = program.entry("forward").expect("every program has it");
    let runs = |of: Vec<Operand>| {
        let runs = of.chunk_by(|a, b| a == b).map(|run| format!("{} {:?}", run.len(), run[0]));
        runs.collect::<Vec<_>>().join(", ")
    };
    let calls = operands(&program, entry, &options).expect("it is lowered").into_iter();
    calls.map(|call| runs(call.into_values().collect())).collect()
}

/// Of a block with experts: six products of attention, the router, the shared expert's three and
/// the experts' three.
const MIXED: [&str; 3] =
    ["6 Bf16, 1 F32, 6 Bf16", "6 Bf16x2, 1 F32, 6 Bf16", "6 Bf16x2, 1 F32, 6 Bf16x2"];

#[test]
fn products_above_a_choice_are_found() {
    let [plain, above, both] = MIXED;
    // The embedding, a dense layer, three with experts, the head.
    let none = ["", "9 Bf16", plain, plain, plain, "1 Bf16"];
    let first = ["", "9 Bf16x2", above, plain, plain, "1 Bf16"];
    // Behind the last choice nothing chooses any more.
    let all = ["", "9 Bf16x2", both, both, above, "1 Bf16"];
    for (which, expected) in [(Above::None, none), (Above::First, first), (Above::All, all)] {
        assert_eq!(found("rand-v3", Compute::Bf16, which), expected, "{which:?}");
    }
}

#[test]
fn whole_activations_have_no_parts() {
    let all = found("rand-v3", Compute::F32, Above::All);
    assert_eq!(all, ["", "9 F32", "13 F32", "13 F32", "13 F32", "1 F32"]);
}

#[test]
fn models_without_experts_have_nothing_to_protect() {
    for call in found("rand-llama", Compute::Bf16, Above::All) {
        assert!(!call.contains("x2") && !call.contains("F32"), "{call}");
    }
}
