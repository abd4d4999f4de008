//! Threads that walk launch lists. There is no dispatcher: every worker runs the same job and
//! takes its own share. Between jobs workers spin briefly, then sleep.

use crate::affinity;
use crate::barrier::Barrier;
use crate::error::RuntimeError;
use crate::memory::Region;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Most workers of a pool.
pub(crate) const MOST_WORKERS: usize = 1024;
/// Spins for the next job before a worker sleeps: some tens of microseconds, what a host needs to
/// prepare the next step of a small model.
const SPINS: u32 = 2000;

/// What a job is told about the worker that runs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker<'a> {
    /// Number of this worker.
    pub index: usize,
    /// Number of workers.
    pub count: usize,
    /// To be passed by all workers, or by none.
    pub barrier: &'a Barrier,
    /// This worker's scratch memory, 64-byte aligned.
    pub scratch: *mut u8,
}

impl Worker<'_> {
    /// This worker's contiguous share of `total >= 0` items.
    pub(crate) fn share(&self, total: i64) -> (i64, i64) {
        let count = self.count as i64;
        // floor(total * w / count) without the product, which may overflow.
        let at = |w: i64| (total / count) * w + (total % count) * w / count;
        (at(self.index as i64), at(self.index as i64 + 1))
    }
}

type Job<'a> = dyn Fn(Worker<'_>) + Sync + 'a;

/// Threads and their scratch memory.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    workers: usize,
    barrier: Barrier,
    scratch: Region,
    scratch_stride: usize,
    /// Number of the current job, for workers that spin.
    epoch: AtomicU64,
    state: Mutex<State>,
    begin: Condvar,
    end: Condvar,
}

#[derive(Default)]
struct State {
    epoch: u64,
    job: Option<JobPointer>,
    /// Workers that have not finished the current job.
    running: usize,
    stop: bool,
    panic: Option<String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("epoch", &self.epoch).field("running", &self.running).finish()
    }
}

