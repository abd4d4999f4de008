//! What went wrong, for people: code, what was found and expected, the place, the next step.

use compiler::compile::CompileError;
use compiler::error::{ImportError, ImportErrors};
use compiler::lower::LowerError;
use compiler::options::OptionError;
use generate::GenerateError;
use generate::command::args::usage;
use ir::error::{IrError, IrErrorKind, Span};
use std::fmt::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The command line's own codes with what they stand for.
pub const CODES: &[(&str, &str)] = &[
    (USAGE_CODE, "a wrong use of the command line"),
    (FILE_CODE, "a file that cannot be read or written"),
    (LIMIT_CODE, "less memory or disk than is needed"),
    (KERNEL_CODE, "a kernel of a text that does not fit the plan"),
];
const USAGE_CODE: &str = "E0291";
const FILE_CODE: &str = "E0292";
const LIMIT_CODE: &str = "E0293";
const KERNEL_CODE: &str = "E0294";

/// The input is at fault.
const INPUT: u8 = 1;
/// The command line is.
const USAGE: u8 = 2;
/// A limit of the machine is.
const LIMIT: u8 = 3;

/// One diagnostic.
struct Problem {
    code: &'static str,
    message: String,
    /// Lines of a text, with the mistake marked.
    excerpt: Option<String>,
    help: Option<String>,
}

impl fmt::Display for Problem {
    /// In the form of the deployed executable's diagnostics: the code first, help last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error[{}]: {}", self.code, self.message)?;
        if let Some(excerpt) = &self.excerpt {
            f.write_str(excerpt)?;
        }
        match &self.help {
            Some(help) => writeln!(f, "help: {help}"),
            None => Ok(()),
        }
    }
}

/// Everything wrong, and the exit code that says whose fault it is.
pub struct Failure {
    problems: Vec<Problem>,
    exit: u8,
}

impl Failure {
    fn one(code: &'static str, message: String, help: Option<String>, exit: u8) -> Failure {
        Failure { problems: vec![Problem { code, message, excerpt: None, help }], exit }
    }

    /// A wrong use of the command line.
    pub fn usage(message: String, help: &str) -> Failure {
        Failure::one(USAGE_CODE, message, Some(help.into()), USAGE)
    }

    /// What the parser of arguments says.
    pub fn arguments(error: &clap::Error) -> Failure {
        let help = "`latentc help` and `latentc COMMAND --help` list what there is";
        Failure::usage(usage(error), help)
    }

    /// A file that cannot be read or written.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Failure {
        let message = format!("cannot {action} {}: {error}", path.display());
        let help = match error.kind() {
            std::io::ErrorKind::InvalidData => "give the text as `--emit` or `logits` takes it",
            _ => "check the path, its permissions and the free space",
        };
        Failure::one(FILE_CODE, message, Some(help.into()), INPUT)
    }

    /// Less of something than is needed.
    pub fn limit(message: String, help: &str) -> Failure {
        Failure::one(LIMIT_CODE, message, Some(help.into()), LIMIT)
    }

    /// Mistakes in a text, each with its place.
    pub fn text(name: &str, text: &str, errors: Vec<IrError>) -> Failure {
        let problem = |e: IrError| Problem {
            code: e.kind.code(),
            message: e.to_string(),
            excerpt: Some(excerpt(name, text, e.span)),
            help: Some(e.kind.help().into()),
        };
        Failure { problems: errors.into_iter().map(problem).collect(), exit: INPUT }
    }

    /// Kernels of a text that stand for none of the plan's: messages and where in the text.
    pub fn kernels(name: &str, text: &str, found: Vec<(String, Span)>) -> Failure {
        let help = "keep names, parameters, symbols and grid as `--emit kernel` printed them";
        let problem = |(message, span)| Problem {
            code: KERNEL_CODE,
            message,
            excerpt: Some(excerpt(name, text, Some(span))),
            help: Some(help.into()),
        };
        Failure { problems: found.into_iter().map(problem).collect(), exit: INPUT }
    }

    /// All of them, with the exit code of the first.
    pub fn all(failures: Vec<Failure>) -> Result<(), Failure> {
        let Some(exit) = failures.first().map(|f| f.exit) else { return Ok(()) };
        Err(Failure { problems: failures.into_iter().flat_map(|f| f.problems).collect(), exit })
    }

    /// Prints everything to standard error.
    pub fn report(self) -> ExitCode {
        let all: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
        // Nobody is left to be told where standard error is closed.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), all.join("\n").as_bytes());
        ExitCode::from(self.exit)
    }
}

