//! What a process holds of the machine while it goes on.

use crate::Soak;
use std::fs;

/// Growth from the second quarter to the last that is none: the allocator's own comings and goings,
/// far below what a leak of one small text for each turn of an hour would come to.
const SLACK_KIB: u64 = 2048;

/// The most of each.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    resident_kib: u64,
    mapped_kib: u64,
    files: u64,
    threads: u64,
}

impl Held {
    fn of(pid: u32) -> Held {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let field = |name: &str| {
            let mut fields = status.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let value = fields.next().expect("it runs").split_whitespace().next();
            value.unwrap().parse::<u64>().unwrap()
        };
        Held {
            resident_kib: field("VmRSS"),
            mapped_kib: field("VmSize"),
            files: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
            threads: field("Threads"),
        }
    }

    fn most(self, other: Held) -> Held {
        Held {
            resident_kib: self.resident_kib.max(other.resident_kib),
            mapped_kib: self.mapped_kib.max(other.mapped_kib),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
        }
    }
}

/// The most that a process held in each quarter of a soak.
pub struct Watch {
    pid: u32,
    quarters: [Held; 4],
}

impl Watch {
    pub fn new(pid: u32) -> Watch {
        Watch { pid, quarters: [Held::default(); 4] }
    }

    /// Looks at the process, at rest.
    pub fn look(&mut self, soak: &Soak) {
        let quarter = &mut self.quarters[((soak.part() * 4.0) as usize).min(3)];
        *quarter = quarter.most(Held::of(self.pid));
    }

    /// Resident memory of each quarter, for people.
    pub fn told(&self) -> String {
        let all: Vec<String> = self.quarters.iter().map(|q| q.resident_kib.to_string()).collect();
        format!("{} KiB", all.join(" "))
    }

    /// What grew.
    pub fn check(&self) {
        let [_, second, _, last] = self.quarters;
        let grown = |from: u64, to: u64, slack: u64| from > 0 && to > from + slack;
        let all = format!("{:#?}", self.quarters);
        assert!(!grown(second.resident_kib, last.resident_kib, SLACK_KIB), "memory grows: {all}");
        assert!(!grown(second.mapped_kib, last.mapped_kib, SLACK_KIB), "mappings grow: {all}");
        assert!(!grown(second.files, last.files, 0), "files are left open: {all}");
        assert!(!grown(second.threads, last.threads, 0), "threads are left: {all}");
    }
}
