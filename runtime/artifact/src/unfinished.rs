//! Names of files that this process has begun to write: hidden, beside the files that they become.

use crate::writer::weights_path;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the names end in.
pub const SUFFIX: &str = ".tmp";

/// How the names begin of files that become `path`.
pub fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.{}-", std::process::id())
}

/// A name for a file that becomes `path`; another one for each `attempt`.
pub fn name(path: &Path, attempt: u32) -> PathBuf {
    path.with_file_name(format!("{}{attempt}{SUFFIX}", prefix(path)))
}

/// Removes what this process has begun to write towards the file `path`, and towards the weights
/// of an artifact of that name. Nobody is left to be told what cannot be removed.
pub fn remove(path: &Path) {
    let begins = [prefix(path), prefix(&weights_path(path))];
    let is_ours = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.ends_with(SUFFIX) && begins.iter().any(|begin| name.starts_with(begin))
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_ours(&entry.file_name()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
