//! Models for AArch64 under `qemu-aarch64`: their kernels, and executables as they are deployed.
//!
//! With LATENTC_LONG_TESTS, where the emulator and `aarch64-linux-gnu-gcc` are installed.
#![allow(clippy::unwrap_used)]

mod executables;
mod kernels;

use std::process::Command;

const GCC: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";

/// A processor of each level, which has no instructions of a later one.
const PROCESSORS: [(&str, &str); 2] =
    [("aarch64-v8", "cortex-a72"), ("aarch64-v8.2", "cortex-a76")];

const MODELS: [&str; 3] = ["rand-llama", "rand-v2-lite", "rand-v3-fp8"];

/// Whether to run at all; says so if not for want of a program.
fn wanted() -> bool {
    if !tests::is_long() {
        return false;
    }
    let found = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let missing: Vec<_> = [GCC, EMULATOR].into_iter().filter(|p| !found(p)).collect();
    if !missing.is_empty() {
        eprintln!("no {}: AArch64 is not tried", missing.join(", no "));
    }
    missing.is_empty()
}
