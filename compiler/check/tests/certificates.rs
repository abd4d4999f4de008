//! Right certificates pass; wrong ones are rejected, and the wrong step is named.

use check::certificate::parse;
use check::{Certificate, CheckError, Report, Step, Tag, check, check_pair};
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use proptest::prelude::*;

const ATTENTION: &str = include_str!("files/attention.certificate");
const EXPERTS: &str = include_str!("files/experts.certificate");

fn read(text: &str) -> Certificate {
    let mut all = parse(text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn graph(params: &str, results: &str, nodes: &str) -> Graph {
    let text = format!(
        "graph @g({params}) -> {results}
  params D = 64, e = 32, k = 4
  where 1 <= s <= 64, 1 <= t <= 64 {{
{nodes}
}}"
    );
    parse_graph(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

/// Whether two graphs are equal, whatever the seed.
fn equal(left: &Graph, right: &Graph, tag: Tag) -> bool {
    let all: Vec<bool> = (0..6).map(|s| check_pair(left, right, tag, s).is_ok()).collect();
    assert!(all.iter().all(|e| *e == all[0]), "{all:?}\n{left}\n{right}");
    all[0]
}

#[test]
fn right_certificates_pass() {
    for (text, steps) in [(ATTENTION, 2), (EXPERTS, 2)] {
        let certificate = read(text);
        assert_eq!(certificate.to_string(), text);
        for seed in 0..8 {
            let report = check(&certificate, seed).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(report, Report { field: steps, near: 0 });
        }
        assert_eq!(certificate.tag(), Tag::Reassociates);
        let (source, chosen) = (&certificate.source, certificate.chosen());
        assert_eq!(check_pair(source, chosen, certificate.tag(), 1), Ok(()));
    }
    let both = parse(&format!("{ATTENTION}{EXPERTS}")).expect("two certificates");
    assert_eq!(both, [read(ATTENTION), read(EXPERTS)]);
}

/// The certificate with the last occurrence of a text, which is in its last graph, replaced.
fn last_changed(text: &str, from: &str, to: &str) -> Certificate {
    let at = text.rfind(from).unwrap_or_else(|| panic!("{from}"));
    assert!(at > text.rfind("\nstep ").expect("a step"), "{from}");
    read(&format!("{}{to}{}", &text[..at], &text[at + from.len()..]))
}

#[test]
fn a_wrong_step_is_named() {
    let attention = [
        // Another operand.
        ("contract %qr, %scale : f32[s, h, dr]", "contract %qr.0, %scale : f32[s, h, dr]"),
        // Another constant.
        ("values = [0.125]", "values = [0.25]"),
        ("eps = 1e-6", "eps = 1e-5"),
        ("[1, 0.1, 0.01, 0.001]", "[1, 0.2, 0.03, 0.004]"),
        // No mask, or another.
        ("softmax %s0 where %m {", "softmax %s0 {"),
        ("%all <= %new", "%all < %new"),
        // Another place.
        ("into = dv, start = dn}", "into = dv, start = 0}"),
        ("into = dr, start = r}", "into = dr, start = 0}"),
        ("into = dn, start = 0} : bf16", "into = dn, start = dv} : bf16"),
        // A term forgotten.
        ("{ %s1 + %s2 }", "{ %s1 + 0 * %s2 }"),
        // Right where there is no past.
        ("iota {start = -s + t}", "iota {start = 0}"),
    ];
    for (from, to) in attention {
        let certificate = last_changed(ATTENTION, from, to);
        let error = check(&certificate, 5).expect_err(to);
        assert_eq!(error.code(), "E0287", "{to}: {error}");
        assert!(error.to_string().starts_with("step 2 (absorb): output 0 differs"), "{error}");
    }
    for (from, to) in [
        ("iota {start = e}", "iota {start = e - 1}"),
        ("values = [1]} : f32[s, one]", "values = [2]} : f32[s, one]"),
        ("concat %i.0, %last {along = [k, one]", "concat %last, %i.0 {along = [one, k]"),
        ("{ %gs * %w }", "{ %gs }"),
    ] {
        let error = check(&last_changed(EXPERTS, from, to), 5).expect_err(to);
        assert_eq!(error.code(), "E0287", "{to}: {error}");
    }
}

#[test]
fn the_first_wrong_step_is_named() {
    let mut certificate = read(ATTENTION);
    certificate.steps[0] = Step {
        graph: last_changed(ATTENTION, "%all <= %new", "%all < %new").chosen().clone(),
        ..certificate.steps[0].clone()
    };
    let error = check(&certificate, 1).expect_err("a wrong first step");
    let CheckError::Differs { place, after, .. } = error else { panic!("{error}") };
    assert_eq!((place.step, &*place.rule, after), (1, "history-inward", 1));
}

#[test]
fn a_mistake_seen_with_a_past_alone_is_caught() {
    let of = |nodes: &str| graph("%x: f32[s, D]", "f32[s, D]", nodes);
    let right = of("  %h = history %x {index = s, into = t} : f32[t, D]
  %at = iota {start = -s + t} : i32[s]
  %y = gather %h, %at {index = t} : f32[s, D]
  return %y");
    assert!(equal(&right, &of("  %y = map { %x } : f32[s, D]\n  return %y"), Tag::Exact));
    let sum = |from: &str| {
        of(&format!(
            "  %h = history %x {{index = s, into = t}} : f32[t, D]
  %z = contract {from} : f32[D]
  %y = map {{ %x + %z }} : f32[s, D]
  return %y"
        ))
    };
    let (all, new) = (sum("%h"), sum("%x"));
    let error = check_pair(&all, &new, Tag::Exact, 3).expect_err("the past is lost");
    let CheckError::Differs { after, .. } = error else { panic!("{error}") };
    assert_eq!(after, 2);
}

#[test]
fn laws_that_the_field_lacks_are_tagged() {
    let of = |score: &str| {
        let nodes = format!(
            "  %r = map {{ {score} }} : f32[s, e]
  %i = topk %r {{index = e, into = k}} : i32[s, k]
  %y = gather %x, %i {{index = e}} : f32[s, k]
  return %y"
        );
        graph("%x: f32[s, e]", "f32[s, k]", &nodes)
    };
    let (plain, squashed) = (of("%x"), of("sigmoid(%x)"));
    assert!(!equal(&plain, &squashed, Tag::Exact));
    assert!(equal(&plain, &squashed, Tag::Order));
    assert!(!equal(&plain, &of("-%x"), Tag::Order));
    let map = |e: &str| {
        let nodes = format!("  %y = map {{ {e} }} : f32[s, e]\n  return %y");
        graph("%x: f32[s, e]", "f32[s, e]", &nodes)
    };
    assert!(equal(&map("exp(%x) * exp(%x)"), &map("exp(2 * %x)"), Tag::Order));
    assert!(equal(&map("sin(%x) / 1000"), &map("%x / 1000"), Tag::Approximates));
    assert!(!equal(&map("sin(%x) / 1000"), &map("%x / 1000"), Tag::Order));
    assert!(!equal(&map("sin(%x)"), &map("%x"), Tag::Approximates));
    // A number that is none proves nothing.
    let none = check_pair(&map("log(-2 - %x)"), &map("log(-3 - %x)"), Tag::Approximates, 1);
    assert_eq!(none.expect_err("NaN").code(), "E0288");
}

#[test]
fn integers_are_drawn_for_what_they_name() {
    let of = |at: &str, params: &str| {
        let nodes = format!(
            "  %a = gather %w, %ids {{index = e}} : bf16[s, D]
  %p = map {{ float({at}) }} : f32[s]
  %y = map {{ %a * %p }} : f32[s, D]
  return %y"
        );
        graph(params, "f32[s, D]", &nodes)
    };
    // Positions are those of the new rows: consecutive, from step to step.
    let params = "%ids: i32[s], %pos: i32[s], weight %w: bf16[e, D]";
    let computed = of("%pos", params);
    let text = computed.to_string();
    let derived = text.replace(
        "  %p = map { float(%pos) } : f32[s]",
        "  %q = iota {start = -s + t} : i32[s]\n  %p = map { float(%q) } : f32[s]",
    );
    let derived = parse_graph(&derived).unwrap_or_else(|e| panic!("{derived}\n{e:?}"));
    assert!(equal(&computed, &derived, Tag::Exact));
    // Token ids are not.
    assert!(!equal(&computed, &of("%ids", params), Tag::Exact));
}

#[test]
fn another_signature_is_refused() {
    let of = |params: &str, out: &str| {
        graph(params, out, "  %y = map { %x + %z } : f32[s, D]\n  return %y")
    };
    let left = of("%x: f32[s, D], weight %z: f32[D]", "f32[s, D]");
    let mut bounds = left.clone();
    bounds.symbols.insert("D".into(), ir::dim::Symbol::param(65));
    let mut dangling = left.clone();
    dangling.outputs[0].0 = 99;
    let twice = graph(
        "%x: f32[s, D], weight %z: f32[D]",
        "f32[s, D], f32[s, D]",
        "  %y = map { %x + %z } : f32[s, D]\n  return %y, %y",
    );
    for right in [
        of("%x: f32[s, D], %z: f32[D]", "f32[s, D]"),
        of("%x: f32[s, D], weight %z: bf16[D]", "f32[s, D]"),
        of("%z: f32[D], %x: f32[s, D]", "f32[s, D]"),
        of("%x: f32[s, D], state %z: f32[D]", "f32[s, D]"),
        of("%x: f32[s, D], weight %z: f32[D], %more: f32[s]", "f32[s, D]"),
        bounds,
        dangling,
        twice,
    ] {
        let error = check_pair(&left, &right, Tag::Exact, 0).expect_err("another signature");
        assert_eq!(error.code(), "E0286", "{error}");
    }
    let states = of("%x: f32[s, D], state %z: f32[D]", "f32[s, D]");
    assert_eq!(check_pair(&states, &states, Tag::Exact, 0).expect_err("a state").code(), "E0286");
}

#[test]
fn damaged_texts_are_refused_at_their_line() {
    let line = |text: &str| match parse(text) {
        Err(CheckError::Text { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    let head = ATTENTION.lines().position(|l| l.starts_with("step")).expect("a step") + 1;
    assert_eq!(line(&ATTENTION.replace("history-inward exact", "history-inward")), head);
    assert_eq!(line(&ATTENTION.replace("history-inward exact", "history-inward wrong")), head);
    assert_eq!(line(&ATTENTION.replace("certificate\n", "")), 1);
    assert_eq!(line("step a exact\ngraph @g() {\n}\n"), 1);
    let fault = ATTENTION.lines().position(|l| l.contains("%q = contract")).expect("a node") + 1;
    assert_eq!(line(&ATTENTION.replacen("%q = contract", "%q = contrakt", 1)), fault);
    let cut = &ATTENTION[..ATTENTION.len() / 2];
    assert!(parse(cut).is_err());
    assert_eq!(parse(""), Ok(vec![]));
}

#[test]
fn what_is_not_small_is_refused() {
    let of = |extent: &str| {
        let text = format!(
            "graph @g(%x: f32[s, a]) -> f32[s]\n  where 1 <= s <= 64\n  index a = {extent} {{
  %y = contract %x : f32[s]\n  return %y\n}}"
        );
        parse_graph(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
    };
    let huge = of("2000000000");
    assert_eq!(check_pair(&huge, &huge, Tag::Exact, 0).expect_err("huge").code(), "E0289");
    let negative = of("s - 100");
    let error = check_pair(&negative, &negative, Tag::Exact, 0).expect_err("negative");
    assert!(["E0288", "E0289"].contains(&error.code()), "{error}");
}

/// Words that a tampered text may get in place of others.
const WORDS: &[&str] = &[
    "0",
    "-1",
    "t",
    "s",
    "D",
    "999999999",
    "%x",
    "%m",
    "{",
    "}",
    "softmax",
    "iota",
    "exact",
    "\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    /// What is left of a certificate after tampering is refused or checked, without a panic; and
    /// whatever still passes has graphs that really are equal, here: the right ones.
    #[test]
    fn tampering_never_panics(
        experts: bool,
        edits in prop::collection::vec((0usize..20_000, 0usize..64, 0usize..WORDS.len()), 1..4),
        seed: u64,
    ) {
        let mut text = if experts { EXPERTS } else { ATTENTION }.to_string();
        for (at, cut, word) in edits {
            let at = at % text.len();
            let words: Vec<(usize, &str)> = text.match_indices(|c: char| c.is_whitespace()).collect();
            let space = words[at % words.len()].0;
            let end = (space + 1 + cut % 12).min(text.len());
            text.replace_range(space + 1..end, WORDS[word]);
        }
        let Ok(certificates) = parse(&text) else { return Ok(()) };
        for certificate in certificates {
            if let Err(error) = check(&certificate, seed) {
                prop_assert!(error.code().starts_with("E02"));
            }
        }
    }
}
