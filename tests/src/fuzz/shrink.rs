//! The shortest input that fails in the same way.

use std::time::{Duration, Instant};

/// How long to try.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leaves out chunks of `input`, then single bytes, as long as `fails` says so.
pub fn shrink(input: &[u8], fails: &dyn Fn(&[u8]) -> bool) -> Vec<u8> {
    let end = Instant::now() + PATIENCE;
    let mut best = input.to_vec();
    let mut chunk = best.len().div_ceil(2);
    while chunk > 0 && Instant::now() < end {
        let before = best.len();
        let mut at = 0;
        while at < best.len() && Instant::now() < end {
            let to = (at + chunk).min(best.len());
            let shorter = [&best[..at], &best[to..]].concat();
            match fails(&shorter) {
                true => best = shorter,
                false => at += chunk,
            }
        }
        // Single bytes once more where that helped.
        if chunk > 1 || best.len() == before {
            chunk /= 2;
        }
    }
    best
}

#[test]
fn what_does_not_matter_is_left_out() {
    let fails = |input: &[u8]| input.contains(&b'x') && input.ends_with(b"yz");
    let input = [&b"abc".repeat(100)[..], b"x", &b"def".repeat(77), b"yz"].concat();
    assert_eq!(shrink(&input, &fails), b"xyz");
}
