//! Numbers of a constant's rows, decoded out of the stored tensors that it is made of.

use super::computed;
use super::constant::{Constant, Source, View};
use super::moved::Numbered;
use super::scales::{Place, ScaleGrid, Stored, blocks};
use crate::error::ImportError;
use crate::import::source::WeightSource;
use artifact::pack::gather::{self, Lines};
use artifact::pack::table::Table;
use half::bf16;
use ir::dtype::DType;
use ir::graph::program::{Program, Weight};
use ir::kernel::code;
use std::sync::Arc;

/// A `[batch, rows, cols]` constant, ready to be decoded.
pub struct Rows<'a> {
    extents: [i64; 3],
    pieces: Vec<Piece<'a>>,
}

/// A box of it.
struct Piece<'a> {
    start: [i64; 3],
    dims: [i64; 3],
    factors: Vec<Factor<'a>>,
}

/// Elements of one source.
struct Factor<'a> {
    /// Among all of the constant's.
    number: usize,
    of: Elements<'a>,
    base: i64,
    batch: Vec<i64>,
    rows: Vec<i64>,
    cols: &'a Table,
}

enum Elements<'a> {
    Stored(Codes<'a>),
    Values(Arc<[f32]>),
}

/// Codes of a weight's stored tensors.
struct Codes<'a> {
    weight: &'a Weight,
    tensors: Numbered<'a>,
    of: gather::Stored,
    stored: Stored,
    /// Bytes of a code.
    bytes: usize,
}

/// What is kept from row to row while values are decoded.
#[derive(Default)]
pub struct Decoder {
    /// Scales of the tensor that each factor was last read from, and which that was.
    scales: Vec<Option<(i64, ScaleGrid)>>,
    codes: Vec<u8>,
    factor: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// Finds what a constant is made of, and computes what is not stored.
    ///
    /// Errors: [`ImportError::Misfit`] where stored codes do not begin at whole bytes, or there is
    /// no such weight; whatever computing reports.
    pub fn new(
        constant: &'a Constant,
        program: &'a Program,
        source: &'a dyn WeightSource,
    ) -> Result<Self, ImportError> {
        let three = |of: &[i64]| <[i64; 3]>::try_from(of).expect("batch, rows and columns");
        let mut computed = vec![];
        let (mut pieces, mut number) = (vec![], 0);
        for part in &constant.parts {
            let mut factors = vec![];
            for view in &part.factors {
                let of = elements(view, program, source, &mut computed)?;
                factors.push(Factor::new(number, of, view));
                number += 1;
            }
            pieces.push(Piece { start: three(&part.start), dims: three(&part.dims), factors });
        }
        Ok(Rows { extents: three(&constant.dims), pieces })
    }

    /// Number of batches, rows and columns.
    pub fn extents(&self) -> [i64; 3] {
        self.extents
    }

    fn pieces_of(&self, batch: i64, row: i64) -> impl Iterator<Item = &Piece<'a>> {
        let has = move |p: &Piece, axis: usize, at: i64| {
            (p.start[axis]..p.start[axis] + p.dims[axis]).contains(&at)
        };
        self.pieces.iter().filter(move |p| has(p, 0, batch) && has(p, 1, row))
    }

    /// Values of one row.
    ///
    /// Errors: whatever the source reports.
    pub fn decode(
        &self,
        batch: i64,
        row: i64,
        decoder: &mut Decoder,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        let factors = self.pieces.iter().map(|p| p.factors.len()).sum();
        decoder.scales.resize_with(factors, || None);
        for piece in self.pieces_of(batch, row) {
            let out = &mut out[piece.start[2] as usize..][..piece.dims[2] as usize];
            let mut values = std::mem::take(&mut decoder.factor);
            values.resize(out.len(), 0.0);
            for (i, factor) in piece.factors.iter().enumerate() {
                factor.values(factor.row_at(piece, batch, row), decoder, &mut values)?;
                match i {
                    0 => out.copy_from_slice(&values),
                    _ => out.iter_mut().zip(&values).for_each(|(product, v)| *product *= v),
                }
            }
            decoder.factor = values;
        }
        Ok(())
    }
}

/// What is kept from row to row: how rows are decoded, and the last one.
pub type Held = (Decoder, Vec<f32>);

impl Rows<'_> {
    /// Values of one row, in memory that is kept.
    ///
    /// Errors: as [`Rows::decode`].
    pub fn row<'h>(
        &self,
        batch: i64,
        row: i64,
        (decoder, values): &'h mut Held,
    ) -> Result<&'h [f32], ImportError> {
        values.resize(self.extents[2] as usize, 0.0);
        self.decode(batch, row, decoder, values)?;
        Ok(values)
    }
}

/// The rows of a constant, rounded to the type that they are packed in.
pub struct Decoded<'a> {
    rows: Rows<'a>,
    code: DType,
}

impl<'a> Decoded<'a> {
    /// These rows in plain elements of a type.
    pub fn new(rows: Rows<'a>, code: DType) -> Self {
        Decoded { rows, code }
    }
}

impl Lines for Decoded<'_> {
    type Error = ImportError;
    type Held = Held;

    fn dims(&self) -> [i64; 3] {
        self.rows.extents
    }

    fn line(
        &self,
        batch: i64,
        row: i64,
        held: &mut Held,
        out: &mut [u8],
    ) -> Result<(), ImportError> {
        let values = self.rows.row(batch, row, held)?.iter();
        match self.code {
            DType::BF16 => values.zip(out.as_chunks_mut::<2>().0).for_each(|(value, code)| {
                *code = bf16::from_f32(*value).to_le_bytes();
            }),
            dtype => values.enumerate().for_each(|(i, value)| {
                code::write(out, dtype, i as u64 * u64::from(dtype.bits()), f64::from(*value));
            }),
        }
        Ok(())
    }
}

