//! An opened model: mapped file, code for this machine, plan. Immutable, shared by sessions.

use crate::affinity;
use crate::checkpoint::Checkpoint;
use crate::error::RuntimeError;
use crate::hashed::Hashed;
use crate::isa::Lacking;
use crate::load::{Image, KernelFn};
use crate::pool::MOST_WORKERS;
use crate::step::{FORWARD, Shape};
use artifact::format::{STUB, WEIGHTS};
use artifact::plan::Bucket;
use artifact::reader::{Code, Weights};
use artifact::regular;
use artifact::{Location, Manifest, Plan, Reader, Recipe, Section};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Weights up to this size are hashed at every load.
const ALWAYS_CHECKED: u64 = 2 << 30;
/// Backends in the order of preference at equal instruction set level.
const BACKENDS: [&str; 2] = ["llvm", "cranelift"];

/// How to open a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Worker threads; `None` for one per CPU that affinity mask and control group allow.
    pub threads: Option<usize>,
    /// Instruction set level, as `LEVEL` or `LEVEL/BACKEND`; `None` for the best that both file
    /// and machine have.
    pub isa: Option<String>,
    /// Whether to hash all weights while loading, however large they are.
    pub check: bool,
    /// Folder of the checkpoint that weights lie in; `None` for where it was when compiling, as
    /// seen from the artifact.
    pub checkpoint: Option<PathBuf>,
}

/// Sizes that do not depend on a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Packed weights.
    pub weights_bytes: u64,
    /// All states of all layers for one token.
    pub kv_bytes_per_token: u64,
    /// Scratch of one worker thread.
    pub scratch_bytes: u64,
}

/// An opened model.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    file: Mmap,
    sections: Vec<Section>,
    weights: MappedWeights,
    manifest: Manifest,
    plan: Plan,
    isa: String,
    backend: String,
    /// Keeps the kernels' code in memory.
    _image: Image,
    kernels: Vec<KernelFn>,
    threads: usize,
    weights_checked: bool,
    hashed: Hashed,
}

#[derive(Debug)]
enum MappedWeights {
    Here(Range<usize>),
    /// A weights file, whose first page is its header.
    External(Mmap),
    /// Made of the checkpoint, but for those that are in the file itself.
    Checkpoint {
        of: Box<Checkpoint>,
        stored: Range<usize>,
    },
}

