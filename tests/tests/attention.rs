//! Attention in forms that no importer writes: what rewriting may choose, native code against the
//! graph interpreter.
#![allow(clippy::unwrap_used)]

use compiler::import::{ImportOptions, Imported, import};
use compiler::lower::lower;
use compiler::options::{Compute, Options};
use generate::engine::{Engine, Part, Want};
use generate::logits::Feed;
use ir::device::DeviceSpec;
use ir::graph::program::Program;
use tests::goldens::{Prompt, model as checkpoint};
use tests::latent::{Form, over_latents};
use tests::native::{Built, Levels, Stage, build_imported, logits};
use tests::reference::Reference;
use tests::written::model;
use tests::{exact, near};

/// Lengths of the prompts: the longest has a context of several parts.
const LENGTHS: [usize; 4] = [1, 7, 70, 600];
/// Relative error allowed at each position.
const BOUND: f64 = 1e-5;

fn prompts(imported: &Imported) -> Vec<Prompt> {
    let vocab = imported.info.vocab as usize;
    let mut reference = Reference::new(imported);
    let prompt = |n: &usize| {
        let ids: Vec<i32> = (0..*n).map(|i| ((i * i * 37 + i * 11 + n) % vocab) as i32).collect();
        let logits = reference.logits(&ids).chunks_exact(vocab).map(<[f32]>::to_vec).collect();
        Prompt { ids, first: 0, logits, greedy: vec![], sure_steps: 0 }
    };
    LENGTHS.iter().map(prompt).collect()
}

fn check(layer: &str, page_tokens: u32) {
    let imported = model(layer);
    let prompts = prompts(&imported);
    let ids: Vec<Vec<i32>> = prompts.iter().map(|p| p.ids.clone()).collect();
    let options = Options { compute: Compute::F32, page_tokens, ..Options::default() };
    let built = build_imported(&imported, Stage::Stated, &options, Levels::Best);
    for way in &built.ways {
        // One row, a few, and many: each has kernels of its own.
        for feed in [Feed::Chunked(1), Feed::BatchedChunks(2), Feed::Whole, Feed::Batched] {
            let mut worst = 0f64;
            let found = logits(&mut built.engine(way, 2, 1024), &ids, feed);
            for (p, (prompt, found)) in prompts.iter().zip(&found).enumerate() {
                for (row, error) in prompt.errors(found).into_iter().enumerate() {
                    assert!(error < BOUND, "{way} {feed:?}, prompt {p}, row {row}: {error:e}");
                    worst = worst.max(error);
                }
            }
            println!("{way} {feed:?}: {worst:.1e}");
        }
    }
}

/// A layer of latent attention: a state of latents and one of rotary keys, `heads` heads, and
/// `dims` as the text declares them; `scores` and what follows is up to the caller.
fn latent(dims: &str, body: &str) -> String {
    format!(
        "graph @layer(%x: f32[s, D], weight %w_q: f32[h, dn, D], weight %w_qr: f32[h, dr, D],
           weight %w_c: f32[r, D], weight %w_kr: f32[dr, D], weight %w_uk: f32[h, dn, r],
           weight %w_uv: f32[h, dv, r], weight %w_o: f32[D, h, dv],
           state %past_c: f32[u, r], state %past_kr: f32[u, dr]) -> f32[s, D]
         params {dims}
         where 1 <= s <= 65536, 1 <= t <= 65536
         index u = t - s {{
           %qn = contract %x, %w_q : f32[s, h, dn]
           %qr = contract %x, %w_qr : f32[s, h, dr]
           %c = contract %x, %w_c : f32[s, r]
           %kr = contract %x, %w_kr : f32[s, dr]
           %C = append %past_c, %c {{into = t}} : f32[t, r]
           %KR = append %past_kr, %kr {{into = t}} : f32[t, dr]
           %at = iota {{start = t - s}} : i32[s]
           %key = iota {{start = 0}} : i32[t]
           %m = map {{ %key <= %at }} : bool[s, t]
           {body}
           %z = contract %o, %w_o : f32[s, D]
           %y = map {{ %x + %z }} : f32[s, D]
           return %y
         }}"
    )
}

