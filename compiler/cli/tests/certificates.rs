//! What `latentc verify` makes of certificates that were changed after the fact, in files whose
//! hashes are right.
#![allow(clippy::unwrap_used)]

mod support;

use artifact::Plan;
use artifact::format::{CERTIFICATE, PLAN};
use compiler::certificate;
use serde_json::Value;
use support::{Scene, latentc, refused, section, with_section};

/// A compiled model, and a place for files that are made of it.
fn compiled() -> Scene {
    let scene = Scene::new("rand-v2-lite");
    scene.compile(&["-C", "compute=f32"]);
    scene
}

/// The certificates of a block of many steps, from one step to the next.
struct Steps {
    block: String,
    /// What stands before, the source among it; then each step; then what stands after.
    before: String,
    steps: Vec<String>,
    after: String,
}

fn steps(scene: &Scene) -> Steps {
    let text = section(scene, CERTIFICATE);
    let mut at = 0;
    for own in text.split_inclusive("certificate\n") {
        let end = at + own.len() - if own.ends_with("certificate\n") { 12 } else { 0 };
        let starts: Vec<usize> =
            text[at..end].match_indices("\nstep ").map(|(i, _)| at + i + 1).collect();
        if starts.len() >= 3 {
            let ends = starts[1..].iter().copied().chain([end]);
            let steps = starts.iter().zip(ends).map(|(a, b)| text[*a..b].to_string()).collect();
            let block = own.split(['@', '(']).nth(1).unwrap().to_string();
            let (before, after) = (text[..starts[0]].to_string(), text[end..].to_string());
            return Steps { block, before, steps, after };
        }
        at += own.len();
    }
    panic!("no certificate has three steps: {text}");
}

impl Steps {
    fn text(&self) -> String {
        format!("{}{}{}", self.before, self.steps.concat(), self.after)
    }
}

fn wrong(scene: &Scene, copy: &str, text: &str, code: &str) -> String {
    refused(&["verify", &with_section(scene, copy, CERTIFICATE, Some(text.as_bytes()))], 1, &[code])
}

#[test]
fn certificates_are_checked_beside_the_hashes() {
    let scene = compiled();
    let text = section(&scene, CERTIFICATE);
    assert_eq!(steps(&scene).text(), text);
    let copy = with_section(&scene, "same", CERTIFICATE, Some(text.as_bytes()));
    for file in [&scene.out, &copy] {
        let ran = latentc(&["verify", file]);
        assert_eq!(ran.exit, 0, "{}", ran.err);
        assert!(ran.out.contains(" steps equal in the prime field"), "{}", ran.out);
    }
    let ran = latentc(&["verify", &copy, "--json"]);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    let report = &report["certificate"];
    assert_eq!(report["steps"], text.matches("\nstep ").count());
    assert_eq!(report["forms"], 1 + text.matches("\ncertificate\n").count());
    assert_eq!((&report["field_check"], &report["steps_near"]), (&"equal".into(), &0.into()));
}

#[test]
fn a_changed_step_is_named() {
    let scene = compiled();
    for at in 0..3 {
        let mut steps = steps(&scene);
        let changed = steps.steps[at].replacen("eps = 1e-6", "eps = 2e-6", 1);
        assert_ne!(changed, steps.steps[at]);
        steps.steps[at] = changed;
        let err = wrong(&scene, "step", &steps.text(), "E0287");
        let rule = steps.steps[at].split(' ').nth(1).unwrap();
        let place = format!("block @{}: step {} ({rule}): output ", steps.block, at + 1);
        assert!(err.contains(&place) && err.contains("expected "), "{place}\n{err}");
    }
    let mut steps = steps(&scene);
    steps.before = steps.before.replacen("eps = 1e-6", "eps = 2e-6", 1);
    assert!(wrong(&scene, "source", &steps.text(), "E0287").contains(": step 1 ("));
}

#[test]
fn tags_are_words_and_what_they_say_is_done() {
    let scene = compiled();
    let mut steps = steps(&scene);
    let head = steps.steps[1].lines().next().unwrap().to_string();
    let tag = head.split(' ').nth(2).unwrap();
    let retagged = |tag: &str| {
        let words: Vec<&str> = head.split(' ').collect();
        format!("step {} {tag}", words[1])
    };
    let own = steps.steps[1].clone();
    steps.steps[1] = own.replacen(&head, &retagged("nearly"), 1);
    let err = wrong(&scene, "tag", &steps.text(), "E0285");
    assert!(err.contains("found `nearly`, expected one of exact, "), "{err}");
    let line = 1 + (steps.before.clone() + &steps.steps[0]).lines().count();
    assert!(err.contains(&format!("line {line}: ")), "{err}");
    // A weaker tag asks for less, and it is said that less was checked.
    assert!(["exact", "reassociates"].contains(&tag));
    steps.steps[1] = own.replacen(&head, &retagged("approximates"), 1);
    let path = with_section(&scene, "weaker", CERTIFICATE, Some(steps.text().as_bytes()));
    let ran = latentc(&["verify", &path]);
    assert!(ran.exit == 0 && ran.out.contains(", 1 near in f64"), "{}{}", ran.out, ran.err);
}

