//! What rewriting decides, and why, for reports: each block's graph before and after, its cost, the
//! laws on the way, what is kept, what else there was, and what the whole model would take and give.
//!
//! - [`mod@alternatives`]: other forms, and why they lost
//! - [`buckets`]: the forms of the steps that a compiled plan tells apart
//! - [`memory`]: what is kept of a token, and in which precision
//! - [`mod@curve`], [`svg`]: time by new tokens, and a picture of it
//! - [`compiled`]: the same of an artifact, from its certificates
//! - [`text`]: for people

pub mod alternatives;
pub mod buckets;
pub mod compiled;
pub mod curve;
pub mod memory;
pub mod svg;
pub mod text;

use crate::compile::CompileError;
use crate::options::Options;
use crate::rewrite::choose::{Block, Chosen, Plan};
use crate::rewrite::cost::{Point, Work};
use crate::rewrite::program::{RewriteError, Rewriter};
use crate::variants::{Invariance, steps};
use alternatives::{Alternative, Others, alternatives};
use buckets::{BucketReport, buckets};
use check::check;
use curve::{Curve, curve};
use ir::device::DeviceSpec;
use ir::error::IrError;
use ir::graph::Graph;
use ir::graph::program::{Entry, Program};
use memory::{CacheFormats, KeptReport, Memory, memory};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the source's own form is called.
const STATED: &str = "as stated";

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
    /// What it would cost that a token has the same bits in every step.
    pub batch_invariant: Invariance,
    /// Time by new tokens, of each block that keeps something of a sequence, where it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<Vec<Curve>>,
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
    /// Milliseconds of saturation.
    pub ms: f64,
    /// Of one extraction, with its certificate.
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

/// Of a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateReport {
    /// Steps.
    pub steps: usize,
    /// `equal`, or what differs.
    pub field_check: String,
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
    /// As a compilation would be told.
    pub options: &'a Options,
    /// The device.
    pub device: &'a DeviceSpec,
    /// The step.
    pub point: Point,
    /// Whether curves are wanted, of steps of the same batch and context.
    pub curve: bool,
}

/// What is asked of a block.
struct Asked<'a> {
    plan: Plan<'a>,
    point: Point,
    /// In which precision its calls keep what they keep.
    formats: CacheFormats,
}

/// The cheapest in a step of the forms that a compiled plan has of a block, with what it costs.
///
/// Errors: a term that is no graph, a mistake of a law.
pub fn cheapest(block: &Block, forms: &[&Chosen], point: Point) -> Result<Chosen, IrError> {
    let price = |form: &&&Chosen| block.price(form, point);
    let form = forms.iter().min_by(|a, b| price(a).total_cmp(&price(b)));
    block.at(form.expect("a plan has forms"), point)
}

/// Explains the entry `forward` of a naive program.
///
/// Errors: E0261, E0262, E0284.
pub fn explain(program: &Program, question: &Question) -> Result<Explanation, CompileError> {
    let Question { options, device, point, .. } = *question;
    let plan = Plan::of(options, device).with_formats(program, &options.weights);
    let mut rewriter = Rewriter::new(program, &plan);
    let (steps, batch_invariant) = steps(&mut rewriter, program, &plan)?;
    let decode = rewriter.program(&steps[0].form);
    let (mut blocks, mut curves) = (vec![], vec![]);
    let mut totals = Totals::default();
    for (at, graph) in program.blocks.iter().enumerate() {
        let count = program.entry("forward").map_or(0, |e| calls(e, &graph.name));
        if count == 0 {
            continue;
        }
        let buckets = buckets(&rewriter, &steps, at);
        let formats = CacheFormats::of(&decode, &graph.name, options);
        let asked = Asked { plan: plan.clone(), point, formats };
        let forms = steps.iter().map(|steps| &steps.form);
        let Some((block, took, forms)) = rewriter.block(at, forms) else { continue };
        let no_graph = |error| RewriteError::of_term(&graph.name, error);
        let called = Called { graph, count, block, took, forms: &forms, buckets };
        let report = report(called, &asked, &mut totals).map_err(no_graph)?;
        if question.curve && !report.state.is_empty() {
            curves.push(curve(block, &graph.name, &forms, point, &asked.formats));
        }
        blocks.push(report);
    }
    let memory = memory(program, &decode, options, totals.arena)?;
    let predicted = totals.predicted(question);
    let curve = question.curve.then_some(curves);
    let device = device.clone();
    Ok(Explanation { device, blocks, memory, predicted, batch_invariant, curve })
}

fn calls(entry: &Entry, block: &str) -> usize {
    entry.calls.iter().filter(|c| &*c.block == block).count()
}

/// Sums over blocks.
#[derive(Default)]
struct Totals {
    arena: f64,
    decode: Work,
    decode_ns: f64,
    prefill_ns: f64,
}

/// New tokens of the step that the rate of prefill is told for.
const PREFILL: i64 = 512;

impl Totals {
    fn predicted(&self, question: &Question) -> Predicted {
        let device = question.device;
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

/// A block as steps call it.
struct Called<'b, 'a> {
    graph: &'b Graph,
    /// How often a step does.
    count: usize,
    /// Saturated, with how long that took.
    block: &'b mut Block<'a>,
    took: Duration,
    /// Its forms, and in which steps a plan has them.
    forms: &'b [&'b Chosen],
    buckets: Vec<BucketReport>,
}

fn report(called: Called, asked: &Asked, totals: &mut Totals) -> Result<BlockReport, IrError> {
    let Called { graph, count, block, took, forms, buckets } = called;
    let point = asked.point;
    let decode = cheapest(block, forms, Point { tokens: 1, ..point })?;
    let prefill = Point { batch: 1, tokens: PREFILL, context: PREFILL };
    let prefill = cheapest(block, forms, prefill)?;
    let chosen = cheapest(block, forms, point)?;
    let start = Instant::now();
    let best = block.choose(point)?;
    let extraction_ms = start.elapsed().as_secs_f64() * 1e3;
    let state = asked.formats.kept(&block.states());
    let times = count as f64;
    totals.arena = totals.arena.max(values_bytes(&chosen.work));
    totals.decode_ns += times * decode.price_ns;
    totals.prefill_ns += times * prefill.price_ns;
    totals.decode = (0..count).fold(totals.decode, |sum, _| sum.plus(decode.work));
    let others = Others { block, forms, best: &best };
    let alternatives = alternatives(graph, asked, &chosen, &others)?;
    let (stop, e_nodes) = block.size();
    Ok(BlockReport {
        name: graph.name.to_string(),
        count,
        batch: point.batch,
        tokens: point.tokens,
        context: point.context,
        cost_ns: Costs { source: chosen.source_ns, chosen: chosen.price_ns },
        work: counts(&chosen.work),
        stopped: stop.name(),
        e_nodes,
        ms: took.as_secs_f64() * 1e3,
        extraction_ms,
        rules: rules(block.applied()),
        contractions: chosen.products.iter().map(contraction).collect(),
        state,
        alternatives,
        buckets,
        certificate: certified(&chosen),
        source: graph.to_string(),
        graph: chosen.graph.to_string(),
    })
}

/// Bytes of what is made and read in the step alone.
fn values_bytes(work: &Work) -> f64 {
    work.bytes - work.weight_bytes - work.context_bytes
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

fn certified(chosen: &Chosen) -> CertificateReport {
    const SEED: u64 = 1;
    let field_check = match check(&chosen.certificate, SEED) {
        Ok(_) => "equal".to_string(),
        Err(error) => error.to_string(),
    };
    CertificateReport { steps: chosen.certificate.steps.len(), field_check }
}
