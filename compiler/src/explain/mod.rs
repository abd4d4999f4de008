//! What rewriting decides, and why, for reports: each block's graph before and after, its cost, the
//! laws on the way, what is kept, what else there was, and what the whole model would take and give.
//!
//! - [`mod@alternatives`]: other forms, and why they lost
//! - [`compiled`]: the same of an artifact, from its certificates
//! - [`text`]: for people

pub mod alternatives;
pub mod compiled;
pub mod text;

use crate::rewrite::choose::{Block, Chosen, Plan, State};
use crate::rewrite::cost::{Point, Work, encoded_bytes};
use alternatives::{Alternative, alternatives};
use check::check;
use ir::device::DeviceSpec;
use ir::error::IrError;
use ir::graph::Graph;
use ir::graph::program::{Entry, Program};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Of a model on a device, at a step.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The device.
    pub device: DeviceSpec,
    /// Each distinct block once.
    pub blocks: Vec<BlockReport>,
    /// Of the whole model.
    pub memory: Memory,
    /// By the cost model.
    pub predicted: Predicted,
}

/// Of a block.
#[derive(Clone, Debug, Serialize)]
pub struct BlockReport {
    /// Its name.
    pub name: String,
    /// How often a step calls it.
    pub count: usize,
    /// Sequences of the step.
    pub batch: i64,
    /// New tokens of each.
    pub tokens: i64,
    /// Tokens of each with the past.
    pub context: i64,
    /// Nanoseconds by the cost model.
    pub cost_ns: Costs,
    /// What the chosen graph must do.
    pub work: Counts,
    /// Why saturation ended.
    pub stopped: &'static str,
    /// Size of the e-graph.
    pub e_nodes: usize,
    /// Milliseconds of saturation, and of the choice.
    pub ms: f64,
    /// Of the choice alone.
    pub extraction_ms: f64,
    /// Laws that gave something new, with how often.
    pub rules: Vec<Rule>,
    /// Products of the chosen graph.
    pub contractions: Vec<Contraction>,
    /// What is kept of a token.
    pub state: Vec<KeptReport>,
    /// What else there was, the best first.
    pub alternatives: Vec<Alternative>,
    /// The forms of the steps that a compiled plan tells apart.
    pub buckets: Vec<BucketReport>,
    /// The way from source to choice.
    pub certificate: CertificateReport,
    /// The source's text.
    pub source: String,
    /// The chosen graph's text.
    pub graph: String,
}

/// Nanoseconds by the cost model.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// As stated.
    pub source: f64,
    /// As chosen.
    pub chosen: f64,
}

/// What a graph must do.
#[derive(Clone, Debug, Serialize)]
pub struct Counts {
    /// Operations of products.
    pub flops: f64,
    /// Bytes moved.
    pub bytes: f64,
    /// Bytes of weights among them.
    pub weight_bytes: f64,
    /// Bytes among them of what has a row for each token of the context.
    pub context_bytes: f64,
    /// Kernels.
    pub launches: f64,
}

/// A law.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: &'static str,
    /// How often it gave something new.
    pub applications: usize,
}

/// A product.
#[derive(Clone, Debug, Serialize)]
pub struct Contraction {
    /// Extents of its result.
    pub result: String,
    /// Operations.
    pub flops: f64,
    /// Bytes of weights it reads.
    pub weight_bytes: f64,
}

/// A history that is kept.
#[derive(Clone, Debug, Serialize)]
pub struct KeptReport {
    /// Extents of a token's row.
    pub name: String,
    /// Bytes of a token's row.
    pub bytes_per_token: u64,
}

/// The form of a block in a range of steps.
#[derive(Clone, Debug, Serialize)]
pub struct BucketReport {
    /// Name of the range.
    pub name: String,
    /// Sequences of the step that it is chosen for.
    pub batch: i64,
    /// New tokens of each.
    pub tokens: i64,
    /// Tokens of each with the past.
    pub context: i64,
    /// Nanoseconds of that step by the cost model.
    pub cost_ns: f64,
    /// The first range with the same graph.
    pub same_as: String,
    /// The graph's text.
    pub graph: String,
}

