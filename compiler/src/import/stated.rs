//! Whether a program fits the model it is of: one that is read from a text may state anything.

use super::Imported;
use super::assembly::step_symbols;
use super::source::element_of;
use crate::error::{ImportError, ImportErrors};
use ir::dim::{Dim, Name};
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::program::Weight;
use ir::graph::range::Range;
use ir::graph::verify::reach::Caller;
use ir::tensor::scale_dims;
use std::collections::BTreeMap;

impl Imported {
    /// Compares element type and shape of each stored tensor with what the program says of it.
    ///
    /// # Errors
    /// Every tensor that is missing or misshapen: [`ImportError::MissingTensor`],
    /// [`ImportError::Misfit`].
    pub fn check_stored(&self) -> Result<(), ImportErrors> {
        let stated = self.program.weights.iter().flat_map(stated);
        let faults = stated.filter_map(|(key, dtype, dims)| self.misfit(key, dtype, &dims));
        ImportErrors(faults.collect()).into_result()
    }

    /// Checks that nothing the program selects or divides by goes beyond its bounds, whatever a
    /// runtime gives: ids of the vocabulary, positions of the context, rows of the step.
    ///
    /// # Errors
    /// Everything that may, as [`Program::verify_reach`](ir::graph::program::Program::verify_reach)
    /// says.
    pub fn check_reach(&self) -> Result<(), Vec<IrError>> {
        let input = |name: &str, extent: Dim| (Name::from(name), Range::rows(&extent));
        self.program.verify_reach(&Caller {
            symbols: step_symbols(self.info.context),
            inputs: BTreeMap::from([
                input("ids", self.info.vocab.into()),
                input("pos", "t".into()),
                input("rows", "s".into()),
            ]),
        })
    }

    fn misfit(&self, key: &str, dtype: DType, dims: &[u64]) -> Option<ImportError> {
        let expected = format!("{dtype} of shape {dims:?}");
        let Some(info) = self.weights.tensor(key) else {
            return Some(ImportError::MissingTensor { key: key.into(), expected });
        };
        let fits = element_of(info.dtype) == Some(dtype) && info.dims == dims;
        let found = info.to_string();
        (!fits).then(|| ImportError::Misfit { key: key.into(), found, expected })
    }
}

/// The stored tensors of a weight, those of its scales too, each with element type and shape.
fn stated(weight: &Weight) -> Vec<(&str, DType, Vec<u64>)> {
    let (source, encoding) = (&weight.source, weight.encoding);
    let dims: Vec<u64> = source.stored_dims.iter().map(|d| d.unsigned_abs()).collect();
    let sizes: Vec<usize> = dims.iter().map(|d| *d as usize).collect();
    let blocks = scale_dims(encoding, &sizes).unwrap_or_default();
    let blocks: Vec<u64> = blocks.into_iter().map(|d| d as u64).collect();
    let codes = source.tensors.iter().map(|key| (&**key, encoding.code, dims.clone()));
    let scales = encoding.scale.into_iter().flat_map(|scale| {
        source.scales.iter().map(move |key| (key, scale.dtype)).collect::<Vec<_>>()
    });
    let scales = scales.map(|(key, dtype)| (&**key, dtype, blocks.clone()));
    codes.chain(scales).collect()
}
