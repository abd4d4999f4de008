//! Constants of every form, resolved from a graph's text, packed, and compared element by element
//! with what the graph interpreter makes of the same weights.
#![allow(clippy::unwrap_used)]

use compiler::error::ImportError;
use compiler::import::source::{StoredType, TensorInfo, WeightSource};
use compiler::import::values::values;
use compiler::lower::constant::{is_constant, resolve};
use compiler::pack::computed;
use compiler::pack::constant::{Computed, Constant, Source};
use compiler::pack::scales::keeps_blocks;
use compiler::pack::{Packed, pack};
use ir::dtype::{DType, Encoding};
use ir::graph::interp::{Settings, evaluate};
use ir::graph::parse::parse_graph;
use ir::graph::program::{self, Program, View, Weight};
use ir::graph::{Graph, ParamKind};
use ir::kernel::code;
use ir::kernel::layout::Layout;
use ir::kernel::parse::packing;
use ir::tensor::Tensor;
use std::collections::HashMap;

/// Tensors in memory, by name.
#[derive(Default)]
struct Tensors(HashMap<String, Vec<u8>>);

impl WeightSource for Tensors {
    fn tensor(&self, key: &str) -> Option<TensorInfo> {
        let bytes = self.0.get(key)?.len() as u64;
        Some(TensorInfo { dtype: StoredType::U8, dims: vec![bytes] })
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        out.copy_from_slice(&self.0[key][at as usize..at as usize + out.len()]);
        Ok(())
    }
}

/// A program of nothing but weights.
fn program_of(weights: Vec<Weight>) -> Program {
    Program {
        name: "one".into(),
        symbols: Default::default(),
        blocks: vec![],
        weights,
        states: vec![],
        entries: vec![],
    }
}

/// A block's weights with numbers of their own.
struct Case {
    graph: Graph,
    program: Program,
    source: Tensors,
}

/// A weight of these extents: stacked tensors of matrices where it has three axes and scales.
fn weight(name: &str, encoding: Encoding, dims: &[i64], source: &mut Tensors) -> Weight {
    let stacked = dims.len() == 3;
    let stored: &[i64] = if stacked { &dims[1..] } else { dims };
    let mut weight = Weight::whole(name, name, encoding, stored);
    weight.dims = dims.to_vec();
    let count = if stacked { dims[0] } else { 1 };
    let matrix: Vec<u64> = match stored {
        [cols] => vec![1, *cols as u64],
        _ => stored.iter().map(|d| *d as u64).collect(),
    };
    let layout = Layout::new(encoding, None, &matrix).unwrap();
    let names = (0..count).map(|i| format!("{name}.{i}"));
    weight.source = program::Source {
        tensors: names.clone().map(|n| n.as_str().into()).collect(),
        scales: names.clone().map(|n| format!("{n}.scale").as_str().into()).collect(),
        stacked,
        stored_dims: stored.to_vec(),
        view: View::dense(stored),
    };
    if encoding.is_plain() {
        weight.source.scales.clear();
    }
    for (t, tensor) in names.enumerate() {
        let mut bytes = vec![0; layout.size_bytes() as usize];
        let (rows, cols) = (matrix[0], matrix[1]);
        for (i, position) in (0..rows).flat_map(|r| (0..cols).map(move |c| [r, c])).enumerate() {
            let value = ((i * 7 + t * 5 + name.len()) % 31) as f64 / 4.0 - 3.0;
            code::write(&mut bytes, encoding.code, layout.code_bit(&position), value);
            let scale = 1.0 + (position[0] * 3 + position[1] + t as u64) as f64 / 8.0;
            layout.write_scale(&mut bytes, &position, scale);
        }
        let end = layout.grid_byte().unwrap_or(bytes.len() as u64) as usize;
        source.0.insert(format!("{tensor}.scale"), bytes[end..].to_vec());
        bytes.truncate((rows * cols) as usize * encoding.code.bits() as usize / 8);
        source.0.insert(tensor, bytes);
    }
    weight
}

