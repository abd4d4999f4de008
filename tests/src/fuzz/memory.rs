//! An allocator that counts, so that an input that asks for absurd amounts is noticed.

use generate::command::limits::Allocator;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

/// Bytes that a thread may hold; beyond, the process ends before the machine does.
const CEILING: isize = 6 << 30;

/// The allocator of the commands, with a count for each thread.
pub struct Counting;

thread_local! {
    /// Bytes that this thread holds since [`begin`], and the most that it held.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn note(bytes: isize) {
    let change = |held: &Cell<(isize, isize)>| {
        let (now, most) = held.get();
        let now = now + bytes;
        held.set((now, most.max(now)));
        now > CEILING
    };
    // A thread that ends has no count any more.
    if HELD.try_with(change).unwrap_or(false) {
        super::campaign::give_up("holds more than 6 GiB of memory");
    }
}

// SAFETY: every call goes to the other allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promises are that one's.
        unsafe { Allocator.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: the caller's promises are that one's.
        unsafe { Allocator.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: the caller's promises are that one's.
        unsafe { Allocator.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are that one's.
        unsafe { Allocator.realloc(at, layout, size) }
    }
}

/// Forgets what this thread has held so far.
pub fn begin() {
    HELD.with(|held| held.set((0, 0)));
}

/// The most bytes that this thread has held since [`begin`], beside what it held then.
pub fn peak() -> u64 {
    HELD.with(|held| held.get().1.unsigned_abs() as u64)
}
