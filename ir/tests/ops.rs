//! Every op of the list by its own samples.

use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::Class;
use ir::error::IrError;
use ir::graph::interp::{Settings, evaluate};
use ir::graph::parse::parse_graph;
use ir::graph::{Graph, Node};
use ir::number::{Field, Number, mix};
use ir::op::{NodeView, OpDef, OpRef, Sample, Tolerance};
use ir::ops;
use ir::tensor::Tensor;
use std::collections::HashSet;
use std::path::Path;

fn parsed(sample: &Sample) -> Graph {
    parse_graph(sample.graph).unwrap_or_else(|e| panic!("{}\n{e:?}", sample.graph))
}

/// The sample's inputs, or random ones.
fn inputs<N: Number>(graph: &Graph, sample: &Sample, mut seed: u64) -> Vec<Tensor<N>> {
    let mut tensors = vec![];
    for (i, id) in graph.params.iter().enumerate() {
        let ty = graph.ty(*id);
        let dims: Vec<usize> = graph
            .extents(ty)
            .iter()
            .map(|d| d.bound_value(&graph.symbols).expect("a sample binds its symbols") as usize)
            .collect();
        let n: usize = dims.iter().product();
        let mut random = || {
            seed = seed.wrapping_add(0x9e3779b97f4a7c15);
            mix(seed)
        };
        let given = sample.inputs.get(i).copied().unwrap_or_default();
        let values: Vec<f64> = match (given, ty.class()) {
            ([], Class::Float) => {
                (0..n).map(|_| (random() >> 40) as f64 / (1u64 << 23) as f64 - 1.0).collect()
            }
            ([], _) => (0..n).map(|_| (random() & 1) as f64).collect(),
            (given, _) => given.to_vec(),
        };
        tensors.push(Tensor::from_f64(ty.class(), &dims, &values).expect("a sample's own size"));
    }
    tensors
}

fn run<N: Number>(graph: &Graph, inputs: &[Tensor<N>], key: u64) -> Vec<Tensor<N>> {
    let settings = Settings { key, ..Settings::default() };
    let args: Vec<&Tensor<N>> = inputs.iter().collect();
    evaluate(graph, &args, &settings).unwrap_or_else(|e| panic!("{graph}\n{e}")).outputs
}

fn view<'a>(
    graph: &'a Graph,
    node: &'a Node,
    types: &'a (Vec<ir::graph::Type>, Vec<ir::graph::Type>),
) -> NodeView<'a> {
    NodeView {
        schema: node.op.0.schema(),
        graph,
        operands: &types.0,
        mask: node.mask().map(|id| graph.ty(id)),
        attrs: &node.attrs.0,
        declared: Some(&types.1),
    }
}

