//! Texts that a compilation can stop at: they mean what they were printed from, going on from
//! them gives the same file, and so does compiling again.
#![allow(clippy::unwrap_used)]

use compiler::compile::lower;
use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::Lowered;
use compiler::options::{Compute, Options};
use ir::device::DeviceSpec;
use tests::goldens::model;
use tests::native::{Levels, Stage, build, build_imported, build_lowered};

fn imported(name: &str) -> Imported {
    import(&model(name), &ImportOptions::default()).unwrap()
}

fn lowered(imported: &Imported, options: &Options) -> Lowered {
    lower(&imported.program, options, &DeviceSpec::default()).unwrap()
}

/// Every precision, and pages that divide nothing.
fn choices() -> [Options; 3] {
    let odd = Options { compute: Compute::F32, page_tokens: 7, ..Options::default() };
    let mut codes = Options::default();
    codes.set("weights=int4").unwrap();
    [Options::default(), odd, codes]
}

#[test]
fn kernels_survive_their_text() {
    for name in ["tiny-v3", "rand-v3-fp8", "rand-v2-lite", "rand-qwen2"] {
        let imported = imported(name);
        for options in choices() {
            let kernels = lowered(&imported, &options).kernels;
            assert!(kernels.len() > 10, "{name}: {} kernels", kernels.len());
            for kernel in &kernels {
                let text = kernel.to_string();
                let parsed = ir::kernel::parse::kernel(&text);
                let parsed = parsed.unwrap_or_else(|e| panic!("{name}: {e:?}\n{text}"));
                assert!(parsed == *kernel, "{name}:\n{text}\nparsed:\n{parsed}");
            }
            let texts: Vec<String> = kernels.iter().map(ToString::to_string).collect();
            let together = ir::kernel::parse::kernels(&texts.join("\n"));
            assert!(together == Ok(kernels), "{name}: one file of all kernels");
        }
    }
}

#[test]
fn programs_survive_their_text() {
    for name in ["tiny-v3", "tiny-v3-fp8", "rand-v2", "rand-v2-lite", "rand-llama", "rand-qwen2"] {
        let program = imported(name).program;
        let parsed = ir::graph::parse::parse_program(&program.to_string());
        assert!(parsed == Ok(program), "{name}");
    }
}

/// Compiling straight through, twice, and going on from either text.
#[test]
fn every_way_to_the_artifact_gives_the_same_bytes() {
    let names = ["rand-v2-lite", "rand-llama", "rand-qwen2"];
    for (name, options) in names.into_iter().zip(choices()) {
        let read = |built: tests::native::Built| std::fs::read(&built.path).unwrap();
        let straight = read(build(&model(name), None, &options, Levels::Best));
        let again = read(build(&model(name), None, &options, Levels::Best));
        assert!(straight == again, "{name}: two compilations");

        let mut resumed = imported(name);
        let text = resumed.program.to_string();
        resumed.program = ir::graph::parse::parse_program(&text).unwrap();
        let from_graph = read(build_imported(&resumed, Stage::Rewritten, &options, Levels::Best));
        assert!(straight == from_graph, "{name}: from the text of the graphs");

        let imported = imported(name);
        let mut lowered = lowered(&imported, &options);
        let texts: Vec<String> = lowered.kernels.iter().map(ToString::to_string).collect();
        lowered.kernels = ir::kernel::parse::kernels(&texts.join("\n")).unwrap();
        let from_kernels = read(build_lowered(&imported, lowered, &options, Levels::Best));
        assert!(straight == from_kernels, "{name}: from the text of the kernels");
    }
}