/// Of a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateReport {
    /// Steps.
    pub steps: usize,
    /// `equal`, or what differs.
    pub field_check: String,
}

/// Bytes of the whole model.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Of all weights as stored.
    pub weights: u64,
    /// Of a token in all layers.
    pub kv_bytes_per_token: u64,
    /// Of a step's values, about: those of the largest block.
    pub arena: u64,
}

/// Rates by the cost model.
#[derive(Clone, Debug, Serialize)]
pub struct Predicted {
    /// Of one sequence's prefill.
    pub prefill_tokens_per_s: f64,
    /// Of the stated batch, all sequences together.
    pub decode_tokens_per_s: f64,
    /// What decoding waits for: `memory`, `arithmetic` or `launches`.
    pub bound: &'static str,
}

/// What is asked.
pub struct Question<'a> {
    /// How to rewrite.
    pub plan: Plan<'a>,
    /// The step.
    pub point: Point,
    /// Bytes of an element of a state.
    pub state_bytes: u64,
    /// Steps that a compiled plan would tell apart, with their names.
    pub buckets: Vec<(String, Point)>,
}

/// Explains the entry `forward` of a naive program.
///
/// Errors: a law that makes no graph.
pub fn explain(program: &Program, question: &Question) -> Result<Explanation, IrError> {
    let entry = program.entry("forward");
    let mut blocks = vec![];
    let mut totals = Totals::default();
    for graph in &program.blocks {
        let count = entry.map_or(0, |e| calls(e, &graph.name));
        if count > 0 {
            blocks.extend(block(graph, count, question, &mut totals)?);
        }
    }
    let weights = program.weights.iter().map(|w| {
        let elements: f64 = w.dims.iter().map(|d| *d as f64).product();
        (elements * encoded_bytes(w.encoding)) as u64
    });
    let memory = Memory {
        weights: weights.sum(),
        kv_bytes_per_token: totals.kv_bytes,
        arena: totals.arena as u64,
    };
    let predicted = totals.predicted(question);
    Ok(Explanation { device: question.plan.device.clone(), blocks, memory, predicted })
}

fn calls(entry: &Entry, block: &str) -> usize {
    entry.calls.iter().filter(|c| &*c.block == block).count()
}

/// Sums over blocks.
#[derive(Default)]
struct Totals {
    kv_bytes: u64,
    arena: f64,
    decode: Work,
    decode_ns: f64,
    prefill_ns: f64,
}

/// New tokens of the step that the rate of prefill is told for.
const PREFILL: i64 = 512;

impl Totals {
    fn predicted(&self, question: &Question) -> Predicted {
        let device = question.plan.device;
        let memory = self.decode.bytes / device.read_bytes_per_s * 1e9;
        let arithmetic = self.decode.flops / device.bf16_flops_per_s * 1e9;
        let launches = self.decode.launches * device.launch_ns;
        let bound = match (memory >= arithmetic, memory.max(arithmetic) >= launches) {
            (true, true) => "memory",
            (false, true) => "arithmetic",
            (_, false) => "launches",
        };
        let rate = |tokens: i64, ns: f64| if ns > 0.0 { tokens as f64 / ns * 1e9 } else { 0.0 };
        Predicted {
            prefill_tokens_per_s: rate(PREFILL, self.prefill_ns),
            decode_tokens_per_s: rate(question.point.batch, self.decode_ns),
            bound,
        }
    }
}

