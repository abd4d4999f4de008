//! Where results go: checked before work starts, whole or not there at all.

use crate::diagnostic::Failure;
use crate::machine;
use artifact::unfinished;
use generate::command::interrupt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A place for a result.
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The folder it comes to lie in.
    pub folder: PathBuf,
}

impl Place {
    /// Checks that a file can come to lie there: a folder that is there and writable, and in it
    /// nothing of this name, or a file.
    pub fn check(path: &Path) -> Result<Place, Failure> {
        let bad = |message: String, help: &str| Err(Failure::usage(message, help));
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        if path.file_name().is_none() {
            let message = format!("found the path {}, expected the name of a file", path.display());
            return bad(message, "add a file's name");
        }
        if !folder.is_dir() {
            let message = format!("found no folder {}, expected it to be there", folder.display());
            return bad(message, "make the folder first, or write to another");
        }
        if let Ok(there) = std::fs::metadata(path)
            && !there.is_file()
        {
            let what = if there.is_dir() { "a folder" } else { "a device" };
            let message = format!("{} is {what}, expected a file's name", path.display());
            return bad(message, "write to another name");
        }
        if !machine::is_writable(&folder) {
            let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            return Err(Failure::io("write to", &folder, &denied));
        }
        Ok(Place { path: path.to_path_buf(), folder })
    }
}

/// Writes a text or other bytes: to standard output, to a device or pipe as it is, else under
/// another name first.
pub fn write(path: Option<&Path>, bytes: &[u8]) -> Result<(), Failure> {
    let Some(path) = path else {
        return match std::io::stdout().write_all(bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Failure::io("write", Path::new("standard output"), &e)),
        };
    };
    let failed = |e: std::io::Error| Failure::io("write", path, &e);
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return std::fs::write(path, bytes).map_err(failed);
    }
    Place::check(path)?;
    interrupt::tidy_up_at_end(path)?;
    let temporary = unfinished::name(path, 0);
    let written = File::create(&temporary).and_then(|mut file| {
        unfinished::hold(&file);
        file.write_all(bytes)
    });
    let done = written.and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        failed(e)
    })
}

/// Says something on standard error; what cannot be written there is lost.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Name of the executable that a model is appended to.
pub const STUB: &str = "latent-run";

/// The executable that a model is appended to: the one given, or that beside `latentc`.
pub fn read_stub(given: Option<&Path>) -> Result<Vec<u8>, Failure> {
    const HELP: &str = "name it with --stub (`./x setup` builds one), or use --emit artifact";
    let beside = runtime::model::own_path().map(|exe| exe.with_file_name(STUB));
    let path = given.map(Path::to_path_buf).or(beside).unwrap_or_else(|| STUB.into());
    let bytes = std::fs::read(&path).map_err(|e| {
        Failure::usage(format!("cannot read the runtime {}: {e}", path.display()), HELP)
    })?;
    if !bytes.starts_with(b"\x7fELF") {
        let message = format!("{} is no ELF executable, expected the runtime", path.display());
        return Err(Failure::usage(message, HELP));
    }
    Ok(bytes)
}
