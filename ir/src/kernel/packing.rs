//! Physical orders: what a [`Packing`] must satisfy.

use super::{PackStep, Packing};
use crate::dtype::{Encoding, Scale};
use thiserror::Error;

/// A packing that does not fit its tensor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PackingError {
    /// An axis that the tensor does not have.
    #[error("packing names axis {axis} of a tensor of rank {rank}")]
    Axis {
        /// As written.
        axis: u32,
        /// The tensor's rank.
        rank: usize,
    },
    /// An axis without exactly one outer step.
    #[error("axis {axis} has {found} outer steps, expected one")]
    Outer {
        /// Which axis.
        axis: u32,
        /// How many it has.
        found: usize,
    },
    /// Factors whose strides and extents do not chain from 1 to the divisor.
    #[error("factors of axis {axis} reach {found}, expected its divisor {divisor}")]
    Factors {
        /// Which axis.
        axis: u32,
        /// Positions that the factors tell apart.
        found: u64,
        /// As the outer step says.
        divisor: u32,
    },
    /// Scales in a packing of an encoding that has none, twice, or not between whole blocks.
    #[error("scales do not stand before whole blocks of {encoding}")]
    Scales {
        /// The tensor's encoding.
        encoding: Encoding,
    },
    /// A tensor too large, or of a block that is no whole number of bytes.
    #[error("a tensor of extents {dims:?} in {encoding} has no size in bytes")]
    Size {
        /// Its extents.
        dims: Vec<u64>,
        /// Its encoding.
        encoding: Encoding,
    },
}

impl Packing {
    /// Blocks of `lanes` positions of the second to last axis by `group` of the last, which lie
    /// together: `[.., r/lanes, c/group, r:lanes, c:group]`, leading axes outermost.
    pub fn blocked(rank: u32, lanes: u32, group: u32) -> Packing {
        let (r, c) = (rank.saturating_sub(2), rank.saturating_sub(1));
        let mut steps: Vec<_> = (0..r).map(|axis| PackStep::Outer { axis, divisor: 1 }).collect();
        steps.push(PackStep::Outer { axis: r, divisor: lanes });
        steps.push(PackStep::Outer { axis: c, divisor: group });
        steps.push(PackStep::Inner { axis: r, stride: 1, extent: lanes });
        steps.push(PackStep::Inner { axis: c, stride: 1, extent: group });
        Packing(steps)
    }

    /// Rows of `width` elements one after another, each behind its scales, of which there is one
    /// for `each` elements: `[.., c/width, {c:width/each}, c:width]`.
    pub fn rows(rank: u32, width: u32, each: u32) -> Packing {
        let axis = rank.saturating_sub(1);
        let mut steps: Vec<_> =
            (0..axis).map(|axis| PackStep::Outer { axis, divisor: 1 }).collect();
        let along = |extent| PackStep::Inner { axis, stride: 1, extent };
        steps.push(PackStep::Outer { axis, divisor: width });
        steps.push(PackStep::Scales(vec![along(width.div_ceil(each))]));
        steps.push(along(width));
        Packing(steps)
    }

    /// Whether it fits tensors of this rank and encoding, whatever their extents.
    pub fn check(&self, rank: usize, encoding: Encoding) -> Result<(), PackingError> {
        let in_range = |axis: u32| match (axis as usize) < rank {
            true => Ok(()),
            false => Err(PackingError::Axis { axis, rank }),
        };
        for step in &self.0 {
            match step {
                PackStep::Outer { axis, .. } | PackStep::Inner { axis, .. } => in_range(*axis)?,
                PackStep::Scales(inner) => {
                    for axis in inner.iter().filter_map(axis_of) {
                        in_range(axis)?;
                    }
                }
            }
        }
        for axis in 0..rank as u32 {
            let outer: Vec<u32> = self.0.iter().filter_map(|s| divisor_along(s, axis)).collect();
            let [divisor] = outer[..] else {
                return Err(PackingError::Outer { axis, found: outer.len() });
            };
            let found = chain(&self.0, axis);
            if divisor == 0 || found != Some(divisor.into()) {
                return Err(PackingError::Factors { axis, found: found.unwrap_or(0), divisor });
            }
        }
        self.check_scales(rank, encoding)
    }

    /// Whole blocks, and as many scales as they have.
    fn check_scales(&self, rank: usize, encoding: Encoding) -> Result<(), PackingError> {
        let Some((_, scales, codes)) = self.around_scales() else { return Ok(()) };
        let wrong = PackingError::Scales { encoding };
        let Some(scale) = encoding.scale else { return Err(wrong) };
        let inner = |s: &PackStep| matches!(s, PackStep::Inner { .. });
        if !codes.iter().all(inner) || !scales.iter().all(inner) {
            return Err(wrong);
        }
        for axis in 0..rank as u32 {
            let covered = chain(codes, axis).ok_or_else(|| wrong.clone())?;
            let per_scale = block_along(scale, axis as usize, rank);
            let whole = covered.is_multiple_of(per_scale) || per_scale.is_multiple_of(covered);
            if !whole || chain(scales, axis) != Some(covered.div_ceil(per_scale)) {
                return Err(wrong);
            }
        }
        Ok(())
    }

