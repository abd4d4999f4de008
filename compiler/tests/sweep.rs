//! Where the form changes as a step grows: each step's choice against the two forms that are best
//! for one token and for many, priced by the same model. LATENTC_LONG_TESTS sweeps the layers with
//! experts, too, and more steps.

mod support;

use compiler::import::{ImportOptions, import};
use compiler::options::Options;
use compiler::rewrite::choose::{Block, Chosen, Plan};
use compiler::rewrite::cost::Point;
use ir::device::DeviceSpec;
use ir::graph::Graph;

const CONTEXTS: [i64; 3] = [4096, 16_384, 131_072];
/// Tokens of the longest step.
const LONGEST: i64 = 4096;
/// Prices within this part of one another are equal.
const EQUAL: f64 = 1e-3;

fn long() -> bool {
    std::env::var_os("LATENTC_LONG_TESTS").is_some()
}

fn layers(config: &str) -> Vec<Graph> {
    let path = support::at("tests/configs").join(config).join("config.json");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    let program = import(&path, &options).expect("a sound config").program;
    let names = if long() { &["dense", "expert"][..] } else { &["dense"] };
    names.iter().map(|name| program.block(name).expect("layers of both kinds").clone()).collect()
}

fn device(name: &str) -> DeviceSpec {
    DeviceSpec::built_in(name).expect("a built-in device")
}

/// A device that waits for arithmetic alone.
fn arithmetic_only() -> DeviceSpec {
    let flops = 1e15;
    DeviceSpec {
        f32_flops_per_s: flops,
        bf16_flops_per_s: flops,
        read_bytes_per_s: 1e30,
        launch_ns: 0.0,
        ..device("h100")
    }
}

/// Products that make something anew of every row of the context: none where keys and values are
/// absorbed, two where they are expanded.
fn expanded(chosen: &Chosen) -> usize {
    let has = |dims: &[ir::dim::Dim], name: &str| dims.iter().any(|d| d.to_string() == name);
    let products = chosen.products.iter();
    products.filter(|p| has(&p.result, "t") && !has(&p.result, "s")).count()
}

/// A block at a context, with the forms that are best for one token and for many.
struct Sweep<'b, 'a> {
    what: String,
    block: &'b mut Block<'a>,
    context: i64,
    absorbed: Chosen,
    expanded: Chosen,
}

impl<'b, 'a> Sweep<'b, 'a> {
    fn new(what: String, block: &'b mut Block<'a>, context: i64) -> Sweep<'b, 'a> {
        let mut best = |tokens| {
            block.choose(Point { batch: 1, tokens, context }).unwrap_or_else(|e| panic!("{e:?}"))
        };
        let (absorbed, many) = (best(1), best(LONGEST));
        let forms = (expanded(&absorbed), expanded(&many));
        assert_eq!(forms, (0, 2), "{what}: keys and values");
        Sweep { what, block, context, absorbed, expanded: many }
    }

    fn point(&self, tokens: i64) -> Point {
        Point { batch: 1, tokens, context: self.context }
    }

    /// Nanoseconds of both forms in a step.
    fn prices(&self, tokens: i64) -> [f64; 2] {
        let price = |form| self.block.price(form, self.point(tokens));
        [price(&self.absorbed), price(&self.expanded)]
    }

    /// The first step in which the form for many tokens is cheaper, of steps tried one by one.
    fn crossing(&self) -> i64 {
        let cheaper: Vec<bool> = (1..=if long() { LONGEST } else { 600 })
            .map(|tokens| {
                let [absorbed, expanded] = self.prices(tokens);
                expanded < absorbed
            })
            .collect();
        let changes = cheaper.windows(2).filter(|w| w[0] != w[1]).count();
        assert_eq!(changes, 1, "{}: prices cross once", self.what);
        1 + cheaper.iter().position(|c| *c).expect("many tokens are expanded") as i64
    }

    /// How much is expanded in a step, where what is chosen costs no more than either form.
    fn chosen(&mut self, tokens: i64) -> usize {
        let point = self.point(tokens);
        let chosen = self.block.choose(point).unwrap_or_else(|e| panic!("{e:?}"));
        let [absorbed, expanded_ns] = self.prices(tokens);
        let least = absorbed.min(expanded_ns);
        let found = chosen.price_ns;
        assert!(found <= least * (1.0 + 1e-6), "{}, {tokens}: {found} for {least}", self.what);
        expanded(&chosen)
    }

