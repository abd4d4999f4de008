//! `mma` with every form of operand, natively and by the interpreter.

use tests::kernel::Case;

/// Extents of a product and its tiles: n is a symbol, others are given.
struct Product<'t> {
    left: &'t str,
    right: &'t str,
    cols: u32,
    depth: u32,
    tile: [u32; 3],
    keep: bool,
}

impl Product<'_> {
    fn case(&self, n: i64) -> Case {
        let Product { left, right, cols, depth, tile: [m, j, k], keep } = self;
        let word = if *keep { "keep" } else { "" };
        let plain = |t: &str| if *keep || !t.contains('<') { t.to_string() } else { "f32".into() };
        let code = |t: &str| t.split(" packed").next().unwrap_or(t).to_string();
        let packing =
            right.split_once(" packed").map_or(String::new(), |p| format!("packed{}", p.1));
        let (a, b) = (plain(left), plain(&code(right)));
        let right = code(right);
        let text = format!(
            "kernel @product contraction (%x: in {left}[n, {depth}], %w: in {right}[{cols},
              {depth}] {packing}, %y: out f32[n, {cols}]) where 1 <= n <= 64 {{
              grid %i in 0..n step {m}, %j in 0..{cols} step {j} {{
                %zero = splat 0.5 : f32[{m}, {j}]
                %acc = for %k in 0..{depth} step {k} carry %a = %zero {{
                  %xt = load %x[%i+{m} where <n, %k+{k} where <{depth}] {word} : {a}[{m}, {k}]
                  %wt = load %w[%j+{j} where <{cols}, %k+{k} where <{depth}] {word} : {b}[{j}, {k}]
                  %b = mma %a, %xt, %wt : f32[{m}, {j}]
                  yield %b
                }}
                store %acc, %y[%i+{m} where <n, %j+{j} where <{cols}]
              }}
            }}"
        );
        Case::new(&text, &[n])
    }
}

fn product(left: &str, right: &str, size: ([u32; 3], [u32; 3]), turn: usize) {
    let ([rows, cols, depth], tile) = size;
    let keep = left.contains('<') || right.contains('<');
    for (i, keep) in if keep { vec![true, false] } else { vec![false] }.into_iter().enumerate() {
        let p = Product { left, right, cols, depth, tile, keep };
        // Codes of fp8 reach 300, so sums may cancel to a thousandth of their parts.
        p.case(rows.into()).tolerance(1e-3).check_in_turn(turn + i);
    }
}

/// Every pair of operands, in every size. Sizes come in turn for a pair, and pairs for a size: each
/// meets every level.
fn products(lefts: &[&str], rights: &[&str], sizes: &[([u32; 3], [u32; 3])]) {
    for (i, right) in rights.iter().enumerate() {
        for (j, left) in lefts.iter().enumerate() {
            for (k, size) in sizes.iter().enumerate() {
                product(left, right, *size, i + j + k);
            }
        }
    }
}

const SIZES: [([u32; 3], [u32; 3]); 8] = [
    ([1, 33, 100], [1, 16, 32]),
    ([3, 33, 100], [4, 16, 32]),
    ([9, 38, 32], [9, 32, 32]),
    ([5, 20, 37], [5, 20, 37]),
    ([9, 32, 48], [3, 3, 7]),
    ([2, 7, 5], [2, 7, 5]),
    ([19, 40, 96], [16, 32, 48]),
    ([7, 70, 64], [8, 64, 64]),
];

#[test]
fn row_major() {
    products(&["f32", "bf16", "f16"], &["f32", "bf16", "f16", "fp8_e4m3"], &SIZES);
}

#[test]
fn blocked() {
    let rights = [
        "bf16 packed [0/16, 1/2, 0:16, 1:2]",
        "f32 packed [0/8, 1/1, 0:8]",
        "f16 packed [0/4, 1/2, 0:4, 1:2]",
        "bf16 packed [0/4, 1/8, 0:4, 1:8]",
        "bf16 packed [1/2, 0/16, 0:16, 1:2]",
    ];
    products(&["f32", "bf16"], &rights, &SIZES);
}

