//! Runs the command of a case, in the scene's folder and within its limits.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than any refusal takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What surrounds the command.
#[derive(Default)]
pub struct Setting {
    /// Kind of limit and bytes.
    limits: Vec<(u32, u64)>,
    /// Streams that are closed.
    closed: Vec<i32>,
    stdin: Option<String>,
    /// Where standard output goes in place of the text that is compared.
    stdout: Option<String>,
    /// Whether sizes are those of compiled code, which say nothing.
    pub masks_sizes: bool,
    /// Whether all numbers are.
    masks_numbers: bool,
    /// Whether what was printed is left out.
    masks_stdout: bool,
}

/// Runs `latentc` where it must succeed.
pub fn run(scene: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentc"));
    let ran = command.args(arguments).current_dir(scene).output().map_err(|e| e.to_string())?;
    if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).into()) }
}

impl Setting {
    /// Takes a line that speaks of the command's surroundings; whether it was one.
    pub fn take(&mut self, words: &[&str]) -> Result<bool, String> {
        match words {
            ["limit", what, size] => {
                let kind = match *what {
                    "file" => libc::RLIMIT_FSIZE,
                    "memory" => libc::RLIMIT_AS,
                    "files" => libc::RLIMIT_NOFILE,
                    other => return Err(format!("no limit {other}")),
                };
                self.limits.push((kind, size.parse().map_err(|e| format!("{size}: {e}"))?));
            }
            ["stdin", "closed"] => self.closed.push(0),
            ["stdout", "closed"] => self.closed.push(1),
            ["stderr", "closed"] => self.closed.push(2),
            ["stdin", text] => self.stdin = Some(text.to_string()),
            ["stdout", path] => self.stdout = Some(path.to_string()),
            ["mask", "sizes"] => self.masks_sizes = true,
            ["mask", "stdout"] => self.masks_stdout = true,
            ["mask", "numbers"] => self.masks_numbers = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Exit code and what was said, as it is compared.
    pub fn run(&self, scene: &Path, words: &[String]) -> Result<String, String> {
        let mut child = self.spawn(scene, words)?;
        let text = self.stdin.clone().unwrap_or_default();
        // Whoever does not read has closed its end.
        let _ = child.stdin.take().expect("it is piped").write_all(text.as_bytes());
        let reader = |stream: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = vec![];
                let read = stream.map(|mut stream| stream.read_to_end(&mut bytes));
                read.transpose().map(|_| bytes)
            })
        };
        let out = reader(child.stdout.take().map(|s| Box::new(s) as _));
        let err = reader(child.stderr.take().map(|s| Box::new(s) as _));
        let status = wait(&mut child)?;
        let [out, err] = [out, err].map(|stream| stream.join().unwrap().unwrap());
        let ended = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit {code}\n"),
            (None, signal) => format!("ended by signal {}\n", signal.unwrap_or(0)),
        };
        let mut given = ended + &String::from_utf8_lossy(&err);
        if !out.is_empty() && !self.masks_stdout {
            given += &format!("stdout:\n{}", String::from_utf8_lossy(&out));
        }
        Ok(self.normal(scene, &given))
    }

    fn spawn(&self, scene: &Path, words: &[String]) -> Result<Child, String> {
        let program = match words[0].as_str() {
            "latentc" => Path::new(env!("CARGO_BIN_EXE_latentc")).to_path_buf(),
            other => scene.join(other),
        };
        let stdout = match &self.stdout {
            Some(path) => {
                File::create(scene.join(path)).map_err(|e| format!("{path}: {e}"))?.into()
            }
            None => Stdio::piped(),
        };
        let mut command = Command::new(program);
        command.args(words[1..].iter().map(|word| argument(word))).current_dir(scene).env_clear();
        command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let (limits, closed) = (self.limits.clone(), self.closed.clone());
        // SAFETY: only system calls that may stand between fork and exec.
        unsafe { command.pre_exec(move || restrict(&limits, &closed)) };
        // A process that another test begins just now may hold the copy of an executable open.
        loop {
            match command.spawn() {
                Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                spawned => return spawned.map_err(|e| format!("{}: {e}", words[0])),
            }
        }
    }

    /// The text without what differs from one machine and one release to the next.
    fn normal(&self, scene: &Path, given: &str) -> String {
        let real = scene.canonicalize().unwrap();
        let text = given.replace(real.to_str().unwrap(), "DIR");
        let text = without_hashes(&text.replace(scene.to_str().unwrap(), "DIR"));
        match (self.masks_numbers, self.masks_sizes) {
            (true, _) => without_numbers(&text),
            (_, true) => without_sizes(&text),
            _ => text,
        }
    }
}

/// A word with each `\xHH` as that byte.
fn argument(word: &str) -> OsString {
    let mut parts = word.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        bytes.extend(rest.as_bytes());
    }
    OsString::from_vec(bytes)
}

/// Sets limits and closes streams of a process that is about to begin. A superuser loses the
/// right to read and write where permissions forbid it.
fn restrict(limits: &[(u32, u64)], closed: &[i32]) -> std::io::Result<()> {
    const CAP_DAC_OVERRIDE: libc::c_ulong = 1;
    const CAP_DAC_READ_SEARCH: libc::c_ulong = 2;
    // SAFETY: plain system calls; where the first two are refused there is nothing to give up.
    unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0);
        libc::prctl(libc::PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0);
        for (kind, size) in limits {
            let limit = libc::rlimit { rlim_cur: *size, rlim_max: *size };
            if libc::setrlimit(*kind, &limit) != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        for stream in closed {
            libc::close(*stream);
        }
    }
    Ok(())
}

fn wait(child: &mut Child) -> Result<ExitStatus, String> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Ok(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("it still ran after {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Replaces every run of at least `least` characters of a kind, where it stands alone.
fn replaced(text: &str, least: usize, is: impl Fn(char) -> bool, by: &str) -> String {
    let (mut out, mut run) = (String::new(), String::new());
    for c in text.chars().chain(['\0']) {
        if is(c) {
            run.push(c);
            continue;
        }
        let alone =
            !out.ends_with(|c: char| c.is_ascii_alphanumeric()) && !c.is_ascii_alphanumeric();
        out += if run.len() >= least && alone { by } else { &run };
        run.clear();
        out.push(c);
    }
    out.pop();
    out
}

fn without_hashes(text: &str) -> String {
    replaced(text, 64, |c| c.is_ascii_hexdigit(), "HASH")
}

/// Of a compiled file, sizes from 1000 on and the levels that a machine runs.
fn without_sizes(text: &str) -> String {
    const RUNS: &str = "the machine runs ";
    let line = |line: &str| match line.split_once(RUNS) {
        Some((before, _)) => format!("{before}{RUNS}LEVELS\n"),
        None => line.to_string(),
    };
    let text: String = text.split_inclusive('\n').map(line).collect();
    replaced(&text, 4, |c| c.is_ascii_digit(), "#")
}

/// All numbers but those of the lines of codes and of the exit.
fn without_numbers(text: &str) -> String {
    let line = |line: &str| match line.starts_with('E') || line.starts_with("exit") {
        true => line.to_string(),
        false => replaced(line, 1, |c| c.is_ascii_digit() || c == '.', "#"),
    };
    text.split_inclusive('\n').map(line).collect()
}
