//! Loops, choices, scratch, memory order, and the worked kernels.

use tests::kernel::{Case, Noise};

#[test]
fn carries_trade_places() {
    Case::new(
        "kernel @trade row (%x: in f32[n, 9], %y: out f32[n, 9], %z: out f32[n, 9],
          %s: out i32[n]) where 1 <= n <= 64 {
          grid %i in 0..n step 4 {
            %a0 = load %x[%i+4 where <n, 0+9] : f32[4, 9]
            %b0 = map { %a0 + 1 } : f32[4, 9]
            %c0 = splat 2 : i32
            %a, %b, %c = for %k in 0..5 step 1 carry %p = %a0, %q = %b0, %r = %c0 {
              %up = map { %p * 0.5 + %q } : f32[4, 9]
              %t = transpose %up [1, 0] : f32[9, 4]
              %back = transpose %t [1, 0] : f32[4, 9]
              %next = map { %r * 2 - %k } : i32
              yield %q, %back, %next
            }
            store %a, %y[%i+4 where <n, 0+9]
            store %b, %z[%i+4 where <n, 0+9]
            %cs = broadcast %c over 0 : i32[4]
            store %cs, %s[%i+4 where <n]
          }
        }",
        &[10],
    )
    .check();
}

#[test]
fn loops_of_no_iteration_and_nested() {
    Case::new(
        "kernel @nested row (%x: in f32[n, 16], %y: out f32[n, 4], %len: in i32[n])
          where 1 <= n <= 64 {
          grid %i in 0..n step 1 {
            %zero = splat 0 : f32[4]
            %hi = load %len[%i] : i32
            %sum = for %k in 0..%hi step 3 carry %a = %zero {
              %inner = for %j in %k..%hi step 1 carry %b = %a {
                %t = load %x[%i, %j+4 where <16] : f32[4]
                %c = map { %b + %t * float(%k + 1) } : f32[4]
                yield %c
              }
              yield %inner
            }
            store %sum, %y[%i, 0+4]
          }
        }",
        &[6],
    )
    .set("len", |p| [0.0, 1.0, -3.0, 16.0, 5.0, 9.0][p[0] as usize])
    .check();
}

#[test]
fn choices() {
    Case::new(
        "kernel @choice row (%x: in f32[n, 9], %f: in i32[n], %y: out f32[n, 9],
          %z: out i32[n]) where 1 <= n <= 64 {
          grid %i in 0..n step 1 {
            %a = load %x[%i, 0+9] : f32[9]
            %e = map { exp(%a) } : f32[9]
            %v = load %f[%i] : i32
            %c = map { %v > 0 } : bool
            %r, %s = if %c {
              %t = map { %e + %a } : f32[9]
              %w = map { %v * 7 } : i32
              yield %t, %w
            } else {
              %u = reduce add %e over 0 : f32
              %d = broadcast %u over 0 : f32[9]
              yield %d, %v
            }
            %o = map { %r - %e } : f32[9]
            store %o, %y[%i, 0+9]
            store %s, %z[%i]
          }
        }",
        &[8],
    )
    .check();
}

/// Loads before a store must not see it, loads after it must.
#[test]
fn memory_in_order() {
    Case::new(
        "kernel @order row (%x: inout f32[n, 12], %y: out f32[n, 12], %z: out f32[n, 12])
          where 1 <= n <= 64 {
          grid %i in 0..n step 2 {
            %before = load %x[%i+2 where <n, 0+12] : f32[2, 12]
            %shift = load %x[%i+2 where <n, 1+11] : f32[2, 11]
            store %shift, %x[%i+2 where <n, 0+11]
            %after = load %x[%i+2 where <n, 0+12] : f32[2, 12]
            %in = map { %after * 10 } : f32[2, 12]
            store %in, %x[%i+2 where <n, 0+12]
            store %before, %y[%i+2 where <n, 0+12]
            store %after, %z[%i+2 where <n, 0+12]
            for %k in 0..3 step 1 {
              %old = load %x[%i+2 where <n, 0+12] : f32[2, 12]
              %plus = map { %old + 1 } : f32[2, 12]
              store %plus, %x[%i+2 where <n, 0+12]
            }
          }
        }",
        &[5],
    )
    .check();
}

