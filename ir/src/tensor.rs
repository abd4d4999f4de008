//! Tensors on the host: what the interpreters take and give.

use crate::dtype::{self, Class, DType, Encoding};
use crate::graph::error::GraphError;
use crate::number::Number;

/// Elements beyond which an evaluation refuses to make a tensor.
pub const MAX_ELEMENTS: u64 = 1 << 31;

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data<N> {
    /// Of any float encoding, decoded.
    Float(Vec<N>),
    /// Of any integer type.
    Int(Vec<i32>),
    /// Truth values.
    Bool(Vec<bool>),
}

/// A dense tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<N> {
    dims: Vec<usize>,
    data: Data<N>,
}

/// Product of extents.
///
/// Errors: E0129 beyond [`MAX_ELEMENTS`].
pub fn elements(dims: &[usize]) -> Result<usize, GraphError> {
    let product = dims.iter().try_fold(1u64, |p, d| p.checked_mul(*d as u64));
    match product {
        Some(n) if n <= MAX_ELEMENTS => Ok(n as usize),
        n => Err(GraphError::TooLarge { elements: n.unwrap_or(u64::MAX) }),
    }
}

/// Of a row-major array with the axes of another, of extents `dims`, in the order `axes`: for each
/// element in turn, its position in the other.
pub fn transposed(dims: &[usize], axes: &[usize]) -> impl Iterator<Item = usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    let steps: Vec<(usize, usize)> = axes.iter().rev().map(|a| (dims[*a], strides[*a])).collect();
    (0..dims.iter().product()).map(move |mut element| {
        let mut at = 0;
        for (extent, stride) in &steps {
            at += element % extent * stride;
            element /= extent;
        }
        at
    })
}

impl<N: Number> Tensor<N> {
    /// Real numbers in row-major order.
    ///
    /// Errors: E0129 where their number is not the product of the extents.
    pub fn floats(dims: &[usize], data: Vec<N>) -> Result<Self, GraphError> {
        Tensor::new(dims, Data::Float(data))
    }

    /// Integers in row-major order.
    pub fn ints(dims: &[usize], data: Vec<i32>) -> Result<Self, GraphError> {
        Tensor::new(dims, Data::Int(data))
    }

    /// Truth values in row-major order.
    pub fn bools(dims: &[usize], data: Vec<bool>) -> Result<Self, GraphError> {
        Tensor::new(dims, Data::Bool(data))
    }

    /// Elements in row-major order.
    pub fn new(dims: &[usize], data: Data<N>) -> Result<Self, GraphError> {
        let (found, expected) = (data.len(), elements(dims)?);
        if found != expected {
            return Err(GraphError::Given {
                name: "data".into(),
                found: format!("{found} elements"),
                expected: format!("{expected} for {dims:?}"),
            });
        }
        Ok(Tensor { dims: dims.to_vec(), data })
    }

    /// Numbers of a class, converted: the nearest, the integer, whether not 0.
    pub fn from_f64(class: Class, dims: &[usize], values: &[f64]) -> Result<Self, GraphError> {
        let data = match class {
            Class::Float => Data::Float(values.iter().map(|v| N::from_f64(*v)).collect()),
            Class::Int => Data::Int(values.iter().map(|v| *v as i32).collect()),
            Class::Bool => Data::Bool(values.iter().map(|v| *v != 0.0).collect()),
        };
        Tensor::new(dims, data)
    }

