//! What a compilation and its result will need, told before work starts.

use crate::diagnostic::Failure;
use crate::{machine, output};
use artifact::Recipe;
use artifact::format::CHUNK;
use artifact::recipe::{CheckpointFile, Making};
use artifact::size::SizeExpr;
use compiler::compile::weights_bytes;
use compiler::lower::Lowered;
use compiler::lower::plan::SYMBOLS;
use compiler::pack::BATCH_BYTES;
use compiler::pack::recipe::{Shares, shares};
use runtime::ram;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes per second at which weights are packed, hashed and written; about a disk's speed.
const PACK_BYTES_PER_S: f64 = 3e8;
/// Bytes of code of a kernel for one level, a cautious guess.
const KERNEL_BYTES: u64 = 8192;
/// Bytes that files count their disk space in.
const BLOCK: u64 = 512;
/// Bytes of a row of a recipe's tables, a cautious guess.
const RECIPE_ROW_BYTES: u64 = 256;
/// Memory of the compiler itself: its own code and LLVM's, graphs, kernels, the plan.
const COMPILER_BYTES: u64 = 160 << 20;
/// Memory of a packing thread: the rows of one panel before they are put in order.
const THREAD_BYTES: u64 = 4 << 20;
/// Rows of the step whose arena is told.
const ROWS: i64 = 512;

/// How the work is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Pairs of a target and a level that kernels are compiled for.
    pub levels: usize,
    /// Seconds for each kernel, summed over these pairs.
    pub kernel_s: f64,
    /// Bytes of the executable in front.
    pub stub_bytes: u64,
    /// Bytes of the tokenizer and the like.
    pub companion_bytes: u64,
    /// Threads that pack.
    pub threads: usize,
    /// Bytes that are read once more, to be hashed for a statement.
    pub attested_bytes: u64,
    /// Weights that stay in the checkpoint, if they do.
    pub stay: Option<Stay>,
}

/// Weights that stay in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stay {
    /// What becomes of them.
    pub shares: Shares,
    /// Bytes that are hashed: what the checkpoint's files have on disk, holes left out.
    pub hashed_bytes: u64,
    /// Bytes of the recipe, at most.
    pub recipe_bytes: u64,
}

impl Stay {
    /// By a recipe.
    pub fn new(recipe: &Recipe, lowered: &Lowered) -> Stay {
        let on_disk = |file: &CheckpointFile| {
            let path = Path::new(&recipe.folder).join(&file.name);
            std::fs::metadata(path).map_or(file.bytes, |of| file.bytes.min(of.blocks() * BLOCK))
        };
        let pieces = recipe.weights.iter().flat_map(|making| match making {
            Making::Packed(packed) => &packed.codes.pieces[..],
            Making::Mapped { .. } | Making::Stored(_) => &[],
        });
        let chunks: u64 = recipe.files.iter().map(|file| file.bytes.div_ceil(CHUNK)).sum();
        let rows = chunks + (recipe.tensors.len() + recipe.weights.len() + pieces.count()) as u64;
        Stay {
            shares: shares(recipe, &lowered.plan.weights),
            hashed_bytes: recipe.files.iter().map(on_disk).sum(),
            recipe_bytes: rows * RECIPE_ROW_BYTES,
        }
    }

    /// Prints it to standard error.
    pub fn show(&self, folder: &str) {
        let Shares { mapped, packed, stored } = self.shares;
        output::note(&format!(
            "weights stay in {folder}: {} mapped, {} packed into memory at each start; {} had to be \
             computed and are in the result",
            human(mapped),
            human(packed),
            human(stored)
        ));
    }
}

/// Needs of a compilation and its result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Bytes of the result.
    pub disk_bytes: u64,
    /// Bytes of memory that compiling takes. The checkpoint is mapped: its pages can be given
    /// back at any time and do not count.
    pub memory_bytes: u64,
    /// Seconds that compiling takes.
    pub seconds: f64,
    /// Bytes of the packed weights.
    pub weights_bytes: u64,
    /// Bytes of state per token.
    pub kv_bytes_per_token: u64,
    /// Bytes of a step's arena at 512 rows of one sequence.
    pub arena_bytes: u64,
}

