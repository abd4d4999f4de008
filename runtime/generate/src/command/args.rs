//! Arguments of the commands that work on a compiled model.

use clap::{Args, Subcommand};
use runtime::LoadOptions;
use std::path::PathBuf;

/// The commands that a deployed executable and `latentc` share. `F` says which file: nothing for
/// an executable that is its own, [`FileArg`] for `latentc`.
#[derive(Debug, Subcommand)]
pub enum Command<F: Args> {
    /// Continue a prompt
    Run {
        /// Which file.
        #[command(flatten)]
        file: F,
        /// Options.
        #[command(flatten)]
        args: RunArgs,
    },
    /// Talk to the model, line by line
    Chat {
        /// Which file.
        #[command(flatten)]
        file: F,
        /// Options.
        #[command(flatten)]
        args: ChatArgs,
    },
    /// Measure prefill and decode, beside the machine's own limits
    Bench {
        /// Which file.
        #[command(flatten)]
        file: F,
        /// Options.
        #[command(flatten)]
        args: BenchArgs,
    },
    /// Write the logits of every position of given token ids
    Logits {
        /// Which file.
        #[command(flatten)]
        file: F,
        /// Options.
        #[command(flatten)]
        args: LogitsArgs,
    },
    /// Check all hashes, and optionally results against goldens
    Verify {
        /// Which file.
        #[command(flatten)]
        file: F,
        /// Options.
        #[command(flatten)]
        args: VerifyArgs,
    },
    /// Show what the file holds
    Inspect {
        /// Which file.
        #[command(flatten)]
        file: F,
        /// Options.
        #[command(flatten)]
        args: InspectArgs,
    },
}

/// The artifact or executable to work on.
#[derive(Clone, Debug, Args)]
pub struct FileArg {
    /// Artifact or executable made by `latentc compile`
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// How a model is loaded.
#[derive(Clone, Debug, Default, Args)]
pub struct LoadArgs {
    /// Threads to compute with [default: one for each core of this machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Use the code for this level of the instruction set [default: the best that this CPU has]
    #[arg(long, value_name = "LEVEL")]
    pub isa: Option<String>,
    /// Check the hashes of the weights before anything runs, however large they are
    #[arg(long)]
    pub check: bool,
    /// Folder of the checkpoint that the weights lie in, for what was compiled with --weights
    /// checkpoint [default: where it was then]
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
}

impl LoadArgs {
    /// The runtime's options.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            threads: self.threads.map(usize::from),
            isa: self.isa.clone(),
            check: self.check,
            checkpoint: self.checkpoint.clone(),
        }
    }
}

/// How tokens are chosen; what is left out is what the checkpoint recommends.
#[derive(Clone, Debug, Default, Args)]
pub struct SamplingArgs {
    /// Divisor of the logits; 0 takes the most likely token
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Choose among the K most likely tokens; 0 means all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Choose among the most likely tokens that together reach this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Choose among tokens at least this fraction as likely as the most likely one
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Seed of the random numbers: the same seed gives the same text
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Text to continue
    #[arg(long, value_name = "TEXT", required_unless_present = "prompt_ids")]
    pub prompt: Option<String>,
    /// Token ids to continue: 1,2,3 or a JSON file
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    pub prompt_ids: Option<String>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// Go on after the end-of-sequence token
    #[arg(long)]
    pub ignore_eos: bool,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Most prompt tokens of a step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub chunk: usize,
    /// Print one JSON object in place of text and statistics
    #[arg(long)]
    pub json: bool,
}

/// Options of `chat`.
#[derive(Clone, Debug, Args)]
pub struct ChatArgs {
    /// Instructions put before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer [default: what the context holds]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Most tokens of the conversation [default: the model's context]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub context: Option<usize>,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Most prompt tokens of a step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub chunk: usize,
}

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct MeasureArgs {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub prompt_tokens: usize,
    /// Tokens to decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    pub gen_tokens: usize,
    /// Tokens in the context when decoding begins [default: the prompt]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub context: Option<usize>,
    /// Times each is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    pub repeat: usize,
    /// Most prompt tokens of a step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub chunk: usize,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

impl MeasureArgs {
    /// Tokens in the context when decoding begins.
    pub fn start(&self) -> usize {
        self.context.unwrap_or(self.prompt_tokens)
    }
}

/// Options of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What is measured.
    #[command(flatten)]
    pub measure: MeasureArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `logits`.
#[derive(Clone, Debug, Args)]
pub struct LogitsArgs {
    /// JSON file with a list of token ids for each sequence: `[[1,2,3],[4,5]]`
    #[arg(long, value_name = "IDS.json")]
    pub tokens: PathBuf,
    /// Where to write the tensors logits.0, logits.1, ... (f32, one row for each token)
    #[arg(short, long, value_name = "OUT.safetensors")]
    pub output: PathBuf,
    /// Most tokens of a sequence in a step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub chunk: usize,
    /// Feed all sequences together instead of one after another
    #[arg(long)]
    pub batched: bool,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// Options of `verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Compare logits with this file (NAME.json, with NAME.safetensors beside it)
    #[arg(long, value_name = "GOLDENS.json")]
    pub goldens: Option<PathBuf>,
    /// Relative L2 error allowed at each position [default: 0.001; in bf16 0.03 with a median of
    /// 0.02, but for prompts with a choice of experts so close that bf16 may turn it]
    #[arg(long, value_name = "E", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// Most prompt tokens of a step
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = at_least_one)]
    pub chunk: usize,
    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the parser of arguments says, as a diagnostic's message: without its own heading, and
/// without the pointer to `--help`, which belongs to the help.
pub fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let rest = rest.split("For more information").next().unwrap_or("").trim();
    let gap = if rest.is_empty() { "" } else { "\n" };
    format!("{}{gap}{rest}", message.trim_end())
}

/// A number of at least 1 as an argument gives it.
///
/// # Errors
/// 0, or no number.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(e) => Err(e.to_string()),
    }
}

/// A tolerance as an argument gives it.
///
/// # Errors
/// What is expected.
pub fn tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(e) if e >= 0.0 => Ok(e),
        Ok(_) => Err("expected at least 0".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}