const ABSORBED: &str = "
    %qa = contract %qn, %w_uk : f32[s, h, r]
    %s1 = contract %qa, %C : f32[s, h, t]
    %s2 = contract %qr, %KR : f32[s, h, t]
    %sc = map { (%s1 + %s2) * 0.31 } : f32[s, h, t]
    %p = softmax %sc where %m {index = t} : f32[s, h, t]
    %ol = contract %p, %C : f32[s, h, r]
    %o = contract %ol, %w_uv : f32[s, h, dv]";

#[test]
fn absorbed() {
    let layer = latent("D = 24, h = 3, dn = 5, dr = 6, dv = 7, r = 17", ABSORBED);
    check(&layer, 16);
    let imported = model(&layer);
    near::check("absorbed", &imported, Stage::Stated, &prompts(&imported), &Options::default());
}

#[test]
fn absorbed_with_more_heads_than_a_tile_has() {
    check(&latent("D = 20, h = 37, dn = 3, dr = 2, dv = 4, r = 9", ABSORBED), 7);
}

#[test]
fn scales_of_each_part_and_other_orders_of_indices() {
    let body = "
    %half = const {values = [0.5]} : f32[]
    %qa = contract %qn, %w_uk : f32[s, h, r]
    %s1 = contract %C, %qa : f32[t, s, h]
    %s2 = contract %qr, %KR : f32[h, s, t]
    %a = map { %s1 * %half } : f32[t, s, h]
    %sc = map { %a - -%s2 / 5 } : f32[h, t, s]
    %p = softmax %sc where %m {index = t} : f32[h, t, s]
    %ol = contract %C, %p : f32[h, s, r]
    %ordered = map { %ol } : f32[s, h, r]
    %o = contract %ordered, %w_uv : f32[s, h, dv]";
    check(&latent("D = 24, h = 6, dn = 5, dr = 6, dv = 7, r = 17", body), 16);
}

/// One state of which keys and values are parts.
#[test]
fn one_state_for_all() {
    let layer = "graph @layer(%x: f32[s, D], weight %w_q: f32[h, d, D], weight %w_k: f32[d, D],
           weight %w_o: f32[D, h, dv], state %past: f32[u, d]) -> f32[s, D]
         params D = 24, h = 5, dv = 13, z = 6
         where 1 <= s <= 65536, 1 <= t <= 65536
         index u = t - s, d = dv + z {
           %q = contract %x, %w_q : f32[s, h, d]
           %k = contract %x, %w_k : f32[s, d]
           %K = append %past, %k {into = t} : f32[t, d]
           %V = slice %K {index = d, into = dv, start = z} : f32[t, dv]
           %at = iota {start = t - s} : i32[s]
           %key = iota {start = 0} : i32[t]
           %m = map { %at >= %key } : bool[s, t]
           %sc = contract %q, %K : f32[s, h, t]
           %p = softmax %sc where %m {index = t} : f32[s, h, t]
           %o = contract %p, %V : f32[s, h, dv]
           %z1 = contract %o, %w_o : f32[s, D]
           %y = map { %x + %z1 } : f32[s, D]
           return %y
         }";
    check(layer, 16);
}

/// Keys of which a part is each group's own and a part is all heads', and two values.
#[test]
fn grouped_keys_with_a_shared_part() {
    let layer = "graph @layer(%x: f32[s, D], weight %w_q: f32[g, p, d, D],
           weight %w_qr: f32[g, p, dr, D], weight %w_k: f32[g, d, D], weight %w_kr: f32[dr, D],
           weight %w_o: f32[D, g, p, d], weight %w_r: f32[D, g, p, dr],
           state %past: f32[u, g, d], state %past_r: f32[u, dr]) -> f32[s, D]
         params D = 24, g = 2, p = 3, d = 5, dr = 4
         where 1 <= s <= 65536, 1 <= t <= 65536
         index u = t - s {
           %q = contract %x, %w_q : f32[s, g, p, d]
           %qr = contract %x, %w_qr : f32[s, g, p, dr]
           %k = contract %x, %w_k : f32[s, g, d]
           %kr = contract %x, %w_kr : f32[s, dr]
           %K = append %past, %k {into = t} : f32[t, g, d]
           %KR = append %past_r, %kr {into = t} : f32[t, dr]
           %at = iota {start = t - s} : i32[s]
           %key = iota {start = 0} : i32[t]
           %m = map { %key <= %at } : bool[s, t]
           %s1 = contract %q, %K : f32[s, g, p, t]
           %s2 = contract %qr, %KR : f32[s, g, p, t]
           %sc = map { %s1 + %s2 } : f32[s, g, p, t]
           %sh = softmax %sc where %m {index = t} : f32[s, g, p, t]
           %o = contract %sh, %K : f32[s, g, p, d]
           %or = contract %sh, %KR : f32[s, g, p, dr]
           %z1 = contract %o, %w_o : f32[s, D]
           %z2 = contract %or, %w_r : f32[s, D]
           %y = map { %x + %z1 + %z2 } : f32[s, D]
           return %y
         }";
    check(layer, 5);
}

