//! What the prime field can tell: graphs that are equal by algebra are equal to the bit, and ones
//! that are not are caught.

use ir::dtype::Class;
use ir::graph::Graph;
use ir::graph::error::GraphError;
use ir::graph::interp::{Settings, evaluate};
use ir::graph::parse::parse_graph;
use ir::number::{Field, Number, mix};
use ir::tensor::Tensor;

fn graph(params: &str, out: &str, nodes: &str) -> Graph {
    let text = format!(
        "graph @g({params}) -> f32[{out}]
  params D = 5, d = 3, e = 6, h = 2, k = 2, r = 4, s = 3, t = 5
  index i = 2, z = 2, u = -s + t {{
{nodes}
}}"
    );
    parse_graph(&text).unwrap_or_else(|e| panic!("{text}\n{e:?}"))
}

fn random<N: Number>(graph: &Graph, mut seed: u64) -> Vec<Tensor<N>> {
    let mut next = || {
        seed = seed.wrapping_add(0x9e3779b97f4a7c15);
        mix(seed)
    };
    let mut tensors = vec![];
    for id in &graph.params {
        let ty = graph.ty(*id);
        let extents = graph.extents(ty);
        let value = |d: &ir::dim::Dim| d.bound_value(&graph.symbols).expect("bound") as usize;
        let dims: Vec<usize> = extents.iter().map(value).collect();
        let n: usize = dims.iter().product();
        let values: Vec<f64> = match ty.class() {
            Class::Float => (0..n).map(|_| (next() >> 40) as f64 / 8388608.0 - 1.0).collect(),
            Class::Int => (0..n).map(|_| (next() % 5) as f64).collect(),
            Class::Bool => (0..n).map(|_| (next() & 1) as f64).collect(),
        };
        tensors.push(Tensor::from_f64(ty.class(), &dims, &values).expect("sizes agree"));
    }
    tensors
}

fn run<N: Number>(graph: &Graph, seed: u64) -> Tensor<N> {
    let inputs = random::<N>(graph, seed);
    let settings = Settings { key: seed, ..Settings::default() };
    let args: Vec<&Tensor<N>> = inputs.iter().collect();
    evaluate(graph, &args, &settings).unwrap_or_else(|e| panic!("{graph}\n{e}")).outputs.remove(0)
}

fn equal(left: &Graph, right: &Graph) -> bool {
    (0..8).all(|seed| run::<Field>(left, seed) == run::<Field>(right, seed))
}

fn near(left: &Graph, right: &Graph) -> bool {
    (0..8).all(|seed| run::<f64>(left, seed).is_near(&run(right, seed), 1e-9))
}

const CHAIN: &str = "%x: f32[s, D], %a: bf16[h, r, D], %b: bf16[h, r, d]";

fn chain(first: &str) -> Graph {
    graph(CHAIN, "s, h, d", first)
}

#[test]
fn contraction_associates() {
    let left = chain(
        "  %0 = contract %x, %a : f32[s, h, r]\n  %1 = contract %0, %b : f32[s, h, d]\n  return %1",
    );
    let right = chain(
        "  %0 = contract %a, %b : f32[h, d, D]\n  %1 = contract %x, %0 : f32[s, h, d]\n  return %1",
    );
    assert!(equal(&left, &right));
    // In f32 the two differ in rounding alone, and do.
    let (a, b) = (run::<f32>(&left, 1), run::<f32>(&right, 1));
    assert!(a.is_near(&b, 1e-5) && a != b);
    // A head too many in the sum.
    let wrong = chain(
        "  %0 = contract %x, %a : f32[s, r]\n  %1 = contract %0, %b : f32[s, h, d]\n  return %1",
    );
    assert!(!equal(&left, &wrong));
}

#[test]
fn a_mask_forgotten_is_caught() {
    let of = |mask: &str| {
        graph(
            "%x: f32[s, t], %m: bool[s, t]",
            "s, t",
            &format!("  %0 = softmax %x {mask}{{index = t}} : f32[s, t]\n  return %0"),
        )
    };
    assert!(!equal(&of("where %m "), &of("")));
}

#[test]
fn softmax_normalises_after_the_sum() {
    let params = "%x: f32[s, t], %v: f32[t, d]";
    let before = graph(
        params,
        "s, d",
        "  %0 = softmax %x {index = t} : f32[s, t]
  %1 = contract %0, %v : f32[s, d]
  return %1",
    );
    let after = graph(
        params,
        "s, d",
        "  %0 = map { exp(%x) } : f32[s, t]
  %1 = reduce %0 {op = sum} : f32[s]
  %2 = contract %0, %v : f32[s, d]
  %3 = map { %2 / %1 } : f32[s, d]
  return %3",
    );
    assert!(equal(&before, &after));
    let scaled = graph(
        params,
        "s, d",
        "  %0 = map { 2 * %x } : f32[s, t]
  %1 = softmax %0 {index = t} : f32[s, t]
  %2 = contract %1, %v : f32[s, d]
  %3 = map { 2 * %2 } : f32[s, d]
  return %3",
    );
    assert!(!equal(&before, &scaled));
}

