//! Graphs drawn at random from the list of ops: the graph interpreter, a kernel of the whole graph
//! in the kernel interpreter, and the same kernel made native by every target agree.
//! LATENTC_LONG_TESTS draws many more, LATENTC_GRAPHS=N or FROM..TO those that it says. Of a graph on
//! which they differ the smallest part that does is saved in `tests/files/graphs`.
#![allow(clippy::unwrap_used)]

mod random_graph;

use compiler::link::{Object, link};
use ir::dim::Dim;
use ir::dtype::{Class, DType};
use ir::graph::Graph;
use ir::graph::interp::{Settings, evaluate};
use ir::kernel::builder::{At, KernelBuilder, tensor};
use ir::kernel::interp::{Buffer, run};
use ir::kernel::layout::Layout;
use ir::kernel::{Kernel, Role};
use ir::target::{Support, Target};
use ir::tensor::Tensor;
use ir::tiles::{Env, Tile, Tiles};
use random_graph::{Drawn, draw, saved, shrink};
use runtime::load::Image;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tests::is_long;
use tests::native::{Levels, levels, targets};

/// Graphs of the default run: a batch for each level of a target at least.
const SEEDS: u64 = 60;
/// Graphs of a long run.
const LONG_SEEDS: u64 = 2000;
/// Graphs compiled into one object.
const BATCH: usize = 12;
/// What memory of results holds before, and behind them ever after.
const GUARD: u8 = 0xa5;

/// A graph as one kernel of one instance, which loads what it is given whole and stores what it
/// gives. Its parameters: those of the graph, the constants, the results.
fn whole_graph(name: &str, graph: &Graph) -> (Kernel, Vec<(DType, Vec<f64>)>) {
    let mut b = KernelBuilder::new(name, "graph");
    b.grid_range("all", 1, 1);
    let extents = |of: &Graph, v| -> Vec<u32> {
        let value = |d: Dim| d.bound_value(&of.symbols).unwrap() as u32;
        of.extents(of.ty(v)).into_iter().map(value).collect()
    };
    let dims = |e: &[u32]| -> Vec<Dim> { e.iter().map(|e| Dim::constant((*e).into())).collect() };
    let whole = |e: &[u32]| -> Vec<At> { e.iter().map(|e| At::tile(0, *e)).collect() };
    let mut env = Env::new();
    for (i, v) in graph.params.iter().enumerate() {
        let shape = extents(graph, *v);
        let ty = tensor(graph.ty(*v).encoding, &dims(&shape));
        let param = b.param(&format!("x{i}"), Role::In, ty);
        let value = b.load(param, &whole(&shape));
        env.insert(*v, Tile { value, indices: graph.ty(*v).indices.clone() });
    }
    let mut tiles = Tiles::new(&mut b, None);
    let nodes = (0..graph.nodes.len() as u32).map(ir::graph::NodeId);
    let lowered = tiles.lower(graph, nodes, &mut env);
    lowered.unwrap_or_else(|e| panic!("{e}\n{graph}"));
    let constants = std::mem::take(&mut tiles.constants);
    for (i, v) in graph.outputs.iter().enumerate() {
        let shape = extents(graph, *v);
        let ordered = tiles.permuted(&env[v], &graph.ty(*v).indices);
        let ty = tensor(graph.ty(*v).dtype(), &dims(&shape));
        let to = tiles.kernel.param(&format!("y{i}"), Role::Out, ty);
        tiles.kernel.store(ordered, to, &whole(&shape));
    }
    let kernel = b.finish().unwrap_or_else(|e| panic!("{e:?}\n{graph}"));
    (kernel, constants)
}

/// Memory of a parameter, filled, or as it is before a result is written.
fn memory(layout: &Layout, values: Option<&[f64]>) -> Vec<u8> {
    let mut bytes = vec![GUARD; layout.size_bytes() as usize];
    if let Some(values) = values {
        for (position, value) in positions(layout.dims()).iter().zip(values) {
            layout.write_code(&mut bytes, position, *value);
        }
    }
    bytes
}

