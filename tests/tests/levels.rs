//! Code of a level has no instruction of a higher one: the machine code of whole models is decoded
//! as the processor would meet it, and each instruction's features are compared with the level's.
//!
//! Of x86-64. The decoder knows no AArch64; that code is held to its level by LLVM alone.
#![allow(clippy::unwrap_used)]

use compiler::compile::{code, lower};
use compiler::import::{ImportOptions, import};
use compiler::options::{Compute, Options};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use ir::device::DeviceSpec;
use ir::kernel::Kernel;
use ir::target::Target;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};
use runtime::isa::{AARCH64, X86_64};
use std::collections::{BTreeMap, BTreeSet};
use tests::goldens::{model, root};

/// What every processor of x86-64 has.
const BASE: [&str; 12] = [
    "intel8086",
    "intel186",
    "intel286",
    "intel386",
    "intel486",
    "x64",
    "cmov",
    "fpu",
    "mmx",
    "sse",
    "sse2",
    "multibytenop",
];

/// Features of a level and of those below it, spelt as [`features`] does.
fn allowed(level: &str) -> BTreeSet<String> {
    let at = X86_64.iter().position(|l| l.name == level).expect("a level that the runtime knows");
    let names = X86_64[..=at].iter().flat_map(|l| l.adds).copied().chain(BASE);
    names.map(|name| name.replace(['.', '-'], "")).collect()
}

/// Features of an instruction, all of which it takes.
fn features(i: &Instruction) -> impl Iterator<Item = String> {
    i.cpuid_features().iter().map(|f| format!("{f:?}").to_lowercase().replace('_', ""))
}

/// Code of an image, and where its functions begin.
struct Text<'i> {
    address: u64,
    bytes: &'i [u8],
    functions: Vec<u64>,
}

