//! The kernels of a compiled file. They are not in it: its program is, and lowering it again gives
//! them, or shows that another compiler wrote the file.

use crate::error::ToolError;
use artifact::Plan;
use artifact::format::PROGRAM;
use compiler::compile::lower;
use compiler::lower::Lowered;
use compiler::options::Options;
use ir::device::DeviceSpec;
use ir::graph::parse::parse_program;
use ir::graph::program::Program;
use runtime::Model;

/// What a file was made from.
#[derive(Clone, Debug)]
pub struct Remade {
    /// The program that it holds.
    pub program: Program,
    /// What that is lowered to.
    pub lowered: Lowered,
}

/// Lowers the program of a file as it was lowered when the file was written.
///
/// # Errors
/// E0270 to E0272, and what lowering reports.
pub fn remade(model: &Model) -> Result<Remade, ToolError> {
    let missing = || {
        let names: Vec<&str> = model.sections().iter().map(|s| s.name.as_str()).collect();
        ToolError::NoProgram { found: names.join(", ") }
    };
    let bytes = model.section(PROGRAM).ok_or_else(missing)?;
    let text = String::from_utf8_lossy(bytes);
    let first =
        |mut errors: Vec<ir::error::IrError>| ToolError::Program(Box::new(errors.swap_remove(0)));
    let program = parse_program(&text).map_err(first)?;
    program.verify().map_err(first)?;
    let mut options = Options::default();
    for (key, value) in &model.manifest().options {
        options.set(&format!("{key}={value}"))?;
    }
    let lowered = lower(&program, &options, &DeviceSpec::default())?;
    match difference(model.plan(), &lowered.plan) {
        None => Ok(Remade { program, lowered }),
        Some(what) => {
            let file = model.manifest().compiler_version.clone();
            Err(ToolError::OtherPlan { file, own: env!("CARGO_PKG_VERSION"), what })
        }
    }
}

/// The first part in which two plans differ. Scratch is left out: code decides it.
fn difference(file: &Plan, own: &Plan) -> Option<String> {
    let named =
        |k: &artifact::plan::Kernel| artifact::plan::Kernel { scratch_bytes: 0, ..k.clone() };
    let kernels = |plan: &Plan| plan.kernels.iter().map(named).collect::<Vec<_>>();
    let parts = [
        ("version", file.version == own.version),
        ("symbols", file.symbols == own.symbols),
        ("places", file.places == own.places),
        ("kernels", kernels(file) == kernels(own)),
        ("weights", file.weights == own.weights),
        ("states", file.states == own.states),
        ("entries", file.entries == own.entries),
        ("probes", file.probes == own.probes),
    ];
    let (what, _) = parts.into_iter().find(|(_, same)| !same)?;
    Some(format!("its {what} differ"))
}
