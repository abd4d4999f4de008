//! One block written in several ways: the same form and the same price.

mod support;

use check::check;
use compiler::rewrite::choose::{Block, Plan};
use compiler::rewrite::cost::Point;
use ir::device::DeviceSpec;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;

const DECODE: Point = Point { batch: 1, tokens: 1, context: 4096 };
const POINTS: [Point; 3] =
    [DECODE, Point { batch: 64, ..DECODE }, Point { batch: 1, tokens: 4096, context: 4096 }];

/// How a text is written otherwise: what stands for what.
type Edits<'a> = &'a [(&'a str, &'a str)];

fn edited(graph: &str, edits: Edits) -> Graph {
    let path = support::at("compiler/tests/graphs").join(format!("{graph}.graph"));
    let mut text = std::fs::read_to_string(path).expect("a text");
    for (from, to) in edits {
        assert!(text.contains(from), "{graph} has no '{from}'");
        text = text.replace(from, to);
    }
    parse_graph(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

/// What is chosen at a point: its price, operations of each product, elements kept of a token.
fn chosen(source: &Graph) -> Vec<(f64, Vec<i64>, Vec<i64>)> {
    let device = DeviceSpec::built_in("h100").expect("a built-in device");
    let mut block =
        Block::new(source, Plan::new(&device, DECODE)).expect("every op has one result");
    let mut kept: Vec<i64> = block.states().iter().map(|s| s.elements()).collect();
    kept.sort_unstable();
    let of = |point| {
        let chosen = block.choose(point).expect("a graph");
        check(&chosen.certificate, 3).unwrap_or_else(|e| {
            panic!("{}: {e}\n{source}\n{}", source.name, chosen.certificate.steps[0].graph)
        });
        let work = chosen.products.iter().map(|p| (p.work.flops + p.work.slow_flops) as i64);
        let mut work: Vec<i64> = work.collect();
        work.sort_unstable();
        (chosen.price_ns, work, kept.clone())
    };
    POINTS.into_iter().map(of).collect()
}

/// Every way to write a graph gives what the graph itself gives.
fn the_same(graph: &str, ways: &[(&str, Edits)]) {
    let base = chosen(&edited(graph, &[]));
    let mut wrong = vec![];
    for (what, edits) in ways {
        let found = chosen(&edited(graph, edits));
        for ((point, base), found) in POINTS.iter().zip(&base).zip(&found) {
            let near = (found.0 / base.0 - 1.0).abs() < 1e-6;
            if !near || found.1 != base.1 || found.2 != base.2 {
                wrong.push(format!("{graph}, {what}, {point:?}:\n  {found:?}\n  {base:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn weights_may_be_whole_or_in_parts() {
    let kvb_in_two: Edits = &[
        (
            "weight %w_kvb: bf16[h, b, r]",
            "weight %w_uk: bf16[h, n, r], weight %w_uv: bf16[h, v, r]",
        ),
        ("%kv = contract %c, %w_kvb : f32[s, h, b]", ""),
        ("%kn = slice %kv {index = b, into = n, start = 0}", "%kn = contract %c, %w_uk"),
        ("%value = slice %kv {index = b, into = v, start = n}", "%value = contract %c, %w_uv"),
    ];
    let query_in_two: Edits = &[
        ("weight %w_qb: bf16[h, d, q]", "weight %w_qn: bf16[h, n, q], weight %w_qe: bf16[h, e, q]"),
        ("%qs = contract %nq, %w_qb : f32[s, h, d]", ""),
        ("%qn = slice %qs {index = d, into = n, start = 0}", "%qn = contract %nq, %w_qn"),
        ("%qe = slice %qs {index = d, into = e, start = n}", "%qe = contract %nq, %w_qe"),
    ];
    let latent_in_two: Edits = &[
        ("weight %w_kva: bf16[a, D]", "weight %w_c: bf16[r, D], weight %w_e: bf16[e, D]"),
        ("%la = contract %x, %w_kva : f32[s, a]", ""),
        ("%lc = slice %la {index = a, into = r, start = 0}", "%lc = contract %x, %w_c"),
        ("%ke = slice %la {index = a, into = e, start = r}", "%ke = contract %x, %w_e"),
    ];
    let fronts_in_one: Edits = &[
        ("weight %w_qa: bf16[q, D],", "weight %w_all: bf16[j, D],"),
        ("weight %w_kva: bf16[a, D],", ""),
        ("index a = 2*i + r,", "index a = 2*i + r, j = 2*i + q + r,"),
        (
            "%lq = contract %x, %w_qa : f32[s, q]",
            "%all = contract %x, %w_all : f32[s, j]
             %lq = slice %all {index = j, into = q, start = 0} : f32[s, q]",
        ),
        ("%la = contract %x, %w_kva", "%la = slice %all {index = j, into = a, start = q}"),
    ];
    the_same(
        "rotated",
        &[
            ("keys and values by two weights", kvb_in_two),
            ("queries by two weights", query_in_two),
            ("latent and rotated key by two weights", latent_in_two),
            ("all of a row by one weight", fronts_in_one),
        ],
    );
    let heads_joint: Edits = &[
        ("weight %w_uk: bf16[h, n, r]", "weight %w_uk: bf16[hn, r]"),
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index hn = h*n {"),
        (
            "%k = contract %c, %w_uk : f32[s, h, n]",
            "%joint = contract %c, %w_uk : f32[s, hn]
             %k = split %joint {index = hn, into = [h, n]} : f32[s, h, n]",
        ),
    ];
    the_same("latent", &[("heads of keys as one axis", heads_joint)]);
}

#[test]
fn projections_may_be_cut_and_joined() {
    let rows: Edits = &[
        ("weight %w_c: bf16[r, D]", "weight %w_f: bf16[f, D], weight %w_g: bf16[g, D]"),
        ("r = 512,", "f = 200, g = 312,"),
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index r = f + g {"),
        (
            "%lc = contract %x, %w_c : f32[s, r]",
            "%lf = contract %x, %w_f : f32[s, f]
             %lg = contract %x, %w_g : f32[s, g]
             %lc = concat %lf, %lg {along = [f, g], into = r} : f32[s, r]",
        ),
    ];
    let keys: Edits = &[
        ("weight %w_uk: bf16[h, n, r]", "weight %w_f: bf16[h, f, r], weight %w_g: bf16[h, g, r]"),
        ("n = 128,", "f = 48, g = 80,"),
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index n = f + g {"),
        (
            "%k = contract %c, %w_uk : f32[s, h, n]",
            "%kf = contract %c, %w_f : f32[s, h, f]
             %kg = contract %c, %w_g : f32[s, h, g]
             %k = concat %kf, %kg {along = [f, g], into = n} : f32[s, h, n]",
        ),
    ];
    the_same("latent", &[("rows in two parts", rows), ("keys in two parts", keys)]);
}

#[test]
fn identities_vanish() {
    let slice_of_all: Edits = &[
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index m = n {"),
        (
            "%k = contract %c, %w_uk : f32[s, h, n]",
            "%k0 = contract %c, %w_uk : f32[s, h, n]
             %k1 = slice %k0 {index = n, into = m, start = 0} : f32[s, h, m]
             %k = rename %k1 {from = [m], to = [n]} : f32[s, h, n]",
        ),
    ];
    let slice_of_rows: Edits = &[
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index m = r {"),
        (
            "%c = map { sigmoid(%lc) } : f32[s, r]",
            "%c0 = map { sigmoid(%lc) } : f32[s, r]
             %c1 = slice %c0 {index = r, into = m, start = 0} : f32[s, m]
             %c = rename %c1 {from = [m], to = [r]} : f32[s, r]",
        ),
    ];
    let renamed: Edits = &[
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index m = n {"),
        (
            "%q = contract %nq, %w_qb : f32[s, h, n]",
            "%q0 = contract %nq, %w_qb : f32[s, h, n]
             %q1 = rename %q0 {from = [n], to = [m]} : f32[s, h, m]
             %q = rename %q1 {from = [m], to = [n]} : f32[s, h, n]",
        ),
    ];
    let ones: Edits = &[(
        "%v = contract %c, %w_uv : f32[s, h, v]",
        "%v0 = contract %c, %w_uv : f32[s, h, v]
         %one = const {values = [1]} : f32[h]
         %v = contract %v0, %one : f32[s, h, v]",
    )];
    let mapped: Edits = &[(
        "%y = contract %o, %w_o : f32[s, D]",
        "%o0 = map { %o } : f32[s, h, v]
         %y = contract %o0, %w_o : f32[s, D]",
    )];
    let apart_and_back: Edits = &[
        ("1 <= t <= 163840 {", "1 <= t <= 163840 index hv = h*v {"),
        (
            "%o = contract %p, %vs : f32[s, h, v]",
            "%o0 = contract %p, %vs : f32[s, h, v]
             %o1 = merge %o0 {indices = [h, v], into = hv} : f32[s, hv]
             %o = split %o1 {index = hv, into = [h, v]} : f32[s, h, v]",
        ),
    ];
    the_same(
        "latent",
        &[
            ("a slice of all of a product", slice_of_all),
            ("a slice of all of the latent", slice_of_rows),
            ("an index renamed and back", renamed),
            ("a product with ones", ones),
            ("a copy", mapped),
            ("axes merged and split", apart_and_back),
        ],
    );
}

#[test]
fn names_and_orders_do_not_matter() {
    let operands: Edits = &[
        ("contract %x, %w_qa", "contract %w_qa, %x"),
        ("contract %c, %w_uk", "contract %w_uk, %c"),
        ("contract %p, %vs", "contract %vs, %p"),
    ];
    let axes_of_weights: Edits = &[
        ("%w_uk: bf16[h, n, r]", "%w_uk: bf16[r, n, h]"),
        ("%w_o: bf16[D, h, v]", "%w_o: bf16[v, D, h]"),
    ];
    let axes_of_results: Edits = &[
        ("%k = contract %c, %w_uk : f32[s, h, n]", "%k = contract %c, %w_uk : f32[n, s, h]"),
        ("into = t} : f32[t, h, n]", "into = t} : f32[n, t, h]"),
        ("%scores = contract %q, %ks : f32[s, h, t]", "%scores = contract %q, %ks : f32[t, s, h]"),
        ("{index = t} : f32[s, h, t]", "{index = t} : f32[t, s, h]"),
        ("%o = contract %p, %vs : f32[s, h, v]", "%o = contract %p, %vs : f32[v, h, s]"),
    ];
    let renamed: Edits = &[
        ("[h, ", "[a, "),
        (", h, ", ", a, "),
        ("h = 128", "a = 128"),
        ("r = 512", "zz = 512"),
        ("[r, D]", "[zz, D]"),
        (", r]", ", zz]"),
    ];
    let values_renamed: Edits = &[("%c", "%zeta"), ("%w_uk", "%alpha"), ("%ks", "%b")];
    the_same(
        "latent",
        &[
            ("operands exchanged", operands),
            ("axes of weights turned", axes_of_weights),
            ("axes of results turned", axes_of_results),
            ("indices renamed", renamed),
            ("values renamed", values_renamed),
        ],
    );
}