#[test]
fn what_is_missing_is_said() {
    let scene = compiled();
    let path = with_section(&scene, "none", CERTIFICATE, None);
    assert!(refused(&["verify", &path], 1, &["E0409"]).contains("no section `certificate`"));
    let text = section(&scene, CERTIFICATE);
    for cut in [1, 20, text.len() / 2, text.len() - 3] {
        let ran = latentc(&[
            "verify",
            &with_section(&scene, "cut", CERTIFICATE, Some(&text.as_bytes()[..cut])),
        ]);
        assert_eq!(ran.exit, 1, "{cut}: {}", ran.out);
        assert!(ran.err.starts_with("E0285\n\n  x section `certificate`: line "), "{}", ran.err);
    }
    assert!(
        wrong(&scene, "empty", "", "E0295").contains("found certificates that end with nothing")
    );
    let binary = with_section(&scene, "binary", CERTIFICATE, Some(b"certificate\n\xff\xfe"));
    let err = refused(&["verify", &binary], 1, &["E0285"]);
    assert!(err.contains("line 2: found bytes that are no UTF-8"), "{err}");
    let mut steps = steps(&scene);
    steps.steps.pop();
    let err = wrong(&scene, "shorter", &steps.text(), "E0295");
    assert!(err.contains(&format!("block @{} in bucket `", steps.block)), "{err}");
}

#[test]
fn certificates_belong_to_one_model_and_to_the_plan() {
    let scene = compiled();
    let mut other = steps(&scene);
    let twice = |text: &str| text.replace("eps = 1e-6", "eps = 2e-6");
    let own = other.before.rfind("certificate\n").unwrap();
    let stranger = other.before[own..].to_string() + &other.steps.concat();
    let text = other.text();
    assert!(text.ends_with('\n'));
    let err = wrong(&scene, "two", &(text + &twice(&stranger)), "E0296");
    assert!(
        err.contains(&format!("block @{}: found certificates that begin", other.block)),
        "{err}"
    );
    // The same in place of the model's own.
    other.before = other.before[..own].to_string() + &twice(&other.before[own..]);
    other.steps.iter_mut().for_each(|step| *step = twice(step));
    let ran = latentc(&[
        "verify",
        &with_section(&scene, "else", CERTIFICATE, Some(other.text().as_bytes())),
    ]);
    assert!(ran.exit == 1 && ran.err.starts_with("E029"), "{}", ran.err);

    let mut plan = Plan::parse(section(&scene, PLAN).as_bytes()).unwrap();
    plan.entries[0].buckets[1].forms.clear();
    let json = serde_json::to_vec(&plan).unwrap();
    let err =
        refused(&["verify", &with_section(&scene, "formless", PLAN, Some(&json))], 1, &["E0297"]);
    assert!(err.contains(&format!("`{}`", plan.entries[0].buckets[1].name)), "{err}");
    let mut plan = Plan::parse(section(&scene, PLAN).as_bytes()).unwrap();
    plan.entries[0].buckets[0].forms[1].graph = artifact::format::digest(b"another graph");
    let json = serde_json::to_vec(&plan).unwrap();
    refused(&["verify", &with_section(&scene, "another", PLAN, Some(&json))], 1, &["E0295"]);
}

#[test]
fn random_damage_is_refused_or_harmless_but_never_a_panic() {
    let scene = compiled();
    let text = section(&scene, CERTIFICATE);
    let plan = Plan::parse(section(&scene, PLAN).as_bytes()).unwrap();
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    let mut verified = 0;
    for _ in 0..200 {
        let mut damaged = text.clone().into_bytes();
        let at = next(damaged.len());
        damaged[at] = b"0123456789abcxyz =%{}[],:@\n"[next(27)];
        let Ok(certificates) = certificate::read(&damaged) else {
            refused += 1;
            continue;
        };
        verified += 1;
        if verified <= 20 {
            refused += usize::from(certificate::verify(&certificates, &plan, 3).is_err());
        }
    }
    assert!(refused > 150, "{refused} of 200 were refused, {verified} could be read");
}
