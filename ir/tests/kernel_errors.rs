//! Wrong kernels: every error of a text, with its code and place.

use ir::attr::Attr;
use ir::dtype::DType;
use ir::kernel::builder::{At, KernelBuilder, tensor};
use ir::kernel::interp::InterpError;
use ir::kernel::interp::{Buffer, run};
use ir::kernel::verify::verify;
use ir::kernel::{LoopHints, Role, TileType, parse};

/// A kernel with these statements.
fn with(body: &str) -> String {
    format!(
        "kernel @k row (
  %x: in f32[n, 8],
  %i: in i32[n],
  %q: in i4<f16 1x4>[n, 8],
  %y: out f32[n, 8],
  %w: in list(a, b) max n,
  %p: prefetch u8[64]
) where 1 <= n <= 9 {{
  grid (%a, %b) in %w {{
    %c = splat 1 : f32[4, 8]
    %ok = splat 1 : bool
{body}
  }}
}}
"
    )
}

/// Codes of a text's errors and what their spans mark.
fn errors(source: &str) -> Vec<(&'static str, &str)> {
    let errors = parse::kernel(source).expect_err("a wrong kernel");
    let one = |e: &ir::error::IrError| {
        let span = e.span.expect("a span");
        (e.kind.code(), &source[span.start..span.end])
    };
    errors.iter().map(one).collect()
}

#[test]
fn each_broken_rule_has_its_code() {
    for (code, line) in [
        ("E0140", "%m = mma %c, %c, %c : f32[4, 8]"),
        ("E0140", "%s = slice %c [1, 0] : f32[4, 8]"),
        ("E0141", "%m = map { %q0 + 1 } : f32[4, 8]"),
        ("E0141", "%m = reduce add %ok over 0 : bool"),
        ("E0142", "%m = mma %a, %c, %c : f32[4, 8]"),
        ("E0143", "%m = reduce add %c over 2 : f32[4]"),
        ("E0144", "%m = map { %c + 1 } : i32[4, 8]"),
        ("E0144", "%m = load %x[0+4 where <n, 0+8] : f32[4, 9]"),
        ("E0146", "%m = map { %c + %a } : f32[4, 8]"),
        ("E0146", "%m = splat 0.5 : i32[4]"),
        ("E0148", "%m = cast %nowhere : bf16[4, 8]"),
        ("E0149", "%c = splat 0 : f32[4]"),
        ("E0152", "%m = load %x[0+4 where <n] : f32[4]"),
        ("E0153", "%m = load %x[%r, %r] : f32[4]"),
        ("E0153", "%m = load %q[%a, %r] keep : i4<f16 1x4>[4]"),
        ("E0154", "%m = load %y[0+4 where <n, 0+8] : f32[4, 8]"),
        ("E0154", "%m = load %p[0+4] : u8[4]"),
        ("E0154", "store %c, %x[0+4 where <n, 0+8]"),
        ("E0156", "%m = map { 1 + 2 } : f32"),
        ("E0157", "%m = dim t : i32"),
        ("E0158", "%m = splat 0 : f32[4, 0]"),
        ("E0158", "%m = lookup %r [1, 2] : f32[4]"),
        ("E0159", "%m = map { %buf + 1 } : f32[4, 8]"),
        ("E0159", "store %c, %c[0+4, 0+8]"),
        ("E0162", "store %c, %y[0+4 where <n, 0+7]"),
    ] {
        let lead = "    %r = iota 0 : i32[4]\n    %buf = alloc : f32[4, 8]\n    \
            %q0 = load %q[0+4 where <n, 0+8] keep : i4<f16 1x4>[4, 8]\n    ";
        let source = with(&format!("{lead}{line}"));
        let found = errors(&source);
        assert_eq!(found.len(), 1, "{line}: {found:?}");
        assert_eq!(found[0].0, code, "{line}: {found:?}");
        assert!(line.contains(found[0].1), "{line}: {found:?}");
    }
}