#[test]
fn keys_and_values_expanded_from_the_latent() {
    let body = "
    %K = contract %C, %w_uk : f32[t, h, dn]
    %V = contract %w_uv, %C : f32[h, t, dv]
    %s1 = contract %qn, %K : f32[s, h, t]
    %s2 = contract %qr, %KR : f32[s, h, t]
    %sc = map { 0.31 * (%s1 + %s2) } : f32[s, h, t]
    %p = softmax %sc where %m {index = t} : f32[s, h, t]
    %o = contract %p, %V : f32[s, h, dv]";
    check(&latent("D = 24, h = 3, dn = 5, dr = 6, dv = 7, r = 17", body), 16);
    check(&latent("D = 24, h = 1, dn = 33, dr = 1, dv = 1, r = 4", body), 7);
}

/// One expansion of which keys and values are parts, of a part of each group's own state.
#[test]
fn a_joint_expansion_of_each_group() {
    let layer = "graph @layer(%x: f32[s, D], weight %w_q: f32[g, p, d, D],
           weight %w_c: f32[g, c, D], weight %w_kv: f32[g, kv, r], weight %w_o: f32[D, g, p, dv],
           state %past: f32[u, g, c]) -> f32[s, D]
         params D = 24, g = 2, p = 3, d = 5, dv = 4, c = 11, r = 9
         where 1 <= s <= 65536, 1 <= t <= 65536
         index u = t - s, kv = d + dv {
           %q = contract %x, %w_q : f32[s, g, p, d]
           %c1 = contract %x, %w_c : f32[s, g, c]
           %C = append %past, %c1 {into = t} : f32[t, g, c]
           %L = slice %C {index = c, into = r, start = 2} : f32[t, g, r]
           %KV = contract %L, %w_kv : f32[t, g, kv]
           %K = slice %KV {index = kv, into = d, start = 0} : f32[t, g, d]
           %V = slice %KV {index = kv, into = dv, start = d} : f32[t, g, dv]
           %at = iota {start = t - s} : i32[s]
           %key = iota {start = 0} : i32[t]
           %m = map { %key <= %at } : bool[s, t]
           %sc = contract %q, %K : f32[s, g, p, t]
           %sh = softmax %sc where %m {index = t} : f32[s, g, p, t]
           %o = contract %sh, %V : f32[s, g, p, dv]
           %z = contract %o, %w_o : f32[s, D]
           %y = map { %x + %z } : f32[s, D]
           return %y
         }";
    check(layer, 16);
}

/// Bytes that are kept of a token, in each layer.
fn state_bytes(program: &Program) -> u64 {
    let lowered = lower(program, &Options::default(), &DeviceSpec::default()).unwrap();
    lowered.plan.states.iter().map(|s| s.bytes_per_token).sum()
}

/// An imported model that keeps the latent means what it did, and native code computes it.
fn check_imported(name: &str, forms: [Form; 2]) -> Imported {
    let original = import(&checkpoint(name), &ImportOptions::default()).unwrap();
    let prompts = exact::prompts_of(&original);
    let before = state_bytes(&original.program);
    let program = over_latents(&original.program, forms);
    assert_ne!(program, original.program);
    let imported = Imported { program, ..original };
    for (a, b) in prompts.iter().zip(exact::prompts_of(&imported)) {
        let worst = a.errors(&b.logits.concat()).into_iter().fold(0.0, f64::max);
        assert!(worst < BOUND, "{name}: the program means something else: {worst:e}");
    }
    exact::check(name, &imported, Stage::Stated, 16, BOUND, Levels::Best);
    assert!(state_bytes(&imported.program) < before, "{name}: the state is not the latent");
    imported
}

