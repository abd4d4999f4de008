//! What can go wrong between a prompt and its text.

use runtime::RuntimeError;
use runtime::limit::{self, Limit};
use thiserror::Error;

/// Result of anything in this crate.
pub type Result<T> = std::result::Result<T, GenerateError>;

/// An error of tokenizing, templating, scheduling, sampling, or of the engine underneath.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// The artifact carries no tokenizer, and text was given or asked for.
    #[error("the model has no tokenizer (section {section} is missing), so text cannot be used")]
    NoTokenizer {
        /// Section that was looked for.
        section: &'static str,
    },
    /// A tokenizer file is there and unreadable.
    #[error("{file} cannot be read: {detail}")]
    BadTokenizer {
        /// Name of the file inside the artifact.
        file: &'static str,
        /// What the parser said.
        detail: String,
    },
    /// The tokenizer refused a text.
    #[error("the tokenizer cannot encode the text: {detail}")]
    Encode {
        /// What the tokenizer said.
        detail: String,
    },
    /// The tokenizer cannot tell the text of tokens.
    #[error("the tokenizer cannot decode the tokens: {detail}")]
    Decode {
        /// What the tokenizer said.
        detail: String,
    },
    /// A token id lies outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab}")]
    TokenOutOfRange {
        /// The id.
        id: i64,
        /// Its position in the prompt.
        position: usize,
        /// Number of ids of the model.
        vocab: usize,
    },
    /// The model has no chat template.
    #[error("the model has no chat template")]
    NoChatTemplate,
    /// The chat template failed to parse or to render.
    #[error("chat template, line {line}: {detail}")]
    Template {
        /// Line of the template, from 1; 0 where the engine knows none.
        line: usize,
        /// What went wrong.
        detail: String,
    },
    /// The chat template did not come to an end.
    #[error("chat template{}: stopped after {limit}", on_line(*.line))]
    EndlessTemplate {
        /// Line of the template at which it was stopped, from 1, where the engine knows it.
        line: Option<usize>,
        /// What it was given, e.g. `20 s`.
        limit: String,
    },
    /// The model computed something that is not a number.
    #[error("logit of token {id} at position {position} is {value}, expected a finite number")]
    BadLogit {
        /// Token id of the first such logit.
        id: usize,
        /// Position of the token that was to be chosen.
        position: usize,
        /// The logit.
        value: f32,
    },
    /// No token may be chosen.
    #[error("no token can be chosen at position {position}: all {vocab} are masked or impossible")]
    NoCandidate {
        /// Position of the token that was to be chosen.
        position: usize,
        /// Number of ids of the model.
        vocab: usize,
    },
    /// A sampling option outside its range.
    #[error("{option} is {value}, expected {expected}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A prompt without tokens.
    #[error("the prompt has no tokens, expected at least 1")]
    EmptyPrompt,
    /// A prompt longer than the model's context.
    #[error("the prompt has {tokens} tokens, the context holds {context}")]
    PromptTooLong {
        /// Length of the prompt.
        tokens: usize,
        /// Context length of the model.
        context: usize,
    },
    /// A prompt that the paged state could not hold even alone.
    #[error("the prompt needs {needed} state pages, the session has {total}")]
    TooFewPages {
        /// Pages that the sequence needs.
        needed: usize,
        /// Pages that there are.
        total: usize,
    },
    /// The runtime refused a file or a step.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// An executable without a model.
    #[error("this executable carries no model")]
    NoPayload,
    /// The engine's logits do not have the promised shape.
    #[error("the step returned {found} logits, expected {rows} rows of {vocab}")]
    LogitsShape {
        /// Number of values returned.
        found: usize,
        /// Rows asked for.
        rows: usize,
        /// Vocabulary size.
        vocab: usize,
    },
    /// A file or stream cannot be read or written.
    #[error("cannot {action} {name}: {source}")]
    Io {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// Path, or `standard output`.
        name: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Whoever read the output has closed it.
    #[error("the output was closed by its reader")]
    OutputClosed,
    /// A list of token ids that cannot be read.
    #[error("{name} is no list of token ids: {detail}")]
    BadIds {
        /// The file, or `--prompt-ids`.
        name: String,
        /// What was found.
        detail: String,
    },
    /// Goldens that cannot be read.
    #[error("{file} is not in the form of goldens: {detail}")]
    BadGoldens {
        /// The file.
        file: String,
        /// What was found.
        detail: String,
    },
    /// A wrong use of the command line.
    #[error("{message}")]
    Usage {
        /// What the parser of arguments found and expected.
        message: String,
    },
    /// The model's results differ from the goldens.
    #[error(
        "{failed} of {prompts} golden prompts differ by more than {tolerance}, or in greedy tokens"
    )]
    GoldensDiffer {
        /// Prompts that differ.
        failed: usize,
        /// Prompts compared.
        prompts: usize,
        /// Relative L2 error allowed at each position.
        tolerance: f64,
    },
    /// No position is beyond its bound, and yet they differ too much together.
    #[error("the median error of golden prompts is {median:.2e}, expected at most {expected}")]
    GoldensMedian {
        /// Median over prompts of the median over their positions.
        median: f64,
        /// What it may be.
        expected: f64,
    },
}

fn on_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line}"))
}

