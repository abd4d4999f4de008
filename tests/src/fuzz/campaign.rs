//! Many executions of a parser, each watched for panics, time and memory.

use super::mutate::{LONGEST, Mutator};
use super::shrink::shrink;
use super::{Entry, Floor, Outcome, memory};
use memmap2::MmapMut;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most processor time of one execution, unless less is asked for.
const TIME: Duration = Duration::from_secs(5);
/// Time on the wall after which an execution hangs.
const HANG: Duration = Duration::from_secs(120);
/// Memory of one execution, in bytes.
const MEMORY: u64 = 1 << 30;
/// Inputs that are kept because they led somewhere new.
const KEPT: usize = 2000;
/// Longer inputs are not kept.
const KEPT_BYTES: usize = 1 << 14;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A panic, and where.
    Panic {
        /// File and line.
        place: String,
        /// Its message.
        said: String,
    },
    /// More time than an execution may take.
    Time(Duration),
    /// More memory than a parser may take.
    Memory(u64),
}

impl Fault {
    /// Whether two inputs fail for the same reason.
    fn is_like(&self, other: &Fault) -> bool {
        match (self, other) {
            (Fault::Panic { place: a, .. }, Fault::Panic { place: b, .. }) => a == b,
            (Fault::Time(_), Fault::Time(_)) | (Fault::Memory(_), Fault::Memory(_)) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Panic { place, said } => write!(f, "panics at {place}: {said}"),
            Fault::Time(time) => write!(f, "takes {:.1} s", time.as_secs_f64()),
            Fault::Memory(bytes) => write!(f, "holds {} MiB", bytes >> 20),
        }
    }
}

/// What executions reached.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many.
    pub executions: u64,
    /// Inputs that were taken.
    pub taken: u64,
    /// Codes of diagnostics.
    pub codes: BTreeSet<&'static str>,
    /// Diagnostics, their names and numbers aside.
    diagnostics: HashSet<u64>,
    /// Time on the wall.
    pub seconds: f64,
    /// The longest execution.
    pub slowest: Duration,
    /// The most memory of one, in bytes.
    pub largest: u64,
}

impl Report {
    /// What of a floor is not reached.
    pub fn below(&self, floor: Floor) -> Option<String> {
        let reached = Floor {
            taken: self.taken,
            codes: self.codes.len(),
            diagnostics: self.diagnostics.len(),
        };
        let enough = reached.taken >= floor.taken
            && reached.codes >= floor.codes
            && reached.diagnostics >= floor.diagnostics;
        (!enough).then(|| format!("reached {reached:?}, expected {floor:?}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.executions as f64 / self.seconds.max(1e-9);
        write!(
            f,
            "{:>9} executions, {:>7.1} s, {rate:>8.0}/s, {:>8} taken, {:>2} codes, \
             {:>4} diagnostics, longest {:>7.1} ms, most {:>6.1} MiB",
            self.executions,
            self.seconds,
            self.taken,
            self.codes.len(),
            self.diagnostics.len(),
            self.slowest.as_secs_f64() * 1e3,
            self.largest as f64 / f64::from(1 << 20)
        )
    }
}

/// A parser's executions, one after the other.
pub struct Campaign<'a> {
    entry: &'a Entry,
    folder: PathBuf,
    hand: RefCell<Hand>,
    steps: AtomicU64,
    time: Duration,
}

impl<'a> Campaign<'a> {
    /// Inputs that fail are saved in `folder`.
    pub fn new(entry: &'a Entry, folder: &Path) -> Campaign<'a> {
        listen();
        std::fs::create_dir_all(folder).expect("a folder for inputs");
        let hand = RefCell::new(Hand::new(folder, entry.name));
        Campaign { entry, folder: folder.into(), hand, steps: AtomicU64::new(0), time: TIME }
    }

    /// Grants an execution so much processor time.
    pub fn within(self, time: Duration) -> Campaign<'a> {
        Campaign { time, ..self }
    }