#[test]
fn encoded() {
    let rights = [
        "fp8_e4m3<f32 16x32>",
        "fp8_e4m3<f32 128x128> packed [0/16, 1/4, 0:16, 1:4]",
        "fp8_e4m3<f32 5x12> packed [0/16, 1/4, 0:16, 1:4]",
        "i8<f32 1x32> packed [0/16, 1/4, 0:16, 1:4]",
        "i8<f16 1x100> packed [0/4, 1/4, 0:4, 1:4]",
        "i4<f16 1x32> packed [0/16, 1/8, 0:16, 1:8]",
        "fp4_e2m1<e8m0 1x32> packed [0/16, 1/8, 0:16, 1:8]",
        "i4<bf16 1x32> packed [0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1/4:2, 1:4]",
        "fp4_e2m1<e8m0 1x32> packed [0/8, 1/8, 0:8, 1:8]",
        "i8<f32 1x6> packed [0/16, 1/4, 0:16, 1:4]",
    ];
    let lefts = ["f32", "bf16", "i8<f32 1x32 sum>", "fp8_e4m3<f32 1x12>"];
    products(&lefts, &rights, &[0, 1, 2, 4, 6, 7].map(|i| SIZES[i]));
}

/// Code for the emulated level is left out of the checks where it is that of x86-64-v3.
#[cfg(feature = "llvm")]
#[test]
fn tile_registers_are_checked_where_they_are_used() {
    use ir::target::{Listing, Target};
    use target_llvm::{Llvm, isa::EMULATED};
    let runs = runtime::isa::supported().contains(&"x86-64-v3");
    for (left, m, tiled) in [("bf16", 16, true), ("bf16", 4, false), ("f32", 16, false)] {
        let (right, tile) = ("bf16", [m, 32, 32]);
        let kernel = Product { left, right, cols: 32, depth: 64, tile, keep: false }.case(9).kernel;
        let asm = |level| Llvm::x86_64().listing(&[&kernel], level, Listing::Asm).expect("code");
        assert_eq!(asm(EMULATED) != asm("x86-64-v3"), tiled, "{left}, {m} rows");
        let checked = tests::kernel::levels(&Llvm::host(), &kernel).contains(&EMULATED);
        assert_eq!(checked, tiled && runs, "{left}, {m} rows");
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

/// The right operand is a transposed tile, or part of one; the left one is computed.
#[test]
fn transposed() {
    for (t, v) in [(32, 20), (5, 7), (16, 64), (9, 3)] {
        for ty in ["bf16", "f32", "f16"] {
            let text = format!(
                "kernel @values attention (%p: in f32[n, {t}], %c: in {ty}[s, {w}],
                  %y: out f32[n, {v}], %z: out f32[{v}, n]) where 1 <= n <= 64, 1 <= s <= 64 {{
                  grid %i in 0..n step 4 {{
                    %a = load %p[%i+4 where <n, 0+{t}] : f32[4, {t}]
                    %e = map {{ exp2(%a) }} : f32[4, {t}]
                    %h = cast %e : bf16[4, {t}]
                    %kt = load %c[0+{t} where <s, 0+{w}] : {ty}[{t}, {w}]
                    %vt = slice %kt [0, 2] : {ty}[{t}, {v}]
                    %vk = transpose %vt [1, 0] : {ty}[{v}, {t}]
                    %zero = splat 0 : f32[4, {v}]
                    %o = mma %zero, %h, %vk : f32[4, {v}]
                    store %o, %y[%i+4 where <n, 0+{v}]
                    %other = splat 1 : f32[{v}, 4]
                    %q = mma %other, %vk, %h : f32[{v}, 4]
                    store %q, %z[0+{v}, %i+4 where <n]
                  }}
                }}",
                w = v + 5,
            );
            Case::new(&text, &[6, i64::from(t) - 2]).check();
        }
    }
}

/// Leading axes, one of them chosen by a scalar; rows gathered; masks from scalars.
#[test]
fn grouped() {
    for (weights, code) in [
        ("bf16[3, 2, 21, 40] packed [0/1, 1/1, 2/16, 3/2, 2:16, 3:2]", "bf16"),
        ("bf16[3, 2, 21, 40]", "bf16"),
        (
            "fp8_e4m3<f32 8x16>[3, 2, 21, 40] packed [0/1, 2/16, 3/4, 1/1, 2:16, 3:4]",
            "fp8_e4m3<f32 8x16>",
        ),
        (
            "fp8_e4m3<f32 8x16>[3, 2, 21, 40] packed [0/1, 1/1, 2/16, 3/4, 2:16, 3:4]",
            "fp8_e4m3<f32 8x16>",
        ),
    ] {
        let text = format!(
            "kernel @experts grouped_gemm (%x: in bf16[n, 40], %perm: in i32[q],
              %w: in {weights}, %y: out bf16[q, 21], %work: in list(e, m, end, j) max 16)
              where 1 <= n <= 9, 1 <= q <= 64 {{
              grid (%e, %m, %end, %j) in %work {{
                %rows = load %perm[%m+4 where <%end] : i32[4]
                %g0 = splat 0 : f32[4, 16]
                %u0 = splat 0 : f32[4, 16]
                %g, %u = for %k in 0..40 step 16 carry %ga = %g0, %ua = %u0 stages=3 {{
                  %a = load %x[%rows where <n, %k+16 where <40] : bf16[4, 16]
                  %wg = load %w[%e, 0, %j+16 where <21, %k+16 where <40] keep : {code}[16, 16]
                  %wu = load %w[%e, 1, %j+16 where <21, %k+16 where <40] keep : {code}[16, 16]
                  %gb = mma %ga, %a, %wg : f32[4, 16]
                  %ub = mma %ua, %a, %wu : f32[4, 16]
                  yield %gb, %ub
                }}
                %h = map {{ %g * sigmoid(%g) * %u }} : f32[4, 16]
                %c = cast %h : bf16[4, 16]
                store %c, %y[%m+4 where <%end, %j+16 where <21]
              }}
            }}"
        );
        let work: Vec<Vec<i32>> = [(0, 0, 3), (1, 3, 8), (1, 7, 8), (2, 8, 13), (2, 12, 13)]
            .iter()
            .flat_map(|(e, m, end)| [0, 16].map(|j| vec![*e, *m, *end, j]))
            .collect();
        let perm = [4, 1, 0, 2, 2, 3, 4, 0, 1, 1, 3, 0, 4];
        Case::new(&text, &[5, 13])
            .set("perm", |p| f64::from(perm[p[0] as usize]))
            .list("work", &work)
            .tolerance(1e-2)
            .check();
    }
}