fn positions(dims: &[u64]) -> Vec<Vec<u64>> {
    dims.iter().fold(vec![vec![]], |all, extent| {
        let longer = |p: &Vec<u64>| {
            (0..*extent).map(|i| p.iter().copied().chain([i]).collect()).collect::<Vec<_>>()
        };
        all.iter().flat_map(longer).collect()
    })
}

fn read(layout: &Layout, bytes: &[u8]) -> Vec<f64> {
    positions(layout.dims()).iter().map(|p| layout.read(bytes, p)).collect()
}

/// A graph with its kernel, its memory, and what the graph interpreter says.
struct Case {
    graph: Graph,
    kernel: Kernel,
    layouts: Vec<Layout>,
    memory: Vec<Vec<u8>>,
    expected: Vec<Tensor<f32>>,
}

impl Case {
    fn new(name: &str, drawn: &Drawn) -> Case {
        let Drawn { graph, inputs } = drawn.clone();
        let (kernel, constants) = whole_graph(name, &graph);
        let settings = Settings::default();
        let arguments: Vec<&Tensor<f32>> = inputs.iter().collect();
        let expected = evaluate(&graph, &arguments, &settings);
        let expected = expected.unwrap_or_else(|e| panic!("{e}\n{graph}")).outputs;
        let layouts: Vec<Layout> =
            kernel.params.iter().map(|p| p.ty.layout(&|_| None).unwrap()).collect();
        let numbers = inputs.iter().map(Tensor::to_f64).chain(constants.into_iter().map(|c| c.1));
        let numbers: Vec<Vec<f64>> = numbers.collect();
        let memory =
            layouts.iter().enumerate().map(|(i, l)| memory(l, numbers.get(i).map(|n| &n[..])));
        let memory = memory.collect();
        Case { graph, kernel, layouts, memory, expected }
    }

    /// Compares memory in which the kernel has run.
    fn check(&self, how: &str, memory: &[Vec<u8>]) {
        let first = memory.len() - self.expected.len();
        for (i, expected) in self.expected.iter().enumerate() {
            let found = read(&self.layouts[first + i], &memory[first + i]);
            let numbers = expected.to_f64();
            let largest = numbers.iter().fold(0f64, |m, v| m.max(v.abs()));
            let bound = match expected.class() {
                Class::Float => 1e-4 * largest + 1e-6,
                Class::Int | Class::Bool => 0.0,
            };
            for (at, (f, e)) in found.iter().zip(&numbers).enumerate() {
                let same = (f - e).abs() <= bound || f == e || (f.is_nan() && e.is_nan());
                let Case { graph, kernel, .. } = self;
                assert!(same, "{how}: result {i}, element {at}: {f}, not {e}\n{graph}\n{kernel}");
            }
        }
    }

    fn interpret(&self) {
        let mut memory = self.memory.clone();
        let buffers = self.kernel.params.iter().zip(&mut memory).map(|(p, bytes)| {
            if p.role.is_written() { Buffer::Write(bytes) } else { Buffer::Read(bytes) }
        });
        let done = run::<f32>(&self.kernel, buffers.collect(), &[]);
        done.unwrap_or_else(|e| panic!("{e}\n{}\n{}", self.graph, self.kernel));
        self.check("kernel interpreter", &memory);
    }

