//! Times of compilation and of hot kernels; `cargo test --release -p target-cranelift --test speed
//! -- --ignored --nocapture`.

mod support;

use ir::target::Target;
use std::time::Instant;
use support::{Case, Native};
use target_cranelift::Cranelift;

fn best(rounds: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..rounds).map(|_| {
        let begin = Instant::now();
        run();
        begin.elapsed().as_secs_f64()
    });
    times.fold(f64::MAX, f64::min)
}

fn measure(what: &str, case: &Case, bytes: f64, flops: f64) {
    let level = *support::levels().last().expect("a level");
    let program = target_cranelift::program(&case.kernel).expect("loops");
    let expanding = best(5, || {
        target_cranelift::program(&case.kernel).expect("loops");
    });
    let compiling = best(5, || {
        Cranelift.compile(&[&case.kernel], level).expect("code");
    });
    let object = Cranelift.compile(&[&case.kernel], level).expect("code");
    let native = Native::map(&object);
    let mut memory: Vec<Vec<u8>> = case.tensors.iter().map(|t| t.bytes.clone()).collect();
    let mut args: Vec<u64> = memory.iter_mut().map(|m| m.as_mut_ptr() as u64).collect();
    args.extend(case.symbols.iter().map(|s| *s as u64));
    let all = case.instances();
    let seconds = best(7, || native.call(&case.kernel.name, &args, 0, all));
    println!(
        "{what}: {:.2} ms, {:.1} GB/s, {:.1} GFLOP/s; expanded in {:.2} ms, compiled in {:.2} ms, \
         {} registers, {} bytes of code, {} of scratch",
        seconds * 1e3,
        bytes / seconds / 1e9,
        flops / seconds / 1e9,
        expanding * 1e3,
        compiling * 1e3,
        program.regs.len(),
        object.bytes.len(),
        program.scratch_bytes,
    );
}

fn gemv(ty: &str, rows: u32, n: i64, keep: &str, code: &str) {
    let text = format!(
        "kernel @gemv contraction (%x: in bf16[n, 2048], %w: in {ty}, %y: out f32[n, 1408])
          where 1 <= n <= 64 {{
          grid %i in 0..n step {rows}, %j in 0..1408 step 16 {{
            %zero = splat 0 : f32[{rows}, 16]
            %acc = for %k in 0..2048 step 256 carry %a = %zero {{
              %xt = load %x[%i+{rows} where <n, %k+256] : bf16[{rows}, 256]
              %wt = load %w[%j+16, %k+256] {keep} : {code}[16, 256]
              %b = mma %a, %xt, %wt : f32[{rows}, 16]
              yield %b
            }}
            store %acc, %y[%i+{rows} where <n, %j+16]
          }}
        }}"
    );
    let case = Case::new(&text, &[n]);
    let flops = 2.0 * 1408.0 * 2048.0 * n as f64;
    measure(&format!("gemv {ty} n={n}"), &case, case.tensors[1].bytes.len() as f64, flops);
}

#[test]
#[ignore = "a measurement"]
fn products() {
    for (ty, keep, code) in [
        ("bf16[1408, 2048]", "", "bf16"),
        ("bf16[1408, 2048] packed [0/16, 1/2, 0:16, 1:2]", "", "bf16"),
        ("f32[1408, 2048] packed [0/16, 1/1, 0:16]", "", "f32"),
        ("i8<f32 1x32>[1408, 2048] packed [0/16, 1/4, 0:16, 1:4]", "keep", "i8<f32 1x32>"),
        (
            "fp8_e4m3<f32 128x128>[1408, 2048] packed [0/16, 1/4, 0:16, 1:4]",
            "keep",
            "fp8_e4m3<f32 128x128>",
        ),
        ("i4<f16 1x32>[1408, 2048] packed [0/16, 1/8, 0:16, 1:8]", "keep", "i4<f16 1x32>"),
    ] {
        gemv(ty, 1, 1, keep, code);
        gemv(ty, 4, 4, keep, code);
        gemv(ty, 32, 64, keep, code);
    }
}

