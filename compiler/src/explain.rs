//! What rewriting decides, and why, for reports: each block's graph before and after, its cost, the
//! laws on the way, what is kept, and what the whole model would take and give.

use crate::rewrite::choose::{Block, Chosen, Kept, Plan, State};
use crate::rewrite::cost::{Point, Work, encoded_bytes};
use check::check;
use ir::device::DeviceSpec;
use ir::error::IrError;
use ir::graph::Graph;
use ir::graph::program::{Entry, Program};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
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
    /// Why other states were not chosen.
    pub runner_up: Option<RunnerUp>,
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

/// The best choice with other states.
#[derive(Clone, Debug, Serialize)]
pub struct RunnerUp {
    /// What it would keep.
    pub state: Vec<KeptReport>,
    /// Its nanoseconds at the same step.
    pub cost_ns: f64,
    /// In words.
    pub why: String,
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
    let decode = block.choose(Point { tokens: 1, ..point })?;
    let prefill = block.choose(Point { batch: 1, tokens: PREFILL, context: PREFILL })?;
    let start = Instant::now();
    let chosen = block.choose(point)?;
    let extraction_ms = start.elapsed().as_secs_f64() * 1e3;
    let state: Vec<KeptReport> = block.states().iter().map(kept).collect();
    let times = count as f64;
    totals.kv_bytes += count as u64 * state.iter().map(|s| s.bytes_per_token).sum::<u64>();
    totals.arena = totals.arena.max(chosen.work.bytes - chosen.work.weight_bytes);
    totals.decode_ns += times * decode.price_ns;
    totals.prefill_ns += times * prefill.price_ns;
    totals.decode = (0..count).fold(totals.decode, |sum, _| sum.plus(decode.work));
    let runner_up = runner_up(graph, question, &block.states(), &chosen)?;
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
        runner_up,
        certificate: certified(&chosen),
        source: graph.to_string(),
        graph: chosen.graph.to_string(),
    }))
}

fn counts(work: &Work) -> Counts {
    Counts {
        flops: work.flops + work.slow_flops,
        bytes: work.bytes,
        weight_bytes: work.weight_bytes,
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
        weight_bytes: product.work.weight_bytes,
    }
}

/// Bytes of an element of a state, as it is stored by default.
const STATE_BYTES: u64 = 2;

fn kept(state: &State) -> KeptReport {
    KeptReport { name: names(&state.dims), bytes_per_token: state.elements as u64 * STATE_BYTES }
}

fn certified(chosen: &Chosen) -> CertificateReport {
    const SEED: u64 = 1;
    let field_check = match check(&chosen.certificate, SEED) {
        Ok(_) => "equal".to_string(),
        Err(error) => error.to_string(),
    };
    CertificateReport { steps: chosen.certificate.steps.len(), field_check }
}

/// The best choice that keeps something else: what the source keeps, or the fewest bytes.
fn runner_up(
    graph: &Graph,
    question: &Question,
    states: &[State],
    chosen: &Chosen,
) -> Result<Option<RunnerUp>, IrError> {
    let mut best: Option<RunnerUp> = None;
    for kept_as in [Kept::Expanded, Kept::Latent] {
        let plan = Plan { kept: kept_as, ..question.plan.clone() };
        let Some(mut block) = Block::new(graph, plan) else { continue };
        if block.states() == states {
            continue;
        }
        let other = block.choose(question.point)?;
        if best.as_ref().is_none_or(|b| other.price_ns < b.cost_ns) {
            let state: Vec<KeptReport> = block.states().iter().map(kept).collect();
            let why = reason(&chosen.work, &other, &state, chosen.price_ns);
            best = Some(RunnerUp { state, cost_ns: other.price_ns, why });
        }
    }
    Ok(best)
}

fn reason(work: &Work, other: &Chosen, state: &[KeptReport], price_ns: f64) -> String {
    let bytes: u64 = state.iter().map(|s| s.bytes_per_token).sum();
    format!(
        "keeping {bytes} bytes of a token would take {:.1} us instead of {:.1} us: {:.3e} instead of \
         {:.3e} operations, {:.3e} instead of {:.3e} bytes",
        other.price_ns / 1e3,
        price_ns / 1e3,
        other.work.flops + other.work.slow_flops,
        work.flops + work.slow_flops,
        other.work.bytes,
        work.bytes
    )
}

impl Explanation {
    /// For people.
    pub fn text(&self, graphs: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, graphs);
        text
    }

    fn write(&self, out: &mut String, graphs: bool) -> std::fmt::Result {
        writeln!(out, "device {}", self.device.name)?;
        for b in &self.blocks {
            writeln!(out)?;
            writeln!(
                out,
                "block {} ({} times): {} x {} new tokens, context {}",
                b.name, b.count, b.batch, b.tokens, b.context
            )?;
            writeln!(
                out,
                "  {:.1} us as stated, {:.1} us as chosen ({:.3e} operations, {:.3e} bytes, {} kernels)",
                b.cost_ns.source / 1e3,
                b.cost_ns.chosen / 1e3,
                b.work.flops,
                b.work.bytes,
                b.work.launches
            )?;
            writeln!(out, "  {}: {} e-nodes, {:.1} ms", b.stopped, b.e_nodes, b.ms)?;
            for s in &b.state {
                writeln!(out, "  keeps {}: {} bytes of a token", s.name, s.bytes_per_token)?;
            }
            if let Some(r) = &b.runner_up {
                writeln!(out, "  runner-up: {}", r.why)?;
            }
            for c in &b.contractions {
                let Contraction { result, flops, weight_bytes } = c;
                writeln!(
                    out,
                    "  product {result}: {flops:.3e} operations, {weight_bytes:.3e} bytes of weights"
                )?;
            }
            let rules: Vec<String> =
                b.rules.iter().map(|r| format!("{} {}", r.name, r.applications)).collect();
            writeln!(out, "  laws: {}", rules.join(", "))?;
            let CertificateReport { steps, field_check } = &b.certificate;
            writeln!(out, "  certificate: {steps} steps, {field_check} in the prime field")?;
            if graphs {
                writeln!(out, "{}\n{}", b.source, b.graph)?;
            }
        }
        let (m, p) = (&self.memory, &self.predicted);
        writeln!(out)?;
        writeln!(
            out,
            "memory: weights {} bytes, {} bytes of a token, values of a step {} bytes",
            m.weights, m.kv_bytes_per_token, m.arena
        )?;
        writeln!(
            out,
            "predicted: prefill {:.0} tokens/s, decode {:.1} tokens/s ({})",
            p.prefill_tokens_per_s, p.decode_tokens_per_s, p.bound
        )
    }
}
