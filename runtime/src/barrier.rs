//! A barrier that spins: launches of a decode step last microseconds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Spins before the thread gives its core away at each further turn: some tens of microseconds,
/// longer than a balanced launch, shorter than a time slice of another process.
const SPINS: u32 = 4096;

/// A cache line of its own, so that waiting threads do not disturb the counter. Two lines, since
/// adjacent lines are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

/// All workers have to arrive before any goes on; what each did before is visible to all.
#[derive(Debug)]
pub(crate) struct Barrier {
    workers: usize,
    arrived: Line<AtomicUsize>,
    turn: Line<AtomicUsize>,
    broken: AtomicBool,
}

/// Some worker will never arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

impl Barrier {
    pub(crate) fn new(workers: usize) -> Barrier {
        Barrier {
            workers,
            arrived: Line::default(),
            turn: Line::default(),
            broken: AtomicBool::new(false),
        }
    }

    /// Waits for all others.
    pub(crate) fn wait(&self) -> Result<(), Broken> {
        if self.workers == 1 {
            return Ok(());
        }
        // Cannot change before this worker arrives.
        let turn = self.turn.0.load(Ordering::Relaxed);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.workers {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.turn.0.store(turn.wrapping_add(1), Ordering::Release);
            return Ok(());
        }
        let mut spins = 0;
        while self.turn.0.load(Ordering::Acquire) == turn {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else if self.broken.load(Ordering::Relaxed) {
                return Err(Broken);
            } else {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// Releases all who wait, now and later: a worker is lost.
    pub(crate) fn break_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_worker_runs_ahead() {
        for workers in [1, 2, 5] {
            let barrier = Barrier::new(workers);
            let sum = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(|| {
                        for round in 0..500 {
                            sum.fetch_add(1, Ordering::Relaxed);
                            assert_eq!(barrier.wait(), Ok(()));
                            assert_eq!(sum.load(Ordering::Relaxed), workers * (round + 1));
                            assert_eq!(barrier.wait(), Ok(()));
                        }
                    });
                }
            });
        }
    }

    #[test]
    fn a_lost_worker_releases_the_others() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| barrier.wait());
            barrier.break_up();
            assert_eq!(waiting.join().ok(), Some(Err(Broken)));
        });
    }
}
