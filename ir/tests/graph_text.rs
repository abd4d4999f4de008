//! The text of graphs: what is read is what is written, and everything wrong is reported at once,
//! each at its place.

use ir::dim::Symbol;
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::builder::GraphBuilder;
use ir::graph::error::GraphError;
use ir::graph::interp::{Settings, evaluate};
use ir::graph::parse::parse_graph;
use ir::graph::{Def, Graph, NodeId, Type, ValueId};
use ir::tensor::Tensor;

fn errors(text: &str) -> Vec<(&'static str, String)> {
    let errors = parse_graph(text).expect_err(text);
    errors.iter().map(|e| (e.kind.code(), marked(text, e).to_string())).collect()
}

fn marked<'t>(text: &'t str, e: &IrError) -> &'t str {
    let span = e.span.expect("errors of a text have places");
    &text[span.start..span.end]
}

fn codes(graph: &Graph) -> Vec<&'static str> {
    graph.verify().expect_err("a broken graph").iter().map(|e| e.kind.code()).collect()
}

/// A block with every kind of parameter, symbol and index.
fn block() -> Graph {
    let mut b = GraphBuilder::new("layer.0");
    b.param_symbol("D", 8);
    b.param_symbol("h", 2);
    b.param_symbol("r", 3);
    b.param_symbol("i", 2);
    b.symbol("n", Symbol { value: None, ..Symbol::param(5) });
    b.step_symbol("s", 1, 16);
    b.step_symbol("t", 1, 64);
    let dim = ir::dim::Dim::symbol;
    b.index("u", dim("t").minus(&dim("s")));
    b.index("z", 2);
    b.index("dr", dim("i").times(&2.into()));
    b.index("c", dim("r").plus(&dim("dr")));
    let x = b.input("x", DType::F32, &["s", "D"]);
    let norm = b.weight("norm.weight", DType::BF16, &["D"]);
    let fp8: ir::dtype::Encoding = "fp8_e4m3<f32 128x128>".parse().expect("an encoding");
    let wq = b.weight("wq", fp8, &["h", "c", "D"]);
    let wk = b.weight("wk", DType::BF16, &["c", "D"]);
    let past = b.state("past", DType::BF16, &["u", "c"]);
    let make = |b: &mut GraphBuilder| -> Result<ValueId, IrError> {
        let y = b.rms_norm(x, norm, "D", 1e-6)?;
        let q = b.contract(y, wq, &["s", "h", "c"])?;
        let pos = b.iota(dim("t").minus(&dim("s")), "s")?;
        let freq = b.constant(DType::F32, &[1.0, 0.1], &["i"])?;
        let table = b.rope_table(pos, freq, "z", 1.0)?;
        let table = b.label(table, "table");
        let n = b.slice(q, "c", "r", 0)?;
        let e = b.slice(q, "c", "dr", dim("r"))?;
        let e = b.split(e, "dr", &["i", "z"])?;
        let e = b.rope(e, table, "z")?;
        let e = b.merge(e, &["i", "z"], "dr")?;
        let q = b.concat(&[(n, "r"), (e, "dr")], "c")?;
        let k = b.contract(y, wk, &["s", "c"])?;
        let k = b.cast(k, DType::BF16)?;
        let k = b.append(past, k, "t")?;
        let v = b.slice(k, "c", "r", 0)?;
        let scores = b.contract(q, k, &["s", "h", "t"])?;
        let key = b.iota(0, "t")?;
        let seen = b.map("k <= q", &[("k", key), ("q", pos)], &["s", "t"])?;
        let shares = b.softmax(scores, Some(seen), "t")?;
        let o = b.contract(shares, v, &["s", "h", "r"])?;
        let sum = b.reduce("sum", o, None, &["s"])?;
        b.map("x + select(y < 0, -y, 1 / (1 + exp(y)))", &[("x", x), ("y", sum)], &["s", "D"])
    };
    let out = make(&mut b).expect("a well-typed block");
    let out = b.label(out, "out");
    b.output(out);
    b.finish().expect("sound declarations")
}

