//! The elements of a weight, out of the checkpoint's stored tensors.

use super::error::GraphError;
use super::program::Weight;
use crate::dim::Name;
use crate::dtype::DType;
use crate::tensor::{code_bytes, decode_one, elements, scale_dims};

/// Sizes of a weight's source, checked.
struct Layout {
    stored: Vec<usize>,
    /// Extents of the axes that are not stacked.
    axes: Vec<usize>,
}

impl Weight {
    /// Whether the source can be what it says: as many tensors as the stacked axis has, a scale
    /// for each where the encoding has scales, a stride for each axis, and no element outside.
    ///
    /// Errors: E0131, E0129.
    pub fn check(&self) -> Result<(), GraphError> {
        self.layout().map(|_| ())
    }

    fn layout(&self) -> Result<Layout, GraphError> {
        let fail = |reason| GraphError::Source { name: self.name.clone(), reason };
        let sizes = |dims: &[i64]| -> Result<Vec<usize>, GraphError> {
            let size = |d: &i64| usize::try_from(*d).map_err(|_| fail("a negative extent"));
            dims.iter().map(size).collect()
        };
        let (dims, stored) = (sizes(&self.dims)?, sizes(&self.source.stored_dims)?);
        let source = &self.source;
        let count = |dims: &[usize]| {
            let product = dims.iter().try_fold(1i64, |p, d| p.checked_mul(i64::try_from(*d).ok()?));
            product.ok_or(GraphError::TooLarge { elements: u64::MAX })
        };
        count(&dims)?;
        let tensors = match (source.stacked, dims.first()) {
            (true, Some(first)) => *first,
            (true, None) => return Err(fail("stacked without an axis")),
            (false, _) => 1,
        };
        if source.tensors.len() != tensors {
            return Err(fail("not one stored tensor for each index of the stacked axis"));
        }
        let scales = if self.encoding.is_plain() { 0 } else { tensors };
        if source.scales.len() != scales {
            return Err(fail("not one tensor of scales for each one of codes"));
        }
        if self.encoding.scale.is_some_and(|s| s.sum) {
            return Err(fail("sums beside the scales, which no checkpoint stores"));
        }
        let axes = dims[usize::from(source.stacked)..].to_vec();
        if source.view.strides.len() != axes.len() {
            return Err(fail("not one stride for each axis"));
        }
        let len = count(&stored)?;
        let (mut least, mut most) =
            (i128::from(source.view.offset), i128::from(source.view.offset));
        for (extent, stride) in axes.iter().zip(&source.view.strides) {
            let reach = (*extent as i128 - 1).max(0) * i128::from(*stride);
            least += reach.min(0);
            most += reach.max(0);
        }
        if !axes.contains(&0) && (least < 0 || most >= len as i128) {
            return Err(fail("elements outside the stored tensor"));
        }
        Ok(Layout { stored, axes })
    }

