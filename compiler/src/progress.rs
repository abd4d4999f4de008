//! How long work shows itself: phases with a size, told to whoever watches.

/// Watches a compilation. Calls come in order, from one thread.
pub trait Progress {
    /// A phase begins; `total` units of work, 0 if it has no measure.
    fn begin(&mut self, phase: &str, total: u64);

    /// So many units of the present phase are done.
    fn done(&mut self, units: u64);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _phase: &str, _total: u64) {}

    fn done(&mut self, _units: u64) {}
}
