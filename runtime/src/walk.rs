//! The walk: every worker goes through the launch list and runs its share of each launch.

use crate::error::RuntimeError;
use crate::pool::{Pool, Worker};
use crate::profile::Clock;
use crate::program::{Bases, Count, Op, Program};
use std::ops::Range;
use std::sync::Mutex;

/// A work list whose length makes no sense.
#[derive(Clone, Copy, Debug)]
struct BadList {
    launch: u32,
    found: i64,
    limit: i64,
}

/// A bound program and what its workers report.
struct Walk<'a> {
    program: &'a Program,
    /// Of the program's.
    ops: Range<usize>,
    bases: &'a Bases<'a>,
    clock: Mutex<Option<&'a mut Clock>>,
    bad_list: Mutex<Option<BadList>>,
}

/// Runs a range of a bound program's ops on all workers.
///
/// # Errors
/// [`RuntimeError::WorkList`], [`RuntimeError::Poisoned`].
///
/// # Safety
/// The program's arguments point to memory that its kernels may read and write as they do, with
/// nobody else using it.
pub(crate) unsafe fn run(
    pool: &mut Pool,
    program: &Program,
    ops: Range<usize>,
    bases: &Bases<'_>,
    clock: Option<&mut Clock>,
) -> Result<(), RuntimeError> {
    let walk = Walk { program, ops, bases, clock: Mutex::new(clock), bad_list: Mutex::new(None) };
    // SAFETY: passed on to the caller.
    pool.run(&|worker| unsafe { walk.all(&worker) })?;
    let bad = walk.bad_list.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match bad {
        None => Ok(()),
        Some(BadList { launch, found, limit }) => {
            let origin = program.launches[launch as usize].origin.clone();
            Err(RuntimeError::WorkList { origin, found, limit })
        }
    }
}

impl Walk<'_> {
    /// One worker's part.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn all(&self, worker: &Worker<'_>) {
        // Worker 0 holds the lock through its walk; no other worker asks for it.
        let mut clock = (worker.index == 0).then(|| self.clock.lock().ok()).flatten();
        let mut clock = clock.as_mut().and_then(|clock| clock.as_deref_mut());
        for op in &self.program.ops[self.ops.clone()] {
            match *op {
                Op::Launch { kernel, args, count, launch } => {
                    if let Some(clock) = &mut clock {
                        clock.mark(Some(launch));
                    }
                    // SAFETY: the barrier before this launch made its list visible.
                    let total = unsafe { self.total(count, launch) };
                    let (begin, end) = worker.share(total);
                    if begin < end {
                        let args = self.program.args[args..].as_ptr();
                        // SAFETY: the arguments are bound, the scratch is this worker's.
                        unsafe { kernel(args, begin, end, worker.scratch) };
                    }
                }
                // SAFETY: `bind` checked that both sides have room.
                Op::Copy { args, bytes } => unsafe { self.copy(worker, args, bytes) },
                Op::Barrier => {
                    if worker.barrier.wait().is_err() {
                        return;
                    }
                    if let Some(clock) = &mut clock {
                        clock.mark(None);
                    }
                }
            }
        }
        if let Some(clock) = clock {
            clock.mark(None);
        }
    }

    /// Number of instances of a launch.
    ///
    /// # Safety
    /// What is written to the launch's list must have been written before the last barrier.
    unsafe fn total(&self, count: Count, launch: u32) -> i64 {
        let (args, each) = match count {
            Count::Dense(size) => return self.program.value(size),
            Count::List { args, each } => (args, self.program.value(each)),
        };
        // The first row states the number of rows after it; a row has at least one word.
        let limit = (self.program.room(args, self.bases) / 4) as i64 - 1;
        let list = self.program.args[args] as *const i32;
        let found = match limit {
            // SAFETY: the list has room for at least one word.
            0.. => i64::from(unsafe { list.read_unaligned() }),
            _ => -1,
        };
        if (0..=limit).contains(&found)
            && let Some(total) = found.checked_mul(each)
        {
            return total;
        }
        let mut bad = self.bad_list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        bad.get_or_insert(BadList { launch, found, limit });
        0
    }

    /// Copies this worker's share of the bytes.
    ///
    /// # Safety
    /// Both addresses have `bytes` bytes, which do not overlap.
    unsafe fn copy(&self, worker: &Worker<'_>, args: usize, bytes: usize) {
        let (from, to) = worker.share(self.program.value(bytes));
        let (source, target) = (self.program.args[args], self.program.args[args + 1]);
        // SAFETY: the share lies within the bytes.
        unsafe {
            let source = (source as *const u8).add(from as usize);
            let target = (target as *mut u8).add(from as usize);
            std::ptr::copy(source, target, (to - from) as usize);
        }
    }
}
