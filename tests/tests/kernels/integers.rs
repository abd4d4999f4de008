//! Products of codes of eight and of four bits by codes of eight.

use tests::kernel::Case;

/// Rows of the left operand, columns, depth, and the tile's extents along each.
struct Extents {
    rows: u32,
    cols: u32,
    depth: u32,
    tile: [u32; 3],
}

/// One: as in decoding. Tails along every axis. More rows than registers. Steps that end within
/// a group, and groups that end within a step. A last step of few codes of a wide block of scales.
const EXTENTS: [Extents; 6] = [
    Extents { rows: 1, cols: 48, depth: 256, tile: [4, 16, 256] },
    Extents { rows: 3, cols: 20, depth: 100, tile: [4, 16, 64] },
    Extents { rows: 7, cols: 70, depth: 64, tile: [8, 64, 64] },
    Extents { rows: 13, cols: 33, depth: 300, tile: [16, 32, 128] },
    Extents { rows: 70, cols: 40, depth: 192, tile: [64, 48, 96] },
    Extents { rows: 5, cols: 40, depth: 300, tile: [4, 16, 256] },
];

const LEFT: [&str; 4] = ["i8<f32 1x32 sum>", "i8<f32 1x64>", "i8<f16 1x16 sum>", "i8<f32 1x128>"];

const RIGHT: [&str; 9] = [
    "i8<f32 128x128> packed [0/16, 1/4, 0:16, 1:4]",
    "i8<f32 1x32> packed [0/16, 1/4, 0:16, 1:4]",
    "i8<f32 1x128> packed [0/16, 1/4, 0:16, 1:4]",
    "i8<f32 8x16> packed [0/8, 1/4, 0:8, 1:4]",
    "i8<f16 1x32> packed [0/16, 1/64, {1:2, 0:16}, 1/4:16, 0:16, 1:4]",
    "i8<f32 1x16 sum> packed [0/16, 1/16, {0:16}, 1/4:4, 0:16, 1:4]",
    "i4<f16 1x32> packed [0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1:4, 1/4:2]",
    "i4<bf16 1x32> packed [0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1/4:2, 1:4]",
    "i4<f32 1x64> packed [0/8, 1/8, 0:8, 1:8]",
];

/// A kernel that multiplies rows, the left operand's perhaps gathered.
fn text(left: &str, right: &str, e: &Extents, gathered: bool) -> String {
    let Extents { cols, depth, tile: [m, j, k], .. } = e;
    let (code, packing) = right.split_once(" packed").expect("a packing");
    let rows = match gathered {
        true => "%rows",
        false => &format!("%i+{m} where <n"),
    };
    format!(
        "kernel @product contraction (%x: in {left}[n, {depth}], %p: in i32[n],
             %w: in {code}[{cols}, {depth}] packed{packing},
             %y: out f32[n, {cols}]) where 1 <= n <= 100 {{
          grid %i in 0..n step {m}, %j in 0..{cols} step {j} {{
            %rows = load %p[%i+{m} where <n] : i32[{m}]
            %zero = splat 0.5 : f32[{m}, {j}]
            %acc = for %k in 0..{depth} step {k} carry %a = %zero {{
              %xt = load %x[{rows}, %k+{k} where <{depth}] keep : {left}[{m}, {k}]
              %wt = load %w[%j+{j} where <{cols}, %k+{k} where <{depth}] keep : {code}[{j}, {k}]
              %b = mma %a, %xt, %wt : f32[{m}, {j}]
              yield %b
            }}
            store %acc, %y[%i+{m} where <n, %j+{j} where <{cols}]
          }}
        }}"
    )
}

fn check(left: &str, right: &str, e: &Extents, gathered: bool) {
    let n = u64::from(e.rows);
    // Products reach 127², so sums in f32 may cancel to a thousandth of their parts.
    let case = Case::new(&text(left, right, e, gathered), &[n as i64]).tolerance(1e-3);
    case.set("p", |p| ((p[0] * 5 + 2) % n) as f64).check();
}

