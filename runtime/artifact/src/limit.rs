//! Limits of the machine, among the errors of the system.

use std::io::{self, ErrorKind};

/// What there is not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Space on the disk, or what a quota or a limit leaves of it.
    Disk,
    /// Memory.
    Memory,
    /// Files that may be open.
    Files,
}

impl Limit {
    /// The limit that an error tells of; `None` for any other error.
    pub fn of(error: &io::Error) -> Option<Limit> {
        // Too many open files have no kind of their own.
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
            return Some(Limit::Files);
        }
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Some(Limit::Disk)
            }
            ErrorKind::OutOfMemory => Some(Limit::Memory),
            _ => None,
        }
    }

    fn help(self) -> &'static str {
        match self {
            Limit::Disk => "make room on the disk, or raise the limit on files (`ulimit -f`)",
            Limit::Memory => "end other programs, or raise the limit on memory (`ulimit -v`)",
            Limit::Files => "raise the limit on open files (`ulimit -n`)",
        }
    }
}

/// What to do next about a file that the system refuses, for want of something or not.
pub fn help(limit: Option<Limit>) -> &'static str {
    limit.map_or("check the path and its permissions", Limit::help)
}