impl Case {
    fn new(text: &str) -> Case {
        let graph = parse_graph(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
        let mut source = Tensors::default();
        let made = |(at, id): (usize, &ir::graph::ValueId)| {
            assert_eq!(graph.param_kind(at), ParamKind::Weight);
            let value = graph.value(*id);
            let dims: Vec<i64> = graph
                .extents(&value.ty)
                .iter()
                .map(|d| d.bound_value(&graph.symbols).unwrap())
                .collect();
            weight(&value.name, value.ty.encoding, &dims, &mut source)
        };
        let weights = graph.params.iter().enumerate().map(made).collect();
        Case { graph, program: program_of(weights), source }
    }

    fn resolved(&self) -> Constant {
        let output = self.graph.outputs[0];
        assert!(is_constant(&self.graph, output));
        let bound = |param| self.program.weight(&self.graph.value(param).name);
        resolve(&self.graph, output, &bound).unwrap_or_else(|e| panic!("{e}"))
    }

    fn interpreted(&self) -> Vec<f32> {
        let tensor = |w: &Weight| {
            let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
            Tensor::floats(&dims, values(w, &self.source).unwrap()).unwrap()
        };
        let tensors: Vec<Tensor<f32>> = self.program.weights.iter().map(tensor).collect();
        let args: Vec<&Tensor<f32>> = tensors.iter().collect();
        let outcome = evaluate(&self.graph, &args, &Settings::default()).unwrap();
        outcome.outputs[0].as_floats().to_vec()
    }

    /// Packs the result, its axes grouped as batch, rows and columns, in an encoding and order, and
    /// compares every element.
    fn check(&self, axes: [&[usize]; 3], kept: &str, order: Option<&str>) {
        let resolved = self.resolved();
        let expected = self.interpreted();
        let from = resolved.grouped(axes).unwrap();
        let views = resolved.views(&self.program).is_some();
        let room = if views { 0.0 } else { 4.0 * f64::from(f32::EPSILON) };
        let what = format!("{} {axes:?} as {kept}, {order:?}", self.graph);
        let dims: Vec<u64> = from.dims.iter().map(|d| *d as u64).collect();
        let encoding: Encoding = kept.parse().unwrap();
        if let Some(scale) = encoding.scale {
            assert!(keeps_blocks(&from, &self.program, scale), "{what}");
        }
        let packing = order.map(|text| packing(text).unwrap());
        let packed = Packed { from, encoding, dims: dims.clone(), packing };
        let layout = packed.layout().unwrap();
        for threads in [1, 3] {
            let mut bytes = vec![];
            pack(&packed, &self.program, &self.source, threads, &mut |part| {
                bytes.extend(part);
                Ok::<(), ImportError>(())
            })
            .unwrap();
            assert_eq!(bytes.len() as u64, layout.size_bytes(), "{what}");
            let strides: Vec<usize> =
                (0..resolved.dims.len()).map(|a| product(&resolved.dims[a + 1..])).collect();
            for (at, value) in positions(&dims) {
                let logical = axes.iter().zip(&at).map(|(group, flat)| {
                    let (mut flat, mut sum) = (*flat as usize, 0);
                    for axis in group.iter().rev() {
                        let extent = resolved.dims[*axis] as usize;
                        sum += flat % extent * strides[*axis];
                        flat /= extent;
                    }
                    sum
                });
                let expected = f64::from(expected[logical.sum::<usize>()]);
                let found = layout.read(&bytes, &at);
                // Products may be taken in another order.
                let near = (found - expected).abs() <= room * expected.abs();
                assert!(near, "{what}: element {value}, {at:?}: {found}, expected {expected}");
            }
        }
    }

    /// Whether scales of blocks stay.
    fn keeps(&self, axes: [&[usize]; 3]) -> bool {
        let from = self.resolved().grouped(axes).unwrap();
        let scale = self.program.weights[0].encoding.scale.unwrap();
        keeps_blocks(&from, &self.program, scale)
    }
}

fn product(dims: &[i64]) -> usize {
    dims.iter().product::<i64>() as usize
}

fn positions(dims: &[u64]) -> Vec<(Vec<u64>, usize)> {
    let count: u64 = dims.iter().product();
    let position = |i: u64| vec![i / dims[2] / dims[1], i / dims[2] % dims[1], i % dims[2]];
    (0..count).map(|i| (position(i), i as usize)).collect()
}

/// Two matrices below one another: merged projections.
fn below(encoding: &str, a: i64, b: i64, d: i64) -> Case {
    Case::new(&format!(
        "graph @below(weight %a: {encoding}[a, D], weight %b: {encoding}[b, D]) -> {0}[z, D]
  params D = {d}, a = {a}, b = {b}
  index z = a + b {{
  %0 = concat %a, %b {{along = [a, b], into = z}} : {0}[z, D]
  return %0
}}",
        decoded(encoding)
    ))
}

fn decoded(encoding: &str) -> DType {
    encoding.parse::<Encoding>().unwrap().decoded()
}

const ROWS: [&[usize]; 3] = [&[], &[0], &[1]];
const TURNED: [&[usize]; 3] = [&[], &[1], &[0]];
const PACKED: Option<&str> = Some("[0/1, 1/16, 2/2, 1:16, 2:2]");

#[test]
fn plain_weights_stand_below_one_another() {
    for (a, b, d) in [(5, 7, 3), (1, 1, 1), (32, 16, 8)] {
        for order in [None, PACKED] {
            below("bf16", a, b, d).check(ROWS, "bf16", order);
            below("bf16", a, b, d).check(TURNED, "bf16", order);
            below("f32", a, b, d).check(ROWS, "f32", order);
            below("i8<f32 2x4>", a, b, d).check(ROWS, "f32", order);
        }
    }
}

#[test]
fn scales_stay_where_weights_begin_at_blocks() {
    for (a, b, d, keeps) in [(4, 3, 7, true), (2, 5, 8, true), (3, 4, 8, false), (1, 1, 4, false)] {
        let case = below("i8<f32 2x4>", a, b, d);
        assert_eq!(case.keeps(ROWS), keeps, "{a} {b} {d}");
        if keeps {
            case.check(ROWS, "i8<f32 2x4>", None);
            case.check(ROWS, "i8<f32 2x4>", Some("[0/1, 1/4, 2/2, 1:4, 2:2]"));
        }
        case.check(TURNED, "f32", None);
        assert!(!case.keeps(TURNED));
    }
}

/// Heads of a matrix, a part of each.
fn heads(encoding: &str, start: i64, len: i64) -> Case {
    Case::new(&format!(
        "graph @heads(weight %w: {encoding}[c, r]) -> {0}[h, n, r]
  params d = 8, h = 3, n = {len}, r = 12
  index c = d*h {{
  %0 = split %w {{index = c, into = [h, d]}} : {0}[h, d, r]
  %1 = slice %0 {{index = d, into = n, start = {start}}} : {0}[h, n, r]
  return %1
}}",
        decoded(encoding)
    ))
}

#[test]
fn parts_of_heads_are_views() {
    let by_head: [&[usize]; 3] = [&[0], &[1], &[2]];
    let absorbed: [&[usize]; 3] = [&[0], &[2], &[1]];
    let flat: [&[usize]; 3] = [&[], &[0, 1], &[2]];
    for (start, len) in [(0, 4), (4, 4), (3, 5), (7, 1), (0, 8)] {
        for axes in [by_head, absorbed, flat] {
            heads("bf16", start, len).check(axes, "bf16", None);
            heads("i8<f32 4x4>", start, len).check(axes, "f32", PACKED);
        }
        let case = heads("i8<f32 4x4>", start, len);
        assert_eq!(case.resolved().parts.len(), 1);
        // One row is in one block, wherever that begins.
        let keeps = start % 4 == 0 || len == 1;
        assert_eq!(case.keeps(by_head), keeps, "{start} {len}");
        // Rows of several heads are blocks of the joint matrix where heads are whole blocks.
        assert_eq!(case.keeps(flat), start % 4 == 0 && len % 4 == 0, "{start} {len}");
        assert!(!case.keeps(absorbed));
        if case.keeps(by_head) {
            case.check(by_head, "i8<f32 4x4>", None);
        }
        if case.keeps(flat) {
            case.check(flat, "i8<f32 4x4>", None);
        }
    }
}

/// Experts with one more behind them.
fn joined(encoding: &str) -> Case {
    Case::new(&format!(
        "graph @joined(weight %w: {encoding}[e, f, D], weight %s: {encoding}[f, D]) -> {0}[e1, f, D]
  params D = 6, e = 3, f = 5
  index e1 = e + 1, u = 1, f1 = f {{
  %0 = rename %s {{from = [f], to = [f1]}} : {0}[f1, D]
  %1 = split %0 {{index = f1, into = [u, f]}} : {0}[u, f, D]
  %2 = concat %w, %1 {{along = [e, u], into = e1}} : {0}[e1, f, D]
  return %2
}}",
        decoded(encoding)
    ))
}

#[test]
fn experts_are_joined_by_one_more() {
    let axes: [&[usize]; 3] = [&[0], &[1], &[2]];
    joined("bf16").check(axes, "bf16", PACKED);
    joined("f32").check([&[], &[0, 1], &[2]], "f32", None);
    let case = joined("i8<f32 2x4>");
    case.check(axes, "i8<f32 2x4>", None);
    assert_eq!(case.resolved().name(), "w+s");
    let from = case.resolved();
    let packed = Packed { from, encoding: DType::F32.into(), dims: vec![4, 5, 6], packing: None };
    assert_eq!(packed.sources(&case.program), ["w.0", "w.1", "w.2", "s.0"]);
}

#[test]
fn experts_stand_side_by_side() {
    // Gate and up of each expert.
    for (encoding, f) in [("bf16", 5), ("i8<f32 2x4>", 4)] {
        let dtype = decoded(encoding);
        let case = Case::new(&format!(
            "graph @both(weight %g: {encoding}[e, f, D], weight %u: {encoding}[e, f, D]) \
             -> {dtype}[e, f2, D]
  params D = 6, e = 3, f = {f}
  index f2 = 2*f {{
  %0 = concat %g, %u {{along = [f, f], into = f2}} : {dtype}[e, f2, D]
  return %0
}}"
        ));
        case.check([&[0], &[1], &[2]], encoding, None);
        case.check([&[], &[0, 1], &[2]], "f32", None);
        case.check([&[2], &[0], &[1]], "f32", None);
    }
}

#[test]
fn products_are_computed_once_in_f32() {
    let case = Case::new(
        "graph @scaled(weight %w: i8<f32 2x4>[a, D], weight %n: bf16[D]) -> f32[D, a]
  params D = 6, a = 5 {
  %0 = const {values = [0.3]} : f32[]
  %1 = contract %n, %0 : f32[D]
  %2 = const {values = [1.0, 2.0, 0.1, 4.0, 5.0]} : f32[a]
  %3 = contract %w, %1 : f32[D, a]
  %4 = map { %3 * 0.5 * %2 } : f32[D, a]
  return %4
}",
    );
    assert!(case.resolved().parts.iter().all(|p| p.factors.len() == 5));
    case.check(ROWS, "f32", None);
    case.check(TURNED, "f32", PACKED);
    assert!(case.resolved().views(&case.program).is_none());
    // A scale on one of two halves.
    let case = Case::new(
        "graph @half(weight %w: bf16[a, D], weight %v: bf16[a, D]) -> f32[c, D]
  params D = 6, a = 5
  index c = 2*a {
  %0 = map { %w * 0.3 } : f32[a, D]
  %1 = cast %v {to = f32} : f32[a, D]
  %2 = concat %0, %1 {along = [a, a], into = c} : f32[c, D]
  return %2
}",
    );
    case.check(ROWS, "f32", None);
}

#[test]
fn anything_else_is_computed_whole() {
    let case = Case::new(
        "graph @product(weight %a: bf16[r, D], weight %b: i8<f32 2x4>[h, r], weight %c: bf16[c, D])
  -> f32[z, D]
  params D = 6, c = 2, h = 5, r = 3
  index z = c + h {
  %0 = contract %b, %a : f32[h, D]
  %1 = map { exp(%0 * 0.001) + 1 } : f32[h, D]
  %2 = cast %c {to = f32} : f32[c, D]
  %3 = concat %2, %1 {along = [c, h], into = z} : f32[z, D]
  return %3
}",
    );
    case.check(ROWS, "f32", None);
    case.check(TURNED, "f32", PACKED);
    // The factors of the product and its result, in f32.
    assert_eq!(case.resolved().held_bytes(), 4 * (3 * 6 + 5 * 3 + 5 * 6));
    let computed = |s: &Source| matches!(s, Source::Computed(_));
    let parts = case.resolved().parts;
    assert_eq!(parts.iter().filter(|p| computed(&p.factors[0].source)).count(), 1);
}

#[test]
fn equal_constants_are_equal() {
    let whole = Case::new(
        "graph @whole(weight %w: bf16[c, D]) -> bf16[c, D]
  params D = 3
  index c = 12 {
  %0 = rename %w {from = [c], to = [c]} : bf16[c, D]
  return %0
}",
    );
    let in_parts = Case::new(
        "graph @parts(weight %w: bf16[c, D]) -> bf16[c, D]
  params D = 3
  index a = 5, b = 7, c = 12, h = 4, n = 3 {
  %0 = slice %w {index = c, into = a, start = 0} : bf16[a, D]
  %1 = slice %w {index = c, into = b, start = 5} : bf16[b, D]
  %2 = concat %0, %1 {along = [a, b], into = c} : bf16[c, D]
  %3 = split %2 {index = c, into = [h, n]} : bf16[h, n, D]
  %4 = merge %3 {indices = [h, n], into = c} : bf16[c, D]
  return %4
}",
    );
    assert_eq!(whole.resolved(), in_parts.resolved());
    assert_ne!(whole.resolved(), below("bf16", 6, 6, 3).resolved());
    let twice = || heads("bf16", 0, 4).resolved().grouped([&[0], &[1], &[2]]);
    assert_eq!(twice(), twice());
    assert_ne!(twice(), heads("bf16", 0, 4).resolved().grouped([&[0], &[2], &[1]]));
}

#[test]
fn random_views_hold_their_elements() {
    // Splits and merges that cut across each other.
    for (inner, outer) in [(4, 6), (6, 4), (3, 8), (8, 3), (1, 24), (24, 1)] {
        let case = Case::new(&format!(
            "graph @cut(weight %w: bf16[c, D], weight %v: bf16[c, D]) -> bf16[q, p, D]
  params D = 5
  index b = 2, c = 12, p = {inner}, q = {outer}, x = 24, y = 24 {{
  %0 = concat %w, %v {{along = [c, c], into = x}} : bf16[x, D]
  %1 = split %0 {{index = x, into = [c, b]}} : bf16[c, b, D]
  %2 = merge %1 {{indices = [b, c], into = y}} : bf16[y, D]
  %3 = split %2 {{index = y, into = [q, p]}} : bf16[q, p, D]
  return %3
}}"
        ));
        case.check([&[0], &[1], &[2]], "bf16", None);
        case.check([&[2], &[1, 0], &[]], "bf16", None);
        case.check([&[], &[], &[2, 0, 1]], "bf16", None);
    }
}

#[test]
fn constants_without_a_value_are_refused() {
    let graph = parse_graph(
        "graph @none() -> i32[c]
  params c = 3 {
  %i = iota {start = 0} : i32[c]
  %y = map { 7 / %i } : i32[c]
  return %y
}",
    );
    let computed = Computed { graph: graph.unwrap(), weights: vec![], bytes: 0 };
    let error =
        computed::evaluate(&computed, &program_of(vec![]), &Tensors::default()).unwrap_err();
    assert_eq!(error.code(), "E0284", "{error}");
    assert!(error.to_string().contains("division by 0"), "{error}");
}
