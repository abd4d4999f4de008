//! Rotary embedding: from the config's variants to frequencies and factors.

use super::config::{Fields, TOKENS};
use std::f64::consts::PI;

/// How a model rotates: the base and how it was stretched for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Stretching.
    pub scaling: Scaling,
}

/// How frequencies are stretched.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Every frequency divided by the factor.
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by the factor, short ones kept.
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Wavelengths above original / low are divided.
        low: f64,
        /// Wavelengths below original / high are kept.
        high: f64,
        /// Context before stretching.
        original: f64,
    },
    /// YaRN: a ramp over dimensions between kept and divided frequencies.
    Yarn {
        /// How many times longer.
        factor: f64,
        /// Rotations within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// Context before stretching.
        original: f64,
        /// Multiplier of cos and sin.
        attention: f64,
        /// Multiplier of the softmax scale, squared already.
        softmax: f64,
    },
}

/// What a rotation table is computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians per position, one for each rotated pair.
    pub radians: Vec<f64>,
    /// Multiplier of cos and sin.
    pub multiplier: f64,
}

/// YaRN's factor for attention: `0.1 a ln f + 1` for f > 1.
fn mscale(factor: f64, a: f64) -> f64 {
    if factor > 1.0 { 0.1 * a * factor.ln() + 1.0 } else { 1.0 }
}

impl RopeConfig {
    /// Reads `rope_theta` and `rope_scaling` (or `rope_parameters`, which holds both).
    ///
    /// `deepseek`: YaRN's `mscale_all_dim` also multiplies the softmax scale.
    pub fn read(f: &mut Fields, deepseek: bool) -> RopeConfig {
        let key = if f.has("rope_parameters") { "rope_parameters" } else { "rope_scaling" };
        let context = f.int_or("max_position_embeddings", 1, TOKENS) as f64;
        let outer = f.has("rope_theta").then(|| f.positive("rope_theta", None, 1e12));
        f.relate(&["rope_theta"], outer.is_none_or(|v| v > 1.0), "a number above 1");
        let Some(mut inner) = f.object(key) else {
            return RopeConfig { theta: outer.unwrap_or(1e4), scaling: Scaling::None };
        };
        let nested = inner.has("rope_theta").then(|| inner.positive("rope_theta", None, 1e12));
        if let (Some(a), Some(b)) = (outer, nested) {
            let expected = format!("{a}, the rope_theta beside {key}");
            inner.relate(&["rope_theta"], a == b, &expected);
        }
        inner.relate(&["rope_theta"], nested.is_none_or(|v| v > 1.0), "a number above 1");
        let scaling = read_scaling(&mut inner, context, deepseek);
        f.absorb(inner);
        RopeConfig { theta: outer.or(nested).unwrap_or(1e4), scaling }
    }

    /// Frequencies of a rotation over `dims` channels (an even number).
    pub fn frequencies(&self, dims: i64) -> Frequencies {
        let pairs = dims / 2;
        let plain = |i: i64| self.theta.powf(-2.0 * i as f64 / dims as f64);
        let radians = (0..pairs).map(|i| self.stretched(plain(i), i, dims)).collect();
        let multiplier = match self.scaling {
            Scaling::Yarn { attention, .. } => attention,
            _ => 1.0,
        };
        Frequencies { radians, multiplier }
    }

    /// What the softmax scale is multiplied by.
    pub fn softmax_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { softmax, .. } => softmax,
            _ => 1.0,
        }
    }

    fn stretched(&self, plain: f64, pair: i64, dims: i64) -> f64 {
        match self.scaling {
            Scaling::None => plain,
            Scaling::Linear { factor } => plain / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let wavelength = 2.0 * PI / plain;
                if wavelength < original / high {
                    plain
                } else if wavelength > original / low {
                    plain / factor
                } else {
                    let kept = (original / wavelength - low) / (high - low);
                    (1.0 - kept) * plain / factor + kept * plain
                }
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, original, .. } => {
                let d = dims as f64;
                let at = |rotations: f64| {
                    d * (original / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
                };
                let low = at(beta_fast).floor().max(0.0);
                let mut high = at(beta_slow).ceil().min(d - 1.0);
                if low == high {
                    high += 0.001;
                }
                let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain / factor * ramp + plain * (1.0 - ramp)
            }
        }
    }
}

fn read_scaling(f: &mut Fields, context: f64, deepseek: bool) -> Scaling {
    let (old, new) = (f.word("type"), f.word("rope_type"));
    if let (Some(a), Some(b)) = (&old, &new) {
        f.relate(&["type", "rope_type"], a == b, "the same word in both");
    }
    match new.or(old).as_deref() {
        Some("default") => Scaling::None,
        Some("linear") => Scaling::Linear { factor: stretch(f) },
        Some("llama3") => read_llama3(f),
        Some("yarn") => read_yarn(f, context, deepseek),
        Some(other) => {
            let other = other.to_string();
            f.unsupported("rope_type", other, "default, linear, llama3 or yarn");
            Scaling::None
        }
        None => {
            f.wrong("rope_type", "default, linear, llama3 or yarn");
            Scaling::None
        }
    }
}

