//! A model of hand-made kernels: machine code, an image around it, a plan, an artifact.
#![allow(dead_code, clippy::unwrap_used)]

#[cfg_attr(target_arch = "x86_64", path = "code_x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "code_aarch64.rs")]
mod code;
pub mod image;

use artifact::manifest::ModelInfo;
use artifact::plan::{
    Arg, Bucket, Buffer, Condition, Entry, Grid, Kernel, Launch, PLAN_VERSION, Place, Plan, Probe,
    State, StateKind, Step, Tensor, Weight, Work,
};
use artifact::size::{SizeExpr, SizeOp};
use artifact::{Manifest, WeightsPlace, Writer};
pub use code::KERNELS;
use std::path::Path;

pub const VOCAB: usize = 5;
pub const CONTEXT: u64 = 24;
pub const PAGE_TOKENS: u32 = 4;
/// What `attend` multiplies with, the second weight of the section.
pub const FACTORS: [f32; VOCAB] = [1.0, -2.0, 3.0, 0.5, 0.0];
/// Lowest level of this architecture, which every machine that runs tests has.
pub const ISA: &str = if cfg!(target_arch = "x86_64") { "x86-64-v2" } else { "aarch64-v8" };

const SYMBOLS: [&str; 5] = ["n", "b", "m", "mp", "t"];

pub fn symbol(name: &str) -> SizeExpr {
    SizeExpr::symbol(SYMBOLS.iter().position(|s| *s == name).unwrap() as u32)
}

fn times(expr: SizeExpr, factor: i64) -> SizeExpr {
    expr.then(SizeExpr::constant(factor), SizeOp::Mul)
}

fn tensor(name: &str, dtype: &str, elements: SizeExpr) -> Tensor {
    let bytes = times(elements.clone(), 4);
    Tensor { name: name.into(), dtype: dtype.into(), dims: vec![elements], bytes }
}

/// Inputs in the order of their positions in [`Arg::Input`].
const INPUTS: [&str; 7] = ["ids", "pos", "seq", "slot", "pages", "seg", "rows"];

fn input(name: &str) -> Arg {
    Arg::Input(INPUTS.iter().position(|i| *i == name).unwrap() as u32)
}

fn kernels() -> Vec<Kernel> {
    let kernel = |name: &str, params, symbols: &[u32]| Kernel {
        name: name.into(),
        family: format!("{name}{{}}"),
        params,
        symbols: symbols.to_vec(),
        scratch_bytes: if name == "total" { 4 } else { 0 },
    };
    vec![
        kernel("fill", 1, &[0]),
        kernel("total", 2, &[0]),
        kernel("tuples", 2, &[0]),
        kernel("visit", 2, &[]),
        kernel("append", 3, &[]),
        kernel("attend", 9, &[0, 3]),
        kernel("scan", 2, &[]),
    ]
}

fn launch(kernel: u32, args: Vec<Arg>, grid: Grid) -> Step {
    // Eight bytes and an operation for each row of the step, however many kernels read.
    let work = Work { bytes: times(symbol("n"), 8), flops: symbol("n") };
    Step::Launch(Launch { kernel, place: 0, args, grid, origin: format!("%{kernel}"), work })
}

/// x = fill; y = total x, copied; z = one line per tuple of a work list; states appended; logits.
fn bucket(name: &str, lo: i64, hi: i64) -> Bucket {
    let n = || symbol("n");
    // Regions of 64-byte multiples: x, y, y2 of n words, the list of 1 + n pairs, z of 4 n words.
    let line = |expr: SizeExpr| times(expr.then(SizeExpr::constant(64), SizeOp::CeilDiv), 64);
    let (row, list, z) = (
        line(times(n(), 4)),
        line(times(n().then(SizeExpr::constant(1), SizeOp::Add), 8)),
        line(times(n(), 16)),
    );
    let mut offset = SizeExpr::constant(0);
    let mut buffers = Vec::new();
    for (name, bytes) in [("x", &row), ("y", &row), ("y2", &row), ("list", &list), ("z", &z)] {
        let buffer =
            Buffer { name: name.into(), place: 0, offset: offset.clone(), bytes: bytes.clone() };
        buffers.push(buffer);
        offset = offset.then(bytes.clone(), SizeOp::Add);
    }
    let [x, y, y2, tuples, z] = [0, 1, 2, 3, 4].map(Arg::Buffer);
    let state = |layer| Arg::State { state: 0, layer };
    let attend = vec![
        input("rows"),
        input("pos"),
        input("seq"),
        input("pages"),
        state(1),
        Arg::Weight(1),
        z,
        y2,
        Arg::Output(0),
    ];
    let visit = Grid::List { list: tuples, each: SizeExpr::constant(4) };
    let steps = vec![
        launch(0, vec![x], Grid::Dense(n())),
        launch(2, vec![tuples, Arg::Weight(0)], Grid::Dense(SizeExpr::constant(1))),
        launch(4, vec![input("ids"), input("slot"), state(0)], Grid::Dense(n())),
        launch(4, vec![input("ids"), input("slot"), state(1)], Grid::Dense(n())),
        Step::Barrier,
        launch(1, vec![x, y], Grid::Dense(n())),
        launch(3, vec![tuples, z], visit),
        Step::Barrier,
        Step::Copy { from: y, to: y2, bytes: times(n(), 4) },
        Step::Barrier,
        launch(5, attend, Grid::Dense(symbol("m"))),
    ];
    let when = vec![vec![Condition { expr: n(), lo, hi }]];
    Bucket { name: name.into(), when, arenas: vec![offset], buffers, steps, forms: vec![] }
}

