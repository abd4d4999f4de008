//! The targets that this build has.

use compiler::options::{Backend, Options};
use ir::target::Target;

/// Targets for the CPU that the options ask for; none where this build lacks them.
pub fn cpu(options: &Options) -> Vec<Box<dyn Target>> {
    let mut all = all();
    match options.backend {
        Backend::All => {}
        Backend::Auto => all.truncate(1),
        Backend::Llvm => all.retain(|t| t.name() == "llvm"),
        Backend::Cranelift => all.retain(|t| t.name() == "cranelift"),
    }
    all
}

/// Every target, the preferred first.
fn all() -> Vec<Box<dyn Target>> {
    vec![
        #[cfg(feature = "llvm")]
        Box::new(target_llvm::Llvm::host()),
        Box::new(target_cranelift::Cranelift),
    ]
}
