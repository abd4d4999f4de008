//! Parsers of a checkpoint's files.

use super::{Outcome, Refusal};
use compiler::error::{ImportError, ImportErrors};
use compiler::import::checkpoint::read_index;
use compiler::import::shard::Shard;
use compiler::import::{ImportOptions, Imported, import};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

/// config.json of the model whose other files are damaged.
pub const CONFIG: &[u8] = include_bytes!("../../models/rand-llama/config.json");
/// Bytes of its tensors.
const DATA: u64 = 1_320_704;

thread_local! {
    static DIR: TempDir = tempfile::tempdir().expect("a temporary folder");
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(dir.join(name), bytes).expect("the temporary folder takes files");
}

fn refused(error: ImportError) -> Vec<Refusal> {
    vec![Refusal::new(error.code(), error)]
}

/// Imports what lies in `dir`; the program must be sound.
fn imported(dir: &Path, made_up: Option<u64>) -> Result<Imported, Vec<Refusal>> {
    let options = ImportOptions { dummy_weights: made_up, ..ImportOptions::default() };
    let all = |ImportErrors(errors)| -> Vec<Refusal> {
        assert!(!errors.is_empty(), "refused without a diagnostic");
        let mut all: Vec<Refusal> = errors.into_iter().flat_map(refused).collect();
        // The folder's name differs from run to run.
        let folder = dir.display().to_string();
        all.iter_mut().for_each(|refusal| refusal.said = refusal.said.replace(&folder, ""));
        all
    };
    let imported = import(dir, &options).map_err(all)?;
    let sound = imported.program.verify();
    assert!(sound.is_ok(), "imported, but not sound: {sound:?}");
    let within = imported.check_reach();
    assert!(within.is_ok(), "imported, but not within bounds: {within:?}");
    for warning in &imported.warnings {
        assert!(!warning.to_string().is_empty());
    }
    Ok(imported)
}

/// config.json, with weights made up.
pub fn config(input: &[u8]) -> Outcome {
    DIR.with(|dir| {
        let dir = dir.path().join("config");
        std::fs::create_dir_all(&dir).expect("a folder");
        write(&dir, "config.json", input);
        let info = imported(&dir, Some(1))?.info;
        assert!((1..=1 << 40).contains(&info.context), "a context of {}", info.context);
        Ok(())
    })
}

/// generation_config.json of a good model.
pub fn generation(input: &[u8]) -> Outcome {
    DIR.with(|dir| {
        let dir = dir.path().join("generation");
        std::fs::create_dir_all(&dir).expect("a folder");
        write(&dir, "config.json", CONFIG);
        write(&dir, "generation_config.json", input);
        imported(&dir, Some(1)).map(|_| ())
    })
}

/// A whole safetensors file.
pub fn shard(input: &[u8]) -> Outcome {
    let (slots, base) = Shard::slots("shard".as_ref(), input).map_err(refused)?;
    let mut end = base;
    for (key, slot) in slots {
        assert_eq!(slot.offset, end, "{key} begins elsewhere");
        assert_eq!(slot.info.bytes(), Some(slot.bytes), "{key} has another size");
        end += slot.bytes;
    }
    assert_eq!(end, input.len() as u64, "tensors end elsewhere");
    Ok(())
}

/// The index of shards.
pub fn index(input: &[u8]) -> Outcome {
    let dir: &Path = "folder".as_ref();
    let files = read_index(dir, "index".as_ref(), input).map_err(refused)?;
    for (path, keys) in files {
        assert_eq!(path.parent(), Some(dir), "a shard elsewhere");
        assert!(!keys.is_empty(), "a shard of nothing");
    }
    Ok(())
}

/// The header of a checkpoint's only shard, whose tensors are all zeros.
pub fn tensors(input: &[u8]) -> Outcome {
    DIR.with(|dir| {
        let dir = dir.path().join("tensors");
        std::fs::create_dir_all(&dir).expect("a folder");
        write(&dir, "config.json", CONFIG);
        let mut file = File::create(dir.join("model.safetensors")).expect("a file");
        let length = input.len() as u64;
        let written = file
            .write_all(&length.to_le_bytes())
            .and_then(|()| file.write_all(input))
            .and_then(|()| file.set_len(8 + length + DATA));
        written.expect("the temporary folder takes files");
        imported(&dir, None).map(|_| ())
    })
}