/// A job without its lifetime.
#[derive(Clone, Copy)]
struct JobPointer(*const Job<'static>);

// SAFETY: the job is `Sync`, and `Pool::run` does not return before the last worker left it.
unsafe impl Send for JobPointer {}

impl Pool {
    /// Starts `workers` threads with `scratch` bytes each. A single worker is the calling thread.
    pub(crate) fn new(workers: usize, scratch: u64) -> Result<Pool, RuntimeError> {
        if workers == 0 || workers > MOST_WORKERS {
            return Err(RuntimeError::ThreadCount { found: workers, most: MOST_WORKERS });
        }
        // Whole pages, so that each worker's first touch places its memory near its core.
        let stride = scratch.checked_next_multiple_of(crate::memory::page_bytes() as u64);
        let total = stride.and_then(|stride| stride.checked_mul(workers as u64));
        let region = Region::new(total.unwrap_or(u64::MAX), "scratch")?;
        let shared = Arc::new(Shared {
            workers,
            barrier: Barrier::new(workers),
            scratch: region,
            // Fits: the region holds `workers` of it.
            scratch_stride: stride.unwrap_or(0) as usize,
            epoch: AtomicU64::new(0),
            state: Mutex::default(),
            begin: Condvar::new(),
            end: Condvar::new(),
        });
        let mut pool = Pool { shared, threads: Vec::new() };
        let cpus = affinity::allowed_cpus();
        for index in (0..workers).filter(|_| workers > 1) {
            let shared = Arc::clone(&pool.shared);
            // With fewer workers than CPUs the system places them: pinning two processes to the
            // same first CPUs would leave the others idle.
            let cpu = (workers >= cpus.len()).then(|| cpus.get(index % cpus.len().max(1)).copied());
            let body = move || {
                if let Some(cpu) = cpu.flatten() {
                    affinity::pin(cpu);
                }
                shared.serve(index);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(body);
            pool.threads
                .push(thread.map_err(|source| RuntimeError::Thread { worker: index, source })?);
        }
        Ok(pool)
    }

    pub(crate) fn workers(&self) -> usize {
        self.shared.workers
    }

    /// Runs `job` on every worker and returns when all have finished.
    ///
    /// # Errors
    /// [`RuntimeError::Poisoned`] when a worker panicked, in this job or an earlier one.
    pub(crate) fn run(&mut self, job: &Job<'_>) -> Result<(), RuntimeError> {
        let shared = &*self.shared;
        if let Some(message) = shared.lock().panic.clone() {
            return Err(RuntimeError::Poisoned { message });
        }
        if shared.workers == 1 {
            shared.perform(0, job);
        } else {
            // SAFETY: only the lifetime changes. The pointer is used by workers alone, and below
            // this function waits until the last of them has left the job.
            let job = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
            let mut state = shared.lock();
            state.job = Some(JobPointer(job));
            state.running = shared.workers;
            state.epoch += 1;
            shared.epoch.store(state.epoch, Ordering::Release);
            shared.begin.notify_all();
            while state.running > 0 {
                state = shared.end.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.job = None;
        }
        match shared.lock().panic.clone() {
            Some(message) => Err(RuntimeError::Poisoned { message }),
            None => Ok(()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stop = true;
            state.epoch += 1;
            self.shared.epoch.store(state.epoch, Ordering::Release);
            self.shared.begin.notify_all();
        }
        for thread in self.threads.drain(..) {
            // Panics inside of jobs were caught; there is nobody to tell of another.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The state is consistent whenever the lock is free, even after a panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's life.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            let Some((epoch, job)) = self.next_job(seen) else { return };
            seen = epoch;
            // SAFETY: `Pool::run` keeps the job alive until `running` is 0, below.
            self.perform(index, unsafe { &*job.0 });
            let mut state = self.lock();
            state.running -= 1;
            if state.running == 0 {
                self.end.notify_one();
            }
        }
    }

    /// Waits for a job after number `seen`; `None` when the pool is dropped.
    fn next_job(&self, seen: u64) -> Option<(u64, JobPointer)> {
        for _ in 0..SPINS {
            if self.epoch.load(Ordering::Acquire) != seen {
                break;
            }
            std::hint::spin_loop();
        }
        let mut state = self.lock();
        while state.epoch == seen {
            state = self.begin.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let job = state.job.filter(|_| !state.stop)?;
        Some((state.epoch, job))
    }

    /// Runs the job as worker `index`; a panic poisons the pool.
    fn perform(&self, index: usize, job: &Job<'_>) {
        // SAFETY: the region holds one stride for each worker.
        let scratch = unsafe { self.scratch.as_ptr().add(index * self.scratch_stride) };
        let worker = Worker { index, count: self.workers, barrier: &self.barrier, scratch };
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| job(worker)));
        if let Err(panic) = result {
            self.barrier.break_up();
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            self.lock().panic.get_or_insert(message.unwrap_or_else(|| "no message".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn shares_cover_everything_once() {
        let barrier = Barrier::new(1);
        for count in [1, 2, 3, 7, 64] {
            for total in [0, 1, 2, 5, 63, 64, 1000, i64::MAX] {
                let mut end = 0;
                for index in 0..count {
                    let worker =
                        Worker { index, count, barrier: &barrier, scratch: std::ptr::null_mut() };
                    let (from, to) = worker.share(total);
                    assert_eq!(from, end);
                    assert!(to - from - 1 <= total / count as i64);
                    end = to;
                }
                assert_eq!(end, total);
            }
        }
    }

    #[test]
    fn every_worker_runs_every_job() {
        for workers in [1, 2, 3] {
            let mut pool = Pool::new(workers, 100).expect("threads start");
            let sum = AtomicUsize::new(0);
            for round in 1..200 {
                // Long enough now and then for the workers to fall asleep.
                if round % 50 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                let job = |worker: Worker<'_>| {
                    sum.fetch_add(1 + worker.index, Ordering::Relaxed);
                    worker.barrier.wait().expect("no worker is lost");
                    // SAFETY: 100 bytes of scratch belong to this worker alone.
                    unsafe { worker.scratch.write(worker.index as u8) };
                };
                pool.run(&job).expect("no worker panics");
                assert_eq!(sum.load(Ordering::Relaxed), round * workers * (workers + 1) / 2);
            }
        }
    }

    #[test]
    fn panics_poison_the_pool() {
        for workers in [1, 3] {
            let mut pool = Pool::new(workers, 0).expect("threads start");
            let job = |worker: Worker<'_>| {
                assert!(worker.index + 1 < worker.count, "the last worker fails");
                // The others would wait for it in vain.
                let _ = worker.barrier.wait();
            };
            let error = pool.run(&job).expect_err("a worker panics");
            assert_eq!(error.code(), "E0509");
            assert!(error.to_string().contains("the last worker fails"), "{error}");
            assert_eq!(pool.run(&|_| {}).map_err(|e| e.code()), Err("E0509"));
        }
    }

    #[test]
    fn absurd_counts_are_refused() {
        for workers in [0, MOST_WORKERS + 1] {
            assert_eq!(Pool::new(workers, 0).map(|_| ()).map_err(|e| e.code()), Err("E0508"));
        }
        assert_eq!(Pool::new(2, u64::MAX - 5).map(|_| ()).map_err(|e| e.code()), Err("E0507"));
    }
}