fn each_sample(mut visit: impl FnMut(&'static dyn OpDef, &Sample)) {
    for op in ops::ALL {
        op.samples().iter().for_each(|s| visit(*op, s));
    }
}

#[test]
fn names_are_those_of_the_files() {
    let mut seen = HashSet::new();
    for op in ops::ALL {
        let schema = op.schema();
        assert!(seen.insert(schema.name), "{} is listed twice", schema.name);
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/ops/{}.rs", schema.name));
        let source = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        assert!(source.starts_with(&format!("//! `{}`: ", schema.name)), "{file:?}");
        assert!(schema.summary.len() > 10 && !schema.summary.ends_with('.'), "{}", schema.name);
        assert!(!op.samples().is_empty(), "{} has no samples", schema.name);
        assert_eq!(ops::find(schema.name), Some(OpRef(*op)));
    }
    assert_eq!(ops::find("frobnicate"), None);
}

#[test]
fn samples_are_of_their_op_and_round_trip() {
    each_sample(|op, sample| {
        let graph = parsed(sample);
        assert_eq!(graph.nodes.len(), 1, "{}", sample.graph);
        assert_eq!(graph.nodes[0].op, OpRef(op), "{}", sample.graph);
        graph.verify().unwrap_or_else(|e| panic!("{graph}\n{e:?}"));
        let text = graph.to_string();
        assert_eq!(parse_graph(&text).as_ref(), Ok(&graph), "{text}");
    });
}

#[test]
fn samples_have_their_outputs() {
    fn check<N: Number>(sample: &Sample, bound: f64) {
        let graph = parsed(sample);
        let found = run(&graph, &inputs::<N>(&graph, sample, 1), 5);
        for (found, expected) in found.iter().zip(sample.outputs) {
            let expected = Tensor::from_f64(found.class(), found.dims(), expected)
                .unwrap_or_else(|e| panic!("{graph}\n{e}"));
            assert!(found.is_near(&expected, bound), "{graph}\n{found:?}\n{expected:?}");
            let zeros = found.to_f64().into_iter().zip(expected.to_f64());
            let signs = zeros.filter(|(a, b)| *a == 0.0 && *b == 0.0 && a.signum() != b.signum());
            assert_eq!(signs.count(), 0, "{graph}\nsigns of zeros differ: {found:?}");
        }
    }
    each_sample(|_, sample| {
        check::<f32>(sample, 1e-6);
        check::<f64>(sample, 1e-7);
    });
}

#[test]
fn meanings_equal_definitions() {
    let mut composites = HashSet::new();
    each_sample(|op, sample| {
        let graph = parsed(sample);
        let node = &graph.nodes[0];
        let types = (graph.types(node.data_operands()), graph.types(&node.results));
        let Some(definition) = op.definition(&view(&graph, node, &types)) else { return };
        let definition = definition.unwrap_or_else(|e: IrError| panic!("{graph}\n{e}"));
        definition.verify().unwrap_or_else(|e| panic!("{definition}\n{e:?}"));
        let own = definition.nodes.iter().find(|n| n.op == OpRef(op));
        assert!(own.is_none(), "{definition} is defined by itself");
        composites.insert(op.schema().name);
        let finite = sample.inputs.iter().all(|i| i.iter().all(|v| v.is_finite()));
        for seed in 0..4 {
            let exact = inputs::<Field>(&graph, sample, seed);
            assert_eq!(run(&graph, &exact, seed), run(&definition, &exact, seed), "{definition}");
            let real = inputs::<f64>(&graph, sample, seed);
            let (left, right) = (run(&graph, &real, seed), run(&definition, &real, seed));
            let near = left[0].is_near(&right[0], 1e-9);
            assert!(near || !finite, "{definition}\n{left:?}\n{right:?}");
        }
    });
    let expected = ["rms_norm", "rope", "softmax", "swiglu"];
    assert_eq!(composites, HashSet::from(expected));
}

#[test]
fn the_field_tells_a_wrong_definition() {
    // The same op over operands whose roles are exchanged must differ, or the check is blind.
    let graph = parsed(&ops::find("swiglu").expect("a listed op").0.samples()[1]);
    let sample = Sample { graph: "", inputs: &[], outputs: &[] };
    let x = inputs::<Field>(&graph, &sample, 3);
    let swapped = vec![x[1].clone(), x[0].clone()];
    assert_ne!(run(&graph, &x, 1), run(&graph, &swapped, 1));
}

#[test]
fn costs_and_tolerances_are_numbers() {
    each_sample(|op, sample| {
        let graph = parsed(sample);
        let node = &graph.nodes[0];
        let types = (graph.types(node.data_operands()), graph.types(&node.results));
        let view = view(&graph, node, &types);
        let cost = OpRef(op).cost(&view, &types.1);
        let value = |d: &Dim| d.bound_value(&graph.symbols).expect("bound symbols");
        assert!(value(&cost.flops) >= 0 && value(&cost.bytes_read) >= 0, "{graph}{cost:?}");
        assert!(value(&cost.bytes_written) > 0, "{graph}{cost:?}");
        match op.tolerance(&view, &types.1) {
            Tolerance::Exact => {}
            Tolerance::Ulps(n) | Tolerance::Sum(n) => assert!(n >= 1.0 && n.is_finite()),
        }
    });
}

#[test]
fn the_cost_of_a_product_is_that_of_its_sums() {
    let graph = parsed(&ops::find("contract").expect("a listed op").0.samples()[0]);
    let node = &graph.nodes[0];
    let types = (graph.types(node.data_operands()), graph.types(&node.results));
    let cost = node.op.cost(&view(&graph, node, &types), &types.1);
    assert_eq!(cost.flops.to_string(), "2*D*d*h*s");
    assert_eq!(cost.bytes_read.to_string(), "2*D*d*h + 4*D*s");
    assert_eq!(cost.bytes_written.to_string(), "4*d*h*s");
}

#[test]
fn attributes_are_checked_by_kind_and_count() {
    each_sample(|op, sample| {
        let graph = parsed(sample);
        let node = &graph.nodes[0];
        let types = (graph.types(node.data_operands()), graph.types(&node.results));
        if node.attrs.0.is_empty() {
            return;
        }
        let mut view = view(&graph, node, &types);
        view.attrs = &[];
        assert_eq!(view.check(OpRef(op)).expect_err("no attributes").code(), "E0111");
        let other = |a: &Attr| match a {
            Attr::Bool(_) => Attr::Float(0.5),
            _ => Attr::Bool(true),
        };
        let wrong: Vec<Attr> = node.attrs.0.iter().map(other).collect();
        view.attrs = &wrong;
        assert_eq!(view.check(OpRef(op)).expect_err("wrong kinds").code(), "E0113");
    });
}