#[test]
fn rows_in_order() {
    for (i, right) in RIGHT.into_iter().enumerate() {
        for (j, extents) in EXTENTS.iter().enumerate() {
            let left = LEFT[(i + j) % LEFT.len()];
            check(left, right, extents, false);
        }
    }
}

#[test]
fn gathered_rows() {
    for (i, right) in [RIGHT[0], RIGHT[6]].into_iter().enumerate() {
        for (j, extents) in EXTENTS.iter().enumerate() {
            let left = ["i8<f32 1x32 sum>", "i8<f16 1x32>"][(i + j) % 2];
            check(left, right, extents, true);
        }
    }
}

#[cfg(feature = "llvm")]
#[test]
fn levels_multiply_bytes_as_they_can() {
    use ir::target::{Listing, Target};
    use target_llvm::Llvm;
    let case = Case::new(&text("i8<f32 1x32 sum>", RIGHT[6], &EXTENTS[0], false), &[1]);
    let by = [
        ("x86-64-v3", "vpmaddwd"),
        ("x86-64-v4", "vpmaddwd"),
        ("x86-64-v4-bf16", "vpdpbusd"),
        ("x86-64-amx", "vpdpbusd"),
    ];
    for (level, instruction) in by {
        let asm = Llvm::x86_64().listing(&[&case.kernel], level, Listing::Asm);
        let asm = asm.expect("assembly");
        assert!(asm.contains(instruction), "{level}");
        assert_eq!(asm.contains("vpdpbusd"), instruction == "vpdpbusd", "{level}");
    }
    for right in RIGHT {
        for extents in EXTENTS.iter().filter(|e| e.tile[2].is_multiple_of(64)) {
            let case = Case::new(&text("i8<f32 1x32 sum>", right, extents, true), &[1]);
            assert!(multiplies_bytes(&case), "{right}");
        }
    }
}

/// Rows of several matrices side by side, each multiplied by one of its own.
#[test]
fn batches_between_rows_and_depth() {
    let right = [
        "i8<f32 1x256> packed [0/1, 1/16, 2/4, 1:16, 2:4]",
        "i4<f16 1x32> packed [0/1, 1/16, 2/64, {2:2, 1:16}, 2/8:8, 1:16, 2:4, 2/4:2]",
    ];
    for (left, right) in LEFT.iter().flat_map(|left| right.map(|right| (left, right))) {
        let code = right.split_once(" packed").expect("a packing").0;
        let packing = &right[code.len()..];
        let text = format!(
            "kernel @product contraction (%x: in {left}[n, 3, 256], %w: in {code}[3, 40, 256]{packing},
                 %y: out f32[n, 3, 40]) where 1 <= n <= 100 {{
              grid %b in 0..3 step 1, %j in 0..40 step 16, %i in 0..n step 4 {{
                %zero = splat 0 : f32[4, 16]
                %acc = for %k in 0..256 step 128 carry %a = %zero {{
                  %xt = load %x[%i+4 where <n, %b, %k+128] keep : {left}[4, 128]
                  %wt = load %w[%b, %j+16 where <40, %k+128] keep : {code}[16, 128]
                  %c = mma %a, %xt, %wt : f32[4, 16]
                  yield %c
                }}
                store %acc, %y[%i+4 where <n, %b, %j+16 where <40]
              }}
            }}"
        );
        let case = Case::new(&text, &[7]).tolerance(1e-3);
        #[cfg(feature = "llvm")]
        assert!(multiplies_bytes(&case), "{left} by {right}");
        case.check();
    }
}

/// Whether code for a level that can multiplies bytes.
#[cfg(feature = "llvm")]
fn multiplies_bytes(case: &Case) -> bool {
    use ir::target::{Listing, Target};
    let llvm = target_llvm::Llvm::x86_64();
    let asm = llvm.listing(&[&case.kernel], "x86-64-v4-bf16", Listing::Asm);
    asm.expect("assembly").contains("vpdpbusd")
}
