//! What is written is read back, in every form of the file.

#![allow(clippy::unwrap_used)]

mod support;

use artifact::reader::Weights;
use artifact::unfinished::{self, SUFFIX};
use artifact::writer::Sealed;
use artifact::{ArtifactError, Reader, WeightsPlace, Writer};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{bytes, manifest, plan, write};

fn check(reader: &Reader<'_>) {
    assert_eq!(reader.manifest().unwrap(), manifest());
    assert_eq!(reader.plan().unwrap(), plan());
    assert_eq!(reader.section("tokenizer").unwrap(), b"{}");
    let code = reader.code();
    assert_eq!(code.len(), 1);
    assert_eq!((code[0].target, code[0].isa, code[0].backend), ("cpu", "x86-64-v3", "llvm"));
    assert_eq!(code[0].name, "code/cpu/x86-64-v3/llvm");
    assert_eq!(code[0].bytes, bytes(5000));
    assert!(matches!(
        reader.section("graph"),
        Err(ArtifactError::MissingSection { ref name, .. }) if name == "graph"
    ));
}

#[test]
fn plain_artifact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let weights = bytes((33 << 20) + 17);
    let summary = write(&path, None, WeightsPlace::Inline, &weights);
    assert_eq!(summary.weights_file, None);
    let file = std::fs::read(&path).unwrap();
    assert_eq!(file.len() as u64, summary.file_bytes);
    let reader = Reader::open(&file).unwrap();
    check(&reader);
    assert_eq!(reader.sections(), summary.sections);
    let Weights::Here(found) = reader.weights().unwrap() else { panic!("weights are inline") };
    assert_eq!(found, weights);
    assert_eq!((found.as_ptr() as usize - file.as_ptr() as usize) % 4096, 0);
    let most = AtomicU64::new(0);
    let progress = |done: u64, total: u64| {
        assert!(done <= total);
        most.fetch_max(done, Ordering::Relaxed);
    };
    reader.verify_weights(found, 2, &progress).unwrap();
    assert_eq!(most.into_inner(), weights.len() as u64);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn executable_in_front() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let stub = bytes(10_001);
    write(&path, Some(&stub), WeightsPlace::Inline, &bytes(1000));
    let file = std::fs::read(&path).unwrap();
    assert!(file.starts_with(&stub));
    let reader = Reader::open(&file).unwrap();
    check(&reader);
    assert_eq!(reader.section("stub").unwrap(), stub);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111);
}

#[test]
fn external_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let weights = bytes((16 << 20) + 1);
    let summary = write(&path, None, WeightsPlace::External, &weights);
    let file = std::fs::read(&path).unwrap();
    assert!(file.len() < 100_000);
    let reader = Reader::open(&file).unwrap();
    check(&reader);
    assert_eq!(reader.weights().unwrap(), Weights::External("model.latent.weights"));
    let mut second = std::fs::read(summary.weights_file.unwrap()).unwrap();
    let found = reader.external_weights(&second).unwrap();
    assert_eq!(found, weights);
    reader.verify_weights(found, 3, &|_, _| {}).unwrap();

    assert_eq!(reader.external_weights(&second[..4000]).unwrap_err().code(), "E0410");
    for at in [0, 8, 12, 16, 24, 60, 100, 4095] {
        second[at] ^= 1;
        assert!(reader.external_weights(&second).is_err(), "byte {at}");
        second[at] ^= 1;
    }
    *second.last_mut().unwrap() ^= 1;
    let found = reader.external_weights(&second).unwrap();
    let error = reader.verify_weights(found, 1, &|_, _| {}).unwrap_err();
    assert!(matches!(error, ArtifactError::WeightsDamaged { chunk: 1, offset: 0x100_0000, .. }));
}

#[test]
fn same_input_gives_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a", "b"].map(|name| {
        let path = folder.path().join(name);
        write(&path, Some(&bytes(99)), WeightsPlace::Inline, &bytes(70_000));
        std::fs::read(path).unwrap()
    });
    assert_eq!(files[0], files[1]);
}