#[test]
fn integers() {
    for (a, b) in [("i8", "i8"), ("u8", "i8"), ("i32", "i32")] {
        let text = format!(
            "kernel @codes contraction (%x: in {a}[n, 37], %w: in {b}[9, 37], %y: out i32[n,
              9]) where 1 <= n <= 64 {{
              grid %i in 0..n step 4 {{
                %three = splat 3 : i32[4, 9]
                %xt = load %x[%i+4 where <n, 0+37] : {a}[4, 37]
                %wt = load %w[0+9, 0+37] : {b}[9, 37]
                %s = mma %three, %xt, %wt : i32[4, 9]
                store %s, %y[%i+4 where <n, 0+9]
              }}
            }}"
        );
        Case::new(&text, &[6]).check();
    }
}

/// Accumulators that are carried, scaled in the loop, and used elsewhere.
#[test]
fn accumulators() {
    Case::new(
        "kernel @sums contraction (%x: in f32[n, 24], %w: in f32[12, 24], %y: out f32[n, 12],
          %z: out f32[n, 12], %t: out f32[n, 12]) where 1 <= n <= 64 {
          grid %i in 0..n step 4 {
            %zero = splat 0 : f32[4, 12]
            %one = splat 1 : f32[4, 12]
            %a, %b, %c = for %k in 0..24 step 8 carry %a0 = %zero, %b0 = %one, %c0 = %zero {
              %xt = load %x[%i+4 where <n, %k+8] : f32[4, 8]
              %wt = load %w[0+12, %k+8] : f32[12, 8]
              %half = map { %a0 * 0.5 + %b0 } : f32[4, 12]
              %a1 = mma %half, %xt, %wt : f32[4, 12]
              %b1 = mma %b0, %xt, %wt : f32[4, 12]
              %c1 = map { %a0 + %c0 } : f32[4, 12]
              yield %b1, %a1, %c1
            }
            store %a, %y[%i+4 where <n, 0+12]
            store %b, %z[%i+4 where <n, 0+12]
            store %c, %t[%i+4 where <n, 0+12]
          }
        }",
        &[7],
    )
    .check();
}