/// The line on which a range of a text begins, with that range underlined.
fn excerpt(name: &str, text: &str, span: Option<Span>) -> String {
    let Some(span) = span else { return format!("  --> {name}\n") };
    let start = (0..=span.start.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
    let (before, after) = text.split_at(start.unwrap_or(0));
    let head = before.rsplit('\n').next().unwrap_or("");
    let tail = after.split('\n').next().unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let width = tail.len().min(span.end.saturating_sub(span.start));
    let marked = tail.char_indices().filter(|(i, _)| *i < width).count().max(1);
    // Tabs stay tabs, so that the mark stands below what it marks.
    let blank: String = head.chars().map(|c| if c == '\t' { c } else { ' ' }).collect();
    let (gutter, marks) = (line.to_string(), "^".repeat(marked));
    let pad = " ".repeat(gutter.len());
    let mut out = String::new();
    let column = head.chars().count() + 1;
    writeln!(out, "{pad}--> {name}:{line}:{column}\n{pad} |\n{gutter} | {head}{tail}")
        .and_then(|()| writeln!(out, "{pad} | {blank}{marks}"))
        .expect("writing to a string cannot fail");
    out
}

impl From<ImportErrors> for Failure {
    fn from(errors: ImportErrors) -> Self {
        let problem = |e: &ImportError| Problem {
            code: e.code(),
            message: e.to_string(),
            excerpt: None,
            help: Some(e.help().into()),
        };
        Failure { problems: errors.0.iter().map(problem).collect(), exit: INPUT }
    }
}

impl From<IrErrorKind> for Failure {
    fn from(e: IrErrorKind) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help().into()), INPUT)
    }
}

impl From<LowerError> for Failure {
    fn from(e: LowerError) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help().into()), INPUT)
    }
}

impl From<OptionError> for Failure {
    fn from(e: OptionError) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help().into()), USAGE)
    }
}

impl From<CompileError> for Failure {
    fn from(e: CompileError) -> Self {
        let exit = match &e {
            CompileError::Isa { .. } => USAGE,
            e if e.is_limit() => LIMIT,
            _ => INPUT,
        };
        match e {
            CompileError::Imports(errors) => errors.into(),
            e => Failure::one(e.code(), e.to_string(), e.help(), exit),
        }
    }
}

impl From<GenerateError> for Failure {
    fn from(e: GenerateError) -> Self {
        Failure::one(e.code(), e.to_string(), e.help(), e.exit_code())
    }
}

#[cfg(test)]
impl Failure {
    /// The exit code.
    pub fn exit(&self) -> u8 {
        self.exit
    }

    /// Codes of the diagnostics, in order.
    pub fn codes(&self) -> Vec<&'static str> {
        self.problems.iter().map(|p| p.code).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_mark_their_range_and_never_leave_the_text() {
        let text = "one\n\ttwo größe\n";
        let at = |start, end| excerpt("t.graph", text, Some(Span { start, end }));
        assert_eq!(at(5, 8), " --> t.graph:2:2\n  |\n2 | \ttwo größe\n  | \t^^^\n");
        // `ö` and `ß` are two bytes and one column each.
        assert!(at(9, 15).ends_with("  | \t    ^^^^\n"), "{}", at(9, 15));
        assert!(at(12, 13).contains(":2:8\n"), "inside a character: {}", at(12, 13));
        for start in 0..text.len() + 3 {
            for end in 0..text.len() + 3 {
                assert!(at(start, end).contains('^'));
            }
        }
        assert_eq!(excerpt("t", "", Some(Span::default())), " --> t:1:1\n  |\n1 | \n  | ^\n");
    }
}
