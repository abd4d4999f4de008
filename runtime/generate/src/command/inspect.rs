//! `inspect`: what a file holds.

use super::Streams;
use crate::error::Result;
use runtime::Model;
use serde_json::{Value, json};
use std::fmt::Write;

/// Shows what the model's file holds, as text or as one JSON object: `{format_version,
/// compiler_version, executable, targets, sections: [{name, bytes, blake3}], options, flags, inputs:
/// [{name, bytes, hashed_bytes, sha256}], model, generation, warnings, memory}`.
///
/// # Errors
/// As [`Streams::say`].
pub fn inspect(model: &Model, as_json: bool, streams: &mut Streams<'_>) -> Result<()> {
    if as_json { streams.json(&object(model)) } else { streams.say(&text(model)) }
}

fn object(model: &Model) -> Value {
    let manifest = model.manifest();
    let (major, minor) = manifest.format_version;
    let memory = model.memory();
    let sections: Vec<Value> = model
        .sections()
        .iter()
        .map(|s| json!({"name": s.name, "bytes": s.bytes, "blake3": hexadecimal(&s.hash)}))
        .collect();
    json!({
        "format_version": format!("{major}.{minor}"),
        "compiler_version": manifest.compiler_version,
        "executable": model.is_executable(),
        "targets": manifest.targets,
        "sections": sections,
        "options": manifest.options,
        "flags": manifest.flags,
        "inputs": manifest.inputs,
        "model": manifest.model,
        "generation": manifest.generation,
        "warnings": manifest.warnings,
        "memory": {
            "weights": memory.weights_bytes,
            "kv_bytes_per_token": memory.kv_bytes_per_token,
            "scratch_per_thread": memory.scratch_bytes,
        },
    })
}

fn text(model: &Model) -> String {
    let (manifest, info) = (model.manifest(), &model.manifest().model);
    let (major, minor) = manifest.format_version;
    let memory = model.memory();
    let kind = if model.is_executable() { "executable" } else { "artifact" };
    let mut lines = vec![
        format!("{} ({}), {}", info.name, info.family, info.dtype),
        format!(
            "{} layers of {}, {} token ids, context {}",
            info.layers, info.hidden_size, info.vocab_size, info.context_length
        ),
        format!("{kind}, format {major}.{minor}, latentc {}", manifest.compiler_version),
        format!(
            "weights {}, state {} per token",
            bytes(memory.weights_bytes),
            bytes(memory.kv_bytes_per_token)
        ),
    ];
    for target in &manifest.targets {
        lines.push(format!("target {}: {}", target.name, target.isa_levels.join(", ")));
    }
    lines.extend(manifest.flags.iter().map(|(flag, value)| format!("--{flag} {value}")));
    lines.extend(manifest.options.iter().map(|(key, value)| format!("-C {key}={value}")));
    lines.extend(manifest.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.extend(manifest.inputs.iter().map(|input| {
        let of = if input.is_whole() { "" } else { " of its header" };
        format!("made of {} ({}), sha256{of} {}", input.name, bytes(input.bytes), input.sha256)
    }));
    let width = model.sections().iter().map(|s| s.name.len()).max().unwrap_or(0);
    for s in model.sections() {
        let hash = hexadecimal(&s.hash);
        lines.push(format!("{:width$}  {:>10}  {hash}", s.name, bytes(s.bytes)));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A size for people: three digits or so, binary units.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(700 << 30), "700 GiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
        assert_eq!(hexadecimal(&[0, 0xAB, 9]), "00ab09");
    }
}
