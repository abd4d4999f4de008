//! Constants that are no view: what a graph makes of weights, by the ops' own meaning.

use super::constant::Computed;
use crate::error::ImportError;
use crate::import::source::WeightSource;
use crate::import::values::values;
use ir::graph::interp::{Settings, evaluate as interpret};
use ir::graph::program::{Program, Weight};
use ir::tensor::Tensor;

/// A weight of the program.
///
/// Errors: [`ImportError::MissingTensor`] where there is none of this name.
pub fn weight<'p>(program: &'p Program, name: &str) -> Result<&'p Weight, ImportError> {
    program.weight(name).ok_or_else(|| ImportError::MissingTensor {
        key: name.to_string(),
        expected: "a weight of the program".into(),
    })
}

/// Every element in row-major order, in f32; memory for the whole weights and results.
///
/// Errors: as for reading the weights; [`ImportError::Graph`] for what the ops report.
pub fn evaluate(
    computed: &Computed,
    program: &Program,
    source: &dyn WeightSource,
) -> Result<Vec<f32>, ImportError> {
    let fail = |why: String| ImportError::Graph { block: computed.graph.name.to_string(), why };
    let refused = |e: ir::graph::error::GraphError| fail(format!("{}: {e}", e.code()));
    let mut tensors: Vec<Tensor<f32>> = vec![];
    for name in &computed.weights {
        let weight = weight(program, name)?;
        let dims: Vec<usize> = weight.dims.iter().map(|d| *d as usize).collect();
        tensors.push(Tensor::floats(&dims, values(weight, source)?).map_err(refused)?);
    }
    let args: Vec<&Tensor<f32>> = tensors.iter().collect();
    let made = interpret(&computed.graph, &args, &Settings::default()).map_err(refused)?;
    match made.outputs.as_slice() {
        [result] => Ok(result.as_floats().to_vec()),
        more => Err(fail(format!("found {} results, expected one", more.len()))),
    }
}
