//! How the weights of an artifact that holds none come about from the checkpoint it was made of.
//!
//! Three kinds of weights: *mapped* ones are a range of a file as it is; *packed* ones are stored
//! elements in another order, moved there while loading ([`crate::pack`]); *stored* ones had to be
//! computed, and are all that the artifact holds itself. Files are known by name, length and the
//! hashes of their chunks.

use crate::error::ArtifactError;
use crate::format::{Hash, RECIPE, hex, malformed};
use crate::pack::gather::{Gather, Tensors};
use crate::pack::panel::{Grid, Job, Panel};
use crate::plan::{Plan, Weight};
use serde::{Deserialize, Serialize};

/// Version of the recipe's schema: a reader accepts its own major and any minor.
pub const RECIPE_VERSION: (u16, u16) = (1, 1);
/// More bytes than any element has.
const WIDTH_MAX: u32 = 8;

/// The recipe section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Schema version, [`RECIPE_VERSION`] when written by this crate.
    pub version: (u16, u16),
    /// Folder of the checkpoint when compiling, from that of the artifact.
    pub folder: String,
    /// Bytes of a file per hash.
    pub chunk_bytes: u64,
    /// The checkpoint's files.
    pub files: Vec<CheckpointFile>,
    /// Stored tensors that weights are made of.
    pub tensors: Vec<Tensor>,
    /// How packed weights lie.
    pub panels: Vec<Panel>,
    /// One for each of the plan's weights.
    pub weights: Vec<Making>,
}

/// A file of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFile {
    /// Its name in the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Hash of each chunk.
    pub chunks: Vec<Digest>,
}

/// A hash, as text lower-case and hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub Hash);

/// A stored tensor; written down as three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u64)", into = "(u32, u64, u64)")]
pub struct Tensor {
    /// Position in [`Recipe::files`].
    pub file: u32,
    /// Its first byte there.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
}

/// How a weight comes about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Making {
    /// It lies in a file as it is wanted.
    Mapped {
        /// Position in [`Recipe::files`].
        file: u32,
        /// Its first byte there.
        offset: u64,
    },
    /// Stored elements in another order.
    Packed(Packed),
    /// It lies in the artifact's weights section from this byte on.
    Stored(u64),
}

/// Stored elements in the order of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Position in [`Recipe::panels`].
    pub panel: u32,
    /// Where codes are stored.
    pub codes: Gather,
    /// Where their scales are stored, if they have any.
    pub scales: Option<Gather>,
    /// First byte of scales that do not lie within panels.
    pub grid: Option<u64>,
}

impl From<(u32, u64, u64)> for Tensor {
    fn from((file, offset, bytes): (u32, u64, u64)) -> Tensor {
        Tensor { file, offset, bytes }
    }
}

