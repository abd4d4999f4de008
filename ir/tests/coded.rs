//! Products of codes: what is handed to a target whole.

use ir::dtype::DType;
use ir::expand::{Machine, expand};
use ir::kernel::parse::kernel;
use ir::loops::Mma;
use std::cell::RefCell;

/// Element types of the left operands that a target is asked about, which takes them all.
fn offered(left: &str) -> Vec<DType> {
    let text = format!(
        "kernel @gathered contraction (%x: in {left}[n, 64], %p: in i32[n],
             %w: in i8<f32 1x32>[32, 64] packed [0/16, 1/4, 0:16, 1:4],
             %y: out f32[n, 32]) where 1 <= n <= 100 {{
          grid %i in 0..n step 4 {{
            %rows = load %p[%i+4 where <n] : i32[4]
            %zero = splat 0 : f32[4, 32]
            %xt = load %x[%rows, 0+64] keep : {left}[4, 64]
            %wt = load %w[0+32, 0+64] keep : i8<f32 1x32>[32, 64]
            %b = mma %zero, %xt, %wt : f32[4, 32]
            store %b, %y[%i+4 where <n, 0+32]
          }}
        }}"
    );
    let kernel = kernel(&text).expect("a kernel");
    let asked = RefCell::new(vec![]);
    let takes = |m: &Mma| {
        asked.borrow_mut().push(m.left.encoding.code);
        true
    };
    expand(&kernel, &Machine { lanes: 8, mma: &takes }).expect("a program");
    asked.into_inner()
}

/// A row that is masked out is a copy of another with scales of 0, and 0 times a NaN is no 0.
#[test]
fn only_integer_codes_are_gathered_as_they_are() {
    assert_eq!(offered("i8<f32 1x32>"), [DType::I8]);
    assert_eq!(offered("u8<f32 1x32>"), [DType::U8]);
    let decoded = offered("fp8_e4m3<f32 1x32>");
    assert!(!decoded.is_empty() && !decoded.contains(&DType::F8E4M3), "{decoded:?}");
}
