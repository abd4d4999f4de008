//! Steps of a hand-made model, against the same arithmetic in plain Rust.
#![allow(clippy::unwrap_used)]

mod support;

use artifact::WeightsPlace;
use artifact::plan::{Step, Tensor};
use artifact::size::{SizeExpr, SizeOp};
use runtime::{Batch, Limits, LoadOptions, Model, RuntimeError, Sequence, Session, Shape, Want};
use std::sync::Arc;
use support::{CONTEXT, FACTORS, ISA, PAGE_TOKENS, Source, VOCAB, image, plan, symbol};

fn options(threads: usize) -> LoadOptions {
    LoadOptions { threads: Some(threads), ..LoadOptions::default() }
}

fn open(source: &Source, options: &LoadOptions) -> Result<Model, RuntimeError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    source.write(&path);
    Model::open(&path, options)
}

fn session(source: &Source, threads: usize, pages: usize) -> Session {
    Session::new(Arc::new(open(source, &options(threads)).unwrap()), pages).unwrap()
}

/// What the kernels compute: see kernels.c.
fn expected(new: &[(&[i32], &[i32], Want)]) -> Vec<f32> {
    let n: i64 = new.iter().map(|(_, tokens, _)| tokens.len() as i64).sum();
    let sum_x: i64 = (0..n).map(|i| 3 * i + n).sum();
    let sum_z: i64 = (0..n).flat_map(|r| (0..4).map(move |k| 10 * r * r + k)).sum();
    let mut logits = Vec::new();
    let mut row = 0;
    for (past, tokens, want) in new {
        let mut context: i64 = past.iter().map(|id| i64::from(*id)).sum();
        for (i, id) in tokens.iter().enumerate() {
            context += i64::from(*id);
            let wanted = match want {
                Want::None => false,
                Want::Last => i + 1 == tokens.len(),
                Want::All => true,
            };
            let rest = row + sum_x + sum_z;
            if wanted {
                logits.extend(FACTORS.map(|factor| factor * context as f32 + rest as f32));
            }
            row += 1;
        }
    }
    logits
}

/// A small generator of numbers, the same on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % limit
    }
}

#[test]
fn ragged_steps_on_one_two_and_three_threads() {
    for threads in [1, 2, 3] {
        let mut session = session(&Source::default(), threads, 40);
        assert_eq!(session.workers(), threads);
        let mut numbers = Numbers(7);
        let mut known: Vec<(Vec<i32>, Vec<u32>)> = vec![Default::default(); 4];
        for _ in 0..300 {
            let mut parts = Vec::new();
            for (tokens, pages) in &mut known {
                if numbers.below(3) == 0 {
                    continue;
                }
                let count = 1 + numbers.below(5);
                if tokens.len() + count > CONTEXT as usize {
                    tokens.clear();
                    for page in pages.drain(..) {
                        session.states_mut().free_page(page).unwrap();
                    }
                }
                let new: Vec<i32> = (0..count).map(|_| numbers.below(VOCAB) as i32).collect();
                while pages.len() * (PAGE_TOKENS as usize) < tokens.len() + count {
                    pages.push(session.states_mut().alloc_page().unwrap());
                }
                let want = [Want::None, Want::Last, Want::All][numbers.below(3)];
                parts.push((tokens.clone(), new.clone(), pages.clone(), want));
                tokens.extend(new);
            }
            if parts.is_empty() {
                continue;
            }
            let sequences: Vec<_> = parts
                .iter()
                .map(|(past, new, pages, want)| Sequence {
                    tokens: new,
                    past: past.len(),
                    pages,
                    want: *want,
                })
                .collect();
            let rows: Vec<_> =
                parts.iter().map(|(past, new, _, want)| (&past[..], &new[..], *want)).collect();
            let logits = session.step(&Batch { sequences: &sequences }).unwrap();
            assert_eq!(logits, expected(&rows));
        }
    }
}

