//! Weights made up from a seed: the shape of a model without its knowledge.
//!
//! Element i of a tensor is a function of the seed, the tensor's name and i alone, so any part can
//! be made at any time, in any order, on any thread.

use super::source::{StoredType, TensorInfo, WeightSource};
use crate::error::ImportError;
use half::bf16;
use std::collections::BTreeMap;

/// Standard deviation of a weight matrix, as models are initialised.
const STD: f64 = 0.02;
/// Root mean square of the codes that [`fp8_code`] makes.
const FP8_RMS: f64 = 76.0;
/// Entries of the table of quantiles; one takes eleven bits of randomness.
const QUANTILES: usize = 1 << 11;

/// bf16 values at equal steps of probability.
type Table = Box<[u16; QUANTILES]>;

/// What a tensor's values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Near normal around 0: matrices and embeddings.
    Matrix,
    /// Near 1: weights of a norm.
    Norm,
    /// Small around 0: biases.
    Bias,
    /// Scales of a matrix stored in 8 bits.
    Scale,
}

/// Tensors made up on demand.
pub struct Dummy {
    seed: u64,
    tensors: BTreeMap<String, (TensorInfo, Fill)>,
    matrix: Table,
    norm: Table,
    bias: Table,
}

impl Dummy {
    /// Tensors of these names, shapes and looks.
    pub fn new(seed: u64, tensors: BTreeMap<String, (TensorInfo, Fill)>) -> Dummy {
        let standard: Box<[f64; QUANTILES]> =
            Box::new(std::array::from_fn(|i| normal_quantile((i as f64 + 0.5) / QUANTILES as f64)));
        let normal = |mean: f64, std: f64| -> Table {
            Box::new(standard.map(|q| bf16::from_f64(mean + std * q).to_bits()))
        };
        let (matrix, norm, bias) = (normal(0.0, STD), normal(1.0, 0.05), normal(0.0, STD / 4.0));
        Dummy { seed, tensors, matrix, norm, bias }
    }

    /// What to draw from; a scale is a constant.
    fn table(&self, fill: Fill) -> Option<&[u16; QUANTILES]> {
        match fill {
            Fill::Matrix => Some(&self.matrix),
            Fill::Norm => Some(&self.norm),
            Fill::Bias => Some(&self.bias),
            Fill::Scale => None,
        }
    }
}

/// Inverse of the normal distribution function by bisection of its series; only tables need it.
fn normal_quantile(p: f64) -> f64 {
    let (mut lo, mut hi) = (-6.0, 6.0);
    for _ in 0..60 {
        let mid = 0.5 * (lo + hi);
        if normal_cdf(mid) < p { lo = mid } else { hi = mid }
    }
    0.5 * (lo + hi)
}

