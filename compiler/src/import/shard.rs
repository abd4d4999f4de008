//! One safetensors file: eight bytes of length, a JSON header, the tensors' bytes.

use super::inputs;
use super::json::{self, Entries};
use super::source::TensorInfo;
use crate::error::ImportError;
use artifact::manifest::Input;
use artifact::regular;
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo as HeaderEntry};
use std::path::{Path, PathBuf};

/// The format's own limit on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes that are shown of a text in the place of a header.
const TEXT_BYTES: usize = 60;
/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// A mapped file whose header has been checked against its length.
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    /// First byte of the tensors.
    base: u64,
}

/// A tensor of a shard: what it is, and its bytes' range in the file.
pub struct Slot {
    /// Element type and shape.
    pub info: TensorInfo,
    /// First byte in the file.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl Shard {
    /// Maps a file and reads its header; the tensors' bytes are not touched.
    ///
    /// # Errors
    /// Whatever is wrong with the header: [`ImportError::Header`], [`ImportError::Truncated`],
    /// [`ImportError::Entry`], [`ImportError::Duplicate`], [`ImportError::Json`].
    pub fn open(path: &Path) -> Result<(Shard, Vec<(String, Slot)>), ImportError> {
        let unreadable = |e: std::io::Error| ImportError::unreadable(path, &e);
        let file = regular::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.len() == 0 {
            return Err(too_short(path, 0));
        }
        // SAFETY: the map is read-only and private to this process's view of a checkpoint, which
        // is not written while it is compiled; every access is within the mapped length.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let (slots, base) = Shard::slots(path, &map)?;
        Ok((Shard { path: path.into(), map, base }, slots))
    }

    /// Reads the header of `file`, the bytes at `path`: its tensors, and where the first begins.
    ///
    /// # Errors
    /// As [`Shard::open`], for what is wrong with the header.
    pub fn slots(path: &Path, file: &[u8]) -> Result<(Vec<(String, Slot)>, u64), ImportError> {
        let (entries, base) = read_header(path, file)?;
        Ok((place(path, entries, base, file.len() as u64)?, base))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The file as its header describes it.
    pub fn input(&self) -> Input {
        inputs::input(&self.path, self.map.len() as u64, &self.map[..self.base as usize])
    }

    /// Bytes `offset..offset + bytes` of the file, which a [`Slot`] of this shard names.
    pub fn slice(&self, slot: &Slot) -> &[u8] {
        debug_assert!(slot.offset >= self.base, "a slot lies behind the header");
        &self.map[slot.offset as usize..(slot.offset + slot.bytes) as usize]
    }
}

fn too_short(path: &Path, bytes: usize) -> ImportError {
    header(path, format!("{bytes} bytes"), format!("at least {PREFIX} bytes"))
}

fn header(path: &Path, found: impl Into<String>, expected: impl Into<String>) -> ImportError {
    ImportError::Header { path: path.into(), found: found.into(), expected: expected.into() }
}

/// An entry of the header, or why it is none; `__metadata__` is one that is none.
struct Item(Result<HeaderEntry, String>);

impl<'de> serde::Deserialize<'de> for Item {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Item(serde_json::from_value(value).map_err(|e| e.to_string())))
    }
}

/// The first line of a text in the place of tensors: what git LFS leaves of a file that it did not
/// fetch, or a server's page. No length of a header is written in printable characters only.
fn text_in_place(begin: &[u8]) -> Option<&str> {
    let line = begin.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let printable = |byte: &u8| matches!(byte, b' '..=b'~');
    let is_text = line.len() >= PREFIX as usize && line.iter().all(printable);
    std::str::from_utf8(line).ok().filter(|_| is_text)
}

/// The header's entries, `__metadata__` left out, and where the tensors begin.
fn read_header(path: &Path, file: &[u8]) -> Result<(Vec<(String, Item)>, u64), ImportError> {
    let prefix = file.first_chunk().ok_or_else(|| too_short(path, file.len()))?;
    let len = u64::from_le_bytes(*prefix);
    if let Some(text) = text_in_place(&file[..file.len().min(TEXT_BYTES)]) {
        return Err(header(path, format!("the text {text:?}"), "a length, then JSON"));
    }
    if len > MAX_HEADER_BYTES {
        return Err(header(path, format!("{len} bytes"), format!("at most {MAX_HEADER_BYTES}")));
    }
    let base = PREFIX + len;
    let Some(bytes) = file.get(PREFIX as usize..base as usize) else {
        let found = file.len() as u64;
        return Err(ImportError::Truncated { path: path.into(), found, expected: base });
    };
    let Entries(mut entries) = json::parse::<Entries<Item>>(path, bytes)?;
    if let Some(key) = json::repeated(&entries) {
        return Err(ImportError::Duplicate { path: path.into(), key: key.into() });
    }
    entries.retain(|(key, _)| key != "__metadata__");
    Ok((entries, base))
}

/// Checks every entry against its own shape, its neighbours and the file's length.
fn place(
    path: &Path,
    entries: Vec<(String, Item)>,
    base: u64,
    len: u64,
) -> Result<Vec<(String, Slot)>, ImportError> {
    let mut typed = Vec::with_capacity(entries.len());
    for (key, Item(read)) in entries {
        let info = read.map_err(|why| {
            entry(path, &key, format!("a fault ({why})"), "dtype, shape and data_offsets")
        })?;
        check_size(path, &key, &info)?;
        typed.push((key, info));
    }
    typed.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (key, info) in &typed {
        let (start, stop) = info.data_offsets;
        if start != end {
            let expected = format!("offsets from {end} on, where the tensor before it ends");
            return Err(entry(path, key, format!("offsets {start}..{stop}"), expected));
        }
        end = stop;
    }
    check_length(path, base, end as u64, len)?;
    // The format's own library has the last word.
    Metadata::new(None, typed.clone())
        .map_err(|e| header(path, format!("refused: {e}"), "a valid safetensors header"))?;
    Ok(typed.into_iter().map(|(key, info)| (key, slot(&info, base))).collect())
}

fn slot(info: &HeaderEntry, base: u64) -> Slot {
    let (start, stop) = info.data_offsets;
    Slot { info: described(info), offset: base + start as u64, bytes: (stop - start) as u64 }
}

fn described(info: &HeaderEntry) -> TensorInfo {
    TensorInfo { dtype: info.dtype, dims: info.shape.iter().map(|d| *d as u64).collect() }
}

fn check_size(path: &Path, key: &str, info: &HeaderEntry) -> Result<(), ImportError> {
    let (start, stop) = info.data_offsets;
    let described = described(info);
    let Some(bytes) = described.bytes() else {
        return Err(entry(path, key, format!("shape {described}"), "less than 2^64 bits"));
    };
    if stop.checked_sub(start).map(|n| n as u64) != Some(bytes) {
        let expected = format!("{bytes} bytes for {described}");
        return Err(entry(path, key, format!("offsets {start}..{stop}"), expected));
    }
    Ok(())
}

fn check_length(path: &Path, base: u64, data: u64, len: u64) -> Result<(), ImportError> {
    let expected = base.saturating_add(data);
    match len.cmp(&expected) {
        std::cmp::Ordering::Less => {
            Err(ImportError::Truncated { path: path.into(), found: len, expected })
        }
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            let found = format!("followed by {} bytes of tensors", len - base);
            Err(header(path, found, format!("{data} as its entries say")))
        }
    }
}

fn entry(
    path: &Path,
    key: &str,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> ImportError {
    let (path, key) = (path.into(), key.into());
    ImportError::Entry { path, key, found: found.into(), expected: expected.into() }
}