fn block(
    graph: &Graph,
    count: usize,
    question: &Question,
    totals: &mut Totals,
) -> Result<Option<BlockReport>, IrError> {
    let start = Instant::now();
    let Some(mut block) = Block::new(graph, question.plan.clone()) else { return Ok(None) };
    let ms = start.elapsed().as_secs_f64() * 1e3;
    let point = question.point;
    let buckets = buckets(&mut block, &question.buckets)?;
    let decode = block.choose(Point { tokens: 1, ..point })?;
    let prefill = block.choose(Point { batch: 1, tokens: PREFILL, context: PREFILL })?;
    let start = Instant::now();
    let chosen = block.choose(point)?;
    let extraction_ms = start.elapsed().as_secs_f64() * 1e3;
    let state = kept(&block.states(), question.state_bytes);
    let times = count as f64;
    totals.kv_bytes += count as u64 * bytes_of(&state);
    totals.arena = totals.arena.max(values_bytes(&chosen.work));
    totals.decode_ns += times * decode.price_ns;
    totals.prefill_ns += times * prefill.price_ns;
    totals.decode = (0..count).fold(totals.decode, |sum, _| sum.plus(decode.work));
    let alternatives = alternatives(graph, question, &mut block, &chosen)?;
    let (stop, e_nodes) = block.size();
    Ok(Some(BlockReport {
        name: graph.name.to_string(),
        count,
        batch: point.batch,
        tokens: point.tokens,
        context: point.context,
        cost_ns: Costs { source: chosen.source_ns, chosen: chosen.price_ns },
        work: counts(&chosen.work),
        stopped: stop.name(),
        e_nodes,
        ms,
        extraction_ms,
        rules: rules(block.applied()),
        contractions: chosen.products.iter().map(contraction).collect(),
        state,
        alternatives,
        buckets,
        certificate: certified(&chosen),
        source: graph.to_string(),
        graph: chosen.graph.to_string(),
    }))
}

/// Bytes of what is made and read in the step alone.
fn values_bytes(work: &Work) -> f64 {
    work.bytes - work.weight_bytes - work.context_bytes
}

/// The form of each range, in the order in which compiling chooses them.
fn buckets(block: &mut Block, points: &[(String, Point)]) -> Result<Vec<BucketReport>, IrError> {
    let mut reports: Vec<BucketReport> = vec![];
    for (name, point) in points {
        let chosen = block.choose(*point)?;
        let graph = chosen.graph.to_string();
        let same = reports.iter().find(|report| report.graph == graph);
        let same_as = same.map_or(name.clone(), |report| report.name.clone());
        let Point { batch, tokens, context } = *point;
        let (name, cost_ns) = (name.clone(), chosen.price_ns);
        reports.push(BucketReport { name, batch, tokens, context, cost_ns, same_as, graph });
    }
    Ok(reports)
}

fn counts(work: &Work) -> Counts {
    Counts {
        flops: work.flops + work.slow_flops,
        bytes: work.bytes,
        weight_bytes: work.weight_bytes,
        context_bytes: work.context_bytes,
        launches: work.launches,
    }
}

fn rules(applied: &BTreeMap<&'static str, usize>) -> Vec<Rule> {
    let used = applied.iter().filter(|(_, count)| **count > 0);
    used.map(|(name, applications)| Rule { name, applications: *applications }).collect()
}

fn names(dims: &[ir::dim::Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

fn contraction(product: &crate::rewrite::choose::Product) -> Contraction {
    Contraction {
        result: names(&product.result),
        flops: product.work.flops + product.work.slow_flops,
        // A sum over nothing is -0.
        weight_bytes: product.work.weight_bytes + 0.0,
    }
}

fn kept(states: &[State], state_bytes: u64) -> Vec<KeptReport> {
    let report = |state: &State| KeptReport {
        name: names(&state.dims),
        bytes_per_token: u64::try_from(state.elements).unwrap_or(0).saturating_mul(state_bytes),
    };
    states.iter().map(report).collect()
}

/// Bytes of a token's rows of some histories.
fn bytes_of(states: &[KeptReport]) -> u64 {
    states.iter().map(|state| state.bytes_per_token).sum()
}

fn certified(chosen: &Chosen) -> CertificateReport {
    const SEED: u64 = 1;
    let field_check = match check(&chosen.certificate, SEED) {
        Ok(_) => "equal".to_string(),
        Err(error) => error.to_string(),
    };
    CertificateReport { steps: chosen.certificate.steps.len(), field_check }
}
