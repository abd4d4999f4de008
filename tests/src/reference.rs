//! Logits by the graph interpreter: what a program means, before anything is lowered.

use compiler::import::Imported;
use compiler::import::values::values;
use compiler::pack::format::Formats;
use ir::dim::{Dim, Name};
use ir::dtype::{DType, Encoding};
use ir::graph::builder::GraphBuilder;
use ir::graph::error::GraphError;
use ir::graph::interp::{Settings, evaluate};
use ir::graph::program::{Program, Weight};
use ir::graph::sequence::Sequence;
use ir::graph::{ParamKind, Type};
use ir::tensor::Tensor;
use std::collections::HashMap;

/// A model with its weights, as far as they have been decoded.
pub struct Reference<'a> {
    imported: &'a Imported,
    formats: Formats,
    decoded: HashMap<Name, Tensor<f32>>,
}

impl<'a> Reference<'a> {
    /// Decodes nothing yet.
    pub fn new(imported: &'a Imported) -> Self {
        Reference::rounded(imported, Formats::default())
    }

    /// With weights rounded to the formats that are asked for, each to the nearest code of its
    /// block: what compiled weights, whose scales are chosen, lose no more than.
    pub fn rounded(imported: &'a Imported, formats: Formats) -> Self {
        Reference { imported, formats, decoded: HashMap::new() }
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
        let Reference { imported, formats, decoded } = self;
        let mut weights = |w: &Weight| -> Result<Tensor<f32>, GraphError> {
            if let Some(known) = decoded.get(&w.name) {
                return Ok(known.clone());
            }
            let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
            let exact = values(w, &*imported.weights).unwrap();
            let width = w.source.stored_dims.last().copied().unwrap_or(1);
            let format = formats.of_weights([&w.name].into_iter());
            let encoding = format.and_then(|format| format.encoding(width));
            let found = match encoding {
                Some(encoding) => rounded(exact, &w.source.stored_dims, encoding),
                None => exact,
            };
            let tensor = Tensor::floats(&dims, found)?;
            decoded.insert(w.name.clone(), tensor.clone());
            Ok(tensor)
        };
        Sequence::new(program, 0).step("forward", &inputs, &mut weights).unwrap()
    }
}

/// Elements of matrices of these extents as what their codes and scales stand for.
fn rounded(exact: Vec<f32>, stored: &[i64], encoding: Encoding) -> Vec<f32> {
    let [.., rows, cols] = stored[..] else { panic!("matrices have rows and columns") };
    let count = exact.len() / (rows * cols) as usize;
    let mut b = GraphBuilder::new("rounded");
    let extents = [("e", count as i64), ("n", rows), ("k", cols)];
    let indices = extents.map(|(index, extent)| b.fresh_index(index, &Dim::constant(extent)));
    let x = Type { encoding: DType::F32.into(), indices: indices.to_vec() };
    let x = b.param("x", ParamKind::Input, x);
    let near = match encoding.is_plain() {
        true => b.cast(x, encoding.code).and_then(|codes| b.cast(codes, DType::F32)),
        false => b.quantize(x, encoding).and_then(|codes| b.dequantize(codes)),
    };
    let near = near.unwrap();
    b.output(near);
    let x = Tensor::floats(&[count, rows as usize, cols as usize], exact).unwrap();
    let found = evaluate(&b.finish().unwrap(), &[&x], &Settings::default()).unwrap();
    found.outputs[0].as_floats().to_vec()
}
