//! Kernels of tiles, expanded and compiled, against the interpreter of the kernel IR.

mod kernel;
mod native;

use kernel::Case;

/// A kernel over rows of `n`, four at a time, from its parameters and its body.
fn rows(params: &str, body: &str) -> Case {
    let text = format!(
        "kernel @rows row ({params}) where 1 <= n <= 64 {{
          grid %i in 0..n step 4 {{
            {body}
          }}
        }}"
    );
    Case::new(&text, &[10])
}

#[test]
fn expressions() {
    for (expr, tolerance) in [
        ("-%a / (abs(%b) + 0.5) + min(%a, %b) * max(%b, %c)", 1e-6),
        ("exp(%a * 3) + exp2(%b) + log(abs(%a) + 0.01)", 1e-6),
        ("sqrt(abs(%a)) * sigmoid(%b * 4) + tanh(%a)", 1e-6),
        ("sin(%a * 100) + cos(%b * 1000)", 1e-6),
        ("floor(%a * 7)", 0.0),
        ("select(%a < %b & not(%b >= %c), %a, lowest)", 0.0),
        ("select(%a == %b | %a != %c, float(int(%a * 9)), %b)", 0.0),
        ("float((%p - 9) / 7 + rem(%q, 3) + min(%p, %q) + abs(%p) + max(%p, %q) * -%p)", 0.0),
    ] {
        rows(
            "%x: in f32[n, 37], %y: in bf16[n, 37], %z: in f16[n, 37], %u: in i32[n, 37],
             %v: in i8[n, 37], %o: out f32[n, 37]",
            &format!(
                "%a = load %x[%i+4 where <n, 0+37] : f32[4, 37]
                 %b = load %y[%i+4 where <n, 0+37] : bf16[4, 37]
                 %c = load %z[%i+4 where <n, 0+37] : f16[4, 37]
                 %p = load %u[%i+4 where <n, 0+37] : i32[4, 37]
                 %v0 = load %v[%i+4 where <n, 0+37] : i8[4, 37]
                 %q = cast %v0 : i32[4, 37]
                 %r = map {{ {expr} }} : f32[4, 37]
                 store %r, %o[%i+4 where <n, 0+37]"
            ),
        )
        .tolerance(tolerance)
        .check();
    }
}

#[test]
fn casts() {
    for from in ["f32", "bf16", "fp8_e4m3", "i32", "u8"] {
        for to in ["f32", "bf16", "f16", "fp8_e4m3", "i8", "bool"] {
            rows(
                &format!("%x: in {from}[n, 21], %o: out {to}[n, 21]"),
                &format!(
                    "%a = load %x[%i+4 where <n, 0+21] : {from}[4, 21]
                     %r = cast %a : {to}[4, 21]
                     store %r, %o[%i+4 where <n, 0+21]"
                ),
            )
            .tolerance(0.0)
            .check();
        }
    }
}

#[test]
fn reductions_and_scans() {
    for fold in ["add", "max", "min"] {
        for axis in [0, 1] {
            let kept = [37, 4][axis];
            rows(
                &format!("%x: in f32[n, 37], %o: out f32[n, 37], %p: out f32[n, {kept}]"),
                &format!(
                    "%a = load %x[%i+4 where <n, 0+37] : f32[4, 37]
                     %s = scan {fold} %a over {axis} : f32[4, 37]
                     store %s, %o[%i+4 where <n, 0+37]
                     %r = reduce {fold} %a over {axis} : f32[{kept}]
                     store %r, %p[%i, 0+{kept}]"
                ),
            )
            .check();
        }
    }
}

/// Products as kernels write them: rows of a symbol's extent, packed weights, tiles that do not
/// divide anything.
fn product(left: &str, right: &str, [n, cols, depth]: [u32; 3], [m, j, k]: [u32; 3]) {
    let (code, packing) = match right.split_once(" packed") {
        Some((code, packing)) => (code, format!("packed{packing}")),
        None => (right, String::new()),
    };
    let text = format!(
        "kernel @product contraction (%x: in {left}[n, {depth}],
             %w: in {code}[{cols}, {depth}] {packing},
             %y: out f32[n, {cols}]) where 1 <= n <= 64 {{
          grid %i in 0..n step {m}, %j in 0..{cols} step {j} {{
            %zero = splat 0.5 : f32[{m}, {j}]
            %acc = for %k in 0..{depth} step {k} carry %a = %zero {{
              %xt = load %x[%i+{m} where <n, %k+{k} where <{depth}] keep : {left}[{m}, {k}]
              %wt = load %w[%j+{j} where <{cols}, %k+{k} where <{depth}] keep : {code}[{j}, {k}]
              %b = mma %a, %xt, %wt : f32[{m}, {j}]
              yield %b
            }}
            store %acc, %y[%i+{m} where <n, %j+{j} where <{cols}]
          }}
        }}"
    );
    Case::new(&text, &[n.into()]).tolerance(1e-3).check();
}

