//! Models compiled, loaded and stepped in this process.

use crate::is_long;
use crate::oracle::Launched;
use compiler::compile::{self, CompileError, Output, all_code, code, write};
use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::variant::Variant;
use compiler::lower::{self, Lowered};
use compiler::options::Options;
use compiler::progress::Silent;
use compiler::variants::variants;
use generate::engine::{Engine, LoadOptions, Model, ModelEngine, Part, Want};
use generate::logits::{Feed, every_position};
use ir::device::DeviceSpec;
use ir::graph::program::Program;
use ir::target::Target;
use runtime::load::Image;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Every target of this build.
pub fn targets() -> Vec<Box<dyn Target>> {
    vec![
        #[cfg(feature = "llvm")]
        Box::new(target_llvm::Llvm::host()),
        Box::new(target_cranelift::Cranelift),
    ]
}

/// How many of the instruction set levels that this machine has to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// The best of each target.
    Best,
    /// One of each target: that whose turn it is.
    Turn(usize),
    /// All of each target.
    All,
}

impl Levels {
    /// All where long tests are asked for; else, of each target, that whose turn it is.
    pub fn in_turn(turn: usize) -> Levels {
        if is_long() { Levels::All } else { Levels::Turn(turn) }
    }

    /// Which of a target's levels these are; best last.
    pub fn of(self, all: Vec<&'static str>) -> Vec<&'static str> {
        match self {
            Levels::Best => all[all.len() - 1..].to_vec(),
            Levels::Turn(turn) => vec![all[turn % all.len()]],
            Levels::All => all,
        }
    }
}

/// Instruction set levels of a target that this machine runs, best last.
pub fn levels(target: &dyn Target, which: Levels) -> Vec<&'static str> {
    let runs = runtime::isa::supported();
    let all = target.isa_levels().iter().copied().filter(|l| runs.contains(l));
    let all: Vec<&'static str> = all.collect();
    assert!(!all.is_empty(), "{} has a level for this machine", target.name());
    which.of(all)
}

/// An artifact with code of every target.
pub struct Built {
    _dir: TempDir,
    /// Where it lies.
    pub path: PathBuf,
    /// The code it has, each as `LEVEL/BACKEND`.
    pub ways: Vec<String>,
}

/// Compiles a checkpoint, or a lone config with made-up weights.
pub fn build(model: &Path, made_up: Option<u64>, options: &Options, which: Levels) -> Built {
    let import_options = ImportOptions { dummy_weights: made_up, ..ImportOptions::default() };
    let imported = import(model, &import_options).unwrap_or_else(|e| panic!("{e:?}"));
    build_imported(&imported, Stage::Rewritten, options, which)
}

/// In which form a program is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// As it is stated.
    Stated,
    /// As rewriting chose.
    Rewritten,
}

impl Stage {
    /// The program for each range of steps.
    pub fn variants(self, program: &Program, options: &Options) -> Vec<Variant> {
        match self {
            Stage::Stated => Variant::of_all(program),
            Stage::Rewritten => {
                let chosen = variants(program, options, &DeviceSpec::default());
                chosen.unwrap_or_else(|e| panic!("{e}"))
            }
        }
    }
}

/// Compiles an imported model.
pub fn build_imported(
    imported: &Imported,
    stage: Stage,
    options: &Options,
    which: Levels,
) -> Built {
    let (program, device) = (&imported.program, DeviceSpec::default());
    let lowered = match stage {
        Stage::Stated => lower::lower(program, options, &device).map_err(CompileError::from),
        Stage::Rewritten => compile::lower(program, options, &device),
    };
    let lowered = lowered.unwrap_or_else(|e| panic!("{}: {e}", e.code()));
    build_lowered(imported, lowered, options, which)
}