/// The numbers that a view is one of.
fn elements<'a>(
    view: &'a View,
    program: &'a Program,
    source: &'a dyn WeightSource,
    known: &mut Vec<(&'a Source, Arc<[f32]>)>,
) -> Result<Elements<'a>, ImportError> {
    if let Some((_, values)) = known.iter().find(|(of, _)| **of == view.source) {
        return Ok(Elements::Values(values.clone()));
    }
    let values: Arc<[f32]> = match &view.source {
        Source::Weight(name) => {
            return Ok(Elements::Stored(Codes::new(computed::weight(program, name)?, source)?));
        }
        Source::Numbers(values) => values.iter().map(|v| *v as f32).collect(),
        Source::Computed(of) => computed::evaluate(of, program, source)?.into(),
    };
    known.push((&view.source, values.clone()));
    Ok(Elements::Values(values))
}

impl<'a> Factor<'a> {
    fn new(number: usize, of: Elements<'a>, view: &'a View) -> Self {
        let places = |axis: usize| view.along[axis].places().collect();
        let (batch, rows) = (places(0), places(1));
        Factor { number, of, base: view.base, batch, rows, cols: &view.along[2] }
    }

    /// Where the first element of a row of the constant lies.
    fn row_at(&self, piece: &Piece, batch: i64, row: i64) -> i64 {
        let batch = self.batch[(batch - piece.start[0]) as usize];
        self.base + batch + self.rows[(row - piece.start[1]) as usize]
    }

    fn values(&self, at: i64, decoder: &mut Decoder, out: &mut [f32]) -> Result<(), ImportError> {
        match &self.of {
            Elements::Stored(codes) => {
                let held = &mut decoder.scales[self.number];
                codes.decode(at, self.cols, &mut decoder.codes, held, out)
            }
            Elements::Values(values) => {
                for (value, place) in out.iter_mut().zip(self.cols.places()) {
                    *value = values[(at + place) as usize];
                }
                Ok(())
            }
        }
    }
}

impl<'a> Codes<'a> {
    fn new(weight: &'a Weight, source: &'a dyn WeightSource) -> Result<Self, ImportError> {
        let code = weight.encoding.code;
        if !code.bits().is_multiple_of(8) {
            return Err(ImportError::Misfit {
                key: weight.source.tensors.first().unwrap_or(&weight.name).to_string(),
                found: format!("{code} codes of {} bits", code.bits()),
                expected: "codes of whole bytes".into(),
            });
        }
        let (bytes, stored) = (code.bits() as usize / 8, Stored::of(weight));
        let mut tensors = Numbered { source, keys: vec![] };
        let numbers = weight.source.tensors.iter().map(|key| tensors.number(key)).collect();
        let of = gather::Stored { tensors: numbers, elements: stored.elements };
        Ok(Codes { weight, tensors, of, stored, bytes })
    }

    fn decode(
        &self,
        at: i64,
        cols: &Table,
        codes: &mut Vec<u8>,
        held: &mut Option<(i64, ScaleGrid)>,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        codes.resize(out.len() * self.bytes, 0);
        self.of.read(&self.tensors, self.bytes, at, cols, codes)?;
        match self.weight.encoding.code {
            DType::BF16 => {
                out.iter_mut().zip(codes.as_chunks::<2>().0).for_each(|(value, code)| {
                    *value = bf16::from_le_bytes(*code).to_f32();
                })
            }
            dtype => {
                out.iter_mut().zip(codes.chunks_exact(self.bytes)).for_each(|(value, code)| {
                    *value = code::read(code, dtype, 0) as f32;
                })
            }
        }
        let Some(scale) = self.weight.encoding.scale else { return Ok(()) };
        for (value, place) in out.iter_mut().zip(cols.places()) {
            let place = self.stored.place(at + place);
            let row = self.scales_of(place, held)?.row(0, place.row / i64::from(scale.rows));
            *value *= row[(place.col / i64::from(scale.cols)) as usize];
        }
        Ok(())
    }

    /// The block scales of the stored tensor that an element lies in, read where they are not held.
    fn scales_of<'h>(
        &self,
        place: Place,
        held: &'h mut Option<(i64, ScaleGrid)>,
    ) -> Result<&'h ScaleGrid, ImportError> {
        if held.as_ref().is_none_or(|(tensor, _)| *tensor != place.tensor) {
            *held = Some((place.tensor, self.read_scales(place.tensor)?));
        }
        Ok(&held.as_ref().expect("it has just been read").1)
    }

    fn read_scales(&self, tensor: i64) -> Result<ScaleGrid, ImportError> {
        let source = &self.weight.source;
        let Some(scale) = self.weight.encoding.scale else {
            return Ok(ScaleGrid { values: vec![], rows: 0, cols: 0 });
        };
        let [rows, cols] = match source.stored_dims.as_slice() {
            [.., r, c] => [*r, *c],
            [c] => [1, *c],
            [] => [1, 1],
        };
        let (rows, cols) = (blocks(rows, scale.rows), blocks(cols, scale.cols));
        let width = scale.dtype.bits() as usize / 8;
        let mut bytes = vec![0; (rows * cols) as usize * width];
        self.tensors.source.read(&source.scales[tensor as usize], 0, &mut bytes)?;
        let values = bytes.chunks_exact(width).map(|b| code::read(b, scale.dtype, 0) as f32);
        Ok(ScaleGrid { values: values.collect(), rows, cols })
    }
}