const SIZES: [([u32; 3], [u32; 3]); 4] = [
    ([1, 33, 100], [1, 16, 32]),
    ([7, 70, 64], [8, 64, 64]),
    ([5, 20, 37], [5, 20, 37]),
    ([19, 40, 96], [16, 32, 48]),
];

#[test]
fn products() {
    for right in [
        "bf16",
        "f32",
        "bf16 packed [0/16, 1/2, 0:16, 1:2]",
        "f32 packed [0/8, 1/1, 0:8]",
        "bf16 packed [0/4, 1/8, 0:4, 1:8]",
    ] {
        for left in ["f32", "bf16"] {
            for (size, tile) in SIZES {
                product(left, right, size, tile);
            }
        }
    }
}

#[test]
fn products_of_codes() {
    for right in [
        "fp8_e4m3<f32 16x32>",
        "fp8_e4m3<f32 128x128> packed [0/16, 1/4, 0:16, 1:4]",
        "fp8_e4m3<f32 5x12> packed [0/16, 1/4, 0:16, 1:4]",
        "i8<f32 1x32> packed [0/16, 1/4, 0:16, 1:4]",
        "i4<f16 1x32> packed [0/16, 1/8, 0:16, 1:8]",
        "i4<bf16 1x32> packed [0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1/4:2, 1:4]",
        "fp4_e2m1<e8m0 1x32> packed [0/8, 1/8, 0:8, 1:8]",
    ] {
        for left in ["f32", "bf16", "i8<f32 1x32 sum>"] {
            for (size, tile) in [SIZES[0], SIZES[1], SIZES[3]] {
                product(left, right, size, tile);
            }
        }
    }
}

/// A single code that is no number spoils its column, and no other.
#[test]
fn codes_that_are_no_numbers() {
    for (m, left) in [(1, "bf16"), (1, "f32"), (16, "bf16")] {
        let text = format!(
            "kernel @product contraction (%x: in {left}[n, 70],
                 %w: in fp8_e4m3<f32 16x32>[40, 70] packed [0/16, 1/4, 0:16, 1:4],
                 %y: out f32[n, 40]) where 1 <= n <= 64 {{
              grid %i in 0..n step {m} {{
                %zero = splat 0 : f32[{m}, 40]
                %xt = load %x[%i+{m} where <n, 0+70] : {left}[{m}, 70]
                %wt = load %w[0+40, 0+70] keep : fp8_e4m3<f32 16x32>[40, 70]
                %b = mma %zero, %xt, %wt : f32[{m}, 40]
                store %b, %y[%i+{m} where <n, 0+40]
              }}
            }}"
        );
        let value = |p: &[u64]| match (p[0], p[1]) {
            (3, 5) | (39, 69) => f64::NAN,
            (j, k) => ((j * 7 + k * 3) % 13) as f64 * 0.25 - 1.5,
        };
        Case::new(&text, &[m]).set("w", value).check();
    }
}

fn worked(name: &str, symbols: &[i64]) -> Case {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/files/kernel");
    let text = std::fs::read_to_string(folder.join(name)).expect("a kernel's text");
    Case::new(&text, symbols)
}

#[test]
fn paged_context() {
    // Symbols: b, mp, n, parts, pg.
    let pages = [3.0, 1.0, 4.0, 0.0, 2.0, 5.0];
    let work = [
        [0, 0, 0, 0, 8, 0],
        [0, 0, 2, 0, 8, 0],
        [0, 0, 0, 8, 11, 1],
        [0, 0, 2, 8, 11, 1],
        [1, 1, 0, 0, 5, 2],
        [1, 1, 2, 0, 5, 2],
    ];
    worked("absorbed_mla_small.kernel", &[2, 3, 2, 3, 6])
        .set("pages", |p| pages[(p[0] * 3 + p[1]) as usize])
        .list("work", &work.map(|t| t.to_vec()))
        .check();
}

