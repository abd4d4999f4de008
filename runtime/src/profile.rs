//! Time per kernel, as worker 0 sees it.

use std::time::Instant;

/// What one kernel took, over all steps since profiling began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelTime {
    /// Symbol of the kernel.
    pub name: String,
    /// `family{parameters}`.
    pub family: String,
    /// Launches.
    pub launches: u64,
    /// Time from a launch to the next launch or past the next barrier.
    pub nanoseconds: u64,
    /// Sizes of all memory handed to the launches: whole weights and buffers, once per launch.
    /// An upper bound where a kernel reads only a part, such as chosen experts.
    pub bytes: u64,
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
