//! Weights that stay in the checkpoint: mapped where they lie as they are wanted, else packed into
//! memory of this process when a session first wants them. What is packed is hashed before; the
//! rest when asked for. Nothing is hashed twice.

use crate::error::RuntimeError;
use crate::hashed::Hashed;
use crate::memory::Region;
use artifact::chunks::first_difference;
use artifact::format::{Hash, hex};
use artifact::pack::gather::Tensors;
use artifact::plan::Weight;
use artifact::recipe::{CheckpointFile, Making, Packed};
use artifact::regular;
use artifact::{ArtifactError, Recipe};
use memmap2::Mmap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// Alignment of weights in memory: a cache line.
const ALIGN: u64 = 64;

/// A checkpoint, and how weights are made of it.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    recipe: Recipe,
    files: Vec<File>,
    made: OnceLock<Made>,
    /// Held while weights are made.
    making: Mutex<()>,
    hashed: Hashed,
}

/// Weights, ready to be read.
#[derive(Debug)]
struct Made {
    region: Region,
    /// Of each of the plan's weights.
    addresses: Vec<u64>,
}

/// A file of the checkpoint.
#[derive(Debug)]
struct File {
    path: PathBuf,
    map: Mmap,
    chunk_bytes: usize,
    hashes: Vec<Hash>,
    /// Chunks whose hashes have been found right.
    checked: Vec<AtomicBool>,
}

impl Checkpoint {
    /// Opens the files of a checked recipe in `folder`.
    ///
    /// # Errors
    /// [`ArtifactError::Checkpoint`] for a file that is not the one of the recipe.
    pub(crate) fn open(recipe: Recipe, folder: &Path) -> Result<Checkpoint, RuntimeError> {
        let open = |file| File::open(folder, file, recipe.chunk_bytes);
        let files = recipe.files.iter().map(open).collect::<Result<_, _>>()?;
        let (made, making) = (OnceLock::new(), Mutex::new(()));
        Ok(Checkpoint { recipe, files, made, making, hashed: Hashed::default() })
    }

