//! A Hugging Face checkpoint directory, mapped into memory.

use super::inputs;
use super::json::{self, Entries};
use super::shard::{Shard, Slot};
use super::source::{Location, TensorInfo, WeightSource};
use crate::error::{ImportError, ImportErrors};
use artifact::manifest::Input;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The model's description.
pub const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Files that travel with a model and are kept as they are.
const COMPANIONS: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];
/// More than any description or tokenizer has.
const MAX_JSON_BYTES: u64 = 1 << 28;

/// An optional file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Its name in the directory.
    pub name: &'static str,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// The optional files that `dir` has.
///
/// # Errors
/// [`ImportError::Unreadable`] for one that is there and cannot be read.
pub fn companions(dir: &Path) -> Result<Vec<Companion>, ImportError> {
    let present = COMPANIONS.into_iter().filter(|name| dir.join(name).exists());
    present.map(|name| Ok(Companion { name, bytes: read_json(&dir.join(name))? })).collect()
}

/// Reads a file of a checkpoint that is small by nature.
///
/// # Errors
/// [`ImportError::Unreadable`], or [`ImportError::NotACheckpoint`] where it is huge.
pub fn read_json(path: &Path) -> Result<Vec<u8>, ImportError> {
    json::read_file(path, MAX_JSON_BYTES)
}

/// Tensors of one or many safetensors files. Only headers are read; payload is mapped.
pub struct Checkpoint {
    /// The index, where there is one.
    index: Option<Input>,
    shards: Vec<Shard>,
    /// Name to shard and slot.
    tensors: BTreeMap<String, (usize, Slot)>,
    /// Names that a shard holds and the index leaves out: they are not loaded.
    unlisted: Vec<String>,
}

impl Checkpoint {
    /// Opens the weights in `dir`: `model.safetensors`, or shards with an index.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn open(dir: &Path) -> Result<Checkpoint, ImportErrors> {
        if dir.join(SINGLE).exists() {
            return Checkpoint::single(&dir.join(SINGLE));
        }
        let index = dir.join(INDEX);
        if !index.exists() {
            return Err(ImportErrors::from(ImportError::NotACheckpoint {
                path: dir.into(),
                found: "no weights".into(),
                expected: format!("{SINGLE} or {INDEX}"),
            }));
        }
        Checkpoint::sharded(dir, &index)
    }

    /// Names that a shard holds and the index leaves out.
    pub fn unlisted(&self) -> &[String] {
        &self.unlisted
    }

    /// The index and the files with tensors, these by their headers.
    pub fn inputs(&self) -> impl Iterator<Item = Input> + '_ {
        self.index.iter().cloned().chain(self.shards.iter().map(Shard::input))
    }

    fn single(path: &Path) -> Result<Checkpoint, ImportErrors> {
        let (shard, slots) = Shard::open(path)?;
        let tensors = slots.into_iter().map(|(key, slot)| (key, (0, slot))).collect();
        Ok(Checkpoint { index: None, shards: vec![shard], tensors, unlisted: vec![] })
    }

    fn sharded(dir: &Path, index: &Path) -> Result<Checkpoint, ImportErrors> {
        let bytes = read_json(index)?;
        let files = read_index(dir, index, &bytes)?;
        let index = Some(inputs::whole(index, &bytes));
        let (tensors, unlisted) = (BTreeMap::new(), vec![]);
        let mut checkpoint = Checkpoint { index, shards: vec![], tensors, unlisted };
        let mut errors = vec![];
        for (path, keys) in files {
            if !path.exists() {
                errors.push(ImportError::MissingShard { path, tensors: keys.len() });
                continue;
            }
            match Shard::open(&path) {
                Ok((shard, slots)) => checkpoint.add(shard, slots, keys, &mut errors),
                Err(e) => errors.push(e),
            }
        }
        ImportErrors(errors).into_result().map(|()| checkpoint)
    }

    fn add(
        &mut self,
        shard: Shard,
        slots: Vec<(String, Slot)>,
        mut expected: BTreeSet<String>,
        errors: &mut Vec<ImportError>,
    ) {
        for (key, slot) in slots {
            if expected.remove(&key) {
                self.tensors.insert(key, (self.shards.len(), slot));
            } else {
                self.unlisted.push(key);
            }
        }
        let path = shard.path().to_path_buf();
        errors.extend(
            expected.into_iter().map(|key| ImportError::NotInShard { path: path.clone(), key }),
        );
        self.shards.push(shard);
    }

    fn slot(&self, key: &str) -> Option<(&Shard, &Slot)> {
        self.tensors.get(key).map(|(shard, slot)| (&self.shards[*shard], slot))
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Entries<String>,
}

/// Every shard in `dir` that an index names, with the tensors it places there; `bytes` came from
/// `path`.
///
/// # Errors
/// [`ImportError::Json`], [`ImportError::Duplicate`], [`ImportError::Entry`].
pub fn read_index(
    dir: &Path,
    path: &Path,
    bytes: &[u8],
) -> Result<BTreeMap<PathBuf, BTreeSet<String>>, ImportError> {
    let Index { weight_map: Entries(entries) } = json::parse(path, bytes)?;
    if let Some(key) = json::repeated(&entries) {
        return Err(ImportError::Duplicate { path: path.into(), key: key.into() });
    }
    let mut files: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for (key, file) in entries {
        // A name alone: an index has no business outside its directory.
        if Path::new(&file).file_name() != Some(file.as_ref()) {
            return Err(ImportError::Entry {
                path: path.into(),
                key,
                found: format!("shard {file:?}"),
                expected: "the name of a file beside the index".into(),
            });
        }
        files.entry(dir.join(file)).or_default().insert(key);
    }
    Ok(files)
}

impl WeightSource for Checkpoint {
    fn tensor(&self, key: &str) -> Option<TensorInfo> {
        self.slot(key).map(|(_, slot)| slot.info.clone())
    }

    fn keys(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        let bytes = self.mapped(key).ok_or_else(|| ImportError::MissingTensor {
            key: key.into(),
            expected: "a tensor of this checkpoint".into(),
        })?;
        let range =
            usize::try_from(at).ok().and_then(|start| Some(start..start.checked_add(out.len())?));
        let part = range.and_then(|r| bytes.get(r)).ok_or_else(|| ImportError::Range {
            key: key.into(),
            start: at,
            end: at.saturating_add(out.len() as u64),
            len: bytes.len() as u64,
        })?;
        out.copy_from_slice(part);
        Ok(())
    }

    fn mapped(&self, key: &str) -> Option<&[u8]> {
        self.slot(key).map(|(shard, slot)| shard.slice(slot))
    }

    fn files(&self) -> Vec<(&Path, &[u8])> {
        self.shards.iter().map(|shard| (shard.path(), shard.bytes())).collect()
    }

    fn location(&self, key: &str) -> Option<Location<'_>> {
        let (shard, slot) = self.slot(key)?;
        Some(Location { path: shard.path(), offset: slot.offset, bytes: slot.bytes })
    }
}