pub fn plan() -> Plan {
    let pages = symbol("b").then(symbol("mp"), SizeOp::Mul);
    let segments = symbol("b").then(SizeExpr::constant(1), SizeOp::Add);
    let inputs = INPUTS.map(|name| {
        let elements = match name {
            "pages" => pages.clone(),
            "seg" => segments.clone(),
            "rows" => symbol("m"),
            _ => symbol("n"),
        };
        tensor(name, "i32", elements)
    });
    let weight = |name: &str, offset, bytes| Weight {
        name: name.into(),
        offset,
        bytes,
        encoding: "f32".into(),
        dims: vec![bytes / 4],
        packing: String::new(),
        source: vec![],
        place: 0,
    };
    Plan {
        version: PLAN_VERSION,
        symbols: SYMBOLS.map(String::from).to_vec(),
        places: vec![Place { name: "cpu".into(), kind: "cpu".into() }],
        kernels: kernels(),
        weights: vec![weight("extra", 0, 4), weight("factors", 64, 20)],
        states: vec![State {
            name: "context".into(),
            kind: StateKind::Rows,
            layers: 2,
            bytes_per_token: 4,
            page_tokens: PAGE_TOKENS,
            row: "i32[1]".into(),
            place: 0,
        }],
        entries: vec![Entry {
            name: "forward".into(),
            inputs: inputs.to_vec(),
            outputs: vec![tensor("logits", "f32", times(symbol("m"), VOCAB as i64))],
            buckets: vec![bucket("few", 1, 2), bucket("many", 3, 60)],
        }],
        probes: ["read", "flops"]
            .map(|name| Probe {
                name: name.into(),
                kernel: 6,
                bytes: 4 << 20,
                flops: 1 << 20,
                instances: 256,
                out_bytes: 256 * 8,
            })
            .to_vec(),
    }
}

pub fn manifest() -> Manifest {
    Manifest {
        format_version: artifact::format::FORMAT_VERSION,
        compiler_version: "0.1.0".into(),
        model: ModelInfo {
            family: "handmade".into(),
            name: "handmade".into(),
            vocab_size: VOCAB as u32,
            context_length: CONTEXT,
            ..ModelInfo::default()
        },
        ..Manifest::default()
    }
}

/// The weights section; `extra` is added to the length that `tuples` states.
pub fn weights(extra: i32) -> Vec<u8> {
    let mut bytes = extra.to_le_bytes().to_vec();
    bytes.resize(64, 0);
    bytes.extend(FACTORS.iter().flat_map(|factor| factor.to_le_bytes()));
    bytes
}

/// What goes into a file.
pub struct Source {
    pub plan: Plan,
    pub weights: Vec<u8>,
    pub place: WeightsPlace,
    pub stub: Option<Vec<u8>>,
    pub code: Vec<(String, String, Vec<u8>)>,
}

impl Default for Source {
    fn default() -> Source {
        Source {
            plan: plan(),
            weights: weights(0),
            place: WeightsPlace::Inline,
            stub: None,
            code: vec![(ISA.into(), "llvm".into(), image::of(KERNELS).build())],
        }
    }
}

impl Source {
    pub fn write(&self, path: &Path) {
        let mut writer = Writer::create(path, self.stub.as_deref(), self.place).unwrap();
        writer.manifest(&manifest()).unwrap();
        writer.plan(&self.plan).unwrap();
        for (isa, backend, image) in &self.code {
            writer.code("cpu", isa, backend, image).unwrap();
        }
        writer.section("tokenizer", &[], b"{}").unwrap();
        writer.begin_weights().unwrap();
        writer.write(&self.weights).unwrap();
        writer.end_section().unwrap();
        writer.finish().unwrap();
    }
}
