//! `latentc logits --interpret`: a checkpoint's graph, run by the interpreter in f32.

use crate::diagnostic::Failure;
use crate::output;
use compiler::import::values::values;
use compiler::import::{ImportOptions, Imported, import};
use generate::GenerateError;
use generate::command::args::LogitsArgs;
use generate::command::ids;
use ir::error::IrErrorKind;
use ir::graph::error::GraphError;
use ir::graph::program::Weight;
use ir::graph::sequence::Sequence;
use ir::tensor::Tensor;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// Writes the logits of every position of every prompt.
pub fn logits(model: &Path, args: &LogitsArgs) -> Result<(), Failure> {
    let prompts = ids::sequences(&args.tokens)?;
    let imported = import(model, &ImportOptions::default())?;
    let mut all = vec![];
    for prompt in &prompts {
        check(prompt, &imported)?;
        all.push(one(&imported, prompt)?);
    }
    write(&all, imported.info.vocab as usize, &args.output)
}

fn one(imported: &Imported, ids: &[i32]) -> Result<Vec<u8>, Failure> {
    let ints = |v: Vec<i32>| Tensor::<f32>::ints(&[v.len()], v).map_err(graph);
    let rows: Vec<i32> = (0..ids.len() as i32).collect();
    let inputs = [ints(ids.to_vec())?, ints(rows.clone())?, ints(rows)?];
    let mut weights = |w: &Weight| -> Result<Tensor<f32>, GraphError> {
        let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
        let data = values(w, &*imported.weights)
            .map_err(|_| GraphError::Unknown { what: "weight", name: w.name.clone() })?;
        Tensor::floats(&dims, data)
    };
    let mut sequence = Sequence::new(&imported.program, 0);
    let found = sequence.step("forward", &inputs, &mut weights).map_err(graph)?;
    let logits = found.first().expect("`forward` gives logits");
    Ok(logits.as_floats().iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Refuses what the compiled model would refuse.
fn check(ids: &[i32], imported: &Imported) -> Result<(), GenerateError> {
    let (vocab, context) = (imported.info.vocab as usize, imported.info.context as usize);
    if ids.len() > context {
        return Err(GenerateError::PromptTooLong { tokens: ids.len(), context });
    }
    match ids.iter().position(|id| usize::try_from(*id).map_or(true, |id| id >= vocab)) {
        Some(position) => {
            let id = i64::from(ids[position]);
            Err(GenerateError::TokenOutOfRange { id, position, vocab })
        }
        None => Ok(()),
    }
}

fn graph(error: GraphError) -> Failure {
    IrErrorKind::from(error).into()
}

fn write(all: &[Vec<u8>], vocab: usize, path: &Path) -> Result<(), Failure> {
    let mut views = vec![];
    for (i, bytes) in all.iter().enumerate() {
        let shape = vec![bytes.len() / 4 / vocab, vocab];
        let view = TensorView::new(Dtype::F32, shape, bytes);
        views.push((format!("logits.{i}"), view.expect("a logit is four bytes")));
    }
    let bytes = safetensors::serialize(views, None).expect("names differ and sizes fit");
    output::write(Some(path), &bytes)
}