impl Model {
    /// Opens an artifact, or an executable that holds one.
    ///
    /// # Errors
    /// [`RuntimeError`]: the file is damaged, has no code for this machine, or needs what this
    /// runtime does not do.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Model, RuntimeError> {
        let file = regular::open(path).map_err(|error| failed("open", path, error))?;
        Model::from_file(&file, path, options)
    }

    /// Opens the artifact in the running executable.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_self(options: &LoadOptions) -> Result<Model, RuntimeError> {
        let own = Path::new("/proc/self/exe");
        match File::open(own) {
            Ok(file) => {
                // The real path, beside which a weights file lies.
                let path = std::env::current_exe().unwrap_or_else(|_| own.to_owned());
                Model::from_file(&file, &path, options)
            }
            Err(error) => match own_path() {
                Some(path) => Model::open(&path, options),
                None => Err(failed("open", own, error)),
            },
        }
    }

    fn from_file(file: &File, path: &Path, options: &LoadOptions) -> Result<Model, RuntimeError> {
        let threads = options.threads.unwrap_or_else(affinity::available);
        if threads == 0 || threads > MOST_WORKERS {
            return Err(RuntimeError::ThreadCount { found: threads, most: MOST_WORKERS });
        }
        let file = map(file, path)?;
        let refused = |error| refused(path, error);
        let reader = Reader::open(&file).map_err(refused)?;
        let manifest = reader.manifest().map_err(refused)?;
        let plan = reader.plan().map_err(refused)?;
        check_supported(&plan)?;
        let code = choose(&reader.code(), options.isa.as_deref(), Lacking::here())?;
        let image = Image::load(code.bytes)?;
        let kernels = plan.kernels.iter().map(|kernel| {
            image.kernel(&kernel.name).ok_or_else(|| RuntimeError::MissingKernel {
                kernel: kernel.name.clone(),
                section: code.name.into(),
            })
        });
        let kernels = kernels.collect::<Result<_, _>>()?;
        let weights = match reader.recipe(&plan).map_err(refused)? {
            Some(recipe) => from_checkpoint(recipe, &reader, &file, path, options)?,
            None if options.checkpoint.is_some() => return Err(no_recipe()),
            None => map_weights(&reader, &file, path)?,
        };
        let mut model = Model {
            path: path.to_owned(),
            sections: reader.sections().to_vec(),
            weights,
            manifest,
            plan,
            isa: code.isa.into(),
            backend: code.backend.into(),
            _image: image,
            kernels,
            threads,
            weights_checked: false,
            hashed: Hashed::default(),
            file,
        };
        if options.check || model.memory().weights_bytes < ALWAYS_CHECKED {
            model.verify_weights(&|_, _| {})?;
            model.weights_checked = true;
        }
        Ok(model)
    }

    /// Hashes all weights; of a checkpoint's files what was not hashed before. `progress` is told
    /// the bytes done and their total, from any thread.
    ///
    /// # Errors
    /// [`artifact::ArtifactError::WeightsDamaged`], [`artifact::ArtifactError::Checkpoint`].
    pub fn verify_weights(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<(), RuntimeError> {
        match &self.weights {
            MappedWeights::Checkpoint { of, stored } => {
                self.verify_held(&self.file[stored.clone()], &|_, _| {})?;
                of.verify(self.threads, progress)
            }
            _ => self.verify_held(self.weights(), progress),
        }
    }

    /// Hashes the weights that the artifact or its weights file holds.
    fn verify_held(
        &self,
        bytes: &[u8],
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(), RuntimeError> {
        let Some(section) = self.sections.iter().find(|s| s.name == WEIGHTS) else {
            return Ok(());
        };
        let verify =
            |told: &(dyn Fn(u64, u64) + Sync)| section.verify_chunks(bytes, self.threads, told);
        self.hashed.count(progress, verify).map_err(|error| match &section.location {
            Location::External { file } => refused(&self.path.with_file_name(file), error),
            Location::Here { .. } => refused(&self.path, error),
        })
    }

    /// Whether all weights were hashed while loading.
    pub fn weights_checked(&self) -> bool {
        self.weights_checked
    }

    /// Bytes of weights that were hashed since the model was opened, each as often as it was. Once
    /// all are checked, that is the length of the weights; of those that stay in a checkpoint, the
    /// length of its files and of what the artifact holds itself.
    pub fn hashed_bytes(&self) -> u64 {
        let made = match &self.weights {
            MappedWeights::Checkpoint { of, .. } => of.hashed_bytes(),
            MappedWeights::Here(_) | MappedWeights::External(_) => 0,
        };
        self.hashed.bytes() + made
    }

    /// Where the model was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Instruction set level of the chosen code.
    pub fn isa(&self) -> &str {
        &self.isa
    }

    /// What made the chosen code.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Worker threads of a session.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The section table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The bytes of a section in the file itself, e.g. the tokenizer.
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        self.sections.iter().find(|section| section.name == name)?.bytes_in(&self.file)
    }

    /// Whether the file is an executable.
    pub fn is_executable(&self) -> bool {
        self.sections.first().is_some_and(|section| section.name == STUB)
    }

    /// Sizes that do not depend on a step.
    pub fn memory(&self) -> Memory {
        let states = self.plan.states.iter();
        let per_token = states.map(|s| s.bytes_per_token.saturating_mul(s.layers.into()));
        Memory {
            weights_bytes: match &self.weights {
                MappedWeights::Checkpoint { .. } => {
                    let weights = self.plan.weights.iter().map(|weight| weight.bytes);
                    weights.fold(0, u64::saturating_add)
                }
                _ => self.weights().len() as u64,
            },
            kv_bytes_per_token: per_token.fold(0, u64::saturating_add),
            scratch_bytes: self.plan.kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0),
        }
    }

    /// The plan's bucket that serves a step of this shape, and the values of the plan's symbols.
    ///
    /// # Errors
    /// [`RuntimeError::NoBucket`], [`RuntimeError::Unsupported`], [`RuntimeError::StepTooLarge`].
    pub fn bucket(&self, shape: &Shape) -> Result<(&Bucket, Vec<i64>), RuntimeError> {
        let symbols = shape.symbols(&self.plan.symbols)?;
        let entry = self.plan.entries.iter().find(|entry| entry.name == FORWARD);
        let mut buckets = entry.iter().flat_map(|entry| &entry.buckets);
        let bucket = buckets.find(|b| b.covers(&symbols)).ok_or_else(|| {
            RuntimeError::NoBucket { entry: FORWARD.into(), step: shape.to_string() }
        })?;
        Ok((bucket, symbols))
    }

    /// Bytes of the arena that a step of this shape needs.
    ///
    /// # Errors
    /// As [`Model::bucket`], and [`RuntimeError::Size`].
    pub fn arena_bytes(&self, shape: &Shape) -> Result<u64, RuntimeError> {
        let (bucket, symbols) = self.bucket(shape)?;
        let size = |expr: &artifact::size::SizeExpr| {
            let value = expr.eval(&symbols);
            value.and_then(|v| u64::try_from(v).ok()).ok_or_else(|| RuntimeError::Size {
                what: format!("arena of bucket `{}`", bucket.name),
                found: format!("{value:?}"),
                expected: "a size".into(),
            })
        };
        let sizes = bucket.arenas.iter().map(size);
        sizes.sum()
    }

    /// Address of each of the plan's weights. Those of a checkpoint are made the first time.
    ///
    /// # Errors
    /// [`artifact::ArtifactError::Checkpoint`], [`artifact::ArtifactError::WeightsDamaged`],
    /// [`RuntimeError::OutOfMemory`].
    pub(crate) fn weight_addresses(&self) -> Result<Vec<u64>, RuntimeError> {
        if let MappedWeights::Checkpoint { of, stored } = &self.weights {
            let checked = || {
                let stored = &self.file[stored.clone()];
                if !self.weights_checked {
                    self.verify_held(stored, &|_, _| {})?;
                }
                Ok(stored)
            };
            let addresses = of.addresses(&self.plan.weights, self.threads, checked)?;
            return Ok(addresses.to_vec());
        }
        let base = self.weights().as_ptr() as u64;
        Ok(self.plan.weights.iter().map(|weight| base + weight.offset).collect())
    }

    /// Weights in one piece; of those made of a checkpoint, what is packed.
    pub(crate) fn weights(&self) -> &[u8] {
        match &self.weights {
            MappedWeights::Here(range) => &self.file[range.clone()],
            // The header was checked when opening.
            MappedWeights::External(map) => &map[artifact::format::PAGE as usize..],
            MappedWeights::Checkpoint { of, .. } => of.packed(),
        }
    }

    /// The plan's kernels, by position.
    pub(crate) fn kernels(&self) -> &[KernelFn] {
        &self.kernels
    }
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> RuntimeError {
    RuntimeError::Io { action, path: path.to_owned(), source }
}