    /// Steps in which more is expanded than in the step before, with how much: from a sweep that is
    /// fine around a step, and halving between steps that differ.
    fn switches(&mut self, around: i64) -> Vec<(i64, usize)> {
        let fine = if long() { 1 } else { 16 };
        let near = (around - 160).max(2)..=around + 160;
        let mut swept: Vec<i64> = (0..=12).map(|doublings| 1 << doublings).collect();
        swept.extend(near.step_by(fine as usize));
        swept.sort_unstable();
        swept.dedup();
        let mut found = vec![];
        let mut last = (1, self.chosen(1));
        for tokens in swept.into_iter().skip(1) {
            let now = self.chosen(tokens);
            let (mut no, mut yes) = (last.0, tokens);
            while now != last.1 && yes - no > 1 {
                let middle = no + (yes - no) / 2;
                let between = self.chosen(middle);
                if between == last.1 {
                    no = middle
                } else {
                    yes = middle
                }
                assert!(between == last.1 || between == now, "{}, {middle}", self.what);
            }
            if now != last.1 {
                found.push((yes, now));
            }
            last = (tokens, now);
        }
        found
    }
}

/// Sweeps layers of a model on each device and context.
fn sweep(config: &str, devices: &[DeviceSpec], check: impl Fn(&mut Sweep)) {
    for source in layers(config) {
        for device in devices {
            let plan = Plan::of(&Options::default(), device);
            let mut block = Block::new(&source, plan).expect("terms");
            for context in CONTEXTS {
                let what = format!("{config} {} on {} at {context}", source.name, device.name);
                check(&mut Sweep::new(what, &mut block, context));
            }
        }
    }
}

/// New tokens of a sequence at which as many operations are needed with rows of the context
/// expanded to so many columns (of keys, of values, or of both together, `count` of them) as with
/// the latent itself, of `r` numbers.
fn balance(context: i64, r: f64, columns: f64, count: f64) -> f64 {
    let t = context as f64;
    t * r * columns / (t * (count * r - columns) + r * columns)
}

fn is_near(found: i64, expected: f64) -> bool {
    (found as f64 / expected - 1.0).abs() < 0.1
}

const RANK: f64 = 512.0;

/// Keys and values are as wide as each other: both change at once.
fn changes_once(config: &str) {
    let check = |sweep: &mut Sweep| -> i64 {
        let crossing = sweep.crossing();
        let switches = sweep.switches(crossing);
        let [(switch, 2)] = switches[..] else { panic!("{}: {switches:?}", sweep.what) };
        // Where both cost the same, a third form that differs in a trifle may be chosen.
        let [absorbed, expanded] = sweep.prices(switch);
        let near = (absorbed / expanded - 1.0).abs() < EQUAL;
        assert!(switch == crossing || near, "{}: {switch}, {crossing}", sweep.what);
        switch
    };
    sweep(config, &[device("h100"), device("h20")], |sweep| {
        check(sweep);
    });
    sweep(config, &[arithmetic_only()], |sweep| {
        let (found, expected) = (check(sweep), balance(sweep.context, RANK, 256.0, 2.0));
        assert!(is_near(found, expected), "{}: {found}, {expected}", sweep.what);
    });
}

#[test]
fn v3_changes_its_form_once() {
    changes_once("v3");
}

#[test]
fn v2_changes_its_form_once() {
    changes_once("v2");
}

/// Keys of GLM-5 are narrower than its values (192, 256): they are worth expanding in shorter
/// steps. Between, with keys expanded and values absorbed, a step is cheaper than in either of the two
/// forms, whose prices cross there; so the form changes twice, once for each.
#[test]
fn glm5_expands_keys_first_and_then_values() {
    let check = |sweep: &mut Sweep| -> [i64; 3] {
        let crossing = sweep.crossing();
        let switches = sweep.switches(crossing);
        let [(keys, 1), (values, 2)] = switches[..] else { panic!("{}: {switches:?}", sweep.what) };
        assert!(keys < crossing && crossing < values, "{}: {crossing}", sweep.what);
        [keys, values, crossing]
    };
    sweep("glm5", &[device("h100"), device("h20")], |sweep| {
        check(sweep);
    });
    sweep("glm5", &[arithmetic_only()], |sweep| {
        let context = sweep.context;
        let found = check(sweep);
        let [d_k, d_v] = [192.0, 256.0];
        let expected = [
            balance(context, RANK, d_k, 1.0),
            balance(context, RANK, d_v, 1.0),
            balance(context, RANK, d_k + d_v, 2.0),
        ];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(is_near(found, expected), "{}: {found}, {expected}", sweep.what);
        }
    });
}
