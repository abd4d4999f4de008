//! Logits of an independent implementation, in the form of `tests/goldens`.

use compiler::import::{ImportOptions, Imported, import};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One prompt.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<i32>,
    /// First position with stored logits.
    pub first: usize,
    /// Rows of logits, one for each stored position.
    pub logits: Vec<Vec<f32>>,
    /// Greedy continuation.
    pub greedy: Vec<i32>,
    /// Steps before which greedy tokens must be equal.
    pub sure_steps: usize,
}

impl Prompt {
    /// Relative error of a row of logits at each stored position, given those of every position.
    pub fn errors(&self, found: &[f32]) -> Vec<f64> {
        let width = self.logits[0].len();
        let rows = found.chunks_exact(width).skip(self.first);
        let errors: Vec<f64> =
            rows.zip(&self.logits).map(|(row, golden)| relative_error(row, golden)).collect();
        assert_eq!(errors.len(), self.logits.len(), "a row for each stored position");
        errors
    }
}

/// Root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A small checkpoint of the repository.
pub fn model(name: &str) -> PathBuf {
    match name {
        "tiny-v3" => root().join("examples/models/tiny-v3"),
        _ => root().join("tests/models").join(name),
    }
}

/// All prompts of a model.
pub fn prompts(name: &str) -> Vec<Prompt> {
    let base = root().join("tests/goldens").join(name);
    let text = std::fs::read_to_string(base.with_extension("json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let bytes = std::fs::read(base.with_extension("safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let all = json["prompts"].as_array().unwrap().iter().enumerate();
    all.map(|(i, p)| prompt(&tensors, i, p)).collect()
}

fn prompt(tensors: &SafeTensors<'_>, i: usize, json: &Value) -> Prompt {
    let ints = |name: &str| -> Vec<i32> {
        let t = tensors.tensor(&format!("p{i}.{name}")).unwrap();
        match t.dtype() {
            safetensors::Dtype::I64 => t
                .data()
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as i32)
                .collect(),
            _ => t
                .data()
                .chunks_exact(4)
                .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
        }
    };
    let logits = tensors.tensor(&format!("p{i}.logits")).unwrap();
    let width = *logits.shape().last().unwrap();
    let values: Vec<f32> =
        logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let greedy = ints("greedy_ids");
    Prompt {
        ids: ints("input_ids"),
        first: json["logit_positions"][0].as_u64().unwrap() as usize,
        logits: values.chunks_exact(width).map(<[f32]>::to_vec).collect(),
        sure_steps: json["first_small_margin_step"].as_u64().map_or(greedy.len(), |s| s as usize),
        greedy,
    }
}

/// ‖a − b‖ / ‖b‖
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(x, y)| f64::from(*x) - f64::from(*y)));
    difference / norm(&mut b.iter().map(|x| f64::from(*x)))
}

/// A model's family with other values for some keys of its config (null removes a key), and
/// made-up weights.
pub fn made_up(base: &str, changes: &Value, seed: u64) -> Imported {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(model(base).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(map.remove(key)),
            value => drop(map.insert(key.clone(), value.clone())),
        }
    }
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let options = ImportOptions { dummy_weights: Some(seed), ..ImportOptions::default() };
    import(&path, &options).unwrap_or_else(|e| panic!("{base}: {e:?}"))
}
