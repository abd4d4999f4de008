//! `diff`: right code is within its tolerance of the interpreter in every launch, and of another
//! file of the model in every call; a wrong kernel, wherever it is, is found, and nothing else is.
#![allow(clippy::unwrap_used)]

use compiler::compile::lower;
use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::Lowered;
use compiler::options::{Above, Compute, Options};
use compiler::progress::Silent;
use compiler::rewrite::choose::Kept;
use ir::device::DeviceSpec;
use ir::kernel::Kernel;
use runtime::{LoadOptions, Model};
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::goldens::model;
use tests::is_long;
use tests::native::{Built, Levels, Stage, build_imported, build_lowered};
use tools::against::report::Report as Against;
use tools::against::{Side, against};
use tools::diff::diff;
use tools::diff::report::Report;
use tools::remade::remade;

/// A prompt of more rows than a small batch has; then tokens one by one.
const IDS: [i32; 12] = [3, 141, 59, 26, 53, 58, 97, 93, 23, 84, 62, 64];

fn imported(name: &str) -> Imported {
    import(&model(name), &ImportOptions::default()).unwrap()
}

fn open(built: &Built, way: &str) -> Arc<Model> {
    let options = LoadOptions {
        threads: Some(2),
        isa: Some(way.into()),
        check: true,
        ..LoadOptions::default()
    };
    Arc::new(Model::open(&built.path, &options).unwrap())
}

fn compared(built: &Built, lowered: &Lowered, way: &str, ids: &[Vec<i32>]) -> Report {
    diff(&open(built, way), lowered, ids, &mut Silent).unwrap_or_else(|e| panic!("{way}: {e}"))
}

#[test]
fn right_code_is_near_everywhere() {
    let f32 = Options { compute: Compute::F32, page_tokens: 7, ..Options::default() };
    let mut codes = Options::default();
    codes.set("weights=int4").unwrap();
    let models = [
        ("rand-qwen2", codes),
        ("rand-v2-lite", f32.clone()),
        ("rand-v2-lite", Options::default()),
        ("rand-v3-fp8", Options::default()),
        ("rand-v3", f32),
        ("rand-qwen2", Options::default()),
    ];
    for (name, options) in models.into_iter().take(if is_long() { usize::MAX } else { 3 }) {
        let imported = imported(name);
        let lowered = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
        let built = build_lowered(&imported, lowered.clone(), &options, Levels::Best);
        for way in &built.ways {
            let found = compared(&built, &lowered, way, &[IDS.to_vec(), IDS[..5].to_vec()]);
            assert!(found.divergences.is_empty(), "{name}, {way}: {found}");
            assert!(found.worst > 0.0, "{name}, {way}: code and interpreter differ a little");
            let buckets: BTreeSet<&str> = found.steps.iter().map(|s| &*s.bucket).collect();
            assert_eq!(buckets.len(), 3, "{name}: {buckets:?}");
        }
    }
}

/// What a file holds is lowered to what it was lowered to.
#[test]
fn kernels_are_made_again() {
    for (name, options) in [
        ("rand-v2-lite", Options { max_e_nodes: 1, page_tokens: 16, ..Options::default() }),
        ("rand-llama-tied", Options { compute: Compute::F32, ..Options::default() }),
        ("tiny-v3-fp8", Options { without: vec!["associate".into()], ..Options::default() }),
    ] {
        let imported = imported(name);
        let lowered = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
        let built = build_imported(&imported, Stage::Rewritten, &options, Levels::Best);
        let again = remade(&open(&built, &built.ways[0])).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(again.lowered.kernels == lowered.kernels, "{name}");
    }
}

