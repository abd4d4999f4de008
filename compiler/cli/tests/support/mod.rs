//! The built binary, and models to use it on.
#![allow(clippy::unwrap_used, dead_code)]

use artifact::format::WEIGHTS;
use artifact::writer::WeightsPlace;
use artifact::{Reader, Writer};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The level that any machine has, as an option.
pub const LEVEL: &str =
    if cfg!(target_arch = "aarch64") { "isa=aarch64-v8" } else { "isa=x86-64-v2" };

/// What a command did.
pub struct Ran {
    pub exit: i32,
    pub out: String,
    pub err: String,
}

pub fn latentc(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_latentc")).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let exit = output.status.code().unwrap_or(-1);
    Ran { exit, out: text(output.stdout), err: text(output.stderr) }
}

/// Runs what must fail: with this exit code and these diagnostics, each saying what to do next.
pub fn refused(args: &[&str], exit: i32, codes: &[&str]) -> String {
    let ran = latentc(args);
    let is_code = |l: &&str| {
        l.strip_prefix('E').is_some_and(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let found: Vec<&str> = ran.err.lines().filter(is_code).collect();
    assert_eq!((ran.exit, found.as_slice()), (exit, codes), "{args:?}\n{}", ran.err);
    assert_eq!(ran.err.matches("\n  help: ").count(), codes.len(), "{}", ran.err);
    assert!(ran.out.is_empty() && !ran.err.contains('\x1b'), "{}{}", ran.out, ran.err);
    ran.err
}

/// Elements of a text, each with its attributes; panics where the text is no XML.
pub fn elements(text: &str) -> Vec<(String, String)> {
    let (mut open, mut found) = (vec![], vec![]);
    let mut rest = text.trim_end();
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#x"];
        let known = |s: &str| known.iter().any(|e| s.starts_with(e));
        assert!(text.match_indices('&').all(|(i, _)| known(&text[i..])), "{text}");
        assert!(text.trim().is_empty() || !open.is_empty(), "text outside: {text}");
        let end = tag.find('>').expect("a tag ends");
        let inner = &tag[1..end];
        rest = &tag[end + 1..];
        if let Some(name) = inner.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "what was opened last is closed first");
            continue;
        }
        let body = inner.strip_suffix('/').unwrap_or(inner);
        let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
        let mut left = attributes;
        while !left.is_empty() {
            let (key, value) = left.split_once("=\"").expect("a value in quotes");
            assert!(key.trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{key}");
            left = value.split_once('"').expect("a quote closes").1;
        }
        found.push((name.to_string(), attributes.to_string()));
        if body.len() == inner.len() {
            open.push(name);
        }
    }
    assert!(open.is_empty() && rest.is_empty(), "{open:?} is not closed");
    found
}

/// A folder with a copy of a small model, to be damaged.
pub struct Scene {
    pub folder: TempDir,
    pub model: String,
    pub out: String,
}

impl Scene {
    pub fn new(name: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let (model, out) = (folder.path().join("model"), folder.path().join("out"));
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(models().join(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
        }
        let text = |p: PathBuf| p.to_str().unwrap().to_string();
        Scene { model: text(model), out: text(out), folder }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.model).join(name)
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    pub fn edit(&self, change: impl Fn(&mut Map<String, Value>)) {
        let path = self.file("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(config.as_object_mut().unwrap());
        fs::write(path, config.to_string()).unwrap();
    }

    /// Arguments of a compilation by the target that every build has.
    pub fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["compile", &self.model, "-o", &self.out, "-C", "backend=cranelift"];
        args.extend(["--emit", "artifact"]);
        args.extend(more);
        args
    }

    pub fn refused(&self, more: &[&str], exit: i32, codes: &[&str]) -> String {
        let before = self.names();
        let err = refused(&self.args(more), exit, codes);
        assert_eq!(self.names(), before, "nothing new may be left");
        err
    }

    pub fn compile(&self, more: &[&str]) -> Ran {
        let ran = latentc(&self.args(more));
        assert_eq!(ran.exit, 0, "{}", ran.err);
        ran
    }

    /// Everything in the folder, and in that of the model.
    pub fn names(&self) -> BTreeSet<PathBuf> {
        let list = |p: &Path| fs::read_dir(p).unwrap().map(|e| e.unwrap().path()).collect();
        let mut all: BTreeSet<PathBuf> = list(self.folder.path());
        all.extend::<BTreeSet<PathBuf>>(list(Path::new(&self.model)));
        all
    }
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn models() -> PathBuf {
    root().join("tests/models")
}

/// A copy of the compiled model in which a section is another one, or is gone.
pub fn with_section(scene: &Scene, copy: &str, section: &str, bytes: Option<&[u8]>) -> String {
    let file = fs::read(&scene.out).unwrap();
    let reader = Reader::open(&file).unwrap();
    let path = scene.path(copy);
    let mut writer = Writer::create(Path::new(&path), None, WeightsPlace::Inline).unwrap();
    for s in reader.sections() {
        let own = reader.section(&s.name).unwrap();
        let bytes = if s.name == section { bytes } else { Some(own) };
        let Some(bytes) = bytes else { continue };
        let pairs: Vec<(&str, &str)> =
            s.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if s.name == WEIGHTS {
            writer.begin_weights().unwrap();
            writer.write(bytes).unwrap();
            writer.end_section().unwrap();
        } else {
            writer.section(&s.name, &pairs, bytes).unwrap();
        }
    }
    writer.finish().unwrap();
    path
}

/// The text of a section of the compiled model.
pub fn section(scene: &Scene, name: &str) -> String {
    let file = fs::read(&scene.out).unwrap();
    String::from_utf8(Reader::open(&file).unwrap().section(name).unwrap().to_vec()).unwrap()
}