    /// Elements as `f64`; truth values as 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(v) => v.iter().map(|x| x.to_f64()).collect(),
            Data::Int(v) => v.iter().map(|x| f64::from(*x)).collect(),
            Data::Bool(v) => v.iter().map(|x| f64::from(u8::from(*x))).collect(),
        }
    }

    /// Zeros, or false.
    pub fn zeros(class: Class, dims: &[usize]) -> Result<Self, GraphError> {
        let n = elements(dims)?;
        let data = match class {
            Class::Float => Data::Float(vec![N::default(); n]),
            Class::Int => Data::Int(vec![0; n]),
            Class::Bool => Data::Bool(vec![false; n]),
        };
        Ok(Tensor { dims: dims.to_vec(), data })
    }

    /// Extents, slowest first.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// Elements.
    pub fn data(&self) -> &Data<N> {
        &self.data
    }

    /// Elements, by value.
    pub fn into_data(self) -> Data<N> {
        self.data
    }

    /// Class of the elements.
    pub fn class(&self) -> Class {
        match self.data {
            Data::Float(_) => Class::Float,
            Data::Int(_) => Class::Int,
            Data::Bool(_) => Class::Bool,
        }
    }

    /// The elements, where they are real numbers; else none.
    pub fn as_floats(&self) -> &[N] {
        if let Data::Float(v) = &self.data { v } else { &[] }
    }

    /// The elements, where they are integers; else none.
    pub fn as_ints(&self) -> &[i32] {
        if let Data::Int(v) = &self.data { v } else { &[] }
    }

    /// The elements, where they are truth values; else none.
    pub fn as_bools(&self) -> &[bool] {
        if let Data::Bool(v) = &self.data { v } else { &[] }
    }

    /// Whether every element is within `bound * (1 + magnitude)` of the other's; to the bit for
    /// exact types, integers and truth values. NaN is near NaN.
    pub fn is_near(&self, other: &Tensor<N>, bound: f64) -> bool {
        let near = |(a, b): (&N, &N)| {
            let (x, y) = (a.to_f64(), b.to_f64());
            let same = a == b || x.is_nan() && y.is_nan();
            same || !N::EXACT && (x - y).abs() <= bound * (1.0 + x.abs().max(y.abs()))
        };
        self.dims == other.dims
            && match (&self.data, &other.data) {
                (Data::Float(a), Data::Float(b)) => a.iter().zip(b).all(near),
                (a, b) => a == b,
            }
    }

    /// The same elements with one of the axes first.
    pub fn with_first(&self, axis: usize) -> Self {
        let (outer, inner) = (&self.dims[..axis], &self.dims[axis + 1..]);
        let (rows, count) = (self.dims[axis], outer.iter().product::<usize>());
        let each: usize = inner.iter().product();
        let mut data = Data::empty(self.class());
        for row in 0..rows {
            for i in 0..count {
                let from = (i * rows + row) * each;
                data.extend(&self.data, from..from + each);
            }
        }
        Tensor { dims: [&[rows], outer, inner].concat(), data }
    }

    /// The first `rows` along the first axis; all if there are no more.
    pub fn truncated(mut self, rows: usize) -> Self {
        let Some(first) = self.dims.first_mut().filter(|d| **d > rows) else { return self };
        *first = rows;
        let n: usize = self.dims.iter().product();
        match &mut self.data {
            Data::Float(v) => v.truncate(n),
            Data::Int(v) => v.truncate(n),
            Data::Bool(v) => v.truncate(n),
        }
        self
    }
}