#[test]
fn loops_and_choices_keep_types() {
    let carried = "    %r = for %k in 0..n step 1 carry %s = %c then %x {\n      \
        %t = cast %s : bf16[4, 8]\n      yield %t\n    }";
    let source = with(carried);
    let found = errors(&source);
    let codes: Vec<_> = found.iter().map(|f| f.0).collect();
    assert_eq!(codes, ["E0154", "E0155"]);
    let head = "%r = for %k in 0..n step 1 carry %s = %c then %x";
    assert!(found.iter().all(|f| f.1 == head), "{found:?}");

    let chosen = "    %r = if %c {\n      yield %c\n    } else {\n      yield %ok\n    }\n    \
        %z = map { %k + 1 } : i32";
    let codes: Vec<_> = errors(&with(chosen)).into_iter().map(|f| f.0).collect();
    assert_eq!(codes, ["E0148"], "names come before types");
    let codes: Vec<_> = errors(&with(chosen.rsplit_once('\n').expect("lines").0))
        .into_iter()
        .map(|f| f.0)
        .collect();
    assert_eq!(codes, ["E0142", "E0141", "E0155"]);

    let inner = "    %r = if %ok {\n      %in = splat 1 : f32\n      yield %in\n    } else {\n\
              yield %ok\n    }\n    %z = map { %in + 1 } : f32";
    let codes: Vec<_> = errors(&with(inner)).into_iter().map(|f| f.0).collect();
    assert_eq!(codes, ["E0155", "E0148"], "a block's values end with it");
}

