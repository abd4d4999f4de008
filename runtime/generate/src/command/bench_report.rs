//! What `bench` prints.

use super::args::BenchArgs;
use super::bench::Times;
use super::dispatch::about;
use runtime::{KernelTime, Limits, Model};
use serde_json::{Value, json};
use std::time::Duration;

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Whole phases.
    pub times: Times,
    /// The machine's limits before the phases, if the artifact has probes.
    pub before: Option<Limits>,
    /// The limits after them: other programs may have come or gone.
    pub after: Option<Limits>,
    /// Time per kernel of one more prefill.
    pub prefill: Vec<KernelTime>,
    /// Time per kernel of one more decode.
    pub decode: Vec<KernelTime>,
}

impl Measured {
    /// The better of both measurements: the machine can do at least that.
    fn limit(&self) -> Option<Limits> {
        let (a, b) = (self.before.or(self.after)?, self.after.or(self.before)?);
        Some(Limits {
            read_bytes_per_s: a.read_bytes_per_s.max(b.read_bytes_per_s),
            flops_per_s: a.flops_per_s.max(b.flops_per_s),
        })
    }

    /// Time that the kernels' memory traffic takes at the limit, over the time of the phase.
    fn fraction(&self, kernels: &[KernelTime], time: Duration) -> Option<f64> {
        let bytes: u64 = kernels.iter().map(|k| k.bytes).sum();
        fraction(bytes, time.as_secs_f64(), self.limit())
    }
}

fn fraction(bytes: u64, seconds: f64, limit: Option<Limits>) -> Option<f64> {
    let least = bytes as f64 / limit?.read_bytes_per_s;
    (seconds > 0.0 && least.is_finite()).then(|| least / seconds)
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// One JSON object: `{model, threads, isa, backend, prompt_tokens, gen_tokens, context,
/// prefill_tokens_per_s, decode_tokens_per_s, limit: {read_bytes_per_s, flops_per_s, before,
/// after}, prefill_fraction_of_limit, decode_fraction_of_limit, bytes_are_upper_bound, kernels,
/// prefill_kernels}`, where kernels are `{name, family, launches, share, bytes, flops,
/// fraction_of_limit}`, decode's under `kernels`, those with the greatest share first.
///
/// `bytes` counts all memory handed to a kernel, also where it reads only the experts that were
/// chosen, so fractions of such kernels are too large. Operations are not counted (`flops` is
/// null), so fractions speak of memory traffic alone.
pub fn object(model: &Model, args: &BenchArgs, measured: &Measured) -> Value {
    let limits =
        |l: Limits| json!({"read_bytes_per_s": l.read_bytes_per_s, "flops_per_s": l.flops_per_s});
    let mut limit = measured.limit().map_or(json!({}), limits);
    limit["before"] = json!(measured.before.map(limits));
    limit["after"] = json!(measured.after.map(limits));
    let times = measured.times;
    let mut object = about(model);
    let facts = [
        ("prompt_tokens", json!(args.prompt_tokens)),
        ("gen_tokens", json!(args.gen_tokens)),
        ("context", json!(args.context.unwrap_or(args.prompt_tokens))),
        ("prefill_tokens_per_s", json!(rate(args.prompt_tokens, times.prefill))),
        ("decode_tokens_per_s", json!(rate(args.gen_tokens, times.decode))),
        ("limit", limit),
        ("prefill_fraction_of_limit", json!(measured.fraction(&measured.prefill, times.prefill))),
        ("decode_fraction_of_limit", json!(measured.fraction(&measured.decode, times.decode))),
        ("bytes_are_upper_bound", json!(true)),
        ("kernels", kernels(&measured.decode, measured.limit())),
        ("prefill_kernels", kernels(&measured.prefill, measured.limit())),
    ];
    object.extend(facts.map(|(key, value)| (key.to_owned(), value)));
    Value::Object(object)
}

/// The kernels that ran, those that took longest first, each with its share of their time.
fn shares(kernels: &[KernelTime]) -> Vec<(&KernelTime, f64)> {
    let total: u64 = kernels.iter().map(|k| k.nanoseconds).sum();
    let mut ran: Vec<_> = kernels
        .iter()
        .filter(|k| k.launches > 0)
        .map(|k| (k, k.nanoseconds as f64 / (total.max(1)) as f64))
        .collect();
    ran.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.name.cmp(&b.0.name)));
    ran
}

