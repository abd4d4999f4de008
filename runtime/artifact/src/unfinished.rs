//! Names of files that this process has begun to write: hidden, beside the files that they become.
//! A process that was killed leaves such a file behind; the next that writes there removes it.

use crate::writer::{statement_path, weights_path};
use std::ffi::OsStr;
use std::fs::{DirEntry, File};
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

/// Holds a file that was just begun, so that no other process takes it for abandoned. A system that
/// has no locks has none that would be asked for.
pub fn hold(file: &File) {
    let _ = file.try_lock();
}

/// The file `path`, and what is written beside it where that is an artifact.
fn together(path: &Path) -> [PathBuf; 3] {
    [path.to_path_buf(), weights_path(path), statement_path(path)]
}

/// Removes what this process has begun to write towards the file `path`, and towards the weights
/// and the statement of an artifact of that name. Nobody is left to be told what cannot be removed.
pub fn remove(path: &Path) {
    let begins = together(path).map(|path| prefix(&path));
    let is_ours = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.ends_with(SUFFIX) && begins.iter().any(|begin| name.starts_with(begin))
    };
    for entry in beside(path).filter(|entry| is_ours(&entry.file_name())) {
        let _ = std::fs::remove_file(entry.path());
    }
}

/// Removes what processes that are gone had begun to write towards the file `path`, and towards
/// the weights and the statement of an artifact of that name. What cannot be removed is no
/// obstacle.
pub fn remove_abandoned(path: &Path) {
    let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let names = together(path).map(name);
    let writer = |entry: &DirEntry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        names.iter().find_map(|name| writer_of(&file, name))
    };
    for entry in beside(path).filter(|entry| writer(entry).is_some_and(is_gone)) {
        // Processes of another machine or container are not seen; those that write hold a lock.
        if File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The process that began to write `file` towards `name`; `None` for a file of another kind.
fn writer_of(file: &str, name: &str) -> Option<u32> {
    let inner = file.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.')?;
    let (process, _) = inner.strip_suffix(SUFFIX)?.split_once('-')?;
    process.parse().ok()
}

/// Whether a process is known not to run here.
fn is_gone(process: u32) -> bool {
    let processes = Path::new("/proc");
    processes.join("self").exists() && !processes.join(process.to_string()).exists()
}

/// What lies in the folder of `path`.
fn beside(path: &Path) -> impl Iterator<Item = DirEntry> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_who_wrote() {
        let ours = name(Path::new("/x/out"), 3);
        let ours = ours.file_name().unwrap_or_default().to_string_lossy();
        assert_eq!(writer_of(&ours, "out"), Some(std::process::id()));
        for other in [".out.12.tmp", "out.12-0.tmp", ".out.x-0.tmp", ".outer.12-0.tmp", ".out.12-0"]
        {
            assert_eq!(writer_of(other, "out"), None, "{other}");
        }
        assert!(!is_gone(std::process::id()) && is_gone(u32::MAX));
    }
}
