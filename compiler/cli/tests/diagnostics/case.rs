//! One file test: its text, and what running it gives.

use crate::artifacts::{compiled, lay_out_model, lay_out_runtime};
use crate::command::{Setting, run};
use crate::damage;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A file test.
pub struct Case {
    path: PathBuf,
    /// Everything up to the command, with it: what blessing keeps.
    head: String,
    /// The lines of the head that do something, each with the lines of text that belong to it.
    steps: Vec<(String, String)>,
    /// The words of the command line.
    command: Vec<String>,
    /// What the command must give.
    expected: String,
}

impl Case {
    /// Reads a test's text.
    pub fn parse(path: PathBuf, text: &str) -> Result<Case, String> {
        let mut steps: Vec<(String, String)> = vec![];
        let mut head = String::new();
        for line in text.split_inclusive('\n') {
            head += line;
            let bare = line.trim_end_matches('\n');
            if let Some(command) = bare.strip_prefix("$ ") {
                let expected = text[head.len()..].to_string();
                let command = words(command)?;
                return Ok(Case { path, head, steps, command, expected });
            }
            if let Some(content) = bare.strip_prefix('|') {
                let (_, text) = steps.last_mut().ok_or("text that belongs to nothing")?;
                *text += content.strip_prefix(' ').unwrap_or(content);
                text.push('\n');
            } else if !bare.starts_with("//") && !bare.is_empty() {
                steps.push((bare.to_string(), String::new()));
            }
        }
        Err("found no line that begins with `$ `, expected a command".into())
    }

    /// Codes of the diagnostics that are expected.
    pub fn codes(&self) -> impl Iterator<Item = &str> {
        self.expected.lines().filter(|line| is_code(line))
    }

    /// Does the damage, runs the command and compares, or with `bless` writes down what it gave.
    pub fn run(&self, bless: bool) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let scene = folder.path();
        let mut setting = Setting::default();
        for (step, text) in &self.steps {
            let done = self.prepare(scene, step, text, &mut setting);
            match done.map_err(|why| format!("`{step}`: {why}"))? {
                Ready::Go => {}
                Ready::Skip => return Ok(()),
            }
        }
        let before = names(scene);
        let given = setting.run(scene, &self.command)?;
        // A conversation goes on behind a line that was refused.
        sound(&given, self.command.iter().any(|word| word == "chat"))?;
        let left: Vec<_> = names(scene).difference(&before).cloned().collect();
        if !left.is_empty() && !given.starts_with("exit 0") {
            return Err(format!("a command that failed left {left:?}"));
        }
        if given == self.expected {
            return Ok(());
        }
        if bless {
            fs::write(&self.path, format!("{}{given}", self.head)).unwrap();
            return Ok(());
        }
        Err(format!("expected\n{}\nfound\n{given}", self.expected))
    }

    fn prepare(
        &self,
        scene: &Path,
        step: &str,
        text: &str,
        setting: &mut Setting,
    ) -> Result<Ready, String> {
        let words = words(step)?;
        let all: Vec<&str> = words.iter().map(String::as_str).collect();
        match all[..] {
            ["needs", "llvm"] => {
                return Ok(if cfg!(feature = "llvm") { Ready::Go } else { Ready::Skip });
            }
            ["runtime"] => lay_out_runtime(scene),
            ["model", name] => lay_out_model(name, &scene.join("model")),
            ["artifact" | "exe", name, ref options @ ..] => {
                setting.masks_sizes = true;
                compiled(all[0] == "exe", name, options, scene)
            }
            ["run", "latentc", ref arguments @ ..] => run(scene, arguments)?,
            _ if setting.take(&all)? => {}
            _ => damage::apply(scene, &all, text)?,
        }
        Ok(Ready::Go)
    }
}

/// Whether a case goes on.
enum Ready {
    Go,
    Skip,
}

/// Words of a line: bare, as they stand in single quotes, or a JSON string in double quotes.
fn words(line: &str) -> Result<Vec<String>, String> {
    let (mut words, mut rest) = (vec![], line.trim());
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (word, more) = quoted.split_once('\'').ok_or(format!("{rest}: a quote is open"))?;
            words.push(word.to_string());
            rest = more.trim_start();
        } else if rest.starts_with('"') {
            let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let word = stream.next().unwrap().map_err(|e| format!("{rest}: {e}"))?;
            words.push(word);
            rest = rest[stream.byte_offset()..].trim_start();
        } else {
            let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
            words.push(word.to_string());
            rest = more.trim_start();
        }
    }
    Ok(words)
}

fn is_code(line: &str) -> bool {
    let digits = line.strip_prefix('E').unwrap_or("");
    digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit())
}

/// What holds of every diagnostic: an exit code that says whose fault it is, a code, a next step.
fn sound(given: &str, goes_on: bool) -> Result<(), String> {
    let exit = given.lines().next().unwrap_or_default();
    if !["exit 0", "exit 1", "exit 2", "exit 3"].contains(&exit) || given.contains("panicked") {
        return Err(format!("it ended as no refusal should:\n{given}"));
    }
    let codes = given.lines().filter(|line| is_code(line)).count();
    let helps = given.lines().filter(|line| line.starts_with("  help: ")).count();
    if ((codes == 0) != (exit == "exit 0") && !goes_on) || codes != helps {
        return Err(format!("{codes} codes and {helps} next steps:\n{given}"));
    }
    Ok(())
}

/// Every file and folder of a scene.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(names(&path));
        }
        all.insert(path);
    }
    all
}