    /// Executes a saved input, or one of the corpus.
    ///
    /// # Errors
    /// What is wrong.
    pub fn replay(&self, input: &[u8]) -> Result<Outcome, Fault> {
        self.watched(|| self.execute(input, &mut Report::default()))
    }

    /// Executes mutated inputs.
    ///
    /// # Errors
    /// Everything that is wrong, and where the shortest input is that shows it.
    pub fn run(&self, executions: u64, seed: u64) -> Result<Report, String> {
        self.watched(|| self.mutations(executions, seed))
    }

    fn mutations(&self, executions: u64, seed: u64) -> Result<Report, String> {
        let seeds = (self.entry.corpus)();
        let mut mutator = Mutator::new(seed, self.entry.form, &seeds);
        let (mut kept, mut report, begin) = (vec![], Report::default(), Instant::now());
        let (mut faults, mut told): (Vec<Fault>, Vec<String>) = (vec![], vec![]);
        for _ in 0..executions {
            let pool = if mutator.below(2) == 0 && !kept.is_empty() { &kept } else { &seeds };
            let input = mutator.make(pool);
            let known = report.diagnostics.len();
            let outcome = match self.execute(&input, &mut report) {
                Ok(outcome) => outcome,
                Err(fault) if faults.iter().any(|known| known.is_like(&fault)) => continue,
                Err(fault) => {
                    told.push(self.failed(&input, &fault, report.executions));
                    faults.push(fault);
                    continue;
                }
            };
            let new = match outcome {
                Ok(()) => mutator.below(8) == 0,
                Err(_) => report.diagnostics.len() > known,
            };
            if new && input.len() <= KEPT_BYTES {
                match kept.len() < KEPT {
                    true => kept.push(input),
                    false => kept[mutator.below(KEPT)] = input,
                }
            }
        }
        report.seconds = begin.elapsed().as_secs_f64();
        if told.is_empty() { Ok(report) } else { Err(told.join("\n")) }
    }

    fn execute(&self, input: &[u8], report: &mut Report) -> Result<Outcome, Fault> {
        self.hand.borrow_mut().take(input);
        self.steps.fetch_add(1, Ordering::Relaxed);
        memory::begin();
        let before = processor_time();
        NOTED.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.entry.run)(input)));
        NOTED.set(false);
        let time = processor_time().saturating_sub(before);
        let bytes = memory::peak();
        report.executions += 1;
        report.slowest = report.slowest.max(time);
        report.largest = report.largest.max(bytes);
        let Ok(outcome) = outcome else {
            let (place, said) = LAST.with(RefCell::take);
            return Err(Fault::Panic { place, said });
        };
        match &outcome {
            Ok(()) => report.taken += 1,
            Err(refusals) => {
                report.codes.extend(refusals.iter().map(|r| r.code));
                report.diagnostics.extend(refusals.iter().map(|r| skeleton(r.code, &r.said)));
            }
        }
        match (time > self.time, bytes > MEMORY) {
            (true, _) => Err(Fault::Time(time)),
            (_, true) => Err(Fault::Memory(bytes)),
            _ => Ok(outcome),
        }
    }

    /// Shrinks and saves an input that fails; says where it is.
    fn failed(&self, input: &[u8], fault: &Fault, executions: u64) -> String {
        let fails = |shorter: &[u8]| {
            let found = self.execute(shorter, &mut Report::default()).err();
            found.is_some_and(|found| found.is_like(fault))
        };
        let short = shrink(input, &fails);
        let path = self.folder.join(format!("{}-{:016x}", self.entry.name, hash(&short)));
        std::fs::write(&path, &short).expect("the folder takes files");
        let shown: String = String::from_utf8_lossy(&short).chars().take(400).collect();
        let (name, path) = (self.entry.name, path.display());
        format!(
            "{name} {fault}\nafter {executions} executions, for {path} of {} bytes:\n{shown}",
            short.len()
        )
    }

    /// Ends the process where an execution does not come to an end: no thread can be stopped.
    fn watched<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        let (steps, done) = (&self.steps, &done);
        let path = self.hand.borrow().path.clone();
        std::thread::scope(|scope| {
            let watch = move || {
                let (mut last, mut since) = (u64::MAX, Instant::now());
                while !done.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_secs(1));
                    let now = steps.load(Ordering::Relaxed);
                    if now != last {
                        (last, since) = (now, Instant::now());
                    } else if since.elapsed() > HANG {
                        give_up(&format!("hangs: {}", path.display()));
                    }
                }
            };
            let watcher = scope.spawn(watch);
            let result = catch_unwind(AssertUnwindSafe(work));
            done.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Ends the process; the input in hand lies in its file. Allocates nothing.