#[test]
fn dropped_writer_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let mut writer = Writer::create(&path, None, WeightsPlace::External).unwrap();
    writer.begin_weights().unwrap();
    writer.write(&bytes(100)).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn files_get_their_names_when_all_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let statement = folder.path().join("model.latent.intoto.json");
    let sealed = |weights: &[u8]| {
        let mut writer = Writer::create(&path, None, WeightsPlace::External).unwrap();
        writer.begin_weights().unwrap();
        writer.write(weights).unwrap();
        writer.end_section().unwrap();
        writer.seal().unwrap()
    };
    let of = |sealed: &Sealed| -> Vec<Vec<u8>> {
        sealed.files().map(|(_, temporary)| std::fs::read(temporary).unwrap()).collect()
    };
    let there = || {
        let names = ["model.latent.weights", "model.latent"].map(|name| folder.path().join(name));
        names.map(|path| std::fs::read(path).unwrap()).to_vec()
    };
    let mut old = sealed(b"old");
    let first = of(&old);
    old.state(&path, b"of old").unwrap();
    assert!(!path.exists() && !statement.exists());
    old.publish().unwrap();
    assert_eq!(there(), first);
    assert_eq!(std::fs::read(&statement).unwrap(), b"of old");

    let mut new = sealed(b"new");
    new.state(&path, b"of new").unwrap();
    drop(new);
    assert_eq!(there(), first, "what is dropped changes nothing");
    assert_eq!(std::fs::read(&statement).unwrap(), b"of old");

    // A statement that cannot be replaced keeps all from being replaced.
    std::fs::remove_file(&statement).unwrap();
    std::fs::create_dir(&statement).unwrap();
    let mut new = sealed(b"new");
    new.state(&path, b"of new").unwrap();
    assert_eq!(new.publish().unwrap_err().code(), "E0414");
    assert_eq!(there(), first);
    std::fs::remove_dir(&statement).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn padding_counts_within_the_section() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let mut writer = Writer::create(&path, None, WeightsPlace::Inline).unwrap();
    writer.begin_weights().unwrap();
    writer.write(&[1; 70]).unwrap();
    assert_eq!(writer.pad_to(64).unwrap(), 128);
    assert_eq!(writer.pad_to(64).unwrap(), 128);
    assert_eq!(writer.pad_to(4096).unwrap(), 4096);
    assert!(writer.pad_to(48).is_err());
    writer.end_section().unwrap();
    writer.finish().unwrap();
    let file = std::fs::read(&path).unwrap();
    let reader = Reader::open(&file).unwrap();
    let Weights::Here(weights) = reader.weights().unwrap() else { panic!("weights are inline") };
    assert_eq!(weights[..70], [1; 70]);
    assert_eq!(weights[70..], [0; 4026]);
}

#[test]
fn calls_out_of_order_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let mut writer = Writer::create(&path, None, WeightsPlace::Inline).unwrap();
    assert_eq!(writer.write(b"x").unwrap_err().code(), "E0413");
    assert_eq!(writer.end_section().unwrap_err().code(), "E0413");
    assert_eq!(writer.section("weights", &[], b"").unwrap_err().code(), "E0413");
    writer.section("a", &[], b"x").unwrap();
    assert_eq!(writer.section("a", &[], b"x").unwrap_err().code(), "E0413");
    writer.begin_section("b", &[]).unwrap();
    assert_eq!(writer.begin_section("c", &[]).unwrap_err().code(), "E0413");
    assert_eq!(writer.finish().unwrap_err().code(), "E0413");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn folder_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent").join("model.latent");
    assert_eq!(Writer::create(&path, None, WeightsPlace::Inline).unwrap_err().code(), "E0414");
}

#[test]
fn what_is_begun_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.latent");
    let mut writer = Writer::create(&path, None, WeightsPlace::External).unwrap();
    writer.begin_weights().unwrap();
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names().len(), 2);
    assert!(names().iter().all(|name| name.starts_with('.') && name.ends_with(SUFFIX)));
    let kept = [".model.latent.1x-0.tmp", "model.latent", "model.latent.tmp"];
    kept.iter().for_each(|name| std::fs::write(folder.path().join(name), "").unwrap());
    unfinished::remove(&path);
    let mut left = names();
    left.sort();
    assert_eq!(left, kept);
}
