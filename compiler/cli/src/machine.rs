//! What this machine has: caches, and room on its disks.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of the first core's data cache of a level. `None` where the system does not say.
pub fn cache_bytes(level: u32) -> Option<u64> {
    let folder = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    folder.flatten().find_map(|entry| {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
        let is_level = read("level")?.trim() == level.to_string();
        if !is_level || read("type")?.trim() == "Instruction" {
            return None;
        }
        read("size")?.trim().strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
    })
}

/// Bytes that a user can still write to a folder's disk.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a C string, and the struct is written before it is read.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return None;
        }
        stat.assume_init()
    };
    (stat.f_bavail as u64).checked_mul(stat.f_frsize as u64)
}

/// Whether files can be made in a folder.
pub fn is_writable(folder: &Path) -> bool {
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path is a C string.
    unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_answers() {
        let folder = std::env::temp_dir();
        assert!(free_disk(&folder).is_some() && is_writable(&folder));
        assert!(free_disk(Path::new("/nowhere")).is_none() && !is_writable(Path::new("/nowhere")));
    }
}
