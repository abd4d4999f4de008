//! Wrong laws, of the right shape: the test of laws, the checker of certificates and the evaluation
//! in each compilation catch each of them, every one alone.

use super::apply::Alone;
use check::{CheckError, Tag, check, check_pair};
use compiler::rewrite::choose::{Block, Plan};
use compiler::rewrite::cost::Point;
use compiler::rewrite::encode::encode;
use compiler::rewrite::law::{self, Law, Onto, Operand, Site};
use compiler::rewrite::program::{RewriteError, Rewriter};
use compiler::rewrite::term::{Axes, Form, FormAttr};
use egg::Id;
use ir::attr::Attr;
use ir::device::DeviceSpec;
use ir::dim::Symbols;
use ir::graph::Graph;
use ir::graph::parse::parse_graph;
use ir::graph::program::Program;

/// A wrong law, where it pays, and which right laws stand in its way.
struct Planted {
    law: fn() -> Law,
    graph: Graph,
    point: Point,
    without: &'static [&'static str],
}

const STEP: Point = Point { batch: 1, tokens: 64, context: 4096 };

fn text(text: &str) -> Graph {
    parse_graph(text).unwrap_or_else(|e| panic!("{e:?}\n{text}"))
}

fn all() -> Vec<Planted> {
    let planted = |law, graph: &str| Planted { law, graph: text(graph), point: STEP, without: &[] };
    vec![
        planted(
            slice_norm,
            "graph @norm(%x: f32[s, D], weight %g: f32[D], weight %w: bf16[o, r]) -> f32[s, o]
               params D = 7168, r = 64, o = 64
               where 1 <= s <= 4096, 1 <= t <= 4096 {
               %n = rms_norm %x, %g {index = D, eps = 1e-6} : f32[s, D]
               %p = slice %n {index = D, into = r, start = 0} : f32[s, r]
               %y = contract %p, %w : f32[s, o]
               return %y
             }",
        ),
        planted(
            softmax_scale,
            "graph @scale(%x: f32[s, f], weight %c: f32[], weight %w: f32[D, f]) -> f32[s, D]
               params D = 512, f = 4096
               where 1 <= s <= 4096, 1 <= t <= 4096 {
               %z = contract %x, %c : f32[s, f]
               %p = softmax %z {index = f} : f32[s, f]
               %y = contract %p, %w : f32[s, D]
               return %y
             }",
        ),
        planted(
            exchange,
            "graph @exchanged(%x: f32[s, a, b], %y: f32[s, a, b]) -> f32[s]
               params m = 64
               where 1 <= s <= 4096, 1 <= t <= 4096
               index a = m, b = m {
               %z = rename %y {from = [a, b], to = [b, a]} : f32[s, b, a]
               %l = map { tanh(%x) * sigmoid(%y) } : f32[s, a, b]
               %r = map { tanh(%x) * sigmoid(%z) } : f32[s, a, b]
               %sl = contract %l : f32[s]
               %sr = contract %r : f32[s]
               %both = map { tanh(%sl) * sigmoid(%sr) } : f32[s]
               return %both
             }",
        ),
        planted(
            gather_rope,
            "graph @turned(%x: f32[e, i, z], weight %table: f32[e, i, z], %rows: i32[k],
                 weight %w: f32[D, i, z]) -> f32[k, D]
               params D = 512, e = 4096, i = 64, k = 2
               where 1 <= s <= 4096, 1 <= t <= 4096
               index z = 2 {
               %r = rope %x, %table {index = z} : f32[e, i, z]
               %c = gather %r, %rows {index = e} : f32[k, i, z]
               %y = contract %c, %w : f32[k, D]
               return %y
             }",
        ),
        Planted {
            law: mask_forgotten,
            graph: super::support::graph("chosen_keys"),
            point: Point { batch: 1, tokens: 1, context: 131_072 },
            without: &["sparse-softmax"],
        },
    ]
}

