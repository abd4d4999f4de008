//! Files that are all there: what is mapped or hashed.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a regular file for reading. A pipe would keep whoever opens it waiting, a device has no
/// end: both are refused at once, as folders are.
///
/// # Errors
/// As [`File::open`]; [`ErrorKind::IsADirectory`], and [`ErrorKind::InvalidInput`] for what else is
/// no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.file_type() {
        of if of.is_file() => Ok(file),
        of if of.is_dir() => Err(ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file")),
    }
}