fn kernels(all: &[KernelTime], limit: Option<Limits>) -> Value {
    let kernel = |(k, share): (&KernelTime, f64)| {
        json!({
            "name": k.name,
            "family": k.family,
            "launches": k.launches,
            "share": share,
            "bytes": k.bytes,
            "flops": null,
            "fraction_of_limit": fraction(k.bytes, k.nanoseconds as f64 / 1e9, limit),
        })
    };
    shares(all).into_iter().map(kernel).collect()
}

/// The same for people.
pub fn text(model: &Model, args: &BenchArgs, measured: &Measured) -> String {
    let percent = |f: Option<f64>| f.map_or("-".to_owned(), |f| format!("{:.0} %", f * 100.0));
    let times = measured.times;
    let start = args.context.unwrap_or(args.prompt_tokens);
    let info = &model.manifest().model;
    let mut lines = vec![
        format!("{}, {} threads, {}/{}", info.name, model.threads(), model.isa(), model.backend()),
        match measured.limit() {
            None => "limits unknown: the artifact has no probes".to_owned(),
            Some(l) => format!(
                "limits: {:.1} GB/s read, {:.1} GFLOP/s",
                l.read_bytes_per_s / 1e9,
                l.flops_per_s / 1e9
            ),
        },
        format!(
            "prefill {:>6} tokens            {:>10.1} tokens/s  {:>6} of read limit",
            args.prompt_tokens,
            rate(args.prompt_tokens, times.prefill),
            percent(measured.fraction(&measured.prefill, times.prefill)),
        ),
        format!(
            "decode  {:>6} tokens at {start:>6}  {:>10.1} tokens/s  {:>6} of read limit",
            args.gen_tokens,
            rate(args.gen_tokens, times.decode),
            percent(measured.fraction(&measured.decode, times.decode)),
        ),
    ];
    for (phase, all) in [("decode", &measured.decode), ("prefill", &measured.prefill)] {
        lines.push(format!("{phase}: share, fraction of read limit, kernel"));
        for (k, share) in shares(all).into_iter().take(12) {
            let of_limit = fraction(k.bytes, k.nanoseconds as f64 / 1e9, measured.limit());
            let (share, of_limit) = (percent(Some(share)), percent(of_limit));
            lines.push(format!("{share:>6}  {of_limit:>6}  {}", k.name));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(name: &str, launches: u64, nanoseconds: u64, bytes: u64) -> KernelTime {
        KernelTime { name: name.into(), family: String::new(), launches, nanoseconds, bytes }
    }

    #[test]
    fn kernels_are_ordered_by_their_share() {
        let limit = Limits { read_bytes_per_s: 1e9, flops_per_s: 1e9 };
        let all = [time("a", 1, 1000, 500), time("unused", 0, 0, 0), time("b", 2, 3000, 600)];
        let found = kernels(&all, Some(limit));
        let names: Vec<&str> = found
            .as_array()
            .expect("a list")
            .iter()
            .map(|k| k["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(found[0]["share"], json!(0.75));
        for (kernel, expected) in [(0, 0.2), (1, 0.5)] {
            let value = found[kernel]["fraction_of_limit"].as_f64().expect("a number");
            assert!((value - expected).abs() < 1e-9, "{value}");
        }
        assert_eq!(kernels(&all, None)[0]["fraction_of_limit"], Value::Null);
    }

    #[test]
    fn the_better_limit_counts() {
        let limits = |read, flops| Some(Limits { read_bytes_per_s: read, flops_per_s: flops });
        let times = Times { prefill: Duration::from_secs(1), decode: Duration::from_secs(2) };
        let measured = |before, after| Measured {
            times,
            before,
            after,
            prefill: Vec::new(),
            decode: vec![time("a", 1, 1, 3_000_000_000)],
        };
        let both = measured(limits(2e9, 5.0), limits(3e9, 4.0));
        assert_eq!(both.limit(), limits(3e9, 5.0));
        assert_eq!(both.fraction(&both.decode, times.decode), Some(0.5));
        assert_eq!(measured(None, None).limit(), None);
    }
}
