//! Lowered kernels to code, weights to their packed order, everything to one file.

use crate::attest::{Asked, statement};
use crate::certificate;
use crate::error::{ImportError, ImportErrors, MISTAKE};
use crate::import::finite::Screened;
use crate::import::source::WeightSource;
use crate::import::{Imported, ModelInfo};
use crate::link::{self, LinkError, Object};
use crate::lower::plan::lower_variants;
use crate::lower::{LowerError, Lowered};
use crate::options::Options;
use crate::pack::report::{Report, Rounded};
use crate::pack::{Packed, pack, recipe};
use crate::progress::Progress;
use crate::rewrite::program::RewriteError;
use crate::variants::{ProgramForms, forms};
use artifact::Recipe;
use artifact::error::ArtifactError;
use artifact::manifest::{GenerationDefaults, Manifest, TargetInfo};
use artifact::recipe::Making;
use artifact::writer::{Summary, WeightsPlace, Writer};
use ir::device::DeviceSpec;
use ir::graph::program::Program;
use ir::kernel::Kernel;
use ir::target::{self, CodeObject, Support, Target, TargetError};
use std::collections::BTreeMap;
use std::path::Path;
use thiserror::Error;

/// What keeps a program from becoming a file.
#[derive(Debug, Error)]
pub enum CompileError {
    /// The checkpoint.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Everything wrong with the checkpoint.
    #[error(transparent)]
    Imports(#[from] ImportErrors),
    /// Rewriting.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The graphs.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A target refuses a kernel.
    #[error("target {target} cannot compile kernel @{kernel}: {reason}")]
    Unsupported {
        /// The target.
        target: &'static str,
        /// The kernel.
        kernel: String,
        /// Its reason.
        reason: String,
    },
    /// No target has this level.
    #[error("found the instruction set level `{found}`, expected one of {}", expected.join(", "))]
    Isa {
        /// As given.
        found: String,
        /// What the targets have.
        expected: Vec<String>,
    },
    /// A target fails.
    #[error("{0}")]
    Target(Box<dyn TargetError>),
    /// The objects do not link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The file cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl CompileError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[target::CODE, ("E0281", "no target has this level")];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            CompileError::Import(e) => e.code(),
            CompileError::Imports(e) => e.0.first().map_or("E0200", ImportError::code),
            CompileError::Rewrite(_) => MISTAKE.0,
            CompileError::Lower(e) => e.code(),
            CompileError::Isa { .. } => "E0281",
            CompileError::Unsupported { .. } | CompileError::Target(_) | CompileError::Link(_) => {
                target::CODE.0
            }
            CompileError::Artifact(e) => e.code(),
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            CompileError::Import(e) => e.help().to_string(),
            CompileError::Imports(e) => e.0.first()?.help().to_string(),
            CompileError::Rewrite(e) => e.help().to_string(),
            CompileError::Lower(e) => e.help().to_string(),
            CompileError::Unsupported { .. } => "try `-C backend=` with another target".into(),
            CompileError::Isa { .. } => "`-C isa=` takes levels separated by commas".into(),
            CompileError::Target(e) => e.help().to_string(),
            CompileError::Link(e) => e.help().to_string(),
            CompileError::Artifact(e) => e.help().to_string(),
        })
    }

    /// Whether a limit of the machine is the cause, not the input.
    pub fn is_limit(&self) -> bool {
        matches!(self, CompileError::Artifact(e) if e.is_limit())
    }
}

/// Lowers the forms of a program; the plan names each one's graphs.
///
/// Errors: E0260 to E0263, E0284.
pub fn lower_forms(
    forms: ProgramForms,
    options: &Options,
    device: &DeviceSpec,
) -> Result<Lowered, LowerError> {
    let mut lowered = lower_variants(&forms.variants, options, device)?;
    for entry in &mut lowered.plan.entries {
        // A bucket for each variant, in their order.
        for (bucket, variant) in entry.buckets.iter_mut().zip(&forms.variants) {
            bucket.forms = certificate::forms(&variant.program, &entry.name);
        }
    }
    lowered.certificates = forms.certificates;
    Ok(lowered)
}