impl<'i> Text<'i> {
    fn of(image: &'i [u8]) -> Text<'i> {
        let file = object::File::parse(image).unwrap();
        let text = file.sections().find(|s| s.kind() == SectionKind::Text).expect("code");
        let functions: Vec<u64> = file.dynamic_symbols().map(|s| s.address()).collect();
        assert!(!functions.is_empty());
        Text { address: text.address(), bytes: text.data().unwrap(), functions }
    }

    fn decode(&self, at: u64) -> Instruction {
        let from = usize::try_from(at - self.address).unwrap();
        let code = self.bytes.get(from..).unwrap_or_default();
        let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
        decoder.decode()
    }

    /// Every instruction that can be reached from a function, by its address.
    fn reached(&self) -> BTreeMap<u64, Instruction> {
        let (mut all, mut open) = (BTreeMap::new(), self.functions.clone());
        while let Some(at) = open.pop() {
            if all.contains_key(&at) {
                continue;
            }
            let i = self.decode(at);
            assert!(!i.is_invalid(), "no instruction at {at:#x}");
            all.insert(at, i);
            match i.flow_control() {
                FlowControl::Next => open.push(i.next_ip()),
                FlowControl::ConditionalBranch | FlowControl::Call => {
                    open.extend([i.next_ip(), i.near_branch_target()]);
                }
                FlowControl::UnconditionalBranch => open.push(i.near_branch_target()),
                FlowControl::Return | FlowControl::Exception => {}
                other => panic!("{other:?} at {at:#x}: where it goes is not in the code"),
            }
        }
        all
    }

    /// Bytes beside those instructions that are no padding: constants, or code that is not
    /// looked at.
    fn beside(&self, reached: &BTreeMap<u64, Instruction>) -> usize {
        let (mut count, mut at) = (0, self.address);
        let end = self.address + self.bytes.len() as u64;
        while at < end {
            match reached.get(&at) {
                Some(i) => at = i.next_ip(),
                None => {
                    let i = self.decode(at);
                    let fills = matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
                    let length = if fills { i.len() as u64 } else { 1 };
                    count += usize::from(!fills && self.bytes[(at - self.address) as usize] != 0);
                    at += length;
                }
            }
        }
        count
    }
}

/// What instructions of an image take beyond a level: for each feature, one that does.
fn beyond(image: &[u8], level: &str) -> BTreeMap<String, String> {
    let allowed = allowed(level);
    let reached = Text::of(image).reached();
    let each = reached.values().flat_map(|i| features(i).map(move |f| (f, i)));
    let wrong = each.filter(|(f, _)| !allowed.contains(f));
    wrong.map(|(f, i)| (f, format!("{:?} at {:#x}", i.code(), i.ip()))).collect()
}

/// Every target that makes code for CPUs, with its levels of x86-64.
fn targets() -> Vec<(Box<dyn Target>, Vec<&'static str>)> {
    let of = |target: Box<dyn Target>| {
        let levels = target.isa_levels().iter().copied();
        let levels = levels.filter(|l| l.starts_with("x86-64")).collect();
        (target, levels)
    };
    vec![
        #[cfg(feature = "llvm")]
        of(Box::new(target_llvm::Llvm::x86_64())),
        of(Box::new(target_cranelift::Cranelift)),
    ]
}

/// Kernels of a whole model.
fn kernels(model_name: &str, compute: Compute) -> Vec<Kernel> {
    let imported = import(&model(model_name), &ImportOptions::default()).unwrap();
    let options = Options { compute, ..Options::default() };
    lower(&imported.program, &options, &DeviceSpec::default()).unwrap().kernels
}

/// Those of the texts, with operations that no model here needs.
fn worked() -> Vec<Kernel> {
    let folder = root().join("tests/files/kernel");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut all: Vec<Kernel> = vec![];
    for path in paths {
        let text = std::fs::read_to_string(path).unwrap();
        let more = ir::kernel::parse::kernels(&text).unwrap();
        let seen: Vec<_> = all.iter().map(|k| k.name.clone()).collect();
        all.extend(more.into_iter().filter(|k| !seen.contains(&k.name)));
    }
    all
}

/// Code of every target at every level keeps to it, and goes beyond the level before.
fn keep_to_levels(kernels: &[Kernel]) {
    for (target, levels) in targets() {
        for (at, level) in levels.iter().enumerate() {
            let way = format!("{level}/{}", target.name());
            let made = code(kernels, &*target, level).unwrap_or_else(|e| panic!("{way}: {e}"));
            let text = Text::of(&made.image);
            let reached = text.reached();
            let beside = text.beside(&reached);
            println!("{way}: {} instructions, {beside} bytes beside", reached.len());
            if target.name() == "llvm" {
                assert_eq!(beside, 0, "{way}: all code is reached, constants lie elsewhere");
            }
            assert_eq!(beyond(&made.image, level), BTreeMap::new(), "{way}");
            let Some(before) = at.checked_sub(1) else { continue };
            let more = beyond(&made.image, levels[before]);
            assert!(!more.is_empty(), "{way}: nothing beyond {}", levels[before]);
        }
    }
}

#[test]
fn attention_over_latents_and_experts() {
    keep_to_levels(&kernels("rand-v3", Compute::Bf16));
}

#[test]
fn weights_of_fp8() {
    keep_to_levels(&kernels("rand-v3-fp8", Compute::Bf16));
}

#[test]
fn dense_layers() {
    keep_to_levels(&kernels("rand-llama", Compute::Bf16));
}

#[test]
fn worked_kernels() {
    keep_to_levels(&worked());
}

/// What a code's instructions take is seen: of a level held against one far below.
#[test]
#[cfg(feature = "llvm")]
fn instructions_of_a_higher_level_are_found() {
    let target = target_llvm::Llvm::x86_64();
    let made = code(&kernels("rand-llama", Compute::Bf16), &target, "x86-64-v4").unwrap();
    assert_eq!(beyond(&made.image, "x86-64-v4"), BTreeMap::new());
    let wrong = beyond(&made.image, "x86-64-v3");
    assert!(wrong.contains_key("avx512f"), "{wrong:?}");
    assert!(wrong.keys().all(|f| f.starts_with("avx512")), "{wrong:?}");
    let wrong = beyond(&made.image, "x86-64-v2");
    assert!(wrong.contains_key("avx") && wrong.contains_key("fma"), "{wrong:?}");
}

/// A level that the runtime does not know would never be chosen.
#[test]
fn the_runtime_knows_every_level() {
    let known: Vec<_> = X86_64.iter().chain(AARCH64).map(|l| l.name).collect();
    #[cfg(feature = "llvm")]
    let llvm = [target_llvm::isa::X86_64, target_llvm::isa::AARCH64].concat();
    #[cfg(not(feature = "llvm"))]
    let llvm: Vec<&str> = vec![];
    for level in llvm.iter().chain(target_cranelift::Cranelift.isa_levels()) {
        assert!(known.contains(level), "{level}");
    }
}
