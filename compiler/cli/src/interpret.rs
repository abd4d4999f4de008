//! `latentc logits --interpret`: a checkpoint's graph, run by the interpreter in f32.

use crate::diagnostic::Failure;
use compiler::import::values::values;
use compiler::import::{ImportOptions, Imported, import};
use generate::command::args::LogitsArgs;
use generate::command::ids;
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
    let logits = found.first().ok_or_else(|| graph("no logits"))?;
    Ok(logits.as_floats().iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn graph(error: impl ToString) -> Failure {
    Failure::usage(error.to_string(), "give token ids that the model has, at least one a sequence")
}

fn write(all: &[Vec<u8>], vocab: usize, path: &Path) -> Result<(), Failure> {
    let mut views = vec![];
    for (i, bytes) in all.iter().enumerate() {
        let shape = vec![bytes.len() / 4 / vocab, vocab];
        let view = TensorView::new(Dtype::F32, shape, bytes).map_err(graph)?;
        views.push((format!("logits.{i}"), view));
    }
    let bytes = safetensors::serialize(views, None).map_err(graph)?;
    let temporary = path.with_extension("safetensors.tmp");
    let done = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|e| Failure::io("write", path, &e))
}
