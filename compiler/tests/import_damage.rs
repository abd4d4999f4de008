//! Damaged checkpoints: each gets its diagnostic, none a panic.

mod support;

use compiler::error::ImportErrors;
use compiler::import::{ImportOptions, Imported, Warning, import};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A copy of a small model, to be damaged.
fn copy(name: &str) -> TempDir {
    let dir = TempDir::new().expect("a temporary directory");
    for file in fs::read_dir(support::at("tests/models").join(name)).expect("a model") {
        let file = file.expect("an entry");
        fs::copy(file.path(), dir.path().join(file.file_name())).expect("a copy");
    }
    dir
}

fn open(dir: &Path) -> Result<Imported, ImportErrors> {
    import(dir, &ImportOptions::default())
}

/// Codes and texts of what is wrong with a directory.
fn faults(dir: &Path) -> Vec<(&'static str, String)> {
    match open(dir) {
        Ok(_) => vec![],
        Err(e) => e.0.iter().map(|e| (e.code(), e.to_string())).collect(),
    }
}

#[track_caller]
fn assert_fault(dir: &Path, code: &str, words: &[&str]) {
    let faults = faults(dir);
    let hit = |(c, text): &(&str, String)| *c == code && words.iter().all(|w| text.contains(w));
    assert!(faults.iter().any(hit), "expected {code} with {words:?}, found {faults:#?}");
}

/// Replaces a file's header, keeping its tensors' bytes.
fn reheader(path: &Path, change: impl Fn(String) -> String) {
    let bytes = fs::read(path).expect("a file");
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = String::from_utf8(bytes[8..8 + len].to_vec()).expect("JSON");
    let header = change(header);
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + len..]);
    fs::write(path, out).expect("a file");
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).expect("a text");
    assert!(text.contains(from), "{from} is there to be replaced");
    fs::write(path, text.replacen(from, to, 1)).expect("a file");
}

#[test]
fn every_truncation_is_noticed() {
    let dir = copy("rand-llama");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("a file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    for len in [0, 1, 7, 8, 9, header, header + 7, header + 8, header + 9, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).expect("a file");
        let faults = faults(dir.path());
        assert_eq!(faults.len(), 1, "{len}: {faults:?}");
        assert!(["E0207", "E0208"].contains(&faults[0].0), "{len}: {faults:?}");
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).expect("a file");
    assert_fault(dir.path(), "E0207", &["followed by"]);
}

#[test]
fn absurd_header_lengths() {
    let dir = copy("rand-llama");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("a file");
    for len in [u64::MAX, 1 << 63, 100_000_001, 99_999_999] {
        fs::write(&path, [&len.to_le_bytes(), &bytes[8..]].concat()).expect("a file");
        let faults = faults(dir.path());
        assert!(["E0207", "E0208"].contains(&faults[0].0), "{len}: {faults:?}");
    }
}

/// Any byte of the header may be flipped: a diagnostic or, where it only renames something
/// irrelevant, an import; never a panic.
#[test]
fn flipped_header_bits_never_panic() {
    let dir = copy("rand-llama-tied");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("a file");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut refused = 0;
    let places: Vec<usize> = (0..header + 8).step_by(7).collect();
    for at in &places {
        let mut flipped = bytes.clone();
        flipped[*at] ^= 1 << (at % 8);
        fs::write(&path, flipped).expect("a file");
        refused += usize::from(open(dir.path()).is_err());
    }
    assert!(refused * 10 > places.len() * 9, "{refused} of {} were refused", places.len());
}

/// Everything missing or misshapen is said at once.
#[test]
fn wrong_tensors_are_reported_together() {
    let dir = copy("rand-v3-fp8");
    edit(&dir.path().join("config.json"), "\"kv_lora_rank\": 64", "\"kv_lora_rank\": 65");
    edit(&dir.path().join("config.json"), "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 6");
    let faults = faults(dir.path());
    let count = |code: &str| faults.iter().filter(|(c, _)| *c == code).count();
    assert!(count("E0213") >= 4 * 3, "misshapen latents in every layer: {faults:?}");
    assert!(count("E0212") > 0, "there is no layer 5: {faults:?}");
    let dir = copy("rand-llama");
    reheader(&dir.path().join("model.safetensors"), |h| {
        let renamed = h.replacen("layers.2.mlp.up_proj", "layers.2.mlp.upward", 1);
        renamed.replacen("layers.1.self_attn.q_proj", "layers.1.self_attn.q_porj", 1)
    });
    assert_fault(dir.path(), "E0212", &["layers.2.mlp.up_proj.weight", "[352, 128]"]);
    assert_fault(dir.path(), "E0212", &["layers.1.self_attn.q_proj.weight"]);
}

#[test]
fn odd_but_sound_checkpoints_are_taken_with_a_warning() {
    let dir = copy("rand-llama-tied");
    edit(&dir.path().join("config.json"), "\"use_cache\"", "\"window_of_opportunity\"");
    reheader(&dir.path().join("model.safetensors"), |h| {
        h.replacen("{", "{\"more\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", 1)
    });
    let warnings = open(dir.path()).map(|i| i.warnings).expect("a sound checkpoint");
    let unknown = Warning::UnknownFields(vec!["window_of_opportunity".into()]);
    assert!(warnings.contains(&unknown), "{warnings:?}");
    assert!(warnings.contains(&Warning::UnusedTensors(vec!["more".into()])), "{warnings:?}");
}

/// A layer whose tensors are stored otherwise is another block; all else is shared.
#[test]
fn layers_stored_differently_are_blocks_of_their_own() {
    let blocks = |dir: &Path| -> Vec<String> {
        let program = open(dir).map(|i| i.program).expect("a sound checkpoint");
        program.blocks.iter().map(|b| b.name.to_string()).collect()
    };
    let dir = copy("rand-llama");
    assert_eq!(blocks(dir.path()), ["embed", "dense", "head"]);
    reheader(&dir.path().join("model.safetensors"), |h| {
        let from = "\"model.layers.1.input_layernorm.weight\":{\"dtype\":\"BF16\"";
        assert!(h.contains(from));
        h.replacen(from, &from.replace("BF16", "F16"), 1)
    });
    assert_eq!(blocks(dir.path()), ["embed", "dense", "dense.2", "head"]);
}

/// A config that speaks of a draft layer, and a checkpoint without one, as conversions make it.
#[test]
fn a_missing_draft_layer_is_a_warning() {
    let dir = copy("rand-v3");
    reheader(&dir.path().join("model.safetensors"), |h| h.replace("model.layers.4.", "mtp.4."));
    let imported = open(dir.path()).expect("a model without a draft layer");
    assert!(imported.warnings.contains(&Warning::NoDraftLayer), "{:?}", imported.warnings);
    assert!(imported.program.entry("draft").is_none());
}