#[test]
fn every_form_of_the_file_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (name, place, stub) in [
        ("plain", WeightsPlace::Inline, None),
        ("executable", WeightsPlace::Inline, Some(vec![0x7f; 9999])),
        ("external", WeightsPlace::External, None),
    ] {
        let source = Source { place, stub, ..Source::default() };
        let path = folder.path().join(name);
        source.write(&path);
        let model = Model::open(&path, &options(2)).unwrap();
        assert!(model.weights_checked(), "small weights are checked at every load");
        assert_eq!((model.isa(), model.backend()), (ISA, "llvm"));
        assert_eq!(model.section("tokenizer"), Some(&b"{}"[..]));
        assert_eq!(model.is_executable(), name == "executable");
        let mut session = Session::new(Arc::new(model), 1).unwrap();
        let page = [session.states_mut().alloc_page().unwrap()];
        let sequence = Sequence { tokens: &[3, 1], past: 0, pages: &page, want: Want::Last };
        let logits = session.step(&Batch { sequences: &[sequence] }).unwrap();
        assert_eq!(logits, expected(&[(&[], &[3, 1], Want::Last)]));
    }
}

#[test]
fn a_missing_or_other_weights_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let source = Source { place: WeightsPlace::External, ..Source::default() };
    source.write(&path);
    let beside = folder.path().join("model.weights");
    let mut bytes = std::fs::read(&beside).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&beside, &bytes).unwrap();
    let code = || Model::open(&path, &options(1)).map(|_| ()).map_err(|error| error.code());
    assert_eq!(code(), Err("E0408"));
    bytes.push(0);
    std::fs::write(&beside, &bytes).unwrap();
    assert_eq!(code(), Err("E0410"));
    std::fs::remove_file(&beside).unwrap();
    assert_eq!(code(), Err("E0501"));
}

#[test]
fn the_level_of_the_code_is_chosen() {
    let code = support::image::of(support::KERNELS).build();
    let levels = [(ISA, "cranelift"), (ISA, "llvm"), ("z80", "llvm")];
    let code = levels.map(|(isa, backend)| (isa.into(), backend.into(), code.clone())).to_vec();
    let source = Source { code, ..Source::default() };
    let with = |isa: Option<&str>| {
        let options = LoadOptions { isa: isa.map(str::to_owned), ..options(1) };
        open(&source, &options)
            .map(|model| format!("{}/{}", model.isa(), model.backend()))
            .map_err(|error| error.code())
    };
    assert_eq!(with(None), Ok(format!("{ISA}/llvm")));
    assert_eq!(with(Some(ISA)), Ok(format!("{ISA}/llvm")));
    assert_eq!(with(Some(&format!("{ISA}/cranelift"))), Ok(format!("{ISA}/cranelift")));
    assert_eq!(with(Some("z80")), Err("E0523"), "the file has it, the machine does not");
    assert_eq!(with(Some("x86-64-v77")), Err("E0503"), "the file lacks it");
}

#[test]
fn what_cannot_be_run_is_refused_when_opening() {
    let code = |change: &dyn Fn(&mut Source)| {
        let mut source = Source::default();
        change(&mut source);
        let model = open(&source, &options(1)).and_then(|m| Session::new(Arc::new(m), 4));
        model.map(|_| ()).map_err(|error| error.code())
    };
    assert_eq!(code(&|_| ()), Ok(()));
    assert_eq!(code(&|s| s.plan.kernels[0].name = "absent".into()), Err("E0505"));
    assert_eq!(code(&|s| s.plan.places[0].kind = "cuda".into()), Err("E0506"));
    assert_eq!(code(&|s| s.plan.symbols[4] = "u".into()), Err("E0506"));
    assert_eq!(code(&|s| s.plan.entries[0].name = "verify".into()), Err("E0506"));
    assert_eq!(code(&|s| s.plan.entries[0].inputs[2].name = "mystery".into()), Err("E0506"));
    assert_eq!(code(&|s| s.plan.entries[0].inputs[2].dtype = "i64".into()), Err("E0506"));
    assert_eq!(code(&|s| s.plan.entries[0].outputs[0].name = "hidden".into()), Err("E0506"));
    assert_eq!(code(&|s| s.plan.version.0 += 1), Err("E0403"));
    assert_eq!(code(&|s| s.code.clear()), Err("E0502"));
    assert_eq!(code(&|s| s.code[0].2.truncate(100)), Err("E0504"));
    assert_eq!(code(&|s| s.weights.truncate(70)), Err("E0412"));
    let many = open(&Source::default(), &options(1_000_000)).map(|_| ());
    assert_eq!(many.map_err(|error| error.code()), Err("E0508"));
}

