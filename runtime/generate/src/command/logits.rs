//! `logits`: the logits of every position, as safetensors.

use super::args::LogitsArgs;
use super::file_error;
use crate::engine::Engine;
use crate::error::Result;
use crate::logits::{Feed, Rows, every_position};
use runtime::unfinished;
use serde_json::{Map, json};
use std::fs::Permissions;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

impl LogitsArgs {
    /// How the sequences are fed.
    pub fn feed(&self) -> Feed {
        if self.batched { Feed::BatchedChunks(self.chunk) } else { Feed::Chunked(self.chunk) }
    }
}

/// Computes the logits of every position of `prompts` and writes them to `path`: tensors
/// `logits.0`, `logits.1`, ... of f32 `[len, V]`. The file appears whole or not at all.
///
/// # Errors
/// If the ids cannot be used, if the engine fails, or if the file cannot be written.
pub fn write_logits<E: Engine>(
    engine: &mut E,
    prompts: &[Vec<i32>],
    feed: Feed,
    path: &Path,
) -> Result<()> {
    let vocab = engine.vocab();
    let mut file = TensorFile::create(path, prompts, vocab)?;
    every_position(engine, prompts, feed, &mut |at, block| file.write(at, block, vocab))?;
    file.finish()
}

/// A safetensors file under a temporary name, written block by block: whole logits need not fit
/// in memory.
struct TensorFile<'a> {
    path: &'a Path,
    file: BufWriter<NamedTempFile>,
    /// First byte of each tensor.
    starts: Vec<u64>,
    /// Where the next byte goes.
    at: u64,
}

impl<'a> TensorFile<'a> {
    fn create(path: &'a Path, prompts: &[Vec<i32>], vocab: usize) -> Result<Self> {
        let (header, starts) = header(prompts, vocab);
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(&unfinished::prefix(path))
            .suffix(unfinished::SUFFIX)
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(|e| file_error("create a file beside", path, bare(e)))?;
        unfinished::hold(file.as_file());
        let mut this = TensorFile { path, file: BufWriter::new(file), starts, at: 0 };
        this.put(&header)?;
        Ok(this)
    }

    fn write(&mut self, rows: Rows, block: &[f32], vocab: usize) -> Result<()> {
        let to = self.starts[rows.prompt] + (rows.position * vocab * 4) as u64;
        if to != self.at {
            let sought = self.file.seek(SeekFrom::Start(to));
            self.at = sought.map_err(|e| file_error("write", self.path, bare(e)))?;
        }
        let bytes: Vec<u8> = block.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| file_error("write", self.path, bare(e)))
    }

    fn finish(self) -> Result<()> {
        let file = self.file.into_inner();
        let file = file.map_err(|e| file_error("write", self.path, bare(e.into_error())))?;
        file.as_file().sync_all().map_err(|e| file_error("write", self.path, e))?;
        file.persist(self.path).map_err(|e| file_error("write", self.path, bare(e.error)))?;
        Ok(())
    }
}

/// An error without the name that the file has until it is whole.
fn bare(error: io::Error) -> io::Error {
    error.kind().into()
}

/// The length-prefixed header, padded so that data are aligned to 8 bytes, and where in the file
/// each tensor begins.
fn header(prompts: &[Vec<i32>], vocab: usize) -> (Vec<u8>, Vec<u64>) {
    let mut tensors = Map::new();
    let mut starts = Vec::with_capacity(prompts.len());
    let mut end = 0_u64;
    for (i, prompt) in prompts.iter().enumerate() {
        let start = end;
        end += prompt.len() as u64 * vocab as u64 * 4;
        starts.push(start);
        let tensor = json!({
            "dtype": "F32", "shape": [prompt.len(), vocab], "data_offsets": [start, end]
        });
        tensors.insert(format!("logits.{i}"), tensor);
    }
    let mut text = serde_json::Value::Object(tensors).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.append(&mut text);
    for start in &mut starts {
        *start += header.len() as u64;
    }
    (header, starts)
}
