//! Everything that can go wrong between opening a file and reading logits.

use artifact::ArtifactError;
use artifact::limit::{self, Limit};
use std::path::PathBuf;

/// Why a model could not be opened or a step could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The artifact was refused.
    #[error("{}: {error}", path.display())]
    Artifact {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: ArtifactError,
    },
    /// The system refused a file.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file has no code that this machine can run.
    #[error("no code for this machine: the file has {found}, the machine runs {expected}")]
    NoCode {
        /// Levels in the file.
        found: String,
        /// Levels of the machine.
        expected: String,
    },
    /// The level asked for is not in the file.
    #[error("instruction set level `{asked}` is not in the file, which has {has}")]
    Isa {
        /// The level asked for.
        asked: String,
        /// Levels in the file.
        has: String,
    },
    /// The level asked for is beyond the machine.
    #[error(
        "instruction set level `{asked}` is beyond this machine, which lacks {lacks}: the machine \
         runs {runs}"
    )]
    Lacking {
        /// The level asked for.
        asked: String,
        /// Features that the level takes.
        lacks: String,
        /// Levels of the machine.
        runs: String,
    },
    /// A code image that cannot be loaded.
    #[error("code image, {what}: found {found}, expected {expected}")]
    Image {
        /// Part of the image.
        what: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// A kernel of the plan is not in the code.
    #[error("the code section `{section}` has no kernel `{kernel}`")]
    MissingKernel {
        /// Name of the kernel.
        kernel: String,
        /// Name of the section.
        section: String,
    },
    /// The plan asks for something that this runtime does not do.
    #[error("{what} is {found}, expected {expected}")]
    Unsupported {
        /// What the plan states.
        what: String,
        /// What it asks for.
        found: String,
        /// What this runtime does.
        expected: String,
    },
    /// No memory.
    #[error("cannot have {bytes} bytes of memory for {what}: {source}")]
    OutOfMemory {
        /// What it is for.
        what: &'static str,
        /// How many bytes.
        bytes: u64,
        /// Why not.
        source: std::io::Error,
    },
    /// A thread count that cannot be.
    #[error("{found} threads, expected between 1 and {most}")]
    ThreadCount {
        /// Count asked for.
        found: usize,
        /// Most that is supported.
        most: usize,
    },
    /// A thread could not be started.
    #[error("cannot start worker thread {worker}: {source}")]
    Thread {
        /// Number of the worker.
        worker: usize,
        /// Why not.
        source: std::io::Error,
    },
    /// A worker panicked, now or earlier.
    #[error("a worker thread panicked: {message}")]
    Poisoned {
        /// What it said.
        message: String,
    },
    /// All pages are taken.
    #[error("all {capacity} pages of states are taken")]
    PagesExhausted {
        /// Number of pages.
        capacity: usize,
    },
    /// A page is returned that was not taken.
    #[error("page {page} is not taken, there are {capacity} pages")]
    PageNotTaken {
        /// The page.
        page: u32,
        /// Number of pages.
        capacity: usize,
    },
    /// More pages than slots can be numbered.
    #[error("{found} pages of states, expected between 1 and {most}")]
    PageCount {
        /// Count asked for.
        found: usize,
        /// Most that is supported.
        most: usize,
    },
    /// A step with nothing to do.
    #[error("{what} is empty, expected at least one {expected}")]
    Empty {
        /// What is empty.
        what: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A token id outside the vocabulary.
    #[error("sequence {sequence}, token {index}: id {found}, expected 0 <= id < {vocab}")]
    Token {
        /// Which sequence of the step.
        sequence: usize,
        /// Which of its new tokens.
        index: usize,
        /// The id.
        found: i32,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// Longer than the model's context.
    #[error("sequence {sequence} would have {found} tokens, the model's context is {limit}")]
    Context {
        /// Which sequence of the step.
        sequence: usize,
        /// Tokens after the step.
        found: u64,
        /// The model's limit.
        limit: u64,
    },
    /// A sequence's pages do not hold it.
    #[error("sequence {sequence}: {found}, expected {expected}")]
    Pages {
        /// Which sequence of the step.
        sequence: usize,
        /// What its page list is.
        found: String,
        /// What is needed.
        expected: String,
    },
    /// The step is larger than 32-bit inputs can say.
    #[error("the step has {found} {what}, expected at most {limit}")]
    StepTooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// Limit.
        limit: u64,
    },
    /// No bucket of the plan covers the step.
    #[error("no bucket of entry `{entry}` covers {step}")]
    NoBucket {
        /// The entry.
        entry: String,
        /// The step's symbols.
        step: String,
    },
    /// A size in the plan makes no sense for this step.
    #[error("{what}: found {found}, expected {expected}")]
    Size {
        /// Which size.
        what: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A kernel wrote a work list whose length makes no sense.
    #[error("work list of `{origin}` states {found} tuples, its memory has room for {limit}")]
    WorkList {
        /// Graph nodes of the launch.
        origin: String,
        /// Length stated.
        found: i64,
        /// Most that fit.
        limit: i64,
    },
}

impl RuntimeError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0501", "the system refused a file"),
        ("E0502", "the file has no code that this machine can run"),
        ("E0503", "the level asked for is not in the file"),
        ("E0504", "a code image that cannot be loaded"),
        ("E0505", "a kernel of the plan is not in the code"),
        ("E0506", "the plan asks for something that this runtime does not do"),
        ("E0507", "no memory"),
        ("E0508", "a thread count that cannot be"),
        ("E0509", "a thread could not be started, or ended early"),
        ("E0513", "a page, or a number of pages, that there is not"),
        ("E0515", "a step whose tokens are none, or outside the vocabulary"),
        ("E0516", "a step longer than the model's context, its pages or its inputs hold"),
        ("E0519", "no bucket of the plan covers the step"),
        ("E0520", "a size in the plan makes no sense for this step"),
        ("E0521", "a kernel wrote a work list whose length makes no sense"),
        ("E0523", "the level asked for is beyond the machine"),
    ];

    /// Stable code of this kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            RuntimeError::Artifact { error, .. } => error.code(),
            RuntimeError::Io { .. } => "E0501",
            RuntimeError::NoCode { .. } => "E0502",
            RuntimeError::Isa { .. } => "E0503",
            RuntimeError::Image { .. } => "E0504",
            RuntimeError::MissingKernel { .. } => "E0505",
            RuntimeError::Unsupported { .. } => "E0506",
            RuntimeError::OutOfMemory { .. } => "E0507",
            RuntimeError::ThreadCount { .. } => "E0508",
            RuntimeError::Thread { .. } | RuntimeError::Poisoned { .. } => "E0509",
            RuntimeError::PagesExhausted { .. }
            | RuntimeError::PageNotTaken { .. }
            | RuntimeError::PageCount { .. } => "E0513",
            RuntimeError::Empty { .. } | RuntimeError::Token { .. } => "E0515",
            RuntimeError::Context { .. }
            | RuntimeError::Pages { .. }
            | RuntimeError::StepTooLarge { .. } => "E0516",
            RuntimeError::NoBucket { .. } => "E0519",
            RuntimeError::Size { .. } => "E0520",
            RuntimeError::WorkList { .. } => "E0521",
            RuntimeError::Lacking { .. } => "E0523",
        }
    }

    /// What the reader of the message can do next.
    pub fn help(&self) -> &'static str {
        match self {
            RuntimeError::Artifact { error, .. } => error.help(),
            RuntimeError::Io { source, .. } => limit::help(Limit::of(source)),
            RuntimeError::NoCode { .. } => "compile with a lower instruction set level as well",
            RuntimeError::Isa { .. } | RuntimeError::Lacking { .. } => {
                "leave the level out, and the best one is chosen"
            }
            RuntimeError::Unsupported { .. } => "run the file with the release that wrote it",
            RuntimeError::OutOfMemory { .. } => {
                "shorten prompts, feed them in smaller steps (--chunk), raise the limit on memory, or \
                 use a machine with more"
            }
            RuntimeError::ThreadCount { .. } | RuntimeError::Thread { .. } => "use fewer threads",
            RuntimeError::Poisoned { .. } => "open a new session; please report the message",
            RuntimeError::PagesExhausted { .. } => "free pages, or begin with more of them",
            RuntimeError::PageNotTaken { .. } => "return each page once",
            RuntimeError::PageCount { .. } => "use a number of pages within the range",
            RuntimeError::Empty { .. } => "leave empty sequences out of the step",
            RuntimeError::Token { .. } => "use the model's own tokenizer",
            RuntimeError::Context { .. } => "shorten the prompt, or stop the sequence here",
            RuntimeError::Pages { .. } => "take one page per started page of tokens",
            RuntimeError::StepTooLarge { .. } => "split the step",
            RuntimeError::Image { .. }
            | RuntimeError::MissingKernel { .. }
            | RuntimeError::NoBucket { .. }
            | RuntimeError::Size { .. }
            | RuntimeError::WorkList { .. } => {
                "compile the checkpoint again; if it persists, this is a defect of the compiler \
                 that wrote the file"
            }
        }
    }
}
