//! Work that may ask for more than there is, or come to no end: on a thread of its own, with limits.

use std::cell::Cell;
use std::panic::resume_unwind;
use std::ptr::null;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, panicking, sleep};
use std::time::Duration;

/// What work may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of stack, used as far as they are needed.
    pub stack: usize,
    /// Bytes of memory at one time, beside the stack. Counted by
    /// [`Allocator`](crate::command::limits::Allocator) alone.
    pub memory: usize,
    /// Time from beginning to end.
    pub time: Duration,
}

/// The limit that work met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    Memory,
    Time,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    Done,
    Beyond(Beyond),
}

/// What the thread that works and the one that waits for it tell each other.
struct Meter {
    limit: isize,
    state: Mutex<State>,
    changed: Condvar,
}

thread_local! {
    /// The meter of this thread while it does confined work, else null.
    static METER: Cell<*const Meter> = const { Cell::new(null()) };
    /// Bytes that this thread holds since that work began.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

impl Meter {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, how: State) {
        let mut state = self.state();
        if *state == State::Working {
            *state = how;
        }
        self.changed.notify_all();
    }
}

/// Counts bytes that this thread takes, or gives back where they are negative. Where they are more
/// than it may have, or its time is over, it sleeps for good: it may be amid anything, and neither
/// fails nor unwinds from here.
pub(crate) fn count(bytes: isize) {
    let meter = METER.get();
    // Who panics is at the end, and tells of it with a lock that others may want.
    if meter.is_null() || panicking() {
        return;
    }
    let held = HELD.get().saturating_add(bytes);
    HELD.set(held);
    // SAFETY: `Measured` sets the pointer to what it keeps alive, and to null before it lets go.
    let meter = unsafe { &*meter };
    if held > meter.limit {
        meter.end(State::Beyond(Beyond::Memory));
    }
    while *meter.state() != State::Working {
        sleep(Duration::MAX);
    }
}

/// While it lives, what its thread allocates counts.
struct Measured(Arc<Meter>);

impl Measured {
    fn begin(meter: Arc<Meter>) -> Self {
        HELD.set(0);
        METER.set(Arc::as_ptr(&meter));
        Measured(meter)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        METER.set(null());
        self.0.end(State::Done);
    }
}

/// Does the work within limits; what it panics with goes on here. Beyond a limit its thread is left
/// behind with what it holds, asleep from its next request for memory on. Where the system gives no
/// thread with such a stack, the work is done here, without limits.
///
/// # Errors
/// The limit that it met.
pub(crate) fn run<T: Send + 'static>(
    limits: Limits,
    work: impl Fn() -> T + Clone + Send + 'static,
) -> Result<T, Beyond> {
    let meter = Arc::new(Meter {
        limit: limits.memory.try_into().unwrap_or(isize::MAX),
        state: Mutex::new(State::Working),
        changed: Condvar::new(),
    });
    let there = (Arc::clone(&meter), work.clone());
    let started =
        Builder::new().name("confined".into()).stack_size(limits.stack).spawn(move || {
            let (meter, work) = there;
            let _measured = Measured::begin(meter);
            work()
        });
    let Ok(thread) = started else { return Ok(work()) };
    let working = |state: &mut State| *state == State::Working;
    let waited = meter.changed.wait_timeout_while(meter.state(), limits.time, working);
    let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
    match *state {
        State::Done => {
            drop(state);
            thread.join().map_err(|panic| resume_unwind(panic))
        }
        State::Beyond(limit) => Err(limit),
        State::Working => {
            *state = State::Beyond(Beyond::Time);
            Err(Beyond::Time)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::limits::Allocator;
    use std::panic::catch_unwind;

    #[global_allocator]
    static ALLOCATOR: Allocator = Allocator;

    const LIMITS: Limits =
        Limits { stack: 1 << 20, memory: 1 << 20, time: Duration::from_secs(60) };

    #[test]
    fn work_within_its_limits_is_done() {
        let many = || (0..1000).map(|i| vec![0u8; 1 << 19].len() + i).sum::<usize>();
        assert_eq!(run(LIMITS, many), Ok(1000 * (1 << 19) + 499_500));
    }

    #[test]
    fn too_much_memory_is_noticed_before_it_is_taken() {
        for bytes in [(1 << 20) + 1, 1 << 50] {
            assert_eq!(run(LIMITS, move || vec![0u8; bytes].len()), Err(Beyond::Memory));
        }
        let grows = || {
            let mut all = vec![];
            while all.len() < 1 << 24 {
                all.push(1u64);
            }
            all.len()
        };
        assert_eq!(run(LIMITS, grows), Err(Beyond::Memory));
    }

    #[test]
    fn time_is_limited_and_what_goes_on_is_put_to_sleep() {
        let (alive, dead) = std::sync::mpsc::channel();
        let limits = Limits { time: Duration::from_millis(50), ..LIMITS };
        let endless = move || loop {
            // Fails when nobody listens any more; an allocation at each turn.
            if alive.send(vec![0u8; 1]).is_err() {
                return;
            }
            sleep(Duration::from_millis(1));
        };
        assert_eq!(run(limits, endless), Err(Beyond::Time));
        while dead.recv_timeout(Duration::from_secs(1)).is_ok() {}
        assert!(dead.try_recv().is_err());
    }

    #[test]
    fn panics_go_on() {
        assert!(catch_unwind(|| run(LIMITS, || panic!("as it should"))).is_err());
    }
}
