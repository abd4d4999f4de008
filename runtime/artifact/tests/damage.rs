//! Damaged files are refused, whatever the damage, without a panic.

#![allow(clippy::unwrap_used)]

mod support;

use artifact::plan::PLAN_VERSION;
use artifact::reader::Weights;
use artifact::{ArtifactError, Plan, Reader, WeightsPlace};
use proptest::prelude::*;
use serde_json::Value;
use std::sync::OnceLock;
use support::{bytes, plan, write};

const STUB_BYTES: usize = 5000;
const WEIGHTS_BYTES: usize = 3000;

/// An executable form of the file, small enough to be damaged thousands of times.
fn file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let weights = bytes(WEIGHTS_BYTES);
        write(&path, Some(&bytes(STUB_BYTES)), WeightsPlace::Inline, &weights);
        std::fs::read(path).unwrap()
    })
}

/// Opens the file as a runtime that checks everything would.
fn open(file: &[u8]) -> Result<(), ArtifactError> {
    let reader = Reader::open(file)?;
    reader.manifest()?;
    reader.plan()?;
    match reader.weights()? {
        Weights::Here(weights) => reader.verify_weights(weights, 1, &|_, _| {}),
        Weights::External(_) => Ok(()),
    }
}

#[test]
fn every_bit_of_table_and_footer_counts() {
    let mut file = file().to_vec();
    open(&file).unwrap();
    let first = file.len() - 900;
    for at in first..file.len() {
        for bit in 0..8 {
            file[at] ^= 1 << bit;
            assert!(open(&file).is_err(), "bit {bit} of byte {at} of {}", file.len());
            file[at] ^= 1 << bit;
        }
    }
}

#[test]
fn damage_is_named() {
    let flip = |at: usize| {
        let mut file = file().to_vec();
        file[at] ^= 0x10;
        open(&file).unwrap_err()
    };
    let end = file().len();
    assert_eq!(flip(end - 1).code(), "E0401");
    assert_eq!(flip(end - 12).code(), "E0403");
    assert_eq!(flip(end - 16).code(), "E0404");
    assert_eq!(flip(end - 100).code(), "E0405");
    assert_eq!(flip(10).code(), "E0407");
    assert_eq!(flip(STUB_BYTES).code(), "E0406");
    assert_eq!(flip(8192 + 20).code(), "E0406");
    let reader = Reader::open(file()).unwrap();
    let Weights::Here(weights) = reader.weights().unwrap() else { panic!("weights are inline") };
    let at = weights.as_ptr() as usize - file().as_ptr() as usize;
    assert_eq!(flip(at + 5).code(), "E0408");
    assert_eq!(open(&file()[8192..end - 1]).unwrap_err().code(), "E0402");
    assert_eq!(open(b"").unwrap_err().code(), "E0401");
}

#[test]
fn every_error_has_a_next_step() {
    let errors = [open(b"").unwrap_err(), open(&file()[8192..]).unwrap_err()];
    assert!(errors.iter().all(|error| !error.help().is_empty() && error.code().starts_with("E04")));
}

#[test]
fn plans_that_contradict_themselves_are_refused() {
    use artifact::plan::{Arg, Step};
    use artifact::size::SizeExpr;
    type Damage = fn(&mut artifact::Plan);
    let damages: [(&str, Damage); 13] = [
        ("kernel's symbol", |p| p.kernels[0].symbols[0] = 1),
        ("parameter count", |p| p.kernels[0].params = 3),
        ("weight's range", |p| p.weights[0].bytes = u64::MAX),
        ("weight's alignment", |p| p.weights[0].offset = 32),
        ("weight's place", |p| p.weights[0].place = 1),
        ("page size", |p| p.states[0].page_tokens = 0),
        ("arena per place", |p| p.entries[0].buckets[0].arenas.clear()),
        ("buffer's size", |p| p.entries[0].buckets[0].buffers[0].bytes = SizeExpr(vec![])),
        ("condition", |p| p.entries[0].buckets[0].when[0][0].expr = SizeExpr::symbol(1)),
        ("argument", |p| {
            if let Step::Launch(launch) = &mut p.entries[0].buckets[0].steps[0] {
                launch.args[2] = Arg::State { state: 0, layer: 2 };
            }
        }),
        ("launch's bytes", |p| {
            if let Step::Launch(launch) = &mut p.entries[0].buckets[0].steps[0] {
                launch.work.bytes = SizeExpr::symbol(1);
            }
        }),
        ("launch's operations", |p| {
            if let Step::Launch(launch) = &mut p.entries[0].buckets[0].steps[0] {
                launch.work.flops = SizeExpr(vec![]);
            }
        }),
        ("copy", |p| {
            let bytes = SizeExpr::constant(1);
            let step = Step::Copy { from: Arg::Null, to: Arg::Buffer(0), bytes };
            p.entries[0].buckets[0].steps.push(step);
        }),
    ];
    plan().check(WEIGHTS_BYTES as u64).unwrap();
    for (what, damage) in damages {
        let mut plan = plan();
        damage(&mut plan);
        let error = plan.check(WEIGHTS_BYTES as u64).expect_err(what);
        assert_eq!(error.code(), "E0412", "{what}");
    }
}

