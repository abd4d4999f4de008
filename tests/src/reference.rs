//! Logits by the graph interpreter: what a program means, before anything is lowered.

use compiler::import::Imported;
use compiler::import::values::values;
use ir::dim::Name;
use ir::graph::error::GraphError;
use ir::graph::program::{Program, Weight};
use ir::graph::sequence::Sequence;
use ir::tensor::Tensor;
use std::collections::HashMap;

/// A model with its weights, as far as they have been decoded.
pub struct Reference<'a> {
    imported: &'a Imported,
    decoded: HashMap<Name, Tensor<f32>>,
}

impl<'a> Reference<'a> {
    /// Decodes nothing yet.
    pub fn new(imported: &'a Imported) -> Self {
        Reference { imported, decoded: HashMap::new() }
    }

    /// Logits of every position, row by row.
    pub fn logits(&mut self, ids: &[i32]) -> Vec<f32> {
        let imported = self.imported;
        self.forward(&imported.program, ids, vec![])[0].as_floats().to_vec()
    }

    /// Outputs of the entry `forward` of the model's program, or of one made from it that has the
    /// same weights and, behind the others, `more` inputs. Every row is wanted.
    pub fn forward(
        &mut self,
        program: &Program,
        ids: &[i32],
        more: Vec<Tensor<f32>>,
    ) -> Vec<Tensor<f32>> {
        let ints = |v: Vec<i32>| Tensor::<f32>::ints(&[v.len()], v).unwrap();
        let rows: Vec<i32> = (0..ids.len() as i32).collect();
        let mut inputs = vec![ints(ids.to_vec()), ints(rows.clone()), ints(rows)];
        inputs.extend(more);
        let Reference { imported, decoded } = self;
        let mut weights = |w: &Weight| -> Result<Tensor<f32>, GraphError> {
            if let Some(known) = decoded.get(&w.name) {
                return Ok(known.clone());
            }
            let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
            let tensor = Tensor::floats(&dims, values(w, &*imported.weights).unwrap())?;
            decoded.insert(w.name.clone(), tensor.clone());
            Ok(tensor)
        };
        Sequence::new(program, 0).step("forward", &inputs, &mut weights).unwrap()
    }
}
