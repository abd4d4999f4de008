//! Less and less memory, until nothing can be done with it: every command ends in a sentence.

use crate::artifacts::{compiled, lay_out_model};
use crate::command::Setting;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// By how many bytes limits differ: what a process does between two of them meets none.
fn step() -> u64 {
    if std::env::var_os("LATENTC_LONG_TESTS").is_some() { 3 << 18 } else { 8 << 20 }
}

/// Exit code and what is said, within so many bytes of address space.
fn within(bytes: u64, scene: &Path, words: &[String]) -> String {
    let mut setting = Setting::default();
    setting.take(&["limit", "memory", &bytes.to_string()]).unwrap();
    setting.run(scene, words).unwrap()
}

/// Runs a command within every limit from the first that lets its program begin to the first that
/// suffices. Counts those that end with E0507.
fn without_memory(scene: &Path, words: &[&str]) -> usize {
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    let version = [words[0].clone(), "--version".into()];
    let mut limits = (1..).map(|steps| steps * step());
    let begins = limits.find(|bytes| within(*bytes, scene, &version).starts_with("exit 0"));
    let files = || fs::read_dir(scene).unwrap().count();
    let before = files();
    let refused = (begins.unwrap()..).step_by(step() as usize).map_while(|bytes| {
        let given = within(bytes, scene, &words);
        if given.starts_with("exit 0\n") {
            return None;
        }
        let code = given.strip_prefix("exit 3\n").and_then(|said| said.split("E0").nth(1));
        assert!(code.is_some(), "{words:?} within {bytes} bytes: {given}");
        assert_eq!(files(), before, "{words:?} within {bytes} bytes left files");
        Some(given.contains("E0507"))
    });
    refused.filter(|of_memory| *of_memory).count()
}

#[test]
fn compiling_without_memory_ends_in_a_sentence() {
    for backend in ["backend=cranelift", "backend=llvm"] {
        if backend == "backend=llvm" && !cfg!(feature = "llvm") {
            continue;
        }
        let scene = tempfile::tempdir().unwrap();
        lay_out_model("rand-llama", &scene.path().join("model"));
        let compile = ["latentc", "compile", "model", "-o", "out", "--emit", "artifact", "-q"];
        let options = ["-C", backend, "-C", "isa=x86-64-v2", "--threads", "2"];
        assert!(without_memory(scene.path(), &[&compile[..], &options].concat()) > 0, "{backend}");
    }
}

#[test]
fn running_without_memory_ends_in_a_sentence() {
    let scene = tempfile::tempdir().unwrap();
    compiled(true, "rand-llama", &[], scene.path());
    let run = ["model.exe", "run", "--prompt-ids", "1,2", "--max-tokens", "2", "--threads", "2"];
    without_memory(scene.path(), &run);
}

/// A control group with a limit on memory.
struct Group(PathBuf);

impl Group {
    /// Below the group of the tests; `None` where this machine or this user may make none.
    fn new(name: &str) -> Option<Group> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let root = match parts.next()? {
                "" => "/sys/fs/cgroup",
                "memory" => "/sys/fs/cgroup/memory",
                _ => return None,
            };
            let name = format!("latentc-{name}-{}", std::process::id());
            let folder = Path::new(root).join(parts.next()?.trim_start_matches('/')).join(name);
            fs::create_dir(&folder).ok()?;
            let group = Group(folder);
            group.limit(1 << 30).then_some(group)
        })
    }

    fn limit(&self, bytes: u64) -> bool {
        let files = ["memory.max", "memory.limit_in_bytes"].map(|name| self.0.join(name));
        files.iter().any(|file| file.exists() && fs::write(file, bytes.to_string()).is_ok())
    }

    /// Exit code, `None` for a signal, and what is said.
    fn run(&self, scene: &Path, words: &[&str]) -> (Option<i32>, String) {
        let mut members = OpenOptions::new().write(true).open(self.0.join("cgroup.procs")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
        command.args(words).current_dir(scene);
        // SAFETY: only a system call that may stand between fork and exec.
        unsafe { command.pre_exec(move || members.write_all(b"0")) };
        let ran = command.output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// A limit of a control group refuses nothing: whoever touches more memory is killed.
#[test]
fn in_a_control_group_nothing_is_killed() {
    let Some(group) = Group::new("memory") else {
        println!("not tried: this machine has no control group that may be divided");
        return;
    };
    let scene = tempfile::tempdir().unwrap();
    lay_out_model("rand-llama", &scene.path().join("model"));
    compiled(false, "rand-v3", &[], scene.path());
    let compile = ["compile", "model", "-o", "out", "-q", "--emit", "artifact"];
    let compile = [&compile[..], &["-C", "backend=cranelift", "-C", "isa=x86-64-v2"]].concat();
    let prompt = vec!["1"; 2000].join(",");
    let run = ["run", "model.lat", "--prompt-ids", &prompt, "--max-tokens", "2"];
    let run = [&run[..], &["--chunk", "2048", "--threads", "1"]].concat();
    for (words, code, step) in [(&compile, "E0293", 32 << 20), (&run, "E0507", 8 << 20)] {
        let mut refused = 0;
        for bytes in (2..).map(|i| i * step) {
            assert!(group.limit(bytes));
            match group.run(scene.path(), words) {
                (Some(0), _) => break,
                (Some(3), said) if said.contains(code) => refused += 1,
                (ended, said) => panic!("{words:?} within {bytes} bytes: {ended:?}, {said}"),
            }
        }
        assert!(refused > 0, "{words:?}");
    }
}
