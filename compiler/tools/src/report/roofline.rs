//! Kernels under the machine's limits: operations per byte beside operations per second, both
//! logarithmic. No kernel can lie above what memory or arithmetic lets it do.

use super::rate;
use compiler::explain::svg::Scale;
use runtime::{KernelTime, Limits};
use serde::Serialize;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 48.0;
/// Radius of a kernel that takes no time, and by how much one that takes all of it is wider.
const RADIUS: [f64; 2] = [3.0, 22.0];

/// The picture's numbers, for a template that draws them.
#[derive(Clone, Debug, Serialize)]
pub struct Roofline {
    /// Of the picture.
    pub width: f64,
    /// Of the picture.
    pub height: f64,
    /// Left, right, top and bottom of the plot.
    pub frame: [f64; 4],
    /// Points of the line that is the limit.
    pub roof: String,
    /// Operations per byte.
    pub across: Vec<Tick>,
    /// Operations per second.
    pub up: Vec<Tick>,
    /// Kernels that compute products; those that take longest first, so that none is hidden.
    pub kernels: Vec<Dot>,
}

/// A line of the grid.
#[derive(Clone, Debug, Serialize)]
pub struct Tick {
    /// Where it lies.
    pub at: f64,
    /// Its value.
    pub label: String,
}

/// A kernel.
#[derive(Clone, Debug, Serialize)]
pub struct Dot {
    /// Where it lies.
    pub x: f64,
    /// Where it lies.
    pub y: f64,
    /// Its area grows with its share of the time.
    pub r: f64,
    /// What is said of it.
    pub title: String,
}

impl Roofline {
    /// Places kernels under limits.
    pub fn new(limits: Limits, kernels: &[KernelTime]) -> Roofline {
        let total: u64 = kernels.iter().map(|k| k.nanoseconds).sum();
        let drawn = |k: &&KernelTime| k.flops > 0 && k.bytes > 0 && k.nanoseconds > 0;
        let mut drawn: Vec<&KernelTime> = kernels.iter().filter(drawn).collect();
        drawn.sort_by_key(|k| std::cmp::Reverse(k.nanoseconds));
        let per_byte = |k: &KernelTime| k.flops as f64 / k.bytes as f64;
        let per_second = |k: &KernelTime| k.flops as f64 / k.nanoseconds as f64 * 1e9;
        let ridge = limits.flops_per_s / limits.read_bytes_per_s;
        let x = Scale {
            values: decades(drawn.iter().map(|k| per_byte(k)).chain([ridge / 10.0, ridge * 10.0])),
            places: [LEFT, WIDTH - RIGHT],
        };
        let y = Scale {
            values: decades(drawn.iter().map(|k| per_second(k)).chain([limits.flops_per_s])),
            places: [HEIGHT - BOTTOM, TOP],
        };
        // The slope leaves the plot at its left or at its lower edge.
        let first = x.values[0].max(y.values[0] / limits.read_bytes_per_s);
        let slope = [first, ridge, x.values[1]];
        let roof = slope.map(|at| {
            let most = (at * limits.read_bytes_per_s).min(limits.flops_per_s);
            format!("{:.1},{:.1}", x.at(at), y.at(most))
        });
        let dot = |k: &KernelTime| {
            let share = k.nanoseconds as f64 / total.max(1) as f64;
            let (intensity, speed) = (per_byte(k), per_second(k));
            let fraction = k.least_nanoseconds / k.nanoseconds as f64;
            Dot {
                x: x.at(intensity),
                y: y.at(speed),
                r: RADIUS[0] + RADIUS[1] * share.sqrt(),
                title: format!(
                    "{}: {} at {intensity:.2} FLOP/B, {:.1} % of the time, {:.0} % of the limit",
                    k.name,
                    rate(speed, "FLOP"),
                    100.0 * share,
                    100.0 * fraction
                ),
            }
        };
        Roofline {
            width: WIDTH,
            height: HEIGHT,
            frame: [x.places[0], x.places[1], y.places[1], y.places[0]],
            roof: roof.join(" "),
            across: ticks(&x, |value| value.to_string()),
            up: ticks(&y, |value| rate(value, "FLOP")),
            kernels: drawn.into_iter().map(dot).collect(),
        }
    }
}

/// Powers of ten around values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> [f64; 2] {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    [10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil())]
}

fn ticks(scale: &Scale, label: impl Fn(f64) -> String) -> Vec<Tick> {
    let [first, last] = scale.values.map(|value| value.log10().round() as i32);
    let tick = |power: i32| {
        let value = 10f64.powi(power);
        Tick { at: scale.at(value), label: label(value) }
    };
    (first..=last).map(tick).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { read_bytes_per_s: 4e10, flops_per_s: 2e11 };

    /// A kernel that takes so many times what it would at the limits.
    fn kernel(name: &str, bytes: u64, flops: u64, slower: f64) -> KernelTime {
        let least_nanoseconds = LIMITS.least_seconds(bytes, flops) * 1e9;
        let nanoseconds = (least_nanoseconds * slower) as u64;
        let (name, family) = (name.to_string(), String::new());
        KernelTime { name, family, launches: 1, nanoseconds, bytes, flops, least_nanoseconds }
    }

    #[test]
    fn kernels_lie_below_the_roof_by_what_they_lack() {
        let kernels = [
            kernel("reads", 1 << 30, 1 << 28, 1.0),
            kernel("computes", 1 << 20, 1 << 34, 1.0),
            kernel("half", 1 << 30, 1 << 28, 2.0),
            kernel("copies", 1 << 20, 0, 1.0),
        ];
        let drawn = Roofline::new(LIMITS, &kernels);
        let of = |name: &str| drawn.kernels.iter().find(|d| d.title.starts_with(name));
        let points: Vec<[f64; 2]> = drawn
            .roof
            .split(' ')
            .map(|point| {
                let (x, y) = point.split_once(',').expect("two numbers");
                [x, y].map(|n| n.parse().expect("a number"))
            })
            .collect();
        let [start, ridge, _] = points[..] else { panic!("three points") };
        // On the slope: what reads at the limit; on the flat: what computes at it.
        let slope = (ridge[1] - start[1]) / (ridge[0] - start[0]);
        let roof_at = |x: f64| start[1] + slope * (x - start[0]);
        let reads = of("reads").expect("it has products");
        assert!((reads.y - roof_at(reads.x)).abs() < 0.2, "{reads:?} {points:?}");
        let computes = of("computes").expect("it has products");
        assert!(computes.x > ridge[0] && (computes.y - ridge[1]).abs() < 0.2, "{computes:?}");
        let half = of("half").expect("it has products");
        assert!(half.y > reads.y + 1.0 && (half.x - reads.x).abs() < 1e-9, "{half:?}");
        assert!(of("copies").is_none(), "nothing is computed");
        for dot in &drawn.kernels {
            let [left, right, top, bottom] = drawn.frame;
            assert!((left..=right).contains(&dot.x) && (top..=bottom).contains(&dot.y), "{dot:?}");
        }
    }

    #[test]
    fn a_phase_without_products_has_a_roof() {
        let drawn = Roofline::new(LIMITS, &[]);
        assert!(drawn.kernels.is_empty() && !drawn.roof.contains("NaN"), "{}", drawn.roof);
    }
}