impl From<Tensor> for (u32, u64, u64) {
    fn from(tensor: Tensor) -> (u32, u64, u64) {
        (tensor.file, tensor.offset, tensor.bytes)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        hex(&digest.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Digest, String> {
        let hash = blake3::Hash::from_hex(&text).map_err(|error| error.to_string())?;
        Ok(Digest(*hash.as_bytes()))
    }
}

impl Packed {
    /// Fills the weight's memory, zeros so far.
    ///
    /// # Errors
    /// Whatever the tensors report.
    pub fn make<T: Tensors>(
        &self,
        panel: &Panel,
        tensors: &T,
        threads: usize,
        out: &mut [u8],
    ) -> Result<(), T::Error> {
        let scales = self.scales.as_ref();
        let scales = scales.map(|s| Ok((s.rows(tensors).all()?, s.dims))).transpose()?;
        let grid = scales.as_ref().map(|(bytes, dims)| Grid { bytes, dims: *dims });
        let rows = self.codes.rows(tensors);
        let job = Job::new(panel, &rows, grid);
        let codes = job.panels() * panel.bytes as usize;
        job.fill(0, &mut out[..codes], threads)?;
        if let (Some(at), Some(grid)) = (self.grid, grid) {
            out[at as usize..][..grid.bytes.len()].copy_from_slice(grid.bytes);
        }
        Ok(())
    }

    /// Numbers of all stored tensors that it is made of, perhaps repeatedly.
    pub fn tensors(&self) -> impl Iterator<Item = u32> + '_ {
        let pieces = self.codes.pieces.iter().chain(self.scales.iter().flat_map(|s| &s.pieces));
        pieces.flat_map(|piece| piece.of.tensors.iter().copied())
    }
}

type Fault = (String, String);

impl Recipe {
    /// Reads a recipe's JSON, its version first.
    ///
    /// # Errors
    /// [`ArtifactError::Version`], [`ArtifactError::Schema`].
    pub fn parse(json: &[u8]) -> Result<Recipe, ArtifactError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: (u16, u16),
        }
        let schema = |error: serde_json::Error| ArtifactError::Schema {
            section: RECIPE,
            message: error.to_string(),
        };
        let Versioned { version: found } = serde_json::from_slice(json).map_err(schema)?;
        let expected = RECIPE_VERSION;
        if found.0 != expected.0 {
            return Err(ArtifactError::Version { what: RECIPE, found, expected });
        }
        serde_json::from_slice(json).map_err(schema)
    }

    /// Checks that every weight of the plan can be made, from files as the recipe states them and
    /// a weights section of `stored` bytes.
    ///
    /// # Errors
    /// [`ArtifactError::Malformed`] names the first row that contradicts another.
    pub fn check(&self, plan: &Plan, stored: u64) -> Result<(), ArtifactError> {
        for file in &self.files {
            file.check(self.chunk_bytes).map_err(|(found, expected)| {
                malformed(format!("recipe, file `{}`", file.name), found, expected)
            })?;
        }
        for (i, tensor) in self.tensors.iter().enumerate() {
            self.within(tensor.file, tensor.offset, tensor.bytes).map_err(
                |(found, expected)| malformed(format!("recipe, tensor {i}"), found, expected),
            )?;
        }
        if self.weights.len() != plan.weights.len() {
            let found = format!("{} weights", self.weights.len());
            return Err(malformed("recipe", found, plan.weights.len()));
        }
        for (weight, making) in plan.weights.iter().zip(&self.weights) {
            self.check_making(weight, making, stored).map_err(|(found, expected)| {
                malformed(format!("recipe, weight `{}`", weight.name), found, expected)
            })?;
        }
        Ok(())
    }

    fn within(&self, file: u32, offset: u64, bytes: u64) -> Result<(), Fault> {
        let size = self.files.get(file as usize).map(|f| f.bytes);
        match offset.checked_add(bytes).zip(size) {
            Some((end, size)) if end <= size => Ok(()),
            _ => Err((
                format!("{bytes} bytes at {offset} of file {file}"),
                format!("a range of one of {} files", self.files.len()),
            )),
        }
    }

    fn check_making(&self, weight: &Weight, making: &Making, stored: u64) -> Result<(), Fault> {
        match making {
            Making::Mapped { file, offset } => self.within(*file, *offset, weight.bytes),
            Making::Packed(packed) => self.check_packed(weight.bytes, packed),
            Making::Stored(at) => match at.checked_add(weight.bytes) {
                Some(end) if end <= stored => Ok(()),
                _ => Err((
                    format!("{} bytes at {at}", weight.bytes),
                    format!("a range within {stored} bytes"),
                )),
            },
        }
    }

    fn check_packed(&self, bytes: u64, packed: &Packed) -> Result<(), Fault> {
        let Some(panel) = self.panels.get(packed.panel as usize) else {
            let expected = format!("one of {}", self.panels.len());
            return Err((format!("panel {}", packed.panel), expected));
        };
        let size_of = |tensor: u32| self.tensors.get(tensor as usize).map(|t| t.bytes);
        for gather in [&packed.codes].into_iter().chain(&packed.scales) {
            gather.check(&size_of)?;
        }
        let [batches, rows, cols] = packed.codes.dims;
        let blocks = packed.scales.as_ref().map(|s| s.dims[2]);
        panel.check(cols, blocks)?;
        let scales = packed.scales.as_ref().and_then(Gather::bytes).unwrap_or(0);
        let apart = packed.grid.map_or(Some(0), |at| at.checked_add(scales));
        let codes = panel.bytes_of(packed.codes.dims);
        let fits = |end: Option<u64>| end.is_some_and(|end| end <= bytes);
        let nested = panel.scales.as_ref().zip(packed.scales.as_ref()).is_none_or(|(n, s)| {
            let (of_rows, width) = (i64::from(n.block_rows), n.width);
            s.dims[0] == batches && (rows - 1) / of_rows < s.dims[1] && s.width == width
        });
        let width = packed.codes.width == panel.width && panel.width <= WIDTH_MAX;
        match fits(codes) && fits(apart) && nested && width {
            true => Ok(()),
            false => {
                let found = format!("{codes:?} bytes of codes, scales up to {apart:?}");
                Err((found, format!("{bytes} bytes in all, elements alike")))
            }
        }
    }
}

impl CheckpointFile {
    fn check(&self, chunk: u64) -> Result<(), Fault> {
        let name = &self.name;
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        let chunks = if chunk > 0 { self.bytes.div_ceil(chunk) } else { u64::MAX };
        if plain && self.chunks.len() as u64 == chunks {
            return Ok(());
        }
        let found = format!("{} hashes of {} bytes", self.chunks.len(), self.bytes);
        Err((found, format!("a name without a folder, a hash for each {chunk} bytes")))
    }
}