#[test]
fn a_block_round_trips() {
    let graph = block();
    graph.verify().expect("a sound graph");
    let text = graph.to_string();
    let read = parse_graph(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
    assert_eq!(read, graph, "{text}");
    assert_eq!(read.to_string(), text);
    for line in [
        "  params D = 8, h = 2, i = 2, param 5 <= n <= 5, r = 3",
        "  where 1 <= s <= 16, 1 <= t <= 64",
        "  index c = 2*i + r, dr = 2*i, u = -s + t, z = 2 {",
        "    weight %wq: fp8_e4m3<f32 128x128>[h, c, D],",
        "  %2 = iota {start = -s + t} : i32[s]",
        "  %table = rope_table %2, %3 {into = z, scale = 1} : f32[s, i, z]",
        "  %out = map { %x + select(%20 < 0, -%20, 1 / (1 + exp(%20))) } : f32[s, D]",
        "  return %out",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
}

#[test]
fn comments_and_layout_do_not_matter() {
    let tidy = "graph @g(%x: f32[s]) -> f32[s]\n  params s = 2 {\n  \
                %y = map { %x + 1 } : f32[s]\n  return %y\n}\n";
    let loose = "// a graph\ngraph @g (\n %x : f32 [ s ] // in\n)\n-> f32[s] params s=2 {\n\
                 %y=map{%x+1}:f32[s]\n\nreturn %y }";
    let graph = parse_graph(loose).expect("a sound text");
    assert_eq!(graph.to_string(), tidy);
}

#[test]
fn everything_wrong_is_reported_once_at_its_place() {
    let text = "graph @g(%x: f32[s, D], %i: i32[s], %x: f32[s], %w: f32[q]) -> f32[s, D]
  params D = 4
  where 1 <= s <= 8
  index E = 2*F {
  %a = frobnicate %x : f32[s]
  %b = map { %a + %x } : f32[s, D]
  %c = contract %x, %i : f32[s]
  %d = map { %c + %nothing } : f32[s]
  %e = reduce %x {op = product} : f32[s]
  %f = reduce %x {op = sum} : f32[D, s, s]
  %g = reduce %x {} : f32[s]
  %h = softmax %x {index = D, heat = 3} : f32[s, D]
  %j = softmax %x {index = D} : f32[D, s]
  %k = cast %x {to = } : bf16[s, D]
  %l = map { %k * 2 } : f32[s, D]
  %m = swiglu %x : f32[s, D]
  %n = map { %i + %x } : f32[s, D]
  return %e
}
";
    let found = errors(text);
    let expected = [
        ("E0104", "E = 2*F"),
        ("E0105", "%x: f32[s]"),
        ("E0106", "%w: f32[q]"),
        ("E0102", "frobnicate"),
        ("E0136", "%c = contract %x, %i : f32[s]"),
        ("E0101", "%nothing"),
        ("E0113", "%e = reduce %x {op = product} : f32[s]"),
        ("E0107", "%f = reduce %x {op = sum} : f32[D, s, s]"),
        ("E0111", "%g = reduce %x {} : f32[s]"),
        ("E0110", "heat"),
        ("E0108", "%j = softmax %x {index = D} : f32[D, s]"),
        ("E0101", "}"),
        ("E0103", "%m = swiglu %x : f32[s, D]"),
        ("E0120", "%n = map { %i + %x } : f32[s, D]"),
        ("E0108", "%e"),
    ];
    let expected: Vec<_> = expected.iter().map(|(c, t)| (*c, t.to_string())).collect();
    assert_eq!(found, expected);
}

#[test]
fn rules_of_shape_are_kept() {
    let of = |line: &str| {
        let text = format!(
            "graph @g(%x: f32[s, c], %y: f32[t, c], %m: bool[t], %i: i32[s], state %p: f32[u, c])
  params a = 2, b = 3, c = 6
  where 1 <= s <= 8, 8 <= t <= 64
  index u = -s + t, ab = a*b, ac = a + c {{
  {line}
}}"
        );
        match parse_graph(&text) {
            Ok(_) => "fine",
            Err(errors) => errors[0].kind.code(),
        }
    };
    for (line, expected) in [
        ("%0 = split %x {index = c, into = [a, b]} : f32[s, a, b]", "E0117"),
        ("%0 = rename %x {from = [c], to = [ab]} : f32[s, ab]", "E0117"),
        ("%0 = concat %x, %x {along = [c, c], into = ac} : f32[s, ac]", "E0117"),
        ("%0 = concat %x, %y {along = [c, c], into = ac} : f32[s, ac]", "E0116"),
        ("%0 = slice %x {index = c, into = a, start = 4} : f32[s, a]", "fine"),
        ("%0 = slice %x {index = c, into = a, start = 5} : f32[s, a]", "E0118"),
        ("%0 = slice %y {index = t, into = s, start = -s + t} : f32[s, c]", "fine"),
        ("%0 = slice %y {index = t, into = s, start = 1} : f32[s, c]", "E0118"),
        ("%0 = topk %x {index = c, into = b} : i32[s, b]", "fine"),
        ("%0 = topk %x {index = c, into = t} : i32[s, t]", "E0118"),
        ("%0 = append %p, %x {into = t} : f32[t, c]", "fine"),
        ("%0 = append %p, %y {into = t} : f32[t, c]", "E0117"),
        ("%0 = history %x {index = s, into = t} : f32[t, c]", "fine"),
        ("%0 = history %x {index = c, into = t} : f32[s, t]", "fine"),
        ("%0 = history %x {index = s, into = u} : f32[u, c]", "E0113"),
        ("%0 = history %x {index = t, into = t} : f32[t, c]", "E0115"),
        ("%0 = history %y {index = c, into = t} : f32[t, t]", "E0107"),
        ("%0 = history %i {index = s, into = t} : i32[t]", "E0136"),
        ("%0 = reduce %x where %m {op = sum} : f32[s]", "E0116"),
        ("%0 = reduce %y where %i {op = sum} : f32[t]", "E0136"),
        ("%0 = contract %x where %m : f32[s]", "E0119"),
        ("%0 = contract %x, %x, %x : f32[s]", "E0103"),
        ("%0 = contract %x, %y : f32[s, t, a]", "E0115"),
        ("%0 = map { %x + %y } : f32[s, c]", "E0116"),
        ("%0 = gather %x, %i {index = s} : f32[s, c]", "E0116"),
        ("%0 = gather %y, %i {index = t} : f32[s, c]", "fine"),
        ("%0 = gather %y, %y {index = t} : f32[s, c]", "E0114"),
        ("%0 = const {values = [1, 2, 3]} : f32[b]", "fine"),
        ("%0 = const {values = [1, 2]} : f32[b]", "E0113"),
        ("%0 = const {values = [0.5]} : i32[b]", "E0113"),
        ("%0 = cast %i {to = bf16} : bf16[s]", "E0136"),
        ("%0 = cast %x {to = i8<f32 1x32>} : i8<f32 1x32>[s, c]", "E0113"),
        ("%0 = quantize %x {to = i8<f32 1x32>} : i8<f32 1x32>[s, c]", "fine"),
        ("%0, %1 = cast %x {to = bf16} : bf16[s, c], bf16[s, c]", "E0109"),
        ("%0, %1 = cast %x {to = bf16} : bf16[s, c]", "E0109"),
        ("%0 = iota {start = 0} : i32[s, t]", "E0108"),
        ("%0 = merge %x {indices = [s, s], into = c} : f32[c]", "E0107"),
    ] {
        assert_eq!(of(line), expected, "{line}");
    }
}

#[test]
fn broken_headers_end_in_an_error_and_never_in_a_panic() {
    let text = block().to_string();
    for end in (0..text.len()).filter(|i| text.is_char_boundary(*i)) {
        let cut = &text[..end];
        assert!(parse_graph(cut).is_err() || text[end..].trim().is_empty(), "{cut}");
    }
    for (from, to) in [("params", "param"), ("{", "}"), ("graph", "graf"), ("f32", "f33")] {
        assert!(!errors(&text.replace(from, to)).is_empty());
    }
    assert_eq!(errors(&format!("{text}}}"))[0].0, "E0101");
}

#[test]
fn small_texts_do_not_make_large_extents() {
    let tower: Vec<String> = (1..60).map(|i| format!("i{i} = i{0}*i{0} + i{0}", i - 1)).collect();
    let text = format!("graph @g()\n  params i0 = 2\n  index {} {{\n}}", tower.join(", "));
    assert!(errors(&text).iter().all(|(code, _)| *code == "E0104"));
    let sums: Vec<String> = (0..40).map(|i| format!("i{i} = a + b + {i}*c + 1")).collect();
    let names: Vec<String> = (0..40).map(|i| format!("i{i}")).collect();
    let names = names.join(", ");
    let text = format!(
        "graph @g(%x: f32[{names}])\n  params a = 2, b = 3, c = 4\n  index {} {{
  %0 = merge %x {{indices = [{names}], into = i1}} : f32[i1]\n}}",
        sums.join(", ")
    );
    assert_eq!(errors(&text)[0].0, "E0117");
}

