//! Imported programs against logits of an independent implementation (Hugging Face transformers,
//! f32), through the graph interpreter. The longest prompts run with LATENTC_LONG_TESTS set.

mod support;

use compiler::import::{ImportOptions, Imported, import, values::values};
use ir::dim::Name;
use ir::graph::error::GraphError;
use ir::graph::program::{Program, Weight};
use ir::graph::sequence::Sequence;
use ir::tensor::Tensor;
use safetensors::SafeTensors;
use std::collections::HashMap;

/// Relative L2 error allowed at each position.
const BOUND: f64 = 1e-5;

/// A model with its goldens, and its weights as far as they have been decoded.
struct Case {
    imported: Imported,
    goldens: Vec<u8>,
    json: serde_json::Value,
    decoded: HashMap<Name, Tensor<f32>>,
}

impl Case {
    fn open(name: &str) -> Case {
        let home = if name == "tiny-v3" { "examples/models" } else { "tests/models" };
        let dir = support::at(home).join(name);
        let imported = import(&dir, &ImportOptions::default()).expect("a sound checkpoint");
        assert_eq!(imported.warnings, vec![], "{name}");
        let file = |suffix| support::at("tests/goldens").join(format!("{name}.{suffix}"));
        let goldens = std::fs::read(file("safetensors")).expect("goldens");
        let json = std::fs::read(file("json")).expect("goldens");
        let json = serde_json::from_slice(&json).expect("JSON");
        Case { imported, goldens, json, decoded: HashMap::new() }
    }

    fn floats(&self, key: &str) -> Vec<f32> {
        let goldens = SafeTensors::deserialize(&self.goldens).expect("goldens");
        let data = goldens.tensor(key).expect(key).data();
        data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn ids(&self, key: &str) -> Vec<i32> {
        let goldens = SafeTensors::deserialize(&self.goldens).expect("goldens");
        let data = goldens.tensor(key).expect(key).data();
        data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as i32).collect()
    }

    fn vocab(&self) -> usize {
        self.imported.info.vocab as usize
    }

    /// Steps an entry: new ids from position `past` on, logits of `rows`.
    fn step(
        &mut self,
        sequence: &mut Sequence<f32>,
        entry: &str,
        ids: &[i32],
        past: usize,
        rows: &[i32],
        more: Option<Tensor<f32>>,
    ) -> Vec<Tensor<f32>> {
        let pos = (past..past + ids.len()).map(|p| p as i32).collect();
        let ints = |v: Vec<i32>| Tensor::ints(&[v.len()], v).expect("one axis");
        let mut inputs = vec![ints(ids.to_vec()), ints(pos), ints(rows.to_vec())];
        inputs.extend(more);
        let Case { imported, decoded, .. } = self;
        let mut weights = |w: &Weight| -> Result<Tensor<f32>, GraphError> {
            if let Some(known) = decoded.get(&w.name) {
                return Ok(known.clone());
            }
            let dims: Vec<usize> = w.dims.iter().map(|d| *d as usize).collect();
            let data = values(w, &*imported.weights).expect("a tensor that import has checked");
            let tensor = Tensor::floats(&dims, data)?;
            decoded.insert(w.name.clone(), tensor.clone());
            Ok(tensor)
        };
        sequence.step(entry, &inputs, &mut weights).expect("a step")
    }

    /// Every prompt as a whole.
    fn check_prompts(&mut self, program: &Program) {
        let prompts = self.json["prompts"].as_array().expect("prompts").clone();
        for (i, prompt) in prompts.iter().enumerate() {
            let ids = self.ids(&format!("p{i}.input_ids"));
            let at = |j: usize| prompt["logit_positions"][j].as_i64().expect("a position") as i32;
            let rows: Vec<i32> = (at(0)..at(1)).collect();
            let mut sequence = Sequence::new(program, 0);
            let found = self.step(&mut sequence, "forward", &ids, 0, &rows, None);
            let golden = self.floats(&format!("p{i}.logits"));
            assert_eq!(found[0].dims(), [rows.len(), self.vocab()]);
            assert_near(&format!("prompt {i}"), found[0].as_floats(), &golden, self.vocab());
        }
    }

    /// Token by token: the logits of a whole prompt, then the golden's own greedy tokens.
    fn check_steps(&mut self, program: &Program, prompt: usize, count: usize) {
        let ids = self.ids(&format!("p{prompt}.input_ids"));
        let greedy = self.ids(&format!("p{prompt}.greedy_ids"));
        let golden = self.floats(&format!("p{prompt}.logits"));
        let vocab = self.vocab();
        let mut sequence = Sequence::new(program, 0);
        let mut last = vec![];
        for (i, id) in ids.iter().enumerate() {
            let found = self.step(&mut sequence, "forward", &[*id], i, &[0], None);
            last = found[0].as_floats().to_vec();
            assert_near(&format!("step {i}"), &last, &golden[i * vocab..][..vocab], vocab);
        }
        for (i, expected) in greedy.iter().take(count).enumerate() {
            assert_eq!(argmax(&last), *expected as usize, "greedy token {i}");
            let found =
                self.step(&mut sequence, "forward", &[*expected], ids.len() + i, &[0], None);
            last = found[0].as_floats().to_vec();
        }
    }

