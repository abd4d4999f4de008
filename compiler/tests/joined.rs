//! Experts that every token takes, joined to those it chooses: as many as their joint width holds.

mod support;

use check::check;
use compiler::compile::lower;
use compiler::import::{ImportOptions, import};
use compiler::options::Options;
use compiler::rewrite::choose::{Block, Plan};
use compiler::rewrite::cost::Point;
use compiler::rewrite::saturate::Stop;
use ir::device::DeviceSpec;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use ir::graph::program::Program;
use std::collections::BTreeSet;

const DECODE: Point = Point { batch: 1, tokens: 1, context: 4096 };
const POINTS: [Point; 3] =
    [DECODE, Point { batch: 64, ..DECODE }, Point { batch: 1, tokens: 4096, context: 4096 }];

/// A config, with other values of some keys.
fn program(config: &str, keys: &[(&str, serde_json::Value)]) -> Program {
    let path = support::at("tests/configs").join(config).join("config.json");
    let text = std::fs::read_to_string(path).expect("a config");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    keys.iter().for_each(|(key, value)| json[*key] = value.clone());
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.json");
    std::fs::write(&path, json.to_string()).expect("a config that can be written");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    import(&path, &options).expect("a sound config").program
}

fn edited(edits: &[(&str, &str)]) -> Graph {
    let mut text = support::graph("experts").to_string();
    for (from, to) in edits {
        assert!(text.contains(from), "no '{from}' in {text}");
        text = text.replace(from, to);
    }
    parse_graph(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

/// How many rows a token takes of each weight that it chooses rows of.
fn taken(graph: &Graph) -> BTreeSet<i64> {
    let chosen = graph.nodes.iter().filter_map(|node| {
        let [table, index] = node.operands[..] else { return None };
        let (table, index) = (graph.ty(table), graph.ty(index));
        let fixed =
            table.indices.iter().all(|i| graph.extent(i).bound_value(&graph.symbols).is_some());
        let weights = node.op.name() == "gather" && table.indices.len() == 3 && fixed;
        weights.then(|| graph.extent(index.indices.last()?).bound_value(&graph.symbols))?
    });
    chosen.collect()
}

/// The same at every point, by a choice that is equal to its source.
fn joined(source: &Graph, without: &str) -> BTreeSet<i64> {
    let device = DeviceSpec::built_in("h100").expect("a built-in device");
    let without = if without.is_empty() { vec![] } else { vec![without.to_string()] };
    let without = without.into_iter().collect();
    let plan = Plan { without, ..Plan::new(&device, DECODE) };
    let mut block = Block::new(source, plan).expect("every op has one result");
    let (stop, e_nodes) = block.size();
    assert_eq!(stop, Stop::Saturated);
    assert!(e_nodes < 20_000, "{e_nodes} e-nodes");
    let of = |point| {
        let chosen = block.choose(point).expect("a graph");
        check(&chosen.certificate, 3).unwrap_or_else(|e| panic!("{}: {e}", source.name));
        taken(&chosen.graph)
    };
    let found: BTreeSet<BTreeSet<i64>> = POINTS.into_iter().map(of).collect();
    assert_eq!(found.len(), 1, "{}: {found:?}", source.name);
    found.into_iter().next().expect("one of them")
}

#[test]
fn shared_experts_are_taken_with_the_chosen() {
    for (config, chosen, shared) in
        [("v3", 8, 1), ("v2", 6, 2), ("v2-lite", 6, 2), ("v2-lite", 6, 3)]
    {
        let source = program(config, &[("n_shared_experts", shared.into())]);
        let source = source.block("expert").expect("later layers have experts");
        assert_eq!(joined(source, ""), [chosen + shared].into(), "{config}");
        let law = if shared == 1 { "join-sum" } else { "split-through" };
        assert_eq!(joined(source, law), [chosen].into(), "{config} without {law}");
    }
}

/// The shared network's weights of another width.
fn of_width(extents: &str, indices: &str) -> Graph {
    edited(&[
        ("k = 8", extents),
        ("1 <= t <= 163840 {", &format!("1 <= t <= 163840 {indices} {{")),
        ("%w_shared_gate: bf16[f, D]", "%w_shared_gate: bf16[m, D]"),
        ("%w_shared_up: bf16[f, D]", "%w_shared_up: bf16[m, D]"),
        ("%w_shared_down: bf16[D, f]", "%w_shared_down: bf16[D, m]"),
        ("%w_shared_gate : f32[s, f]", "%w_shared_gate : f32[s, m]"),
        ("%w_shared_up : f32[s, f]", "%w_shared_up : f32[s, m]"),
        ("%sa * sigmoid(%sa) * %sb } : f32[s, f]", "%sa * sigmoid(%sa) * %sb } : f32[s, m]"),
    ])
}

#[test]
fn a_width_that_no_number_of_experts_has_is_left_alone() {
    assert_eq!(joined(&edited(&[]), ""), [9].into(), "an expert's width");
    assert_eq!(joined(&of_width("k = 8", "index m = 2*f"), ""), [10].into(), "twice");
    assert_eq!(joined(&of_width("k = 8, n = 3", "index m = f*n"), ""), [11].into(), "n times");
    assert_eq!(joined(&of_width("k = 8", "index m = f + D"), ""), [8].into(), "more than once");
    assert_eq!(joined(&of_width("k = 8", "index m = 2*f + 1"), ""), [8].into(), "not even");
    assert_eq!(joined(&of_width("k = 8, m = 4096", ""), ""), [8].into(), "of another name");
}

#[test]
fn blocks_of_scales_are_not_cut() {
    let all = |width: &str| {
        let text = of_width("k = 8", "index m = 2*f").to_string();
        let text = text.replace("f = 2048", width).replace("bf16", "fp8_e4m3<f32 128x128>");
        parse_graph(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
    };
    assert_eq!(joined(&all("f = 2048"), ""), [10].into());
    assert_eq!(joined(&all("f = 2112"), ""), [8].into(), "a block in two experts");
}

#[test]
fn joined_weights_keep_their_encoding() {
    let quantised = serde_json::json!({
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128],
        "activation_scheme": "dynamic"
    });
    for (width, experts) in [(1408, 66), (1440, 64)] {
        let keys =
            [("moe_intermediate_size", width.into()), ("quantization_config", quantised.clone())];
        let program = program("v2-lite-4", &keys);
        let lowered = lower(&program, &Options::default(), &DeviceSpec::default());
        let lowered = lowered.unwrap_or_else(|e| panic!("width {width}: {e}"));
        let text: String = lowered.kernels.iter().map(|k| k.to_string()).collect();
        let down = format!("%down: in fp8_e4m3<f32 128x128>[{experts}, 2048, {width}]");
        assert!(text.contains(&down), "no {down}: {text}");
    }
}
