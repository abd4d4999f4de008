//! Ctrl-C: the first stops what is being done, the second ends the process. And what is tidied up
//! before a process ends because it was asked to.

use super::file_error;
use crate::error::{GenerateError, Result};
use runtime::unfinished;
use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;

/// What files are written towards, for whoever ends this process.
static WRITTEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The state of Ctrl-C.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    /// Whether the next Ctrl-C ends the process.
    deadly: Arc<AtomicBool>,
}

/// Exit status of a process that a signal ended, as shells report it.
fn status(signal: i32) -> i32 {
    128 + signal
}

impl Interrupt {
    /// Takes over Ctrl-C for this process. Until [`Interrupt::generating`] it still ends it.
    ///
    /// # Errors
    /// If the system refuses the handler.
    pub fn install() -> Result<Self> {
        let this = Self::detached();
        // In this order: the handler that ends the process sees the flag as it was before the
        // signal.
        flag::register_conditional_shutdown(SIGINT, status(SIGINT), Arc::clone(&this.deadly))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&this.deadly)))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&this.stop)))
            .map_err(refused)?;
        Ok(this)
    }

    /// Flags that no signal sets.
    pub fn detached() -> Self {
        Interrupt {
            stop: Arc::new(AtomicBool::new(false)),
            deadly: Arc::new(AtomicBool::new(true)),
        }
    }

    /// From here on Ctrl-C asks to stop; gives the flag that it sets.
    pub fn generating(&self) -> Arc<AtomicBool> {
        self.stop.store(false, Ordering::Relaxed);
        self.deadly.store(false, Ordering::Relaxed);
        Arc::clone(&self.stop)
    }

    /// From here on Ctrl-C ends the process again.
    pub fn idle(&self) {
        self.deadly.store(true, Ordering::Relaxed);
    }
}

fn refused(source: io::Error) -> GenerateError {
    file_error("handle", Path::new("signals"), source)
}

/// From here on, where the process is asked to end, it first removes what it has begun to write
/// towards `path` ([`unfinished::remove`]). What others left there that were killed is removed now.
///
/// # Errors
/// If the system refuses the handlers or a thread.
pub fn tidy_up_at_end(path: &Path) -> Result<()> {
    let mut signals = Signals::new(ending_signals()).map_err(refused)?;
    unfinished::remove_abandoned(path);
    let path = path.to_path_buf();
    WRITTEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(path);
    let tidy = move || {
        if let Some(signal) = signals.forever().next() {
            tidy_up();
            low_level::exit(status(signal));
        }
    };
    thread::Builder::new().spawn(tidy).map_err(refused)?;
    Ok(())
}

/// Removes what this process has begun to write towards the paths of [`tidy_up_at_end`]. For one
/// that is about to end, from wherever it is: nothing is waited for.
pub fn tidy_up() {
    let written = match WRITTEN.try_lock() {
        Ok(written) => written,
        Err(TryLockError::Poisoned(written)) => written.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    written.iter().for_each(|path| unfinished::remove(path));
}

/// Signals that ask this process to end: Ctrl-C, the request to terminate and the loss of the
/// terminal, but for those that whoever started it had it ignore (`nohup`).
fn ending_signals() -> Vec<i32> {
    let all = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
    all.into_iter().filter(|signal| !is_ignored(*signal)).collect()
}

fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only asks, and the struct is written before it is
    // read.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
