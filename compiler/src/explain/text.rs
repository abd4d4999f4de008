//! Reports for people.

use super::buckets::BucketReport;
use super::{BlockReport, CertificateReport, Contraction, Explanation};
use std::fmt::{Result, Write};

/// A number of bytes, three digits or so, decimal units.
pub fn bytes(value: f64) -> String {
    scaled(value, 1e3, &["B", "KB", "MB", "GB", "TB", "PB"])
}

/// A number of operations.
pub fn count(value: f64) -> String {
    scaled(value, 1e3, &["", "thousand", "million", "billion", "trillion"])
}

/// Nanoseconds.
pub fn time(ns: f64) -> String {
    scaled(ns, 1e3, &["ns", "us", "ms", "s"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step * 0.9995 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        v if unit == 0 && v.fract() == 0.0 => 0,
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", units[unit]).trim_end().to_string()
}

impl Explanation {
    /// The report, with the graphs where they are wanted.
    pub fn text(&self, graphs: bool) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, graphs);
        text
    }

    fn write(&self, out: &mut String, graphs: bool) -> Result {
        writeln!(out, "device {}", self.device.name)?;
        for block in &self.blocks {
            writeln!(out)?;
            block.write(out, graphs)?;
        }
        let (m, p) = (&self.memory, &self.predicted);
        writeln!(
            out,
            "\nmemory: weights {}, {} of a token, values of a step about {}",
            bytes(m.weights as f64),
            bytes(m.kv_bytes_per_token as f64),
            bytes(m.arena as f64)
        )?;
        m.states.iter().try_for_each(|state| state.write(out))?;
        writeln!(
            out,
            "predicted: prefill {:.1} tokens/s, decode {:.1} tokens/s (waits for {})",
            p.prefill_tokens_per_s, p.decode_tokens_per_s, p.bound
        )?;
        writeln!(out, "{}", self.batch_invariant)
    }
}

impl BlockReport {
    fn write(&self, out: &mut String, graphs: bool) -> Result {
        let BlockReport { name, count: times, batch, tokens, context, .. } = self;
        writeln!(
            out,
            "block {name} ({times} times): {batch} x {tokens} new tokens, context {context}"
        )?;
        let (stated, chosen) = (time(self.cost_ns.source), time(self.cost_ns.chosen));
        writeln!(out, "  time: {stated} as stated, {chosen} as chosen")?;
        let w = &self.work;
        writeln!(
            out,
            "  work: {} operations, {} moved ({} of weights, {} of the context), {} kernels",
            count(w.flops),
            bytes(w.bytes),
            bytes(w.weight_bytes),
            bytes(w.context_bytes),
            w.launches
        )?;
        let limit = match self.stopped {
            "saturated" => "",
            _ => ": the best graph found until then is used",
        };
        let ms = self.ms + self.extraction_ms;
        writeln!(
            out,
            "  search: {} at {} e-nodes in {ms:.1} ms{limit}",
            self.stopped, self.e_nodes
        )?;
        for s in &self.state {
            writeln!(out, "  keeps {}: {}", s.name, s.words())?;
        }
        for (at, a) in self.alternatives.iter().enumerate() {
            let what = if at == 0 { "runner-up" } else { "also lost" };
            writeln!(out, "  {what}, {}: {}", a.name, a.why)?;
        }
        self.write_buckets(out)?;
        for Contraction { result, flops, weight_bytes } in &self.contractions {
            let (flops, weights) = (count(*flops), bytes(*weight_bytes));
            writeln!(out, "  product {result}: {flops} operations, {weights} of weights")?;
        }
        let laws: Vec<String> =
            self.rules.iter().map(|r| format!("{} {}", r.name, r.applications)).collect();
        writeln!(out, "  laws: {}", if laws.is_empty() { "none".into() } else { laws.join(", ") })?;
        write_certificate(out, &self.certificate)?;
        if graphs {
            writeln!(out, "\nas stated:\n{}\nas chosen:\n{}", self.source, self.graph)?;
            for (at, b) in self.buckets.iter().enumerate() {
                if b.same_as == at && b.graph != self.graph {
                    writeln!(out, "\nin bucket {at}, {b}:\n{}", b.graph)?;
                }
            }
        }
        Ok(())
    }

    /// Buckets with what is computed in each: the form above, or another one.
    fn write_buckets(&self, out: &mut String) -> Result {
        if self.buckets.iter().all(|b| b.graph == self.graph) {
            return writeln!(out, "  every bucket: this form");
        }
        for (at, b) in self.buckets.iter().enumerate() {
            let form = match (b.graph == self.graph, b.same_as == at) {
                (true, _) => "this form".to_string(),
                (false, true) => "its own form".to_string(),
                (false, false) => format!("the form of bucket {}", b.same_as),
            };
            let BucketReport { at: [batch, tokens, context], cost_ns, .. } = b;
            let (of, ns) = (format!("{batch} x {tokens} tokens of {context}"), time(*cost_ns));
            writeln!(out, "  bucket {at}, {b}: {form} ({of}: {ns})")?;
        }
        Ok(())
    }
}

/// Steps of a certificate, and how its check went.
pub(super) fn write_certificate(out: &mut String, certificate: &CertificateReport) -> Result {
    let CertificateReport { steps, field_check } = certificate;
    match field_check.as_str() {
        "equal" => writeln!(out, "  certificate: {steps} steps, equal in the prime field"),
        wrong => writeln!(out, "  certificate: {steps} steps, WRONG: {wrong}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(1152.0), "1.15 KB");
        assert_eq!(bytes(999_960.0), "1.00 MB");
        assert_eq!(count(12.0), "12");
        assert_eq!(count(2.308e9), "2.31 billion");
        assert_eq!(time(31_802_900.0), "31.8 ms");
        assert_eq!(time(0.25), "0.25 ns");
    }
}
