//! The recipe of weights that stay in the checkpoint: where each lies, and how it is packed.

use super::Packed;
use super::moved::Moved;
use crate::error::ImportError;
use crate::import::finite::Screened;
use crate::import::source::{Location, WeightSource};
use crate::progress::Progress;
use artifact::ArtifactError;
use artifact::chunks::file_hashes;
use artifact::format::CHUNK;
use artifact::pack::gather::Gather;
use artifact::pack::panel::Panel;
use artifact::plan::Weight;
use artifact::recipe::{self, CheckpointFile, Digest, Making, RECIPE_VERSION, Recipe, Tensor};
use artifact::regular;
use ir::dim::Name;
use ir::graph::program::Program;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Weights that the artifact holds begin at a multiple of this: a cache line.
const STORED_ALIGN: u64 = 64;

/// How packed weights, rows of a plan, come about from the checkpoint. Its files are not hashed
/// yet, and its folder is named from the root ([`folder_from`] names it for an artifact).
///
/// Errors: [`ImportError::MissingTensor`] for weights that lie in no file;
/// [`ImportError::Unreadable`] for files that cannot be looked at, or whose path is no text.
pub fn recipe(
    packed: &[Packed],
    rows: &[Weight],
    program: &Program,
    source: &dyn WeightSource,
) -> Result<Recipe, ImportError> {
    let mut made = Made { source, recipe: empty(), numbers: HashMap::new() };
    let mut stored = 0u64;
    for (packed, row) in packed.iter().zip(rows) {
        let mut keys = vec![];
        let moved = Moved::of(packed, program, &mut |key| {
            keys.push(key);
            keys.len() as u32 - 1
        });
        let making = match (moved, packed.panel()) {
            (Some(moved), Ok(panel)) => made.making(packed, moved, panel, &keys)?,
            _ => {
                let at = stored.next_multiple_of(STORED_ALIGN);
                stored = at + row.bytes;
                Making::Stored(at)
            }
        };
        made.recipe.weights.push(making);
    }
    Ok(made.recipe)
}

/// Bytes of each kind of weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// In the checkpoint, as they are wanted.
    pub mapped: u64,
    /// Packed while loading.
    pub packed: u64,
    /// In the artifact.
    pub stored: u64,
}

/// How the weights of a plan are shared out.
pub fn shares(recipe: &Recipe, rows: &[Weight]) -> Shares {
    let mut shares = Shares::default();
    for (making, row) in recipe.weights.iter().zip(rows) {
        let share = match making {
            Making::Mapped { .. } => &mut shares.mapped,
            Making::Packed(_) => &mut shares.packed,
            Making::Stored(_) => &mut shares.stored,
        };
        *share += row.bytes;
    }
    shares
}

/// Hashes the checkpoint's files, each once, and screens their tensors on the way.
///
/// Errors: [`ArtifactError::Io`].
pub fn hash(
    recipe: &mut Recipe,
    screened: &Screened<'_>,
    threads: usize,
    progress: &mut dyn Progress,
) -> Result<(), ArtifactError> {
    progress.begin("hashes", recipe.files.iter().map(|file| file.bytes).sum());
    let folder = PathBuf::from(&recipe.folder);
    let tensors = screened.files();
    let tensors: HashMap<_, _> =
        tensors.iter().filter_map(|(path, of)| Some((path.file_name()?, of))).collect();
    for file in &mut recipe.files {
        let path = folder.join(&file.name);
        let opened = regular::open(&path);
        let opened = opened.map_err(|source| {
            let path = path.clone();
            ArtifactError::Io { action: "open", path, source }
        })?;
        let look = |start: u64, bytes: &[u8]| {
            tensors.get(OsStr::new(&file.name)).into_iter().for_each(|of| of.look(start, bytes));
        };
        let hashes = file_hashes(&opened, &path, file.bytes, threads, &look)?;
        file.chunks = hashes.into_iter().map(Digest).collect();
        progress.done(file.bytes);
    }
    Ok(())
}

