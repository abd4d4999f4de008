//! Kernels of whole models, launch by launch, against the kernel interpreter. What runs is the linked
//! image that an artifact holds.

use super::{EMULATOR, GCC, MODELS, PROCESSORS, wanted};
use compiler::compile::{Code, code, lower};
use compiler::import::{ImportOptions, import};
use compiler::options::{Compute, Options};
use ir::device::DeviceSpec;
use ir::target::Target;
use object::{Object, ObjectSegment, ObjectSymbol};
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tests::goldens::{model, prompts, relative_error};
use tests::oracle::{Launched, Oracle, Part};

/// An emulated process that has an image's code.
struct Emulated {
    process: Child,
    offsets: BTreeMap<String, u64>,
    scratch: BTreeMap<String, u64>,
}

impl Emulated {
    fn new(folder: &Path, code: &Code) -> Emulated {
        let processor = PROCESSORS.iter().find(|(level, _)| *level == code.isa).unwrap().1;
        let (runner, image) = (folder.join("runner"), folder.join("image"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aarch64/runner.c");
        let mut gcc = Command::new(GCC);
        let built = gcc.args(["-static", "-O1", "-o"]).arg(&runner).arg(source).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let file = object::File::parse(&*code.image).unwrap();
        let moved = file.dynamic_relocations().is_some_and(|mut all| all.next().is_some());
        assert!(!moved, "code of kernels does not depend on where it lies");
        let mut bytes = vec![];
        for segment in file.segments() {
            bytes.resize((segment.address() + segment.size()) as usize, 0);
            let data = segment.data().unwrap();
            bytes[segment.address() as usize..][..data.len()].copy_from_slice(data);
        }
        std::fs::write(&image, bytes).unwrap();
        let functions = file.dynamic_symbols();
        let offsets = functions.map(|s| (s.name().unwrap().to_owned(), s.address())).collect();
        let mut command = Command::new(EMULATOR);
        command.args(["-cpu", processor]).arg(runner).arg(image);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = command.spawn().unwrap();
        Emulated { process, offsets, scratch: code.scratch.clone() }
    }

    /// Runs a launch on its arguments' memory.
    fn run(&mut self, launched: &Launched<'_>, memory: &mut [Vec<u8>]) {
        let Launched { kernel, symbols, grid: (each, list), .. } = launched;
        let tuples = list.map_or(1, |at| i32::from_le_bytes(memory[at][..4].try_into().unwrap()));
        let name = &*kernel.name;
        let end = (each * i64::from(tuples)) as u64;
        let mut input = vec![];
        let mut word = |v: u64| input.extend(v.to_le_bytes());
        let count = memory.len() as u64;
        [self.offsets[name], self.scratch[name], 0, end, count].into_iter().for_each(&mut word);
        for bytes in memory.iter() {
            input.extend((bytes.len() as u64).to_le_bytes());
            input.extend(bytes);
        }
        input.extend((symbols.len() as u64).to_le_bytes());
        symbols.iter().for_each(|s| input.extend(s.to_le_bytes()));
        self.process.stdin.as_mut().unwrap().write_all(&input).unwrap();
        for bytes in memory {
            let read = self.process.stdout.as_mut().unwrap().read_exact(bytes);
            read.unwrap_or_else(|e| panic!("{name}: {e}, {:?}", self.process.try_wait()));
        }
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // At the end of its input the process ends by itself.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Logits of a short prompt, of all but its last token at once and then of that one, are those of
/// the interpreter.
fn check(name: &str, compute: Compute, target: &dyn Target, level: &str) {
    let imported = import(&model(name), &ImportOptions::default()).unwrap();
    let options = Options { compute, page_tokens: 16, ..Options::default() };
    let lowered = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
    let made = code(&lowered.kernels, target, level).unwrap_or_else(|e| panic!("{level}: {e}"));
    let folder = tempfile::tempdir().unwrap();
    let mut emulated = Emulated::new(folder.path(), &made);
    let all = prompts(name);
    let ids = &all.iter().find(|p| (4..=16).contains(&p.ids.len())).expect("a short one").ids;
    let (most, last) = ids.split_at(ids.len() - 1);
    let [mut right, mut found] = [(); 2].map(|()| Oracle::new(&imported, &lowered, 2));
    for (tokens, past) in [(most, 0), (last, most.len())] {
        let part = || [Part { tokens, past, pages: &[1, 0] }];
        let expected = right.step::<f32>(&part());
        let outputs =
            found.walk(&part(), &HashMap::new(), &mut |l, memory| emulated.run(l, memory));
        let logits: Vec<f32> = outputs["logits"].iter().map(|w| f32::from_bits(*w)).collect();
        let error = relative_error(&logits, &expected);
        println!("{name}, {level}/{}, {} tokens: {error:.1e}", target.name(), tokens.len());
        let bound = if compute == Compute::F32 { 1e-5 } else { 2e-2 };
        assert!(error < bound, "{name}, {level}: {error:e}");
    }
}

#[test]
#[cfg(feature = "llvm")]
fn models_by_llvm() {
    if !wanted() {
        return;
    }
    let target = target_llvm::Llvm::aarch64();
    for name in MODELS {
        for level in target.levels() {
            check(name, Compute::F32, &target, level);
        }
    }
    check("rand-llama", Compute::Bf16, &target, "aarch64-v8.2");
}

#[test]
fn models_by_cranelift() {
    if !wanted() {
        return;
    }
    for name in MODELS {
        check(name, Compute::F32, &target_cranelift::Cranelift, "aarch64-v8");
    }
}
