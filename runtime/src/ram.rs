//! How much memory this machine has, and how much of it can still be had.

use std::path::{Path, PathBuf};

/// Bytes of memory that this process can still have: what the system has available, and what the
/// process' control groups allow, whichever is less, and swap. `None` where neither says.
pub fn available() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let meminfo = read(Path::new("/proc/meminfo")).unwrap_or_default();
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let allowed = folders(&groups).into_iter().filter_map(|f| group_available(&f, &read)).min();
    let least = [row(&meminfo, "MemAvailable:"), allowed].into_iter().flatten().min()?;
    Some(least.saturating_add(row(&meminfo, "SwapFree:").unwrap_or(0)))
}

/// Bytes of memory that this machine has.
pub fn total() -> Option<u64> {
    row(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// A row of `/proc/meminfo`, in bytes.
fn row(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_in_bytes() {
        let text = "MemTotal:  10 kB\nMemAvailable:    3 kB\n";
        assert_eq!(row(text, "MemAvailable:"), Some(3072));
        assert_eq!(row("MemTotal: 10 kB\n", "MemAvailable:"), None);
        assert_eq!(row("MemAvailable: 99999999999999999999 kB", "MemAvailable:"), None);
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
        if cfg!(target_os = "linux") {
            assert!(available().is_some_and(|bytes| bytes > 0));
            assert!(total().is_some_and(|bytes| bytes > 0));
        }
    }
}
