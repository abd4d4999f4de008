//! How long rewriting takes: saturation and extraction of whole blocks, extraction of a long chain,
//! and whole models of few and of many layers.
//!
//! `cargo bench -p compiler --bench rewrite -- [REPEATS]`. Times are medians.

#[path = "../tests/support/chain.rs"]
mod chain;

use chain::chain;
use compiler::import::{ImportOptions, import};
use compiler::rewrite::choose::{Block, Plan};
use compiler::rewrite::cost::{Machine, Point};
use compiler::rewrite::encode::encode;
use compiler::rewrite::extract::extract;
use compiler::rewrite::law;
use compiler::rewrite::program::Rewriter;
use compiler::rewrite::saturate::{Limits, saturate};
use ir::device::DeviceSpec;
use ir::graph::Graph;
use ir::graph::program::Program;
use std::path::Path;
use std::time::{Duration, Instant};

const POINTS: [Point; 4] = [
    Point { batch: 1, tokens: 1, context: 4096 },
    Point { batch: 256, tokens: 1, context: 4096 },
    Point { batch: 1, tokens: 4096, context: 4096 },
    Point { batch: 1, tokens: 1, context: 131_072 },
];
const CONFIGS: [&str; 4] = ["v3", "v2", "v2-lite", "glm5"];
const CHAIN: usize = 20_000;
const LAYERS: [u64; 2] = [4, 61];

fn main() {
    let repeats = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(5);
    let device = DeviceSpec::built_in("h100").expect("a built-in device");
    for config in CONFIGS {
        let (program, _) = program(config, None);
        for block in &program.blocks {
            measure_block(config, block, &device, repeats);
        }
    }
    for shared in [false, true] {
        measure_chain(shared, &device, repeats);
    }
    for layers in LAYERS {
        measure_model(layers, &device, repeats);
    }
}

/// A config's program with another number of layers, and how many calls of blocks it has.
fn program(config: &str, layers: Option<u64>) -> (Program, usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("inside the repository");
    let path = root.join("tests/configs").join(config).join("config.json");
    let text = std::fs::read_to_string(path).expect("a config");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    if let Some(layers) = layers {
        json["num_hidden_layers"] = layers.into();
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.json");
    std::fs::write(&path, json.to_string()).expect("a config that can be written");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    let program = import(&path, &options).expect("a sound config").program;
    let calls = program.entries.iter().map(|e| e.calls.len()).sum();
    (program, calls)
}

/// The median of some repetitions, and what the last one gave.
fn median<T>(repeats: usize, mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut last = work();
    let mut times = vec![];
    for _ in 0..repeats {
        let start = Instant::now();
        last = work();
        times.push(start.elapsed());
    }
    times.sort();
    (times[times.len() / 2], last)
}

fn plan(device: &DeviceSpec) -> Plan<'_> {
    Plan::new(device, POINTS[0])
}

fn measure_block(config: &str, source: &Graph, device: &DeviceSpec, repeats: usize) {
    let Some(encoded) = encode(source) else {
        println!("{config:8} {:10} cannot be stated as terms", source.name);
        return;
    };
    let limits = Limits::default();
    let (time, saturated) = median(repeats, || saturate(&encoded, law::all(), limits));
    let nodes = saturated.egraph.total_number_of_nodes();
    let name = format!("{config:8} {:10}", source.name);
    println!("{name} saturation {time:>10.2?}  {nodes} e-nodes, {}", saturated.stop.name());
    for point in POINTS {
        let machine = Machine::new(device, point, &source.symbols);
        let (time, _) = median(repeats, || extract(&saturated.egraph, saturated.root, &machine));
        println!("{name} extraction {time:>10.2?}  {point:?}");
    }
    let (time, mut block) = median(repeats, || Block::new(source, plan(device)));
    println!("{name} settled    {time:>10.2?}");
    let block = block.as_mut().expect("stated as terms before");
    for point in POINTS {
        let (time, _) = median(repeats, || block.choose(point).expect("a graph"));
        println!("{name} choice     {time:>10.2?}  {point:?}");
    }
}

fn measure_chain(shared: bool, device: &DeviceSpec, repeats: usize) {
    let encoded = chain(CHAIN, shared);
    let saturated = saturate(&encoded, vec![], Limits { nodes: 1 << 20, rounds: 1 });
    let machine = Machine::new(device, POINTS[0], &encoded.block.symbols);
    let (time, choice) = median(repeats, || extract(&saturated.egraph, saturated.root, &machine));
    let kind = if shared { "each of two" } else { "each of one" };
    println!("chain of {CHAIN}, {kind}: {time:.2?}, {} chosen", choice.nodes.len());
}

fn measure_model(layers: u64, device: &DeviceSpec, repeats: usize) {
    let (program, calls) = program("v3", Some(layers));
    let plan = plan(device);
    let work = || {
        let mut rewriter = Rewriter::new(&program, &plan);
        POINTS.map(|point| rewriter.at(point).expect("the laws hold"))
    };
    let (time, _) = median(repeats.div_ceil(4), work);
    let blocks = program.blocks.len();
    println!("v3 of {layers} layers: {blocks} blocks, {calls} calls, rewritten in {time:.2?}");
}