/// Rewrites a naive program, and lowers its forms.
///
/// Errors: E0260 to E0263, E0284.
pub fn lower(
    program: &Program,
    options: &Options,
    device: &DeviceSpec,
) -> Result<Lowered, CompileError> {
    let forms = forms(program, options, device)?;
    let options = forms.decided(options);
    Ok(lower_forms(forms, &options, device)?)
}

/// Code of all kernels for one instruction set level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// The target that made it.
    pub backend: &'static str,
    /// The level.
    pub isa: String,
    /// A loadable image.
    pub image: Vec<u8>,
    /// Scratch of each kernel, in bytes per worker.
    pub scratch: BTreeMap<String, u64>,
}

/// Whether a level is one of the machine that the compiler runs on.
fn is_native(level: &str) -> bool {
    let prefix = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86-64" };
    level.starts_with(prefix)
}

/// Levels to compile a target for: those asked for that it has, else all of this machine's kind.
pub fn levels(target: &dyn Target, options: &Options) -> Vec<&'static str> {
    let wanted = |l: &&&str| match options.isa.is_empty() {
        true => is_native(l),
        false => options.isa.iter().any(|a| a == **l),
    };
    target.isa_levels().iter().filter(wanted).copied().collect()
}

/// Compiles and links kernels for one level of a target.
///
/// Errors: E0301.
pub fn code(kernels: &[Kernel], target: &dyn Target, isa: &str) -> Result<Code, CompileError> {
    for kernel in kernels {
        if let Support::No(reason) = target.supports(kernel) {
            let (target, kernel) = (target.name(), kernel.name.to_string());
            return Err(CompileError::Unsupported { target, kernel, reason });
        }
    }
    let all: Vec<&Kernel> = kernels.iter().collect();
    let object = target.compile(&all, isa).map_err(CompileError::Target)?;
    Code::of(object, target.name(), isa)
}

impl Code {
    /// Links what a target made.
    ///
    /// Errors: E0301.
    pub fn of(object: CodeObject, backend: &'static str, isa: &str) -> Result<Code, CompileError> {
        let image = link::link(&[Object { name: "kernels", bytes: &object.bytes }], "kernels")?;
        let scratch = object.kernels.into_iter().collect();
        Ok(Code { backend, isa: isa.into(), image, scratch })
    }
}

/// Checks the levels that the options name.
///
/// Errors: E0281 for a level that no target has.
pub fn check_levels(targets: &[&dyn Target], options: &Options) -> Result<(), CompileError> {
    let known = |level: &str| targets.iter().any(|t| t.isa_levels().contains(&level));
    let Some(found) = options.isa.iter().find(|l| !known(l)) else { return Ok(()) };
    let mut expected: Vec<String> = vec![];
    for level in targets.iter().flat_map(|t| t.isa_levels()) {
        if !expected.iter().any(|e| e == level) {
            expected.push(level.to_string());
        }
    }
    Err(CompileError::Isa { found: found.clone(), expected })
}

/// Compiles kernels for every level of every target that the options ask for.
///
/// Errors: E0281 for a level that no target has, and as [`code`].
pub fn all_code(
    kernels: &[Kernel],
    targets: &[&dyn Target],
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Vec<Code>, CompileError> {
    check_levels(targets, options)?;
    let jobs: Vec<_> =
        targets.iter().flat_map(|t| levels(*t, options).into_iter().map(|l| (*t, l))).collect();
    progress.begin("code", jobs.len() as u64);
    let mut all = vec![];
    for (target, isa) in jobs {
        all.push(code(kernels, target, isa)?);
        progress.done(1);
    }
    Ok(all)
}

/// Where and how a file is written.
pub struct Output<'a> {
    /// The file.
    pub path: &'a Path,
    /// Executable that the sections are appended to; none for a plain artifact.
    pub stub: Option<&'a [u8]>,
    /// In the file or beside it.
    pub weights: WeightsPlace,
    /// How weights are made of the checkpoint while loading; the artifact then holds those alone
    /// that the recipe says it does. None for all of them.
    pub recipe: Option<Recipe>,
    /// Flags for the manifest: [`Manifest::flags`].
    pub flags: BTreeMap<String, String>,
    /// Threads that pack.
    pub threads: usize,
    /// What a statement of provenance says beside what is known here; none for no statement.
    pub attest: Option<Asked>,
}

