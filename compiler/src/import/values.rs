//! The numbers of a weight, all of them, for interpreters and comparisons.

use super::source::WeightSource;
use crate::error::ImportError;
use ir::graph::program::Weight;
use std::collections::HashMap;

/// Every element of a weight in the order of its logical axes, decoded.
///
/// # Errors
/// [`ImportError::MissingTensor`] for a tensor that the source lacks, [`ImportError::Graph`] for
/// one that is not what the weight says.
pub fn values(weight: &Weight, source: &dyn WeightSource) -> Result<Vec<f32>, ImportError> {
    let mut read: HashMap<&str, Vec<u8>> = HashMap::new();
    for key in weight.source.tensors.iter().chain(&weight.source.scales) {
        if source.mapped(key).is_none() {
            let missing = || ImportError::MissingTensor {
                key: key.to_string(),
                expected: format!("a part of {}", weight.name),
            };
            let bytes = source.tensor(key).and_then(|info| info.bytes()).ok_or_else(missing)?;
            let mut buffer = vec![0; usize::try_from(bytes).map_err(|_| missing())?];
            source.read(key, 0, &mut buffer)?;
            read.insert(key, buffer);
        }
    }
    let bytes = |key: &str| source.mapped(key).or_else(|| read.get(key).map(Vec::as_slice));
    weight.values(&bytes).map_err(|e| ImportError::Graph {
        block: weight.name.to_string(),
        why: format!("{}: {e}", e.code()),
    })
}