/// In the default precision, too.
fn check_imported_near(name: &str, forms: [Form; 2]) {
    let imported = check_imported(name, forms);
    let prompts = exact::prompts_of(&imported);
    near::check(name, &imported, Stage::Stated, &prompts, &Options::default());
}

#[test]
fn imported_models_over_the_latent_itself() {
    for name in ["rand-v2", "rand-v2-lite", "rand-v3-fp8"] {
        check_imported(name, [Form::Absorbed; 2]);
    }
    check_imported_near("rand-v3", [Form::Absorbed; 2]);
}

#[test]
fn imported_models_expanded_from_the_latent() {
    for name in ["rand-v2-lite", "rand-v3-fp8"] {
        check_imported(name, [Form::Expanded; 2]);
    }
    check_imported_near("rand-v3", [Form::Expanded; 2]);
}

/// Neither half of attention needs the other's form.
#[test]
fn imported_models_of_keys_in_one_form_and_values_in_the_other() {
    check_imported("rand-v2-lite", [Form::Expanded, Form::Absorbed]);
    check_imported_near("rand-v2-lite", [Form::Absorbed, Form::Expanded]);
}

/// Logits of the next token of a sequence of several parts, computed together with that of
/// another sequence of so many tokens.
fn beside(built: &Built, way: &str, other: usize) -> Vec<f32> {
    const PAGES: u32 = 32;
    let mut engine = built.engine(way, 2, 4096);
    let vocab = engine.vocab();
    let sequences = [700, other].map(|n| (0..=n as i32).map(|i| i * 7 % 61).collect::<Vec<i32>>());
    let pages = [0, PAGES].map(|from| (from..from + PAGES).collect::<Vec<u32>>());
    let part = |i: usize, from: usize, to: usize| {
        let (ids, pages): (&[i32], &[u32]) = (&sequences[i], &pages[i]);
        Part { tokens: &ids[from..to], past: from, pages, want: Want::Last }
    };
    for (i, ids) in sequences.iter().enumerate() {
        engine.step(&[part(i, 0, ids.len() - 1)]).unwrap();
    }
    let next = [0, 1].map(|i| part(i, sequences[i].len() - 1, sequences[i].len()));
    engine.step(&next).unwrap()[..vocab].to_vec()
}

#[test]
fn a_sequence_does_not_depend_on_its_neighbours() {
    let layer = latent("D = 24, h = 3, dn = 5, dr = 6, dv = 7, r = 17", ABSORBED);
    let built = build_imported(&model(&layer), Stage::Stated, &Options::default(), Levels::Best);
    for way in &built.ways {
        assert!(beside(&built, way, 3) == beside(&built, way, 2000), "{way}");
    }
}

/// What an attention that is none is refused with.
fn refused(body: &str) -> String {
    let layer = latent("D = 24, h = 3, dn = 5, dr = 6, dv = 7, r = 17", body);
    let options = Options::default();
    let error = lower(&model(&layer).program, &options, &DeviceSpec::default()).unwrap_err();
    assert_eq!(error.code(), "E0261");
    error.to_string()
}

#[test]
fn other_masks_and_scores_are_refused() {
    let cases = [
        ("where %m", "", "no mask"),
        ("where %m", "where %n", "the mask 1 <= -s + t of t, s"),
        ("(%s1 + %s2)", "(%s1 * %s2)", "%sc: f32[s, h, t]"),
        ("%s2 = contract %qr, %KR", "%s2 = map { float(%key) }", "%s2: f32[s, h, t]"),
    ];
    for (from, to, found) in cases {
        let body = format!(
            "%later = iota {{start = 1}} : i32[t]
             %n = map {{ %later <= %at }} : bool[s, t]
             {}",
            ABSORBED.replace(from, to)
        );
        let message = refused(&body);
        assert!(message.contains(found), "{message}");
    }
}