    /// Whether scales stand among the codes.
    pub fn nests_scales(&self) -> bool {
        self.around_scales().is_some()
    }

    /// How many rows (positions of the second to last axis) lie together whole, or `None` if
    /// none do: every axis before the last must come first, in order.
    pub fn panel_rows(&self, rank: usize) -> Option<u64> {
        let row_axis = rank.checked_sub(2)?;
        let mut rows = None;
        for (axis, step) in (0..=row_axis).zip(&self.0) {
            match step {
                PackStep::Outer { axis: at, divisor } if *at as usize == axis => {
                    rows = (*divisor == 1 || axis == row_axis).then_some(u64::from(*divisor));
                }
                _ => return None,
            }
            rows?;
        }
        rows
    }

    /// Steps before the scales, of the scales, and of the codes after them.
    pub(super) fn around_scales(&self) -> Option<(&[PackStep], &[PackStep], &[PackStep])> {
        let at = self.0.iter().position(|s| matches!(s, PackStep::Scales(_)))?;
        let PackStep::Scales(scales) = &self.0[at] else { return None };
        Some((&self.0[..at], scales, &self.0[at + 1..]))
    }
}

fn axis_of(step: &PackStep) -> Option<u32> {
    match step {
        PackStep::Outer { axis, .. } | PackStep::Inner { axis, .. } => Some(*axis),
        PackStep::Scales(_) => None,
    }
}

fn divisor_along(step: &PackStep, wanted: u32) -> Option<u32> {
    match step {
        PackStep::Outer { axis, divisor } if *axis == wanted => Some(*divisor),
        _ => None,
    }
}

/// Positions that the inner factors of an axis tell apart, if these chain from 1.
pub(super) fn chain(steps: &[PackStep], wanted: u32) -> Option<u64> {
    let mut factors: Vec<(u64, u64)> = (steps.iter())
        .filter_map(|s| match s {
            PackStep::Inner { axis, stride, extent } if *axis == wanted => {
                Some((u64::from(*stride), u64::from(*extent)))
            }
            _ => None,
        })
        .collect();
    factors.sort_unstable();
    factors.iter().try_fold(1u64, |reached, (stride, extent)| {
        let next = reached.checked_mul(*extent)?;
        (*stride == reached && *extent > 0).then_some(next)
    })
}

/// Extent of a block of scales along an axis of a tensor.
pub(super) fn block_along(scale: Scale, axis: usize, rank: usize) -> u64 {
    match rank - axis {
        1 => scale.cols.into(),
        2 => scale.rows.into(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_whole_rows_that_lie_together() {
        for (packing, rank, rows) in [
            ("[0/16, 1/2, 0:16, 1:2]", 2, Some(16)),
            ("[0/1, 1/4, 2/1, 1:4]", 3, Some(4)),
            ("[0/2, 1/4, 2/1, 1:4, 0:2]", 3, None),
            ("[1/1, 0/1]", 2, None),
            ("[0/1]", 1, None),
        ] {
            assert_eq!(steps(packing).panel_rows(rank), rows, "{packing}");
        }
    }

    fn steps(text: &str) -> Packing {
        crate::kernel::parse::packing(text).expect("a packing")
    }

    fn encoding(text: &str) -> Encoding {
        text.parse().expect("an encoding")
    }

    #[test]
    fn wrong_packings_are_refused() {
        let check = |p: &str, e: &str| steps(p).check(2, encoding(e)).map_err(|e| e.to_string());
        assert!(check("[0/16, 1/2, 0:16, 1:2]", "bf16").is_ok());
        for (packing, e) in [
            ("[0/16, 1/2, 0:16]", "bf16"),
            ("[0/16, 0:16]", "bf16"),
            ("[0/1, 1/1, 2/1]", "bf16"),
            ("[0/1, 1/1, 1/1]", "bf16"),
            ("[0/1, 1/4, 1/3:2, 1:2]", "bf16"),
            ("[0/16, 1/64, {1:2, 0:16}, 0:16, 1:64]", "bf16"),
            ("[0/16, 1/64, {1:1, 0:16}, 0:16, 1:64]", "i4<f16 1x32>"),
            ("[0/16, {0:16}, 1/64, 0:16, 1:64]", "i4<f16 1x64>"),
        ] {
            assert!(check(packing, e).is_err(), "{packing}");
        }
    }
}
