//! Which tensors a model needs, and how each is stored: everything missing or misshapen at once.

use super::checkpoint::Checkpoint;
use super::dummy::{Dummy, Fill};
use super::source::{StoredType, TensorInfo, WeightSource, element_of};
use crate::error::{ImportError, ImportErrors};
use ir::dim::Name;
use ir::dtype::{DType, Encoding, Scale};
use ir::graph::program::{Source, View, Weight};
use std::collections::{BTreeMap, BTreeSet};

/// After this many faults the rest is of no use to anyone.
const MAX_FAULTS: usize = 10_000;

/// Where tensors are looked up.
pub enum Origin {
    /// Files.
    Stored(Checkpoint),
    /// Nowhere: they are made up as asked for.
    MadeUp {
        /// What they are made from.
        seed: u64,
        /// Element type of what is not fp8.
        dtype: DType,
    },
}

/// A tensor of the checkpoint that a block needs.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Names in the checkpoint: one, or one for each of the experts.
    pub keys: Vec<String>,
    /// Name in the program.
    pub name: String,
    /// Extents of each stored tensor.
    pub dims: Vec<i64>,
    /// Whether there is one for each expert.
    pub stacked: bool,
    /// What made-up values look like.
    pub fill: Fill,
    /// Whether fp8 checkpoints store it in fp8.
    pub fp8: bool,
}

impl Tensor {
    /// `KEY.weight`, a matrix that an fp8 checkpoint stores in fp8.
    pub fn linear(key: &str, dims: [i64; 2]) -> Tensor {
        Tensor { fp8: true, ..Tensor::matrix(key, dims) }
    }

    /// `KEY.weight`, a matrix that is never fp8: embedding, head, router.
    pub fn matrix(key: &str, dims: [i64; 2]) -> Tensor {
        Tensor {
            keys: vec![format!("{key}.weight")],
            name: key.into(),
            dims: dims.into(),
            stacked: false,
            fill: Fill::Matrix,
            fp8: false,
        }
    }

    /// `KEY.weight`, the weight of a norm.
    pub fn norm(key: &str, width: i64) -> Tensor {
        Tensor { dims: vec![width], fill: Fill::Norm, ..Tensor::matrix(key, [0, 0]) }
    }

    /// `KEY`, a bias.
    pub fn bias(key: &str, width: i64) -> Tensor {
        let (keys, fill) = (vec![key.to_string()], Fill::Bias);
        Tensor { keys, dims: vec![width], fill, ..Tensor::matrix(key, [0, 0]) }
    }

    /// `PREFIX.j.SUFFIX.weight` for each of `count` experts.
    pub fn experts(prefix: &str, suffix: &str, count: i64, dims: [i64; 2]) -> Tensor {
        let keys = (0..count).map(|j| format!("{prefix}.{j}.{suffix}.weight")).collect();
        let name = format!("{prefix}.{suffix}");
        Tensor { keys, name, stacked: true, ..Tensor::linear(prefix, dims) }
    }
}

/// Collects what is needed, and what is wrong with it.
pub struct Catalogue {
    origin: Origin,
    fp8_block: Option<[i64; 2]>,
    /// Needed tensors; of a made-up origin with what they look like.
    needed: BTreeMap<String, (TensorInfo, Fill)>,
    weights: BTreeMap<Name, Weight>,
    /// Names of the weights in the order of first use.
    order: Vec<Name>,
    faults: Vec<ImportError>,
}

impl Catalogue {
    /// Nothing needed yet.
    pub fn new(origin: Origin, fp8_block: Option<[i64; 2]>) -> Catalogue {
        Catalogue {
            origin,
            fp8_block,
            needed: BTreeMap::new(),
            weights: BTreeMap::new(),
            order: vec![],
            faults: vec![],
        }
    }