fn refused(path: &Path, error: artifact::ArtifactError) -> RuntimeError {
    RuntimeError::Artifact { path: path.to_owned(), error }
}

fn map(file: &File, path: &Path) -> Result<Mmap, RuntimeError> {
    // SAFETY: the mapping is read-only. Whoever changes the file while it is in use breaks the
    // model, as with any executable: the writer of artifacts renames, never overwrites.
    unsafe { Mmap::map(file) }.map_err(|error| failed("map", path, error))
}

fn map_weights(
    reader: &Reader<'_>,
    file: &Mmap,
    path: &Path,
) -> Result<MappedWeights, RuntimeError> {
    if !reader.sections().iter().any(|section| section.name == WEIGHTS) {
        return Ok(MappedWeights::Here(0..0));
    }
    match reader.weights().map_err(|error| refused(path, error))? {
        Weights::Here(bytes) => {
            let start = bytes.as_ptr() as usize - file.as_ptr() as usize;
            Ok(MappedWeights::Here(start..start + bytes.len()))
        }
        Weights::External(name) => {
            let path = path.with_file_name(name);
            let file = regular::open(&path).map_err(|error| failed("open", &path, error))?;
            let file = map(&file, &path)?;
            reader.external_weights(&file).map_err(|error| refused(&path, error))?;
            Ok(MappedWeights::External(file))
        }
    }
}

fn from_checkpoint(
    recipe: Recipe,
    reader: &Reader<'_>,
    file: &Mmap,
    path: &Path,
    options: &LoadOptions,
) -> Result<MappedWeights, RuntimeError> {
    let MappedWeights::Here(stored) = map_weights(reader, file, path)? else {
        return Err(RuntimeError::Unsupported {
            what: "place of the weights that a checkpoint lacks".into(),
            found: "a second file".into(),
            expected: "the artifact".into(),
        });
    };
    // Links are followed first: the folder is named from where the artifact itself lies.
    let artifact = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let own = artifact.with_file_name(&recipe.folder);
    let of = Checkpoint::open(recipe, options.checkpoint.as_ref().unwrap_or(&own))?;
    Ok(MappedWeights::Checkpoint { of: Box::new(of), stored })
}

fn no_recipe() -> RuntimeError {
    RuntimeError::Unsupported {
        what: "`--checkpoint`".into(),
        found: "given for a file with weights of its own".into(),
        expected: "one that was compiled with `--weights checkpoint`".into(),
    }
}

/// Where this program's executable lies, links followed; without `/proc`, as it was executed.
pub fn own_path() -> Option<PathBuf> {
    std::env::current_exe().ok().or_else(|| executed_path()?.canonicalize().ok())
}

/// The path this program was executed by.
fn executed_path() -> Option<PathBuf> {
    // SAFETY: reads the auxiliary vector.
    let text = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if text.is_null() {
        return None;
    }
    // SAFETY: the kernel put a C string there that lives as long as the process.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(text.to_bytes());
    Some(PathBuf::from(bytes))
}

