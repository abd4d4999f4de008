//! Executables as they are deployed: the runtime for AArch64, which `./x test --long` builds, with a
//! model in it.

use super::{EMULATOR, MODELS, PROCESSORS, wanted};
use artifact::writer::WeightsPlace;
use compiler::compile::{Code, Output, code, lower, write};
use compiler::import::{ImportOptions, import};
use compiler::options::{Compute, Options};
use compiler::progress::Silent;
use ir::device::DeviceSpec;
use ir::target::Target;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::goldens::{model, prompts, root};

/// The runtime without a model; says so where there is none.
fn runtime() -> Option<Vec<u8>> {
    let beside = std::env::current_exe().unwrap();
    let path = beside.ancestors().nth(2).unwrap().join("latent-run-aarch64");
    let found = std::fs::read(&path);
    if found.is_err() {
        eprintln!("no {}: executables for AArch64 are not tried", path.display());
    }
    found.ok()
}

/// Every target with its level for AArch64, the least first.
fn targets() -> Vec<(Box<dyn Target>, &'static str)> {
    vec![
        (Box::new(target_cranelift::Cranelift), PROCESSORS[0].0),
        #[cfg(feature = "llvm")]
        (Box::new(target_llvm::Llvm::aarch64()), PROCESSORS[1].0),
    ]
}

fn build(name: &str, runtime: &[u8], compute: Compute, folder: &Path) -> PathBuf {
    let imported = import(&model(name), &ImportOptions::default()).unwrap();
    let options = Options { compute, ..Options::default() };
    let lowered = lower(&imported.program, &options, &DeviceSpec::default()).unwrap();
    let code = targets().into_iter().map(|(t, level)| code(&lowered.kernels, &*t, level).unwrap());
    let code: Vec<Code> = code.collect();
    let path = folder.join("model.exe");
    let output = Output {
        path: &path,
        stub: Some(runtime),
        weights: WeightsPlace::Inline,
        recipe: None,
        flags: BTreeMap::new(),
        threads: 2,
        attest: None,
    };
    write(&imported, lowered, &code, &options, &output, &mut Silent).unwrap();
    path
}

/// Exit code and all output of an executable on a processor.
fn run(processor: &str, path: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(EMULATOR);
    let ran = command.args(["-cpu", processor]).arg(path).args(arguments).output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (ran.status.code(), said.concat())
}

/// Goldens by every code that a processor runs, and sure tokens by the best.
fn check(name: &str, path: &Path) {
    let goldens = root().join(format!("tests/goldens/{name}.json"));
    let prompt = &prompts(name)[0];
    let list = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    for (newest, processor) in PROCESSORS {
        let mut runs = targets();
        runs.retain(|(_, level)| *level <= newest);
        for (target, level) in &runs {
            let way = format!("{level}/{}", target.name());
            let verify = ["verify", "--goldens", goldens.to_str().unwrap(), "--isa", &way];
            let (ended, said) = run(processor, path, &verify);
            assert_eq!(ended, Some(0), "{name}, {processor}, {way}: {said}");
        }
        let count = prompt.sure_steps.to_string();
        let ids = list(&prompt.ids);
        let words = ["run", "--json", "--temperature", "0", "--prompt-ids", &ids, "--max-tokens"];
        let (ended, said) = run(processor, path, &[&words[..], &[&count, "--ignore-eos"]].concat());
        assert_eq!(ended, Some(0), "{name}, {processor}: {said}");
        let found: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(found["ids"], serde_json::json!(prompt.greedy[..prompt.sure_steps]));
        assert_eq!(found["isa"], runs.last().unwrap().1);
    }
}

#[test]
fn executables_give_the_goldens() {
    let Some(runtime) = wanted().then(runtime).flatten() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in MODELS {
        check(name, &build(name, &runtime, Compute::F32, folder.path()));
    }
    check("rand-llama", &build("rand-llama", &runtime, Compute::Bf16, folder.path()));
}

/// What a processor lacks is named, and no instruction of it is run.
#[test]
#[cfg(feature = "llvm")]
fn levels_beyond_the_processor_are_refused() {
    let Some(runtime) = wanted().then(runtime).flatten() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = build("rand-llama", &runtime, Compute::F32, folder.path());
    let words = ["run", "--prompt-ids", "1", "--isa", "aarch64-v8.2"];
    let (ended, said) = run("cortex-a72", &path, &words);
    assert_eq!(ended, Some(3), "{said}");
    assert!(said.contains("E0523") && said.contains("lse"), "{said}");
}
