//! JSON files of bounded size, in which no key stands twice.

use crate::error::ImportError;
use artifact::regular;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

/// Reads a file of at most `limit` bytes whole.
///
/// # Errors
/// [`ImportError::Unreadable`], or [`ImportError::NotACheckpoint`] where it is larger.
pub fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, ImportError> {
    let unreadable = |e: std::io::Error| ImportError::unreadable(path, &e);
    let file = regular::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(ImportError::NotACheckpoint {
            path: path.into(),
            found: format!("more than {limit} bytes"),
            expected: "a smaller file".into(),
        });
    }
    Ok(bytes)
}

/// Parses `bytes`, which came from `path`.
///
/// # Errors
/// [`ImportError::Json`].
pub fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|e| json_error(path, &e))
}

fn json_error(path: &Path, e: &serde_json::Error) -> ImportError {
    ImportError::Json { path: path.into(), why: e.to_string() }
}

/// Entries of an object in the file's order, repeated keys included.
pub struct Entries<T>(pub Vec<(String, T)>);

impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData)).map(Entries)
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: serde::Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Vec<(String, T)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Keyed::<T>(&key, PhantomData))?;
            entries.push((key, value));
        }
        Ok(entries)
    }
}

/// Reads a value, and names its key where that fails.
struct Keyed<'k, T>(&'k str, PhantomData<T>);

impl<'de, T: serde::Deserialize<'de>> DeserializeSeed<'de> for Keyed<'_, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        use serde::de::Error;
        T::deserialize(deserializer).map_err(|e| D::Error::custom(format!("{}: {e}", self.0)))
    }
}

/// The first key that stands twice.
pub fn repeated<T>(entries: &[(String, T)]) -> Option<&str> {
    let mut keys: Vec<&str> = entries.iter().map(|(k, _)| k.as_str()).collect();
    keys.sort_unstable();
    keys.windows(2).find(|w| w[0] == w[1]).map(|w| w[0])
}
