//! Choosing the next token from logits.
//!
//! A choice depends on the logits, the options, the seed and the position alone, so a sequence
//! reads the same whatever else runs beside it, and after it was interrupted.

use crate::error::{GenerateError, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// How the next token is chosen. The default takes the most likely one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divisor of the logits, at least 0; 0 takes the most likely token.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens; 0 means all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability, in (0, 1].
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the most likely one, in [0, 1].
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GenerateError::BadOption`] with the first option outside its range.
    pub fn check(&self) -> Result<()> {
        let bad = |option, value: f32, expected| {
            Err(GenerateError::BadOption { option, value: value.to_string(), expected })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "a number of at least 0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top-p", self.top_p, "a number above 0 and up to 1");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min-p", self.min_p, "a number from 0 to 1");
        }
        Ok(())
    }
}

/// Chooses tokens; keeps its buffers from token to token.
#[derive(Debug, Default)]
pub struct Sampler {
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    /// Likelihood relative to the most likely token, in [0, 1].
    weight: f32,
}

/// More likely first; of equal ones the lower id.
fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

impl Sampler {
    /// A sampler with empty buffers.
    pub fn new() -> Self {
        Sampler::default()
    }

    /// The token for `position` of its sequence. `logits` has one value per id, minus infinity
    /// for impossible ones; ids with `allowed[id] == false` are left out, as are ids beyond
    /// `allowed`'s end (none is left out if `allowed` is `None`). The filters apply in the order
    /// temperature, top-k, top-p, min-p, each to what the one before left.
    ///
    /// # Errors
    /// [`GenerateError::BadLogit`] if a logit is NaN or plus infinity, masked or not,
    /// [`GenerateError::NoCandidate`] if nothing is left to choose from,
    /// [`GenerateError::BadOption`] if an option is outside its range.
    pub fn choose(
        &mut self,
        logits: &[f32],
        allowed: Option<&[bool]>,
        position: usize,
        options: &Sampling,
    ) -> Result<i32> {
        options.check()?;
        let bad = |l: &f32| l.is_nan() || *l == f32::INFINITY;
        if let Some(id) = logits.iter().position(bad) {
            return Err(GenerateError::BadLogit { id, position, value: logits[id] });
        }
        let none = GenerateError::NoCandidate { position, vocab: logits.len() };
        let best = most_likely(logits, allowed).ok_or(none)?;
        if options.temperature == 0.0 {
            return Ok(best as i32);
        }
        self.weigh(logits, allowed, best, options);
        let total = self.filter(options);
        let point = uniform(options.seed, position) * total;
        Ok(self.at(point) as i32)
    }

    /// Fills the candidates with every id that is possible at all.
    fn weigh(&mut self, logits: &[f32], allowed: Option<&[bool]>, best: usize, o: &Sampling) {
        let top = logits[best];
        let weight = |logit: f32| {
            // The difference may overflow to minus infinity, which is as it should be; with a
            // tiny temperature 0/T stays 0.
            ((logit - top) / o.temperature).exp()
        };
        self.candidates.clear();
        let ids = logits.iter().enumerate().filter(|(id, _)| is_allowed(allowed, *id));
        self.candidates.extend(
            ids.map(|(id, &logit)| Candidate { id: id as u32, weight: weight(logit) })
                .filter(|c| c.weight > 0.0 && c.weight >= o.min_p),
        );
    }

    /// Cuts the candidates down by top-k and top-p; gives the sum of the remaining weights.
    fn filter(&mut self, options: &Sampling) -> f64 {
        let all = &mut self.candidates;
        if options.top_k > 0 && options.top_k < all.len() {
            all.select_nth_unstable_by(options.top_k - 1, likelier);
            all.truncate(options.top_k);
        }
        let total = sum(all);
        if options.top_p >= 1.0 {
            all.sort_unstable_by_key(|c| c.id);
            return total;
        }
        self.nucleus(f64::from(options.top_p) * total)
    }

    /// Keeps the most likely candidates whose weights reach `goal`. Sorts only as many as needed:
    /// a nucleus is mostly a few dozen out of a hundred thousand.
    fn nucleus(&mut self, goal: f64) -> f64 {
        let all = &mut self.candidates;
        let mut sorted = 0;
        let mut reached = 0.0;
        let mut block = 128;
        while sorted < all.len() {
            let rest = &mut all[sorted..];
            let count = block.min(rest.len());
            if count < rest.len() {
                rest.select_nth_unstable_by(count - 1, likelier);
            }
            rest[..count].sort_unstable_by(likelier);
            for (i, candidate) in rest[..count].iter().enumerate() {
                reached += f64::from(candidate.weight);
                if reached >= goal {
                    all.truncate(sorted + i + 1);
                    return reached;
                }
            }
            sorted += count;
            block *= 4;
        }
        reached
    }

    /// The candidate in whose share of the running sum `point` falls.
    fn at(&self, point: f64) -> u32 {
        let mut sum = 0.0;
        for candidate in &self.candidates {
            sum += f64::from(candidate.weight);
            if point < sum {
                return candidate.id;
            }
        }
        // Rounding may leave the point at the very end.
        self.candidates.last().map_or(0, |c| c.id)
    }
}

fn is_allowed(allowed: Option<&[bool]>, id: usize) -> bool {
    allowed.is_none_or(|mask| mask.get(id).copied().unwrap_or(false))
}

/// The lowest of the ids with the greatest logit.
fn most_likely(logits: &[f32], allowed: Option<&[bool]>) -> Option<usize> {
    let mut best = None;
    for (id, &logit) in logits.iter().enumerate() {
        let better = best.is_none_or(|b: usize| logit > logits[b]);
        if better && logit > f32::NEG_INFINITY && is_allowed(allowed, id) {
            best = Some(id);
        }
    }
    best
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}

/// A number in [0, 1) that depends on seed and position alone: the position selects one of the
/// generator's 2^64 streams.
fn uniform(seed: u64, position: usize) -> f64 {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(position as u64);
    (generator.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, f32::NEG_INFINITY, 3.0, 2.0, 0.0];

    fn counts(options: &Sampling, allowed: Option<&[bool]>, draws: usize) -> [usize; 6] {
        let mut sampler = Sampler::new();
        let mut counts = [0; 6];
        for position in 0..draws {
            let id = sampler.choose(&LOGITS, allowed, position, options).expect("finite logits");
            counts[id as usize] += 1;
        }
        counts
    }

    fn sampled() -> Sampling {
        Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_ids() {
        assert_eq!(counts(&Sampling::default(), None, 3), [0, 3, 0, 0, 0, 0]);
        let without = [true, false, true, true, true, true];
        assert_eq!(counts(&Sampling::default(), Some(&without), 3), [0, 0, 0, 3, 0, 0]);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let draws = 40_000;
        for temperature in [0.5_f32, 1.0, 2.0] {
            let options = Sampling { temperature, ..sampled() };
            let weights = LOGITS.map(|l| f64::from(l / temperature).exp());
            let total: f64 = weights.iter().sum();
            let found = counts(&options, None, draws);
            for (id, weight) in weights.iter().enumerate() {
                let p = weight / total;
                let expected = p * draws as f64;
                // Five standard deviations of a binomial count.
                let bound = 5.0 * (expected * (1.0 - p)).sqrt();
                let off = (found[id] as f64 - expected).abs();
                assert!(off <= bound, "id {id} at T {temperature}: {off} > {bound}");
            }
        }
    }

    #[test]
    fn top_k_keeps_the_k_most_likely() {
        let seen = counts(&Sampling { top_k: 1, ..sampled() }, None, 500);
        assert_eq!(seen, [0, 500, 0, 0, 0, 0]);
        let seen = counts(&Sampling { top_k: 3, ..sampled() }, None, 500);
        assert_eq!(seen.map(|c| c > 0), [false, true, false, true, true, false]);
        let seen = counts(&Sampling { top_k: 99, ..sampled() }, None, 5000);
        assert_eq!(seen.map(|c| c > 0), [true, true, false, true, true, true]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_it() {
        // Probabilities: 0.389 (ids 1 and 3), 0.143, 0.053, 0.019.
        let kept = |top_p| counts(&Sampling { top_p, ..sampled() }, None, 5000).map(|c| c > 0);
        assert_eq!(kept(0.3), [false, true, false, false, false, false]);
        assert_eq!(kept(0.5), [false, true, false, true, false, false]);
        assert_eq!(kept(0.8), [false, true, false, true, true, false]);
        assert_eq!(kept(0.95), [true, true, false, true, true, false]);
    }

    #[test]
    fn min_p_is_relative_to_the_most_likely() {
        let kept = |min_p| counts(&Sampling { min_p, ..sampled() }, None, 5000).map(|c| c > 0);
        assert_eq!(kept(0.5), [false, true, false, true, false, false]);
        assert_eq!(kept(0.3), [false, true, false, true, true, false]);
        assert_eq!(kept(1.0), [false, true, false, true, false, false]);
    }

    #[test]
    fn a_large_nucleus_is_the_one_that_full_sorting_gives() {
        let logits: Vec<f32> = (0..5000_u32).map(|i| ((i * 7919) % 5000) as f32 / 700.0).collect();
        let options = Sampling { top_p: 0.9, ..sampled() };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let mut reached = 0.0;
        let size = 1 + order
            .iter()
            .position(|&id| {
                reached += f64::from(logits[id]).exp() / total;
                reached >= 0.9
            })
            .expect("the sum reaches 1");
        let mut sampler = Sampler::new();
        sampler.choose(&logits, None, 0, &options).expect("finite logits");
        assert!(sampler.candidates.len().abs_diff(size) <= 1, "{size}");
        let ids: Vec<usize> = sampler.candidates.iter().map(|c| c.id as usize).collect();
        assert_eq!(ids[..size - 1], order[..size - 1]);
    }

    #[test]
    fn a_choice_depends_on_seed_and_position_alone() {
        let options = Sampling { temperature: 2.0, ..sampled() };
        let choose = |seed, positions: &mut dyn Iterator<Item = usize>| -> Vec<i32> {
            let mut sampler = Sampler::new();
            let options = Sampling { seed, ..options };
            positions
                .map(|p| sampler.choose(&LOGITS, None, p, &options).expect("finite logits"))
                .collect()
        };
        let forward = choose(1, &mut (0..64));
        let mut backward = choose(1, &mut (0..64).rev());
        backward.reverse();
        assert_eq!(forward, backward);
        assert_ne!(forward, choose(2, &mut (0..64)));
    }

    #[test]
    fn numbers_that_are_none_are_errors() {
        for value in [f32::NAN, f32::INFINITY] {
            let mut logits = LOGITS;
            logits[4] = value;
            let error =
                Sampler::new().choose(&logits, None, 9, &sampled()).expect_err("not finite");
            assert!(matches!(error, GenerateError::BadLogit { id: 4, position: 9, .. }));
        }
        let masked = Sampler::new().choose(&LOGITS, Some(&[]), 0, &sampled());
        assert!(matches!(masked, Err(GenerateError::NoCandidate { vocab: 6, .. })));
        let empty = Sampler::new().choose(&[f32::NEG_INFINITY; 3], None, 0, &sampled());
        assert_eq!(empty.expect_err("nothing is possible").code(), "E0609");
    }

    #[test]
    fn extreme_temperatures_do_not_break() {
        let logits = [f32::MAX, f32::MIN, -1e30, f32::MAX];
        for temperature in [f32::MIN_POSITIVE, 1e-30, 1e30, f32::MAX] {
            let options = Sampling { temperature, ..sampled() };
            let id = Sampler::new().choose(&logits, None, 3, &options).expect("finite logits");
            assert!((0..4).contains(&id));
        }
    }

    #[test]
    fn options_outside_their_ranges_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..sampled() },
            Sampling { temperature: f32::NAN, ..sampled() },
            Sampling { top_p: 0.0, ..sampled() },
            Sampling { top_p: 1.5, ..sampled() },
            Sampling { min_p: f32::NAN, ..sampled() },
        ] {
            assert_eq!(bad.check().expect_err("out of range").code(), "E0610");
        }
    }
}