#[test]
#[ignore = "a measurement"]
fn attention() {
    let text = "kernel @mla attention (%q: in bf16[n, 16, 576], %c: in bf16[pg, 64, 576],
      %pages: in i32[b, mp],
        %o: out f32[parts, 16, 512], %lse: out f32[parts, 16], %work: in list(row, seq, h, t0,
          t1, part) max parts)
        where 1 <= b <= 4, 1 <= mp <= 4096, 1 <= n <= 4, 1 <= parts <= 4096, 1 <= pg <= 1048576 {
      grid (%row, %seq, %h, %t0, %t1, %part) in %work {
        %qt = load %q[%row, %h+16, 0+576] : bf16[16, 576]
        %low = splat lowest : f32[16]
        %nil = splat 0 : f32[16]
        %blank = splat 0 : f32[16, 512]
        %none = splat 0 : f32[16, 64]
        %at = iota 1 : i32[16, 64]
        %m, %l, %acc = for %t in %t0..%t1 step 64 carry %m0 = %low, %l0 = %nil,
          %a0 = %blank stages=2 {
          %slot = map { %t / 64 } : i32
          %pg = load %pages[%seq, %slot] : i32
          %kt = load %c[%pg, 0+64, 0+576] : bf16[64, 576]
          %s = mma %none, %qt, %kt : f32[16, 64]
          %sm = map { select(%t + %at < %t1, %s * 0.456, lowest) } : f32[16, 64]
          %top = reduce max %sm over 1 : f32[16]
          %m1 = map { max(%m0, %top) } : f32[16]
          %p = map { exp2(%sm - %m1) } : f32[16, 64]
          %r = map { exp2(%m0 - %m1) } : f32[16]
          %ps = reduce add %p over 1 : f32[16]
          %l1 = map { %l0 * %r + %ps } : f32[16]
          %a1 = map { %a0 * %r } : f32[16, 512]
          %pc = cast %p : bf16[16, 64]
          %vt = slice %kt [0, 0] : bf16[64, 512]
          %vk = transpose %vt [1, 0] : bf16[512, 64]
          %a2 = mma %a1, %pc, %vk : f32[16, 512]
          yield %m1, %l1, %a2
        }
        %out = map { %acc / %l } : f32[16, 512]
        store %out, %o[%part, %h+16, 0+512]
        %sum = map { %m + log2(%l) } : f32[16]
        store %sum, %lse[%part, %h+16]
      }
    }";
    let case = Case::new(text, &[1, 64, 1, 4, 64]).set("pages", |p| p[1] as f64).list(
        "work",
        &(0..4).map(|i| vec![0, 0, 0, i * 1024, (i + 1) * 1024, i]).collect::<Vec<_>>(),
    );
    let flops = 2.0 * 16.0 * 4096.0 * (576.0 + 512.0);
    measure("attention, 4096 rows", &case, 4096.0 * 1152.0, flops);
}

#[test]
#[ignore = "a measurement"]
fn rows() {
    let text = "kernel @norm row (%x: in bf16[n, 2048], %r: inout f32[n, 2048],
      %g: in bf16[2048], %y: out bf16[n, 2048]) where 1 <= n <= 4096 {
      grid %i in 0..n step 1 {
        %a = load %x[%i, 0+2048] : bf16[2048]
        %b = load %r[%i, 0+2048] : f32[2048]
        %s = map { %a + %b } : f32[2048]
        store %s, %r[%i, 0+2048]
        %q = map { %s * %s } : f32[2048]
        %t = reduce add %q over 0 : f32
        %f = map { 1 / sqrt(%t / 2048 + 1e-6) } : f32
        %g0 = load %g[0+2048] : bf16[2048]
        %o = map { %s * %f * %g0 } : f32[2048]
        %c = cast %o : bf16[2048]
        store %c, %y[%i, 0+2048]
      }
    }";
    measure("rms norm", &Case::new(text, &[512]), 512.0 * 2048.0 * 12.0, 512.0 * 2048.0 * 5.0);
    let text =
        "kernel @softmax row (%x: in f32[n, 1000], %y: out f32[n, 1000]) where 1 <= n <= 4096 {
      grid %i in 0..n step 1 {
        %a = load %x[%i, 0+1000] : f32[1000]
        %m = reduce max %a over 0 : f32
        %e = map { exp(%a - %m) } : f32[1000]
        %t = reduce add %e over 0 : f32
        %o = map { %e / %t } : f32[1000]
        store %o, %y[%i, 0+1000]
      }
    }";
    measure("softmax", &Case::new(text, &[512]), 512.0 * 1000.0 * 8.0, 512.0 * 1000.0 * 30.0);
}