#[test]
fn grammar_errors_are_all_reported() {
    let body = "    %m = map { %c + } : f32[4, 8]\n    %n = cast %m : bf16[4, 8]\n    \
        %o = frobnicate %c : f32\n    for %k in 0..n stride 2 {\n      %u = cast : f32\n    }\n    \
        store %c %y[0+4 where <n, 0+8]";
    let source = with(body);
    let found = errors(&source);
    let expected = [
        ("E0101", "}"),
        ("E0101", "frobnicate"),
        ("E0101", "stride"),
        ("E0101", ":"),
        ("E0101", "%y"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn heads_are_checked() {
    let good = with("");
    assert!(parse::kernel(&good).is_ok());
    for (code, from, to) in [
        ("E0150", "@k ", "@k.1 "),
        ("E0149", "%i: in", "%x: in"),
        ("E0157", "1 <= n <= 9", "n = 4"),
        ("E0157", "i32[n]", "i32[m]"),
        ("E0156", "(%a, %b) in", "(%a) in"),
        ("E0154", "%w: in list", "%w: out list"),
        ("E0158", "f32[n, 8],\n  %i", "f32[n, -8],\n  %i"),
        ("E0151", "f32[n, 8],\n  %i", "f32[n, 8] packed [0/2, 1/1],\n  %i"),
        ("E0141", "i4<f16 1x4>", "i4<i8 1x4>"),
        ("E0101", "row (", "row{a = } ("),
    ] {
        let source = good.replacen(from, to, 1);
        assert_ne!(source, good);
        let found = errors(&source);
        assert_eq!(found.first().map(|f| f.0), Some(code), "{to}: {found:?}");
    }
}

#[test]
fn a_builder_collects_mistakes() {
    let mut b = KernelBuilder::new("k", "row");
    let x = b.param("x", Role::In, tensor(DType::F32, &[8.into()]));
    let y = b.param("y", Role::Out, tensor(DType::F32, &[8.into()]));
    let t = b.load(x, &[At::tile(0, 8)]);
    let wrong = b.reduce(ir::kernel::Fold::Add, 3, t);
    // What follows from a mistake is none of its own.
    let follows = b.map("a + 1", &[("a", wrong)]);
    let looped = b.for_loop(0, 8, 1, &[("s", follows)], LoopHints::default(), |b, _, s| {
        vec![b.map("s * 2", &[("s", s[0])])]
    });
    b.store(looped[0], y, &[At::tile(0, 8)]);
    b.map("a +", &[("a", t)]);
    b.splat(0.0, TileType::new(DType::F32, &[0]));
    let codes: Vec<_> = b.finish().expect_err("mistakes").iter().map(|e| e.kind.code()).collect();
    assert_eq!(codes, ["E0143", "E0101", "E0158"]);
}

/// Runs a kernel over `x: f32[n, 8]` and `i: i32[n]` with one work item, (0, 4).
fn fails(body: &str, indices: &[i32]) -> (&'static str, String) {
    let kernel = parse::kernel(&with(body)).unwrap_or_else(|e| panic!("{e:?}"));
    let n = indices.len();
    let bytes = |v: &[i32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (x, q, mut y) = (vec![0; n * 32], vec![0; 4096], vec![0; n * 32]);
    let (i, mut w) = (bytes(indices), bytes(&[2, 0, 0, 4, 0, 4]));
    w.resize((n + 1) * 8, 0);
    let buffers = vec![
        Buffer::Read(&x),
        Buffer::Read(&i),
        Buffer::Read(&q),
        Buffer::Write(&mut y),
        Buffer::Read(&w),
        Buffer::Absent,
    ];
    let error = run::<f32>(&kernel, buffers, &[n as i64]).expect_err("a kernel that goes wrong");
    (error.code(), error.to_string())
}

#[test]
fn running_wrong_is_an_error() {
    for (code, text, body) in [
        (
            "E0163",
            "position 4 of axis 0 of x, expected 0 to below 4",
            "%t = load %x[%b, 0+8] : f32[8]",
        ),
        ("E0163", "position -1 of axis 1 of x", "%t = load %x[0, -1+8] : f32[8]"),
        ("E0163", "position 8 of axis 0 of buf", "%t = load %buf[5+4] : f32[4]"),
        ("E0164", "instances 0 and 1 both touch element [0, 0] of y", "store %c, %y[0+4, 0+8]"),
        ("E0163", "scratch buf", "%t = load %buf[0+4] : f32[4]"),
        ("E0163", "by 0", "%t = map { %b / %a } : i32"),
        ("E0163", "pick at position 7", "%j = load %i[0+4] : i32[4]\n %t = pick %d, %j : f32[4]"),
        (
            "E0163",
            "position 7 of axis 0",
            "%j = load %i[0+4] : i32[4]\n %t = load %x[%j, 0] : f32[4]",
        ),
    ] {
        let body = format!("%buf = alloc : f32[8]\n%d = splat 2 : f32[3]\n{body}");
        let (found, message) = fails(&body, &[0, 1, 7, 2]);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn bindings_are_checked() {
    let kernel = parse::kernel(&with("")).expect("a kernel");
    let run = |symbols: &[i64], x: &[u8], count: u8| {
        let (i, q, mut y, mut w) = (vec![0; 64], vec![0; 4096], vec![0; 320], vec![0; 80]);
        w[0] = count;
        let buffers = vec![
            Buffer::Read(x),
            Buffer::Read(&i),
            Buffer::Read(&q),
            Buffer::Write(&mut y),
            Buffer::Read(&w),
            Buffer::Absent,
        ];
        run::<f64>(&kernel, buffers, symbols)
    };
    let x = vec![0; 9 * 32];
    assert_eq!(run(&[9], &x, 9), Ok(()));
    assert!(matches!(run(&[10], &x, 0), Err(InterpError::Size { .. })));
    assert!(matches!(run(&[], &x, 0), Err(InterpError::Size { .. })));
    assert!(matches!(run(&[9], &x[1..], 0), Err(InterpError::Buffer { .. })));
    assert!(matches!(run(&[9], &x, 10), Err(InterpError::Size { .. })));
}

#[test]
fn parameters_of_a_family_can_be_written() {
    let mut kernel = parse::kernel(&with("")).expect("a kernel");
    let sound = Attr::Name("wide".into());
    kernel.family.params = vec![("shape".into(), sound)];
    assert_eq!(verify(&kernel), Ok(()));
    kernel.family.params[0].1 = Attr::Name("two words".into());
    let codes: Vec<_> =
        verify(&kernel).expect_err("no word").iter().map(|e| e.kind.code()).collect();
    assert_eq!(codes, ["E0160"]);
}
