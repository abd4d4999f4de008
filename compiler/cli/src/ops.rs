//! `latentc ops`: the registry, for people.

use crate::diagnostic::{self, Failure};
use crate::output;
use clap::Args;
use std::fmt::Write;

/// Options of `ops`.
#[derive(Args)]
pub struct OpsArgs {
    /// List every diagnostic's code instead
    #[arg(long)]
    errors: bool,
}

/// What codes of a range are about.
const RANGES: [(&str, &str); 6] = [
    ("E01", "graph IR, kernel IR and their texts"),
    ("E02", "checkpoints, options, lowering, linking, the command line"),
    ("E03", "targets"),
    ("E04", "artifacts"),
    ("E05", "loading and running"),
    ("E06", "tokenizer, chat template, sampling, commands"),
];

/// Prints the table of ops, or that of codes.
pub fn ops(args: &OpsArgs) -> Result<(), Failure> {
    let text = if args.errors { errors() } else { table() };
    output::write(None, text.as_bytes())
}

/// Every code with what it stands for, in order.
fn codes() -> Vec<(&'static str, &'static str)> {
    let tables = [
        ir::error::IrErrorKind::CODES,
        ir::graph::error::GraphError::CODES,
        ir::kernel::error::KernelError::CODES,
        ir::kernel::interp::InterpError::CODES,
        ir::device::DeviceError::CODES,
        &compiler::error::ImportError::CODES,
        compiler::lower::LowerError::CODES,
        compiler::compile::CompileError::CODES,
        compiler::attest::AttestError::CODES,
        compiler::certificate::CertificateError::CODES,
        compiler::options::OptionError::CODES,
        check::CheckError::CODES,
        tools::error::ToolError::CODES,
        diagnostic::CODES,
        artifact::error::ArtifactError::CODES,
        runtime::RuntimeError::CODES,
        generate::GenerateError::CODES,
    ];
    let mut all: Vec<_> = tables.into_iter().flatten().copied().collect();
    all.sort_unstable();
    all
}

fn errors() -> String {
    let mut text = String::new();
    let all = codes();
    for (range, about) in RANGES {
        writeln!(text, "{range}xx  {about}").expect("writing to a string cannot fail");
        for (code, meaning) in all.iter().filter(|(code, _)| code.starts_with(range)) {
            writeln!(text, "  {code}  {meaning}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// Name, operands, attributes and meaning of each op.
fn table() -> String {
    let mut text = String::new();
    for op in ir::ops::ALL {
        let schema = op.schema();
        let mut form = format!("{} {}", schema.name, schema.operands.join(", "));
        if schema.mask {
            form += " [where mask]";
        }
        if !schema.attrs.is_empty() {
            let attrs: Vec<_> = schema.attrs.iter().map(|a| a.key).collect();
            write!(form, " {{{}}}", attrs.join(", ")).expect("writing to a string cannot fail");
        }
        writeln!(text, "{}\n    {}", form.trim_end(), schema.summary)
            .expect("writing to a string cannot fail");
    }
    text
}
