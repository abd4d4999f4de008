//! A small artifact with every kind of section.

use artifact::manifest::{GenerationDefaults, Input, ModelInfo, TargetInfo};
use artifact::plan::{
    Arg, Bucket, Buffer, Condition, Entry, Form, Grid, Kernel, Launch, PLAN_VERSION, Place, Plan,
    State, StateKind, Step, Tensor, Weight, Work,
};
use artifact::size::{SizeExpr, SizeOp};
use artifact::{Manifest, Summary, WeightsPlace, Writer};
use std::path::Path;

/// Four bytes for each row.
fn four_each() -> SizeExpr {
    SizeExpr::symbol(0).then(SizeExpr::constant(4), SizeOp::Mul)
}

pub fn plan() -> Plan {
    Plan {
        version: PLAN_VERSION,
        symbols: vec!["n".into()],
        places: vec![Place { name: "cpu".into(), kind: "cpu".into() }],
        kernels: vec![Kernel {
            name: "k".into(),
            family: "k{}".into(),
            params: 4,
            symbols: vec![0],
            scratch_bytes: 64,
        }],
        weights: vec![Weight {
            name: "w".into(),
            offset: 64,
            bytes: 100,
            encoding: "f32".into(),
            dims: vec![25],
            packing: String::new(),
            source: vec!["w".into()],
            place: 0,
        }],
        states: vec![State {
            name: "k".into(),
            kind: StateKind::Rows,
            layers: 2,
            bytes_per_token: 8,
            page_tokens: 16,
            row: "f32[2]".into(),
            place: 0,
        }],
        entries: vec![entry()],
        probes: vec![],
    }
}

fn entry() -> Entry {
    let n = SizeExpr::symbol(0);
    let tensor = |name: &str| Tensor {
        name: name.into(),
        dtype: "i32".into(),
        dims: vec![n.clone()],
        bytes: four_each(),
    };
    Entry {
        name: "forward".into(),
        inputs: vec![tensor("ids")],
        outputs: vec![tensor("logits")],
        buckets: vec![Bucket {
            name: "all".into(),
            when: vec![vec![Condition { expr: n.clone(), lo: 1, hi: 64 }]],
            arenas: vec![four_each()],
            buffers: vec![Buffer {
                name: "x".into(),
                place: 0,
                offset: SizeExpr::constant(0),
                bytes: four_each(),
            }],
            steps: vec![Step::Launch(launch()), Step::Barrier],
            forms: vec![Form { block: "layer".into(), graph: artifact::format::digest(b"") }],
        }],
    }
}

fn launch() -> Launch {
    Launch {
        kernel: 0,
        place: 0,
        args: vec![
            Arg::Input(0),
            Arg::Weight(0),
            Arg::State { state: 0, layer: 1 },
            Arg::Buffer(0),
        ],
        grid: Grid::Dense(SizeExpr::symbol(0)),
        origin: "%y".into(),
        work: Work { bytes: four_each(), flops: SizeExpr::constant(0) },
    }
}

pub fn manifest() -> Manifest {
    Manifest {
        format_version: artifact::format::FORMAT_VERSION,
        compiler_version: "0.1.0".into(),
        model: ModelInfo {
            family: "deepseek_v3".into(),
            name: "tiny".into(),
            vocab_size: 512,
            context_length: 64,
            bos: vec![0],
            eos: vec![1, 2],
            hidden_size: 8,
            layers: 2,
            dtype: "bf16".into(),
        },
        targets: vec![TargetInfo { name: "cpu".into(), isa_levels: vec!["x86-64-v3".into()] }],
        options: [("exact".to_string(), "false".to_string())].into(),
        flags: [("emit".to_string(), "exe".to_string())].into(),
        inputs: vec![Input {
            name: "config.json".into(),
            bytes: 2,
            hashed_bytes: 2,
            sha256: "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a".into(),
        }],
        generation: GenerationDefaults { temperature: Some(0.6), ..Default::default() },
        warnings: vec!["a warning".into()],
    }
}

/// Bytes that differ from place to place.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

pub fn write(path: &Path, stub: Option<&[u8]>, place: WeightsPlace, weights: &[u8]) -> Summary {
    let mut writer = Writer::create(path, stub, place).unwrap();
    writer.manifest(&manifest()).unwrap();
    writer.plan(&plan()).unwrap();
    writer.code("cpu", "x86-64-v3", "llvm", &bytes(5000)).unwrap();
    writer.section("tokenizer", &[("source", "tokenizer.json")], b"{}").unwrap();
    writer.begin_weights().unwrap();
    // In uneven pieces, so that chunk borders fall inside of one.
    for piece in weights.chunks((5 << 20) + 3) {
        writer.write(piece).unwrap();
    }
    writer.end_section().unwrap();
    writer.finish().unwrap()
}
