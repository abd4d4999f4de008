//! This machine's limits, measured with kernels of the artifact.

use crate::error::RuntimeError;
use crate::load::KernelFn;
use crate::memory::Region;
use crate::model::Model;
use crate::pool::{Pool, Worker};
use artifact::plan::Probe;
use std::time::{Duration, Instant};

/// Probe of memory bandwidth.
const READ: &str = "read";
/// Probe of arithmetic.
const FLOPS: &str = "flops";
/// Least bytes for a bandwidth that caches have no part in.
const LEAST_READ: u64 = 256 << 20;
/// Most bytes read per measurement.
const MOST_READ: u64 = 1 << 30;
/// Least duration of a measurement of arithmetic.
const LEAST_TIME: Duration = Duration::from_millis(20);
/// Measurements, of which the median counts.
const ROUNDS: usize = 5;

/// What the machine can do with all workers of a session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes per second that can be read from memory.
    pub read_bytes_per_s: f64,
    /// Floating-point operations per second.
    pub flops_per_s: f64,
}

impl Limits {
    /// Seconds that this work takes at least: memory and arithmetic run side by side, so that the
    /// slower of both decides.
    pub fn least_seconds(&self, bytes: u64, flops: u64) -> f64 {
        (bytes as f64 / self.read_bytes_per_s).max(flops as f64 / self.flops_per_s)
    }
}

/// A probe with its memory.
struct Bench<'a> {
    probe: &'a Probe,
    kernel: KernelFn,
    /// First byte of the input's windows, one behind the other, each of the probe's size.
    input: *const u8,
    windows: u64,
    output: &'a Region,
}

/// Runs both probes; `None` where the plan lacks one.
pub(crate) fn measure(model: &Model, pool: &mut Pool) -> Result<Option<Limits>, RuntimeError> {
    let find = |name| model.plan().probes.iter().find(|probe| probe.name == name);
    let Some((reading, computing)) = find(READ).zip(find(FLOPS)) else { return Ok(None) };
    let read_bytes_per_s = read(model, reading, pool)?;
    let flops_per_s = flops(model, computing, pool)?;
    Ok(Some(Limits { read_bytes_per_s, flops_per_s }))
}

/// Bytes per second over the mapped weights, or over a buffer where they are too few.
fn read(model: &Model, probe: &Probe, pool: &mut Pool) -> Result<f64, RuntimeError> {
    let weights = model.weights();
    let least = LEAST_READ.max(probe.bytes);
    let mut buffer = Region::new(0, "probe")?;
    let (input, bytes) = if weights.len() as u64 >= least {
        (weights.as_ptr(), weights.len() as u64)
    } else {
        let bytes = least.next_multiple_of(probe.bytes);
        buffer = Region::new(bytes, "probe")?;
        // Untouched pages are all one page of zeros, which would stay in the cache.
        buffer.bytes_mut().fill(1);
        (buffer.as_ptr().cast_const(), bytes)
    };
    let output = Region::new(probe.out_bytes, "probe")?;
    let windows = (bytes.min(MOST_READ) / probe.bytes).max(1);
    let kernel = model.kernels()[probe.kernel as usize];
    let bench = Bench { probe, kernel, input, windows, output: &output };
    // The first pass brings the weights into memory and starts the clocks of the cores.
    bench.time(pool, 1)?;
    let seconds = median(|| bench.time(pool, 1))?;
    drop(buffer);
    Ok((windows * probe.bytes) as f64 / seconds)
}

/// Operations per second.
fn flops(model: &Model, probe: &Probe, pool: &mut Pool) -> Result<f64, RuntimeError> {
    let input = Region::new(probe.bytes, "probe")?;
    let output = Region::new(probe.out_bytes, "probe")?;
    let kernel = model.kernels()[probe.kernel as usize];
    let (first, windows) = (input.as_ptr().cast_const(), 1);
    let bench = Bench { probe, kernel, input: first, windows, output: &output };
    let mut passes = 1;
    while bench.time(pool, passes)? < LEAST_TIME.as_secs_f64() && passes < 1 << 40 {
        passes *= 2;
    }
    let seconds = median(|| bench.time(pool, passes))?;
    Ok(probe.flops as f64 * passes as f64 / seconds)
}

fn median(mut time: impl FnMut() -> Result<f64, RuntimeError>) -> Result<f64, RuntimeError> {
    let times: Result<Vec<f64>, _> = (0..ROUNDS).map(|_| time()).collect();
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    // A clock too coarse for the work must not give an infinite limit.
    Ok(times[ROUNDS / 2].max(1e-9))
}

// SAFETY: workers only read the input and write their own instances' part of the output.
unsafe impl Sync for Bench<'_> {}

impl Bench<'_> {
    /// Seconds that `passes` passes over all windows take.
    fn time(&self, pool: &mut Pool, passes: u64) -> Result<f64, RuntimeError> {
        let start = Instant::now();
        pool.run(&|worker| self.pass(&worker, passes))?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn pass(&self, worker: &Worker<'_>, passes: u64) {
        let instances = i64::try_from(self.probe.instances).unwrap_or(i64::MAX);
        let (begin, end) = worker.share(instances);
        if begin == end {
            return;
        }
        for _ in 0..passes {
            for window in 0..self.windows {
                // The product is below the input's length.
                let input = self.input.wrapping_add((window * self.probe.bytes) as usize);
                let args = [input as u64, self.output.as_ptr() as u64];
                // SAFETY: both memories have the sizes that the probe states.
                unsafe { (self.kernel)(args.as_ptr(), begin, end, worker.scratch) };
            }
        }
    }
}
