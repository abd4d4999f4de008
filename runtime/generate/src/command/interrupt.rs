//! Ctrl-C, and other signals that ask a process to end: the first stops what is being done, the
//! second ends the process.

use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The state of Ctrl-C and the like.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    /// Whether the next Ctrl-C ends the process.
    deadly: Arc<AtomicBool>,
    /// The last signal that came, or 0.
    last: Arc<AtomicUsize>,
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
    pub fn install() -> io::Result<Self> {
        Self::install_for(&[SIGINT])
    }

    /// The same for any signals.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn install_for(signals: &[i32]) -> io::Result<Self> {
        let this = Self::detached();
        for &signal in signals {
            // In this order: the handler that ends the process sees the flag as it was before the
            // signal.
            flag::register_conditional_shutdown(signal, status(signal), Arc::clone(&this.deadly))?;
            flag::register(signal, Arc::clone(&this.deadly))?;
            flag::register_usize(signal, Arc::clone(&this.last), signal as usize)?;
            flag::register(signal, Arc::clone(&this.stop))?;
        }
        Ok(this)
    }

    /// Exit status of a process that ends because it was asked to.
    pub fn status(&self) -> i32 {
        match self.last.load(Ordering::Relaxed) {
            0 => status(SIGINT),
            // Signals are small numbers.
            signal => status(signal as i32),
        }
    }

    /// Flags that no signal sets.
    pub fn detached() -> Self {
        Interrupt {
            stop: Arc::new(AtomicBool::new(false)),
            deadly: Arc::new(AtomicBool::new(true)),
            last: Arc::new(AtomicUsize::new(0)),
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
