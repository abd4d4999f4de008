//! Where weights come from: a checkpoint, or a seed.

use crate::error::ImportError;
use ir::dtype::DType;
pub use safetensors::Dtype as StoredType;
use std::path::Path;

/// Element type and shape of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type as safetensors calls it.
    pub dtype: StoredType,
    /// Extents, slowest first.
    pub dims: Vec<u64>,
}

/// Where a tensor's bytes lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// The file.
    pub path: &'a Path,
    /// Its first byte in the file.
    pub offset: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Tensors by name. Little endian, row-major, as in safetensors.
pub trait WeightSource: Send + Sync {
    /// Element type and shape of a tensor; `None` where there is none of this name.
    fn tensor(&self, key: &str) -> Option<TensorInfo>;

    /// Every name, sorted.
    fn keys(&self) -> Vec<&str>;

    /// Fills `out` with a tensor's bytes from byte `at` on.
    ///
    /// # Errors
    /// [`ImportError::MissingTensor`], or [`ImportError::Range`] where the range does not lie in
    /// the tensor.
    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError>;

    /// All of a tensor's bytes, where they are mapped into memory.
    fn mapped(&self, _key: &str) -> Option<&[u8]> {
        None
    }

    /// The files that tensors lie in, each with all its bytes.
    fn files(&self) -> Vec<(&Path, &[u8])> {
        vec![]
    }

    /// Where a tensor lies on disk, if it does.
    fn location(&self, _key: &str) -> Option<Location<'_>> {
        None
    }
}

/// The element type of the IR that a stored type is; `None` where the IR has none.
pub fn element_of(stored: StoredType) -> Option<DType> {
    Some(match stored {
        StoredType::F32 => DType::F32,
        StoredType::F16 => DType::F16,
        StoredType::BF16 => DType::BF16,
        StoredType::F8_E4M3 => DType::F8E4M3,
        StoredType::F8_E8M0 => DType::E8M0,
        StoredType::F4 => DType::F4E2M1,
        StoredType::I32 => DType::I32,
        StoredType::I8 => DType::I8,
        StoredType::U8 => DType::U8,
        StoredType::BOOL => DType::Bool,
        _ => return None,
    })
}

impl TensorInfo {
    /// Number of bytes; `None` on overflow or where the last byte is not whole.
    pub fn bytes(&self) -> Option<u64> {
        let elements = self.dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
        let bits = elements.checked_mul(self.dtype.bitsize() as u64)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl std::fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.dtype, self.dims)
    }
}
