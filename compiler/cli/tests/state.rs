//! What a sequence keeps is settled once for an artifact: no level of an instruction set and no
//! backend changes it.
#![allow(clippy::unwrap_used)]

mod support;

use artifact::format::PLAN;
use artifact::plan::State;
use artifact::{Plan, Reader};
use std::collections::BTreeSet;
use std::fs;
use support::Scene;

/// States of what was compiled with some choices, and names of its code.
fn compiled(scene: &Scene, choices: &[&str]) -> (Vec<State>, Vec<String>) {
    let choices: Vec<&str> = choices.iter().flat_map(|choice| ["-C", choice]).collect();
    scene.compile(&choices);
    let file = fs::read(&scene.out).unwrap();
    let reader = Reader::open(&file).unwrap();
    let names = reader.sections().iter().map(|s| s.name.to_string());
    let code = names.filter(|name| name.starts_with("code/")).collect();
    (Plan::parse(reader.section(PLAN).unwrap()).unwrap().states, code)
}

#[test]
fn no_level_and_no_backend_changes_what_is_kept() {
    let scene = Scene::new("rand-v2-lite");
    let (states, codes) = compiled(&scene, &["backend=all"]);
    let kept: BTreeSet<&str> = states.iter().map(|s| s.row.split('[').next().unwrap()).collect();
    assert_eq!(kept, BTreeSet::from(["bf16", "f16"]));
    assert!(codes.len() > 1, "{codes:?}");
    for name in codes {
        let [_, _, level, backend] = name.split('/').collect::<Vec<_>>()[..] else {
            panic!("{name}")
        };
        let choices = [format!("backend={backend}"), format!("isa={level}")];
        let alone = compiled(&scene, &choices.each_ref().map(String::as_str));
        assert_eq!(alone, (states.clone(), vec![name]));
    }
}
