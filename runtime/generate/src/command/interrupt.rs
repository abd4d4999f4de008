//! Ctrl-C: the first stops what is being generated, the second ends the process.

use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit status of a process that an interrupt ended, as shells report it.
const STATUS: i32 = 128 + SIGINT;

/// The state of Ctrl-C.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
    /// Whether the next Ctrl-C ends the process.
    deadly: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C for this process. Until [`Interrupt::generating`] it still ends it.
    ///
    /// # Errors
    /// If the system refuses the handler.
    pub fn install() -> io::Result<Self> {
        let this = Self::detached();
        // In this order: the handler that ends the process sees the flag as it was before the
        // signal.
        flag::register_conditional_shutdown(SIGINT, STATUS, Arc::clone(&this.deadly))?;
        flag::register(SIGINT, Arc::clone(&this.deadly))?;
        flag::register(SIGINT, Arc::clone(&this.stop))?;
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