/// The kernel with a quarter more of what its last store writes, if those are real numbers.
fn wrong(kernel: &Kernel) -> Option<Kernel> {
    let text = kernel.to_string();
    let at = text.rfind("store %")?;
    let (before, store) = text.split_at(at);
    let (value, rest) = store.strip_prefix("store ")?.split_once(", ")?;
    let made = format!("\n{value} = ");
    let line = before.lines().map(|l| format!("\n{}", l.trim())).rfind(|l| l.starts_with(&made))?;
    let ty = line.rsplit_once(" : ")?.1.to_string();
    let (dtype, shape) = ty.split_at(ty.find('[').unwrap_or(ty.len()));
    let more = format!("%more = map {{ {value} * 1.25 }} : f32{shape}");
    let wrong = match dtype {
        "f32" => format!("{more}\nstore %more, {rest}"),
        "bf16" => format!("{more}\n%wrong = cast %more : {ty}\nstore %wrong, {rest}"),
        _ => return None,
    };
    let text = format!("{before}{wrong}");
    Some(ir::kernel::parse::kernel(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}")))
}

/// Kernels of the launches that a prompt and its last tokens need.
fn launched(lowered: &Lowered) -> BTreeSet<usize> {
    let plan = &lowered.plan;
    let steps = [(10, 10), (1, 11)];
    let symbols = steps.map(|(n, t)| {
        let of = |name: &String| match name.as_str() {
            "n" | "m" => n,
            "t" => t,
            _ => 1,
        };
        plan.symbols.iter().map(of).collect::<Vec<i64>>()
    });
    let bucket = |symbols: &Vec<i64>| plan.entries[0].buckets.iter().find(|b| b.covers(symbols));
    let steps = symbols.iter().filter_map(bucket).flat_map(|b| &b.steps);
    let kernel = |step: &artifact::plan::Step| match step {
        artifact::plan::Step::Launch(launch) => Some(launch.kernel as usize),
        _ => None,
    };
    steps.filter_map(kernel).collect()
}

#[test]
fn a_wrong_kernel_is_found_wherever_it_is() {
    let (imported, options) = (imported("rand-v2-lite"), Options::default());
    let right = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
    let places: Vec<(usize, Kernel)> = launched(&right)
        .into_iter()
        .filter_map(|at| Some((at, wrong(&right.kernels[at])?)))
        .collect();
    assert!(places.len() >= 20, "{} places", places.len());
    let mut families = BTreeSet::new();
    for (at, kernel) in places {
        // All of them, or the first of each kind.
        if !families.insert(kernel.family.name.to_string()) && !is_long() {
            continue;
        }
        let mut planted = right.clone();
        planted.kernels[at] = kernel;
        let built = build_lowered(&imported, planted, &options, Levels::Best);
        let found = compared(&built, &right, &built.ways[0], &[IDS.to_vec()]);
        let name = &*right.kernels[at].name;
        let first = found.divergences.first().unwrap_or_else(|| panic!("{name} is not found"));
        assert!(found.divergences.iter().all(|d| d.found.kernel == name), "{name}: {found}");
        assert!(first.origin.starts_with('@') && first.found.instance.is_some(), "{name}: {first}");
        let ratio = first.found.native / first.found.expected;
        assert!((ratio - 1.25).abs() < 0.02, "{name}: {first}");
    }
    assert!(families.len() >= 5, "{families:?}");
}

/// Two files of a model, each run one way.
fn both(files: [(&Built, &str); 2], ids: &[Vec<i32>]) -> Against {
    let models = files.map(|(built, way)| open(built, way));
    let made = models.each_ref().map(|m| remade(m).unwrap_or_else(|e| panic!("{e}")));
    let sides = [0, 1].map(|i| Side { model: &models[i], made: &made[i] });
    against(sides, ids, &mut Silent).unwrap_or_else(|e| panic!("{e}"))
}

/// A prompt that sends rows to many experts.
fn prompt(tokens: i32, vocab: i32) -> Vec<i32> {
    (0..tokens).map(|i| (i * i * 31 + i * 7 + 5) % vocab).collect()
}

#[test]
fn files_of_other_options_are_near() {
    let own = Options::default();
    let f32 = Options { compute: Compute::F32, page_tokens: 7, ..own.clone() };
    let expanded = Options { kv: Kept::Expanded, bf16x2: Above::None, ..own.clone() };
    let stated = Options { max_e_nodes: 1, ..own.clone() };
    let ids = [IDS.to_vec(), IDS[..5].to_vec()];
    let models = ["rand-v2-lite", "rand-v3", "rand-qwen2", "rand-v2", "tiny-v3-fp8"];
    for name in models.into_iter().take(if is_long() { usize::MAX } else { 2 }) {
        let imported = imported(name);
        let build = |o: &Options| build_imported(&imported, Stage::Rewritten, o, Levels::Best);
        let file = build(&own);
        let way = file.ways.last().unwrap();
        let found = both([(&file, way), (&file, way)], &ids);
        assert!(found.divergences.is_empty() && found.worst == 0.0, "{name}: {found}");
        for other in [&own, &f32, &expanded, &stated] {
            let second = build(other);
            let found = both([(&file, way), (&second, &second.ways[0])], &ids);
            let values = other.values();
            assert!(found.divergences.is_empty(), "{name}, {values:?}: {found}");
            assert!(found.values >= 6 * found.calls, "{name}, {values:?}: {found}");
            assert!(0.0 < found.worst && found.worst < 0.8, "{name}, {values:?}: {found}");
        }
    }
}

/// Rounding sends some rows of many to other experts, which is no fault of a kernel.
#[test]
fn experts_that_rounding_turns_are_no_divergence() {
    let imported = imported("tiny-v3-fp8");
    let narrow = Options { bf16x2: Above::None, ..Options::default() };
    let exact = Options { compute: Compute::F32, ..Options::default() };
    let [first, second] =
        [narrow, exact].map(|o| build_imported(&imported, Stage::Rewritten, &o, Levels::Best));
    let ids = prompt(200, imported.info.vocab as i32);
    let found = both([(&first, &first.ways[0]), (&second, &second.ways[0])], &[ids]);
    assert!(found.divergences.is_empty(), "{found}");
    assert!(found.turned > 0, "{found}");
    println!("{found}");
}

/// The call of the entry and the position in its bucket of the first launch of a kernel, in the
/// bucket that a report names.
fn first_use(lowered: &Lowered, bucket: &str, kernel: usize) -> Option<(usize, usize)> {
    let at = lowered.plan.entries[0].buckets.iter().position(|b| b.name == bucket)?;
    let steps = &lowered.plan.entries[0].buckets[at].steps;
    let kernels = steps.iter().filter_map(|step| match step {
        artifact::plan::Step::Launch(launch) => Some(launch.kernel as usize),
        _ => None,
    });
    let launch = kernels.into_iter().position(|k| k == kernel)?;
    let call = lowered.called[at].iter().position(|c| c.launches.contains(&launch))?;
    Some((call, launch))
}

#[test]
fn a_wrong_kernel_is_found_beside_a_file_of_another_form() {
    let (imported, options) = (imported("rand-v2-lite"), Options::default());
    let right = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
    let other = Options { kv: Kept::Expanded, ..options.clone() };
    let other = build_imported(&imported, Stage::Rewritten, &other, Levels::Best);
    let places: Vec<(usize, Kernel)> = launched(&right)
        .into_iter()
        .filter_map(|at| Some((at, wrong(&right.kernels[at])?)))
        .collect();
    let mut direct = 0;
    assert!(places.len() >= 12, "{} places", places.len());
    for (at, kernel) in places.into_iter().take(if is_long() { usize::MAX } else { 12 }) {
        let mut planted = right.clone();
        planted.kernels[at] = kernel;
        let built = build_lowered(&imported, planted, &options, Levels::Best);
        let ways = [&built.ways[0], other.ways.last().unwrap()];
        let found = both([(&built, ways[0]), (&other, ways[1])], &[IDS.to_vec()]);
        let name = &*right.kernels[at].name;
        let first = found.divergences.first().unwrap_or_else(|| panic!("{name} is not found"));
        let [side, beside] = &first.sides;
        let (call, launch) = first_use(&right, &side.bucket, at).unwrap();
        // The value that it writes, or the first behind it that the other form has, too.
        assert_eq!(first.call, call, "{name}: {first}");
        assert!(launch <= side.place.launch && side.instance.is_some(), "{name}: {first}");
        direct += usize::from(launch == side.place.launch);
        let wrong = side.wrong.as_ref().map(|w| (w.launch, &*w.kernel));
        assert_eq!(wrong, Some((launch, name)), "{name}: {first}");
        assert!(beside.wrong.is_none() && !beside.operands.is_empty(), "{name}: {first}");
    }
    assert!(direct >= 6, "{direct} are named by what they write");
}
