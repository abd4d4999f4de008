//! Programs in forms that a rewriter may choose, native code against the graph interpreter.
#![allow(clippy::unwrap_used)]

use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::claims::Claims;
use compiler::lower::constant::is_constant;
use compiler::lower::lower;
use compiler::lower::partition::GroupKind;
use compiler::options::{Compute, Options};
use ir::attr::Attr;
use ir::device::DeviceSpec;
use ir::dim::Name;
use ir::dtype::DType;
use ir::graph::program::Program;
use ir::graph::{Def, Graph, Node, NodeId, Type, Value, ValueId};
use ir::kernel::Kernel;
use serde_json::json;
use std::collections::HashMap;
use tests::chosen::{Experts, merged, written_out};
use tests::goldens::{made_up, model, relative_error};
use tests::native::{Levels, Stage};
use tests::oracle::{Oracle, Part, interpret};
use tests::reference::Reference;
use tests::{exact, near};

/// Relative error allowed at each position in f32.
const BOUND: f64 = 1e-5;

/// In f32 and in the default precision.
fn check(name: &str, original: Imported, rewrite: impl Fn(&Program) -> Program) -> Imported {
    let imported = check_exact(name, original, rewrite);
    near::check(name, &imported, Stage::Stated, &exact::prompts_of(&imported), &Options::default());
    imported
}

/// In f32, and that the program means what it did.
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
    exact::check(name, &imported, Stage::Stated, 16, BOUND, Levels::Best);
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
    // Ranks that are no whole blocks: products decoded, above the choices of experts in full.
    let kept = check_exact("rand-v3-fp8", small("rand-v3-fp8"), merged);
    let decoded = |e: &String| ["bf16", "f32"].contains(&e.as_str());
    assert!(encodings(&kept).iter().all(decoded), "{:?}", encodings(&kept));
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

/// What experts written out in a way become: one group of kernels, or two where none takes what is
/// between the products.
fn check_groups(name: &str, imported: &Imported, way: Experts) {
    let lowered = lower(&imported.program, &Options::default(), &DeviceSpec::default()).unwrap();
    let of = |family: &str| -> Vec<&Kernel> {
        let decoding = |k: &&Kernel| k.symbols.get("n").is_some_and(|n| n.hi == 1);
        let all = lowered.kernels.iter().filter(|k| &*k.family.name == family);
        all.filter(decoding).collect()
    };
    let groups = way != Experts::Normed;
    assert_eq!(of("experts_down").len(), usize::from(groups), "{name}");
    let stacked = imported.program.weights.iter().filter(|w| w.source.stacked);
    let stored = stacked.map(|w| w.dims[0]).max().unwrap();
    let experts = Attr::Dim((stored + i64::from(way == Experts::Joined)).into());
    for kernel in of("dispatch") {
        assert_eq!(kernel.family.params[0].1, experts, "{name}");
    }
}

/// Experts written out in f32; in the default precision too in some ways.
fn check_experts(name: &str, original: &dyn Fn() -> Imported, ways: &[Experts], near: &[Experts]) {
    for way in ways {
        let name = format!("{name}, {way:?}");
        let rewrite = |program: &Program| written_out(program, *way);
        let imported = match way.keeps_meaning() {
            true => check_exact(&name, original(), rewrite),
            false => {
                let original = original();
                let imported = Imported { program: rewrite(&original.program), ..original };
                exact::check(&name, &imported, Stage::Stated, 16, BOUND, Levels::Best);
                imported
            }
        };
        check_groups(&name, &imported, *way);
        if near.contains(way) {
            near::check(
                &name,
                &imported,
                Stage::Stated,
                &exact::prompts_of(&imported),
                &Options::default(),
            );
        }
    }
}

#[test]
fn experts_of_v3() {
    let near = [Experts::Early, Experts::Joined];
    check_experts("rand-v3", &|| small("rand-v3"), &Experts::ALL, &near);
}

#[test]
fn experts_in_fp8() {
    let ways = [Experts::Apart, Experts::Joined, Experts::Normed];
    check_experts("rand-v3-fp8", &|| small("rand-v3-fp8"), &ways, &[Experts::Joined]);
}