/// Φ(x) = 1/2 + φ(x)·(x + x³/3 + x⁵/15 + …).
fn normal_cdf(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// FNV-1a of a name, so that tensors differ.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

/// SplitMix64's output function at a counter.
fn random_at(stream: u64, counter: u64) -> u64 {
    let mut z = stream.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Four elements from one draw.
fn four(table: &[u16; QUANTILES], draw: u64) -> [u16; 4] {
    const MASK: usize = QUANTILES - 1;
    [0, 16, 32, 48].map(|shift| table[(draw >> shift) as usize & MASK])
}

/// bf16 elements from element `first` on; `out` holds whole elements.
fn fill_bf16(table: &[u16; QUANTILES], stream: u64, first: u64, out: &mut [u8]) {
    let lead = (first.wrapping_neg() % 4) as usize;
    let (head, body) = out.split_at_mut(out.len().min(2 * lead));
    let draws = first / 4;
    let early = four(table, random_at(stream, draws));
    for (bytes, value) in head.as_chunks_mut::<2>().0.iter_mut().zip(&early[4 - lead..]) {
        *bytes = value.to_le_bytes();
    }
    let start = first.div_ceil(4);
    let (whole, tail) = body.as_chunks_mut::<8>();
    let next = start + whole.len() as u64;
    for (counter, bytes) in (start..).zip(whole) {
        let [a, b, c, d] = four(table, random_at(stream, counter)).map(u64::from);
        *bytes = (a | b << 16 | c << 32 | d << 48).to_le_bytes();
    }
    let late = four(table, random_at(stream, next));
    for (bytes, value) in tail.as_chunks_mut::<2>().0.iter_mut().zip(&late) {
        *bytes = value.to_le_bytes();
    }
}

/// An fp8 code of magnitude 32 to 120: two exponents, every mantissa, either sign.
fn fp8_code(stream: u64, element: u64) -> u8 {
    let draw = random_at(stream, element / 8) >> (8 * (element % 8));
    0x60 | (draw & 0x8f) as u8
}

/// One element of any type, in little-endian bytes.
fn element(dummy: &Dummy, stream: u64, info: &TensorInfo, fill: Fill, i: u64) -> [u8; 4] {
    if info.dtype == StoredType::F8_E4M3 {
        return [fp8_code(stream, i), 0, 0, 0];
    }
    let value = match dummy.table(fill) {
        None => (STD / FP8_RMS) as f32,
        Some(table) => {
            let draw = random_at(stream, i / 4) >> (16 * (i % 4));
            bf16::from_bits(table[draw as usize % QUANTILES]).to_f32()
        }
    };
    match info.dtype {
        StoredType::F16 => {
            let [a, b] = half::f16::from_f32(value).to_le_bytes();
            [a, b, 0, 0]
        }
        _ => value.to_le_bytes(),
    }
}

impl WeightSource for Dummy {
    fn tensor(&self, key: &str) -> Option<TensorInfo> {
        self.tensors.get(key).map(|(info, _)| info.clone())
    }

    fn keys(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    /// Reads whole elements: `at` and the length of `out` are multiples of an element's bytes.
    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        let Some((info, fill)) = self.tensors.get(key) else {
            let expected = "a tensor of this model".into();
            return Err(ImportError::MissingTensor { key: key.into(), expected });
        };
        let len = info.bytes().unwrap_or(0);
        let end = at.saturating_add(out.len() as u64);
        let size = info.dtype.bitsize() as u64 / 8;
        if end > len || !at.is_multiple_of(size) || !end.is_multiple_of(size) {
            return Err(ImportError::Range { key: key.into(), start: at, end, len });
        }
        let stream = random_at(self.seed, name_hash(key));
        match self.table(*fill) {
            Some(table) if info.dtype == StoredType::BF16 => {
                fill_bf16(table, stream, at / 2, out);
            }
            _ => {
                for (i, bytes) in (at / size..).zip(out.chunks_exact_mut(size as usize)) {
                    let value = element(self, stream, info, *fill, i);
                    bytes.copy_from_slice(&value[..size as usize]);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dummy(dtype: StoredType, dims: &[u64], fill: Fill) -> Dummy {
        let info = TensorInfo { dtype, dims: dims.to_vec() };
        Dummy::new(
            7,
            BTreeMap::from([("a".into(), (info.clone(), fill)), ("b".into(), (info, fill))]),
        )
    }

    fn bytes(d: &Dummy, key: &str, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        d.read(key, at, &mut out).expect("a range of the tensor");
        out
    }

    fn numbers(d: &Dummy, key: &str, n: usize) -> Vec<f64> {
        let raw = bytes(d, key, 0, 2 * n);
        raw.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect()
    }

    fn moments(x: &[f64]) -> (f64, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        (mean, var.sqrt())
    }

    #[test]
    fn any_part_equals_the_whole() {
        for dtype in [StoredType::BF16, StoredType::F32, StoredType::F16, StoredType::F8_E4M3] {
            let d = dummy(dtype, &[7, 11], Fill::Matrix);
            let size = dtype.bitsize() / 8;
            let whole = bytes(&d, "a", 0, 77 * size);
            for from in 0..20 {
                for to in from..30 {
                    let part = bytes(&d, "a", (from * size) as u64, (to - from) * size);
                    assert_eq!(part, whole[from * size..to * size], "{dtype:?} {from}..{to}");
                }
            }
            assert_ne!(whole, bytes(&d, "b", 0, 77 * size), "tensors differ");
        }
    }

    #[test]
    fn values_look_like_a_trained_model() {
        let (mean, std) =
            moments(&numbers(&dummy(StoredType::BF16, &[1 << 16], Fill::Matrix), "a", 1 << 16));
        assert!(mean.abs() < 5e-4 && (std - STD).abs() < 5e-4, "{mean} {std}");
        let (mean, std) =
            moments(&numbers(&dummy(StoredType::BF16, &[1 << 12], Fill::Norm), "a", 1 << 12));
        assert!((mean - 1.0).abs() < 0.01 && std < 0.1, "{mean} {std}");
        let codes = bytes(&dummy(StoredType::F8_E4M3, &[1 << 12], Fill::Matrix), "a", 0, 1 << 12);
        let codes: Vec<f64> =
            codes.iter().map(|c| f64::from(ir::dtype::f8e4m3_to_f32(*c))).collect();
        let (mean, std) = moments(&codes);
        assert!(mean.abs() < 4.0 && (std - FP8_RMS).abs() < 4.0, "{mean} {std}");
    }

    #[test]
    fn ranges_outside_are_refused() {
        let d = dummy(StoredType::BF16, &[4], Fill::Matrix);
        for (at, len) in [(0, 10), (8, 2), (1, 2), (0, 3), (u64::MAX, 2)] {
            let e = d.read("a", at, &mut vec![0; len]).expect_err("outside");
            assert_eq!(e.code(), "E0284", "{at} {len}");
        }
        assert_eq!(d.read("c", 0, &mut []).expect_err("unknown").code(), "E0212");
    }
}
