//! Recipes: weights made by them, and recipes that cannot be.
#![allow(clippy::unwrap_used)]

use artifact::ArtifactError;
use artifact::pack::gather::{Gather, Piece, Stored, Tensors};
use artifact::pack::panel::{Nested, Panel};
use artifact::pack::table::Table;
use artifact::plan::{PLAN_VERSION, Plan, Weight};
use artifact::recipe::{CheckpointFile, Digest, Making, Packed, RECIPE_VERSION, Recipe, Tensor};
use serde_json::{Value, json};
use std::convert::Infallible;

/// Bytes of the one file: two tensors of codes, one of scales.
const CODES: u64 = 3 * 6;
const SCALES: u64 = 2 * 3;

struct File {
    bytes: Vec<u8>,
    tensors: Vec<Tensor>,
}

impl Tensors for File {
    type Error = Infallible;

    fn read(&self, tensor: u32, at: u64, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.mapped(tensor).unwrap()[at as usize..][..out.len()]);
        Ok(())
    }

    fn mapped(&self, tensor: u32) -> Option<&[u8]> {
        let Tensor { offset, bytes, .. } = self.tensors[tensor as usize];
        Some(&self.bytes[offset as usize..][..bytes as usize])
    }
}

/// Two 3 by 6 matrices below one another, in panels of two rows and pairs of columns, each panel
/// with its scales of 2 by 2 blocks in front.
fn packed() -> Packed {
    let codes = Piece {
        start: [0; 3],
        dims: [2, 3, 6],
        of: Stored { tensors: vec![0, 1], elements: 18 },
        base: 0,
        along: [Table::steps(18, 2), Table::steps(6, 3), Table::steps(1, 6)],
    };
    let scales = Piece {
        start: [0; 3],
        dims: [2, 2, 3],
        of: Stored { tensors: vec![2, 2], elements: 6 },
        base: 0,
        along: [Table::steps(6, 2), Table::steps(3, 2), Table::steps(1, 3)],
    };
    Packed {
        panel: 0,
        codes: Gather { dims: [2, 3, 6], width: 1, pieces: vec![codes] },
        scales: Some(Gather { dims: [2, 2, 3], width: 1, pieces: vec![scales] }),
        grid: None,
    }
}

fn panel() -> Panel {
    let scales = Nested { width: 1, block_rows: 2, rows: vec![0, 0], blocks: Table::steps(1, 3) };
    Panel {
        bytes: 15,
        width: 1,
        run: 2,
        rows: vec![3, 5],
        runs: Table::steps(4, 3),
        scales: Some(scales),
    }
}

fn recipe() -> Recipe {
    let tensor = |offset, bytes| Tensor { file: 0, offset, bytes };
    let file = CheckpointFile {
        name: "model.safetensors".into(),
        bytes: 2 * CODES + SCALES,
        chunks: vec![Digest([7; 32]); 3],
    };
    Recipe {
        version: RECIPE_VERSION,
        folder: "/models/one".into(),
        chunk_bytes: 16,
        files: vec![file],
        tensors: vec![tensor(0, CODES), tensor(CODES, CODES), tensor(2 * CODES, SCALES)],
        panels: vec![panel()],
        weights: vec![
            Making::Packed(packed()),
            Making::Mapped { file: 0, offset: 1 },
            Making::Stored(64),
        ],
    }
}

fn plan() -> Plan {
    let weight = |name: &str, bytes| Weight {
        name: name.into(),
        offset: 0,
        bytes,
        encoding: "u8".into(),
        dims: vec![],
        packing: String::new(),
        source: vec![],
        place: 0,
    };
    Plan {
        version: PLAN_VERSION,
        symbols: vec![],
        places: vec![],
        kernels: vec![],
        weights: vec![weight("packed", 60), weight("mapped", 41), weight("stored", 10)],
        states: vec![],
        entries: vec![],
        probes: vec![],
    }
}

fn file(recipe: &Recipe) -> File {
    File { bytes: (0..42).collect(), tensors: recipe.tensors.clone() }
}