fn cut(site: &mut Site, slice: &Form, x: &Operand) -> Operand {
    let (from, into) = (slice.label(0), slice.label(1));
    let axes: Axes = x.axes.iter().map(|l| if *l == from { into } else { *l }).collect();
    Operand { id: site.add("slice", slice.relabelled(&[&x.axes], &axes), &[x.id]), axes }
}

/// slice(norm(x) * g) = norm(slice x) * slice g.
fn slice_norm() -> Law {
    let sides = |site: &mut Site| -> Vec<Id> {
        let (slice, product, norm) = (site.form("?q"), site.form("?c"), site.form("?r"));
        let mut outside = Onto::new(&product.result, &slice.operands[0]);
        let gain = outside.operand(&product.operands[1], site.id("?g"));
        let normed = outside.axes(&product.operands[0]);
        let mut onto = Onto::new(&norm.result, &normed);
        if onto.label(norm.label(0)) != slice.label(0) || !gain.has(slice.label(0)) {
            return vec![];
        }
        let x = onto.operand(&norm.operands[0], site.id("?x"));
        let ones = onto.operand(&norm.operands[1], site.id("?o"));
        let [x, ones, gain] = [x, ones, gain].map(|o| cut(site, &slice, &o));
        let attrs = [FormAttr::Label(slice.label(1)), norm.attrs[1].clone()];
        let form = Form::new(&[&x.axes, &ones.axes], &x.axes).with(attrs);
        let normed = Operand { id: site.add("rms_norm", form, &[x.id, ones.id]), axes: x.axes };
        vec![site.product(&normed, &gain, &slice.result)]
    };
    Law::new("planted-slice-norm", Tag::Exact, "slice(norm(x) g) = norm(slice x) slice(g)")
        .case("(slice ?q (contract ?c (rms_norm ?r ?x ?o) ?g))", sides)
}

/// softmax(x * c) = softmax(x) * c.
fn softmax_scale() -> Law {
    let sides = |site: &mut Site| -> Vec<Id> {
        let (softmax, product) = (site.form("?s"), site.form("?r"));
        let (x, c) = (site.id("?x"), site.id("?c"));
        let scalar = site.facts(c).constant && site.facts(c).is_scalar();
        if !scalar || product.operands[0] != product.result {
            return vec![];
        }
        let p = site.add("softmax", (*softmax).clone(), &[x]);
        let p = Operand { axes: softmax.result.clone(), id: p };
        vec![site.product(&p, &Operand { axes: vec![], id: c }, &softmax.result)]
    };
    Law::new("planted-softmax-scale", Tag::Reassociates, "softmax(x c) = softmax(x) c")
        .case("(softmax ?s (contract ?r ?x ?c))", sides)
}

/// f(x, y) with two axes of equal extent of y exchanged.
fn exchange() -> Law {
    let sides = |site: &mut Site| -> Vec<Id> {
        let form = site.form("?s");
        let (x, y) = (site.id("?x"), site.id("?y"));
        let shape = site.facts(y).shape.clone();
        let pairs = (0..shape.len()).flat_map(|i| (i + 1..shape.len()).map(move |j| (i, j)));
        let equal: Vec<(usize, usize)> = pairs.filter(|(i, j)| shape[*i] == shape[*j]).collect();
        let mut made = vec![];
        for (i, j) in equal {
            let mut axes = form.operands[1].clone();
            axes.swap(i, j);
            let form = form.relabelled(&[&form.operands[0], &axes], &form.result);
            made.push(site.add("map", form, &[x, y]));
        }
        made
    };
    Law::new("planted-exchange", Tag::Exact, "equal axes exchanged").case("(map ?s ?x ?y)", sides)
}