#[test]
fn experts_of_odd_numbers() {
    let odd = json!({
        "hidden_size": 72, "num_hidden_layers": 1, "first_k_dense_replace": 0,
        "n_routed_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 9,
        "n_shared_experts": 1, "vocab_size": 67,
    });
    check_experts("odd", &|| made_up("rand-v2-lite", &odd, 3), &Experts::ALL, &[]);
}

#[test]
fn experts_that_are_all_or_one() {
    let ways = [Experts::Early, Experts::Joined, Experts::Normed];
    for (experts, chosen) in [(4, 4), (3, 1), (1, 1)] {
        let numbers = json!({
            "hidden_size": 40, "num_hidden_layers": 1, "first_k_dense_replace": 0,
            "n_routed_experts": experts, "num_experts_per_tok": chosen,
            "moe_intermediate_size": 17, "n_shared_experts": 1, "vocab_size": 33,
        });
        let name = format!("{chosen} of {experts}");
        check_experts(&name, &|| made_up("rand-v2-lite", &numbers, 4), &ways, &[]);
    }
}

/// What experts add up to, as a result of the block and as rows of a product, where no row-wise
/// node adds it up for itself.
#[test]
fn sums_of_experts_are_read_by_others() {
    let numbers = json!({
        "hidden_size": 40, "num_hidden_layers": 1, "first_k_dense_replace": 0,
        "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 17,
        "n_shared_experts": 1, "vocab_size": 33,
    });
    let mut imported = made_up("rand-v2-lite", &numbers, 5);
    for way in [Experts::Apart, Experts::Early, Experts::Normed] {
        let original = imported.program.clone();
        imported.program = summing(&written_out(&original, way));
        let options = Options { compute: Compute::F32, page_tokens: 16, ..Options::default() };
        let lowered = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
        for ids in [vec![3], vec![7, 1, 30, 2, 2, 19, 4, 11, 0, 5]] {
            let expected = Reference::new(&imported).forward(&imported.program, &ids, vec![]);
            let part = Part { tokens: &ids, past: 0, pages: &[0] };
            let mut oracle = Oracle::new(&imported, &lowered, 1);
            let found = oracle.walk(&[part], &HashMap::new(), &mut interpret::<f32>);
            for (name, expected) in imported.program.entries[0].outputs.iter().zip(&expected) {
                let found: Vec<f32> =
                    found[&**name].iter().map(|word| f32::from_bits(*word)).collect();
                let error = relative_error(&found, expected.as_floats());
                assert!(error < BOUND, "{way:?}, {} rows, {name}: {error:e}", ids.len());
            }
        }
        imported.program = original;
    }
}

/// The program with two more outputs: what experts add up to, and its product with a weight.
fn summing(program: &Program) -> Program {
    let mut program = program.clone();
    let entry = &mut program.entries[0];
    for call in &mut entry.calls {
        let block = program.blocks.iter_mut().find(|b| b.name == call.block).unwrap();
        let claims = Claims::of(block).unwrap();
        let last = claims.all().iter().rfind(|c| c.kind == GroupKind::Experts);
        let Some(sum) = last.map(|c| c.results[0]) else { continue };
        let width = block.ty(sum).indices[1].clone();
        let is_router = |v: &&ValueId| {
            let ty = block.ty(**v);
            ty.indices.len() == 2 && ty.indices[1] == width && is_constant(block, **v)
        };
        let weight = *block.params.iter().find(is_router).unwrap();
        let (product, graph) = with_product(block, sum, weight);
        *block = graph;
        block.outputs.extend([sum, product]);
        let names = ["sum", "product"].map(Name::from);
        call.results.extend(names.clone());
        entry.outputs.extend(names);
    }
    program
}

/// A block with one more node: a product of a value with a weight `[cols, width]`.
fn with_product(block: &Graph, x: ValueId, weight: ValueId) -> (ValueId, Graph) {
    let mut graph = block.clone();
    let contract = graph.nodes.iter().find(|n| n.op.name() == "contract").unwrap().clone();
    let (node, value) = (NodeId(graph.nodes.len() as u32), ValueId(graph.values.len() as u32));
    let indices = [&block.ty(x).indices[0], &block.ty(weight).indices[0]];
    let ty = Type::new(DType::F32, &indices);
    graph.values.push(Value { name: "product".into(), ty, def: Def::Node(node, 0) });
    let operands = vec![x, weight];
    graph.nodes.push(Node { operands, masked: false, results: vec![value], ..contract });
    (value, graph)
}