#[test]
fn rotated_products_depend_on_the_distance() {
    let of = |shift: i32| {
        graph(
            "%q: f32[s, i, z], %k: f32[s, i, z], %freq: f32[i], %p: i32[s]",
            "s",
            &format!(
                "  %0 = map {{ %p + {shift} }} : i32[s]
  %1 = map {{ 2 * %p + {shift} }} : i32[s]
  %2 = rope_table %0, %freq {{into = z, scale = 1}} : f32[s, i, z]
  %3 = rope_table %1, %freq {{into = z, scale = 1}} : f32[s, i, z]
  %4 = rope %q, %2 {{index = z}} : f32[s, i, z]
  %5 = rope %k, %3 {{index = z}} : f32[s, i, z]
  %6 = contract %4, %5 : f32[s]
  return %6"
            ),
        )
    };
    assert!(equal(&of(0), &of(7)) && near(&of(0), &of(-3)));
    let unrotated = graph(
        "%q: f32[s, i, z], %k: f32[s, i, z], %freq: f32[i], %p: i32[s]",
        "s",
        "  %0 = contract %q, %k : f32[s]\n  return %0",
    );
    assert!(!equal(&of(0), &unrotated));
}

#[test]
fn a_sparse_sum_is_a_sum_over_the_chosen() {
    let params = "%score: f32[s, e], %w: f32[s, k], %y: f32[s, e, d]";
    let dense = graph(
        params,
        "s, d",
        "  %0 = topk %score {index = e, into = k} : i32[s, k]
  %1 = scatter %0, %w {index = k, into = e} : f32[s, e]
  %2 = contract %1, %y : f32[s, d]
  return %2",
    );
    let sparse = graph(
        params,
        "s, d",
        "  %0 = topk %score {index = e, into = k} : i32[s, k]
  %1 = gather %y, %0 {index = e} : f32[s, k, d]
  %2 = contract %w, %1 : f32[s, d]
  return %2",
    );
    assert!(equal(&dense, &sparse) && near(&dense, &sparse));
    // Other rows than the chosen.
    let wrong = graph(
        params,
        "s, d",
        "  %n = map { -%score } : f32[s, e]
  %0 = topk %n {index = e, into = k} : i32[s, k]
  %1 = gather %y, %0 {index = e} : f32[s, k, d]
  %2 = contract %w, %1 : f32[s, d]
  return %2",
    );
    assert!(!equal(&dense, &wrong));
}

#[test]
fn only_laws_of_any_function_hold() {
    let of = |expr: &str| {
        let node = format!("  %0 = map {{ {expr} }} : f32[s]\n  return %0");
        graph("%x: f32[s], %y: f32[s]", "s", &node)
    };
    for (left, right, field, real) in [
        ("%x * sigmoid(%x) * %y", "%y * (sigmoid(%x) * %x)", true, true),
        ("(%x + %y) * (%x - %y)", "%x * %x - %y * %y", true, true),
        ("%x / %y / %y", "%x / (%y * %y)", true, true),
        ("max(%x, %y)", "max(%y, %x)", true, true),
        ("select(%x < %y, %x, %y)", "min(%x, %y)", true, true),
        ("sqrt(0 * %x)", "%x - %x", true, true),
        ("0.5 * %x + 0.25 * %x", "%x * 0.75", true, true),
        ("exp(%x + %y)", "exp(%x) * exp(%y)", false, true),
        ("max(2 * %x, 0)", "2 * max(%x, 0)", false, true),
        ("sigmoid(%x)", "1 / (1 + exp(-%x))", false, true),
        ("exp(%x)", "sigmoid(%x)", false, false),
        ("sigmoid(0 * %x)", "%x - %x", false, false),
    ] {
        assert_eq!(equal(&of(left), &of(right)), field, "{left} = {right} in the field");
        assert_eq!(near(&of(left), &of(right)), real, "{left} = {right} in f64");
    }
}

#[test]
fn casts_are_the_identity_and_quantisation_is_not() {
    let of = |node: &str| graph("%x: f32[s, D]", "s, D", node);
    let plain = of("  return %x");
    let cast = of("  %0 = cast %x {to = bf16} : bf16[s, D]
  %1 = cast %0 {to = f32} : f32[s, D]
  return %1");
    assert!(equal(&plain, &cast) && !near(&plain, &cast));
    let quantised = |width: u32| {
        of(&format!(
            "  %0 = quantize %x {{to = i8<f32 1x{width}>}} : i8<f32 1x{width}>[s, D]
  %1 = dequantize %0 : f32[s, D]
  return %1"
        ))
    };
    assert!(!equal(&plain, &quantised(2)) && !equal(&quantised(4), &quantised(2)));
}

#[test]
fn zero_divisors_ask_for_other_numbers() {
    let g =
        graph("%x: f32[s], %y: f32[s]", "s", "  %0 = map { %x / (%y - %y) } : f32[s]\n  return %0");
    let inputs = random::<Field>(&g, 1);
    let error = evaluate(&g, &[&inputs[0], &inputs[1]], &Settings::default());
    assert!(matches!(error, Err(GraphError::Resample)), "a zero divisor");
}