#[test]
fn scratch_lasts_as_long_as_it_is_read() {
    Case::new(
        "kernel @scratch row (%x: in f32[n, 16], %y: out f32[n, 16], %z: out f32[n, 4])
          where 1 <= n <= 64 {
          grid %i in 0..n step 4 {
            %buf = alloc : f32[4, 16]
            %ring = alloc : bf16[2, 4]
            for %k in 0..16 step 4 {
              %t = load %x[%i+4 where <n, %k+4] : f32[4, 4]
              %s = scan add %t over 1 : f32[4, 4]
              store %s, %buf[0+4, %k+4]
              %slot = map { rem(%k / 4, 2) } : i32
              %last = reduce add %s over 1 : f32[4]
              %lb = cast %last : bf16[4]
              store %lb, %ring[%slot, 0+4]
            }
            %all = load %buf[0+4, 0+16] : f32[4, 16]
            %sorted = scan max %all over 1 : f32[4, 16]
            store %sorted, %y[%i+4 where <n, 0+16]
            %r0 = load %ring[0, 0+4] : bf16[4]
            %r1 = load %ring[1, 0+4] : bf16[4]
            %rs = map { %r0 + %r1 } : f32[4]
            %rt = broadcast %rs over 1 : f32[4, 4]
            store %rt, %z[%i+4 where <n, 0+4]
          }
        }",
        &[9],
    )
    .check();
}

#[test]
fn grids_of_several_axes_and_a_list() {
    Case::new(
        "kernel @grid row (%x: in f32[n, 10], %y: inout f32[n, 10, 3], %w: in list(a,
          b) max 8) where 1 <= n <= 64 {
          grid %i in 0..n step 3, (%a, %b) in %w, %j in 0..10 step 4 {
            %t = load %x[%i+3 where <n, %j+4 where <10] : f32[3, 4]
            %s = map { %t * float(%b) + float(%a) } : f32[3, 4]
            store %s, %y[%i+3 where <n, %j+4 where <10, %a]
          }
        }",
        &[7],
    )
    .list("w", &[vec![0, 5], vec![2, -3]])
    .check();
}

#[test]
fn sizes_known_to_the_host() {
    Case::new(
        "kernel @dims row (%y: out i32[n, 5]) where 1 <= n <= 64, 1 <= t <= 999 {
          grid %i in 0..n step 1 {
            %a = dim floordiv(t - 20, 7) : i32
            %b = dim ceildiv(t, 4) * n : i32
            %c = dim min(t, 9) - max(n, 3) : i32
            %d = dim n*n - 2*t : i32
            %e = dim ceildiv(t + 1, 10) : i32
            %at = iota 0 : i32[5]
            %r = map { select(%at == 0, %a, select(%at == 1, %b, select(%at == 2, %c,
              select(%at == 3, %d, %e)))) } : i32[5]
            store %r, %y[%i, 0+5]
          }
        }",
        &[4, 23],
    )
    .check();
}

#[test]
fn absorbed_attention() {
    // Symbols: b, mp, n, parts, pg.
    let pages = [3.0, 1.0, 4.0, 0.0, 2.0, 5.0];
    Case::worked("absorbed_mla_small.kernel", &[2, 3, 2, 3, 6])
        .set("pages", |p| pages[(p[0] * 3 + p[1]) as usize])
        .list(
            "work",
            &[
                vec![0, 0, 0, 0, 8, 0],
                vec![0, 0, 2, 0, 8, 0],
                vec![0, 0, 0, 8, 11, 1],
                vec![0, 0, 2, 8, 11, 1],
                vec![1, 1, 0, 0, 5, 2],
                vec![1, 1, 2, 0, 5, 2],
            ],
        )
        .check();
}

#[test]
fn int4_gemv() {
    for n in [1, 3, 4] {
        Case::worked("int4_gemv_small.kernel", &[n]).check();
    }
}

/// Tokens' choices of six of three experts (with repeats), sorted by expert, in items of four rows.
fn routed(case: Case, tokens: u64) -> Case {
    let mut noise = Noise(tokens);
    let mut pairs: Vec<(u64, u64)> = (0..6 * tokens).map(|i| (noise.below(3), i / 6)).collect();
    pairs.sort_unstable();
    let mut work = vec![];
    for expert in 0..3 {
        let before = |e: u64| pairs.iter().filter(|p| p.0 < e).count() as i32;
        let (first, end) = (before(expert), before(expert + 1));
        work.extend((first..end).step_by(4).map(|m| vec![expert as i32, m, end]));
    }
    case.set("perm", |p| pairs[p[0] as usize].1 as f64).list("work", &work)
}

#[test]
fn grouped_experts() {
    for file in ["grouped_experts_small.kernel", "grouped_experts_int8_small.kernel"] {
        for tokens in [1, 5, 8] {
            routed(Case::worked(file, &[tokens]), tokens as u64).tolerance(1e-2).check();
        }
    }
}
