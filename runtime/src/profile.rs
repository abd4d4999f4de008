//! Time per kernel, as worker 0 sees it, beside the work that it did.

use crate::probe::Limits;
use std::time::Instant;

/// What one kernel took, over all steps since profiling began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelTime {
    /// Symbol of the kernel.
    pub name: String,
    /// `family{parameters}`.
    pub family: String,
    /// Launches.
    pub launches: u64,
    /// Time from a launch to the next launch or past the next barrier.
    pub nanoseconds: u64,
    /// Bytes that the launches had to move, see [`artifact::plan::Work`].
    pub bytes: u64,
    /// Floating-point operations that the launches had to do.
    pub flops: u64,
    /// Time that the launches would have taken at the machine's limits, each bound by the slower
    /// of memory and arithmetic; 0 where the limits are unknown.
    pub least_nanoseconds: f64,
}

/// Times of all kernels, by position in the plan, and what they are compared with.
#[derive(Debug)]
pub(crate) struct Profile {
    pub limits: Option<Limits>,
    pub kernels: Vec<KernelTime>,
}

impl Profile {
    /// Counts one launch of a kernel.
    pub(crate) fn add(&mut self, kernel: u32, nanoseconds: u64, (bytes, flops): (u64, u64)) {
        let least = self.limits.map_or(0.0, |limits| limits.least_seconds(bytes, flops));
        let kernel = &mut self.kernels[kernel as usize];
        kernel.launches += 1;
        kernel.nanoseconds += nanoseconds;
        // Both come from a file: a sum beyond counting must not end the program.
        kernel.bytes = kernel.bytes.saturating_add(bytes);
        kernel.flops = kernel.flops.saturating_add(flops);
        kernel.least_nanoseconds += least * 1e9;
    }
}

/// Stopwatch of one step: time goes to the launch that was marked last.
#[derive(Debug)]
pub(crate) struct Clock {
    last: Instant,
    launch: Option<u32>,
    /// By launch.
    nanoseconds: Vec<u64>,
}

impl Clock {
    pub(crate) fn new(launches: usize) -> Clock {
        Clock { last: Instant::now(), launch: None, nanoseconds: vec![0; launches] }
    }

    /// From now on time belongs to `launch`.
    pub(crate) fn mark(&mut self, launch: Option<u32>) {
        let now = Instant::now();
        if let Some(previous) = self.launch {
            let spent = now.duration_since(self.last).as_nanos();
            self.nanoseconds[previous as usize] += u64::try_from(spent).unwrap_or(u64::MAX);
        }
        (self.last, self.launch) = (now, launch);
    }

    pub(crate) fn nanoseconds(&self) -> &[u64] {
        &self.nanoseconds
    }
}