/// gather(rope(x, table), i) = rope(gather(x, i), the first rows of the table).
fn gather_rope() -> Law {
    let sides = |site: &mut Site| -> Vec<Id> {
        let (gather, rope) = (site.form("?g"), site.form("?r"));
        let mut onto = Onto::new(&rope.result, &gather.operands[0]);
        let label = gather.label(0);
        let x = onto.operand(&rope.operands[0], site.id("?x"));
        let table = onto.operand(&rope.operands[1], site.id("?t"));
        let index = Operand { axes: gather.operands[1].clone(), id: site.id("?i") };
        let ([row], true) = (&index.axes[..], table.has(label)) else { return vec![] };
        let extent = site.facts(index.id).shape[0].clone();
        let start = FormAttr::Plain(Attr::Dim(0.into()));
        let attrs = [FormAttr::Label(label), FormAttr::Label(*row), start];
        let axes: Axes = table.axes.iter().map(|l| if *l == label { *row } else { *l }).collect();
        let form = Form::new(&[&table.axes], &axes).with(attrs).extent(*row, extent);
        let first = site.add("slice", form, &[table.id]);
        let x = site.gathered(&x, label, &index);
        let turned = FormAttr::Label(onto.label(rope.label(0)));
        let form = Form::new(&[&x.axes, &axes], &gather.result).with([turned]);
        vec![site.add("rope", form, &[x.id, first])]
    };
    Law::new("planted-gather-rope", Tag::Exact, "gather(rope x, i) = rope(gather(x, i))")
        .case("(gather ?g (rope ?r ?x ?t) ?i)", sides)
}

/// softmax(x where scatter(i, 1) & m) = scatter(i, softmax(gather(x, i))), `m` forgotten.
fn mask_forgotten() -> Law {
    let sides = |site: &mut Site, at: usize| -> Vec<Id> {
        let (softmax, both) = (site.form("?s"), site.form("?b"));
        let (test, scatter) = (site.form("?f"), site.form("?p"));
        let outer = Onto::new(&both.result, &softmax.operands[1]).axes(&both.operands[at]);
        let inside = Onto::new(&test.result, &outer).axes(&test.operands[0]);
        let mut onto = Onto::new(&scatter.result, &inside);
        let index = onto.operand(&scatter.operands[0], site.id("?i"));
        let (chosen, into) = (onto.label(scatter.label(0)), onto.label(scatter.label(1)));
        let x = Operand { axes: softmax.operands[0].clone(), id: site.id("?x") };
        let extent = scatter.extents[&scatter.label(1)].clone();
        let rows = site.gathered(&x, into, &index);
        let form = Form::new(&[&rows.axes], &rows.axes).with([FormAttr::Label(chosen)]);
        let p = site.add("softmax", form, &[rows.id]);
        let axes = [&index.axes[..], &rows.axes[..]];
        let form = Form::scatter(axes, chosen, (into, extent), &softmax.result);
        vec![site.add("scatter", form, &[index.id, p])]
    };
    Law::new("planted-mask-forgotten", Tag::Reassociates, "the other mask is forgotten")
        .case("(softmax ?s ?x (map ?b (map ?f (scatter ?p ?i ?w)) ?m))", move |s| sides(s, 0))
        .case("(softmax ?s ?x (map ?b ?m (map ?f (scatter ?p ?i ?w))))", move |s| sides(s, 1))
}

/// softmax(x) = as much of x as is summed, from behind its end on: no graph.
fn beyond() -> Law {
    let sides = |site: &mut Site| -> Vec<Id> {
        let softmax = site.form("?s");
        let (x, from) =
            (Operand { axes: softmax.operands[0].clone(), id: site.id("?x") }, softmax.label(0));
        let at = x.axes.iter().position(|l| *l == from).expect("an axis of the operand");
        let extent = site.facts(x.id).shape[at].clone();
        let into = Onto::new(&[], &x.axes).label(from);
        let axes: Axes = x.axes.iter().map(|l| if *l == from { into } else { *l }).collect();
        let start = FormAttr::Plain(Attr::Dim(extent.clone()));
        let attrs = [FormAttr::Label(from), FormAttr::Label(into), start];
        let form = Form::new(&[&x.axes], &axes).with(attrs).extent(into, extent);
        vec![site.add("slice", form, &[x.id])]
    };
    Law::new("planted-beyond", Tag::Exact, "softmax(x) = x from its end on")
        .case("(softmax ?s ?x)", sides)
}