    fn execute(&self, how: &str, image: &Image, scratch_bytes: u64) {
        const BEHIND: usize = 64;
        let entry = image.kernel(&self.kernel.name).unwrap();
        let mut memory: Vec<Vec<u8>> =
            self.memory.iter().map(|m| [m.as_slice(), &[GUARD; BEHIND]].concat()).collect();
        let args: Vec<u64> = memory.iter_mut().map(|m| m.as_mut_ptr() as u64).collect();
        // Whatever is read before it is written spoils the result.
        let mut scratch = vec![0xffu8; scratch_bytes as usize + 64 + BEHIND];
        let start = scratch.as_ptr().align_offset(64);
        // SAFETY: arguments point to memory of the sizes that the parameters have; scratch is
        // aligned and as large as the code's object says.
        unsafe { entry(args.as_ptr(), 0, 1, scratch.as_mut_ptr().add(start)) };
        let behind = &scratch[start + scratch_bytes as usize..];
        assert!(behind.iter().all(|b| *b == 0xff), "{how}: scratch overrun\n{}", self.kernel);
        for (bytes, before) in memory.iter_mut().zip(&self.memory) {
            let behind = bytes.split_off(before.len());
            assert!(behind.iter().all(|b| *b == GUARD), "{how}: overrun\n{}", self.kernel);
        }
        for (i, p) in self.kernel.params.iter().enumerate() {
            let untouched = p.role.is_written() || memory[i] == self.memory[i];
            assert!(untouched, "{how}: input {i} changed\n{}", self.kernel);
        }
        self.check(how, &memory);
    }
}

/// What runs a kernel and is compared with the graph interpreter.
#[derive(Clone, Copy)]
enum Rung<'t> {
    Interpreter,
    Native(&'t dyn Target, &'static str),
    /// One that cannot do an op.
    Without(&'static str),
}

impl std::fmt::Display for Rung<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rung::Interpreter => write!(f, "kernel interpreter"),
            Rung::Native(target, isa) => write!(f, "{isa}/{}", target.name()),
            Rung::Without(op) => write!(f, "without {op}"),
        }
    }
}

impl Rung<'_> {
    fn run(self, cases: &[Case]) {
        match self {
            Rung::Interpreter => cases.iter().for_each(Case::interpret),
            Rung::Native(target, isa) => natively(&self.to_string(), target, isa, cases),
            Rung::Without(op) => {
                let mut nodes = cases.iter().flat_map(|case| &case.graph.nodes);
                assert!(nodes.all(|node| node.op.name() != op), "{op}");
            }
        }
    }

    /// Whether a graph fails here, by itself.
    fn fails(self, drawn: &Drawn) -> bool {
        let alone = AssertUnwindSafe(|| self.run(&[Case::new("g", drawn)]));
        catch_unwind(alone).is_err()
    }
}

fn natively(how: &str, target: &dyn Target, isa: &str, cases: &[Case]) {
    for case in cases {
        let supported = target.supports(&case.kernel);
        assert!(supported == Support::Yes, "{how}: {supported:?}\n{}", case.kernel);
    }
    let kernels: Vec<&Kernel> = cases.iter().map(|c| &c.kernel).collect();
    let object = target.compile(&kernels, isa).unwrap_or_else(|e| panic!("{how}: {e}"));
    let image = link(&[Object { name: "graphs", bytes: &object.bytes }], "graphs").unwrap();
    let image = Image::load(&image).unwrap();
    for case in cases {
        let own = object.kernels.iter().find(|k| *k.0 == *case.kernel.name);
        case.execute(how, &image, own.unwrap().1);
    }
}

/// Runs graphs on some rungs. Of the first that fails, the smallest part that does becomes a file
/// of a folder.
fn agree_or_save(drawn: &[Drawn], rungs: &[Rung], folder: &Path) {
    let cases = || -> Vec<Case> {
        let numbered = drawn.iter().enumerate();
        numbered.map(|(i, drawn)| Case::new(&format!("g{i}"), drawn)).collect()
    };
    for rung in rungs {
        let together = AssertUnwindSafe(|| rung.run(&cases()));
        let Err(panic) = catch_unwind(together) else { continue };
        let Some(broken) = drawn.iter().find(|drawn| rung.fails(drawn)) else {
            // Only together, then.
            resume_unwind(panic)
        };
        let small = saved::text(&shrink::shrink(broken, &|part| rung.fails(part)));
        let file = saved::save(folder, &small);
        panic!("{rung}: saved as the file test {}\n{small}", file.display());
    }
}

