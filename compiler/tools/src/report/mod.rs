//! A page about a compiled model on this machine: where the time of its steps goes, beside the
//! machine's limits; what memory they take; and what rewriting made of its graphs.
//!
//! - [`roofline`]: kernels by operations per byte and per second, under the limits
//! - [`arena`]: the memory of a step, launch by launch

pub mod arena;
pub mod roofline;

use crate::error::ToolError;
use arena::Arena;
use compiler::explain::compiled::{CompiledForm, CompiledReport};
use compiler::explain::svg::PALETTE;
use compiler::explain::text::{bytes, count, time};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use roofline::Roofline;
use runtime::{KernelTime, Limits, Model, Shape};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A phase of generation, as it was measured.
pub struct Phase<'a> {
    /// Prefill or decode.
    pub name: &'static str,
    /// Tokens that it took in or gave.
    pub tokens: usize,
    /// How long that took, without profiling.
    pub time: Duration,
    /// Its last step.
    pub shape: Shape,
    /// Time per kernel of the whole phase, with profiling.
    pub kernels: &'a [KernelTime],
}

/// The page, in HTML that refers to nothing outside of it.
///
/// # Errors
/// [`ToolError::Runtime`]: no bucket of the plan serves a phase's step.
pub fn html(
    model: &Model,
    limits: Option<Limits>,
    phases: &[Phase<'_>],
    compiled: &CompiledReport,
) -> Result<String, ToolError> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    let page = Page::new(model, limits, phases, compiled)?;
    let text = environment.render_str(include_str!("page.html"), Serde(page));
    Ok(text.expect("the template is part of the program"))
}

#[derive(Serialize)]
struct Page<'a> {
    palette: &'static str,
    model: &'a str,
    how: String,
    options: &'a BTreeMap<String, String>,
    limits: Option<[String; 2]>,
    weights: String,
    kept: String,
    phases: Vec<PhaseView<'a>>,
    forms: &'a [CompiledForm],
}

impl<'a> Page<'a> {
    fn new(
        model: &'a Model,
        limits: Option<Limits>,
        phases: &'a [Phase<'_>],
        compiled: &'a CompiledReport,
    ) -> Result<Page<'a>, ToolError> {
        let view = |phase| PhaseView::new(model, limits, phase);
        Ok(Page {
            palette: PALETTE,
            model: &compiled.model,
            how: format!("{} threads, {}/{}", model.threads(), model.isa(), model.backend()),
            options: &compiled.options,
            limits: limits.map(|l| [rate(l.read_bytes_per_s, "B"), rate(l.flops_per_s, "FLOP")]),
            weights: bytes(compiled.memory.weights as f64),
            kept: bytes(compiled.memory.kv_bytes_per_token as f64),
            phases: phases.iter().map(view).collect::<Result<_, _>>()?,
            forms: &compiled.blocks,
        })
    }
}

#[derive(Serialize)]
struct PhaseView<'a> {
    name: &'static str,
    tokens: usize,
    step: String,
    bucket: &'a str,
    /// Tokens per second: measured, and what the launches take at the limits one after another.
    measured: String,
    predicted: Option<String>,
    fraction: Option<String>,
    roofline: Option<Roofline>,
    kernels: Vec<KernelView<'a>>,
    arenas: Vec<Arena>,
}

impl<'a> PhaseView<'a> {
    fn new(
        model: &'a Model,
        limits: Option<Limits>,
        phase: &'a Phase<'_>,
    ) -> Result<PhaseView<'a>, ToolError> {
        let (bucket, symbols) = model.bucket(&phase.shape)?;
        let least: f64 = phase.kernels.iter().map(|k| k.least_nanoseconds).sum();
        let seconds = phase.time.as_secs_f64().max(1e-9);
        let per_second = |seconds: f64| format!("{:.1}", phase.tokens as f64 / seconds);
        let known = limits.filter(|_| least > 0.0);
        Ok(PhaseView {
            name: phase.name,
            tokens: phase.tokens,
            step: phase.shape.to_string(),
            bucket: &bucket.name,
            measured: per_second(seconds),
            predicted: known.map(|_| per_second(least / 1e9)),
            fraction: known.map(|_| percent(least / 1e9 / seconds)),
            roofline: limits.map(|limits| Roofline::new(limits, phase.kernels)),
            kernels: KernelView::all(phase.kernels, limits),
            arenas: arena::all(model.plan(), bucket, &symbols),
        })
    }
}

#[derive(Serialize)]
struct KernelView<'a> {
    name: &'a str,
    family: &'a str,
    launches: u64,
    time: String,
    share: String,
    /// Widths in per cent of the longest kernel's time: its own, and of that at the limits.
    width: f64,
    least: f64,
    bytes: String,
    flops: String,
    read: String,
    fraction: Option<String>,
    bound: Option<&'static str>,
}

impl<'a> KernelView<'a> {
    /// Those that ran, those that took longest first.
    fn all(kernels: &'a [KernelTime], limits: Option<Limits>) -> Vec<KernelView<'a>> {
        let mut ran: Vec<&KernelTime> = kernels.iter().filter(|k| k.launches > 0).collect();
        ran.sort_by(|a, b| b.nanoseconds.cmp(&a.nanoseconds).then_with(|| a.name.cmp(&b.name)));
        let total: u64 = ran.iter().map(|k| k.nanoseconds).sum();
        let longest = ran.first().map_or(1, |k| k.nanoseconds).max(1) as f64;
        ran.into_iter().map(|k| KernelView::new(k, limits, total as f64, longest)).collect()
    }

    fn new(
        kernel: &'a KernelTime,
        limits: Option<Limits>,
        total: f64,
        longest: f64,
    ) -> KernelView<'a> {
        let took = kernel.nanoseconds.max(1) as f64;
        let least = kernel.least_nanoseconds;
        KernelView {
            name: &kernel.name,
            family: &kernel.family,
            launches: kernel.launches,
            time: time(took),
            share: percent(took / total.max(1.0)),
            width: 100.0 * took / longest,
            least: (100.0 * least / took).min(100.0),
            bytes: bytes(kernel.bytes as f64),
            flops: count(kernel.flops as f64),
            read: rate(kernel.bytes as f64 / took * 1e9, "B"),
            fraction: limits.map(|_| percent(least / took)),
            bound: limits.map(|limits| bound(kernel, limits)),
        }
    }
}

/// Which of the machine's limits a kernel meets first.
fn bound(kernel: &KernelTime, limits: Limits) -> &'static str {
    let reading = kernel.bytes as f64 / limits.read_bytes_per_s;
    let computing = kernel.flops as f64 / limits.flops_per_s;
    if reading >= computing { "memory" } else { "arithmetic" }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

/// A quantity of a second, e.g. `41.2 GB/s`.
fn rate(value: f64, unit: &str) -> String {
    let number = bytes(value);
    format!("{}{unit}/s", number.strip_suffix('B').unwrap_or(&number))
}