/// The right laws alone.
fn plan_without<'a>(device: &'a DeviceSpec, planted: &Planted) -> Plan<'a> {
    let without = planted.without.iter().map(|law| law.to_string()).collect();
    Plan { without, ..Plan::new(device, planted.point) }
}

fn h100() -> DeviceSpec {
    DeviceSpec::built_in("h100").expect("a built-in device")
}

/// All laws, the wrong one among them.
fn with(planted: &Planted) -> Vec<Law> {
    let kept = |law: &Law| !planted.without.contains(&law.name);
    law::all().into_iter().filter(kept).chain([(planted.law)()]).collect()
}

#[test]
fn a_wrong_law_fails_alone() {
    for planted in all() {
        let law = Alone::new((planted.law)());
        let encoded = encode(&planted.graph).expect("every op has one result");
        let applied = law.applications(&planted.graph, &encoded.term, 1);
        let name = law.law.name;
        assert!(!applied.sides.is_empty(), "{name} applies");
        let wrong = applied.sides.iter().filter(|side| {
            let sides = applied.graphs(**side);
            let found = check_pair(&sides.left, &sides.right, law.law.tag, 1);
            matches!(found, Err(CheckError::Differs { .. }))
        });
        assert_ne!(wrong.count(), 0, "{name} is caught");
    }
}

#[test]
fn a_wrong_law_fails_in_the_certificate() {
    let device = h100();
    for planted in all() {
        let name = (planted.law)().name;
        let plan = Plan::new(&device, planted.point);
        let block = Block::with_laws(&planted.graph, plan, with(&planted));
        let mut block = block.expect("every op has one result");
        let chosen = block.choose(planted.point).expect("a graph");
        let right = Block::new(&planted.graph, plan_without(&device, &planted));
        let right = right.expect("every op has one result").choose(planted.point);
        let right = right.expect("a graph").price_ns;
        assert!(chosen.price_ns < right * 0.9999, "{name} pays: {}, {right}", chosen.price_ns);
        let found = check(&chosen.certificate, 5);
        assert!(matches!(found, Err(CheckError::Differs { .. })), "{name}: {found:?}");
    }
}

/// What compiling a graph by some laws fails by.
fn compiled(planted: &Planted, laws: &dyn Fn() -> Vec<Law>) -> Option<RewriteError> {
    let device = h100();
    let blocks = vec![planted.graph.clone()];
    let (weights, states, entries) = (vec![], vec![], vec![]);
    let symbols = Symbols::new();
    let program = Program { name: "one".into(), symbols, blocks, weights, states, entries };
    let plan = Plan::new(&device, planted.point);
    Rewriter::with_laws(&program, &plan, laws).at(planted.point).err()
}

#[test]
fn a_wrong_law_fails_when_compiling() {
    for planted in all() {
        let name = (planted.law)().name;
        let error = compiled(&planted, &|| with(&planted));
        assert!(matches!(error, Some(RewriteError::Unequal { .. })), "{name}");
        assert!(compiled(&planted, &law::all).is_none(), "{name}: the right laws alone");
    }
}

#[test]
fn a_law_that_makes_no_graph_fails_when_compiling() {
    let graph = all().swap_remove(1).graph;
    let planted = Planted { law: beyond, graph, point: STEP, without: &[] };
    let error = compiled(&planted, &|| with(&planted)).expect("a term that is no graph");
    assert!(matches!(error, RewriteError::Graph { .. }));
    assert!(error.to_string().starts_with("block @scale: "), "{error}");
}