#[test]
fn codes_of_four_bits() {
    for n in [1, 3, 4] {
        worked("int4_gemv_small.kernel", &[n]).check();
    }
}

/// Rows gathered by a masked list, as experts gather theirs: what is done with the sums decides
/// whether rows that the mask leaves out, which read row 0, are seen.
fn gathered(m: u32, items: &[[i32; 2]], left: &str, finish: &str) {
    let text = format!(
        "kernel @gathered grouped_gemm (%x: in {left}[n, 37], %perm: in i32[3*n],
             %w: in bf16[2, 21, 37] packed [0/1, 1/16, 2/2, 1:16, 2:2],
             %y: out f32[3*n, 21], %z: out f32[{m}, 21],
             %work: in list(m, end) max 8) where 1 <= n <= 16 {{
          grid (%m, %end) in %work {{
            %rows = load %perm[%m+{m} where <%end] : i32[{m}]
            %zero = splat 0.25 : f32[{m}, 21]
            %g, %u = for %k in 0..37 step 16 carry %g0 = %zero, %u0 = %zero stages=2 {{
              %a = load %x[%rows, %k+16 where <37] : {left}[{m}, 16]
              %v = load %w[0, 0+21, %k+16 where <37] keep : bf16[21, 16]
              %w1 = load %w[1, 0+21, %k+16 where <37] keep : bf16[21, 16]
              %g1 = mma %g0, %a, %v : f32[{m}, 21]
              %u1 = mma %u0, %a, %w1 : f32[{m}, 21]
              yield %g1, %u1
            }}
            {finish}
          }}
        }}"
    );
    let list: Vec<Vec<i32>> = items.iter().map(|i| i.to_vec()).collect();
    Case::new(&text, &[7])
        .set("perm", |p| ((p[0] * 5 + 3) % 7) as f64)
        .list("work", &list)
        .tolerance(1e-3)
        .check();
}

#[test]
fn gathered_rows() {
    // Full and partial tiles, one row, none, fewer than any block of rows, beyond the end.
    let items = [[0, 5], [5, 6], [6, 6], [7, 19], [9, 8], [19, 21]];
    for m in [1, 3, 4, 7, 16, 37] {
        for left in ["bf16", "f32"] {
            let masked = format!(
                "%h = map {{ %g * sigmoid(%u) }} : f32[{m}, 21]
                 store %h, %y[%m+{m} where <%end, 0+21]"
            );
            gathered(m, &items, left, &masked);
        }
    }
}

#[test]
fn gathered_rows_that_are_seen() {
    for m in [4, 7] {
        // All rows of one of the sums are stored, or looked at, or moved to other rows.
        let stored = format!(
            "store %g, %y[%m+{m} where <%end, 0+21]
             store %u, %z[0+{m}, 0+21]"
        );
        let reduced = format!(
            "%top = reduce max %u over 0 : f32[21]
             %wide = broadcast %top over 0 : f32[{m}, 21]
             %h = map {{ %g + %wide }} : f32[{m}, 21]
             store %h, %y[%m+{m} where <%end, 0+21]"
        );
        let other_end = format!(
            "%less = map {{ %end - 1 }} : i32
             store %g, %y[%m+{m} where <%end, 0+21]
             %h = map {{ %g + %u }} : f32[{m}, 21]
             store %h, %y[%m+{m} where <%less, 0+21]"
        );
        for finish in [stored, reduced, other_end] {
            gathered(m, &[[4, 6]], "bf16", &finish);
        }
    }
}

/// A bound that changes from one iteration to the next says nothing about sums that go on.
#[test]
fn rows_seen_later() {
    let text = "kernel @later row (%x: in bf16[8, 16], %perm: in i32[8], %w: in bf16[16, 16],
             %y: out f32[4, 8, 16]) where 1 <= n <= 4 {
          grid %i in 0..n step 1 {
            %zero = splat 0 : f32[8, 16]
            %last = for %t in 0..4 step 1 carry %s = %zero stages=2 {
              %end = map { (%t + 1) * 2 } : i32
              store %s, %y[%t, 0+8 where <%end, 0+16]
              %rows = load %perm[0+8] : i32[8]
              %a = load %x[%rows, 0+16] : bf16[8, 16]
              %b = load %w[0+16, 0+16] : bf16[16, 16]
              %next = mma %s, %a, %b : f32[8, 16]
              yield %next
            }
          }
        }";
    Case::new(text, &[1]).set("perm", |p| (7 - p[0]) as f64).tolerance(1e-3).check();
}