fn check_supported(plan: &Plan) -> Result<(), RuntimeError> {
    match plan.places.iter().find(|place| place.kind != "cpu") {
        Some(place) => Err(RuntimeError::Unsupported {
            what: format!("place `{}`", place.name),
            found: format!("of kind `{}`", place.kind),
            expected: "cpu".into(),
        }),
        None if plan.places.len() == 1 => Ok(()),
        None => Err(RuntimeError::Unsupported {
            what: "number of places".into(),
            found: plan.places.len().to_string(),
            expected: "1".into(),
        }),
    }
}

/// The best code that a machine runs, or that of the level `asked`.
fn choose<'a>(
    codes: &[Code<'a>],
    asked: Option<&str>,
    lacking: &Lacking,
) -> Result<Code<'a>, RuntimeError> {
    let machine = lacking.supported();
    let codes: Vec<_> = codes.iter().filter(|code| code.target == "cpu").copied().collect();
    let levels = || {
        let names = codes.iter().map(|code| format!("{}/{}", code.isa, code.backend));
        let names = names.collect::<Vec<_>>().join(", ");
        if names.is_empty() { "none".to_owned() } else { names }
    };
    let mut found = codes.clone();
    if let Some(asked) = asked {
        let (level, backend) = asked.split_once('/').map_or((asked, None), |(l, b)| (l, Some(b)));
        found.retain(|code| code.isa == level && backend.is_none_or(|b| b == code.backend));
        if found.is_empty() {
            return Err(RuntimeError::Isa { asked: asked.into(), has: levels() });
        }
        if !machine.contains(&level) {
            let (lacks, runs) = (lacking.words(level), lacking.runs());
            return Err(RuntimeError::Lacking { asked: asked.into(), lacks, runs });
        }
    }
    let rank = |code: &Code<'_>| {
        let level = machine.iter().position(|level| *level == code.isa)?;
        let backend = BACKENDS.iter().position(|backend| *backend == code.backend);
        Some((level, backend.unwrap_or(BACKENDS.len())))
    };
    let best = found.into_iter().filter_map(|code| Some((rank(&code)?, code)));
    let best = best.min_by_key(|(rank, _)| *rank).map(|(_, code)| code);
    best.ok_or_else(|| RuntimeError::NoCode { found: levels(), expected: lacking.runs() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{self, Machine};

    fn code(isa: &'static str, backend: &'static str) -> Code<'static> {
        Code { target: "cpu", isa, backend, name: "", bytes: &[] }
    }

    #[test]
    fn the_best_code_is_chosen() {
        let machine = isa::supported();
        let (best, worst) = (machine[0], machine[machine.len() - 1]);
        let codes = [code(worst, "llvm"), code(best, "cranelift"), code("z80", "llvm")];
        let chosen = |codes: &[Code<'static>], asked| {
            let chosen = choose(codes, asked, Lacking::here());
            chosen.map(|c| (c.isa, c.backend)).map_err(|error| error.code())
        };
        let expected = if best == worst { "llvm" } else { "cranelift" };
        assert_eq!(chosen(&codes, None), Ok((best, expected)));
        let both = [code(best, "cranelift"), code(best, "llvm")];
        assert_eq!(chosen(&both, None), Ok((best, "llvm")));
        let asked = format!("{best}/cranelift");
        assert_eq!(chosen(&both, Some(&asked)), Ok((best, "cranelift")));
        assert_eq!(chosen(&codes, Some(worst)), Ok((worst, "llvm")));
        assert_eq!(chosen(&codes, Some("z80")), Err("E0523"));
        assert_eq!(chosen(&codes, Some("x86-64-v9")), Err("E0503"));
        assert_eq!(chosen(&[code("z80", "llvm")], None), Err("E0502"));
        assert_eq!(chosen(&[], None), Err("E0502"));
    }

    /// Of a machine whose system refuses tile registers.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_refused_permission_falls_back() {
        let refused = Machine { has: |_| true, permits_tiles: || false };
        let lacking = Lacking::of(refused);
        let codes = isa::X86_64.iter().map(|level| code(level.name, "llvm"));
        let codes: Vec<_> = codes.collect();
        let best = choose(&codes, None, &lacking).expect("code of a lower level");
        assert_eq!(best.isa, "x86-64-v4-bf16");
        let forced = choose(&codes, Some("x86-64-amx"), &lacking).expect_err("no permission");
        assert!(forced.to_string().contains("lacks the system's permission"), "{forced}");
        let permitted = Lacking::of(Machine { permits_tiles: || true, ..refused });
        let best = choose(&codes, None, &permitted).expect("code");
        assert_eq!(best.isa, "x86-64-amx");
    }
}