#[test]
fn elements_come_to_lie_where_the_panel_says() {
    let recipe = recipe();
    recipe.check(&plan(), 74).unwrap();
    let read: Recipe = Recipe::parse(&serde_json::to_vec(&recipe).unwrap()).unwrap();
    assert_eq!(read, recipe);
    for threads in [1, 2, 7] {
        let mut out = vec![0; 60];
        let Ok(()) = packed().make(&panel(), &file(&recipe), threads, &mut out);
        let rows = [
            [36, 37, 38, 0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11],
            [39, 40, 41, 12, 13, 0, 0, 14, 15, 0, 0, 16, 17, 0, 0],
            [36, 37, 38, 18, 19, 24, 25, 20, 21, 26, 27, 22, 23, 28, 29],
            [39, 40, 41, 30, 31, 0, 0, 32, 33, 0, 0, 34, 35, 0, 0],
        ];
        assert_eq!(out, rows.concat());
    }
}

/// Calls `visit` with the value in which one number after the other is another one.
fn with_other_numbers(value: &Value, visit: &mut dyn FnMut(Value)) {
    let numbers = [
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(17),
        json!(1u64 << 31),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
    ];
    let mut pointers = vec![];
    collect(value, String::new(), &mut pointers);
    for pointer in pointers {
        for number in &numbers {
            let mut changed = value.clone();
            *changed.pointer_mut(&pointer).unwrap() = number.clone();
            visit(changed);
        }
    }
}

fn collect(value: &Value, at: String, pointers: &mut Vec<String>) {
    match value {
        Value::Number(_) => pointers.push(at),
        Value::Array(all) => {
            (0..).zip(all).for_each(|(i, v): (u32, _)| collect(v, format!("{at}/{i}"), pointers));
        }
        Value::Object(all) => {
            all.iter().for_each(|(key, v)| collect(v, format!("{at}/{key}"), pointers));
        }
        _ => {}
    }
}

#[test]
fn what_passes_the_check_can_be_made() {
    let whole = serde_json::to_value(recipe()).unwrap();
    let (mut refused, mut made) = (0, 0);
    with_other_numbers(&whole, &mut |changed| {
        let parsed = Recipe::parse(changed.to_string().as_bytes());
        let checked = parsed.and_then(|recipe| recipe.check(&plan(), 74).map(|()| recipe));
        match checked {
            Err(error) => {
                assert!(["E0403", "E0406", "E0411"].contains(&error.code()), "{error}");
                refused += 1;
            }
            Ok(recipe) => {
                let Making::Packed(packed) = &recipe.weights[0] else { panic!("its kind stays") };
                let panel = &recipe.panels[packed.panel as usize];
                let Ok(()) = packed.make(panel, &file(&recipe), 2, &mut [0; 60]);
                made += 1;
            }
        }
    });
    assert!(refused > 200 && made > 50, "{refused} refused, {made} made");
}

#[test]
fn files_are_named_and_hashed() {
    let checked = |change: &dyn Fn(&mut Recipe)| {
        let mut recipe = recipe();
        change(&mut recipe);
        recipe.check(&plan(), 74).map_err(|error| error.code())
    };
    assert_eq!(checked(&|_| {}), Ok(()));
    assert_eq!(checked(&|r| r.files[0].name = "../one".into()), Err("E0406"));
    assert_eq!(checked(&|r| r.files[0].chunks.truncate(2)), Err("E0406"));
    assert_eq!(checked(&|r| r.chunk_bytes = 0), Err("E0406"));
    assert_eq!(checked(&|r| r.weights.truncate(2)), Err("E0406"));
    assert_eq!(checked(&|r| r.weights[2] = Making::Stored(65)), Err("E0406"));
    let old = json!({"version": [9, 0]}).to_string();
    let error = Recipe::parse(old.as_bytes()).unwrap_err();
    assert!(matches!(error, ArtifactError::Version { what: "recipe", .. }), "{error}");
}
