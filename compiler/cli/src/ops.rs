//! `latentc ops`: the registry, for people.

use crate::diagnostic::Failure;
use clap::Args;

/// Options of `ops`.
#[derive(Args)]
pub struct OpsArgs {
    /// List diagnostics instead
    #[arg(long)]
    errors: bool,
}

/// Ranges of codes, and what they are about.
const RANGES: [(&str, &str); 6] = [
    ("E01xx", "graph IR, kernel IR and their texts"),
    ("E02xx", "checkpoints, options, lowering, linking"),
    ("E03xx", "targets"),
    ("E04xx", "artifacts"),
    ("E05xx", "loading and running"),
    ("E06xx", "tokenizer, chat template, sampling, commands"),
];

/// Prints the table.
pub fn ops(args: &OpsArgs) -> Result<(), Failure> {
    if args.errors {
        for (range, about) in RANGES {
            println!("{range}  {about}");
        }
        return Ok(());
    }
    for op in ir::ops::ALL {
        let schema = op.schema();
        let operands = schema.operands.join(", ");
        println!("{:<12} ({operands})", schema.name);
        println!("{:<12} {}", "", schema.summary);
    }
    Ok(())
}