    /// Drafts of a text, `chunk` rows at a time.
    fn check_drafts(&mut self, program: &Program, chunk: usize) {
        let ids = self.ids("mtp.input_ids");
        let mut sequence = Sequence::new(program, 0);
        let hidden = self.step(&mut sequence, "forward", &ids, 0, &[], None);
        let width = hidden[1].dims()[1];
        let hidden = hidden[1].as_floats().to_vec();
        let (next, vocab) = (&ids[1..], self.vocab());
        let mut logits = vec![];
        for (i, part) in next.chunks(chunk).enumerate() {
            let past = i * chunk;
            let rows = &hidden[past * width..][..part.len() * width];
            let rows = Tensor::floats(&[part.len(), width], rows.to_vec()).expect("rows");
            let wanted: Vec<i32> = (0..part.len() as i32).collect();
            let found = self.step(&mut sequence, "draft", part, past, &wanted, Some(rows));
            logits.extend_from_slice(found[0].as_floats());
        }
        let found: Vec<i32> = logits.chunks(vocab).map(|row| argmax(row) as i32).collect();
        assert_eq!(found, self.ids("mtp.draft_ids"));
        let tail = self.floats("mtp.logits_tail");
        assert_near("drafts", &logits[logits.len() - tail.len()..], &tail, vocab);
        assert_eq!(sequence.kept("forward"), ids.len(), "drafts leave the model's own rows alone");
        assert_eq!(sequence.kept("draft"), next.len());
    }
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best }).expect("a row")
}

/// Relative L2 distance of `a` from `b`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let off: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (off / norm).sqrt()
}

#[track_caller]
fn assert_near(what: &str, found: &[f32], golden: &[f32], vocab: usize) {
    assert_eq!(found.len(), golden.len(), "{what}");
    for (i, (f, g)) in found.chunks(vocab).zip(golden.chunks(vocab)).enumerate() {
        let error = distance(f, g);
        assert!(error < BOUND, "{what}, row {i}: relative error {error:e}");
    }
}

/// All that a model without a draft layer is held to.
fn check(name: &str) -> Case {
    let mut case = Case::open(name);
    let program = case.imported.program.clone();
    case.check_prompts(&program);
    case.check_steps(&program, 1, 48);
    case
}

fn check_with_drafts(name: &str) {
    let mut case = check(name);
    let program = case.imported.program.clone();
    case.check_drafts(&program, 1000);
    case.check_drafts(&program, 17);
}

#[test]
fn tiny_v3() {
    check_with_drafts("tiny-v3");
}

#[test]
fn tiny_v3_fp8() {
    check_with_drafts("tiny-v3-fp8");
}

#[test]
fn v3() {
    check_with_drafts("rand-v3");
}

#[test]
fn v3_fp8_shards_and_partial_blocks() {
    check_with_drafts("rand-v3-fp8");
}

#[test]
fn v2_in_groups() {
    check("rand-v2");
}

#[test]
fn v2_lite_without_query_rank() {
    check("rand-v2-lite");
}

#[test]
fn llama() {
    check("rand-llama");
}

#[test]
fn llama_with_tied_head() {
    check("rand-llama-tied");
}

#[test]
fn qwen2_with_biases() {
    check("rand-qwen2");
}

/// Made-up weights, fp8 ones too, give a model that computes something.
#[test]
fn made_up_weights_compute() {
    for name in ["rand-v3-fp8", "rand-v2", "rand-qwen2"] {
        let dir = support::at("tests/models").join(name).join("config.json");
        let options = ImportOptions { dummy_weights: Some(3), ..ImportOptions::default() };
        let mut case =
            Case { imported: import(&dir, &options).expect("a config"), ..Case::open(name) };
        let program = case.imported.program.clone();
        let mut sequence = Sequence::new(&program, 0);
        let found = case.step(&mut sequence, "forward", &[1, 2, 3], 0, &[1, 2], None);
        let logits = found[0].as_floats();
        let [first, second] = [&logits[..case.vocab()], &logits[case.vocab()..]];
        assert!(logits.iter().all(|v| v.is_finite() && v.abs() < 100.0), "{name}");
        assert!(distance(first, second) > 0.1, "{name}: logits follow the context");
    }
}

/// Programs of published shapes are well formed, and their text means the same.
#[test]
fn programs_verify_and_survive_their_text() {
    for name in ["v3", "v2-lite", "v2-lite-4", "qwen2-1.5b"] {
        let options = ImportOptions { dummy_weights: Some(1), ..ImportOptions::default() };
        let dir = support::at("tests/configs").join(name);
        let program = import(&dir, &options).expect("a config").program;
        let faults = program.verify().err().unwrap_or_default();
        assert!(faults.is_empty(), "{name}: {} faults, {:?}", faults.len(), &faults[..1]);
        let parsed = ir::graph::parse::parse_program(&program.to_string());
        assert!(parsed == Ok(program), "{name}");
    }
}
