//! What can go wrong on the command line, and whose fault it is.

use artifact::limit::{self, Limit};
use compiler::attest::AttestError;
use compiler::certificate::CertificateError;
use compiler::compile::CompileError;
use compiler::error::{ImportError, ImportErrors};
use compiler::lower::LowerError;
use compiler::options::OptionError;
use generate::GenerateError;
use generate::command::args::usage;
use generate::command::diagnostic::{Diagnostic, Text, report};
use ir::device::DeviceError;
use ir::error::{IrError, IrErrorKind, Span};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use tools::error::ToolError;

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

/// Most faults of a checkpoint that are shown one by one for each code. A whole shard that is
/// missing has thousands.
const MOST_OF_A_KIND: usize = 16;

/// The input is at fault.
const INPUT: u8 = 1;
/// The command line is.
const USAGE: u8 = 2;
/// A limit of the machine is.
const LIMIT: u8 = 3;

/// Everything wrong, and the exit code that says whose fault it is.
pub struct Failure {
    problems: Vec<Diagnostic>,
    exit: u8,
}

impl Failure {
    fn one(code: &'static str, message: String, help: Option<String>, exit: u8) -> Failure {
        Failure { problems: vec![Diagnostic::new(code, message, help)], exit }
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
            std::io::ErrorKind::InvalidData => "give a text in UTF-8",
            _ => limit::help(Limit::of(error)),
        };
        let exit = if Limit::of(error).is_some() { LIMIT } else { INPUT };
        Failure::one(FILE_CODE, message, Some(help.into()), exit)
    }

    /// A device that is not to be had, or is described wrongly.
    pub fn device(name: &str, e: DeviceError) -> Failure {
        let help = "compare with the files in ir/devices";
        let message = match &e {
            DeviceError::Unknown { .. } => e.to_string(),
            _ => format!("{name}: {e}"),
        };
        Failure::one(e.code(), message, Some(help.into()), INPUT)
    }

    /// Less of something than is needed.
    pub fn limit(message: String, help: &str) -> Failure {
        Failure::one(LIMIT_CODE, message, Some(help.into()), LIMIT)
    }

    /// Mistakes in a text, each with its place.
    pub fn text(name: &str, text: &str, errors: Vec<IrError>) -> Failure {
        let text = Text::new(name, text);
        let problem = |e: IrError| {
            let help = Some(e.kind.help().into());
            match e.span {
                Some(at) => Diagnostic::new(e.kind.code(), e, help).at(&text, at.start..at.end),
                None => Diagnostic::new(e.kind.code(), format!("{name}: {e}"), help),
            }
        };
        Failure { problems: errors.into_iter().map(problem).collect(), exit: INPUT }
    }

    /// Kernels of a text that stand for none of the plan's: messages and where in the text.
    pub fn kernels(name: &str, text: &str, found: Vec<(String, Span)>) -> Failure {
        let help = "keep names, parameters, symbols and grid as `--emit kernel` printed them";
        let text = Text::new(name, text);
        let problem = |(message, at): (String, Span)| {
            Diagnostic::new(KERNEL_CODE, message, Some(help.into())).at(&text, at.start..at.end)
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
        report(&self.problems, io::stderr().is_terminal(), &mut io::stderr());
        ExitCode::from(self.exit)
    }
}

impl From<ImportErrors> for Failure {
    fn from(errors: ImportErrors) -> Self {
        let mut kinds: BTreeMap<&str, (usize, &ImportError)> = BTreeMap::new();
        let mut problems = vec![];
        for e in &errors.0 {
            let (count, _) = kinds.entry(e.code()).or_insert((0, e));
            *count += 1;
            if *count <= MOST_OF_A_KIND {
                problems.push(Diagnostic::new(e.code(), e, Some(e.help().into())));
            }
        }
        for (count, e) in kinds.values().filter(|(count, _)| *count > MOST_OF_A_KIND) {
            let message =
                format!("found {} more like these, expected none", count - MOST_OF_A_KIND);
            problems.push(Diagnostic::new(e.code(), message, Some(e.help().into())));
        }
        let exit = if errors.0.iter().any(ImportError::is_limit) { LIMIT } else { INPUT };
        Failure { problems, exit }
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

impl From<ToolError> for Failure {
    fn from(e: ToolError) -> Self {
        match e {
            ToolError::Compile(e) => e.into(),
            ToolError::Runtime(e) => GenerateError::from(e).into(),
            e => Failure::one(e.code(), e.to_string(), e.help(), INPUT),
        }
    }
}

impl From<CertificateError> for Failure {
    fn from(e: CertificateError) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help().into()), INPUT)
    }
}

impl From<AttestError> for Failure {
    fn from(e: AttestError) -> Self {
        Failure::one(e.code(), e.to_string(), Some(e.help().into()), INPUT)
    }
}

impl From<GenerateError> for Failure {
    fn from(e: GenerateError) -> Self {
        Failure { exit: e.exit_code(), problems: vec![(&e).into()] }
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
        self.problems.iter().map(Diagnostic::code).collect()
    }
}
