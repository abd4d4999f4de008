//! What rewriting chooses: forms, states, the point where the form changes, and what each law is
//! for.

mod support;

use check::check;
use compiler::import::{ImportOptions, import};
use compiler::rewrite::choose::{Block, Chosen, Kept, Plan};
use compiler::rewrite::cost::Point;
use compiler::rewrite::saturate::{Limits, Stop};
use ir::device::DeviceSpec;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use ir::graph::program::Program;
use std::collections::BTreeSet;

const DECODE: Point = Point { batch: 1, tokens: 1, context: 4096 };
const PREFILL: Point = Point { batch: 1, tokens: 4096, context: 4096 };
const LATENT: [&str; 4] = ["v3", "v2", "v2-lite", "glm5"];

fn program(config: &str) -> Program {
    let path = support::at("tests/configs").join(config).join("config.json");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    import(&path, &options).expect("a sound config").program
}

fn layer(config: &str) -> Graph {
    program(config).block("dense").expect("the first layers are dense").clone()
}

fn stored(name: &str) -> Graph {
    let path = support::at("compiler/tests/graphs").join(format!("{name}.graph"));
    let text = std::fs::read_to_string(path).expect("a text");
    parse_graph(&text).expect("a graph")
}

fn h100() -> DeviceSpec {
    DeviceSpec::built_in("h100").expect("a built-in device")
}

/// A device that waits for arithmetic alone.
fn arithmetic_only() -> DeviceSpec {
    let flops = 1e15;
    let device = h100();
    DeviceSpec {
        f32_flops_per_s: flops,
        bf16_flops_per_s: flops,
        read_bytes_per_s: 1e30,
        launch_ns: 0.0,
        ..device
    }
}

fn plan(device: &DeviceSpec) -> Plan<'_> {
    Plan {
        device,
        decode: DECODE,
        kept: Kept::Auto,
        without: BTreeSet::new(),
        exact: false,
        limits: Limits::default(),
    }
}

fn block<'a>(source: &'a Graph, plan: Plan<'a>) -> Block<'a> {
    Block::new(source, plan).expect("every op has one result")
}

fn choose(block: &mut Block, point: Point) -> Chosen {
    block.choose(point).expect("a graph")
}

/// Values that are computed anew for every row of the context.
fn expanded(chosen: &Chosen) -> usize {
    let has = |dims: &[ir::dim::Dim], name: &str| dims.iter().any(|d| d.to_string() == name);
    let products = chosen.products.iter();
    products.filter(|p| has(&p.result, "t") && !has(&p.result, "s")).count()
}

fn kept(block: &Block) -> Vec<i64> {
    let mut elements: Vec<i64> = block.states().iter().map(|s| s.elements).collect();
    elements.sort_unstable();
    elements
}

#[test]
fn decode_is_absorbed_over_the_latent_and_prefill_expanded() {
    let device = h100();
    for config in LATENT {
        let source = layer(config);
        let mut block = block(&source, plan(&device));
        assert_eq!(kept(&block), [64, 512], "{config}: the rotated key and the latent");
        assert_eq!(expanded(&choose(&mut block, DECODE)), 0, "{config}");
        let many = Point { batch: 256, ..DECODE };
        assert_eq!(expanded(&choose(&mut block, many)), 0, "{config}: sequences of one token");
        assert_ne!(expanded(&choose(&mut block, PREFILL)), 0, "{config}");
    }
}

#[test]
fn every_choice_is_equal_to_its_source() {
    let device = h100();
    for config in LATENT.into_iter().chain(["qwen2-1.5b"]) {
        for source in program(config).blocks {
            let mut block = block(&source, plan(&device));
            for point in [DECODE, PREFILL] {
                let chosen = choose(&mut block, point);
                let report = check(&chosen.certificate, 3);
                report.unwrap_or_else(|e| panic!("{config} {}: {e}", source.name));
                assert_eq!(chosen.certificate.chosen(), &chosen.graph);
            }
        }
    }
}

#[test]
fn saturation_ends_by_itself() {
    let device = h100();
    let source = program("v3").block("expert").expect("later layers have experts").clone();
    let block = block(&source, plan(&device));
    let (stop, nodes) = block.size();
    assert_eq!(stop, Stop::Saturated);
    assert!(nodes < 20_000, "{nodes} e-nodes");
}

