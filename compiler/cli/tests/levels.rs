//! An executable as it is compiled by default, on processors that this machine is not: emulated
//! where `qemu-x86_64` is installed.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::process::{Command, Output};
use support::{Scene, latentc};

/// Processors with the level that each runs, as the emulator names them.
const PROCESSORS: [(&str, &str); 3] =
    [("Nehalem", "x86-64-v2"), ("Westmere", "x86-64-v2"), ("Haswell", "x86-64-v3")];

const RUN: [&str; 5] = ["run", "--prompt-ids", "1,2", "--max-tokens", "2"];

fn emulated() -> bool {
    let found = Command::new("qemu-x86_64").arg("--version").output().is_ok();
    if !found {
        eprintln!("no qemu-x86_64: other processors are not tried");
    }
    found
}

/// A small model with experts.
fn compiled(more: &[&str]) -> Scene {
    let scene = Scene::new("rand-v3");
    let args = ["compile", &scene.model, "-o", &scene.out, "-q"];
    let ran = latentc(&[&args[..], more].concat());
    assert_eq!(ran.exit, 0, "{}", ran.err);
    fs::write(scene.path("ids.json"), "[[1, 2, 3, 400, 5, 66, 7], [9, 8]]").unwrap();
    scene
}

fn on(processor: &str, scene: &Scene, args: &[&str]) -> (Output, String) {
    let mut command = Command::new("qemu-x86_64");
    let ran = command.args(["-cpu", processor, &scene.out]).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    (ran, said)
}

/// Logits to the bit those of the same level here, chosen by the processor itself: code of
/// another level would differ, or be no instructions there.
#[test]
fn lesser_processors_run_what_they_have() {
    if !emulated() {
        return;
    }
    let scene = compiled(&[]);
    let here = runtime::isa::supported();
    for (processor, level) in PROCESSORS.iter().filter(|(_, level)| here.contains(level)) {
        let (ran, said) = on(processor, &scene, &RUN);
        assert!(ran.status.success() && said.contains(level), "{processor}: {said}");
        let (ids, out) = (scene.path("ids.json"), scene.path("logits"));
        let args = ["logits", "--tokens", &ids, "-o", &out, "--threads", "1"];
        let (ran, said) = on(processor, &scene, &args);
        assert!(ran.status.success(), "{processor}: {said}");
        let found = fs::read(&out).unwrap();
        let native = Command::new(&scene.out).args(args).args(["--isa", level]).output().unwrap();
        assert!(native.status.success(), "{}", String::from_utf8_lossy(&native.stderr));
        assert!(found == fs::read(&out).unwrap(), "{processor}: other logits than {level} gives");
    }
}

#[test]
fn levels_beyond_a_processor_are_refused() {
    if !emulated() {
        return;
    }
    let scene = compiled(&["-C", "backend=cranelift"]);
    let forced = [&RUN[..], &["--isa", "x86-64-v3"]].concat();
    let (ran, said) = on("Nehalem", &scene, &forced);
    assert_eq!(ran.status.code(), Some(3), "{said}");
    assert!(said.contains("E0523") && said.contains("lacks avx, avx2, bmi1"), "{said}");
    let (ran, said) = on("qemu64,-ssse3", &scene, &RUN);
    assert_eq!(ran.status.code(), Some(3), "{said}");
    assert!(said.contains("E0502") && said.contains("ssse3"), "{said}");
}
