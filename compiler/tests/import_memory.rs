//! A checkpoint larger than memory opens, and only what is read is touched. Alone in its process,
//! so that what it measures is its own.

mod support;

use compiler::import::{ImportOptions, import};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;

/// Bytes of anonymous memory of this process.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).expect("a Linux of this century");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).expect("a number");
    kib * 1024
}

/// Greatest resident memory so far, mapped files included.
fn peak() -> u64 {
    // SAFETY: a struct of integers, for which zeros are valid; the call fills it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live rusage.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert_eq!(done, 0, "getrusage");
    usage.ru_maxrss as u64 * 1024
}

/// Writes shards of zeros, sparse, for tensors of these names and shapes in bf16 (f32 for biases).
fn write_sparse(dir: &std::path::Path, tensors: &[(String, Vec<u64>, &str)], per_shard: usize) {
    let mut map = serde_json::Map::new();
    for (i, chunk) in tensors.chunks(per_shard).enumerate() {
        let file = format!("model-{i:05}.safetensors");
        let (mut header, mut at) = (serde_json::Map::new(), 0u64);
        for (key, dims, dtype) in chunk {
            let size = dims.iter().product::<u64>() * if *dtype == "F32" { 4 } else { 2 };
            let entry = json!({"dtype": dtype, "shape": dims, "data_offsets": [at, at + size]});
            header.insert(key.clone(), entry);
            map.insert(key.clone(), json!(file));
            at += size;
        }
        let header = Value::Object(header).to_string();
        let mut out = File::create(dir.join(&file)).expect("a file");
        out.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
        out.write_all(header.as_bytes()).expect("written");
        out.set_len(8 + header.len() as u64 + at).expect("a sparse file");
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).expect("a file");
}

#[test]
fn a_hundred_gigabytes_open_in_little_memory() {
    let path = support::at("tests/configs/v3/config.json");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(path).expect("a config")).expect("JSON");
    config["num_hidden_layers"] = json!(8);
    config["num_nextn_predict_layers"] = json!(0);
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    std::fs::write(dir.path().join("config.json"), config.to_string()).expect("a file");
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    let shape = import(dir.path(), &options).expect("a config");
    let tensors: Vec<(String, Vec<u64>, &str)> = shape
        .weights
        .keys()
        .into_iter()
        .map(|key| {
            let dtype = if key.ends_with("bias") { "F32" } else { "BF16" };
            (key.to_string(), shape.weights.tensor(key).expect("listed").dims, dtype)
        })
        .collect();
    write_sparse(dir.path(), &tensors, 500);
    let before = anonymous();
    let imported = import(dir.path(), &ImportOptions::default()).expect("a sound checkpoint");
    let bytes: u64 = imported
        .weights
        .keys()
        .iter()
        .filter_map(|k| imported.weights.location(k))
        .map(|l| l.bytes)
        .sum();
    assert!(bytes > 100_000_000_000, "{bytes} bytes");
    let used = anonymous().saturating_sub(before);
    assert!(used < 200 << 20, "{used} bytes of anonymous memory");
    assert!(peak() < 1 << 30, "{} bytes at most", peak());
    let mut last = [1u8; 2];
    imported.weights.read("model.norm.weight", 7167 * 2, &mut last).expect("the last element");
    assert_eq!(last, [0, 0]);
}