#[test]
fn limits_give_the_best_graph_so_far() {
    let device = h100();
    let source = layer("v3");
    for nodes in [1, 120, 400] {
        let limits = Limits { nodes, ..Limits::default() };
        let mut block = block(&source, Plan { limits, ..plan(&device) });
        assert_eq!(block.size().0, Stop::Nodes);
        let chosen = choose(&mut block, DECODE);
        assert!(chosen.price_ns <= chosen.source_ns * (1.0 + 1e-9));
        check(&chosen.certificate, 5).expect("equal graphs");
    }
}

/// New tokens from which on the form that computes keys and values anew is chosen.
fn switch(source: &Graph, device: &DeviceSpec, context: i64) -> i64 {
    let mut block = block(source, plan(device));
    let mut forms = vec![];
    for tokens in (4..=512).step_by(4) {
        let chosen = choose(&mut block, Point { batch: 1, tokens, context });
        forms.push((tokens, expanded(&chosen) > 0));
    }
    let changes = forms.windows(2).filter(|w| w[0].1 != w[1].1).count();
    assert_eq!(changes, 1, "one switch at context {context}: {forms:?}");
    forms.iter().find(|(_, expanded)| *expanded).expect("long steps are expanded").0
}

#[test]
fn the_form_changes_where_arithmetic_says() {
    let device = arithmetic_only();
    for config in ["v3", "v2"] {
        let source = layer(config);
        for context in [4096, 16384, 131_072] {
            let [t, r, d] = [context as f64, 512.0, 256.0];
            let expected = t * r * d / (t * (2.0 * r - d) + r * d);
            let found = switch(&source, &device, context) as f64;
            assert!((found / expected - 1.0).abs() < 0.1, "{config} at {context}: {found}");
        }
    }
}

#[test]
fn a_gate_over_the_context_gathers_keys() {
    let device = h100();
    let source = stored("chosen_keys");
    let mut block = block(&source, plan(&device));
    assert_eq!(kept(&block), [128, 512], "the index keys and the latent");
    let far = choose(&mut block, Point { context: 131_072, ..DECODE });
    let products: Vec<String> = far
        .products
        .iter()
        .map(|p| p.result.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(products.contains(&"s h k".to_string()), "scores of chosen keys alone: {products:?}");
    assert!(products.contains(&"s h r".to_string()), "absorbed queries: {products:?}");
    check(&far.certificate, 7).expect("equal graphs");
}

/// What a block loses without a law.
fn without(config: &str, name: &str, law: &str, point: Point) -> (f64, f64) {
    let device = h100();
    let source = program(config).block(name).expect("a block").clone();
    let whole = choose(&mut block(&source, plan(&device)), point);
    let without = BTreeSet::from([law.to_string()]);
    let mut less = block(&source, Plan { without, ..plan(&device) });
    let chosen = choose(&mut less, point);
    check(&chosen.certificate, 11).unwrap_or_else(|e| panic!("without {law}: {e}"));
    (whole.price_ns, chosen.price_ns)
}

#[test]
fn no_law_can_be_spared() {
    let attention = ["associate", "one", "slice-product", "distribute", "history-inward"];
    for law in attention {
        let (whole, less) = without("v3", "dense", law, Point { context: 65_536, ..DECODE });
        assert!(less > whole * 1.00001, "{law}: {less} instead of {whole}");
    }
    let law = "merge-projections";
    let (whole, less) = without("v3", "dense", law, DECODE);
    assert!(less > whole, "{law}: {less} instead of {whole}");
}

/// A block's price at a point.
fn price(source: &Graph, point: Point) -> f64 {
    let device = h100();
    choose(&mut block(source, plan(&device)), point).price_ns
}

#[test]
fn names_and_orders_do_not_matter() {
    let text = stored("latent").to_string();
    let exchanged = text
        .replace("contract %x, %w_qa", "contract %w_qa, %x")
        .replace("contract %c, %w_uk", "contract %w_uk, %c");
    assert_ne!(text, exchanged, "the text has these products");
    let turned = text
        .replace("%w_uk: bf16[h, n, r]", "%w_uk: bf16[r, n, h]")
        .replace("%w_o: bf16[D, h, v]", "%w_o: bf16[v, D, h]");
    let renamed = text
        .replace("[h, ", "[a, ")
        .replace(", h, ", ", a, ")
        .replace(", h]", ", a]")
        .replace("h = 128", "a = 128");
    for point in [DECODE, PREFILL, Point { batch: 64, ..DECODE }] {
        let base = price(&stored("latent"), point);
        for other in [&exchanged, &turned, &renamed] {
            let source = parse_graph(other).unwrap_or_else(|e| panic!("{e:?}\n{other}"));
            let found = price(&source, point);
            assert!((found / base - 1.0).abs() < 1e-6, "{found} instead of {base}\n{other}");
        }
    }
}
