//! Elements of stored tensors in another order: what views and concatenations of weights are.

use super::table::Table;
use serde::{Deserialize, Serialize};

/// Greatest extent of an axis: a table is kept of each.
const EXTENT_MAX: i64 = 1 << 27;

/// A `[batch, rows, columns]` tensor, cut into boxes of elements of stored tensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// Extents.
    pub dims: [i64; 3],
    /// Bytes of an element.
    pub width: u32,
    /// Boxes, none touched by another; zeros elsewhere.
    pub pieces: Vec<Piece>,
}

/// A box of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Its first position.
    pub start: [i64; 3],
    /// Its extents.
    pub dims: [i64; 3],
    /// Where its elements are stored.
    pub of: Stored,
    /// Which of them is that of the first position.
    pub base: i64,
    /// Distances from there along each axis, to be added up.
    pub along: [Table; 3],
}

/// The elements of equally large tensors, one tensor after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Numbers of the tensors.
    pub tensors: Vec<u32>,
    /// Elements of each.
    pub elements: i64,
}

/// Stored tensors, by number.
pub trait Tensors: Sync {
    /// What can go wrong.
    type Error: Send;

    /// Fills `out` with a tensor's bytes from byte `at` on.
    ///
    /// # Errors
    /// Whatever keeps them from being read.
    fn read(&self, tensor: u32, at: u64, out: &mut [u8]) -> Result<(), Self::Error>;

    /// All of a tensor's bytes, where they are mapped into memory.
    fn mapped(&self, tensor: u32) -> Option<&[u8]>;
}

/// Whole rows of bytes, made in any order on any thread.
pub trait Lines: Sync {
    /// What can go wrong.
    type Error: Send;
    /// Memory that is kept from row to row.
    type Held: Default;

    /// Number of batches, rows and columns.
    fn dims(&self) -> [i64; 3];

    /// Fills `out`, zeros or another row so far, with one row.
    ///
    /// # Errors
    /// Whatever keeps it from being made.
    fn line(
        &self,
        batch: i64,
        row: i64,
        held: &mut Self::Held,
        out: &mut [u8],
    ) -> Result<(), Self::Error>;
}

impl Stored {
    /// Elements of `width` bytes at places along a table, the first of which is element `at`.
    ///
    /// # Errors
    /// Whatever the tensors report.
    pub fn read<T: Tensors>(
        &self,
        tensors: &T,
        width: usize,
        at: i64,
        cols: &Table,
        out: &mut [u8],
    ) -> Result<(), T::Error> {
        let mut out = out;
        for run in cols.runs() {
            let (codes, rest) = out.split_at_mut(run.len as usize * width);
            match run.step {
                1 => self.read_on(tensors, width, at + run.first, codes)?,
                step => self.read_apart(tensors, width, (at + run.first, step), codes)?,
            }
            out = rest;
        }
        Ok(())
    }

    /// Elements that lie together, perhaps over the end of a tensor.
    fn read_on<T: Tensors>(
        &self,
        tensors: &T,
        width: usize,
        at: i64,
        out: &mut [u8],
    ) -> Result<(), T::Error> {
        let (mut at, mut out) = (at, out);
        while !out.is_empty() {
            let (tensor, first) = (at / self.elements, at % self.elements);
            let room = (self.elements - first).min((out.len() / width) as i64);
            let (codes, rest) = out.split_at_mut(room as usize * width);
            tensors.read(self.tensors[tensor as usize], first as u64 * width as u64, codes)?;
            (at, out) = (at + room, rest);
        }
        Ok(())
    }

    fn read_apart<T: Tensors>(
        &self,
        tensors: &T,
        width: usize,
        (at, step): (i64, i64),
        out: &mut [u8],
    ) -> Result<(), T::Error> {
        let mut mapped: (i64, Option<&[u8]>) = (-1, None);
        for (i, code) in (0..).zip(out.chunks_exact_mut(width)) {
            let place = at + i * step;
            let (tensor, first) = (place / self.elements, place % self.elements);
            let number = self.tensors[tensor as usize];
            if mapped.0 != tensor {
                mapped = (tensor, tensors.mapped(number));
            }
            let first = first as usize * width;
            match mapped.1.and_then(|bytes| bytes.get(first..first + width)) {
                Some(bytes) => code.copy_from_slice(bytes),
                None => tensors.read(number, first as u64, code)?,
            }
        }
        Ok(())
    }
}

impl Gather {
    /// Bytes of all of its elements; `None` where that is no number.
    pub fn bytes(&self) -> Option<u64> {
        let extent = |d: &i64| u64::try_from(*d).ok().filter(|_| *d <= EXTENT_MAX);
        self.dims.iter().try_fold(self.width.into(), |n: u64, d| n.checked_mul(extent(d)?))
    }

