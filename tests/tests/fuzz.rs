//! Every parser on mutated inputs, and on those that once broke one (`tests/files/fuzz`).
//!
//! LATENTC_FUZZ=N executes N inputs for each parser, LATENTC_FUZZ_SEED chooses them, and
//! LATENTC_FUZZ_CORPUS=DIR writes what mutations begin from, for cargo-fuzz (`tests/fuzz`). Counts
//! are shown with `--nocapture`.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tests::fuzz::campaign::Campaign;
use tests::fuzz::memory::Counting;
use tests::fuzz::mutate::Form;
use tests::fuzz::{ENTRIES, Entry, Floor, Outcome, Refusal, entry};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Stack of a program's main thread.
const STACK: usize = 8 << 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz")
}

fn saved(entry: &Entry) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("files/fuzz").join(entry.name);
    let Ok(files) = std::fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

fn on_a_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(work).unwrap();
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn withstands(name: &'static str) {
    on_a_stack(move || withstands_here(entry(name)));
}

fn withstands_here(entry: &Entry) {
    let campaign = Campaign::new(entry, &folder());
    for (i, input) in (entry.corpus)().iter().enumerate() {
        let taken = campaign.replay(input);
        assert_eq!(taken, Ok(Ok(())), "{} {i}: {}", entry.name, String::from_utf8_lossy(input));
        if let Some(folder) = std::env::var_os("LATENTC_FUZZ_CORPUS") {
            let folder = Path::new(&folder).join(entry.name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("seed-{i}")), input).unwrap();
        }
    }
    for (path, input) in saved(entry) {
        let done = campaign.replay(&input);
        assert!(done.is_ok(), "{}: {}", path.display(), done.unwrap_err());
    }
    let asked = number("LATENTC_FUZZ");
    let seed = number("LATENTC_FUZZ_SEED").unwrap_or(1);
    let report = campaign.run(asked.unwrap_or(entry.executions), seed);
    let report = report.unwrap_or_else(|fault| panic!("{fault}"));
    eprintln!("{:<12} {report}", entry.name);
    if asked.is_none_or(|n| n >= entry.executions) {
        assert_eq!(report.below(entry.floor), None, "{}", entry.name);
    }
}

/// A test for each parser, and their names.
macro_rules! parsers {
    ($($name:ident),*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        mod withstands {
            $(#[test] fn $name() { super::withstands(stringify!($name)) })*
        }
    };
}

parsers!(
    graph,
    program,
    kernel,
    packing,
    certificate,
    device,
    options,
    config,
    generation,
    shard,
    index,
    tensors,
    artifact,
    manifest,
    statement,
    plan,
    size,
    image,
    tokenizer,
    template,
    chat,
    goldens,
    ids
);

#[test]
fn every_parser_has_a_test_and_a_target() {
    let entries: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(entries, NAMES);
    let manifest = include_str!("../fuzz/Cargo.toml");
    let targets: Vec<&str> = manifest.lines().filter_map(|l| l.strip_prefix("name = ")).collect();
    let quoted: Vec<String> = NAMES.iter().map(|name| format!("{name:?}")).collect();
    assert_eq!(targets[1..], quoted, "the targets of tests/fuzz");
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("files/fuzz");
    let folders = std::fs::read_dir(files).into_iter().flatten();
    for name in folders.map(|folder| folder.unwrap().file_name()) {
        assert!(NAMES.iter().any(|n| **n == *name), "{} is no parser", name.display());
    }
}

/// Parsers with faults of every kind.
fn faulty(run: fn(&[u8]) -> Outcome) -> Entry {
    let corpus = || vec![b"one, two, three".to_vec(), b"1, 2, 3".to_vec()];
    let floor = Floor { taken: 1, codes: 1, diagnostics: 1 };
    Entry { name: "faulty", form: Form::Text, corpus, run, executions: 10_000, floor }
}

#[test]
fn faults_are_found_shrunk_and_named() {
    let panics: fn(&[u8]) -> Outcome = |input| {
        assert!(!input.windows(2).any(|pair| pair == b"64"), "it is 64");
        Ok(())
    };
    let holds: fn(&[u8]) -> Outcome = |input| {
        let bytes = if input.contains(&b'-') { 3 << 30 } else { 3 };
        drop(std::hint::black_box(Vec::<u8>::with_capacity(bytes)));
        Ok(())
    };
    let spins: fn(&[u8]) -> Outcome = |input| {
        let rounds = if input.contains(&b'\n') { 100_000_000 } else { 0 };
        (0..rounds).for_each(|i| assert!(std::hint::black_box(i) >= 0));
        Ok(())
    };
    let faults = [
        (panics, "it is 64", &b"64"[..]),
        (holds, "holds 3072 MiB", b"-"),
        (spins, "takes", b"\n"),
    ];
    for (run, what, least) in faults {
        let entry = faulty(run);
        let folder = tempfile::tempdir().unwrap();
        let campaign = Campaign::new(&entry, folder.path()).within(Duration::from_millis(20));
        let error = campaign.run(10_000, 1).unwrap_err();
        drop(campaign);
        assert!(error.contains(what), "{error}");
        let files = std::fs::read_dir(folder.path()).unwrap();
        let files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(std::fs::read(&files[0]).unwrap(), least, "{error}");
    }
}

#[test]
fn floors_are_not_reached_by_refusing_everything() {
    let refuses: fn(&[u8]) -> Outcome = |_| Err(vec![Refusal::new("E0000", "no")]);
    let entry = faulty(refuses);
    let folder = tempfile::tempdir().unwrap();
    let report = Campaign::new(&entry, folder.path()).run(100, 1).unwrap();
    assert!(report.below(entry.floor).is_some());
    let unreachable: BTreeSet<_> =
        ENTRIES.iter().filter(|e| report.below(e.floor).is_none()).map(|e| e.name).collect();
    assert!(unreachable.is_empty(), "parsers without a floor: {unreachable:?}");
}
