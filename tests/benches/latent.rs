//! One layer of latent attention of DeepSeek-V2-Lite's shape: over the latent itself,
//! over keys and values that are kept, and over keys and values expanded from the latent at each
//! step.
//!
//! `cargo bench -p tests --bench latent -- [THREADS] [CONTEXT] [TOKENS] [FORM]`. Each line: the median and
//! the best time of a step, and the best of what the kernels of each family took together.
#![allow(clippy::unwrap_used)]

use compiler::options::Options;
use generate::engine::{Engine, Part, Want};
use std::collections::BTreeMap;
use std::time::Instant;
use tests::native::{Levels, Stage, build_imported};
use tests::written::model;

/// A layer with these declarations of weights and states, and this body from queries `%qn [s, h,
/// dn]`, `%qr [s, h, dr]`, a latent `%c [s, r]`, a rotary key `%kr [s, dr]` and the causal mask
/// `%m` to the heads' results `%o [s, h, dv]`.
fn layer(params: &str, body: &str) -> String {
    format!(
        "graph @layer(%x: f32[s, D], weight %w_q: bf16[h, dn, D], weight %w_qr: bf16[h, dr, D],
           weight %w_c: bf16[r, D], weight %w_kr: bf16[dr, D], weight %w_uk: bf16[h, dn, r],
           weight %w_uv: bf16[h, dv, r], weight %w_o: bf16[D, h, dv], {params}) -> f32[s, D]
         params D = 2048, h = 16, dn = 128, dr = 64, dv = 128, r = 512
         where 1 <= s <= 65536, 1 <= t <= 65536
         index u = t - s, d = dn + dr {{
           %qn = contract %x, %w_q : f32[s, h, dn]
           %qr = contract %x, %w_qr : f32[s, h, dr]
           %c = contract %x, %w_c : f32[s, r]
           %kr = contract %x, %w_kr : f32[s, dr]
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

const LATENT: &str = "state %past_c: f32[u, r], state %past_kr: f32[u, dr]";
const ABSORBED: &str = "
    %C = append %past_c, %c {into = t} : f32[t, r]
    %KR = append %past_kr, %kr {into = t} : f32[t, dr]
    %qa = contract %qn, %w_uk : f32[s, h, r]
    %s1 = contract %qa, %C : f32[s, h, t]
    %s2 = contract %qr, %KR : f32[s, h, t]
    %sc = map { (%s1 + %s2) * 0.07 } : f32[s, h, t]
    %p = softmax %sc where %m {index = t} : f32[s, h, t]
    %ol = contract %p, %C : f32[s, h, r]
    %o = contract %ol, %w_uv : f32[s, h, dv]";
const EXPANDED: &str = "
    %C = append %past_c, %c {into = t} : f32[t, r]
    %KR = append %past_kr, %kr {into = t} : f32[t, dr]
    %K = contract %C, %w_uk : f32[t, h, dn]
    %V = contract %C, %w_uv : f32[t, h, dv]
    %s1 = contract %qn, %K : f32[s, h, t]
    %s2 = contract %qr, %KR : f32[s, h, t]
    %sc = map { (%s1 + %s2) * 0.07 } : f32[s, h, t]
    %p = softmax %sc where %m {index = t} : f32[s, h, t]
    %o = contract %p, %V : f32[s, h, dv]";
const HEADS: &str = "state %past_k: f32[u, h, d], state %past_v: f32[u, h, dv]";
const KEPT: &str = "
    %kn = contract %c, %w_uk : f32[s, h, dn]
    %krh = map { %kr } : f32[s, h, dr]
    %k = concat %kn, %krh {along = [dn, dr], into = d} : f32[s, h, d]
    %v = contract %c, %w_uv : f32[s, h, dv]
    %K = append %past_k, %k {into = t} : f32[t, h, d]
    %V = append %past_v, %v {into = t} : f32[t, h, dv]
    %q = concat %qn, %qr {along = [dn, dr], into = d} : f32[s, h, d]
    %s1 = contract %q, %K : f32[s, h, t]
    %sc = map { %s1 * 0.07 } : f32[s, h, t]
    %p = softmax %sc where %m {index = t} : f32[s, h, t]
    %o = contract %p, %V : f32[s, h, dv]";

fn measure(name: &str, layer: &str, steps: usize, [threads, context, tokens]: [usize; 3]) {
    let built = build_imported(&model(layer), Stage::Stated, &Options::default(), Levels::Best);
    let mut engine = built.engine(&built.ways[0], threads, context);
    let pages: Vec<u32> = (0..context.div_ceil(engine.page_tokens()) as u32).collect();
    let ids = vec![5; tokens];
    let past = context - tokens;
    let part = || Part { tokens: &ids, past, pages: &pages, want: Want::Last };
    engine.step(&[part()]).unwrap();
    let mut times: Vec<f64> = vec![];
    for _ in 0..steps {
        let begin = Instant::now();
        engine.step(&[part()]).unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let mut families: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..steps {
        engine.session().start_profiling(None);
        engine.step(&[part()]).unwrap();
        let mut here: BTreeMap<String, u64> = BTreeMap::new();
        for kernel in engine.session().stop_profiling().iter().filter(|k| k.launches > 0) {
            let family = kernel.family.split('{').next().unwrap().to_string();
            *here.entry(family).or_default() += kernel.nanoseconds;
        }
        for (family, ns) in here {
            let best = families.entry(family).or_insert(f64::INFINITY);
            *best = best.min(ns as f64 / 1e6);
        }
    }
    let each = |(name, ms): (&String, &f64)| format!("{name} {ms:.3}");
    let kernels: Vec<String> = families.iter().map(each).collect();
    let (best, median) = (times[0], times[steps / 2]);
    println!(
        "{name}, {tokens} tokens, context {context}, {threads} threads: median {median:.3} ms, best {best:.3}"
    );
    println!("    best of each family: {}", kernels.join(", "));
}

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let threads = numbers.first().copied().unwrap_or(2);
    let context = numbers.get(1).copied().unwrap_or(8192);
    let tokens = numbers.get(2).copied().unwrap_or(1);
    // The last takes a hundred times as long.
    let forms = [
        ("absorbed", layer(LATENT, ABSORBED), 200),
        ("kept", layer(HEADS, KEPT), 200),
        ("expanded", layer(LATENT, EXPANDED), 10),
    ];
    let chosen = std::env::args().skip(1).find(|a| forms.iter().any(|f| f.0 == a));
    for (name, text, steps) in &forms {
        if chosen.as_deref().is_none_or(|c| c == *name) {
            measure(name, text, (*steps / tokens).max(20), [threads, context, tokens]);
        }
    }
}
