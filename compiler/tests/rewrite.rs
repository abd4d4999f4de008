//! What rewriting chooses: forms, states, every bit by exact laws alone, and the same each time.

mod support;

use check::{Tag, check};
use compiler::import::{ImportOptions, import};
use compiler::rewrite::choose::{Block, Chosen, Kept, Plan};
use compiler::rewrite::cost::Point;
use compiler::rewrite::saturate::{Limits, Stop};
use compiler::rewrite::{law, merge};
use ir::device::DeviceSpec;
use ir::dim::Dim;
use ir::graph::eval::Bindings;
use ir::graph::interp::{Settings, evaluate_after};
use ir::graph::parse::parse_graph;
use ir::graph::program::Program;
use ir::graph::{Graph, ParamKind};
use ir::number::mix;
use ir::tensor::Tensor;
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

fn plan(device: &DeviceSpec) -> Plan<'_> {
    Plan::new(device, DECODE)
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
    let mut elements: Vec<i64> = block.states().iter().map(|s| s.elements()).collect();
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

/// An op that makes the rows itself has none to keep.
#[test]
fn a_value_repeated_in_each_row_is_kept_as_it_is() {
    let source = "graph @repeated(weight %v: f32[]) -> f32[t, b]
      params b = 3
      where 1 <= s <= 4096, 1 <= t <= 4096 {
      %rows = map { sigmoid(%v) } : f32[s, b]
      %kept = history %rows {index = s, into = t} : f32[t, b]
      return %kept
    }";
    let (source, device) = (parse_graph(source).expect("a graph"), h100());
    let chosen = choose(&mut block(&source, plan(&device)), DECODE);
    assert!(check(&chosen.certificate, 1).is_ok(), "{}", chosen.graph);
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

/// Numbers in -1..1, the same of each seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut word = seed;
    let mut next = || {
        word = mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        (word >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Results of two steps in f32, to the bit.
fn bits(graph: &Graph, steps: [i64; 2]) -> Vec<u32> {
    let (mut kept, mut past, mut bits): (Vec<Tensor<f32>>, i64, Vec<u32>) = (vec![], 0, vec![]);
    for (at, tokens) in steps.into_iter().enumerate() {
        let bindings = Bindings::from([("s".into(), tokens), ("t".into(), past + tokens)]);
        past += tokens;
        let argument = |i: usize| {
            let ty = graph.ty(graph.params[i]);
            let value = |dim: &Dim| {
                let of = |n: &str| graph.symbols.get(n)?.value.or(bindings.get(n).copied());
                usize::try_from(dim.eval(&of).expect("every symbol is bound")).expect("an extent")
            };
            let dims: Vec<usize> = graph.extents(ty).iter().map(value).collect();
            // Weights are the same in both steps.
            let step = if graph.param_kind(i) == ParamKind::Weight { 0 } else { at as u64 };
            let count = dims.iter().product();
            Tensor::floats(&dims, numbers(count, step << 32 | i as u64))
                .expect("as many as extents")
        };
        let args: Vec<Tensor<f32>> = (0..graph.params.len()).map(argument).collect();
        let settings = Settings { bindings: bindings.clone(), key: 1 };
        let (args, past): (Vec<_>, Vec<_>) = (args.iter().collect(), kept.iter().collect());
        let outcome = evaluate_after(graph, &args, &past, &settings).expect("a sound graph");
        bits.extend(outcome.outputs.iter().flat_map(Tensor::as_floats).map(|x| x.to_bits()));
        kept = outcome.histories;
    }
    bits
}

/// A stored graph with small extents.
fn small(name: &str, extents: &[(&str, &str)]) -> Graph {
    let mut text = stored(name).to_string();
    for (from, to) in extents {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    parse_graph(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

#[test]
fn exact_laws_alone_keep_every_bit() {
    let device = h100();
    let latent = [("D = 7168, h = 128", "D = 24, h = 3"), ("q = 1536, r = 512", "q = 11, r = 10")];
    let rotated = [
        ("D = 7168, h = 128, i = 32", "D = 24, h = 3, i = 2"),
        ("q = 1536, r = 512", "q = 11, r = 10"),
    ];
    let chosen = [
        ("D = 7168, h = 128, i = 128, k = 2048", "D = 24, h = 3, i = 5, k = 2"),
        ("r = 512", "r = 10"),
        ("2048 <= t", "2 <= t"),
    ];
    let experts = [("D = 7168, e = 256, f = 2048, k = 8", "D = 24, e = 6, f = 10, k = 2")];
    let graphs = [
        small("latent", &latent),
        small("rotated", &rotated),
        small("chosen_keys", &chosen),
        small("experts", &experts),
    ];
    let exact: BTreeSet<&str> =
        law::all().iter().filter(|law| law.tag == Tag::Exact).map(|law| law.name).collect();
    let mut used = 0;
    for source in graphs {
        for kept in [Kept::Auto, Kept::Latent] {
            let mut block = block(&source, Plan { exact: true, kept, ..plan(&device) });
            for point in [DECODE, PREFILL] {
                let chosen = choose(&mut block, point);
                assert_eq!(chosen.certificate.tag(), Tag::Exact, "{}", source.name);
                let others = chosen.laws.keys().filter(|law| !exact.contains(**law));
                assert!(others.into_iter().all(|law| *law == merge::NAME), "{:?}", chosen.laws);
                used += chosen.laws.len();
                let [before, after] = [&source, &chosen.graph].map(|g| bits(g, [5, 2]));
                assert_eq!(before, after, "{}\n{}", source.name, chosen.graph);
            }
        }
    }
    assert!(used > 8, "exact laws are used: {used}");
}

#[test]
fn inexact_laws_change_bits() {
    let device = h100();
    let latent = [("D = 7168, h = 128", "D = 24, h = 3"), ("q = 1536, r = 512", "q = 11, r = 10")];
    let source = small("latent", &latent);
    let mut block = block(&source, Plan { kept: Kept::Latent, ..plan(&device) });
    let chosen = choose(&mut block, DECODE);
    assert_eq!(chosen.certificate.tag(), Tag::Reassociates);
    assert_ne!(bits(&source, [5, 2]), bits(&chosen.graph, [5, 2]), "{}", chosen.graph);
}

/// Texts of what is chosen of a block.
fn texts(source: &Graph) -> Vec<String> {
    let device = h100();
    let mut block = block(source, plan(&device));
    let mut texts = vec![format!("{:?} {:?}", block.size(), block.states())];
    for point in [DECODE, PREFILL, Point { context: 131_072, ..DECODE }] {
        let chosen = choose(&mut block, point);
        texts.push(chosen.graph.to_string());
        texts.push(chosen.certificate.to_string());
        texts.push(format!("{} {:?} {:?}", chosen.price_ns, chosen.laws, chosen.products));
    }
    texts
}

#[test]
fn choices_are_the_same_every_time() {
    let expert = program("v3").block("expert").expect("later layers have experts").clone();
    for source in [expert, stored("chosen_keys")] {
        let first = texts(&source);
        assert_eq!(first, texts(&source), "{}: once more", source.name);
        let threads = std::thread::scope(|scope| {
            let started = [(); 2].map(|()| scope.spawn(|| texts(&source)));
            started.map(|thread| thread.join().expect("no panic"))
        });
        for found in threads {
            assert_eq!(first, found, "{}: in a thread", source.name);
        }
    }
}

#[test]
fn more_layers_are_no_more_blocks() {
    let path = support::at("tests/configs/v3/config.json");
    let text = std::fs::read_to_string(path).expect("a config");
    let blocks = [4, 61].map(|layers| {
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["num_hidden_layers"] = layers.into();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.json");
        std::fs::write(&path, json.to_string()).expect("a config that can be written");
        let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
        import(&path, &options).expect("a sound config").program.blocks
    });
    assert_eq!(blocks[0], blocks[1], "each distinct block once, to be rewritten once");
}
