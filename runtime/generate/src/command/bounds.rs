//! How far results may be from goldens: what the precision of a compiled model makes of them.

use crate::error::{GenerateError, Result};
use runtime::manifest::formats;
use std::collections::BTreeMap;

/// Bounds of one precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// `f32` or `bf16`: the narrowest that activations or states are rounded to.
    pub precision: &'static str,
    /// Relative L2 error of the logits at each position.
    pub row: f64,
    /// Median over prompts of the median error of a prompt's positions.
    pub median: f64,
    /// Gaps between a router's scores below which the precision may choose other experts. In a
    /// prompt with such a gap, errors beyond `row` are excused; none are at 0.
    pub gap: f64,
    /// Whether a greedy decision is compared only if the errors found could not turn it, or
    /// wherever the goldens call it clear.
    pub turns: bool,
}

/// What the models of `tests/goldens` need, with room: errors in f32 are about 1e-6.
const F32: Bounds = Bounds { precision: "f32", row: 1e-3, median: 1e-3, gap: 0.0, turns: false };

/// bf16 alone makes errors of about 1e-2, nowhere above 2.5e-2, in those models; of the scores of
/// their routers up to 2.8e-3, so that four standard deviations of a difference are 1.6e-2.
pub const BF16: Bounds =
    Bounds { precision: "bf16", row: 3e-2, median: 2e-2, gap: 1.6e-2, turns: true };

/// An error that no choice of experts excuses: results that have nothing to do with the goldens
/// are further away than that.
const LOST: f64 = 1.0;

/// Standard deviations of the difference of two values that are not expected to be exceeded.
pub const SPREAD: f64 = 4.0 * std::f64::consts::SQRT_2;

impl Bounds {
    /// Bounds for a model compiled with `options` (those of the manifest); `tolerance` takes the
    /// place of those of positions and medians.
    ///
    /// # Errors
    /// [`GenerateError::BadOption`] where it is not given for weights, or a KV cache, of codes:
    /// goldens are those of the weights of the checkpoint, and bounds those of 16 bits.
    pub fn of(options: &BTreeMap<String, String>, tolerance: Option<f64>) -> Result<Bounds> {
        let is =
            |key: &str, values: &[&str]| options.get(key).is_some_and(|v| values.contains(&&**v));
        let keeps_codes = is("kv-dtype", &["fp8", "int8", "int8g32"]);
        if tolerance.is_none() && (keeps_codes || formats(options).next().is_some()) {
            return Err(GenerateError::BadOption {
                option: "--tolerance",
                value: "not given".to_owned(),
                expected: "a number, as weights or the KV cache have fewer digits than the goldens are for",
            });
        }
        let is_rounded =
            keeps_codes || is("compute", &["auto", "bf16"]) || is("kv-dtype", &["bf16"]);
        let own = if is_rounded { BF16 } else { F32 };
        let [row, median] = [own.row, own.median].map(|bound| tolerance.unwrap_or(bound));
        Ok(Bounds { row, median, ..own })
    }

    /// Whether an error beyond [`Bounds::row`] is excused in a prompt whose least gap is `gap`.
    pub fn excuses(&self, error: f64, gap: Option<f64>) -> bool {
        error < LOST && self.closes(gap)
    }

    /// Whether the precision may choose other experts at this gap.
    pub fn closes(&self, gap: Option<f64>) -> bool {
        gap.is_some_and(|gap| gap < self.gap)
    }

    /// Greedy decisions of `steps` that are sure: those before the first whose margin errors of
    /// this size (root mean square, of a logit) could turn over.
    pub fn sure(&self, margins: Option<&[f32]>, steps: usize, error: f64) -> usize {
        if !self.turns {
            return steps;
        }
        let small = |m: &f32| f64::from(*m) <= SPREAD * error;
        margins.map_or(0, |all| all.iter().position(small).unwrap_or(all.len()).min(steps))
    }
}

/// The value in the middle; the greater one of two. None of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn bounds_are_those_of_the_narrowest_precision() {
        let of = |pairs: &[(&str, &str)]| Bounds::of(&options(pairs), None).expect("bounds");
        assert_eq!(of(&[("compute", "f32"), ("kv-dtype", "auto")]), F32);
        assert_eq!(of(&[("compute", "f32"), ("kv-dtype", "bf16")]), BF16);
        assert_eq!(of(&[("compute", "bf16"), ("kv-dtype", "auto")]), BF16);
        assert_eq!(of(&[("compute", "auto"), ("kv-dtype", "auto")]), BF16);
        let told = Bounds::of(&options(&[("compute", "bf16")]), Some(0.1)).expect("bounds");
        assert_eq!(told, Bounds { row: 0.1, median: 0.1, ..BF16 });
        let stored = [("weights", "stored"), ("weights.head", "auto")];
        assert_eq!(of(&stored), F32);
        let rounded = options(&[("weights", "stored"), ("weights.experts", "int4")]);
        assert_eq!(Bounds::of(&rounded, None).expect_err("no bound").code(), "E0610");
        assert_eq!(Bounds::of(&rounded, Some(0.2)).expect("bounds").row, 0.2);
    }

    #[test]
    fn gaps_excuse_what_bf16_may_do_and_nothing_else() {
        assert!(BF16.excuses(0.5, Some(1e-3)));
        assert!(!BF16.excuses(0.5, Some(0.1)) && !BF16.excuses(0.5, None));
        assert!(!BF16.excuses(1.4, Some(1e-3)) && !BF16.excuses(f64::INFINITY, Some(1e-3)));
        assert!(!F32.excuses(0.002, Some(0.0)));
    }

    #[test]
    fn margins_are_sure_while_no_error_turns_them() {
        let margins: &[f32] = &[1.0, 0.5, 0.1, 2.0];
        assert_eq!(BF16.sure(Some(margins), 4, 0.04), 2);
        assert_eq!(BF16.sure(Some(margins), 4, 0.1), 1);
        assert_eq!(BF16.sure(Some(margins), 4, f64::INFINITY), 0);
        assert_eq!(BF16.sure(Some(margins), 1, 0.0), 1);
        assert_eq!(BF16.sure(None, 4, 0.0), 0);
        assert_eq!(F32.sure(None, 4, 0.04), 4);
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([f64::INFINITY, 1.0]), Some(f64::INFINITY));
        assert_eq!(median([]), None);
    }
}
