//! What an artifact's plan and certificates say of its rewriting.

use super::CertificateReport;
use super::memory::StateRow;
use super::text::{bytes, write_certificate};
use crate::certificate::leading_to;
use artifact::manifest::Manifest;
use artifact::plan::{Bucket, Form, Plan};
use check::{Certificate, check};
use ir::attr::Attr;
use ir::dim::Dim;
use ir::graph::{Graph, Node};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Of an artifact.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledReport {
    /// The model's name.
    pub model: String,
    /// Options that it was compiled with.
    pub options: BTreeMap<String, String>,
    /// Each form of each block.
    pub blocks: Vec<CompiledForm>,
    /// Of the whole model.
    pub memory: CompiledMemory,
}

/// A form of a block.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledForm {
    /// The block.
    pub name: String,
    /// Buckets of the plan that compute it.
    pub buckets: Vec<String>,
    /// Rules that steps of the certificate name, with how often.
    pub rules: Vec<CompiledRule>,
    /// What is kept of a token.
    pub state: Vec<CompiledHistory>,
    /// Its certificate, checked anew.
    pub certificate: CertificateReport,
    /// Text of the graph that it came from.
    pub source: String,
    /// Text of the graph that was compiled.
    pub graph: String,
}

/// A history of a chosen graph. In which precision it is kept differs from layer to layer: the
/// plan's states say.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledHistory {
    /// Extents of a token's row.
    pub name: String,
    /// Numbers of a token's row.
    pub elements_per_token: u64,
}

/// A rule of a certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledRule {
    /// Its name.
    pub name: String,
    /// Steps that name it.
    pub applications: usize,
}

/// Bytes of a compiled model.
#[derive(Clone, Debug, Serialize)]
pub struct CompiledMemory {
    /// Of the packed weights.
    pub weights: u64,
    /// Of a token in all layers.
    pub kv_bytes_per_token: u64,
    /// What that is made of.
    pub states: Vec<StateRow>,
}

/// Explains an artifact. `seed` chooses the inputs of the certificates' check. A form that no
/// certificate leads to is left out: `latentc verify` names it.
pub fn explain(
    manifest: &Manifest,
    plan: &Plan,
    certificates: &[Certificate],
    seed: u64,
) -> CompiledReport {
    let mut blocks: Vec<(Form, CompiledForm)> = vec![];
    for bucket in plan.entries.iter().flat_map(|entry| &entry.buckets) {
        for form in &bucket.forms {
            if let Some((_, known)) = blocks.iter_mut().find(|(f, _)| f == form) {
                // A range of rows has a bucket for each form of the program in it.
                if !known.buckets.contains(&bucket.name) {
                    known.buckets.push(bucket.name.clone());
                }
            } else if let Some(certificate) = leading_to(certificates, form) {
                blocks.push((form.clone(), report(certificate, bucket, seed)));
            }
        }
    }
    let weights = plan.weights.iter().map(|w| w.offset.saturating_add(w.bytes)).max();
    let states: Vec<StateRow> = plan.states.iter().map(StateRow::of).collect();
    CompiledReport {
        model: manifest.model.name.clone(),
        options: manifest.options.clone(),
        blocks: blocks.into_iter().map(|(_, form)| form).collect(),
        memory: CompiledMemory {
            weights: weights.unwrap_or(0),
            kv_bytes_per_token: StateRow::bytes_of(&states),
            states,
        },
    }
}

fn report(certificate: &Certificate, bucket: &Bucket, seed: u64) -> CompiledForm {
    let chosen = certificate.chosen();
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    certificate.steps.iter().for_each(|step| *rules.entry(&step.rule).or_insert(0) += 1);
    let rule =
        |(name, applications): (&str, usize)| CompiledRule { name: name.into(), applications };
    let field_check = check(certificate, seed).err().map_or("equal".into(), |e| e.to_string());
    CompiledForm {
        name: chosen.name.to_string(),
        buckets: vec![bucket.name.clone()],
        rules: rules.into_iter().map(rule).collect(),
        state: kept(chosen),
        certificate: CertificateReport { steps: certificate.steps.len(), field_check },
        source: certificate.source.to_string(),
        graph: chosen.to_string(),
    }
}

/// Histories of a chosen graph.
fn kept(graph: &Graph) -> Vec<CompiledHistory> {
    let histories = graph.nodes.iter().filter(|node| node.op.name() == "history");
    let report = |node: &Node| {
        let ty = graph.ty(*node.results.first()?);
        let Attr::Name(into) = node.attrs.0.get(1)? else { return None };
        let rows = ty.indices.iter().filter(|index| *index != into);
        let dims: Vec<Dim> = rows.map(|index| graph.extent(index)).collect();
        let elements = dims.iter().try_fold(1u64, |product, dim| {
            let value = u64::try_from(dim.bound_value(&graph.symbols)?).ok()?;
            product.checked_mul(value)
        });
        Some(CompiledHistory { name: super::names(&dims), elements_per_token: elements? })
    };
    histories.filter_map(report).collect()
}

impl CompiledReport {
    /// The report, with the graphs where they are wanted.
    pub fn text(&self, graphs: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, graphs);
        text
    }

    fn write(&self, out: &mut String, graphs: bool) -> std::fmt::Result {
        writeln!(out, "{}", self.model)?;
        for block in &self.blocks {
            let CompiledForm { name, buckets, .. } = block;
            writeln!(out, "\nblock {name} in {}", buckets.join(", "))?;
            for s in &block.state {
                writeln!(out, "  keeps {}: {} numbers of a token", s.name, s.elements_per_token)?;
            }
            let rules: Vec<String> =
                block.rules.iter().map(|r| format!("{} {}", r.name, r.applications)).collect();
            writeln!(
                out,
                "  steps: {}",
                if rules.is_empty() { "none".into() } else { rules.join(", ") }
            )?;
            write_certificate(out, &block.certificate)?;
            if graphs {
                writeln!(out, "\nas stated:\n{}\nas compiled:\n{}", block.source, block.graph)?;
            }
        }
        let CompiledMemory { weights, kv_bytes_per_token, states } = &self.memory;
        let (weights, token) = (bytes(*weights as f64), bytes(*kv_bytes_per_token as f64));
        writeln!(out, "\nmemory: weights {weights}, {token} of a token")?;
        states.iter().try_for_each(|state| state.write(out))
    }
}
