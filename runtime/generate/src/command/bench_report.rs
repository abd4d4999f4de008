//! What `bench` prints.

use super::args::MeasureArgs;
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
    /// What fractions are taken of: the better of both.
    pub limits: Option<Limits>,
    /// Time per kernel of one more prefill.
    pub prefill: Vec<KernelTime>,
    /// Time per kernel of one more decode.
    pub decode: Vec<KernelTime>,
}

impl Measured {
    /// Time that a phase's launches take at the limits, over the time that the phase took.
    fn of_phase(&self, kernels: &[KernelTime], time: Duration) -> Option<f64> {
        let least: f64 = kernels.iter().map(|k| k.least_nanoseconds).sum();
        fraction(least / 1e9, time.as_secs_f64(), self.limits)
    }
}

/// Time that a kernel's bytes or, if that is more, operations take at the limits, over its time.
fn of_kernel(kernel: &KernelTime, limits: Option<Limits>) -> Option<f64> {
    let least = limits?.least_seconds(kernel.bytes, kernel.flops);
    fraction(least, kernel.nanoseconds as f64 / 1e9, limits)
}

/// `least` over `seconds`, if both mean something.
fn fraction(least: f64, seconds: f64, limits: Option<Limits>) -> Option<f64> {
    (limits.is_some() && seconds > 0.0 && least.is_finite()).then(|| least / seconds)
}

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// One JSON object: `{model, threads, isa, backend, prompt_tokens, gen_tokens, context,
/// prefill_tokens_per_s, decode_tokens_per_s, limit: {read_bytes_per_s, flops_per_s, before,
/// after}, prefill_fraction_of_limit, decode_fraction_of_limit, kernels, prefill_kernels}`, where
/// kernels are `{name, family, launches, share, bytes, flops, fraction_of_limit}`, decode's under
/// `kernels`, those with the greatest share first.
///
/// `bytes` and `flops` are what a kernel's launches cannot do without together, by the plan
/// (`artifact::plan::Work`). A phase's fraction is the time that its launches would take at the
/// limits, one after the other, each bound by the slower of memory and arithmetic, over the time
/// that it took without profiling; times of kernels come from a run of their own.
pub fn object(model: &Model, args: &MeasureArgs, measured: &Measured) -> Value {
    let limits =
        |l: Limits| json!({"read_bytes_per_s": l.read_bytes_per_s, "flops_per_s": l.flops_per_s});
    let mut limit = measured.limits.map_or(json!({}), limits);
    limit["before"] = json!(measured.before.map(limits));
    limit["after"] = json!(measured.after.map(limits));
    let times = measured.times;
    let mut object = about(model);
    let facts = [
        ("prompt_tokens", json!(args.prompt_tokens)),
        ("gen_tokens", json!(args.gen_tokens)),
        ("context", json!(args.start())),
        ("prefill_tokens_per_s", json!(rate(args.prompt_tokens, times.prefill))),
        ("decode_tokens_per_s", json!(rate(args.gen_tokens, times.decode))),
        ("limit", limit),
        ("prefill_fraction_of_limit", json!(measured.of_phase(&measured.prefill, times.prefill))),
        ("decode_fraction_of_limit", json!(measured.of_phase(&measured.decode, times.decode))),
        ("kernels", kernels(&measured.decode, measured.limits)),
        ("prefill_kernels", kernels(&measured.prefill, measured.limits)),
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
            "flops": k.flops,
            "fraction_of_limit": of_kernel(k, limit),
        })
    };
    shares(all).into_iter().map(kernel).collect()
}