impl Forecast {
    /// Of lowered kernels.
    pub fn new(lowered: &Lowered, work: &Work) -> Forecast {
        let weights = weights_bytes(lowered);
        let kernels = lowered.kernels.len();
        let code = (kernels * work.levels) as u64 * KERNEL_BYTES;
        let per_token = |s: &artifact::plan::State| s.bytes_per_token * u64::from(s.layers);
        let page = lowered.plan.states.first().map_or(1, |s| i64::from(s.page_tokens));
        let value = |symbol: &&str| match *symbol {
            "n" | "t" => ROWS,
            "mp" | "pg" => (ROWS + page - 1) / page,
            _ => 1,
        };
        let values: Vec<i64> = SYMBOLS.iter().map(value).collect();
        let arena = |e: &SizeExpr| e.eval(&values).unwrap_or(0) as u64;
        // Memory is asked for by the bucket that serves a step, not by the others.
        let entries = lowered.plan.entries.iter();
        let serving = entries.filter_map(|e| e.buckets.iter().find(|b| b.covers(&values)));
        // A batch of panels is made while the one before is copied out; objects are held beside
        // the images made of them.
        let computed = lowered.packed.iter().map(|p| p.from.held_bytes()).max().unwrap_or(0);
        let packing = 2 * BATCH_BYTES as u64 + work.threads as u64 * THREAD_BYTES + computed;
        // What stays is hashed, not written; hashing holds a chunk for each thread.
        let (written, hashed, recipe, hashing) = match &work.stay {
            None => (weights, 0, 0, 0),
            Some(s) => {
                let chunks = work.threads as u64 * CHUNK;
                (s.shares.stored, s.hashed_bytes, s.recipe_bytes, chunks + 4 * s.recipe_bytes)
            }
        };
        let moved = (written + hashed + work.attested_bytes) as f64;
        let held = 2 * code + work.stub_bytes + work.companion_bytes + hashing;
        Forecast {
            disk_bytes: written + recipe + code + work.stub_bytes + work.companion_bytes,
            memory_bytes: COMPILER_BYTES + packing + held,
            seconds: moved / PACK_BYTES_PER_S + work.kernel_s * kernels as f64,
            weights_bytes: weights,
            kv_bytes_per_token: lowered.plan.states.iter().map(per_token).sum(),
            arena_bytes: serving.flat_map(|b| &b.arenas).map(arena).max().unwrap_or(0),
        }
    }

    /// Prints it to standard error.
    pub fn show(&self) {
        output::note(&format!(
            "needs: {} of disk, about {} of memory, about {:.0} s",
            human(self.disk_bytes),
            human(self.memory_bytes),
            self.seconds.ceil()
        ));
        output::note(&format!(
            "result: {} of weights, {} of KV cache per token, {} of arena at {ROWS} rows",
            human(self.weights_bytes),
            human(self.kv_bytes_per_token),
            human(self.arena_bytes)
        ));
    }

    /// Stops where this machine has less than is needed.
    pub fn check(&self, folder: &Path) -> Result<(), Failure> {
        self.check_against(folder, machine::free_disk(folder), ram::available())
    }

    fn check_against(
        &self,
        folder: &Path,
        disk: Option<u64>,
        memory: Option<u64>,
    ) -> Result<(), Failure> {
        let mut lacking = vec![];
        if let Some(free) = disk.filter(|d| *d < self.disk_bytes) {
            let (free, needed) = (human(free), human(self.disk_bytes));
            let message = format!("{} has {free} free, expected {needed}", folder.display());
            let help = "free some room, or write to another disk with -o";
            lacking.push(Failure::limit(message, help));
        }
        if let Some(free) = memory.filter(|m| *m < self.memory_bytes) {
            let (free, needed) = (human(free), human(self.memory_bytes));
            let message = format!("found {free} of memory available, expected {needed}");
            let help = "end other programs, raise the container's limit, or use fewer --threads";
            lacking.push(Failure::limit(message, help));
        }
        Failure::all(lacking)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_a_limit() {
        let forecast = Forecast {
            disk_bytes: 100,
            memory_bytes: 50,
            seconds: 0.0,
            weights_bytes: 0,
            kv_bytes_per_token: 0,
            arena_bytes: 0,
        };
        let check = |disk, memory| forecast.check_against(Path::new("/d"), disk, memory);
        assert!(check(Some(100), Some(50)).is_ok());
        assert!(check(None, None).is_ok());
        for (disk, memory, lines) in [(99, 50, 1), (100, 49, 1), (0, 0, 2)] {
            let failure = check(Some(disk), Some(memory)).expect_err("less than needed");
            assert_eq!(failure.exit(), 3);
            assert_eq!(failure.codes(), vec!["E0293"; lines]);
        }
    }

    #[test]
    fn sizes_have_three_digits_at_most_before_the_point() {
        let shown = [0, 999, 1000, 1_449_999, 4_500_000_000].map(human);
        assert_eq!(shown, ["0 bytes", "999 bytes", "1.0 KB", "1.4 MB", "4.5 GB"]);
    }
}
