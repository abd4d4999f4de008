//! The same checkpoint gives the same bytes, whatever surrounds the compilation: threads, folders,
//! time zone, language, user, addresses.
#![allow(clippy::unwrap_used)]

mod support;

use artifact::Reader;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::models;

/// What surrounds a compilation and is none of its business.
struct Surroundings {
    /// Where model and result lie, below a temporary folder. How they lie to each other is the same
    /// everywhere, and so are their own names: a result names its model and its weights file.
    folder: &'static str,
    threads: &'static str,
    variables: [(&'static str, &'static str); 5],
    /// Whether addresses differ from one process to the next.
    randomises: bool,
    /// Whether paths are given from the root, or else from the working directory.
    absolute: bool,
}

const SURROUNDINGS: [Surroundings; 2] = [
    Surroundings {
        folder: "here",
        threads: "1",
        variables: [
            ("TZ", "UTC"),
            ("LC_ALL", "C"),
            ("LANG", "C"),
            ("HOME", "/root"),
            ("USER", "a"),
        ],
        randomises: false,
        absolute: false,
    },
    Surroundings {
        folder: "somewhere/else",
        threads: "3",
        variables: [
            ("TZ", "Asia/Kathmandu"),
            ("LC_ALL", "tr_TR.UTF-8"),
            ("LANG", "de_DE.UTF-8"),
            ("HOME", "/nowhere"),
            ("USER", "b"),
        ],
        randomises: true,
        absolute: true,
    },
];

/// What is written: words of the command line.
const RESULTS: [&[&str]; 4] = [
    &["--emit", "artifact"],
    &["--emit", "exe", "--attest"],
    &["--emit", "artifact", "--weights", "external", "--attest"],
    &["--emit", "artifact", "--weights", "checkpoint"],
];

fn lay_out(model: &str, folder: &Path) {
    fs::create_dir_all(folder.join("model")).unwrap();
    fs::create_dir(folder.join("results")).unwrap();
    for entry in fs::read_dir(models().join(model)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join("model").join(path.file_name().unwrap())).unwrap();
    }
}

impl Surroundings {
    /// Compiles the model of a folder; gives each file that was written.
    fn compile(&self, folder: &Path, words: &[&str]) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
        let [model, out] = ["model", "results/out"].map(|name| match self.absolute {
            true => folder.join(name),
            false => name.into(),
        });
        command.env_clear().envs(self.variables).args(["compile", "-q", "--threads", self.threads]);
        command.arg(model).arg("-o").arg(out).args(words);
        command.current_dir(if self.absolute { Path::new("/") } else { folder });
        if !self.randomises {
            // SAFETY: a system call that may stand between fork and exec. A sandbox that refuses
            // it leaves addresses that differ, as they do in the other compilation.
            unsafe {
                command.pre_exec(|| {
                    libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
                    Ok(())
                })
            };
        }
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
        let files = fs::read_dir(folder.join("results")).unwrap().map(|e| e.unwrap().path());
        let taken = files.map(|path| {
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            (path.file_name().unwrap().into(), bytes)
        });
        taken.collect()
    }
}

/// Names the first section of two files that differs.
fn difference(ours: &[u8], theirs: &[u8]) -> String {
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let Ok(reader) = Reader::open(ours) else { return format!("byte {at}") };
    let inside = |bytes: &[u8]| {
        let start = bytes.as_ptr() as usize - ours.as_ptr() as usize;
        (start..start + bytes.len()).contains(&at)
    };
    let names = reader.sections().iter().filter(|s| s.bytes_in(ours).is_some_and(inside));
    let names: Vec<&str> = names.map(|s| s.name.as_str()).collect();
    let around = |bytes: &[u8]| {
        let range = at.saturating_sub(60)..(at + 60).min(bytes.len());
        String::from_utf8_lossy(&bytes[range]).into_owned()
    };
    format!("byte {at} of section {names:?}: {:?} or {:?}", around(ours), around(theirs))
}

/// Compiles a model in both surroundings, with all that can be written.
fn equal(model: &str, words: &[&str]) {
    let scene = tempfile::tempdir().unwrap();
    let folders = SURROUNDINGS.each_ref().map(|s| scene.path().join(s.folder));
    folders.iter().for_each(|folder| lay_out(model, folder));
    for result in RESULTS {
        let words = [words, result].concat();
        let [one, other] = [0, 1].map(|i| SURROUNDINGS[i].compile(&folders[i], &words));
        assert!(!one.is_empty() && one.keys().eq(other.keys()), "{words:?}: other files");
        for (name, bytes) in &one {
            let differ = || format!("{words:?}: {name:?}, {}", difference(bytes, &other[name]));
            assert!(*bytes == other[name], "{}", differ());
        }
    }
}

#[test]
fn cranelift_gives_equal_bytes() {
    equal("rand-v2-lite", &["-C", "backend=cranelift"]);
}

/// One level: what differs among levels is what LLVM is told, not how it is asked.
#[cfg(feature = "llvm")]
#[test]
fn llvm_gives_equal_bytes() {
    let level = if cfg!(target_arch = "aarch64") { "isa=aarch64-v8.2" } else { "isa=x86-64-v3" };
    equal("rand-v2-lite", &["-C", "backend=llvm", "-C", level]);
}
