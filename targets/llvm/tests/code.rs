//! What objects may contain: no imports, no instruction of a higher level, the same bytes always.

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

mod native;

use ir::dtype::{DType, Scale};
use ir::loops::{Elem, Inst, Program, Reg, Stmt};
use ir::target::{Listing, Target, TargetError};
use native::build::Build;
use native::product::{Case, Lie, program};
use object::{Object, ObjectSymbol};
use target_llvm::{Llvm, LlvmError};

/// Products of every kind, of tiles that are and are not whole.
fn products(lanes: u32) -> Vec<Program> {
    use DType::{BF16, F8E4M3, F16, F32, I4, I8};
    let scale = Some(Scale { dtype: DType::F16, rows: 16, cols: 32, sum: false });
    let blocked = |group, scale| Lie::Blocked { lanes: 16, group, scale };
    let mut cases = Vec::new();
    for (left, right, lie) in [
        (BF16, BF16, blocked(2, None)),
        (F32, BF16, blocked(2, None)),
        (F32, F32, blocked(1, None)),
        (F16, F16, blocked(2, None)),
        (BF16, BF16, Lie::Rows),
        (BF16, BF16, Lie::Columns { known: true }),
        (F32, F16, Lie::Scattered),
        (BF16, F8E4M3, blocked(4, scale)),
        (BF16, I8, blocked(4, scale)),
        (BF16, I4, blocked(8, scale)),
    ] {
        for (m, valid) in [(1, [None; 3]), (17, [None; 3]), (9, [Some(5), Some(30), Some(50)])] {
            cases.push(Case { valid, ..Case::of([m, 40, 64], [left, right], lie) });
        }
    }
    let name = |i| format!("p{i}");
    cases.iter().enumerate().map(|(i, c)| program(&name(i), lanes, c)).collect()
}

fn levels() -> impl Iterator<Item = (&'static str, u32)> {
    [
        ("x86-64-v2", 4),
        ("x86-64-v3", 8),
        ("x86-64-v4", 16),
        ("x86-64-v4-bf16", 16),
        ("x86-64-amx", 16),
        ("aarch64-v8.2", 4),
        ("amx-soft", 8),
    ]
    .into_iter()
}

#[test]
fn objects_import_nothing_and_export_kernels() {
    for (level, lanes) in levels() {
        let programs = products(lanes);
        let object = Llvm::host().compile_programs(&programs, level).unwrap();
        let file = object::File::parse(object.bytes.as_slice()).unwrap();
        for s in file.symbols().filter(|s| s.is_undefined()) {
            assert_eq!(s.name(), Ok(""), "{level}");
        }
        let mut names: Vec<&str> =
            file.symbols().filter(|s| s.is_global()).map(|s| s.name().unwrap()).collect();
        let mut wanted: Vec<&str> = object.kernels.iter().map(|k| k.0.as_str()).collect();
        names.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(names, wanted, "{level}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_runs() {
    for (level, lanes) in levels() {
        let programs = products(lanes);
        let one = Llvm::host().with_threads(1).compile_programs(&programs, level).unwrap();
        let many = Llvm::host().with_threads(5).compile_programs(&programs, level).unwrap();
        assert!(one == many, "{level}");
    }
}

/// Mnemonics and registers of a listing.
fn words(asm: &str) -> impl Iterator<Item = &str> {
    asm.lines()
        .filter(|l| l.starts_with('\t') && !l.trim_start().starts_with(['.', '#', '/']))
        .flat_map(|l| l.split(|c: char| c.is_whitespace() || ",(){}".contains(c)))
        .filter(|w| !w.is_empty())
}

/// What only levels above have.
fn forbidden(level: &str, word: &str) -> bool {
    let wide = word.starts_with("%zmm")
        || word.starts_with("%k") && word.len() == 3 && word.ends_with(|c: char| c.is_numeric())
        || word
            .strip_prefix("%ymm")
            .or(word.strip_prefix("%xmm"))
            .is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n > 15));
    let brain = word.contains("bf16") || word.starts_with("vpdp");
    let tile = word.starts_with("tile") || word.starts_with("%tmm") || word.starts_with("ldtile");
    // Of AVX-512, but not of its base: VBMI, IFMA, FP16, BITALG.
    let other = ["vpermb", "vpermi2b", "vpermt2b", "vpmultishiftqb", "vpmadd52", "vpopcnt"];
    let other = other.iter().any(|p| word.starts_with(p)) || word.ends_with("ph") && word != "vph";
    match level {
        "x86-64-v2" => wide || brain || tile || word.starts_with('v') || word.starts_with("%ymm"),
        "x86-64-v3" | "amx-soft" => wide || brain || tile,
        "x86-64-v4" => brain || tile || other,
        "x86-64-v4-bf16" => tile || other,
        _ => other,
    }
}