/// How many times longer the context became.
fn stretch(f: &mut Fields) -> f64 {
    let factor = f.positive("factor", None, 1e6);
    f.relate(&["factor"], factor >= 1.0, "a number from 1 on");
    factor
}

fn read_llama3(f: &mut Fields) -> Scaling {
    let factor = stretch(f);
    let low = f.positive("low_freq_factor", None, 1e6);
    let high = f.positive("high_freq_factor", None, 1e6);
    f.relate(&["low_freq_factor", "high_freq_factor"], low < high, "a smaller number");
    let original = f.int("original_max_position_embeddings", TOKENS) as f64;
    Scaling::Llama3 { factor, low, high, original }
}

fn read_yarn(f: &mut Fields, context: f64, deepseek: bool) -> Scaling {
    let factor = stretch(f);
    let beta_fast = f.positive("beta_fast", Some(32.0), 1e6);
    let beta_slow = f.positive("beta_slow", Some(1.0), 1e6);
    f.relate(&["beta_slow", "beta_fast"], beta_slow <= beta_fast, "at most beta_fast");
    let original = f.optional_int("original_max_position_embeddings", TOKENS);
    let all_dim = f.optional_number("mscale_all_dim", 1e3);
    let own = f.optional_number("mscale", 1e3);
    let given = f.optional_number("attention_factor", 1e3).filter(|v| *v > 0.0);
    // Neither given: the published definition's m(f, 1).
    let ratio = mscale(factor, own.unwrap_or(1.0)) / mscale(factor, all_dim.unwrap_or(0.0));
    let softmax = if deepseek { mscale(factor, all_dim.unwrap_or(0.0)).powi(2) } else { 1.0 };
    Scaling::Yarn {
        factor,
        beta_fast,
        beta_slow,
        original: original.map_or(context, |v| v as f64),
        attention: given.unwrap_or(ratio),
        softmax,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(json: &str) -> (RopeConfig, Fields) {
        let mut f = Fields::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        (RopeConfig::read(&mut f, true), f)
    }

    const YARN: &str = r#"{"max_position_embeddings": 163840, "rope_theta": 10000,
        "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 4096, "mscale": M, "mscale_all_dim": M}}"#;

    /// The published figures: softmax factors of V3 and V2-Lite, ramp from 10 to 23.
    #[test]
    fn yarn_reproduces_published_figures() {
        let (v3, _) = read(&YARN.replace('M', "1.0"));
        assert!((v3.softmax_factor() - 1.873854).abs() < 1e-6);
        let (lite, _) = read(&YARN.replace('M', "0.707"));
        assert!((lite.softmax_factor() - 1.589626).abs() < 1e-6);
        let f = v3.frequencies(64);
        assert_eq!((f.radians.len(), f.multiplier), (32, 1.0));
        let plain = |i: i32| 1e4f64.powf(-2.0 * f64::from(i) / 64.0);
        assert_eq!(f.radians[10], plain(10));
        assert!(f.radians[11] < plain(11));
        assert!((f.radians[23] - plain(23) / 40.0).abs() < 1e-15);
        assert!(f.radians[22] > plain(22) / 40.0);
    }

    #[test]
    fn llama3_keeps_short_and_stretches_long_wavelengths() {
        let (rope, f) = read(
            r#"{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8,
            "low_freq_factor": 1, "high_freq_factor": 4,
            "original_max_position_embeddings": 8192}}"#,
        );
        f.finish().expect("a good config");
        let r = rope.frequencies(128).radians;
        assert_eq!(r[0], 1.0);
        let last = 5e5f64.powf(-126.0 / 128.0);
        assert!((r[63] - last / 8.0).abs() < 1e-15);
    }

    #[test]
    fn contradictions_and_unknown_types_are_reported() {
        let (_, f) = read(
            r#"{"rope_theta": 1e4, "rope_scaling": {"type": "yarn", "rope_type": "linear",
            "factor": -1, "rope_theta": 5}}"#,
        );
        let errors = f.finish().expect_err("three problems").0;
        let keys: Vec<String> = errors.iter().map(|e| e.to_string()).collect();
        assert_eq!(keys.len(), 3, "{keys:?}");
        let (_, f) = read(r#"{"rope_scaling": {"type": "longrope", "factor": 2}}"#);
        assert_eq!(f.finish().expect_err("unknown").0[0].code(), "E0205");
    }
}