    /// Addresses of the plan's weights, which are made the first time: out of the files, and of
    /// what the artifact holds itself, which `stored` gives checked.
    ///
    /// # Errors
    /// Whatever `stored` reports; [`ArtifactError::Checkpoint`] for changed files;
    /// [`RuntimeError::OutOfMemory`].
    pub(crate) fn addresses<'s>(
        &self,
        weights: &[Weight],
        threads: usize,
        stored: impl FnOnce() -> Result<&'s [u8], RuntimeError>,
    ) -> Result<&[u64], RuntimeError> {
        // A panic of another thread leaves nothing half done: weights are set when they are whole.
        let _making = self.making.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let made = match self.made.get() {
            Some(made) => made,
            None => {
                let made = self.make(weights, threads, stored()?)?;
                self.made.get_or_init(|| made)
            }
        };
        Ok(&made.addresses)
    }

    /// What was packed so far: all of it, or nothing.
    pub(crate) fn packed(&self) -> &[u8] {
        self.made.get().map_or(&[], |made| made.region.bytes())
    }

    fn make(
        &self,
        weights: &[Weight],
        threads: usize,
        stored: &[u8],
    ) -> Result<Made, RuntimeError> {
        let rows = || weights.iter().zip(&self.recipe.weights);
        let held = rows().filter(|(_, making)| !matches!(making, Making::Mapped { .. }));
        // A sum beyond all memory is refused as such.
        let size = |(weight, _): (&Weight, _)| weight.bytes.div_ceil(ALIGN).saturating_mul(ALIGN);
        let bytes = held.map(size).fold(0, u64::saturating_add);
        let mut region = Region::filled(bytes, "packed weights")?;
        let (base, mut rest) = (region.as_ptr() as u64, region.bytes_mut());
        let (mut addresses, mut at) = (vec![], 0);
        for (weight, making) in rows() {
            if let Making::Mapped { file, offset } = making {
                // Within the file, which is as long as the checked recipe says.
                let bytes = &self.files[*file as usize].map[*offset as usize..];
                addresses.push(bytes.as_ptr() as u64);
                continue;
            }
            let out = &mut rest[..weight.bytes as usize];
            match making {
                Making::Stored(from) => out.copy_from_slice(&stored[*from as usize..][..out.len()]),
                Making::Packed(packed) => self.pack(packed, threads, out)?,
                Making::Mapped { .. } => {}
            }
            addresses.push(base + at);
            let size = size((weight, making));
            at += size;
            rest = &mut rest[size as usize..];
        }
        Ok(Made { region, addresses })
    }

    /// Checks what a weight is made of, and makes it.
    fn pack(&self, packed: &Packed, threads: usize, out: &mut [u8]) -> Result<(), RuntimeError> {
        let mut chunks = vec![];
        for tensor in packed.tensors() {
            let tensor = self.recipe.tensors[tensor as usize];
            let (file, first) = (tensor.file as usize, tensor.offset as usize);
            let chunk = self.files[file].chunk_bytes;
            let end = (first + tensor.bytes as usize).div_ceil(chunk);
            chunks.extend((first / chunk..end).map(|number| (file, number)));
        }
        self.check(chunks, threads, &|_, _| {})?;
        let panel = &self.recipe.panels[packed.panel as usize];
        let Ok(()) = packed.make(panel, &Mapped { of: self }, threads, out);
        Ok(())
    }

    /// Hashes whatever of the files has not been hashed yet.
    ///
    /// # Errors
    /// [`ArtifactError::Checkpoint`].
    pub(crate) fn verify(
        &self,
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), RuntimeError> {
        let numbers = |(i, file): (usize, &File)| (0..file.hashes.len()).map(move |n| (i, n));
        let all = self.files.iter().enumerate().flat_map(numbers).collect();
        self.check(all, threads, progress)
    }

    /// Bytes of the files that were hashed.
    pub(crate) fn hashed_bytes(&self) -> u64 {
        self.hashed.bytes()
    }

    /// Compares chunks that have not been compared yet with their hashes.
    fn check(
        &self,
        mut chunks: Vec<(usize, usize)>,
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), RuntimeError> {
        let files = &self.files;
        chunks.retain(|(file, number)| !files[*file].checked[*number].load(Ordering::Relaxed));
        chunks.sort_unstable();
        chunks.dedup();
        let pieces: Vec<&[u8]> = chunks.iter().map(|(file, n)| files[*file].chunk(*n)).collect();
        let hashes: Vec<Hash> = chunks.iter().map(|(file, n)| files[*file].hashes[*n]).collect();
        let compare =
            |told: &(dyn Fn(u64, u64) + Sync)| first_difference(&pieces, &hashes, threads, told);
        if let Some((bad, found)) = self.hashed.count(progress, compare) {
            let (file, number) = chunks[bad];
            let at = number as u64 * files[file].chunk_bytes as u64;
            let what = format!("hash of chunk {number} at byte {at}");
            return Err(refused(&files[file].path, what, hex(&found), hex(&hashes[bad])));
        }
        for (file, number) in chunks {
            files[file].checked[number].store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl File {
    fn open(folder: &Path, file: &CheckpointFile, chunk_bytes: u64) -> Result<File, RuntimeError> {
        let path = folder.join(&file.name);
        let differs = |what: &str, found: String, expected: String| {
            refused(&path, what.to_string(), found, expected)
        };
        let opened = regular::open(&path)
            .map_err(|error| differs("opening", error.to_string(), "a file".into()))?;
        // SAFETY: the mapping is read-only. Whoever changes a checkpoint while a model of it runs
        // breaks that model, as with any executable.
        let map = unsafe { Mmap::map(&opened) }.map_err(|source| RuntimeError::Io {
            action: "map",
            path: path.clone(),
            source,
        })?;
        if map.len() as u64 != file.bytes {
            let (found, expected) = (map.len().to_string(), file.bytes.to_string());
            return Err(differs("length", found, expected));
        }
        let hashes: Vec<Hash> = file.chunks.iter().map(|chunk| chunk.0).collect();
        let checked = hashes.iter().map(|_| AtomicBool::new(false)).collect();
        // More than the address space is one chunk, as for any larger number.
        let chunk_bytes = usize::try_from(chunk_bytes).unwrap_or(usize::MAX);
        Ok(File { path, map, chunk_bytes, hashes, checked })
    }

    fn chunk(&self, number: usize) -> &[u8] {
        let start = number * self.chunk_bytes;
        &self.map[start..self.map.len().min(start.saturating_add(self.chunk_bytes))]
    }
}

/// A file that is not the one of the recipe.
fn refused(path: &Path, what: String, found: String, expected: String) -> RuntimeError {
    let error = ArtifactError::Checkpoint { what, found, expected };
    RuntimeError::Artifact { path: path.to_owned(), error }
}

/// Tensors of a recipe in mapped files, which have the lengths that the recipe was checked for.
struct Mapped<'a> {
    of: &'a Checkpoint,
}

impl Mapped<'_> {
    fn bytes(&self, tensor: u32) -> &[u8] {
        let tensor = self.of.recipe.tensors[tensor as usize];
        let file = &self.of.files[tensor.file as usize];
        &file.map[tensor.offset as usize..][..tensor.bytes as usize]
    }
}

impl Tensors for Mapped<'_> {
    type Error = Infallible;

    fn read(&self, tensor: u32, at: u64, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.bytes(tensor)[at as usize..][..out.len()]);
        Ok(())
    }

    fn mapped(&self, tensor: u32) -> Option<&[u8]> {
        Some(self.bytes(tensor))
    }
}
