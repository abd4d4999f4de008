//! The commands that a deployed executable and `latentc` share.
//!
//! - [`args`]: their arguments; [`dispatch`]: from arguments to a command
//! - [`run`], [`chat`]: text
//! - [`mod@bench`], [`logits`], [`goldens`]: measurements and checks of an engine; [`bounds`]: how
//!   far from goldens its precision may take it
//! - [`inspect`], [`verify`]: what a file holds, and whether it is whole
//! - [`material`]: tokenizer, template and recommended sampling of an artifact
//! - [`interrupt`]: what Ctrl-C does; [`diagnostic`]: what went wrong, for people

pub mod args;
pub mod bench;
pub mod bench_report;
pub mod bounds;
pub mod chat;
pub mod diagnostic;
pub mod dispatch;
pub mod goldens;
pub mod goldens_report;
pub mod ids;
pub mod inspect;
pub mod interrupt;
pub mod limits;
pub mod logits;
pub mod material;
pub mod run;
pub mod verify;

use crate::error::{GenerateError, Result};
use crate::sequence::Stats;
use runtime::Model;
use serde_json::{Map, Value, json};
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

/// Where a command reads and writes.
pub struct Streams<'a> {
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Standard output: results.
    pub out: &'a mut dyn Write,
    /// Standard error: statistics and diagnostics.
    pub err: &'a mut dyn Write,
    /// Whether a person sits at the input.
    pub interactive: bool,
    /// Whether standard error is a terminal.
    pub err_is_terminal: bool,
}

impl Streams<'_> {
    /// Does `work` on the process' own streams.
    pub fn standard<T>(work: impl FnOnce(&mut Streams<'_>) -> T) -> T {
        let (input, out, err) = (&mut io::stdin().lock(), &mut io::stdout(), &mut io::stderr());
        let interactive = input.is_terminal() && out.is_terminal();
        let err_is_terminal = err.is_terminal();
        work(&mut Streams { input, out, err, interactive, err_is_terminal })
    }

    /// Writes to the output and flushes it, so that text is seen as it comes.
    ///
    /// # Errors
    /// [`GenerateError::OutputClosed`] if nobody reads it any more, else [`GenerateError::Io`].
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(output_error)
    }

    /// Writes a line to standard error; what cannot be written there is lost.
    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{text}");
    }

    /// Writes what went wrong to standard error.
    pub fn report(&mut self, error: &GenerateError) {
        diagnostic::report(&[error.into()], self.err_is_terminal, self.err);
    }

    /// Writes one JSON object and a line end to the output.
    ///
    /// # Errors
    /// As [`Streams::say`].
    pub fn json(&mut self, value: &Value) -> Result<()> {
        self.say(&format!("{value}\n"))
    }
}

fn output_error(source: io::Error) -> GenerateError {
    if source.kind() == io::ErrorKind::BrokenPipe {
        return GenerateError::OutputClosed;
    }
    GenerateError::Io { action: "write", name: "standard output".to_owned(), source }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| file_error("read", path, e))
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> GenerateError {
    GenerateError::Io { action, name: path.display().to_string(), source }
}

/// `tokens`, or what the model's context holds if that is less.
pub fn fit(model: &Model, tokens: usize) -> usize {
    let context = model.manifest().model.context_length;
    tokens.min(usize::try_from(context).unwrap_or(usize::MAX))
}

/// Statistics of a sequence in one line.
fn stats_line(stats: &Stats) -> String {
    let rate = |r: Option<f64>| r.map_or("-".to_owned(), |r| format!("{r:.1} tokens/s"));
    let first = stats.first_token.map_or("-".to_owned(), |t| format!("{:.3} s", t.as_secs_f64()));
    format!(
        "prompt {} tokens, {}; generated {} tokens, {}; first token after {first}",
        stats.prompt_tokens,
        rate(stats.prefill_tokens_per_s()),
        stats.generated_tokens,
        rate(stats.decode_tokens_per_s()),
    )
}

/// Statistics of a sequence as keys of a JSON object.
fn stats_json(stats: &Stats) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("prompt_tokens".into(), json!(stats.prompt_tokens));
    map.insert("generated_tokens".into(), json!(stats.generated_tokens));
    map.insert("prefill_tokens_per_s".into(), json!(stats.prefill_tokens_per_s()));
    map.insert("decode_tokens_per_s".into(), json!(stats.decode_tokens_per_s()));
    let first = stats.first_token.map(|t| t.as_secs_f64());
    map.insert("time_to_first_token_s".into(), json!(first));
    map
}
