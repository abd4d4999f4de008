//! Products of gathered rows: what is seen of their sums, and what is not.

use tests::kernel::Case;

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

/// Rows that enter a product twice over, as a sum of two terms: as many sums are seen.
#[test]
fn gathered_rows_in_terms() {
    let items = [[0, 5], [5, 6], [6, 6], [7, 19], [19, 21]];
    for m in [1, 3, 8, 17] {
        let text = format!(
            "kernel @terms grouped_gemm (%x: in f32[n, 37], %perm: in i32[3*n],
                 %w: in bf16[21, 37] packed [0/16, 1/2, 0:16, 1:2],
                 %y: out f32[3*n, 21], %z: out f32[3*n, 21],
                 %work: in list(m, end) max 8) where 1 <= n <= 16 {{
              grid (%m, %end) in %work {{
                %rows = load %perm[%m+{m} where <%end] : i32[{m}]
                %zero = splat 0 : f32[{twice}, 21]
                %v = load %w[0+21, 0+37] keep : bf16[21, 37]
                %a = load %x[%rows, 0+37] : f32[{m}, 37]
                %h = cast %a : bf16[{m}, 37]
                %r = map {{ %a * 0.25 }} : f32[{m}, 37]
                %r1 = cast %r : bf16[{m}, 37]
                %h1 = split %h over 0 [{m}, 1] : bf16[{m}, 1, 37]
                %r2 = split %r1 over 0 [{m}, 1] : bf16[{m}, 1, 37]
                %both = concat %h1, %r2 over 1 : bf16[{m}, 2, 37]
                %left = merge %both over 0+2 : bf16[{twice}, 37]
                %sums = mma %zero, %left, %v : f32[{twice}, 21]
                %terms = split %sums over 0 [{m}, 2] : f32[{m}, 2, 21]
                %sum = reduce add %terms over 1 : f32[{m}, 21]
                store %sum, %y[%m+{m} where <%end, 0+21]
                %flat = merge %terms over 0+2 : f32[{twice}, 21]
                %first = slice %flat [0, 0] : f32[{m}, 21]
                store %first, %z[%m+{m} where <%end, 0+21]
              }}
            }}",
            twice = 2 * m,
        );
        for with_slice in [false, true] {
            let stored = |line: &&str| with_slice || !line.contains("%z[");
            let text: Vec<&str> = text.lines().filter(stored).collect();
            let list: Vec<Vec<i32>> = items.iter().map(|i| i.to_vec()).collect();
            Case::new(&text.join("\n"), &[7])
                .set("perm", |p| ((p[0] * 5 + 3) % 7) as f64)
                .list("work", &list)
                .tolerance(1e-3)
                .check();
        }
    }
}

/// An axis of one row that is split into nothing: the rows stored are not those of the product.
#[test]
fn rows_without_their_axis() {
    let text = "kernel @row row (%x: in bf16[n, 16], %w: in bf16[8, 16], %y: out f32[n, 8])
             where 1 <= n <= 4 {
          grid %i in 0..n step 1 {
            %zero = splat 0.5 : f32[1, 8]
            %a = load %x[%i+1 where <n, 0+16] : bf16[1, 16]
            %b = load %w[0+8, 0+16] : bf16[8, 16]
            %sum = mma %zero, %a, %b : f32[1, 8]
            %flat = split %sum over 0 [] : f32[8]
            store %flat, %y[%i, 0+8 where <5]
          }
        }";
    Case::new(text, &[3]).tolerance(1e-3).check();
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
