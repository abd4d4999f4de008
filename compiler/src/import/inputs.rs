//! What was read of a model's directory, by length and hash.

use artifact::format::hex;
use artifact::manifest::Input;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The SHA-256 digest of some bytes, as text.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// A file of `bytes` bytes, of which `head`, its first ones, are hashed.
pub fn input(path: &Path, bytes: u64, head: &[u8]) -> Input {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Input { name, bytes, hashed_bytes: head.len() as u64, sha256: sha256(head) }
}

/// A file that was read whole.
pub fn whole(path: &Path, bytes: &[u8]) -> Input {
    input(path, bytes.len() as u64, bytes)
}