pub fn give_up(why: &str) -> ! {
    for text in ["fuzz: the input in hand ", why, "\n"] {
        // SAFETY: writes bytes that are there.
        unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
    }
    std::process::abort()
}

/// The input of the present execution, in a file that outlives the process, however it ends: the
/// length in eight bytes, then the input.
struct Hand {
    path: PathBuf,
    map: MmapMut,
    /// Locked: another campaign with the file would end this one by making it shorter.
    _file: File,
}

impl Hand {
    fn new(folder: &Path, name: &str) -> Hand {
        let path = folder.join(format!("{name}-in-hand"));
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).expect("a file for the input in hand");
        assert!(file.try_lock().is_ok(), "another run of {name} is under way");
        if let Some(input) = std::fs::read(&path).ok().as_deref().and_then(left_over) {
            let saved = folder.join(format!("{name}-ended-{:016x}", hash(input)));
            std::fs::write(&saved, input).expect("the folder takes files");
            eprintln!("fuzz: a run of {name} ended in the middle of {}", saved.display());
        }
        let map = Hand::map(&file).expect("a file for the input in hand");
        Hand { path, map, _file: file }
    }

    fn map(file: &File) -> std::io::Result<MmapMut> {
        file.set_len(0)?;
        file.set_len(8 + LONGEST as u64)?;
        // SAFETY: the file is this campaign's own, as it is locked; nobody shortens it.
        unsafe { MmapMut::map_mut(file) }
    }

    fn take(&mut self, input: &[u8]) {
        let length = input.len().min(LONGEST);
        self.map[..8].copy_from_slice(&(length as u64).to_le_bytes());
        self.map[8..8 + length].copy_from_slice(&input[..length]);
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        // Nothing is in hand any more; a file that stays is only noise.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn left_over(file: &[u8]) -> Option<&[u8]> {
    let length = usize::try_from(u64::from_le_bytes(*file.first_chunk()?)).ok()?;
    file.get(8..8 + length).filter(|input| !input.is_empty())
}

fn hash(thing: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

/// A diagnostic without what comes from the input: what it expected, in lower-case words.
fn skeleton(code: &str, said: &str) -> u64 {
    let expected = said.rsplit("expected").next().unwrap_or(said);
    let words = expected.split(|c: char| !c.is_ascii_lowercase()).filter(|w| w.len() > 2);
    hash((code, words.take(6).collect::<Vec<_>>()))
}

/// Time of the processor that this thread has had.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills in a structure that is there.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

thread_local! {
    /// Place and message of this thread's last panic.
    static LAST: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
    /// Whether this thread's panics are noted and not printed.
    static NOTED: Cell<bool> = const { Cell::new(false) };
}

/// Notes panics of this thread; those of others are printed as before.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !NOTED.get() {
                return before(panic);
            }
            let place = panic.location().map_or(String::new(), ToString::to_string);
            let said = panic.payload_as_str().unwrap_or("").to_string();
            LAST.with(|last| last.replace((place, said)));
        }));
    });
}
