//! Where the form changes as a step grows: each step's choice of what a plan has, against the two
//! forms that are best for one token and for many and against the best there is, priced by the same
//! model. LATENTC_LONG_TESTS sweeps the layers with experts, too, and seeks the best for more steps.

mod support;

use compiler::import::{ImportOptions, import};
use compiler::options::Options;
use compiler::rewrite::choose::{Block, Chosen, Plan};
use compiler::rewrite::cost::Point;
use compiler::rewrite::program::Rewriter;
use compiler::variants::{Steps, steps};
use ir::device::DeviceSpec;
use ir::graph::program::Program;

const CONTEXTS: [i64; 3] = [4096, 16_384, 131_072];
/// Tokens of the longest step.
const LONGEST: i64 = 4096;
/// Prices within this part of one another are equal.
const EQUAL: f64 = 1e-3;

fn long() -> bool {
    std::env::var_os("LATENTC_LONG_TESTS").is_some()
}

/// Tokens of the longest step of those that are tried one by one.
fn swept() -> i64 {
    if long() { LONGEST } else { 600 }
}

fn program(config: &str) -> Program {
    let path = support::at("tests/configs").join(config).join("config.json");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    import(&path, &options).expect("a sound config").program
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

/// A block at a context.
struct Sweep<'b, 'a> {
    what: String,
    block: &'b mut Block<'a>,
    /// What a plan has of it.
    forms: &'b [&'b Chosen],
    context: i64,
    /// The forms that are best for one token and for many.
    absorbed: Chosen,
    expanded: Chosen,
}

impl<'b, 'a> Sweep<'b, 'a> {
    fn new(
        what: String,
        block: &'b mut Block<'a>,
        forms: &'b [&'b Chosen],
        context: i64,
    ) -> Sweep<'b, 'a> {
        let mut best = |tokens| {
            block.choose(Point { batch: 1, tokens, context }).unwrap_or_else(|e| panic!("{e:?}"))
        };
        let (absorbed, many) = (best(1), best(LONGEST));
        let both = (expanded(&absorbed), expanded(&many));
        assert_eq!(both, (0, 2), "{what}: keys and values");
        Sweep { what, block, forms, context, absorbed, expanded: many }
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
        let cheaper: Vec<bool> = (1..=swept())
            .map(|tokens| {
                let [absorbed, expanded] = self.prices(tokens);
                expanded < absorbed
            })
            .collect();
        let changes = cheaper.windows(2).filter(|w| w[0] != w[1]).count();
        assert_eq!(changes, 1, "{}: prices cross once", self.what);
        1 + cheaper.iter().position(|c| *c).expect("many tokens are expanded") as i64
    }

    /// Steps in which more is expanded than in the step before, with how much, one by
    /// one; what is chosen costs no more than either form.
    fn switches(&self) -> Vec<(i64, usize)> {
        let mut found = vec![];
        let mut last = 0;
        for tokens in 1..=swept() {
            let price = |form: &&&Chosen| self.block.price(form, self.point(tokens));
            let order = |a: &&&Chosen, b: &&&Chosen| price(a).total_cmp(&price(b));
            let chosen = self.forms.iter().min_by(order).expect("a form");
            let [absorbed, expanded_ns] = self.prices(tokens);
            let (ns, least) = (price(&chosen), absorbed.min(expanded_ns));
            assert!(ns <= least * (1.0 + EQUAL), "{}, {tokens}: {ns} for {least}", self.what);
            let now = expanded(chosen);
            if now != last {
                found.push((tokens, now));
            }
            last = now;
        }
        found
    }
}

