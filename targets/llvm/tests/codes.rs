//! Products of codes by codes whose depth ends within a unit or within a stretch of one scale:
//! nothing is touched that lies behind operands or scratch.

#![allow(clippy::unwrap_used)]
#![cfg(target_arch = "x86_64")]

mod native;

use ir::kernel::layout::{Layout, for_each_position};
use ir::kernel::parse;
use ir::target::Target;
use native::data::{Fenced, Random};
use native::{Image, levels};
use target_llvm::Llvm;

const ROWS: u64 = 4;
const COLS: u64 = 20;

fn filled(layout: &Layout, r: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; layout.size_bytes() as usize];
    for_each_position(layout.dims(), &mut |p| {
        layout.write_code(&mut bytes, p, r.below(255) as f64 - 127.0);
        layout.write_scale(&mut bytes, p, (r.below(7) + 1) as f64 / 8.0);
    });
    bytes
}

/// Multiplies `[ROWS, depth]` by `[COLS, depth]` in one tile at every level that runs here.
fn check(left: &str, right: &str, depth: u64) {
    let (code, packing) = right.split_once(" packed ").unwrap();
    let text = format!(
        "kernel @product contraction (%x: in {left}[n, {depth}],
             %w: in {code}[{COLS}, {depth}] packed {packing}, %y: out f32[n, {COLS}])
             where 1 <= n <= {ROWS} {{
          grid %i in 0..n step {ROWS} {{
            %zero = splat 0 : f32[{ROWS}, {COLS}]
            %a = load %x[%i+{ROWS} where <n, 0+{depth}] keep : {left}[{ROWS}, {depth}]
            %b = load %w[0+{COLS}, 0+{depth}] keep : {code}[{COLS}, {depth}]
            %c = mma %zero, %a, %b : f32[{ROWS}, {COLS}]
            store %c, %y[%i+{ROWS} where <n, 0+{COLS}]
          }}
        }}"
    );
    let kernel = parse::kernel(&text).unwrap_or_else(|e| panic!("{text}\n{e:#?}"));
    let n = |_: &str| Some(ROWS as i64);
    let layouts: Vec<Layout> = kernel.params.iter().map(|p| p.ty.layout(&n).unwrap()).collect();
    let mut r = Random(depth);
    let [x, w] = [0, 1].map(|at| filled(&layouts[at], &mut r));
    for level in levels() {
        let object = Llvm::x86_64().compile(&[&kernel], level).unwrap();
        let image = Image::load(&object.bytes);
        let zeros = vec![0; layouts[2].size_bytes() as usize];
        // Whole cache lines, so that it begins at one.
        let scratch = vec![0xff; object.kernels[0].1.next_multiple_of(64) as usize];
        let memory = [&x, &w, &zeros, &scratch].map(|bytes| Fenced::new(bytes));
        let [px, pw, py, scratch] = memory.each_ref().map(Fenced::pointer);
        let args = [px as u64, pw as u64, py as u64, ROWS];
        // SAFETY: memory of the sizes that the parameters have, and scratch as the object says.
        unsafe { image.kernel("product")(args.as_ptr(), 0, 1, scratch) };
        for_each_position(layouts[2].dims(), &mut |p| {
            let term = |k| layouts[0].read(&x, &[p[0], k]) * layouts[1].read(&w, &[p[1], k]);
            let (sum, size) =
                (0..depth).map(term).fold((0.0, 1.0), |(s, a), t| (s + t, a + t.abs()));
            let found = layouts[2].read(memory[2].bytes(), p);
            assert!((found - sum).abs() <= 1e-6 * size, "{level} {p:?}: {found}, expected {sum}");
        });
    }
}

#[test]
fn a_scale_may_hold_for_more_than_the_depth() {
    let right = "i8<f32 1x128> packed [0/16, 1/4, 0:16, 1:4]";
    check("i8<f32 1x128>", right, 100);
    check("i8<f32 1x128>", right, 228);
    check("i8<f32 1x1024>", "i8<f16 1x1024> packed [0/16, 1/4, 0:16, 1:4]", 700);
}

#[test]
fn units_may_end_behind_the_last_scale() {
    for scale in ["1x8", "16x8"] {
        let right = format!("i8<f32 {scale}> packed [0/16, 1/32, 1/4:8, 0:16, 1:4]");
        for depth in [36, 4, 60, 64] {
            check("i8<f32 1x8>", &right, depth);
        }
    }
}
