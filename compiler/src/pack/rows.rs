//! Reads rows of a constant out of the stored tensors that it is made of.

use super::computed;
use super::constant::{Constant, Source, View};
use super::scales::{Place, ScaleGrid, Stored, blocks};
use super::table::Table;
use crate::error::ImportError;
use crate::import::source::WeightSource;
use ir::dtype::{Encoding, Scale};
use ir::graph::program::{Program, Weight};
use ir::kernel::code;
use std::sync::Arc;

/// A `[batch, rows, cols]` constant, ready to be read.
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
    source: &'a dyn WeightSource,
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

    /// How all of its elements are stored, where they are elements of weights alone.
    pub fn encoding(&self) -> Option<Encoding> {
        let mut encodings = self.pieces.iter().map(|p| Some(p.codes()?.weight.encoding));
        let first = encodings.next()??;
        encodings.all(|e| e == Some(first)).then_some(first)
    }

    fn pieces_of(&self, batch: i64, row: i64) -> impl Iterator<Item = &Piece<'a>> {
        let has = move |p: &Piece, axis: usize, at: i64| {
            (p.start[axis]..p.start[axis] + p.dims[axis]).contains(&at)
        };
        self.pieces.iter().filter(move |p| has(p, 0, batch) && has(p, 1, row))
    }

    /// Fills `out` with the codes of one row, of a constant that has an [`Rows::encoding`].
    ///
    /// Errors: whatever the source reports.
    pub fn read(&self, batch: i64, row: i64, out: &mut [u8]) -> Result<(), ImportError> {
        for piece in self.pieces_of(batch, row) {
            let Some(codes) = piece.codes() else { continue };
            let out = &mut out[piece.start[2] as usize * codes.bytes..];
            let out = &mut out[..piece.dims[2] as usize * codes.bytes];
            codes.read(piece.factors[0].row_at(piece, batch, row), piece.factors[0].cols, out)?;
        }
        Ok(())
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

    /// The block scales of a constant that [keeps](super::scales::keeps_blocks) its blocks.
    ///
    /// Errors: whatever the source reports.
    pub fn scale_grid(&self, scale: Scale) -> Result<ScaleGrid, ImportError> {
        let [batches, rows, cols] = self.extents;
        let (rows, cols) = (blocks(rows, scale.rows), blocks(cols, scale.cols));
        let values = vec![0.0; (batches * rows * cols) as usize];
        let mut grid = ScaleGrid { values, rows, cols };
        for piece in &self.pieces {
            piece.fill_scales(scale, &mut grid)?;
        }
        Ok(grid)
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

impl Piece<'_> {
    /// Codes of the one weight that its elements are elements of.
    fn codes(&self) -> Option<&Codes<'_>> {
        match &self.factors[..] {
            [Factor { of: Elements::Stored(codes), .. }] => Some(codes),
            _ => None,
        }
    }

    fn fill_scales(&self, scale: Scale, grid: &mut ScaleGrid) -> Result<(), ImportError> {
        let (Some(codes), Some(factor)) = (self.codes(), self.factors.first()) else {
            return Ok(());
        };
        let (block_rows, block_cols) = (i64::from(scale.rows), i64::from(scale.cols));
        let cols: Vec<i64> = factor.cols.places().step_by(scale.cols as usize).collect();
        let mut held: Option<(i64, ScaleGrid)> = None;
        for b in 0..self.dims[0] {
            for r in (0..self.dims[1]).step_by(scale.rows as usize) {
                let batch = self.start[0] + b;
                let at = factor.row_at(self, batch, self.start[1] + r);
                let stored = codes.scales_of(codes.stored.place(at), &mut held)?;
                let first = (batch * grid.rows + (self.start[1] + r) / block_rows) * grid.cols
                    + self.start[2] / block_cols;
                for (i, col) in cols.iter().enumerate() {
                    let Place { row, col, .. } = codes.stored.place(at + col);
                    let scales = stored.row(0, row / block_rows);
                    grid.values[first as usize + i] = scales[(col / block_cols) as usize];
                }
            }
        }
        Ok(())
    }
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
        let bytes = code.bits() as usize / 8;
        Ok(Codes { weight, source, stored: Stored::of(weight), bytes })
    }

    /// Codes of elements, the first of which lies at `at`.
    fn read(&self, at: i64, cols: &Table, out: &mut [u8]) -> Result<(), ImportError> {
        let mut out = out;
        for run in cols.runs() {
            let (codes, rest) = out.split_at_mut(run.len as usize * self.bytes);
            match run.step {
                1 => self.read_on(at + run.first, codes)?,
                step => self.read_apart(at + run.first, step, codes)?,
            }
            out = rest;
        }
        Ok(())
    }

    /// Codes that lie together, perhaps over the end of a tensor.
    fn read_on(&self, at: i64, out: &mut [u8]) -> Result<(), ImportError> {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let (tensor, first) = (at / self.stored.elements, at % self.stored.elements);
            let room = (self.stored.elements - first).min((out.len() / self.bytes) as i64);
            let (codes, rest) = out.split_at_mut(room as usize * self.bytes);
            self.source.read(self.tensor(tensor), first as u64 * self.bytes as u64, codes)?;
            (at, out) = (at + room, rest);
        }
        Ok(())
    }

    fn read_apart(&self, at: i64, step: i64, out: &mut [u8]) -> Result<(), ImportError> {
        let mut mapped: (i64, Option<&[u8]>) = (-1, None);
        for (i, code) in (0..).zip(out.chunks_exact_mut(self.bytes)) {
            let place = at + i * step;
            let (tensor, first) = (place / self.stored.elements, place % self.stored.elements);
            if mapped.0 != tensor {
                mapped = (tensor, self.source.mapped(self.tensor(tensor)));
            }
            let first = first as usize * self.bytes;
            match mapped.1.and_then(|bytes| bytes.get(first..first + self.bytes)) {
                Some(bytes) => code.copy_from_slice(bytes),
                None => self.source.read(self.tensor(tensor), first as u64, code)?,
            }
        }
        Ok(())
    }

    fn tensor(&self, tensor: i64) -> &str {
        &self.weight.source.tensors[tensor as usize]
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
        self.read(at, cols, codes)?;
        for (value, code) in out.iter_mut().zip(codes.chunks_exact(self.bytes)) {
            *value = code::read(code, self.weight.encoding.code, 0) as f32;
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
        self.source.read(&source.scales[tensor as usize], 0, &mut bytes)?;
        let values = bytes.chunks_exact(width).map(|b| code::read(b, scale.dtype, 0) as f32);
        Ok(ScaleGrid { values: values.collect(), rows, cols })
    }
}