/// Graphs that once failed, each a file test.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("files/graphs")
}

/// [`agree_or_save`] for good: what fails is a file test from then on.
fn agree(drawn: &[Drawn], rungs: &[Rung]) {
    agree_or_save(drawn, rungs, &folder());
}

/// Rungs of targets, one for each of these levels.
fn native(targets: &[Box<dyn Target>], which: Levels) -> Vec<Rung<'_>> {
    let each = targets.iter().map(|target| &**target);
    each.flat_map(|t| levels(t, which).into_iter().map(move |isa| Rung::Native(t, isa))).collect()
}

#[test]
fn graphs_mean_the_same_on_every_rung() {
    let asked = std::env::var("LATENTC_GRAPHS").ok().map(|text| match text.split_once("..") {
        None => 0..text.parse().unwrap(),
        Some((from, to)) => from.parse().unwrap()..to.parse().unwrap(),
    });
    let seeds = asked.clone().unwrap_or(0..if is_long() { LONG_SEEDS } else { SEEDS });
    let batches: Vec<Vec<u64>> =
        seeds.collect::<Vec<_>>().chunks(BATCH).map(<[u64]>::to_vec).collect();
    let (next, ops) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let work = || {
        let targets = targets();
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(batch) = batches.get(at) else { break };
            if asked.is_some() {
                eprintln!("graphs from {} on", batch[0]);
            }
            let drawn: Vec<Drawn> = batch.iter().map(|seed| draw(*seed)).collect();
            let nodes = drawn.iter().flat_map(|d| &d.graph.nodes);
            ops.lock().unwrap().extend(nodes.map(|n| n.op.name()));
            agree(&drawn, &[Rung::Interpreter]);
            let rungs = match &asked {
                None => native(&targets, Levels::in_turn(at)),
                Some(_) if batch[0] < LONG_SEEDS => native(&targets, Levels::All),
                // Of very many graphs, each on one target at one level.
                Some(_) => {
                    let target = at % targets.len();
                    native(&targets[target..=target], Levels::Turn(at / targets.len()))
                }
            };
            agree(&drawn, &rungs);
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    // What keeps rows is no kernel of its own: a history becomes an append to a state.
    let ops = ops.into_inner().unwrap();
    let missing: Vec<&str> = ir::ops::ALL
        .iter()
        .map(|op| op.schema().name)
        .filter(|name| !["append", "history"].contains(name) && !ops.contains(name))
        .collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}

#[test]
fn of_a_graph_that_fails_the_smallest_part_is_saved() {
    let rung = Rung::Without("softmax");
    let drawn: Vec<Drawn> = (0..SEEDS).map(draw).collect();
    let folder = tempfile::tempdir().unwrap();
    let run = AssertUnwindSafe(|| agree_or_save(&drawn, &[rung], folder.path()));
    let said = catch_unwind(run).unwrap_err().downcast::<String>().unwrap();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let [file] = &files.collect::<Vec<_>>()[..] else { panic!("one file, whole: {said}") };
    assert!(said.contains(file.to_str().unwrap()) && file.extension().unwrap() == "graph");
    let small = saved::read(&std::fs::read_to_string(file).unwrap());
    assert!(rung.fails(&small) && !Rung::Interpreter.fails(&small));
    assert_eq!(small.graph.nodes.len(), 1, "{said}");
}

#[test]
fn graphs_that_once_failed_do_not() {
    let targets = targets();
    let rungs = [vec![Rung::Interpreter], native(&targets, Levels::All)].concat();
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|e| e == "graph")) {
        println!("{}", path.display());
        agree(&[saved::read(&std::fs::read_to_string(&path).unwrap())], &rungs);
    }
}
