//! Models written by hand: one layer as a text, between an embedding and a head, with made-up
//! weights.

use compiler::error::ImportError;
use compiler::import::source::{StoredType, TensorInfo, WeightSource};
use compiler::import::{Generation, Imported, ModelInfo};
use ir::dim::{Dim, Symbol, Symbols};
use ir::dtype::{DType, Encoding};
use ir::graph::parse::parse_graph;
use ir::graph::program::{
    Arg, Call, Entry, Input, Program, Source, State, StateKind, View, Weight,
};
use ir::graph::{Graph, ParamKind};
use ir::number::mix;
use std::collections::BTreeMap;

/// Tokens that there are.
const VOCAB: i64 = 61;
/// Longest sequence.
const CONTEXT: i64 = 1 << 16;

/// A model of one layer `graph @layer(%x: f32[s, D], ..) -> f32[s, D]`, whose other parameters
/// are weights in f32 or bf16 and states, made up and kept.
pub fn model(layer: &str) -> Imported {
    let layer = parse_graph(layer).unwrap_or_else(|e| panic!("{layer}\n{e:?}"));
    let width = extents(&layer, "D");
    let embed = format!(
        "graph @embed(%ids: i32[s], %pos: i32[s], weight %table: f32[V, D]) -> f32[s, D]
           params D = {width}, V = {VOCAB} where 1 <= s <= {CONTEXT} {{
           %x = gather %table, %ids {{index = V}} : f32[s, D]
           return %x
         }}"
    );
    let head = format!(
        "graph @head(%x: f32[s, D], %rows: i32[m], weight %w_head: f32[V, D]) -> f32[m, V]
           params D = {width}, V = {VOCAB} where 0 <= m <= {CONTEXT}, 1 <= s <= {CONTEXT} {{
           %wanted = gather %x, %rows {{index = s}} : f32[m, D]
           %logits = contract %wanted, %w_head : f32[m, V]
           return %logits
         }}"
    );
    let blocks = [parse_graph(&embed).unwrap(), layer, parse_graph(&head).unwrap()];
    let program = program(blocks);
    program.verify().unwrap_or_else(|e| panic!("{program}\n{e:?}"));
    let stored = |w: &Weight| (w.name.to_string(), (w.encoding.code, w.dims.clone()));
    let sizes = program.weights.iter().map(stored).collect();
    let info = ModelInfo {
        name: "written".into(),
        family: "written",
        architecture: "written",
        hidden: width,
        vocab: VOCAB,
        context: CONTEXT,
        bos: vec![],
        eos: vec![],
        generation: Generation::default(),
    };
    let (companions, config, warnings) = (vec![], b"{}".to_vec(), vec![]);
    let weights = Box::new(MadeUp(sizes));
    Imported { program, info, weights, companions, config, inputs: vec![], warnings }
}

fn extents(graph: &Graph, index: &str) -> i64 {
    graph.extent(index).bound_value(&graph.symbols).unwrap()
}

fn program(blocks: [Graph; 3]) -> Program {
    let step = |name: &str, lo| (name.into(), Symbol::step(lo, CONTEXT));
    let mut program = Program {
        name: "written".into(),
        symbols: Symbols::from([step("s", 1), step("t", 1), step("m", 0)]),
        blocks: vec![],
        weights: vec![],
        states: vec![],
        entries: vec![],
    };
    let rows = |name: &str, rows: &str| {
        let (dtype, dims) = (DType::I32, vec![Dim::symbol(rows)]);
        Input { name: name.into(), dtype, dims }
    };
    let mut value = "ids";
    let mut calls = vec![];
    for (graph, result) in blocks.into_iter().zip(["x0", "x1", "logits"]) {
        let mut args = vec![];
        for (at, id) in graph.params.iter().enumerate() {
            let param = graph.value(*id);
            let dims = |from: usize| -> Vec<i64> {
                param.ty.indices[from..].iter().map(|i| extents(&graph, i)).collect()
            };
            args.push(match graph.param_kind(at) {
                ParamKind::Input if at == 0 => Arg::Value(value.into()),
                ParamKind::Input => Arg::Value(param.name.clone()),
                ParamKind::Weight => {
                    program.weights.push(weight(&param.name, param.ty.encoding, dims(0)));
                    Arg::Weight(param.name.clone())
                }
                ParamKind::State => {
                    program.states.push(State {
                        name: param.name.clone(),
                        kind: StateKind::Rows,
                        encoding: param.ty.encoding,
                        dims: dims(1),
                        layers: 1,
                    });
                    Arg::State { state: param.name.clone(), layer: 0 }
                }
            });
        }
        let (results, place) = (vec![result.into()], "main".into());
        calls.push(Call { block: program.add_block(graph), args, results, place });
        value = result;
    }
    let inputs = vec![rows("ids", "s"), rows("pos", "s"), rows("rows", "m")];
    let outputs = vec!["logits".into()];
    program.entries.push(Entry { name: "forward".into(), inputs, calls, outputs });
    program
}

fn weight(name: &str, encoding: Encoding, dims: Vec<i64>) -> Weight {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i];
    }
    let source = Source {
        tensors: vec![name.into()],
        scales: vec![],
        stacked: false,
        stored_dims: dims.clone(),
        view: View { offset: 0, strides },
    };
    Weight { name: name.into(), encoding, dims, source }
}

/// Tensors in f32 or bf16, by name, of numbers around zero that keep the size of what they
/// multiply.
struct MadeUp(BTreeMap<String, (DType, Vec<i64>)>);

impl WeightSource for MadeUp {
    fn tensor(&self, key: &str) -> Option<TensorInfo> {
        let (dtype, dims) = self.0.get(key)?;
        let dims = dims.iter().map(|d| *d as u64).collect();
        let dtype = if *dtype == DType::BF16 { StoredType::BF16 } else { StoredType::F32 };
        Some(TensorInfo { dtype, dims })
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        let (dtype, dims) = &self.0[key];
        let depth = dims.last().copied().unwrap_or(1) as f64;
        // Of a number in bf16, the two upper bytes.
        let size = u64::from(dtype.bits() / 8);
        let seed = key.bytes().fold(7, |h, b| mix(h ^ u64::from(b)));
        for (i, byte) in out.iter_mut().enumerate() {
            let i = at + i as u64;
            let unit = (mix(seed.wrapping_add(i / size)) >> 40) as f64 / f64::from(1 << 23) - 1.0;
            let value = (unit * (3.0 / depth).sqrt()) as f32;
            *byte = value.to_le_bytes()[(4 - size + i % size) as usize];
        }
        Ok(())
    }
}