#[test]
fn levels_keep_to_their_instructions() {
    for (level, lanes) in levels().filter(|(l, _)| !l.starts_with("aarch64")) {
        let asm = Llvm::x86_64().list_programs(&products(lanes), level, Listing::Asm).unwrap();
        let converts = ["vcvtph2ps", "vcvtps2ph"];
        let wrong: Vec<&str> =
            words(&asm).filter(|w| forbidden(level, w) && !converts.contains(w)).collect();
        assert!(wrong.is_empty(), "{level}: {:?}", &wrong[..wrong.len().min(10)]);
        let uses = |prefix: &str| words(&asm).any(|w| w.starts_with(prefix));
        assert_eq!(uses("%zmm"), lanes == 16, "{level}");
        assert_eq!(uses("vdpbf16ps"), ["x86-64-v4-bf16", "x86-64-amx"].contains(&level), "{level}");
        assert_eq!(uses("tdpbf16ps"), level == "x86-64-amx", "{level}");
        assert_eq!(uses("vfmadd"), level != "x86-64-v2", "{level}");
    }
}

#[test]
fn aarch64_multiplies_vectors() {
    let programs = products(4);
    let asm = Llvm::aarch64().list_programs(&programs, "aarch64-v8.2", Listing::Asm).unwrap();
    assert!(words(&asm).any(|w| w == "fmla" || w == "fmla.4s"));
    // Of later levels.
    for later in ["bfdot", "bfmmla", "smmla", "whilelo", "ptrue"] {
        assert!(!words(&asm).any(|w| w == later), "{later}");
    }
}

#[test]
fn listings_name_the_kernel() {
    let programs = &products(16)[..2];
    for what in [Listing::Ir, Listing::Asm] {
        let text = Llvm::x86_64().list_programs(programs, "x86-64-v4", what).unwrap();
        assert!(text.contains("p0") && text.contains("p1"));
    }
    let levels = Llvm::x86_64().isa_levels().to_vec();
    assert!(!levels.contains(&"amx-soft") && levels.contains(&"x86-64-amx"));
}

fn fault(programs: &[Program], level: &str) -> LlvmError {
    Llvm::x86_64().compile_programs(programs, level).unwrap_err()
}

#[test]
fn faults_are_named() {
    let empty = |name: &str| Build::new(8).finish(name, 0);
    assert!(matches!(fault(&[empty("a")], "x86-64-v9"), LlvmError::UnknownLevel { .. }));
    assert!(matches!(fault(&[empty("a"), empty("a")], "x86-64-v3"), LlvmError::Name { .. }));
    assert!(matches!(fault(&[empty("a-b")], "x86-64-v3"), LlvmError::Name { .. }));
    assert!(matches!(fault(&[empty("")], "x86-64-v3"), LlvmError::Name { .. }));

    // A register used before its definition, and one of the wrong type.
    let mut b = Build::new(8);
    let r = b.reg(Elem::I64, 1);
    b.store(ir::loops::MemElem::I64, r, 0, r);
    assert!(matches!(fault(&[b.finish("a", 0)], "x86-64-v3"), LlvmError::Malformed { .. }));
    let mut b = Build::new(8);
    b.set(Elem::F32, 8, Inst::Int(1));
    assert!(matches!(fault(&[b.finish("a", 0)], "x86-64-v3"), LlvmError::Malformed { .. }));
    let mut b = Build::new(8);
    b.push(Stmt::Let(Reg(7), Inst::Int(1)));
    assert!(matches!(fault(&[b.finish("a", 0)], "x86-64-v3"), LlvmError::Malformed { .. }));
    let mut b = Build::new(8);
    b.set(Elem::I32, 3, Inst::Int(1));
    assert!(matches!(fault(&[b.finish("a", 0)], "x86-64-v3"), LlvmError::Malformed { .. }));

    // Scratch of more than there are addresses, a product of nothing.
    let whole = Case::of([1, 16, 2], [DType::F32, DType::BF16], Lie::Rows);
    let mut p = program("a", 8, &whole);
    p.scratch_bytes = u64::MAX - 1;
    assert!(matches!(fault(&[p], "x86-64-v3"), LlvmError::Malformed { .. }));
    assert!(matches!(
        fault(&[program("a", 8, &Case { k: 0, ..whole })], "x86-64-v3"),
        LlvmError::Product { .. }
    ));

    // A value that does not dominate its use is LLVM's to find.
    let mut b = Build::new(8);
    let yes = b.set(Elem::Bool, 1, Inst::Int(1));
    let mut inner = None;
    let begin = b.set(Elem::I64, 1, Inst::Begin);
    b.either(yes, |b| inner = Some(b.arith(ir::loops::Arith::Add, begin, begin)), |_| {});
    let p = b.argument(0);
    b.store(ir::loops::MemElem::I64, p, 0, inner.unwrap());
    let e = fault(&[b.finish("a", 0)], "x86-64-v3");
    assert!(matches!(e, LlvmError::Refused { .. }), "{e}");
    assert!(!e.help().is_empty());
}