#[test]
fn what_is_not_said_is_asked_for() {
    let mut b = GraphBuilder::new("g");
    b.step_symbol("s", 1, 4);
    b.step_symbol("t", 1, 4);
    let x = b.input("x", DType::F32, &["s"]);
    let contract = ir::ops::find("contract").expect("a listed op");
    let silent = b.node(contract, &[x], None, Default::default(), None);
    assert_eq!(silent.expect_err("no declared result").kind.code(), "E0108");
    // Nothing given tells t.
    let y = b.iota("t", "s").expect("positions");
    b.output(y);
    let graph = b.finish().expect("sound declarations");
    let x = Tensor::<f32>::floats(&[2], vec![0.0; 2]).expect("two numbers");
    let run = |settings: &Settings| evaluate(&graph, &[&x], settings).map(|o| o.outputs);
    assert!(matches!(run(&Settings::default()), Err(GraphError::Unbound(_))), "t is open");
    let settings = Settings { bindings: [("t".into(), 3)].into(), key: 0 };
    assert_eq!(run(&settings).expect("t is bound")[0].as_ints(), [3, 4]);
}

#[test]
fn builders_report_all_declarations_at_once() {
    let mut b = GraphBuilder::new("g");
    b.param_symbol("D", 4);
    b.param_symbol("D", 5);
    b.step_symbol("s", 8, 1);
    b.index("w", "nothing");
    b.index("no name", 1);
    b.input("x", DType::F32, &["D", "D"]);
    b.input("y", DType::F32, &["q"]);
    b.output(ValueId(99));
    let found = b.finish().expect_err("a broken builder");
    let codes: Vec<_> = found.iter().map(|e| e.kind.code()).collect();
    assert_eq!(codes, ["E0105", "E0122", "E0104", "E0123", "E0107", "E0106", "E0123"]);
}

