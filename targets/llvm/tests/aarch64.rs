//! Products for AArch64, run by an emulator where one is installed (`qemu-aarch64`, and
//! `aarch64-linux-gnu-gcc` to link).

#![allow(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

mod native;

use ir::dtype::{DType, Scale};
use native::data::Random;
use native::product::{Case, Lie, Prepared, programs};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use target_llvm::Llvm;

const LEVEL: &str = "aarch64-v8.2";

/// Reads cases (kernel, scratch, arguments, four memories), runs them with the memories ending
/// at pages that are not there, and writes the first memory of each.
const RUNNER: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
typedef void (*kernel)(const uint64_t *, int64_t, int64_t, char *);
extern kernel kernels[];
static uint64_t word(FILE *f) { uint64_t v; if (fread(&v, 8, 1, f) != 1) exit(3); return v; }
static char *fenced(uint64_t n) {
  uint64_t pages = (n + 4095) / 4096 * 4096;
  char *p = mmap(0, pages + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + pages, 4096, PROT_NONE)) exit(4);
  return p + pages - n;
}
int main(int argc, char **argv) {
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  for (uint64_t cases = word(in); cases; cases--) {
    kernel k = kernels[word(in)];
    uint64_t scratch = word(in), args[64], count = word(in), bytes[4];
    for (uint64_t i = 0; i < count; i++) args[4 + i] = word(in);
    for (int i = 0; i < 4; i++) {
      bytes[i] = word(in);
      args[i] = (uint64_t)fenced(bytes[i]);
      if (fread((char *)args[i], 1, bytes[i], in) != bytes[i]) exit(5);
    }
    k(args, 0, 1, fenced((scratch + 63) / 64 * 64));
    if (fwrite((char *)args[0], 1, bytes[0], out) != bytes[0]) exit(6);
  }
  return fclose(out);
}
"#;

fn cases() -> Vec<Case> {
    use DType::{BF16, F8E4M3, F16, F32, I4, I8};
    let scale = |dtype, rows, cols| Some(Scale { dtype, rows, cols, sum: false });
    let blocked = |lanes, group, scale| Lie::Blocked { lanes, group, scale };
    let mut all = Vec::new();
    for (left, right, lie) in [
        (BF16, BF16, blocked(16, 2, None)),
        (F32, BF16, blocked(16, 2, None)),
        (F32, F32, blocked(8, 1, None)),
        (F16, F16, blocked(16, 2, None)),
        (BF16, BF16, Lie::Rows),
        (F32, F32, Lie::Columns { known: true }),
        (BF16, F16, Lie::Scattered),
        (BF16, F8E4M3, blocked(16, 4, scale(F32, 128, 128))),
        (F32, I8, blocked(16, 4, scale(F32, 1, 32))),
        (BF16, I4, blocked(16, 8, scale(F16, 1, 32))),
    ] {
        for (m, n, k) in [(1, 16, 64), (3, 33, 31), (13, 40, 66)] {
            let case = Case::of([m, n, k], [left, right], lie);
            all.push(case);
            let some = |e: u32| Some(e as i32 * 2 / 3);
            all.push(Case { valid: [some(m), some(n), some(k)], dense: false, ..case });
        }
    }
    all
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {} {text}", done.status);
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

/// The runner with the kernels in it.
fn linked(folder: &Path, object: &[u8], names: &[String]) -> PathBuf {
    let mut table = String::from("#include <stdint.h>\n");
    for n in names {
        writeln!(table, "void {n}(const uint64_t *, int64_t, int64_t, char *);").unwrap();
    }
    writeln!(
        table,
        "void (*kernels[])(const uint64_t *, int64_t, int64_t, char *) = {{ {} }};",
        names.join(", ")
    )
    .unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let program = folder.join("runner");
    run(Command::new("aarch64-linux-gnu-gcc")
        .args(["-static", "-O1", "-o"])
        .arg(&program)
        .arg(file("runner.c", RUNNER.as_bytes()))
        .arg(file("table.c", table.as_bytes()))
        .arg(file("kernels.o", object)));
    program
}

#[test]
fn products_by_emulator() {
    let cases = cases();
    let (programs, of) = programs(4, &cases);
    let object = Llvm::aarch64().compile_programs(&programs, LEVEL).unwrap();
    if !installed("qemu-aarch64") || !installed("aarch64-linux-gnu-gcc") {
        return;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let names: Vec<String> = object.kernels.iter().map(|k| k.0.clone()).collect();
    let program = linked(&folder, &object.bytes, &names);
    let mut r = Random(3);
    let prepared: Vec<Prepared> = cases.iter().map(|c| Prepared::new(c, &mut r)).collect();
    let mut input = (cases.len() as u64).to_le_bytes().to_vec();
    let word = |input: &mut Vec<u8>, v: u64| input.extend(v.to_le_bytes());
    for (p, i) in prepared.iter().zip(of) {
        let (memory, args) = p.memory();
        word(&mut input, i as u64);
        word(&mut input, object.kernels[i].1);
        word(&mut input, args.len() as u64);
        args.iter().for_each(|a| word(&mut input, *a));
        for m in memory {
            word(&mut input, m.len() as u64);
            input.extend(m);
        }
    }
    std::fs::write(folder.join("cases"), input).unwrap();
    let files = [folder.join("cases"), folder.join("sums")];
    run(Command::new("qemu-aarch64").arg(program).args(&files));
    let found = std::fs::read(&files[1]).unwrap();
    let mut rest = found.as_slice();
    for (c, p) in cases.iter().zip(&prepared) {
        let (acc, after) = rest.split_at(p.memory().0[0].len());
        p.compare(LEVEL, c, acc);
        rest = after;
    }
    assert!(rest.is_empty());
}