#[test]
fn bad_steps_are_refused_and_good_ones_still_run() {
    let mut session = session(&Source::default(), 2, 20);
    let code = |session: &mut Session, tokens: &[i32], past, pages: &[u32]| {
        let sequence = Sequence { tokens, past, pages, want: Want::All };
        let step = session.step(&Batch { sequences: &[sequence] });
        step.map(|logits| logits.len()).map_err(|error| error.code())
    };
    assert_eq!(code(&mut session, &[0, 5], 0, &[0]), Err("E0515"));
    assert_eq!(code(&mut session, &[0; 25], 0, &[0; 20]), Err("E0516"));
    assert_eq!(code(&mut session, &[0; 5], 0, &[0]), Err("E0516"));
    assert_eq!(code(&mut session, &[0; 5], 0, &[0, 20]), Err("E0516"));
    assert_eq!(code(&mut session, &[0; 5], 0, &[0, 19]), Ok(25));
    let long = [0; 20];
    let pages: Vec<u32> = (0..5).collect();
    let sequence = Sequence { tokens: &long, past: 0, pages: &pages, want: Want::None };
    // 80 rows are more than the plan's last bucket covers.
    let error = session.step(&Batch { sequences: &[sequence; 4] }).unwrap_err();
    assert_eq!(error.code(), "E0519");
    assert!(error.to_string().contains("n = 80, b = 4, m = 0"), "{error}");
    assert_eq!(code(&mut session, &[0; 5], 0, &[0, 19]), Ok(25));
}

#[test]
fn plans_whose_sizes_make_no_sense_are_refused() {
    let code = |change: &dyn Fn(&mut artifact::Plan)| {
        let mut plan = plan();
        change(&mut plan);
        let mut session = session(&Source { plan, ..Source::default() }, 2, 4);
        let sequence = Sequence { tokens: &[1, 2, 3], past: 0, pages: &[0], want: Want::All };
        let step = session.step(&Batch { sequences: &[sequence] });
        step.map(|_| ()).map_err(|error| error.code())
    };
    let many = 1;
    assert_eq!(code(&|_| ()), Ok(()));
    assert_eq!(
        code(&|p| p.entries[0].buckets[many].buffers[1].offset = SizeExpr::constant(8)),
        Err("E0520")
    );
    assert_eq!(
        code(&|p| p.entries[0].buckets[many].buffers[4].bytes = SizeExpr::constant(1 << 40)),
        Err("E0520")
    );
    assert_eq!(
        code(&|p| p.entries[0].buckets[many].arenas[0] = SizeExpr::constant(-1)),
        Err("E0520")
    );
    assert_eq!(
        code(&|p| p.entries[0].buckets[many].arenas[0] = SizeExpr::constant(i64::MAX)),
        Err("E0507")
    );
    let shrink = |tensor: &mut Tensor| tensor.bytes = SizeExpr::constant(4);
    assert_eq!(code(&|p| shrink(&mut p.entries[0].inputs[0])), Err("E0520"));
    assert_eq!(code(&|p| shrink(&mut p.entries[0].outputs[0])), Err("E0520"));
    let grow = |p: &mut artifact::Plan| {
        for step in &mut p.entries[0].buckets[many].steps {
            if let Step::Copy { bytes, .. } = step {
                *bytes = SizeExpr::constant(65);
            }
        }
    };
    assert_eq!(code(&grow), Err("E0520"));
}

#[test]
fn absurd_work_lists_are_refused() {
    let sequence = Sequence { tokens: &[1, 2, 3], past: 0, pages: &[0], want: Want::All };
    for extra in [1000, i32::MAX - 3, -4, i32::MIN] {
        let source = Source { weights: support::weights(extra), ..Source::default() };
        let mut session = session(&source, 2, 4);
        let error = session.step(&Batch { sequences: &[sequence] }).unwrap_err();
        assert_eq!(error.code(), "E0521", "{extra}");
    }
    // An empty list is no error: its launch has no instances.
    let source = Source { weights: support::weights(-3), ..Source::default() };
    assert!(session(&source, 2, 4).step(&Batch { sequences: &[sequence] }).is_ok());
}

