//! What went wrong, for people: code, what was found and expected, the place, the next step.

use compiler::compile::CompileError;
use compiler::error::{ImportError, ImportErrors};
use compiler::lower::LowerError;
use compiler::options::OptionError;
use generate::GenerateError;
use ir::error::IrError;
use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use std::fmt;
use std::process::ExitCode;
use thiserror::Error;

/// One diagnostic.
#[derive(Debug, Error)]
#[error("{message}")]
struct Problem {
    message: String,
    code: String,
    help: Option<String>,
    text: Option<NamedSource<String>>,
    label: Option<(usize, usize)>,
}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(&self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.text.as_ref().map(|s| s as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (start, end) = self.label?;
        let label = LabeledSpan::new(Some("here".into()), start, end.saturating_sub(start));
        Some(Box::new(std::iter::once(label)))
    }
}

/// Everything wrong, and the exit code that says whose fault it is.
pub struct Failure {
    problems: Vec<Problem>,
    exit: u8,
}

/// The input is at fault.
const INPUT: u8 = 1;
/// The command line is.
const USAGE: u8 = 2;
/// A limit of the machine is.
const LIMIT: u8 = 3;

impl Failure {
    fn one(code: &str, message: String, help: Option<&str>, exit: u8) -> Failure {
        let problem = Problem {
            message,
            code: code.into(),
            help: help.map(Into::into),
            text: None,
            label: None,
        };
        Failure { problems: vec![problem], exit }
    }

    /// A wrong use of the command line.
    pub fn usage(message: String, help: &str) -> Failure {
        Failure::one("E0291", message, Some(help), USAGE)
    }

    /// A file that cannot be read or written.
    pub fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
        let message = format!("cannot {action} {}: {error}", path.display());
        Failure::one("E0292", message, Some("check the path and its permissions"), INPUT)
    }

    /// Less of something than is needed.
    pub fn limit(message: String, help: &str) -> Failure {
        Failure::one("E0293", message, Some(help), LIMIT)
    }

    /// Mistakes in a text, each with its place.
    pub fn text(name: &str, text: &str, errors: Vec<IrError>) -> Failure {
        let problem = |e: IrError| Problem {
            message: e.to_string(),
            code: e.kind.code().into(),
            help: None,
            text: Some(NamedSource::new(name, text.to_string())),
            label: e.span.map(|s| (s.start, s.end)),
        };
        Failure { problems: errors.into_iter().map(problem).collect(), exit: INPUT }
    }

    /// Prints everything to standard error.
    pub fn report(self) -> ExitCode {
        for problem in self.problems {
            eprintln!("{:?}", miette::Report::new(problem));
        }
        ExitCode::from(self.exit)
    }
}

impl From<ImportErrors> for Failure {
    fn from(errors: ImportErrors) -> Self {
        let problem = |e: &ImportError| Problem {
            message: e.to_string(),
            code: e.code().into(),
            help: Some(e.help().into()),
            text: None,
            label: None,
        };
        Failure { problems: errors.0.iter().map(problem).collect(), exit: INPUT }
    }
}

impl From<LowerError> for Failure {
    fn from(e: LowerError) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help()), INPUT)
    }
}

impl From<OptionError> for Failure {
    fn from(e: OptionError) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help()), USAGE)
    }
}

impl From<CompileError> for Failure {
    fn from(e: CompileError) -> Self {
        match e {
            CompileError::Imports(errors) => errors.into(),
            CompileError::Lower(e) => e.into(),
            e => {
                let exit = if e.is_limit() { LIMIT } else { INPUT };
                Failure::one(e.code(), e.to_string(), e.help().as_deref(), exit)
            }
        }
    }
}

impl From<GenerateError> for Failure {
    fn from(e: GenerateError) -> Self {
        Failure::one(e.code(), e.to_string(), e.help().as_deref(), e.exit_code())
    }
}
