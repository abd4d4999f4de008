//! Packed weights, made panel by panel, against the layout of the whole tensor.
#![allow(clippy::unwrap_used)]

use compiler::error::ImportError;
use compiler::import::source::{StoredType, TensorInfo, WeightSource};
use compiler::pack::constant::Constant;
use compiler::pack::{Packed, pack};
use ir::dtype::{DType, Encoding};
use ir::graph::program::{Program, Source, View, Weight};
use ir::kernel::code;
use ir::kernel::layout::Layout;
use ir::kernel::parse::packing;

/// Tensors in memory: codes, and f32 scales where there are any.
struct Tensors {
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl WeightSource for Tensors {
    fn tensor(&self, _: &str) -> Option<TensorInfo> {
        Some(TensorInfo { dtype: StoredType::U8, dims: vec![self.codes.len() as u64] })
    }

    fn keys(&self) -> Vec<&str> {
        vec!["codes", "scales"]
    }

    fn read(&self, key: &str, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        let from = if key == "codes" { &self.codes } else { &self.scales };
        out.copy_from_slice(&from[at as usize..at as usize + out.len()]);
        Ok(())
    }
}

fn program(encoding: Encoding, [batch, rows, cols]: [i64; 3]) -> Program {
    let stored_dims = vec![batch * rows, cols];
    let view = View { offset: 0, strides: vec![rows * cols, cols, 1] };
    let scales = encoding.scale.map(|_| "scales".into()).into_iter().collect();
    let tensors = vec!["codes".into()];
    let source = Source { tensors, scales, stacked: false, stored_dims, view };
    let weight = Weight { name: "w".into(), encoding, dims: vec![batch, rows, cols], source };
    Program {
        name: "one".into(),
        symbols: Default::default(),
        blocks: vec![],
        weights: vec![weight],
        states: vec![],
        entries: vec![],
    }
}

/// Packs `[batch, rows, cols]` of stored elements and reads every element back by the layout that
/// the kernel's parameter has.
fn check(stored: &str, kept: &str, order: Option<&str>, dims: [i64; 3]) {
    let what = format!("{stored} as {kept}, {order:?}, {dims:?}");
    let (stored, kept): (Encoding, Encoding) = (stored.parse().unwrap(), kept.parse().unwrap());
    let [batch, rows, cols] = dims.map(|d| d as u64);
    // As a checkpoint has it: batches below one another, one grid of scales over all.
    let matrix = Layout::new(stored, None, &[batch * rows, cols]).unwrap();
    let mut memory = vec![0; matrix.size_bytes() as usize];
    for at in 0..batch * rows * cols {
        let position = [at / cols, at % cols];
        let bit = matrix.code_bit(&position);
        code::write(&mut memory, stored.code, bit, (at * 7 % 31) as f64 / 4.0 - 3.0);
        matrix.write_scale(&mut memory, &position, 1.0 + position[0] as f64 + position[1] as f64);
    }
    let end = matrix.grid_byte().unwrap_or(memory.len() as u64) as usize;
    let source = Tensors { codes: memory[..end].to_vec(), scales: memory[end..].to_vec() };
    let program = program(stored, dims);
    let from = Constant::weight(&program.weights[0]);
    let packed = Packed {
        from,
        encoding: kept,
        dims: vec![batch, rows, cols],
        packing: order.map(|text| packing(text).unwrap()),
    };
    let layout = packed.layout().unwrap();
    for threads in [1, 3] {
        let mut bytes = vec![];
        pack(&packed, &program, &source, threads, &mut |part| {
            bytes.extend(part);
            Ok::<(), ImportError>(())
        })
        .unwrap();
        assert_eq!(bytes.len() as u64, layout.size_bytes(), "{what}");
        for at in 0..batch * rows * cols {
            let (b, r, c) = (at / cols / rows, at / cols % rows, at % cols);
            let expected = matrix.read(&memory, &[b * rows + r, c]);
            assert_eq!(layout.read(&bytes, &[b, r, c]), expected, "{what}: [{b}, {r}, {c}]");
        }
    }
}

#[test]
fn every_order_holds_every_element() {
    let orders = [None, Some("[0/1, 1/4, 2/2, 1:4, 2:2]"), Some("[0/1, 1/16, 2/1, 1:16]")];
    for order in orders {
        for dims in [[1, 1, 1], [3, 5, 7], [2, 16, 8], [1, 33, 2]] {
            check("bf16", "bf16", order, dims);
            check("f32", "f32", order, dims);
            check("bf16", "f32", order, dims);
        }
    }
}

#[test]
fn scales_follow_the_codes_or_stand_among_them() {
    let apart = Some("[0/1, 1/4, 2/2, 1:4, 2:2]");
    let nested = Some("[0/1, 1/4, 2/8, {2:2, 1:4}, 1:4, 2:8]");
    for dims in [[1, 4, 8], [2, 8, 12], [3, 4, 5]] {
        check("i8<f32 2x4>", "i8<f32 2x4>", apart, dims);
        check("i8<f32 2x4>", "i8<f32 2x4>", None, dims);
        check("i8<f32 1x4>", "i8<f32 1x4>", nested, dims);
        check("i8<f16 1x4>", "i8<f16 1x4>", nested, dims);
        check("i8<f32 2x4>", "f32", apart, dims);
    }
}

/// Packs numbers in a format of codes with scales, and reads them back: none is further off than
/// half a step of its block, up to what its scale was chosen smaller by.
fn check_rounded(kept: &str, order: Option<&str>, step: f64) {
    let (dims, what) = ([2u64, 20, 96], format!("{kept}, {order:?}"));
    let [batch, rows, cols] = dims;
    let value = |at: u64| ((at * 37 % 101) as f32 / 50.0 - 1.0) * (1.0 + (at % 7) as f32 / 9.0);
    let codes: Vec<u8> = (0..batch * rows * cols).flat_map(|at| value(at).to_le_bytes()).collect();
    let source = Tensors { codes, scales: vec![] };
    let program = program(DType::F32.into(), dims.map(|d| d as i64));
    let encoding: Encoding = kept.parse().unwrap();
    let from = Constant::weight(&program.weights[0]);
    let packing = order.map(|text| packing(text).unwrap());
    let packed = Packed { from, encoding, dims: dims.into(), packing };
    let layout = packed.layout().unwrap();
    let made = |threads| {
        let mut bytes = vec![];
        let rounding = pack(&packed, &program, &source, threads, &mut |part| {
            bytes.extend(part);
            Ok::<(), ImportError>(())
        });
        (bytes, rounding.unwrap().unwrap())
    };
    let (bytes, rounding) = made(1);
    assert_eq!(bytes.len() as u64, layout.size_bytes(), "{what}");
    let (mut squares, mut errors) = (0.0, 0.0);
    for at in 0..batch * rows * cols {
        let position = [at / cols / rows, at / cols % rows, at % cols];
        let (found, expected) = (layout.read(&bytes, &position), f64::from(value(at)));
        let block = 1.0 + 6.0 / 9.0;
        assert!((found - expected).abs() <= step * block, "{what}: {found} for {expected}");
        squares += expected * expected;
        errors += (found - expected).powi(2);
    }
    assert!((rounding.squares / squares - 1.0).abs() < 1e-5, "{what}");
    assert!((rounding.errors / errors - 1.0).abs() < 1e-3, "{what}");
    assert_eq!(made(3).0, bytes, "{what}: by three threads");
}

#[test]
fn codes_with_scales_are_near_and_their_error_is_known() {
    let apart = |group: u32| format!("[0/1, 1/16, 2/{group}, 1:16, 2:{group}]");
    for (kept, group, step) in [
        ("i8<f32 1x96>", 4, 1.0 / 127.0),
        ("i8<f16 1x32>", 4, 1.0 / 127.0),
        ("i4<f16 1x32>", 8, 0.35),
        ("i4<e8m0 1x32>", 8, 0.35),
        ("fp4_e2m1<e8m0 1x32>", 8, 0.5),
        ("fp8_e4m3<f32 16x32>", 4, 1.0 / 15.0),
    ] {
        check_rounded(kept, Some(&apart(group)), step);
        check_rounded(kept, None, step);
    }
    check_rounded("i4<f16 1x32>", Some("[0/1, 1/4, 2/32, {2:1, 1:4}, 2/8:4, 1:4, 2:8]"), 0.35);
}

#[test]
fn orders_without_whole_rows_are_refused() {
    let program = program(DType::BF16.into(), [1, 4, 6]);
    let from = Constant::weight(&program.weights[0]);
    let (encoding, dims) = (DType::BF16.into(), vec![1, 4, 6]);
    let columns_first = Some(packing("[0/1, 2/1, 1/1]").unwrap());
    let packed = Packed { from, encoding, dims, packing: columns_first };
    let error = packed.layout().unwrap_err();
    assert!(error.to_string().contains("[1, 4, 6]"), "{error}");
}

#[test]
fn stored_codes_of_less_than_a_byte_are_refused() {
    for stored in ["i4", "fp4_e2m1", "i4<f32 1x4>"] {
        let stored: Encoding = stored.parse().unwrap();
        let program = program(stored, [1, 4, 8]);
        let source = Tensors { codes: vec![0; 16], scales: vec![0; 32] };
        let from = Constant::weight(&program.weights[0]);
        for encoding in [stored, DType::F32.into()] {
            let from = from.clone();
            let packed = Packed { from, encoding, dims: vec![1, 4, 8], packing: None };
            let error = pack(&packed, &program, &source, 1, &mut |_| Ok(())).unwrap_err();
            assert!(matches!(error, ImportError::Misfit { .. }), "{error}");
            assert_eq!(error.code(), "E0213");
        }
    }
}