impl GenerateError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0601", "the artifact carries no tokenizer, and text was given or asked for"),
        ("E0602", "a tokenizer file is there and unreadable"),
        ("E0603", "the tokenizer refused a text"),
        ("E0604", "a token id lies outside the vocabulary"),
        ("E0605", "the model has no chat template"),
        ("E0606", "the chat template failed to parse or to render"),
        ("E0607", "the chat template did not come to an end"),
        ("E0608", "the model computed something that is no row of numbers"),
        ("E0609", "no token may be chosen"),
        ("E0610", "a sampling option outside its range"),
        ("E0611", "a prompt without tokens"),
        ("E0612", "a prompt longer than the model's context, or than the pages that there are"),
        ("E0615", "a file or stream cannot be read or written"),
        ("E0617", "a list of token ids that cannot be read"),
        ("E0618", "goldens that cannot be read"),
        ("E0619", "the model's results differ from the goldens"),
        ("E0620", "an executable without a model"),
        ("E0621", "the model's results are too far from the goldens in the median"),
        ("E0622", "a wrong use of the executable's command line"),
        ("E0623", "the tokenizer cannot tell the text of tokens"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoTokenizer { .. } => "E0601",
            Self::BadTokenizer { .. } => "E0602",
            Self::Encode { .. } => "E0603",
            Self::TokenOutOfRange { .. } => "E0604",
            Self::NoChatTemplate => "E0605",
            Self::Template { .. } => "E0606",
            Self::EndlessTemplate { .. } => "E0607",
            Self::BadLogit { .. } | Self::LogitsShape { .. } => "E0608",
            Self::NoCandidate { .. } => "E0609",
            Self::BadOption { .. } => "E0610",
            Self::EmptyPrompt => "E0611",
            Self::PromptTooLong { .. } | Self::TooFewPages { .. } => "E0612",
            Self::Runtime(error) => error.code(),
            Self::NoPayload => "E0620",
            Self::Io { .. } | Self::OutputClosed => "E0615",
            Self::BadIds { .. } => "E0617",
            Self::BadGoldens { .. } => "E0618",
            Self::GoldensDiffer { .. } => "E0619",
            Self::GoldensMedian { .. } => "E0621",
            Self::Usage { .. } => "E0622",
            Self::Decode { .. } => "E0623",
        }
    }

    /// The next step for whoever meets the error.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NoTokenizer { .. } => {
                "give token ids with --prompt-ids 1,2,3, or compile a checkpoint directory that \
                 has tokenizer.json"
                    .to_owned()
            }
            Self::BadTokenizer { .. } | Self::Decode { .. } => {
                "compile again from a checkpoint whose tokenizer files are whole".to_owned()
            }
            Self::Encode { .. } => "give token ids with --prompt-ids 1,2,3".to_owned(),
            Self::TokenOutOfRange { vocab, .. } => {
                format!("ids run from 0 to {}", vocab.saturating_sub(1))
            }
            Self::NoChatTemplate => "use `run --prompt`, which takes the text as it is".to_owned(),
            Self::Template { .. } | Self::EndlessTemplate { .. } => {
                "the template lies in tokenizer_config.json (or chat_template.jinja) of the \
                 checkpoint; `run --prompt` works without it"
                    .to_owned()
            }
            Self::BadLogit { .. } => {
                "`latentc logits CHECKPOINT --interpret` computes the same without compiled code"
                    .to_owned()
            }
            Self::NoCandidate { .. } => {
                "raise --top-p, or lower --min-p; of a tokenizer's tokens, only those count that the \
                 model has"
                    .to_owned()
            },
            Self::BadOption { option, expected, .. } => format!("give {option} {expected}"),
            Self::EmptyPrompt => "give a text with --prompt or ids with --prompt-ids".to_owned(),
            Self::PromptTooLong { context, .. } => {
                format!("shorten the prompt to at most {context} tokens")
            }
            Self::TooFewPages { .. } => {
                "give the session more state pages, or shorten the prompt".to_owned()
            }
            Self::Runtime(error) => error.help().to_owned(),
            Self::NoPayload => "name a file with --artifact FILE, or make an executable with \
                 `latentc compile MODEL -o OUT`"
                .to_owned(),
            Self::LogitsShape { .. } => {
                "the artifact and this runtime disagree: compile the model again".to_owned()
            }
            Self::Io { source, .. } => limit::help(Limit::of(source)).to_owned(),
            Self::OutputClosed => return None,
            Self::Usage { .. } => {
                "--help lists the commands, and COMMAND --help what each takes".to_owned()
            }
            Self::BadIds { .. } => {
                "the form is [[1, 2, 3], [4, 5]], a JSON list for each sequence; a prompt may \
                 also be given as 1,2,3"
                    .to_owned()
            }
            Self::BadGoldens { .. } => {
                "goldens are NAME.json with NAME.safetensors beside it".to_owned()
            }
            Self::GoldensDiffer { .. } | Self::GoldensMedian { .. } => {
                "a model compiled with `-C compute=f32` tells rounding from faults; --tolerance \
                 allows more"
                    .to_owned()
            }
        })
    }

    /// Exit status of a command that ends with this error: 1 the input is at fault, 2 usage,
    /// 3 a limit of the machine; 0 if only the reader of the output went away.
    pub fn exit_code(&self) -> u8 {
        use RuntimeError as R;
        match self {
            Self::OutputClosed => 0,
            Self::NoTokenizer { .. } | Self::BadOption { .. } | Self::EmptyPrompt => 2,
            Self::Usage { .. }
            | Self::NoPayload
            | Self::Runtime(R::Isa { .. } | R::ThreadCount { .. }) => 2,
            Self::TooFewPages { .. } => 3,
            Self::Io { source, .. } | Self::Runtime(R::Io { source, .. })
                if Limit::of(source).is_some() =>
            {
                3
            }
            Self::Runtime(R::Artifact { error, .. }) if error.is_limit() => 3,
            Self::Runtime(R::OutOfMemory { .. } | R::Thread { .. }) => 3,
            Self::Runtime(R::NoCode { .. } | R::Lacking { .. }) => 3,
            _ => 1,
        }
    }
}