/// No step of the program takes longer in the forms of its plan than in the best there is by more
/// than was asked for, in contexts that they were chosen for and in others.
fn are_near_the_best(rewriter: &mut Rewriter, steps: &[Steps], gain: f64) {
    let apart = if long() { 8 } else { 96 };
    for context in CONTEXTS {
        for tokens in (0..=12).map(|doublings| 1 << doublings).chain((96..=576).step_by(apart)) {
            let point = Point { batch: 1, tokens, context };
            let best = rewriter.at(point).unwrap_or_else(|e| panic!("{e}"));
            let least = rewriter.price_ns(&best, point);
            let prices = steps.iter().map(|s| rewriter.price_ns(&s.form, point));
            let ns = prices.fold(f64::INFINITY, f64::min);
            assert!(ns <= least * gain, "{tokens} at {context}: {ns} for {least}");
        }
    }
}

/// Sweeps layers of a model on each device and context.
fn sweep(config: &str, form_gain: u32, devices: &[DeviceSpec], check: impl Fn(&mut Sweep)) {
    let program = program(config);
    let options = Options { form_gain, ..Options::default() };
    for device in devices {
        let plan = Plan::of(&options, device);
        let mut rewriter = Rewriter::new(&program, &plan);
        let (steps, _) = steps(&mut rewriter, &program, &plan).expect("forms");
        are_near_the_best(&mut rewriter, &steps, plan.gain);
        for name in if long() { &["dense", "expert"][..] } else { &["dense"] } {
            let at = program.blocks.iter().position(|b| &*b.name == *name).expect("such layers");
            let forms = steps.iter().map(|steps| &steps.form);
            let (block, _, forms) = rewriter.block(at, forms).expect("terms");
            for context in CONTEXTS {
                let what = format!("{config} {name} on {} at {context}", device.name);
                check(&mut Sweep::new(what, block, &forms, context));
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

/// The form changes at once, where the prices of the two forms cross: on a device that waits for
/// arithmetic alone, where both need as many operations with so many columns of keys and values.
fn changes_once(config: &str, columns: f64) {
    let Options { form_gain, .. } = Options::default();
    let check = |sweep: &mut Sweep| -> i64 {
        let crossing = sweep.crossing();
        let switches = sweep.switches();
        let [(switch, 2)] = switches[..] else { panic!("{}: {switches:?}", sweep.what) };
        // Where both cost the same, a form that differs in a trifle may be chosen.
        let [absorbed, expanded] = sweep.prices(switch);
        let near = (absorbed / expanded - 1.0).abs() < EQUAL;
        assert!(switch == crossing || near, "{}: {switch}, {crossing}", sweep.what);
        switch
    };
    sweep(config, form_gain, &[device("h100"), device("h20")], |sweep| {
        check(sweep);
    });
    sweep(config, form_gain, &[arithmetic_only()], |sweep| {
        let (found, expected) = (check(sweep), balance(sweep.context, RANK, columns, 2.0));
        assert!(is_near(found, expected), "{}: {found}, {expected}", sweep.what);
    });
}

#[test]
fn v3_changes_its_form_once() {
    changes_once("v3", 256.0);
}

#[test]
fn v2_changes_its_form_once() {
    changes_once("v2", 256.0);
}

#[test]
fn glm5_changes_its_form_once() {
    changes_once("glm5", 448.0);
}

/// Keys of GLM-5 are narrower than its values (192, 256): they are worth expanding in shorter
/// steps. Between, with keys expanded and values absorbed, a step is a little cheaper than in either
/// of the two forms, whose prices cross there; where so little is asked for, the form changes twice,
/// once for each.
#[test]
fn where_little_is_asked_for_glm5_expands_keys_first_and_then_values() {
    let check = |sweep: &mut Sweep| -> [i64; 3] {
        let crossing = sweep.crossing();
        let switches = sweep.switches();
        let [(keys, 1), (values, 2)] = switches[..] else { panic!("{}: {switches:?}", sweep.what) };
        assert!(keys < crossing && crossing < values, "{}: {crossing}", sweep.what);
        [keys, values, crossing]
    };
    sweep("glm5", 1, &[device("h100"), device("h20")], |sweep| {
        check(sweep);
    });
    sweep("glm5", 1, &[arithmetic_only()], |sweep| {
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
