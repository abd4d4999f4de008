//! How many bytes of weights were hashed: none should be twice.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count of hashed bytes, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Hashed(AtomicU64);

impl Hashed {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Does `work` with a progress, which it tells the bytes that it has hashed so far and their
    /// total: counts them, and passes both on.
    pub(crate) fn count<T>(
        &self,
        progress: &(dyn Fn(u64, u64) + Sync),
        work: impl FnOnce(&(dyn Fn(u64, u64) + Sync)) -> T,
    ) -> T {
        let most = AtomicU64::new(0);
        let done = work(&|done, total| {
            most.fetch_max(done, Ordering::Relaxed);
            progress(done, total);
        });
        self.0.fetch_add(most.into_inner(), Ordering::Relaxed);
        done
    }
}