/// The folder of a checkpoint as the artifact `path` names it: from the folder that it lies in
/// itself. Both may be moved together, and where they are is nothing that the artifact tells.
///
/// Errors: [`ImportError::Unreadable`] for folders that cannot be looked at, or whose names are no
/// text.
pub fn folder_from(path: &Path, folder: &str) -> Result<String, ImportError> {
    let real = |path: &Path| path.canonicalize().map_err(|e| ImportError::unreadable(path, &e));
    let beside = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (from, to) = (real(beside)?, real(Path::new(folder))?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    let named: PathBuf = up.chain(to.components().skip(shared)).collect();
    match named.to_str() {
        Some("") => Ok(".".into()),
        Some(named) => Ok(named.into()),
        None => Err(no_text(&to)),
    }
}

fn no_text(path: &Path) -> ImportError {
    let why = "its path is no utf-8 text".into();
    ImportError::Unreadable { path: path.into(), why, limit: None }
}

fn empty() -> Recipe {
    Recipe {
        version: RECIPE_VERSION,
        folder: String::new(),
        chunk_bytes: CHUNK,
        files: vec![],
        tensors: vec![],
        panels: vec![],
        weights: vec![],
    }
}

/// A recipe in the making.
struct Made<'a> {
    source: &'a dyn WeightSource,
    recipe: Recipe,
    /// Numbers of the tensors so far.
    numbers: HashMap<Name, u32>,
}

impl Made<'_> {
    fn making(
        &mut self,
        packed: &Packed,
        moved: Moved,
        panel: Panel,
        keys: &[&Name],
    ) -> Result<Making, ImportError> {
        let Moved { mut codes, mut scales } = moved;
        let numbers = keys.iter().map(|k| self.tensor(k)).collect::<Result<Vec<_>, _>>()?;
        let renumber = |gather: &mut Gather| {
            let tensors = gather.pieces.iter_mut().flat_map(|piece| &mut piece.of.tensors);
            tensors.for_each(|tensor| *tensor = numbers[*tensor as usize]);
        };
        [&mut codes].into_iter().chain(&mut scales).for_each(renumber);
        let plain = panel.is_plain(codes.dims[2]) && scales.is_none();
        if let Some((tensor, at)) = codes.range().filter(|_| plain) {
            let Tensor { file, offset, .. } = self.recipe.tensors[tensor as usize];
            // Kernels want elements aligned, and no more.
            if (offset + at).is_multiple_of(codes.width.into()) {
                return Ok(Making::Mapped { file, offset: offset + at });
            }
        }
        let known = self.recipe.panels.iter().position(|p| *p == panel);
        let number = known.unwrap_or(self.recipe.panels.len()) as u32;
        if known.is_none() {
            self.recipe.panels.push(panel);
        }
        let grid = packed.layout().ok().and_then(|layout| layout.grid_byte());
        Ok(Making::Packed(recipe::Packed { panel: number, codes, scales, grid }))
    }

    /// The number of a tensor.
    fn tensor(&mut self, key: &Name) -> Result<u32, ImportError> {
        if let Some(number) = self.numbers.get(key) {
            return Ok(*number);
        }
        let Some(Location { path, offset, bytes }) = self.source.location(key) else {
            let (key, expected) = (key.to_string(), "a tensor in a file".to_string());
            return Err(ImportError::MissingTensor { key, expected });
        };
        let file = self.file(path)?;
        let number = self.recipe.tensors.len() as u32;
        self.recipe.tensors.push(Tensor { file, offset, bytes });
        self.numbers.insert(key.clone(), number);
        Ok(number)
    }

    /// The number of a file. All lie in one folder.
    fn file(&mut self, path: &Path) -> Result<u32, ImportError> {
        let no_text = || no_text(path);
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_text)?;
        if let Some(known) = self.recipe.files.iter().position(|file| file.name == name) {
            return Ok(known as u32);
        }
        if self.recipe.folder.is_empty() {
            let folder =
                std::path::absolute(path).map_err(|e| ImportError::unreadable(path, &e))?;
            let folder = folder.parent().and_then(Path::to_str).ok_or_else(no_text)?;
            self.recipe.folder = folder.into();
        }
        let bytes = std::fs::metadata(path).map_err(|e| ImportError::unreadable(path, &e))?.len();
        self.recipe.files.push(CheckpointFile { name: name.into(), bytes, chunks: vec![] });
        Ok(self.recipe.files.len() as u32 - 1)
    }
}