#[test]
fn time_is_counted_per_kernel() {
    let mut session = session(&Source::default(), 2, 4);
    let sequence = Sequence { tokens: &[1, 2, 3], past: 0, pages: &[0], want: Want::All };
    let batch = Batch { sequences: &[sequence] };
    session.step(&batch).unwrap();
    assert!(session.stop_profiling().is_empty());
    session.start_profiling(Some(Limits { read_bytes_per_s: 4e9, flops_per_s: 1e9 }));
    for _ in 0..10 {
        session.step(&batch).unwrap();
    }
    let profile = session.stop_profiling();
    let launches: Vec<_> = profile.iter().map(|k| (k.name.as_str(), k.launches)).collect();
    let expected = [
        ("fill", 10),
        ("total", 10),
        ("tuples", 10),
        ("visit", 10),
        ("append", 20),
        ("attend", 10),
    ];
    assert_eq!(launches[..6], expected);
    assert_eq!(launches[6], ("scan", 0));
    assert!(profile[..6].iter().all(|kernel| kernel.nanoseconds > 0));
    // Three rows of 8 bytes and an operation each: 6 ns by memory, 3 ns by arithmetic.
    assert_eq!((profile[0].bytes, profile[0].flops), (10 * 24, 10 * 3));
    assert_eq!((profile[4].bytes, profile[4].flops), (20 * 24, 20 * 3));
    let least = profile[4].least_nanoseconds;
    assert!((least - 120.0).abs() < 1e-6, "{least}");
    assert!(session.stop_profiling().is_empty());
    // Without limits there is nothing to compare with.
    session.start_profiling(None);
    session.step(&batch).unwrap();
    let profile = session.stop_profiling();
    assert_eq!((profile[0].bytes, profile[0].least_nanoseconds), (24, 0.0));
}

#[test]
fn work_beyond_counting_is_an_error_of_profiles_alone() {
    let mut plan = plan();
    for step in &mut plan.entries[0].buckets[1].steps {
        if let Step::Launch(launch) = step {
            launch.work.flops = SizeExpr::constant(i64::MAX).then(symbol("n"), SizeOp::Mul);
        }
    }
    let mut session = session(&Source { plan, ..Source::default() }, 1, 4);
    let sequence = Sequence { tokens: &[1, 2, 3], past: 0, pages: &[0], want: Want::All };
    let batch = Batch { sequences: &[sequence] };
    assert!(session.step(&batch).is_ok());
    session.start_profiling(None);
    assert_eq!(session.step(&batch).map_err(|error| error.code()), Err("E0520"));
}

#[test]
fn limits_are_measured() {
    let mut session = session(&Source::default(), 2, 1);
    let limits = session.measure_limits().unwrap().unwrap();
    // Between a tape drive and a cache of the next century.
    assert!((1e8..1e13).contains(&limits.read_bytes_per_s), "{limits:?}");
    assert!((1e6..1e15).contains(&limits.flops_per_s), "{limits:?}");
    let mut plan = plan();
    plan.probes.remove(0);
    let mut session = self::session(&Source { plan, ..Source::default() }, 1, 1);
    assert_eq!(session.measure_limits().unwrap(), None);
}

#[test]
fn sizes_are_told_before_anything_runs() {
    let model = open(&Source::default(), &options(1)).unwrap();
    let memory = model.memory();
    assert_eq!(memory.weights_bytes, 84);
    assert_eq!(memory.kv_bytes_per_token, 2 * 4);
    assert_eq!(memory.scratch_bytes, 4);
    let shape = Shape { n: 17, b: 1, m: 1, mp: 5, t: 17, pg: 5 };
    assert_eq!(model.arena_bytes(&shape).unwrap(), 3 * 128 + 192 + 320);
    let none = model.arena_bytes(&Shape { n: 61, ..shape });
    assert_eq!(none.map_err(|error| error.code()), Err("E0519"));
}

#[test]
fn damaged_code_is_refused_before_it_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    Source::default().write(&path);
    let mut file = std::fs::read(&path).unwrap();
    let code = image::of(support::KERNELS).build();
    let at = file.windows(64).position(|bytes| bytes == &code[..64]).unwrap();
    file[at + 70_000] ^= 1;
    std::fs::write(&path, &file).unwrap();
    let error = Model::open(&path, &options(1)).unwrap_err();
    assert_eq!(error.code(), "E0407");
    assert!(error.to_string().contains("code/cpu"), "{error}");
    let absent = Model::open(&folder.path().join("absent"), &options(1)).unwrap_err();
    assert_eq!(absent.code(), "E0501");
    let error = Model::open_self(&options(1)).unwrap_err();
    assert_eq!(error.code(), "E0401", "the test's executable holds no artifact");
}
