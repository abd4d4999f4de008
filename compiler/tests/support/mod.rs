//! Where the models and configs of the tests lie.

use std::path::{Path, PathBuf};

/// A path inside the repository.
pub fn at(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("the crate lies in the repository").join(path)
}