impl<N> Data<N> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(v) => v.len(),
            Data::Int(v) => v.len(),
            Data::Bool(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Bytes of the codes of a tensor: rows of the last axis begin at a byte.
///
/// `None` where that overflows.
pub fn code_bytes(code: DType, dims: &[usize]) -> Option<usize> {
    let (cols, rows) = dims.split_last().map_or((1, &[][..]), |(c, r)| (*c, r));
    let row = cols.checked_mul(code.bits() as usize)?.div_ceil(8);
    rows.iter().try_fold(row, |n, d| n.checked_mul(*d))
}

/// Extents of the scales of a tensor: blocks of the last two axes, edge blocks partial.
pub fn scale_dims(encoding: Encoding, dims: &[usize]) -> Option<Vec<usize>> {
    let scale = encoding.scale?;
    let mut blocks = dims.to_vec();
    if let Some(cols) = blocks.last_mut() {
        *cols = cols.div_ceil(scale.cols as usize);
    }
    if let Some(rows) = blocks.len().checked_sub(2) {
        blocks[rows] = blocks[rows].div_ceil(scale.rows as usize);
    }
    Some(blocks)
}

/// The element at a position of little-endian bytes, whose rows have `cols` elements and begin at
/// a byte; `None` beyond the bytes. Four-bit codes lie in the low half first. Integers as they are.
pub fn element(code: DType, bytes: &[u8], position: usize, cols: usize) -> Option<f32> {
    let wide = |n: usize| bytes.get(position.checked_mul(n)?..)?.get(..n);
    let nibble = || {
        let (row, col) = (position / cols.max(1), position % cols.max(1));
        let byte = bytes.get(row.checked_mul(cols.div_ceil(2))?.checked_add(col / 2)?)?;
        Some(if col % 2 == 0 { byte & 15 } else { byte >> 4 })
    };
    Some(match code {
        DType::F32 => f32::from_le_bytes(wide(4)?.try_into().ok()?),
        DType::I32 => i32::from_le_bytes(wide(4)?.try_into().ok()?) as f32,
        DType::F16 => half::f16::from_le_bytes(wide(2)?.try_into().ok()?).to_f32(),
        DType::BF16 => half::bf16::from_le_bytes(wide(2)?.try_into().ok()?).to_f32(),
        DType::F8E4M3 => dtype::f8e4m3_to_f32(*bytes.get(position)?),
        DType::E8M0 => dtype::e8m0_to_f32(*bytes.get(position)?),
        DType::I8 => f32::from(*bytes.get(position)? as i8),
        DType::U8 | DType::Bool => f32::from(*bytes.get(position)?),
        DType::F4E2M1 => dtype::f4e2m1_to_f32(nibble()?),
        DType::I4 => f32::from(((nibble()? << 4) as i8) >> 4),
    })
}

/// The values that a tensor's bytes, and those of its scales, stand for.
///
/// `None` where a byte is missing. Scales are of the encoding's own scale type, blocks of the last
/// two axes in row-major order.
pub fn decode(encoding: Encoding, dims: &[usize], codes: &[u8], scales: &[u8]) -> Option<Vec<f32>> {
    let n = elements(dims).ok()?;
    let cols = dims.last().copied().unwrap_or(1);
    (0..n).map(|i| decode_one(encoding, dims, cols, codes, scales, i)).collect()
}

/// One element of [`decode`], at a row-major position.
pub(crate) fn decode_one(
    encoding: Encoding,
    dims: &[usize],
    cols: usize,
    codes: &[u8],
    scales: &[u8],
    position: usize,
) -> Option<f32> {
    let code = element(encoding.code, codes, position, cols)?;
    let Some(scale) = encoding.scale else { return Some(code) };
    let rows = if dims.len() < 2 { 1 } else { dims[dims.len() - 2] };
    let (col, row) = (position % cols.max(1), position / cols.max(1));
    let (matrix, row) = (row / rows.max(1), row % rows.max(1));
    let blocks = cols.div_ceil(scale.cols as usize);
    let block_rows = rows.div_ceil(scale.rows as usize);
    let block_row = matrix * block_rows + row / scale.rows as usize;
    let at = block_row * blocks + col / scale.cols as usize;
    Some(code * element(scale.dtype, scales, at, blocks)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn transposed_elements_are_found() {
        let at = |dims: &[usize], axes: &[usize]| transposed(dims, axes).collect::<Vec<_>>();
        assert_eq!(at(&[2, 3], &[1, 0]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(at(&[2, 3], &[0, 1]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(at(&[2, 1, 3], &[2, 0, 1]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(at(&[], &[]), [0]);
    }

    #[test]
    fn block_scales_follow_row_and_column() {
        let encoding: Encoding = "fp8_e4m3<f32 2x3>".parse().expect("an encoding");
        // Three rows of four: blocks 2 by 2, the edge ones partial.
        let codes = vec![0x38; 12];
        let decoded = decode(encoding, &[3, 4], &codes, &bytes(&[2.0, 3.0, 5.0, 7.0]));
        let expected = [2., 2., 2., 3., 2., 2., 2., 3., 5., 5., 5., 7.];
        assert_eq!(decoded.as_deref(), Some(&expected[..]));
        assert_eq!(scale_dims(encoding, &[3, 4]), Some(vec![2, 2]));
        assert_eq!(decode(encoding, &[3, 4], &codes, &bytes(&[2.0, 3.0, 5.0])), None);
        assert_eq!(decode(encoding, &[3, 4], &codes[..11], &bytes(&[2.0; 4])), None);
    }

    #[test]
    fn nibbles_lie_low_first_and_rows_begin_at_a_byte() {
        let int: Encoding = "i4<f32 1x2>".parse().expect("an encoding");
        let codes = [0x8f, 0x07, 0x21, 0x03];
        let decoded = decode(int, &[2, 3], &codes, &bytes(&[1.0, 10.0, 100.0, 1000.0]));
        assert_eq!(decoded.as_deref(), Some(&[-1., -8., 70., 100., 200., 3000.][..]));
        let mx: Encoding = "fp4_e2m1<e8m0 1x32>".parse().expect("an encoding");
        let decoded = decode(mx, &[3], &[0xf7, 0x01], &[128]);
        assert_eq!(decoded.as_deref(), Some(&[12., -12., 1.][..]));
        assert_eq!(code_bytes(DType::I4, &[2, 3]), Some(4));
        assert_eq!(code_bytes(DType::F32, &[usize::MAX, 2]), None);
    }

    #[test]
    fn halves_decode() {
        assert_eq!(
            decode(DType::BF16.into(), &[2], &[0x80, 0x3f, 0, 0xc0], &[]),
            Some(vec![1., -2.])
        );
        assert_eq!(decode(DType::F16.into(), &[1], &[0, 0x3c], &[]), Some(vec![1.0]));
        assert_eq!(decode(DType::I8.into(), &[], &[0xff], &[]), Some(vec![-1.0]));
    }
}
