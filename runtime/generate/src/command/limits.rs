//! Limits that the system sets to a process: met with a diagnostic and an exit code, not with a
//! signal.

use super::interrupt;
use crate::confined::count;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Exit code of a process that met a limit of the machine.
const LIMIT: i32 = 3;
/// The number of no thread.
const NOBODY: usize = 0;

/// Has a write beyond the limit on files fail, as it does on a full disk, in place of ending the
/// process.
pub fn meet() {
    // SAFETY: to ignore a signal needs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// The system's allocator. It counts what confined work takes. Where the system has no memory, the
/// process removes what it has begun to write and ends with a diagnostic.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: all is asked of the system's allocator, with the same arguments; what fails does not
// return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        had(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: as above.
        had(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(signed(bytes) - signed(layout.size()));
        // SAFETY: as above.
        had(unsafe { System.realloc(memory, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Sizes of layouts fit.
fn signed(bytes: usize) -> isize {
    bytes.cast_signed()
}

fn had(memory: *mut u8, bytes: usize) -> *mut u8 {
    if memory.is_null() {
        end(Some(bytes));
    }
    memory
}

/// Says that there is no memory, in the form of every diagnostic, and ends the process. `bytes` is
/// what was asked for, where that is known.
#[cold]
pub fn end(bytes: Option<usize>) -> ! {
    static ENDING: AtomicUsize = AtomicUsize::new(NOBODY);
    // SAFETY: asks which thread this is.
    let own = unsafe { libc::pthread_self() } as usize;
    let first = ENDING.compare_exchange(NOBODY, own, Ordering::SeqCst, Ordering::SeqCst);
    while first.is_err_and(|other| other != own) {
        // SAFETY: waits for a signal, or for the end that the other thread has begun.
        unsafe { libc::pause() };
    }
    // Who lacks memory for this, too, ends at once.
    if first.is_ok() {
        let mut text = [0; 256];
        let mut rest = &mut text[..];
        let _ = match bytes {
            Some(bytes) => write!(rest, "E0507\n\n  x cannot have {bytes} bytes of memory"),
            None => write!(rest, "E0507\n\n  x cannot have more memory"),
        };
        let _ = write!(
            rest,
            ": the system or a limit refuses it\n  \
             help: end other programs, raise the limit (`ulimit -v`), or use fewer --threads\n"
        );
        let left = rest.len();
        let said = &text[..text.len() - left];
        // SAFETY: writes from memory of the length given.
        unsafe { libc::write(libc::STDERR_FILENO, said.as_ptr().cast(), said.len()) };
        interrupt::tidy_up();
    }
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(LIMIT) }
}
