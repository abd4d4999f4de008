//! The checker takes what importers state: every block of every model has small extents at which
//! it can be evaluated, and a change of any constant of it is seen.
#![allow(clippy::unwrap_used)]

use check::{CheckError, Tag, check_pair};
use compiler::import::{ImportOptions, import};
use ir::attr::Attr;
use ir::graph::Graph;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Every model of the tests, and configurations of real size, whose weights are not needed.
fn models() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let inside = |folder: &str| {
        let entries = std::fs::read_dir(root.join(folder)).unwrap();
        entries.map(|e| e.unwrap().path()).collect::<Vec<_>>()
    };
    [inside("models"), inside("configs")].concat()
}

fn blocks() -> Vec<Graph> {
    let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
    let import = |path: PathBuf| import(&path, &options).unwrap().program.blocks;
    let blocks: Vec<Graph> = models().into_iter().flat_map(import).collect();
    assert!(blocks.len() > 20);
    blocks
}

#[test]
fn every_imported_block_can_be_checked() {
    for block in blocks() {
        for seed in 0..3 {
            let same = check_pair(&block, &block, Tag::Exact, seed);
            assert_eq!(same, Ok(()), "{block}");
        }
    }
}

#[test]
fn changed_numbers_of_imported_blocks_are_seen() {
    let mut ops = BTreeSet::new();
    for block in blocks() {
        for at in 0..block.nodes.len() {
            let mut changed = block.clone();
            let node = &mut changed.nodes[at];
            let numbers = node.attrs.0.iter_mut().filter_map(|attr| match attr {
                Attr::Float(v) => Some(v),
                Attr::Floats(v) => v.first_mut(),
                _ => None,
            });
            let Some(number) = numbers.last() else { continue };
            // Of what marks the chosen groups only counts that it is not 0.
            let result = block.nodes[at].results[0];
            let mut users = block.nodes.iter().filter(|n| n.operands.contains(&result));
            if users.any(|n| n.op.name() == "scatter") {
                continue;
            }
            *number += 0.5;
            let op = node.op.name();
            match check_pair(&block, &changed, Tag::Exact, 1) {
                Err(CheckError::Differs { .. }) => ops.insert(op),
                other => panic!("{op}: {other:?}\n{block}"),
            };
        }
    }
    let expected = ["const", "rms_norm", "rope_table"];
    assert_eq!(ops.into_iter().collect::<Vec<_>>(), expected);
}
