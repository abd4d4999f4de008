//! Hashes of the equal pieces of large files.

use crate::error::ArtifactError;
use crate::format::{CHUNK, Hash, Section, hex, malformed};
use crate::threads::on_threads;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The lowest piece whose hash is not the stated one. Threads take pieces in turn; `progress` is
/// told the bytes done and their total, from any thread.
pub fn first_difference(
    pieces: &[&[u8]],
    hashes: &[Hash],
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Option<(usize, Hash)> {
    let total = pieces.iter().map(|piece| piece.len() as u64).sum();
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let check = || -> Option<(usize, Hash)> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (piece, expected) = (pieces.get(index)?, hashes.get(index)?);
            let found = *blake3::hash(piece).as_bytes();
            if found != *expected {
                return Some((index, found));
            }
            let bytes = piece.len() as u64;
            progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        }
    };
    let bad = on_threads(threads.min(pieces.len()), &check);
    bad.into_iter().flatten().min_by_key(|(index, _)| *index)
}

impl Section {
    /// Checks every chunk of `bytes`, which the section names, on `threads` threads. `progress` is
    /// told the bytes done and their total, from any thread.
    ///
    /// # Errors
    /// [`ArtifactError::WeightsDamaged`] for the first chunk that differs.
    pub fn verify_chunks(
        &self,
        bytes: &[u8],
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), ArtifactError> {
        let Some(chunks) = &self.chunks else {
            return Err(malformed("weights section", "no chunk hashes", "chunk hashes"));
        };
        if bytes.len() as u64 != self.bytes {
            return Err(malformed("length of the weights", bytes.len(), self.bytes));
        }
        // A chunk larger than the address space is one chunk, as for any larger size.
        let size = usize::try_from(chunks.bytes).unwrap_or(usize::MAX);
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        let bad = first_difference(&pieces, &chunks.hashes, threads, progress);
        let Some((chunk, found)) = bad else { return Ok(()) };
        Err(ArtifactError::WeightsDamaged {
            chunk,
            offset: chunk as u64 * chunks.bytes,
            found: hex(&found),
            expected: hex(&chunks.hashes[chunk]),
        })
    }
}

/// The hash of each [`CHUNK`] of a file of so many bytes. What lies in holes is zeros, and is not
/// read; all else is shown to `look` with its place, from any thread.
///
/// # Errors
/// [`ArtifactError::Io`].
pub fn file_hashes(
    file: &File,
    path: &Path,
    bytes: u64,
    threads: usize,
    look: &(dyn Fn(u64, &[u8]) + Sync),
) -> Result<Vec<Hash>, ArtifactError> {
    let count = bytes.div_ceil(CHUNK);
    let hashes = Mutex::new(vec![Hash::default(); count as usize]);
    let zeros = *blake3::hash(&vec![0; CHUNK as usize]).as_bytes();
    let next = AtomicU64::new(0);
    let work = || -> std::io::Result<()> {
        let mut chunk = vec![];
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            let start = index * CHUNK;
            let len = CHUNK.min(bytes - start);
            let hash = if len == CHUNK && is_hole(file, start, start + len) {
                zeros
            } else {
                chunk.resize(len as usize, 0);
                file.read_exact_at(&mut chunk, start)?;
                look(start, &chunk);
                *blake3::hash(&chunk).as_bytes()
            };
            let mut hashes = hashes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            hashes[index as usize] = hash;
        }
    };
    let done: std::io::Result<Vec<()>> = on_threads(threads, &work).into_iter().collect();
    done.map_err(|source| ArtifactError::Io { action: "read", path: path.to_owned(), source })?;
    Ok(hashes.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Whether a range of a file is known to hold no data. File systems that know of no holes have
/// data everywhere.
fn is_hole(file: &File, start: u64, end: u64) -> bool {
    let Ok(at) = libc::off_t::try_from(start) else { return false };
    // SAFETY: asks about an open file; its position, which this may move, is used by nobody.
    let data = unsafe { libc::lseek(file.as_raw_fd(), at, libc::SEEK_DATA) };
    match u64::try_from(data) {
        Ok(data) => data >= end,
        // No data from here to the end of the file.
        Err(_) => std::io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_hash_as_the_zeros_that_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sparse");
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        let file = file.expect("a file");
        let bytes = 5 * CHUNK + 17;
        file.set_len(bytes).expect("a length");
        file.write_all_at(b"data", 2 * CHUNK + 99).expect("a write");
        let mut all = vec![0; bytes as usize];
        all[2 * CHUNK as usize + 99..][..4].copy_from_slice(b"data");
        let expected: Vec<Hash> =
            all.chunks(CHUNK as usize).map(|c| *blake3::hash(c).as_bytes()).collect();
        for threads in [1, 3] {
            let (seen, holes) = (Mutex::new(vec![0; bytes as usize]), Mutex::new(5));
            let hashes = file_hashes(&file, &path, bytes, threads, &|at, data| {
                seen.lock().expect("no panic")[at as usize..][..data.len()].copy_from_slice(data);
                *holes.lock().expect("no panic") -= usize::from(data.len() == CHUNK as usize);
            });
            assert_eq!(hashes.expect("hashes"), expected);
            assert!(seen.into_inner().expect("no panic") == all);
            assert!(holes.into_inner().expect("no panic") > 0, "holes are not read");
        }
        let pieces: Vec<&[u8]> = all.chunks(CHUNK as usize).collect();
        assert_eq!(first_difference(&pieces, &expected, 2, &|_, _| {}), None);
        let error = file_hashes(&file, &path, bytes + CHUNK, 2, &|_, _| {}).expect_err("too short");
        assert_eq!(error.code(), "E0414");
    }
}
