//! What a compilation and its result will need, told before work starts.

use crate::diagnostic::Failure;
use artifact::size::SizeExpr;
use compiler::compile::weights_bytes;
use compiler::lower::Lowered;
use compiler::lower::plan::SYMBOLS;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes per second at which weights are packed and written, a cautious guess.
const PACK_BYTES_PER_S: f64 = 4e8;
/// Seconds to compile a kernel for one level, a cautious guess.
const KERNEL_S: f64 = 0.1;
/// Memory of the compiler itself beside what it maps.
const COMPILER_BYTES: u64 = 1 << 30;
/// Rows of the step whose arena is told.
const ROWS: i64 = 512;

/// Needs of a compilation and its result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Bytes of the result.
    pub disk_bytes: u64,
    /// Bytes of memory that compiling takes, beside mapped files.
    pub memory_bytes: u64,
    /// Seconds that compiling takes.
    pub seconds: f64,
    /// Bytes of the packed weights.
    pub weights_bytes: u64,
    /// Bytes of state per token.
    pub kv_bytes_per_token: u64,
    /// Bytes of a step's arena at 512 rows.
    pub arena_bytes: u64,
}

impl Forecast {
    /// Of lowered kernels, to be compiled for so many levels.
    pub fn new(lowered: &Lowered, levels: usize, stub_bytes: u64) -> Forecast {
        let weights = weights_bytes(lowered);
        let code = (lowered.kernels.len() * levels * 16384) as u64;
        let per_token = |s: &artifact::plan::State| s.bytes_per_token * u64::from(s.layers);
        let values: Vec<i64> = SYMBOLS
            .iter()
            .map(|s| match *s {
                "n" | "t" => ROWS,
                _ => 1,
            })
            .collect();
        let arena = |e: &SizeExpr| e.eval(&values).unwrap_or(0) as u64;
        let buckets = lowered.plan.entries.iter().flat_map(|e| &e.buckets);
        Forecast {
            disk_bytes: weights + code + stub_bytes,
            memory_bytes: COMPILER_BYTES,
            seconds: weights as f64 / PACK_BYTES_PER_S
                + KERNEL_S * (lowered.kernels.len() * levels) as f64,
            weights_bytes: weights,
            kv_bytes_per_token: lowered.plan.states.iter().map(per_token).sum(),
            arena_bytes: buckets.flat_map(|b| &b.arenas).map(arena).max().unwrap_or(0),
        }
    }

    /// Prints it to standard error.
    pub fn show(&self) {
        eprintln!(
            "needs: {} of disk, about {} of memory, about {:.0} s",
            human(self.disk_bytes),
            human(self.memory_bytes),
            self.seconds.ceil()
        );
        eprintln!(
            "result: {} of weights, {} of KV cache per token, {} of arena at {ROWS} rows",
            human(self.weights_bytes),
            human(self.kv_bytes_per_token),
            human(self.arena_bytes)
        );
    }

    /// Stops where the folder of the result has less room than it needs.
    pub fn check(&self, output: &Path) -> Result<(), Failure> {
        let folder = match output.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let Some(free) = free_bytes(folder) else { return Ok(()) };
        if free >= self.disk_bytes {
            return Ok(());
        }
        let (folder, free, needed) = (folder.display(), human(free), human(self.disk_bytes));
        let message = format!("{folder} has {free} free, the result needs {needed}");
        Err(Failure::limit(message, "free some room, or write to another disk with -o"))
    }
}

/// Bytes that a user can still write to a folder's disk.
fn free_bytes(folder: &Path) -> Option<u64> {
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

/// A size for people: `1.4 GB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}