    /// The decoded elements, in row-major order of the logical extents. `bytes_of` gives a stored
    /// tensor's little-endian bytes.
    ///
    /// Errors: E0104 for a tensor that is not there, E0129 for a tensor of another size, or of more
    /// elements than an evaluation may hold, E0131.
    pub fn values<'b>(
        &self,
        bytes_of: &dyn Fn(&str) -> Option<&'b [u8]>,
    ) -> Result<Vec<f32>, GraphError> {
        let Layout { stored, axes } = self.layout()?;
        let tensors = self.source.tensors.len();
        let total = elements(&[&axes[..], &[tensors]].concat())?;
        let find = |name: &Name, expected: Option<usize>| -> Result<&'b [u8], GraphError> {
            let unknown = GraphError::Unknown { what: "stored tensor", name: name.clone() };
            let bytes = bytes_of(name).ok_or(unknown)?;
            match expected {
                Some(expected) if expected == bytes.len() => Ok(bytes),
                _ => Err(GraphError::StoredBytes {
                    name: name.clone(),
                    found: bytes.len(),
                    expected: expected.unwrap_or(usize::MAX),
                }),
            }
        };
        let scale_type = self.encoding.scale.map_or(DType::F32, |s| s.dtype);
        let scale_bytes =
            scale_dims(self.encoding, &stored).and_then(|d| code_bytes(scale_type, &d));
        let positions = self.positions(&axes);
        let cols = stored.last().copied().unwrap_or(1);
        let mut values = Vec::with_capacity(total);
        for (i, name) in self.source.tensors.iter().enumerate() {
            let codes = find(name, code_bytes(self.encoding.code, &stored))?;
            let scales = match self.source.scales.get(i) {
                Some(name) => find(name, scale_bytes)?,
                None => &[],
            };
            for at in &positions {
                let value = decode_one(self.encoding, &stored, cols, codes, scales, *at);
                let reason = "an element beyond its bytes";
                let name = self.name.clone();
                values.push(value.ok_or(GraphError::Source { name, reason })?);
            }
        }
        Ok(values)
    }

    /// Stored element of each logical one; within the stored tensor, as the layout is checked.
    fn positions(&self, axes: &[usize]) -> Vec<usize> {
        let mut positions = vec![self.source.view.offset];
        for (extent, stride) in axes.iter().zip(&self.source.view.strides) {
            let along = |from: i64| (0..*extent as i64).map(move |i| from + i * stride);
            positions = positions.into_iter().flat_map(along).collect();
        }
        positions.into_iter().map(|p| p as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::program::{Source, View};

    /// Two heads of three rows (two of k, one of v) by two columns, stored as [6, 2].
    fn per_head(offset: i64, rows: i64, encoding: &str, scales: &[&str]) -> Weight {
        Weight {
            name: "w".into(),
            encoding: encoding.parse().expect("an encoding"),
            dims: vec![2, rows, 2],
            source: Source {
                tensors: vec!["kv_b".into()],
                scales: scales.iter().map(|s| Name::from(*s)).collect(),
                stacked: false,
                stored_dims: vec![6, 2],
                view: View { offset, strides: vec![6, 2, 1] },
            },
        }
    }

    #[test]
    fn heads_are_cut_out_of_one_tensor() {
        let bytes: Vec<u8> = (0..12u8).collect();
        let of = |name: &str| (name == "kv_b").then_some(&bytes[..]);
        let k = per_head(0, 2, "i8", &[]).values(&of).expect("k");
        assert_eq!(k, [0., 1., 2., 3., 6., 7., 8., 9.]);
        let v = per_head(4, 1, "i8", &[]).values(&of).expect("v");
        assert_eq!(v, [4., 5., 10., 11.]);
    }

    #[test]
    fn scales_follow_the_stored_row() {
        let codes = [1u8; 12];
        let scales: Vec<u8> = [1f32, 2., 3.].iter().flat_map(|v| v.to_le_bytes()).collect();
        let of = |name: &str| Some(if name == "kv_b" { &codes[..] } else { &scales[..] });
        let v = per_head(4, 1, "i8<f32 2x2>", &["kv_b_scale"]).values(&of).expect("v");
        assert_eq!(v, [2., 2., 3., 3.]);
    }

    #[test]
    fn experts_are_stacked() {
        let mut w = Weight::whole("w", "a", DType::I8, &[2, 2]);
        w.dims = vec![3, 2, 2];
        w.source.stacked = true;
        w.source.tensors = ["a", "b", "c"].map(Name::from).to_vec();
        // Transposed on the way.
        w.source.view.strides = vec![1, 2];
        let of = |name: &str| Some(if name == "b" { &[1u8, 2, 3, 4][..] } else { &[0; 4] });
        let values = w.values(&of).expect("experts");
        assert_eq!(values, [0., 0., 0., 0., 1., 3., 2., 4., 0., 0., 0., 0.]);
    }

    #[test]
    fn sources_that_cannot_be_are_refused() {
        let bytes = [0u8; 12];
        let of = |_: &str| Some(&bytes[..]);
        let code = |w: &Weight| w.values(&of).expect_err("a wrong source").code();
        assert_eq!(code(&per_head(5, 2, "i8", &[])), "E0131");
        assert_eq!(code(&per_head(-1, 1, "i8", &[])), "E0131");
        assert_eq!(code(&per_head(0, 2, "i8<f32 2x2>", &[])), "E0131");
        assert_eq!(code(&per_head(0, 2, "bf16", &[])), "E0129");
        let mut huge = per_head(0, 1, "i8", &[]);
        huge.dims = vec![i64::MAX, i64::MAX, 2];
        assert_eq!(code(&huge), "E0129");
        huge.dims = vec![-1, 1, 2];
        assert_eq!(code(&huge), "E0131");
        let none = per_head(0, 2, "i8", &[]).values(&|_| None).expect_err("no tensor");
        assert_eq!(none.code(), "E0104");
    }
}
