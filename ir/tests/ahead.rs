//! Loops with stages: what their products are told to ask for.

use ir::expand::{Machine, expand};
use ir::kernel::parse::kernel;
use ir::loops::{Mma, Right, Stmt, Stride};

/// The products of a kernel, for a target that takes them all.
fn products(text: &str) -> Vec<Mma> {
    let kernel = kernel(text).expect("a kernel");
    let program = expand(&kernel, &Machine { lanes: 8, mma: &|_| true }).expect("a program");
    let mut found = vec![];
    gather(&program.body, &mut found);
    found
}

fn gather(stmts: &[Stmt], found: &mut Vec<Mma>) {
    for stmt in stmts {
        match stmt {
            Stmt::Mma(m) => found.push((**m).clone()),
            Stmt::For(f) => gather(&f.body, found),
            Stmt::If { then, otherwise, .. } => {
                gather(then, found);
                gather(otherwise, found);
            }
            _ => {}
        }
    }
}

/// Two products of a loop over packed weights.
fn experts(hint: &str) -> Vec<Mma> {
    products(&format!(
        "kernel @experts grouped_gemm (%x: in bf16[n, 64],
             %w: in bf16[2, 48, 64] packed [0/1, 1/16, 2/2, 1:16, 2:2],
             %y: out f32[n, 48], %z: out f32[n, 48]) where 1 <= n <= 16 {{
          grid %i in 0..n step 4 {{
            %zero = splat 0 : f32[4, 48]
            %g, %u = for %k in 0..64 step 16 carry %g0 = %zero, %u0 = %zero {hint} {{
              %a = load %x[%i+4 where <n, %k+16] : bf16[4, 16]
              %v = load %w[0, 0+48, %k+16] keep : bf16[48, 16]
              %w1 = load %w[1, 0+48, %k+16] keep : bf16[48, 16]
              %g1 = mma %g0, %a, %v : f32[4, 48]
              %u1 = mma %u0, %a, %w1 : f32[4, 48]
              yield %g1, %u1
            }}
            store %g, %y[%i+4 where <n, 0+48]
            store %u, %z[%i+4 where <n, 0+48]
          }}
        }}"
    ))
}

#[test]
fn each_product_asks_for_its_next_weights() {
    let found = experts("stages=2");
    assert_eq!(found.len(), 2);
    for m in &found {
        let ahead = m.ahead.expect("something to ask for");
        // Three blocks of 16 columns by 16 k's.
        assert_eq!((ahead.rows, ahead.bytes), (3, 512), "{m}");
    }
    let addresses: Vec<_> = found.iter().filter_map(|m| m.ahead).map(|a| a.address).collect();
    assert_ne!(addresses[0], addresses[1]);
}

#[test]
fn loops_without_stages_ask_for_nothing() {
    assert!(experts("").iter().all(|m| m.ahead.is_none()));
}

#[test]
fn a_tile_read_twice_is_divided() {
    let found = products(
        "kernel @paged attention (%q: in bf16[4, 32], %c: in bf16[pg, 16, 32],
             %pages: in i32[8], %o: out f32[4, 24]) where 1 <= pg <= 64 {
          grid %i in 0..1 step 1 {
            %q0 = load %q[0+4, 0+32] : bf16[4, 32]
            %none = splat 0 : f32[4, 16]
            %zero = splat 0 : f32[4, 24]
            %sum = for %t in 0..8 step 1 carry %a = %zero stages=2 {
              %pg = load %pages[%t] : i32
              %kt = load %c[%pg, 0+16, 0+32] : bf16[16, 32]
              %s = mma %none, %q0, %kt : f32[4, 16]
              %p = cast %s : bf16[4, 16]
              %vt = slice %kt [0, 0] : bf16[16, 24]
              %vk = transpose %vt [1, 0] : bf16[24, 16]
              %b = mma %a, %p, %vk : f32[4, 24]
              yield %b
            }
            store %sum, %o[0+4, 0+24]
          }
        }",
    );
    let ahead: Vec<_> = found.iter().map(|m| m.ahead.expect("its half")).collect();
    // A page is one run of 16 rows of 64 bytes.
    assert!(ahead.iter().all(|a| (a.rows, a.bytes) == (1, 512)), "{ahead:?}");
    assert_ne!(ahead[0].address, ahead[1].address);
    assert!(matches!(ahead[0].pitch, Stride::Bytes(64)));
}

/// Blocks larger than any memory have no form that counts their bits.
#[test]
fn absurd_blocks_are_no_blocks() {
    for packing in [
        "[0/268435456, 1/2, 0:268435456, 1:2]",
        "[0/16, 1/4294967292, 0:16, 1:4294967292]",
        "[0/4294967295, 1/4294967295, 0:4294967295, 1:4294967295]",
        "[0/65536, 1/65536, 1/2:32768, 0:65536, 1:2]",
    ] {
        let text = format!(
            "kernel @absurd contraction (%x: in bf16[4, 64], %w: in bf16[48, 64] packed {packing},
                 %y: out f32[4, 48]) where 1 <= n <= 16 {{
              grid %i in 0..1 step 1 {{
                %zero = splat 0 : f32[4, 48]
                %sum = for %k in 0..2 step 1 carry %a = %zero stages=2 {{
                  %x0 = load %x[0+4, 0+64] : bf16[4, 64]
                  %w0 = load %w[0+48, 0+64] keep : bf16[48, 64]
                  %b = mma %a, %x0, %w0 : f32[4, 48]
                  yield %b
                }}
                store %sum, %y[0+4, 0+48]
              }}
            }}"
        );
        let plain = |m: &Mma| matches!(m.right, Right::Strided { .. });
        assert!(products(&text).iter().all(plain), "{packing}");
        let kernel = kernel(&text).expect("a kernel");
        expand(&kernel, &Machine { lanes: 8, mma: &|_| false }).expect("loops");
    }
}
