//! Work on several threads, or on as many of them as the system gives.

use std::panic;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Calls `work` on so many threads at once, the caller's among them; gives what each returned.
pub fn on_threads<T: Send>(threads: usize, work: &(dyn Fn() -> T + Sync)) -> Vec<T> {
    thread::scope(|scope| {
        // A thread that cannot be started leaves its share to the others.
        let started: Vec<_> = (1..threads)
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut all = vec![work()];
        // A panic of a thread goes on here.
        let join = |thread: thread::ScopedJoinHandle<'_, T>| {
            thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        };
        all.extend(started.into_iter().map(join));
        all
    })
}

/// Does `work` with each item, shared among so many threads; gives what came of each, in order.
pub fn share<I: Send, T: Send>(
    threads: usize,
    items: impl IntoIterator<Item = I, IntoIter: Send>,
    work: &(dyn Fn(I) -> T + Sync),
) -> Vec<T> {
    let items = Mutex::new(items.into_iter().enumerate());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let taken = || -> Vec<(usize, T)> {
        std::iter::from_fn(next).map(|(at, item)| (at, work(item))).collect()
    };
    let mut all: Vec<_> = on_threads(threads, &taken).into_iter().flatten().collect();
    all.sort_unstable_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_whoever_had_them() {
        for threads in [0, 1, 3] {
            let squares = share(threads, 0..100u64, &|i| {
                thread::sleep(std::time::Duration::from_micros(i * 37 % 50));
                i * i
            });
            assert_eq!(squares, (0..100).map(|i| i * i).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn a_panic_goes_on() {
        let fails = || share(2, 0..4, &|i| assert!(i < 3));
        assert!(panic::catch_unwind(fails).is_err());
    }
}