/// Compiles kernels that were lowered, or read from a text.
pub fn build_lowered(
    imported: &Imported,
    lowered: Lowered,
    options: &Options,
    which: Levels,
) -> Built {
    let (mut code, mut ways) = (vec![], vec![]);
    for target in targets() {
        let isa: Vec<String> = levels(&*target, which).iter().map(ToString::to_string).collect();
        ways.extend(isa.iter().map(|l| format!("{l}/{}", target.name())));
        let options = Options { isa, ..options.clone() };
        let more = all_code(&lowered.kernels, &[&*target], &options, &mut Silent);
        code.extend(more.unwrap_or_else(|e| panic!("{}: {e}", e.code())));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.lat");
    let weights = artifact::writer::WeightsPlace::Inline;
    let flags = Default::default();
    let output =
        Output { path: &path, stub: None, weights, recipe: None, flags, threads: 1, attest: None };
    let written = write(imported, lowered, &code, options, &output, &mut Silent);
    written.unwrap_or_else(|e| panic!("{}: {e}", e.code()));
    Built { _dir: dir, path, ways }
}

impl Built {
    /// A session of one way of running it, with room for so many tokens.
    pub fn engine(&self, way: &str, threads: usize, tokens: usize) -> ModelEngine {
        let options = LoadOptions {
            threads: Some(threads),
            isa: Some(way.to_string()),
            check: true,
            ..LoadOptions::default()
        };
        let model = Model::open(&self.path, &options).unwrap_or_else(|e| panic!("{way}: {e}"));
        assert_eq!(format!("{}/{}", model.isa(), model.backend()), way);
        ModelEngine::new(&Arc::new(model), tokens).unwrap()
    }
}

/// Logits of every position of each prompt, row by row.
pub fn logits(engine: &mut ModelEngine, prompts: &[Vec<i32>], feed: Feed) -> Vec<Vec<f32>> {
    let vocab = engine.vocab();
    let mut all = vec![vec![]; prompts.len()];
    let done = every_position(engine, prompts, feed, &mut |at, block| {
        assert_eq!(all[at.prompt].len(), at.position * vocab, "blocks come in order");
        all[at.prompt].extend_from_slice(block);
        Ok(())
    });
    done.unwrap();
    all
}

/// The greedy continuation of a prompt.
pub fn greedy(engine: &mut ModelEngine, prompt: &[i32], count: usize) -> Vec<i32> {
    let tokens = prompt.len() + count;
    let pages: Vec<u32> = (0..tokens.div_ceil(engine.page_tokens()) as u32).rev().collect();
    let (mut past, mut new) = (0, prompt.to_vec());
    let mut found = vec![];
    for _ in 0..count {
        let part = Part { tokens: &new, past, pages: &pages, want: Want::Last };
        let row = engine.step(&[part]).unwrap();
        let best = (0..row.len()).reduce(|b, i| if row[i] > row[b] { i } else { b }).unwrap();
        past += new.len();
        new = vec![best as i32];
        found.push(best as i32);
    }
    found
}

/// Native code of one target, run launch by launch under [`crate::oracle::Oracle::walk`].
pub struct NativeCode {
    image: Image,
    scratch: BTreeMap<String, u64>,
}

/// Memory as kernels may expect it: a whole cache line at a time.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; LINE]);

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lines that hold these bytes, and one behind.
fn lines(bytes: &[u8]) -> Vec<Line> {
    let mut lines: Vec<Line> = vec![Line([0; LINE]); bytes.len() / LINE + 2];
    for (line, chunk) in lines.iter_mut().zip(bytes.chunks(LINE)) {
        line.0[..chunk.len()].copy_from_slice(chunk);
    }
    lines
}

impl NativeCode {
    /// Compiles the kernels for the best level of a target that this machine runs.
    pub fn new(lowered: &Lowered, target: &dyn Target) -> Self {
        let isa = levels(target, Levels::Best)[0];
        let code = code(&lowered.kernels, target, isa);
        let code = code.unwrap_or_else(|e| panic!("{}: {e}", e.code()));
        NativeCode { image: Image::load(&code.image).unwrap(), scratch: code.scratch }
    }

    /// Runs a launch on its arguments' memory.
    pub fn run(&self, launched: &Launched<'_>, memory: &mut [Vec<u8>]) {
        let Launched { kernel, symbols, grid, .. } = launched;
        let (each, list) = *grid;
        let tuples = list.map_or(1, |at| i32::from_le_bytes(memory[at][..4].try_into().unwrap()));
        let mut copies: Vec<Vec<Line>> = memory.iter().map(|bytes| lines(bytes)).collect();
        let mut args: Vec<u64> = copies.iter_mut().map(|c| c.as_mut_ptr() as u64).collect();
        args.extend(symbols.iter().map(|s| *s as u64));
        let mut scratch = lines(&vec![0; self.scratch[&*kernel.name] as usize]);
        let entry = self.image.kernel(&kernel.name).expect("a kernel of the program");
        // SAFETY: a pointer for each parameter and a value for each symbol, as the kernels' ABI
        // has it; all memory is of the size that the plan states, and outlives the call.
        unsafe {
            entry(args.as_ptr(), 0, each * i64::from(tuples), scratch.as_mut_ptr().cast());
        }
        for (bytes, copy) in memory.iter_mut().zip(&copies) {
            for (chunk, line) in bytes.chunks_mut(LINE).zip(copy) {
                chunk.copy_from_slice(&line.0[..chunk.len()]);
            }
        }
    }
}
