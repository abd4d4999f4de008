//! The target's face: levels, objects, listings, errors; and what its programs prefetch.

use ir::expand::{Machine, expand};
use ir::kernel::{Kernel, parse};
use ir::loops::interp::{self, Memory};
use ir::target::{Listing, Support, Target};
use object::{Architecture, Object, ObjectSection, ObjectSymbol};
use target_cranelift::Cranelift;

fn worked() -> Vec<Kernel> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/files/kernel");
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder of kernels")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "kernel"))
        .collect();
    names.sort();
    let read = |path| std::fs::read_to_string(path).expect("a kernel's text");
    names.iter().map(|n| parse::kernel(&read(n)).expect("a kernel")).collect()
}

#[test]
fn objects_for_every_architecture_need_no_linking() {
    let kernels = worked();
    let kernels: Vec<&Kernel> = kernels.iter().collect();
    for (level, architecture) in [
        ("x86-64-v2", Architecture::X86_64),
        ("x86-64-v3", Architecture::X86_64),
        ("aarch64-v8", Architecture::Aarch64),
    ] {
        let code = Cranelift.compile(&kernels, level).unwrap_or_else(|e| panic!("{level}: {e}"));
        let file = object::File::parse(&*code.bytes).expect("an object");
        assert_eq!(file.architecture(), architecture);
        assert!(file.sections().all(|s| s.relocations().count() == 0), "{level}");
        for kernel in &kernels {
            let defined = |s: &object::Symbol| s.name() == Ok(&kernel.name) && s.is_definition();
            assert_eq!(file.symbols().filter(defined).count(), 1, "{}", kernel.name);
        }
        let names: Vec<&str> = code.kernels.iter().map(|k| k.0.as_str()).collect();
        assert_eq!(names, kernels.iter().map(|k| &*k.name).collect::<Vec<_>>());
    }
}

#[test]
fn equal_input_gives_equal_bytes() {
    let kernels = worked();
    let kernels: Vec<&Kernel> = kernels.iter().collect();
    let once = Cranelift.compile(&kernels, "x86-64-v3").expect("code");
    let again = Cranelift.compile(&kernels, "x86-64-v3").expect("code");
    assert!(once == again);
}

#[test]
fn levels_have_their_instructions_and_no_others() {
    let kernels = worked();
    let kernels: Vec<&Kernel> = kernels.iter().collect();
    let asm = |level| Cranelift.listing(&kernels, level, Listing::Asm).expect("a listing");
    let (v2, v3) = (asm("x86-64-v2"), asm("x86-64-v3"));
    assert!(v3.contains("vfmadd"));
    let encoded_wide = |line: &str| {
        let op = line.split_whitespace().next().unwrap_or("");
        op.starts_with('v') && op.len() > 3
    };
    let wrong = v2.lines().find(|l| encoded_wide(l));
    assert_eq!(wrong, None);
    let ir = Cranelift.listing(&kernels, "aarch64-v8", Listing::Ir).expect("a listing");
    assert!(ir.contains("function") && ir.contains("fma"), "{}", &ir[..200]);
}

#[test]
fn what_cannot_be_done_is_said() {
    let kernels = worked();
    let kernel = &kernels[0];
    let unknown = Cranelift.compile(&[kernel], "x86-64-v9").expect_err("no such level");
    assert!(unknown.to_string().contains("x86-64-v3"), "{unknown}");
    let twice = Cranelift.compile(&[kernel, kernel], "x86-64-v2").expect_err("a name twice");
    assert!(twice.to_string().contains("no object file"), "{twice}");
    assert!(kernels.iter().all(|k| Cranelift.supports(k) == Support::Yes));
    let carried = parse::kernel(
        "kernel @carried row (%x: in i8<f32 1x4>[n, 8], %y: out i8<f32 1x4>[n, 8])
           where 1 <= n <= 4 {
           grid %i in 0..n step 1 {
             %a = load %x[%i+1, 0+8] keep : i8<f32 1x4>[1, 8]
             %b = for %k in 0..2 step 1 carry %c = %a {
               yield %c
             }
             store %b, %y[%i+1, 0+8]
           }
         }",
    )
    .expect("a kernel");
    let error = expand(&carried, &Machine { lanes: 4, mma: &|_| false }).expect_err("no loops");
    assert_eq!(error.kind.code(), "E0301");
    let Support::No(reason) = Cranelift.supports(&carried) else { panic!("it cannot") };
    assert!(reason.contains("carried"), "{reason}");
    let refused = Cranelift.compile(&[&carried], "x86-64-v2").expect_err("no loops");
    assert!(refused.to_string().contains("has no loops"), "{refused}");
}

/// A product over `%w` of 64 by 512 with a fan; what a worker of all instances prefetches, and the
/// addresses of `%w` and `%next`.
fn prefetched(
    weights: &str,
    code: &str,
    fan: u64,
    span: u64,
    absent: bool,
) -> ([u64; 2], Vec<u64>) {
    let kernel = parse::kernel(&format!(
        "kernel @fan contraction (%x: in bf16[n, 512], %w: in {weights},
           %next: prefetch u8[{span}], %y: out f32[n, 64]) where 1 <= n <= 4 {{
           grid %j in 0..64 step 16 {{
             %zero = splat 0 : f32[4, 16]
             %acc = for %k in 0..512 step 64 carry %a = %zero fan={fan} then %next {{
               %xt = load %x[0+4 where <n, %k+64] : bf16[4, 64]
               %wt = load %w[%j+16, %k+64] keep : {code}[16, 64]
               %b = mma %a, %xt, %wt : f32[4, 16]
               yield %b
             }}
             store %acc, %y[0+4 where <n, %j+16]
           }}
         }}"
    ))
    .expect("a kernel");
    let program = expand(&kernel, &Machine { lanes: 8, mma: &|_| false }).expect("loops");
    let mut memory = Memory::default();
    let sizes = [512 * 2, span, span, 64 * 4];
    let mut args: Vec<u64> = sizes.map(|s| memory.add(vec![0; s as usize])).to_vec();
    if absent {
        args[2] = 0;
    }
    args.push(1);
    interp::run(&program, &args, 0, 4, &mut memory).expect("a run");
    ([args[1], args[2]], memory.prefetched)
}

#[test]
fn every_line_of_a_span_is_prefetched_once_a_block_ahead() {
    let lines = |from: u64, to: u64| (from..to).step_by(64).collect::<Vec<u64>>();
    for (weights, code, fan, span) in [
        ("bf16[64, 512] packed [0/16, 1/2, 0:16, 1:2]", "bf16", 2, 64 * 512 * 2),
        (
            "i4<f16 1x32>[64, 512] packed \
             [0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1:4, 1/4:2]",
            "i4<f16 1x32>",
            1,
            4 * 8 * 576,
        ),
    ] {
        let block = fan * 4096;
        // Whole blocks are prefetched line by line, whatever the span leaves of the last one.
        let units = span / (fan * 64);
        for absent in [false, true] {
            let ([w, next], found) = prefetched(weights, code, fan, span, absent);
            assert_eq!(found.len() as u64, units * fan);
            let within = |from: u64, len: u64| {
                let inside = found.iter().filter(|a| (from..from + len).contains(*a));
                let mut lines: Vec<u64> = inside.map(|a| a - from).collect();
                lines.sort_unstable();
                lines
            };
            assert_eq!(within(w, span), lines(block, span), "{weights}");
            let ahead = if absent { within(w + span, block) } else { within(next, block) };
            assert_eq!(ahead, lines(0, block), "{weights}");
        }
    }
}