/// Bytes of the packed weights.
pub fn weights_bytes(lowered: &Lowered) -> u64 {
    lowered.plan.weights.iter().map(|w| w.offset + w.bytes).max().unwrap_or(0)
}

/// The recipe by which the weights of a lowered model stay in its checkpoint.
///
/// Errors: E0200 and E0212 where they are not in files of one.
pub fn stay_in_checkpoint(imported: &Imported, lowered: &Lowered) -> Result<Recipe, ImportError> {
    let (rows, program) = (&lowered.plan.weights, &imported.program);
    recipe::recipe(&lowered.packed, rows, program, &*imported.weights)
}

/// Writes an artifact of no model, such as one of probes alone.
///
/// Errors: E04xx.
pub fn write_plain(
    mut lowered: Lowered,
    code: &[Code],
    path: &Path,
) -> Result<Summary, CompileError> {
    set_scratch(&mut lowered, code);
    let mut writer = Writer::create(path, None, WeightsPlace::Inline)?;
    writer.manifest(&Manifest {
        format_version: artifact::format::FORMAT_VERSION,
        compiler_version: env!("CARGO_PKG_VERSION").into(),
        ..Manifest::default()
    })?;
    writer.plan(&lowered.plan)?;
    for c in code {
        writer.code("cpu", &c.isa, c.backend, &c.image)?;
    }
    writer.begin_weights()?;
    writer.end_section()?;
    Ok(writer.finish()?)
}

/// Scratch memory of each kernel: the most that any code of it takes.
fn set_scratch(lowered: &mut Lowered, code: &[Code]) {
    for kernel in &mut lowered.plan.kernels {
        let all = code.iter().filter_map(|c| c.scratch.get(&kernel.name));
        kernel.scratch_bytes = all.copied().max().unwrap_or(0);
    }
}

/// What was written.
pub struct Written {
    /// Files and their sizes.
    pub summary: Summary,
    /// What the formats asked for did to the weights.
    pub formats: Report,
}

/// Writes everything to one file, and what belongs beside it; they appear under their names when
/// all are whole.
///
/// Errors: E04xx, E0216, and whatever else the weights' source reports.
pub fn write(
    imported: &Imported,
    mut lowered: Lowered,
    code: &[Code],
    options: &Options,
    output: &Output<'_>,
    progress: &mut dyn Progress,
) -> Result<Written, CompileError> {
    set_scratch(&mut lowered, code);
    let mut writer = Writer::create(output.path, output.stub, output.weights)?;
    let manifest = manifest(imported, &lowered, code, options, &output.flags);
    writer.manifest(&manifest)?;
    writer.plan(&lowered.plan)?;
    if !lowered.certificates.is_empty() {
        let text = certificate::text(&lowered.certificates);
        writer.section(artifact::format::CERTIFICATE, &[], text.as_bytes())?;
    }
    writer.section(artifact::format::PROGRAM, &[], imported.program.to_string().as_bytes())?;
    for c in code {
        writer.code("cpu", &c.isa, c.backend, &c.image)?;
    }
    for file in &imported.companions {
        let name = file.name.split('.').next().unwrap_or(file.name);
        writer.section(name, &[], &file.bytes)?;
    }
    let held = held(&lowered, output.recipe.as_ref());
    let screened = Screened::new(&*imported.weights);
    if let Some(mut recipe) = output.recipe.clone() {
        recipe::hash(&mut recipe, &screened, output.threads, progress)?;
        recipe.folder = recipe::folder_from(output.path, &recipe.folder)?;
        writer.recipe(&recipe)?;
    }
    let rounded =
        write_weights(&imported.program, &screened, &held, &mut writer, output.threads, progress)?;
    screened.verdict()?;
    let mut sealed = writer.seal()?;
    if let Some(asked) = &output.attest {
        let mut statement = statement(imported, &manifest, asked, output.threads, progress);
        sealed.files().try_for_each(|(path, written)| statement.add(path, written))?;
        sealed.state(output.path, statement.text().as_bytes())?;
    }
    let formats = Report::new(rounded, &lowered.packed, &options.weights);
    Ok(Written { summary: sealed.publish()?, formats })
}

