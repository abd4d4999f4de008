//! Checkpoints of any shape that take no room: headers, and holes where tensors' bytes would be.
#![allow(clippy::unwrap_used)]

use compiler::import::source::WeightSource;
use compiler::import::{ImportOptions, import};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Bytes of a shard, but for those of one tensor.
const SHARD: u64 = 5 << 30;

/// Writes the weights of the model that `folder/config.json` describes, all zeros: the names,
/// shapes and types that its importer asks for, in shards with an index.
pub fn write_weights(folder: &Path) {
    let options = ImportOptions { dummy_weights: Some(0), ..ImportOptions::default() };
    let imported = import(folder, &options).unwrap();
    let tensors = &*imported.weights;
    let mut shards: Vec<(u64, Vec<&str>)> = vec![(0, vec![])];
    for key in tensors.keys() {
        let bytes = tensors.tensor(key).unwrap().bytes().unwrap();
        let full = shards.last().is_some_and(|(size, _)| *size > 0 && size + bytes > SHARD);
        if full {
            shards.push((0, vec![]));
        }
        let (size, keys) = shards.last_mut().unwrap();
        *size += bytes;
        keys.push(key);
    }
    let mut places = Map::new();
    for (i, (_, keys)) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_shard(&folder.join(&name), keys, tensors);
        places.extend(keys.iter().map(|key| (key.to_string(), json!(name))));
    }
    let index = json!({"metadata": {}, "weight_map": places});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn write_shard(path: &Path, keys: &[&str], tensors: &dyn WeightSource) {
    let (mut entries, mut end) = (Map::new(), 0);
    for key in keys {
        let info = tensors.tensor(key).unwrap();
        let start = end;
        end += info.bytes().unwrap();
        let dtype = info.dtype.to_string();
        let entry = json!({"dtype": dtype, "shape": info.dims, "data_offsets": [start, end]});
        entries.insert(key.to_string(), entry);
    }
    let mut header = Value::Object(entries).to_string();
    header += &" ".repeat(header.len().wrapping_neg() % 8);
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}