/// The same for people.
pub fn text(model: &Model, args: &MeasureArgs, measured: &Measured) -> String {
    let percent = |f: Option<f64>| f.map_or("-".to_owned(), |f| format!("{:.0} %", f * 100.0));
    let times = measured.times;
    let start = args.start();
    let info = &model.manifest().model;
    let mut lines = vec![
        format!("{}, {} threads, {}/{}", info.name, model.threads(), model.isa(), model.backend()),
        match measured.limits {
            None => "limits unknown: the artifact has no probes".to_owned(),
            Some(l) => format!(
                "limits: {:.1} GB/s read, {:.1} GFLOP/s",
                l.read_bytes_per_s / 1e9,
                l.flops_per_s / 1e9
            ),
        },
        format!(
            "prefill {:>6} tokens            {:>10.1} tokens/s  {:>6} of limit",
            args.prompt_tokens,
            rate(args.prompt_tokens, times.prefill),
            percent(measured.of_phase(&measured.prefill, times.prefill)),
        ),
        format!(
            "decode  {:>6} tokens at {start:>6}  {:>10.1} tokens/s  {:>6} of limit",
            args.gen_tokens,
            rate(args.gen_tokens, times.decode),
            percent(measured.of_phase(&measured.decode, times.decode)),
        ),
    ];
    for (phase, all) in [("decode", &measured.decode), ("prefill", &measured.prefill)] {
        lines.push(format!("{phase}: share, fraction of limit, kernel"));
        for (k, share) in shares(all).into_iter().take(12) {
            let of_limit = of_kernel(k, measured.limits);
            let (share, of_limit) = (percent(Some(share)), percent(of_limit));
            lines.push(format!("{share:>6}  {of_limit:>6}  {}", k.name));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::bench::better;
    use super::*;

    const LIMITS: Limits = Limits { read_bytes_per_s: 1e9, flops_per_s: 2e9 };

    fn time(name: &str, launches: u64, nanoseconds: u64, bytes: u64, flops: u64) -> KernelTime {
        let least_nanoseconds = LIMITS.least_seconds(bytes, flops) * 1e9;
        let (name, family) = (name.into(), String::new());
        KernelTime { name, family, launches, nanoseconds, bytes, flops, least_nanoseconds }
    }

    #[test]
    fn kernels_are_ordered_by_their_share() {
        // The one is bound by memory, the other by arithmetic.
        let unused = time("unused", 0, 0, 0, 0);
        let all = [time("a", 1, 1000, 500, 10), unused, time("b", 2, 3000, 100, 1200)];
        let found = kernels(&all, Some(LIMITS));
        let names: Vec<&str> = found
            .as_array()
            .expect("a list")
            .iter()
            .map(|k| k["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(found[0]["share"], json!(0.75));
        assert_eq!((&found[0]["bytes"], &found[0]["flops"]), (&json!(100), &json!(1200)));
        for (kernel, expected) in [(0, 0.2), (1, 0.5)] {
            let value = found[kernel]["fraction_of_limit"].as_f64().expect("a number");
            assert!((value - expected).abs() < 1e-9, "{value}");
        }
        assert_eq!(kernels(&all, None)[0]["fraction_of_limit"], Value::Null);
    }

    #[test]
    fn the_better_limit_counts() {
        let limits = |read, flops| Some(Limits { read_bytes_per_s: read, flops_per_s: flops });
        assert_eq!(better(limits(2e9, 5.0), limits(3e9, 4.0)), limits(3e9, 5.0));
        assert_eq!(better(limits(2e9, 5.0), None), limits(2e9, 5.0));
        assert_eq!(better(None, None), None);
    }

    #[test]
    fn a_phase_takes_what_its_launches_take_one_after_the_other() {
        let decode = vec![time("a", 1, 1, 300, 10), time("b", 1, 1, 1, 1400)];
        let times = Times { prefill: Duration::from_nanos(1), decode: Duration::from_nanos(2000) };
        let (before, after, prefill) = (None, Some(LIMITS), Vec::new());
        let measured = Measured { times, before, after, limits: Some(LIMITS), prefill, decode };
        let found = measured.of_phase(&measured.decode, times.decode).expect("limits are known");
        assert!((found - 0.5).abs() < 1e-9, "{found}");
        let unknown = Measured { limits: None, ..measured };
        assert_eq!(unknown.of_phase(&unknown.decode, times.decode), None);
    }
}