#[test]
fn plans_of_another_version_are_refused_before_their_fields_are_looked_at() {
    let (major, minor) = PLAN_VERSION;
    let read = |version: (u16, u16), kept: &dyn Fn(&mut Value)| {
        let mut json = serde_json::to_value(Plan { version, ..plan() }).unwrap();
        kept(&mut json);
        Plan::parse(json.to_string().as_bytes()).map_err(|error| (error.code(), error.to_string()))
    };
    let first = |json: &mut Value| {
        let launch = &mut json["entries"][0]["buckets"][0]["steps"][0]["launch"];
        launch.as_object_mut().unwrap().remove("work").unwrap();
    };
    let told = format!("plan version 1.0 cannot be read, expected {major}.x");
    assert_eq!(read((1, 0), &first), Err(("E0403", told)));
    assert_eq!(read((major + 1, 0), &|_| {}).unwrap_err().0, "E0403");
    assert_eq!(read(PLAN_VERSION, &first).unwrap_err().0, "E0411");
    assert_eq!(read(PLAN_VERSION, &|json| *json = Value::Null).unwrap_err().0, "E0411");
    let newer = (major, minor + 1);
    let more = |json: &mut Value| json["later"] = Value::Bool(true);
    assert_eq!(read(newer, &more).unwrap(), Plan { version: newer, ..plan() });
    let other = Plan { version: (major + 1, 0), ..plan() };
    assert_eq!(other.check(WEIGHTS_BYTES as u64).unwrap_err().code(), "E0403");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn flipped_bytes_are_refused(at in any::<prop::sample::Index>(), mask in 1u8..) {
        let mut file = file().to_vec();
        let at = at.index(file.len());
        file[at] ^= mask;
        prop_assert!(open(&file).is_err(), "byte {at}");
    }

    #[test]
    fn truncations_are_refused(keep in any::<prop::sample::Index>()) {
        let keep = keep.index(file().len());
        prop_assert!(open(&file()[..keep]).is_err(), "{keep} bytes");
    }

    #[test]
    fn missing_fronts_are_refused(cut in any::<prop::sample::Index>()) {
        let cut = cut.index(file().len() - 1) + 1;
        prop_assert!(open(&file()[cut..]).is_err(), "{cut} bytes cut");
    }

    #[test]
    fn appended_bytes_are_refused(more in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut file = file().to_vec();
        file.extend(more);
        prop_assert!(open(&file).is_err());
    }

    #[test]
    fn swapped_ranges_are_refused(from in any::<prop::sample::Index>(),
                                  to in any::<prop::sample::Index>(), count in 1usize..300) {
        let mut damaged = file().to_vec();
        let from = from.index(damaged.len() - count);
        let to = to.index(damaged.len() - count);
        damaged.copy_within(from..from + count, to);
        prop_assume!(damaged != file());
        prop_assert!(open(&damaged).is_err());
    }

    /// The table is believed only as far as it makes sense, even when its hash is right.
    #[test]
    fn noise_before_a_footer_is_refused(noise in prop::collection::vec(any::<u8>(), 0..4000)) {
        let mut damaged = noise;
        damaged.extend(&file()[file().len() - 80..]);
        prop_assert!(open(&damaged).is_err());
    }
}
