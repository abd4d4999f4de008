//! The plan's forms: every step has one, and it changes where the cost model says.

mod support;

use compiler::compile::lower;
use compiler::explain::buckets::{BucketReport, Range};
use compiler::explain::{BlockReport, Question, explain};
use compiler::import::{ImportOptions, import};
use compiler::lower::variant::{StepRange, Variant};
use compiler::options::Options;
use compiler::rewrite::choose::Kept;
use compiler::rewrite::cost::Point;
use compiler::rewrite::law;
use compiler::variants::variants;
use ir::device::DeviceSpec;
use ir::graph::program::Program;

fn program(config: &str) -> Program {
    let path = support::at("tests/configs").join(config).join("config.json");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    import(&path, &options).expect("a sound config").program
}

fn chosen(config: &str, device: &str) -> Vec<Variant> {
    chosen_with(&Options::default(), config, device)
}

fn chosen_with(options: &Options, config: &str, device: &str) -> Vec<Variant> {
    let device = DeviceSpec::built_in(device).expect("a built-in device");
    variants(&program(config), options, &device).expect("forms")
}

fn holds((lo, hi): (i64, i64), value: i64) -> bool {
    (lo..=hi).contains(&value)
}

#[test]
fn every_step_has_one_form() {
    let all = chosen("v3", "cpu");
    for rows_max in [1, 8, i64::MAX] {
        let of_rows = all.iter().filter(|v| v.bucket.rows_max == rows_max);
        let steps: Vec<StepRange> = of_rows.flat_map(|v| v.steps.clone()).collect();
        for tokens in [0, 1, 2, 100, 170, 512, 1 << 20] {
            for context in [0, 1, 512, 1024, 1025, 9000, 70_000, 1 << 30] {
                let of = |r: &&StepRange| holds(r.tokens, tokens) && holds(r.context, context);
                assert_eq!(steps.iter().filter(of).count(), 1, "{tokens}, {context}");
            }
        }
    }
}

/// Bytes of weights that a step of one token reads, and the time it takes, by the cost model.
fn decode_cost(choices: &[&str]) -> (f64, f64) {
    let mut options = Options::default();
    choices.iter().for_each(|choice| options.set(choice).expect("a choice"));
    let device = DeviceSpec::built_in("cpu").expect("a built-in device");
    let point = Point { batch: 1, tokens: 1, context: 512 };
    let question = Question { options: &options, device: &device, point, curve: false };
    let found = explain(&program("v2-lite"), &question).expect("an explanation");
    let all = |of: &dyn Fn(&BlockReport) -> f64| {
        found.blocks.iter().map(|block| block.count as f64 * of(block)).sum()
    };
    (all(&|block| block.work.weight_bytes), all(&|block| block.cost_ns.chosen))
}

#[test]
fn weights_cost_the_bytes_of_their_format() {
    let (stored, time) = decode_cost(&[]);
    let (halved, _) = decode_cost(&["weights=int8"]);
    let (all, fast) = decode_cost(&["weights=int4"]);
    let (experts, _) = decode_cost(&["weights.experts=int4"]);
    assert!((0.49..0.53).contains(&(halved / stored)), "{halved} of {stored}");
    assert!((0.27..0.32).contains(&(all / stored)), "{all} of {stored}");
    assert!(all < experts && experts < stored, "{all}, {experts}, {stored}");
    assert!(fast < 0.5 * time, "{fast} of {time}");
}

/// Last numbers of new tokens before the form changes, range by range of contexts.
fn switches(config: &str, device: &str) -> Vec<i64> {
    let all = chosen(config, device);
    let wide: Vec<&Variant> = all.iter().filter(|v| v.bucket.rows_max == i64::MAX).collect();
    assert_eq!((all.len(), wide.len()), (4, 2), "decode, batch, and two forms of longer steps");
    let mut ends: Vec<((i64, i64), i64)> =
        wide[0].steps.iter().map(|s| (s.context, s.tokens.1)).collect();
    ends.sort_unstable();
    ends.into_iter().map(|(_, end)| end).collect()
}

/// New tokens at which as many operations are needed with keys and values of so many columns
/// together as with a latent of 512, of a context.
fn balance(context: i64, columns: f64) -> f64 {
    let t = context as f64;
    t * 512.0 * columns / (t * (1024.0 - columns) + 512.0 * columns)
}