    /// Whether some stored tensor's name begins like this; always, where they are made up.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        match &self.origin {
            Origin::Stored(checkpoint) => {
                checkpoint.keys().iter().any(|key| key.starts_with(prefix))
            }
            Origin::MadeUp { .. } => true,
        }
    }

    /// Asks for a tensor as a weight of logical extents `dims`: the stored axes (after the
    /// experts') as they are or cut further. Returns its encoding.
    pub fn need(&mut self, tensor: &Tensor, dims: &[i64]) -> Encoding {
        let name = Name::from(tensor.name.as_str());
        if let Some(known) = self.weights.get(&name) {
            return known.encoding;
        }
        let encodings: Vec<Encoding> =
            tensor.keys.iter().map(|key| self.encoding(key, tensor)).collect();
        let encoding = encodings.first().copied().unwrap_or(DType::BF16.into());
        if let Some(odd) = encodings.iter().position(|e| *e != encoding) {
            self.fault(ImportError::Misfit {
                key: tensor.keys[odd].clone(),
                found: encodings[odd].to_string(),
                expected: format!("{encoding} as {}", tensor.keys[0]),
            });
        }
        let weight = weight(&name, tensor, dims, encoding);
        self.weights.insert(name.clone(), weight);
        self.order.push(name);
        encoding
    }

    /// All weights in the order of first use, and where their values come from.
    ///
    /// # Errors
    /// Every tensor that is missing or misshapen.
    pub fn finish(mut self) -> Result<(Vec<Weight>, Found), ImportErrors> {
        ImportErrors(self.faults).into_result()?;
        let take = |name| self.weights.remove(&name);
        let weights = self.order.into_iter().filter_map(take).collect();
        let needed = self.needed.keys().cloned().collect();
        let (source, unlisted): (Box<dyn WeightSource>, _) = match self.origin {
            Origin::Stored(checkpoint) => {
                let unlisted = checkpoint.unlisted().to_vec();
                (Box::new(checkpoint), unlisted)
            }
            Origin::MadeUp { seed, .. } => (Box::new(Dummy::new(seed, self.needed)), vec![]),
        };
        Ok((weights, Found { source, needed, unlisted }))
    }

    fn fault(&mut self, fault: ImportError) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// How one stored tensor is encoded; plain bf16 where it is at fault.
    fn encoding(&mut self, key: &str, tensor: &Tensor) -> Encoding {
        let fallback = Encoding::plain(DType::BF16);
        let dims: Vec<u64> = tensor.dims.iter().map(|d| d.unsigned_abs()).collect();
        let dtype = self.made_up_dtype(tensor);
        let Some(info) = self.find(key, dtype, &dims, tensor.fill) else { return fallback };
        let plain = |d: &DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
        match (element_of(info.dtype), self.fp8_block) {
            (Some(dtype), _) if plain(&dtype) => dtype.into(),
            (Some(DType::F8E4M3), Some(block)) if tensor.fp8 => self.scaled(key, &dims, block),
            _ => {
                let wide = "F32, F16 or BF16";
                let expected = match (tensor.fp8, self.fp8_block) {
                    (false, _) => wide.to_string(),
                    (true, Some(_)) => format!("{wide}, or F8_E4M3 with scales"),
                    (true, None) => {
                        format!("{wide}, as config.json has no weight_block_size")
                    }
                };
                let (key, found) = (key.to_string(), info.to_string());
                self.fault(ImportError::Misfit { key, found, expected });
                fallback
            }
        }
    }

    fn made_up_dtype(&self, tensor: &Tensor) -> StoredType {
        let Origin::MadeUp { dtype, .. } = &self.origin else { return StoredType::BF16 };
        if tensor.fp8 && self.fp8_block.is_some() {
            return StoredType::F8_E4M3;
        }
        match dtype {
            DType::F32 => StoredType::F32,
            DType::F16 => StoredType::F16,
            _ => StoredType::BF16,
        }
    }

    fn scaled(&mut self, key: &str, dims: &[u64], [rows, cols]: [i64; 2]) -> Encoding {
        let (rows, cols) = (rows.unsigned_abs(), cols.unsigned_abs());
        let grid: Vec<u64> =
            dims.iter().zip([rows, cols]).map(|(d, block)| d.div_ceil(block)).collect();
        let scale = scale_key(key);
        let found = self.find(&scale, StoredType::F32, &grid, Fill::Scale);
        if let Some(info) = found.filter(|info| info.dtype != StoredType::F32) {
            self.fault(ImportError::Misfit {
                key: scale,
                found: info.to_string(),
                expected: "F32".into(),
            });
        }
        let (rows, cols) = (rows as u32, cols as u32);
        let scale = Scale { dtype: DType::F32, rows, cols, sum: false };
        Encoding { code: DType::F8E4M3, scale: Some(scale) }
    }

    /// Looks a tensor up and checks its shape.
    fn find(
        &mut self,
        key: &str,
        made_up: StoredType,
        dims: &[u64],
        fill: Fill,
    ) -> Option<TensorInfo> {
        let info = match &self.origin {
            Origin::Stored(checkpoint) => checkpoint.tensor(key),
            Origin::MadeUp { .. } => Some(TensorInfo { dtype: made_up, dims: dims.to_vec() }),
        };
        let Some(info) = info else {
            let expected = format!("shape {dims:?}");
            self.fault(ImportError::MissingTensor { key: key.into(), expected });
            return None;
        };
        self.needed.insert(key.into(), (info.clone(), fill));
        if info.dims != dims {
            let (found, expected) = (info.to_string(), format!("shape {dims:?}"));
            self.fault(ImportError::Misfit { key: key.into(), found, expected });
            return None;
        }
        Some(info)
    }
}

/// Where an fp8 checkpoint keeps the scales of `KEY.weight`.
fn scale_key(key: &str) -> String {
    format!("{key}_scale_inv")
}

fn weight(name: &Name, tensor: &Tensor, dims: &[i64], encoding: Encoding) -> Weight {
    let names = |of: &dyn Fn(&str) -> String| tensor.keys.iter().map(|k| of(k).into()).collect();
    let scales = if encoding.is_plain() { vec![] } else { names(&scale_key) };
    let own = if tensor.stacked { &dims[1..] } else { dims };
    let source = Source {
        tensors: names(&str::to_string),
        scales,
        stacked: tensor.stacked,
        stored_dims: tensor.dims.clone(),
        view: View::dense(own),
    };
    Weight { name: name.clone(), encoding, dims: dims.to_vec(), source }
}

/// Where a model's weights come from, and which of them it needs.
pub struct Found {
    /// All tensors.
    pub source: Box<dyn WeightSource>,
    /// Names of those that the model needs, scales included.
    pub needed: BTreeSet<String>,
    /// Tensors that lie in a shard, but not in the index.
    pub unlisted: Vec<String>,
}
