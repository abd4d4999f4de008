//! Weights that are no numbers: found while they are read, named and counted.

use super::source::{Location, TensorInfo, WeightSource};
use crate::error::{ImportError, ImportErrors};
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

/// Bytes that are looked through at a time.
const PIECE: usize = 1 << 16;

/// A source of weights that takes note of the tensors in whose bytes, as far as they were read, a
/// NaN or an infinity stands.
pub struct Screened<'a> {
    source: &'a dyn WeightSource,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    /// Tensors that were looked through as a whole.
    seen: BTreeSet<String>,
    /// Tensors in which something was found.
    bad: BTreeSet<String>,
}

/// The tensors of a file, in order.
pub struct Tensors<'a> {
    screened: &'a Screened<'a>,
    placed: Vec<Placed<'a>>,
}

struct Placed<'a> {
    key: &'a str,
    dtype: Dtype,
    /// Its first byte in the file.
    first: u64,
    bytes: u64,
}

/// How many elements of some bytes are NaN, and how many infinite.
type Counts = (u64, u64);

impl<'a> Screened<'a> {
    /// Looks through what is read of `source`.
    pub fn new(source: &'a dyn WeightSource) -> Self {
        Screened { source, noted: Mutex::default() }
    }

    /// What was found, each tensor with all that stands in it.
    ///
    /// # Errors
    /// [`ImportError::NotFinite`] for each tensor, and whatever reading reports.
    pub fn verdict(&self) -> Result<(), ImportErrors> {
        let bad = std::mem::take(&mut self.noted().bad);
        let fault = |key: String| match self.count(&key) {
            Ok((nan, infinite)) => ImportError::NotFinite { key, nan, infinite },
            Err(e) => e,
        };
        ImportErrors(bad.into_iter().map(fault).collect()).into_result()
    }

    fn count(&self, key: &str) -> Result<Counts, ImportError> {
        let Some(info) = self.source.tensor(key) else { return Ok((0, 0)) };
        let (mut all, mut at, mut piece) = ((0, 0), 0, vec![0; PIECE]);
        let bytes = info.bytes().unwrap_or(0);
        while at < bytes {
            let piece = &mut piece[..(bytes - at).min(PIECE as u64) as usize];
            self.source.read(key, at, piece)?;
            let (nan, infinite) = counted(info.dtype, piece);
            all = (all.0 + nan, all.1 + infinite);
            at += piece.len() as u64;
        }
        Ok(all)
    }

    /// The tensors of each file, for whoever reads whole files.
    pub fn files(&self) -> BTreeMap<&Path, Tensors<'_>> {
        let mut files: BTreeMap<&Path, Tensors<'_>> = BTreeMap::new();
        for key in self.source.keys() {
            let (info, place) = (self.source.tensor(key), self.source.location(key));
            let (Some(TensorInfo { dtype, .. }), Some(place)) = (info, place) else { continue };
            let new = || Tensors { screened: self, placed: vec![] };
            let tensors = files.entry(place.path).or_insert_with(new);
            tensors.placed.push(Placed { key, dtype, first: place.offset, bytes: place.bytes });
        }
        files.values_mut().for_each(|tensors| tensors.placed.sort_by_key(|placed| placed.first));
        files
    }

    fn note(&self, key: &str, dtype: Dtype, bytes: &[u8]) {
        if counted(dtype, bytes) != (0, 0) {
            self.noted().bad.insert(key.into());
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Tensors<'_> {
    /// Takes note of what stands in the bytes of the file from `start` on. An element of which they
    /// hold a part only is passed over: pieces are to begin where elements do.
    pub fn look(&self, start: u64, bytes: &[u8]) {
        let end = start + bytes.len() as u64;
        let from = self.placed.partition_point(|tensor| tensor.first + tensor.bytes <= start);
        for tensor in self.placed[from..].iter().take_while(|tensor| tensor.first < end) {
            let width = (tensor.dtype.bitsize() as u64).div_ceil(8).max(1);
            let cut = start.saturating_sub(tensor.first).next_multiple_of(width);
            let inside = (tensor.first + cut).min(end)..(tensor.first + tensor.bytes).min(end);
            let inside = (inside.start - start) as usize..(inside.end - start) as usize;
            self.screened.note(tensor.key, tensor.dtype, bytes.get(inside).unwrap_or(&[]));
        }
    }
}

impl WeightSource for Screened<'_> {
    fn tensor(&self, key: &str) -> Option<TensorInfo> {
        self.source.tensor(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.source.keys()
    }

    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        self.source.read(key, at, out)?;
        if let Some(info) = self.source.tensor(key) {
            self.note(key, info.dtype, out);
        }
        Ok(())
    }

    fn mapped(&self, key: &str) -> Option<&[u8]> {
        let bytes = self.source.mapped(key)?;
        if !self.noted().seen.contains(key) {
            if let Some(info) = self.source.tensor(key) {
                self.note(key, info.dtype, bytes);
            }
            self.noted().seen.insert(key.into());
        }
        Some(bytes)
    }

    fn location(&self, key: &str) -> Option<Location<'_>> {
        self.source.location(key)
    }
}

/// Counts in whole elements, little endian. Types that have neither have none.
fn counted(dtype: Dtype, bytes: &[u8]) -> Counts {
    let halves = |exponent: u16| {
        let (elements, _) = bytes.as_chunks::<2>();
        sum(elements, |e| u16::from_le_bytes(*e) & 0x7fff, exponent)
    };
    match dtype {
        Dtype::BF16 => halves(0x7f80),
        Dtype::F16 => halves(0x7c00),
        Dtype::F32 => {
            let (elements, _) = bytes.as_chunks::<4>();
            sum(elements, |e| u32::from_le_bytes(*e) & 0x7fff_ffff, 0x7f80_0000)
        }
        // These have no infinity.
        Dtype::F8_E4M3 => (sum(bytes, |e| e & 0x7f, 0x7f).1, 0),
        Dtype::F8_E8M0 => (sum(bytes, |e| *e, 0xff).1, 0),
        _ => (0, 0),
    }
}

/// Elements above `infinity`, whose sign is taken off, and those that equal it.
fn sum<E, T: Ord + Copy>(elements: &[E], value: impl Fn(&E) -> T, infinity: T) -> Counts {
    let count = |is: &dyn Fn(T) -> bool| elements.iter().filter(|e| is(value(e))).count() as u64;
    // One comparison for each element where all are finite.
    match elements.iter().map(&value).max() {
        Some(most) if most >= infinity => (count(&|v| v > infinity), count(&|v| v == infinity)),
        _ => (0, 0),
    }
}
