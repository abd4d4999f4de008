//! Attention over a latent of random extents: what is chosen costs what the best of all
//! parenthesisations costs, stated one by one and priced by the same model.

mod support;

use check::check;
use compiler::rewrite::choose::{Block, Plan};
use compiler::rewrite::cost::{Machine, Point};
use compiler::rewrite::encode::encode;
use compiler::rewrite::facts::{self, Egraph};
use compiler::rewrite::saturate::Stop;
use compiler::rewrite::term::Term;
use egg::{Id, Language};
use ir::device::DeviceSpec;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use ir::number::mix;
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u64 = 50;
const DECODE: Point = Point { batch: 1, tokens: 1, context: 4096 };
const DEVICES: [&str; 4] = ["h100", "h20", "rtx-4090", "ddr5-desktop"];

/// Extents of a block.
struct Dims([(&'static str, i64); 6]);

/// Numbers at random, the same of each seed.
struct Rng(u64);

impl Rng {
    fn between(&mut self, low: i64, high: i64) -> i64 {
        self.0 = mix(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        low + (self.0 % (high - low + 1) as u64) as i64
    }

    /// As likely small as large.
    fn scale(&mut self, low: i64, high: i64) -> i64 {
        let doublings = (high / low).ilog2();
        let least = low << self.between(0, i64::from(doublings) - 1);
        self.between(least, 2 * least)
    }
}

impl Dims {
    fn draw(rng: &mut Rng) -> Dims {
        Dims([
            ("D", rng.scale(256, 8192)),
            ("h", rng.scale(2, 128)),
            ("n", rng.scale(8, 512)),
            ("q", rng.scale(64, 2048)),
            ("r", rng.scale(64, 1024)),
            ("v", rng.scale(8, 512)),
        ])
    }

    /// A graph of the template's parameters with this body.
    fn graph(&self, body: &str) -> Graph {
        let params: Vec<String> = self.0.iter().map(|(n, v)| format!("{n} = {v}")).collect();
        let text = format!(
            "graph @latent(%x: f32[s, D], weight %w_qa: bf16[q, D], weight %w_qb: bf16[h, n, q],
               weight %w_c: bf16[r, D], weight %w_uk: bf16[h, n, r], weight %w_uv: bf16[h, v, r],
               weight %w_o: bf16[D, h, v]) -> f32[s, D]
             params {}
             where 1 <= s <= 163840, 1 <= t <= 163840
             index a = q + r, hn = h*n, hv = h*v, kv = h*n + h*v {{ {body} return %y }}",
            params.join(", ")
        );
        parse_graph(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
    }
}

/// One way to write a part of the block.
struct Way {
    /// What a sequence keeps for it.
    state: &'static str,
    form: &'static str,
    body: &'static str,
}

/// Over the latent, which is kept.
const fn of_latent(form: &'static str, body: &'static str) -> Way {
    Way { state: "c", form, body }
}

/// Over rows that are projected before they are kept.
const fn kept(state: &'static str, body: &'static str) -> Way {
    Way { state, form: KEPT, body }
}

const KEPT: &str = "kept";

impl Way {
    fn keeps_rows(&self) -> bool {
        self.form == KEPT
    }
}

const FRONT: &str = "
    %lq = contract %x, %w_qa : f32[s, q]
    %lc = contract %x, %w_c : f32[s, r]";
const JOINT_FRONT: &str = "
    %w_a = concat %w_qa, %w_c {along = [q, r], into = a} : bf16[a, D]
    %la = contract %x, %w_a : f32[s, a]
    %lq = slice %la {index = a, into = q, start = 0} : f32[s, q]
    %lc = slice %la {index = a, into = r, start = q} : f32[s, r]";
const ACTIVATED: &str = "
    %nq = map { sigmoid(%lq) } : f32[s, q]
    %c = map { sigmoid(%lc) } : f32[s, r]";
const LATENT: &str = "
    %C = history %c {index = s, into = t} : f32[t, r]";
const WEIGHTS: &str = "
    %at = iota {start = -s + t} : i32[s]
    %to = iota {start = 0} : i32[t]
    %past = map { %to <= %at } : bool[s, t]
    %p = softmax %scores where %past {index = t} : f32[s, h, t]";

/// Every order of queries, `w_qb`, `w_uk` and rows of the context. What is kept is what the source
/// keeps or what that is made of: laws of histories point inward.
const KEYS: [Way; 7] = [
    of_latent(
        "absorbed",
        "
    %query = contract %nq, %w_qb : f32[s, h, n]
    %qa = contract %query, %w_uk : f32[s, h, r]
    %scores = contract %qa, %C : f32[s, h, t]",
    ),
    of_latent(
        "expanded",
        "
    %query = contract %nq, %w_qb : f32[s, h, n]
    %K = contract %C, %w_uk : f32[t, h, n]
    %scores = contract %query, %K : f32[s, h, t]",
    ),
    of_latent(
        "folded",
        "
    %w_q = contract %w_qb, %w_uk : f32[h, q, r]
    %qa = contract %nq, %w_q : f32[s, h, r]
    %scores = contract %qa, %C : f32[s, h, t]",
    ),
    of_latent(
        "expanded",
        "
    %w_q = contract %w_qb, %w_uk : f32[h, q, r]
    %K = contract %C, %w_q : f32[t, h, q]
    %scores = contract %nq, %K : f32[s, h, t]",
    ),
    of_latent(
        "expanded",
        "
    %k = contract %C, %w_uk : f32[t, h, n]
    %K = contract %k, %w_qb : f32[t, h, q]
    %scores = contract %nq, %K : f32[s, h, t]",
    ),
    kept(
        "hn",
        "
    %query = contract %nq, %w_qb : f32[s, h, n]
    %K = history %k {index = s, into = t} : f32[t, h, n]
    %scores = contract %query, %K : f32[s, h, t]",
    ),
    kept(
        "hn",
        "
    %ks = history %k {index = s, into = t} : f32[t, h, n]
    %K = contract %ks, %w_qb : f32[t, h, q]
    %scores = contract %nq, %K : f32[s, h, t]",
    ),
];

/// Every order of weights, rows of the context, `w_uv` and `w_o`.
const VALUES: [Way; 7] = [
    of_latent(
        "absorbed",
        "
    %ol = contract %p, %C : f32[s, h, r]
    %o = contract %ol, %w_uv : f32[s, h, v]
    %y = contract %o, %w_o : f32[s, D]",
    ),
    of_latent(
        "expanded",
        "
    %V = contract %C, %w_uv : f32[t, h, v]
    %o = contract %p, %V : f32[s, h, v]
    %y = contract %o, %w_o : f32[s, D]",
    ),
    of_latent(
        "folded",
        "
    %ol = contract %p, %C : f32[s, h, r]
    %w_v = contract %w_uv, %w_o : f32[h, r, D]
    %y = contract %ol, %w_v : f32[s, D]",
    ),
    of_latent(
        "expanded",
        "
    %v = contract %C, %w_uv : f32[t, h, v]
    %V = contract %v, %w_o : f32[t, h, D]
    %y = contract %p, %V : f32[s, D]",
    ),
    of_latent(
        "expanded",
        "
    %w_v = contract %w_uv, %w_o : f32[h, r, D]
    %V = contract %C, %w_v : f32[t, h, D]
    %y = contract %p, %V : f32[s, D]",
    ),
    kept(
        "hv",
        "
    %V = history %v {index = s, into = t} : f32[t, h, v]
    %o = contract %p, %V : f32[s, h, v]
    %y = contract %o, %w_o : f32[s, D]",
    ),
    kept(
        "hv",
        "
    %vs = history %v {index = s, into = t} : f32[t, h, v]
    %V = contract %vs, %w_o : f32[t, h, D]
    %y = contract %p, %V : f32[s, D]",
    ),
];

/// Rows of the latent for keys and values, by one product each.
fn apart(keys: &Way, values: &Way) -> String {
    let k = if keys.keeps_rows() { "%k = contract %c, %w_uk : f32[s, h, n]\n" } else { "" };
    let v = if values.keeps_rows() { "%v = contract %c, %w_uv : f32[s, h, v]\n" } else { "" };
    format!("{k}{v}")
}

/// The same by one product.
const TOGETHER: &str = "
    %flat_k = merge %w_uk {indices = [h, n], into = hn} : bf16[hn, r]
    %flat_v = merge %w_uv {indices = [h, v], into = hv} : bf16[hv, r]
    %w_kv = concat %flat_k, %flat_v {along = [hn, hv], into = kv} : bf16[kv, r]
    %kv = contract %c, %w_kv : f32[s, kv]
    %part_k = slice %kv {index = kv, into = hn, start = 0} : f32[s, hn]
    %part_v = slice %kv {index = kv, into = hv, start = h*n} : f32[s, hv]
    %k = split %part_k {index = hn, into = [h, n]} : f32[s, h, n]
    %v = split %part_v {index = hv, into = [h, v]} : f32[s, h, v]";

/// One parenthesisation: its e-nodes, each once.
struct Candidate {
    form: [&'static str; 2],
    states: BTreeSet<&'static str>,
    nodes: BTreeMap<Id, Term>,
}

/// Every parenthesisation of a block, in one e-graph without laws.
struct Enumerated {
    egraph: Egraph,
    all: Vec<Candidate>,
}

impl Enumerated {
    fn of(dims: &Dims) -> Enumerated {
        let mut egraph = Egraph::new(facts::Block::of(&plain(dims)));
        let mut all = vec![];
        for (keys, values) in KEYS.iter().flat_map(|k| VALUES.iter().map(move |v| (k, v))) {
            let together = (keys.keeps_rows() && values.keeps_rows()).then(|| TOGETHER.to_string());
            let rows = [Some(apart(keys, values)), together];
            let fronts = [FRONT, JOINT_FRONT].into_iter();
            for (front, rows) in fronts.flat_map(|f| rows.iter().flatten().map(move |r| (f, r))) {
                let states = BTreeSet::from([keys.state, values.state]);
                let latent = if states.contains("c") { LATENT } else { "" };
                let parts = [front, ACTIVATED, latent, rows, keys.body, WEIGHTS, values.body];
                let nodes = added(&mut egraph, &dims.graph(&parts.join("\n")));
                all.push(Candidate { form: [keys.form, values.form], states, nodes });
            }
        }
        Enumerated { egraph, all }
    }

    fn price(&self, nodes: &BTreeMap<Id, Term>, machine: &Machine) -> f64 {
        nodes.iter().map(|(id, node)| machine.price_ns(&self.egraph, *id, node)).sum()
    }

    /// Constants that its products read.
    fn constants(&self, candidate: &Candidate) -> BTreeSet<Id> {
        let products = candidate
            .nodes
            .iter()
            .filter(|(id, node)| node.op() == Some("contract") && !self.egraph[**id].data.constant);
        let operands = products.flat_map(|(_, node)| node.children()[1..].to_vec());
        operands.filter(|id| self.egraph[*id].data.constant).collect()
    }

    /// The cheapest of those that keep no other states.
    fn best(&self, states: Option<&BTreeSet<&str>>, machine: &Machine) -> &Candidate {
        let able = |c: &&Candidate| states.is_none_or(|kept| c.states.is_subset(kept));
        let by_price = |a: &&Candidate, b: &&Candidate| {
            self.price(&a.nodes, machine).total_cmp(&self.price(&b.nodes, machine))
        };
        self.all.iter().filter(able).min_by(by_price).expect("each state has a candidate")
    }
}

/// A graph's terms in an e-graph.
fn added(egraph: &mut Egraph, graph: &Graph) -> BTreeMap<Id, Term> {
    let encoded = encode(graph).expect("every op has one result");
    let mut ids: Vec<Id> = vec![];
    let mut nodes = BTreeMap::new();
    for node in encoded.term.as_ref() {
        let node = node.clone().map_children(|c| ids[usize::from(c)]);
        let id = egraph.add(node.clone());
        nodes.insert(id, node);
        ids.push(id);
    }
    nodes
}

/// The block as a textbook states it.
fn plain(dims: &Dims) -> Graph {
    let (keys, values) = (&KEYS[5], &VALUES[5]);
    let rows = apart(keys, values);
    dims.graph(&[FRONT, ACTIVATED, &rows, keys.body, WEIGHTS, values.body].join("\n"))
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.max(b)
}

/// Compares a block's choices with all there are; counts the forms of the best.
fn agree(seed: u64, counts: &mut BTreeMap<[&'static str; 2], usize>) {
    let mut rng = Rng(seed);
    let (dims, device) = (Dims::draw(&mut rng), DEVICES[seed as usize % DEVICES.len()]);
    let device = DeviceSpec::built_in(device).expect("a built-in device");
    let source = plain(&dims);
    let mut block =
        Block::new(&source, Plan::new(&device, DECODE)).expect("every op has one result");
    assert_eq!(block.size().0, Stop::Saturated, "seed {seed}");
    let mut enumerated = Enumerated::of(&dims);

    // Holding a byte costs what reading it once does, one more copy of a constant an eighth.
    let held = (1e9 / device.read_bytes_per_s).max(1e-4);
    let copied = (0.125e9 / device.read_bytes_per_s).max(1e-4);
    let settling = Machine::new(&device, DECODE, &source.symbols);
    let settling = Machine { history_ns_per_byte: held, ..settling };
    let settled = enumerated.best(None, &settling);
    let states = settled.states.clone();
    let mut packed = enumerated.constants(settled);
    let of = |name: &char| dims.0.iter().find(|(n, _)| n.starts_with(*name)).map_or(1, |d| d.1);
    let elements = |state: &&str| state.replace('c', "r").chars().map(|n| of(&n)).product::<i64>();
    let mut expected: Vec<i64> = states.iter().map(elements).collect();
    let mut kept: Vec<i64> = block.states().iter().map(|s| s.elements()).collect();
    expected.sort_unstable();
    kept.sort_unstable();
    assert_eq!(kept, expected, "seed {seed}: {:?}", dims.0);

    let middle = Point { batch: 1, tokens: rng.scale(2, 512), context: rng.scale(512, 131_072) };
    for point in [
        DECODE,
        Point { batch: 64, ..DECODE },
        Point { batch: 1, tokens: 4096, context: 4096 },
        Point { context: 131_072, ..DECODE },
        middle,
    ] {
        let plain = Machine::new(&device, point, &source.symbols);
        let machine =
            Machine { packed: Some(packed.clone()), copy_ns_per_byte: copied, ..plain.clone() };
        let best = enumerated.best(Some(&states), &machine);
        let price = enumerated.price(&best.nodes, &plain);
        let chosen = block.choose(point).expect("a graph");
        let found = chosen.price_ns;
        let what = format!("seed {seed}, {point:?}, {:?}, {:?}", best.form, dims.0);
        assert!(near(found, price), "{what}: {found}, the best is {price}\n{}", chosen.graph);
        check(&chosen.certificate, seed).unwrap_or_else(|e| panic!("{what}: {e}"));
        *counts.entry(best.form).or_insert(0) += 1;
        packed.extend(enumerated.constants(best));
        let nodes = added(&mut enumerated.egraph, &chosen.graph);
        let again = enumerated.price(&nodes, &plain);
        assert!(near(found, again), "{what}: the graph's own price is {again}");
    }
}

#[test]
fn chosen_is_the_best_of_all_parenthesisations() {
    let mut counts = BTreeMap::new();
    (0..SEEDS).for_each(|seed| agree(seed, &mut counts));
    println!("{counts:?}");
    for form in [
        ["absorbed", "absorbed"],
        ["expanded", "expanded"],
        ["absorbed", "expanded"],
        ["expanded", "absorbed"],
    ] {
        assert!(counts.contains_key(&form), "{form:?} is best somewhere: {counts:?}");
    }
}
