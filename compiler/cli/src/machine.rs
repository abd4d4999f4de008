//! What this machine still has: memory and disk.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of memory that can be had without swapping: what the system has available, and what the
/// process' control groups allow, whichever is less. `None` where neither says.
pub fn available_memory() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let system = read(Path::new("/proc/meminfo")).and_then(|t| meminfo_available(&t));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let allowed = folders(&groups).into_iter().filter_map(|f| group_available(&f, &read)).min();
    [system, allowed].into_iter().flatten().min()
}

/// Bytes of memory that this machine has.
pub fn total_memory() -> Option<u64> {
    meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

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

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn meminfo_available(text: &str) -> Option<u64> {
    meminfo(text, "MemAvailable:")
}

/// A row of `/proc/meminfo`, in bytes.
fn meminfo(text: &str, row: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(row))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Folders of the control groups that `/proc/self/cgroup` names, each with those above it. Inside a
/// container the named folder may not be mounted; the root then is the container's own.
fn folders(groups: &str) -> Vec<PathBuf> {
    let mut all = vec![];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let root = match controllers {
            "" => PathBuf::from("/sys/fs/cgroup"),
            c if c.split(',').any(|c| c == "memory") => PathBuf::from("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        all.extend(inner.ancestors().map(|a| root.join(a)));
    }
    all
}

/// What a control group (version 2, else 1) leaves: its limit less what is used and cannot be
/// given back. `None` where it sets no limit.
fn group_available(folder: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let (limit, used, cache) = match number("memory.max") {
        Some(limit) => (limit, number("memory.current")?, "inactive_file "),
        None => {
            let limit = number("memory.limit_in_bytes")?;
            (limit, number("memory.usage_in_bytes")?, "total_inactive_file ")
        }
    };
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|l| l.strip_prefix(cache)?.trim().parse::<u64>().ok());
    Some(limit.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
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
    fn meminfo_is_read_in_bytes() {
        let text = "MemTotal:  10 kB\nMemAvailable:    3 kB\n";
        assert_eq!(meminfo_available(text), Some(3072));
        assert_eq!(meminfo_available("MemTotal: 10 kB\n"), None);
        assert_eq!(meminfo_available("MemAvailable: 99999999999999999999 kB"), None);
    }

    #[test]
    fn control_groups_are_looked_up_to_the_root() {
        let found = folders("0::/user.slice/app\n4:cpu,memory:/box\n2:cpu:/other\nnonsense\n");
        let expected = [
            "/sys/fs/cgroup/user.slice/app",
            "/sys/fs/cgroup/user.slice",
            "/sys/fs/cgroup/",
            "/sys/fs/cgroup/memory/box",
            "/sys/fs/cgroup/memory/",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn a_group_leaves_its_limit_less_what_is_used() {
        let files = |list: &'static [(&'static str, &'static str)]| {
            move |path: &Path| {
                let name = path.file_name()?.to_str()?;
                list.iter().find(|f| f.0 == name).map(|f| f.1.to_string())
            }
        };
        let available = |list| group_available(Path::new("/g"), &files(list));
        let two = [("memory.max", "1000\n"), ("memory.current", "700\n")];
        assert_eq!(available(Box::leak(Box::new(two))), Some(300));
        const CACHED: &[(&str, &str)] = &[
            ("memory.max", "1000"),
            ("memory.current", "700"),
            ("memory.stat", "anon 1\ninactive_file 600\n"),
        ];
        assert_eq!(available(CACHED), Some(900));
        assert_eq!(available(&[("memory.max", "max"), ("memory.current", "700")]), None);
        const ONE: &[(&str, &str)] =
            &[("memory.limit_in_bytes", "50"), ("memory.usage_in_bytes", "70")];
        assert_eq!(available(ONE), Some(0));
    }

    #[test]
    fn this_machine_answers() {
        let folder = std::env::temp_dir();
        assert!(free_disk(&folder).is_some() && is_writable(&folder));
        assert!(free_disk(Path::new("/nowhere")).is_none() && !is_writable(Path::new("/nowhere")));
        if cfg!(target_os = "linux") {
            assert!(available_memory().is_some_and(|bytes| bytes > 0));
        }
    }
}