/// Weights that a file holds, with their places in it.
fn held<'l>(lowered: &'l Lowered, recipe: Option<&Recipe>) -> Vec<(u64, &'l Packed)> {
    let rows = lowered.plan.weights.iter().zip(&lowered.packed);
    let Some(recipe) = recipe else { return rows.map(|(row, p)| (row.offset, p)).collect() };
    let stored = |(making, packed)| match making {
        &Making::Stored(at) => Some((at, packed)),
        _ => None,
    };
    recipe.weights.iter().zip(&lowered.packed).filter_map(stored).collect()
}

/// Writes the weights section; gives the weights that were rounded to codes with scales.
fn write_weights(
    program: &Program,
    weights: &dyn WeightSource,
    held: &[(u64, &Packed)],
    writer: &mut Writer,
    threads: usize,
    progress: &mut dyn Progress,
) -> Result<Vec<Rounded>, CompileError> {
    writer.begin_weights()?;
    let mut rounded = vec![];
    let bytes = |p: &Packed| p.layout().map_or(0, |layout| layout.size_bytes());
    progress.begin("weights", held.last().map_or(0, |(at, packed)| at + bytes(packed)));
    for (offset, packed) in held {
        while writer.position() < *offset {
            let gap = (offset - writer.position()).min(4096);
            writer.write(&[0; 4096][..gap as usize])?;
        }
        let rounding = pack(packed, program, weights, threads, &mut |bytes| {
            progress.done(bytes.len() as u64);
            writer.write(bytes).map_err(CompileError::from)
        })?;
        let of = |rounding| Rounded { name: packed.name(), encoding: packed.encoding, rounding };
        rounded.extend(rounding.map(of));
    }
    writer.end_section()?;
    Ok(rounded)
}

fn manifest(
    imported: &Imported,
    lowered: &Lowered,
    code: &[Code],
    options: &Options,
    flags: &BTreeMap<String, String>,
) -> Manifest {
    let info = &imported.info;
    let mut isa_levels: Vec<String> = vec![];
    for c in code {
        if !isa_levels.contains(&c.isa) {
            isa_levels.push(c.isa.clone());
        }
    }
    let generation = GenerationDefaults {
        temperature: info.generation.temperature,
        top_p: info.generation.top_p,
        top_k: info.generation.top_k.and_then(|k| u32::try_from(k).ok()),
        do_sample: info.generation.sample,
        eos: info.eos.clone(),
    };
    Manifest {
        format_version: artifact::format::FORMAT_VERSION,
        compiler_version: env!("CARGO_PKG_VERSION").into(),
        model: model(imported, info, lowered),
        targets: vec![TargetInfo { name: "cpu".into(), isa_levels }],
        options: options.values().into_iter().collect(),
        flags: flags.clone(),
        inputs: imported.inputs.clone(),
        generation,
        warnings: imported.warnings.iter().map(ToString::to_string).collect(),
    }
}

fn model(
    imported: &Imported,
    info: &ModelInfo,
    lowered: &Lowered,
) -> artifact::manifest::ModelInfo {
    let largest = imported.program.weights.iter().max_by_key(|w| w.dims.iter().product::<i64>());
    artifact::manifest::ModelInfo {
        family: info.family.into(),
        name: info.name.clone(),
        vocab_size: info.vocab as u32,
        context_length: info.context as u64,
        bos: info.bos.clone(),
        eos: info.eos.clone(),
        hidden_size: info.hidden as u64,
        layers: lowered.plan.states.iter().map(|s| s.layers).max().unwrap_or(0),
        dtype: largest.map_or(String::new(), |w| w.encoding.to_string()),
    }
}
