//! What each law is for: without it some graph is dearer, and none is wrong.

mod support;

use check::check;
use compiler::import::{ImportOptions, import};
use compiler::rewrite::choose::{Block, Chosen, Plan};
use compiler::rewrite::cost::Point;
use compiler::rewrite::{law, merge};
use ir::device::DeviceSpec;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use std::collections::{BTreeMap, BTreeSet};

const DECODE: Point = Point { batch: 1, tokens: 1, context: 4096 };
const FAR: Point = Point { batch: 1, tokens: 1, context: 131_072 };
const PREFILL: Point = Point { batch: 1, tokens: 4096, context: 4096 };

/// A graph that is dearer without a law.
enum Where {
    /// A block of a config: group-limited routing and a shared expert in `expert`.
    Block(&'static str, &'static str),
    /// A graph of `compiler/tests/graphs`.
    Stored(&'static str),
    /// Parameters, symbols and body.
    Text(&'static str),
}
use Where::{Block as OfBlock, Stored, Text};

/// A law, where it is needed, and what is lost without it.
struct Row(&'static str, Where, Point, &'static str);

/// Every law, once.
const ROWS: &[Row] = &[
    Row("associate", OfBlock("v3", "dense"), DECODE, "absorbed queries"),
    Row("one", OfBlock("v2", "dense"), PREFILL, "rows of a joint key that all heads share"),
    Row("slice-product", OfBlock("v3", "dense"), DECODE, "parts of a joint projection"),
    Row("distribute", OfBlock("v3", "dense"), DECODE, "a score in two parts, the latent's alone"),
    Row("history-inward", OfBlock("v3", "dense"), DECODE, "a latent state"),
    Row("sparse-product", OfBlock("v2", "expert"), DECODE, "chosen experts alone"),
    Row("gather-through", OfBlock("v2-lite", "expert"), DECODE, "chosen rows of each weight"),
    Row("add-associate", OfBlock("v3", "expert"), DECODE, "the shared expert beside the routed"),
    Row("add-commute", OfBlock("v3", "expert"), DECODE, "the shared expert beside the routed"),
    Row("join-sum", OfBlock("v3", "expert"), DECODE, "the shared expert as one more"),
    Row("join-through", OfBlock("v3", "expert"), DECODE, "weights of the shared expert joined"),
    Row("join-scatter", OfBlock("v3", "expert"), DECODE, "an expert that is always chosen"),
    Row("sparse-softmax", Stored("chosen_keys"), FAR, "gathered attention"),
    Row(merge::NAME, OfBlock("qwen2-1.5b", "dense"), DECODE, "q, k and v by one product"),
    Row("split-through", Text(SPLIT_HEADS), DECODE, "absorption by a weight of joint heads"),
    Row("merge-product", Text(MERGED_HEADS), PREFILL, "two weights folded across joint heads"),
    Row("split-slice", Text(SLICED_BETWEEN), PREFILL, "a part of a product behind views"),
    Row("merge-split", Text(MERGED_BETWEEN), PREFILL, "a part of a product behind views"),
    Row("slice-concat", Text(UNUSED_PART), PREFILL, "a part that nothing uses"),
    Row("slice-slice", Text(PART_OF_PART), PREFILL, "a part across two cuts"),
    Row("mul-commute", Text(TWO_ORDERS), PREFILL, "one product of two orders"),
    Row("scale-linear", Text(SCALED_ROPE), PREFILL, "a scale behind a rotation in a weight"),
    Row("scale-sum", Text(SCALED_SUM), PREFILL, "a scale behind a sum in weights"),
    Row("sparse-multiple", Text(GATE_TIMES), DECODE, "a gate that is multiplied again"),
    Row("fold-chosen", Text(PROJECTED_ROWS), PREFILL, "a table that is projected once"),
    Row("gather-scatter", Text(GATE_AGAIN), PREFILL, "a gate's weights without the gate"),
];

const SPLIT_HEADS: &str = "
    graph @split_heads(%x: f32[s, D], weight %w_q: bf16[h, n, D], weight %w_c: bf16[r, D],
        weight %w_uk: bf16[hn, r], weight %w_uv: bf16[h, v, r]) -> f32[s, h, v]
      params D = 4096, h = 32, n = 128, r = 512, v = 128
      where 1 <= s <= 163840, 1 <= t <= 163840
      index hn = h*n {
      %q = contract %x, %w_q : f32[s, h, n]
      %c = contract %x, %w_c : f32[s, r]
      %joint = contract %c, %w_uk : f32[s, hn]
      %k = split %joint {index = hn, into = [h, n]} : f32[s, h, n]
      %v = contract %c, %w_uv : f32[s, h, v]
      %ks = history %k {index = s, into = t} : f32[t, h, n]
      %vs = history %v {index = s, into = t} : f32[t, h, v]
      %scores = contract %q, %ks : f32[s, h, t]
      %p = softmax %scores {index = t} : f32[s, h, t]
      %o = contract %p, %vs : f32[s, h, v]
      return %o
    }";

const MERGED_HEADS: &str = "
    graph @merged_heads(%x: f32[s, h, r], weight %w: f32[h, v, r], weight %w_o: f32[D, hv])
        -> f32[s, D]
      params D = 512, h = 16, r = 4, v = 128
      where 1 <= s <= 4096, 1 <= t <= 4096
      index hv = h*v {
      %o = contract %x, %w : f32[s, h, v]
      %joint = merge %o {indices = [h, v], into = hv} : f32[s, hv]
      %y = contract %joint, %w_o : f32[s, D]
      return %y
    }";

const SLICED_BETWEEN: &str = "
    graph @sliced_between(%x: f32[s, D], weight %w: bf16[h, n, j, D]) -> f32[s, h, n, a]
      params D = 512, a = 8, h = 16, n = 32
      where 1 <= s <= 4096, 1 <= t <= 4096
      index hn = h*n, j = 4*a {
      %y = contract %x, %w : f32[s, h, n, j]
      %joint = merge %y {indices = [h, n], into = hn} : f32[s, hn, j]
      %part = slice %joint {index = j, into = a, start = 0} : f32[s, hn, a]
      %z = split %part {index = hn, into = [h, n]} : f32[s, h, n, a]
      return %z
    }";

const MERGED_BETWEEN: &str = "
    graph @merged_between(%x: f32[s, D], weight %w: bf16[h, n, D]) -> f32[s, a, n]
      params D = 512, a = 4, h = 16, n = 32
      where 1 <= s <= 4096, 1 <= t <= 4096
      index hn = h*n {
      %y = contract %x, %w : f32[s, h, n]
      %joint = merge %y {indices = [h, n], into = hn} : f32[s, hn]
      %apart = split %joint {index = hn, into = [h, n]} : f32[s, h, n]
      %z = slice %apart {index = h, into = a, start = 0} : f32[s, a, n]
      return %z
    }";

const UNUSED_PART: &str = "
    graph @unused_part(%x: f32[s, D], weight %w: bf16[a, D], weight %u: bf16[b, D]) -> f32[s, a]
      params D = 4096, a = 512, b = 512
      where 1 <= s <= 4096, 1 <= t <= 4096
      index c = a + b {
      %y = contract %x, %w : f32[s, a]
      %z = contract %x, %u : f32[s, b]
      %e = map { tanh(%y) } : f32[s, a]
      %f = map { tanh(%z) } : f32[s, b]
      %both = concat %e, %f {along = [a, b], into = c} : f32[s, c]
      %part = slice %both {index = c, into = a, start = 0} : f32[s, a]
      return %part
    }";

const PART_OF_PART: &str = "
    graph @part_of_part(%x: f32[s, D], weight %w: bf16[a, D], weight %u: bf16[b, D]) -> f32[s, b]
      params D = 4096, a = 512, b = 256
      where 1 <= s <= 4096, 1 <= t <= 4096
      index c = a + b, d = a {
      %y = contract %x, %w : f32[s, a]
      %z = contract %x, %u : f32[s, b]
      %e = map { tanh(%y) } : f32[s, a]
      %f = map { tanh(%z) } : f32[s, b]
      %both = concat %e, %f {along = [a, b], into = c} : f32[s, c]
      %more = slice %both {index = c, into = d, start = b} : f32[s, d]
      %part = slice %more {index = d, into = b, start = a - b} : f32[s, b]
      return %part
    }";

const TWO_ORDERS: &str = "
    graph @two_orders(%x: f32[s, D]) -> f32[s, D]
      params D = 4096, b = 64
      where 1 <= s <= 4096, 1 <= t <= 4096
      index c = D + b {
      %p = map { sigmoid(%x) } : f32[s, D]
      %q = map { tanh(%x) } : f32[s, D]
      %rest = const {values = [2]} : f32[s, b]
      %long = concat %p, %rest {along = [D, b], into = c} : f32[s, c]
      %again = slice %long {index = c, into = D, start = 0} : f32[s, D]
      %one = map { %p * %q } : f32[s, D]
      %two = map { %again * %q } : f32[s, D]
      %y = map { tanh(%one) - sigmoid(%two) } : f32[s, D]
      return %y
    }";

const SCALED_ROPE: &str = "
    graph @scaled_rope(%x: f32[s, D], %table: f32[s, i, z], weight %w: f32[h, i, z, D])
        -> f32[s, h, i, z]
      params D = 64, h = 64, i = 32
      where 1 <= s <= 4096, 1 <= t <= 4096
      index z = 2 {
      %q = contract %x, %w : f32[s, h, i, z]
      %r = rope %q, %table {index = z} : f32[s, h, i, z]
      %y = map { %r * 0.125 } : f32[s, h, i, z]
      return %y
    }";

const SCALED_SUM: &str = "
    graph @scaled_sum(%x: f32[s, D], %y: f32[s, D], weight %w: f32[o, D], weight %u: f32[o, D])
        -> f32[s, o]
      params D = 64, o = 4096
      where 1 <= s <= 4096, 1 <= t <= 4096 {
      %a = contract %x, %w : f32[s, o]
      %b = contract %y, %u : f32[s, o]
      %c = map { (%a + %b) * 0.125 } : f32[s, o]
      return %c
    }";

const GATE_TIMES: &str = "
    graph @gate_times(%x: f32[s, D], weight %w_router: f32[e, D], weight %w: bf16[e, f, D],
        weight %w_down: bf16[e, D, f]) -> f32[s, D]
      params D = 2048, e = 64, f = 1408, k = 6
      where 1 <= s <= 4096, 1 <= t <= 4096 {
      %logits = contract %x, %w_router : f32[s, e]
      %affinity = map { sigmoid(%logits) } : f32[s, e]
      %i = topk %affinity {index = e, into = k} : i32[s, k]
      %one = const {values = [1]} : f32[s, k]
      %open = scatter %i, %one {index = k, into = e} : f32[s, e]
      %gate = map { %open * %affinity } : f32[s, e]
      %a = contract %x, %w : f32[s, e, f]
      %h = map { tanh(%a) } : f32[s, e, f]
      %each = contract %h, %w_down : f32[s, e, D]
      %y = contract %gate, %each : f32[s, D]
      return %y
    }";

const PROJECTED_ROWS: &str = "
    graph @projected_rows(%ids: i32[s], weight %table: f32[V, D], weight %w: f32[o, D])
        -> f32[s, o]
      params D = 4096, V = 1000, o = 64
      where 1 <= s <= 4096, 1 <= t <= 4096 {
      %rows = gather %table, %ids {index = V} : f32[s, D]
      %y = contract %rows, %w : f32[s, o]
      return %y
    }";

const GATE_AGAIN: &str = "
    graph @gate_again(%x: f32[s, e]) -> f32[s, k]
      params e = 256, k = 8
      where 1 <= s <= 4096, 1 <= t <= 4096 {
      %i = topk %x {index = e, into = k} : i32[s, k]
      %w = gather %x, %i {index = e} : f32[s, k]
      %gate = scatter %i, %w {index = k, into = e} : f32[s, e]
      %again = gather %gate, %i {index = e} : f32[s, k]
      %y = map { tanh(%again) } : f32[s, k]
      return %y
    }";

fn graph(place: &Where) -> Graph {
    match place {
        OfBlock(config, block) => {
            let path = support::at("tests/configs").join(config).join("config.json");
            let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
            let program = import(&path, &options).expect("a sound config").program;
            program.block(block).expect("a block of the config").clone()
        }
        Stored(name) => support::graph(name),
        Text(text) => parse_graph(text).unwrap_or_else(|e| panic!("{e:?}\n{text}")),
    }
}

/// What is chosen at a point of the first step and at that point, without some laws. Every
/// certificate is checked.
fn chosen(source: &Graph, without: &str, point: Point) -> Chosen {
    let device = DeviceSpec::built_in("h100").expect("a built-in device");
    let left_out = BTreeSet::from([without.to_string()]);
    let plan = Plan { without: left_out, ..Plan::new(&device, DECODE) };
    let mut block = Block::new(source, plan).expect("every op has one result");
    let chosen = block.choose(point).expect("a graph");
    let checked = check(&chosen.certificate, 11);
    checked.unwrap_or_else(|e| panic!("{} without '{without}': {e}", source.name));
    chosen
}

fn names() -> Vec<&'static str> {
    law::all().iter().map(|law| law.name).chain([merge::NAME]).collect()
}

#[test]
fn each_law_has_one_row() {
    let mut rows: BTreeMap<&str, usize> = BTreeMap::new();
    ROWS.iter().for_each(|row| *rows.entry(row.0).or_insert(0) += 1);
    let mut names = names();
    names.sort_unstable();
    let expected: BTreeMap<&str, usize> = names.iter().map(|name| (*name, 1)).collect();
    assert_eq!(expected.len(), names.len(), "names are unique");
    assert_eq!(rows, expected, "a row for each law");
}

#[test]
fn no_law_can_be_spared() {
    for Row(law, place, point, lost) in ROWS {
        let source = graph(place);
        let [whole, less] = ["", law].map(|law| chosen(&source, law, *point));
        let name = &source.name;
        assert!(!less.laws.contains_key(law), "{law} is left out");
        let (with, without) = (whole.price_ns, less.price_ns);
        assert!(without > with * (1.0 + 1e-5), "{name} without {law}: {lost}: {with}, {without}");
        assert_ne!(whole.graph, less.graph);
    }
}

#[test]
fn nothing_is_wrong_without_a_law() {
    for stored in ["latent", "chosen_keys", "experts"] {
        let source = support::graph(stored);
        for law in names() {
            for point in [DECODE, PREFILL] {
                chosen(&source, law, point);
            }
        }
    }
}