    /// Ready to be read.
    pub fn rows<'a, T>(&'a self, tensors: &'a T) -> Rows<'a, T> {
        let places = |p: &Piece, axis: usize| p.along[axis].places().collect();
        let pieces = self.pieces.iter().map(|p| (p, places(p, 0), places(p, 1))).collect();
        Rows { of: self, tensors, pieces }
    }

    /// The tensor and the first byte in it, where it is one row-major range of a tensor.
    pub fn range(&self) -> Option<(u32, u64)> {
        let [piece] = &self.pieces[..] else { return None };
        let [batches, rows, cols] = self.dims;
        let plain =
            [Table::steps(rows * cols, batches), Table::steps(cols, rows), Table::steps(1, cols)];
        if piece.start != [0; 3] || piece.dims != self.dims || piece.along != plain {
            return None;
        }
        let (tensor, first) = (piece.base / piece.of.elements, piece.base % piece.of.elements);
        let whole = first + batches * rows * cols <= piece.of.elements;
        whole.then(|| (piece.of.tensors[tensor as usize], first as u64 * u64::from(self.width)))
    }

    /// Checks that all of it can be read, the tensors having `size_of` bytes.
    ///
    /// # Errors
    /// What was found, and what was expected.
    pub fn check(&self, size_of: &dyn Fn(u32) -> Option<u64>) -> Result<(), (String, String)> {
        if self.bytes().is_none() || self.width == 0 {
            let found = format!("{:?} elements of {} bytes", self.dims, self.width);
            return Err((found, format!("extents up to {EXTENT_MAX}")));
        }
        for piece in &self.pieces {
            piece.check(self, size_of).ok_or_else(|| {
                let found = format!("a box of {:?} at {:?}", piece.dims, piece.start);
                (found, "elements of stored tensors within the extents".to_string())
            })?;
        }
        Ok(())
    }
}

impl Piece {
    fn check(&self, of: &Gather, size_of: &dyn Fn(u32) -> Option<u64>) -> Option<()> {
        let (mut least, mut most) = (self.base, self.base);
        for axis in 0..3 {
            let inside = self.start[axis].checked_add(self.dims[axis])? <= of.dims[axis];
            let (low, high) = self.along[axis].reach(self.dims[axis])?;
            (least, most) = (least.checked_add(low)?, most.checked_add(high)?);
            if !inside || self.start[axis] < 0 {
                return None;
            }
        }
        let stored = i64::try_from(self.of.tensors.len()).ok()?.checked_mul(self.of.elements)?;
        let bytes = u64::try_from(self.of.elements).ok()?.checked_mul(of.width.into())?;
        let held = |tensor: &u32| size_of(*tensor).is_some_and(|size| bytes <= size);
        (least >= 0 && most < stored && self.of.tensors.iter().all(held)).then_some(())
    }
}

/// A [`Gather`] over tensors.
pub struct Rows<'a, T> {
    of: &'a Gather,
    tensors: &'a T,
    /// Boxes with the places of their batches and rows.
    pieces: Vec<(&'a Piece, Vec<i64>, Vec<i64>)>,
}

impl<T: Tensors> Rows<'_, T> {
    /// Every element in row-major order.
    ///
    /// # Errors
    /// Whatever the tensors report.
    pub fn all(&self) -> Result<Vec<u8>, T::Error> {
        let [batches, rows, cols] = self.of.dims;
        let line = cols as usize * self.of.width as usize;
        let mut all = vec![0; (batches * rows) as usize * line];
        for (at, out) in (0..).zip(all.chunks_exact_mut(line.max(1))) {
            self.line(at / rows, at % rows, &mut (), out)?;
        }
        Ok(all)
    }
}

impl<T: Tensors> Lines for Rows<'_, T> {
    type Error = T::Error;
    type Held = ();

    fn dims(&self) -> [i64; 3] {
        self.of.dims
    }

    fn line(&self, batch: i64, row: i64, (): &mut (), out: &mut [u8]) -> Result<(), Self::Error> {
        let width = self.of.width as usize;
        for (piece, batches, rows) in &self.pieces {
            let inside = |axis: usize, at: i64| {
                (piece.start[axis]..piece.start[axis] + piece.dims[axis]).contains(&at)
            };
            if !inside(0, batch) || !inside(1, row) {
                continue;
            }
            let batch = batches[(batch - piece.start[0]) as usize];
            let at = piece.base + batch + rows[(row - piece.start[1]) as usize];
            let out = &mut out[piece.start[2] as usize * width..];
            let out = &mut out[..piece.dims[2] as usize * width];
            piece.of.read(self.tensors, width, at, &piece.along[2], out)?;
        }
        Ok(())
    }
}