/// Near where operations are as many: bytes and launches move it by up to a quarter.
#[test]
fn the_form_changes_once_and_later_in_longer_contexts() {
    for (config, columns) in [("v3", 256.0), ("v2", 256.0), ("v2-lite", 256.0), ("glm5", 448.0)] {
        for device in ["cpu", "h100", "h20"] {
            let found = switches(config, device);
            assert!(found.is_sorted(), "{config}, {device}: {found:?}");
            let near = 0.8 * balance(1 << 10, columns)..1.25 * balance(1 << 20, columns);
            let all_near = found.iter().all(|s| near.contains(&(*s as f64)));
            assert!(all_near, "{config}, {device}: {found:?}, {near:?}");
        }
    }
}

/// Where keys are worth expanding before values are, there is a form between the two: compiled where
/// it saves what is asked for.
#[test]
fn forms_between_two_are_found() {
    let options = Options { form_gain: 1, ..Options::default() };
    let all = chosen_with(&options, "glm5", "h100");
    let wide = all.iter().filter(|v| v.bucket.rows_max == i64::MAX);
    let of_long = |v: &Variant| v.steps.iter().filter(|s| holds(s.context, 1 << 17)).count();
    assert_eq!(wide.map(of_long).collect::<Vec<_>>(), [1, 1, 1]);
}

/// Reports speak of the same ranges of steps, and of the same forms in them.
#[test]
fn reports_have_the_ranges_of_the_plan() {
    let program = program("v2-lite-4");
    let options = Options::default();
    for name in ["cpu", "h100"] {
        let device = DeviceSpec::built_in(name).expect("a built-in device");
        let variants = variants(&program, &options, &device).expect("forms");
        let point = Point { batch: 1, tokens: 1, context: 4096 };
        let question = Question { options: &options, device: &device, point, curve: false };
        let report = explain(&program, &question).expect("a report");
        for block in &report.blocks {
            type Line = (String, i64, [i64; 4], String);
            let lines = |v: &Variant| -> Vec<Line> {
                let graph = v.program.block(&block.name).expect("a block").to_string();
                let line = |s: &StepRange| {
                    let steps = [s.tokens.0.max(1), s.tokens.1, s.context.0.max(1), s.context.1];
                    (v.bucket.name.to_string(), v.bucket.rows_max, steps, graph.clone())
                };
                v.steps.iter().map(line).collect()
            };
            let mut planned: Vec<Line> = variants.iter().flat_map(lines).collect();
            let last = |r: Range| r.to.unwrap_or(i64::MAX);
            let line = |b: &BucketReport| {
                let steps = [b.tokens.from, last(b.tokens), b.context.from, last(b.context)];
                (b.name.clone(), last(b.rows), steps, b.graph.clone())
            };
            let mut told: Vec<Line> = block.buckets.iter().map(line).collect();
            planned.sort();
            told.sort();
            assert_eq!(told, planned, "{name}, {}", block.name);
            let first = |b: &BucketReport| block.buckets.iter().position(|o| o.graph == b.graph);
            assert!(block.buckets.iter().all(|b| Some(b.same_as) == first(b)));
        }
    }
}

/// Whatever is chosen is lowered, as stated and with any law left out too.
#[test]
fn every_choice_is_lowered() {
    let device = DeviceSpec::default();
    let lowered = |config: &str, options: &Options| {
        let lowered = lower(&program(config), options, &device);
        lowered.map(drop).unwrap_or_else(|e| panic!("{config}, {options:?}: {e}"));
    };
    for config in ["v3", "v2", "glm5", "qwen2-1.5b"] {
        lowered(config, &Options::default());
    }
    lowered("glm5", &Options { form_gain: 1, ..Options::default() });
    let small = "v2-lite-4";
    for kv in [Kept::Auto, Kept::Latent, Kept::Expanded] {
        lowered(small, &Options { kv, ..Options::default() });
    }
    lowered(small, &Options { max_e_nodes: 1, ..Options::default() });
    lowered(small, &Options { exact: true, ..Options::default() });
    for law in law::all() {
        lowered(small, &Options { without: vec![law.name.into()], ..Options::default() });
    }
}