#[test]
fn graphs_broken_by_hand_are_refused() {
    let sound = block();
    let broken = |change: &dyn Fn(&mut Graph)| {
        let mut graph = sound.clone();
        change(&mut graph);
        codes(&graph)
    };
    assert_eq!(broken(&|g| g.nodes.swap(0, 1)), ["E0104", "E0123", "E0123"]);
    assert_eq!(broken(&|g| g.outputs.push(ValueId(1000))), ["E0123"]);
    assert_eq!(broken(&|g| g.nodes[0].operands[0] = ValueId(1000)), ["E0123"]);
    assert_eq!(broken(&|g| g.values[0].name = "wq".into()), ["E0105"]);
    assert_eq!(broken(&|g| g.values[0].name = "w q".into()), ["E0123"]);
    assert_eq!(broken(&|g| g.values[0].def = Def::Node(NodeId(0), 0)), ["E0123"]);
    let last = sound.values.len() - 1;
    let retyped = |g: &mut Graph| g.values[last].ty = Type::new(DType::BF16, &["s", "D"]);
    assert_eq!(broken(&retyped), ["E0108"]);
    assert_eq!(broken(&|g| g.nodes[0].attrs.0.clear()), ["E0111"]);
    let append = sound.nodes.iter().position(|n| n.op.name() == "append").expect("an append");
    let not_a_state = |g: &mut Graph| {
        let id = g.nodes[append].operands[0];
        g.values[id.0 as usize].def = Def::Param(4, ir::graph::ParamKind::Input);
    };
    assert_eq!(broken(&not_a_state), ["E0124"]);
    let unknown_symbol = |g: &mut Graph| {
        g.symbols.remove("n");
        g.indices.insert("e".into(), "n".into());
    };
    assert_eq!(broken(&unknown_symbol), ["E0104"]);
}

#[test]
fn the_examples_of_the_readme_are_canonical() {
    let readme = include_str!("../README.md");
    let examples = readme.split("```graph\n").skip(1);
    let examples: Vec<&str> = examples.filter_map(|e| e.split("```").next()).collect();
    assert!(!examples.is_empty());
    for text in examples {
        let graph = parse_graph(text).unwrap_or_else(|e| panic!("{text}\n{e:?}"));
        assert_eq!(graph.to_string(), text);
    }
}

#[test]
fn every_error_has_a_next_step() {
    let text = "graph @g(%x: f32[s]) -> f32[s] params s = 0 { %y = swish %x : f32[s] return %x }";
    for e in parse_graph(text).expect_err("an unknown op") {
        assert!(!e.to_string().ends_with('.') && !e.to_string().is_empty());
        let ir::error::IrErrorKind::Graph(kind) = &e.kind else { panic!("{e:?}") };
        assert!(kind.help().len() > 10);
    }
}
