//! The numbers of a weight, all of them, for interpreters and comparisons.

use super::source::WeightSource;
use crate::error::ImportError;
use half::{bf16, f16};
use ir::dtype::{DType, Encoding, f8e4m3_to_f32};
use ir::graph::program::Weight;

/// Every element of a weight in the order of its logical axes, decoded.
///
/// # Errors
/// [`ImportError::MissingTensor`], [`ImportError::Range`], or [`ImportError::Misfit`] for an
/// encoding that import does not produce.
pub fn values(weight: &Weight, source: &dyn WeightSource) -> Result<Vec<f32>, ImportError> {
    let own = if weight.source.stacked { &weight.dims[1..] } else { &weight.dims[..] };
    let mut all = Vec::new();
    for (i, key) in weight.source.tensors.iter().enumerate() {
        let mut stored = decoded(key, weight.encoding, source)?;
        if let Some(scale) = weight.encoding.scale {
            let scales = weight.source.scales.get(i).ok_or_else(|| misfit(key, weight.encoding))?;
            let scales = decoded(scales, scale.dtype.into(), source)?;
            let cols = weight.source.stored_dims.last().map_or(1, |c| (*c).max(1)) as usize;
            let (high, wide) = (scale.rows as usize, scale.cols as usize);
            for (at, x) in stored.iter_mut().enumerate() {
                let (row, col) = (at / cols, at % cols);
                *x *= scales[row / high * cols.div_ceil(wide) + col / wide];
            }
        }
        let view = &weight.source.view;
        visit(own, &view.strides, view.offset, &mut |at| {
            let value = usize::try_from(at).ok().and_then(|at| stored.get(at));
            all.push(*value.ok_or_else(|| misfit(key, weight.encoding))?);
            Ok(())
        })?;
    }
    Ok(all)
}

fn misfit(key: &str, found: Encoding) -> ImportError {
    let (found, expected) = (found.to_string(), "a view within the stored tensor".into());
    ImportError::Misfit { key: key.into(), found, expected }
}

/// Calls `f` with the stored position of each element, row-major over `dims`.
fn visit(
    dims: &[i64],
    strides: &[i64],
    base: i64,
    f: &mut dyn FnMut(i64) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    match (dims, strides) {
        ([extent, dims @ ..], [stride, strides @ ..]) => {
            (0..*extent).try_for_each(|i| visit(dims, strides, base + i * stride, f))
        }
        _ => f(base),
    }
}

/// All codes of a stored tensor as numbers.
fn decoded(
    key: &str,
    encoding: Encoding,
    source: &dyn WeightSource,
) -> Result<Vec<f32>, ImportError> {
    let info = source.tensor(key);
    let bytes = info.and_then(|info| info.bytes()).ok_or_else(|| misfit(key, encoding))?;
    let mut raw = vec![0; usize::try_from(bytes).map_err(|_| misfit(key, encoding))?];
    source.read(key, 0, &mut raw)?;
    let pairs = || raw.as_chunks::<2>().0.iter();
    Ok(match encoding.code {
        DType::F32 => raw.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::BF16 => pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        DType::F16 => pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        DType::F8E4M3 => raw.iter().map(|b| f8e4m3_to_f32(*b)).collect(),
        _ => return Err(misfit(key, encoding)),
    })
}
