//! Memory from the system: zeroed, page-aligned, given back when dropped.

use crate::error::RuntimeError;
use crate::ram;
use std::ptr::NonNull;

/// Size of a huge page on x86-64, and of the common one on aarch64.
pub(crate) const HUGE: usize = 2 << 20;

/// Bytes of a page of this machine.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// What a process takes beside its regions: stacks, page tables, tokens, text.
const BESIDE: u64 = 8 << 20;

/// Bytes of memory that regions can still take, where the system says.
pub(crate) fn available() -> Option<u64> {
    ram::available().map(|free| free.saturating_sub(BESIDE))
}

/// That `bytes` of memory are needed where `free` can be had.
pub(crate) fn lacking(bytes: u64, what: &'static str, free: u64) -> RuntimeError {
    let source = std::io::Error::other(format!("{free} are available"));
    RuntimeError::OutOfMemory { what, bytes, source }
}

/// Anonymous memory, readable and writable. Pages are taken when first touched.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
    mapped: usize,
}

// SAFETY: the region owns its memory; access goes through the borrow rules of its methods, or
// through raw pointers whose users answer for them.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` zeros, at least one page. Large regions ask for huge pages.
    pub(crate) fn new(bytes: u64, what: &'static str) -> Result<Region, RuntimeError> {
        let failed = |source| RuntimeError::OutOfMemory { what, bytes, source };
        let page = page_bytes();
        let rounded =
            usize::try_from(bytes).ok().and_then(|b| b.max(1).checked_next_multiple_of(page));
        let Some(mapped) = rounded.filter(|b| isize::try_from(*b).is_ok()) else {
            return Err(failed(std::io::ErrorKind::OutOfMemory.into()));
        };
        // SAFETY: a fresh private mapping that touches no other memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let base = match NonNull::new(base.cast::<u8>()) {
            Some(base) if base.as_ptr().cast() != libc::MAP_FAILED => base,
            _ => return Err(failed(std::io::Error::last_os_error())),
        };
        if mapped >= 2 * HUGE {
            // SAFETY: the range was just mapped. A refusal only means small pages.
            unsafe { libc::madvise(base.as_ptr().cast(), mapped, libc::MADV_HUGEPAGE) };
        }
        // `mapped` is at least `bytes`, which therefore fits.
        Ok(Region { base, bytes: bytes as usize, mapped })
    }

    /// [`Region::new`], for what will be filled whole. The system would give more than it has, and
    /// end the process when that is touched.
    pub(crate) fn filled(bytes: u64, what: &'static str) -> Result<Region, RuntimeError> {
        match available().filter(|free| *free < bytes) {
            Some(free) => Err(lacking(bytes, what, free)),
            None => Region::new(bytes, what),
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes asked for.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes mapped, whole pages.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped
    }

    /// All of it. Nobody may write through [`Region::as_ptr`] meanwhile.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is mapped and initialised (zeros), and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// All of it, to write. Nobody may use [`Region::as_ptr`] meanwhile.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }

    /// Changes what may be done with whole pages `from..to`, byte offsets.
    pub(crate) fn protect(&self, from: usize, to: usize, access: i32) -> std::io::Result<()> {
        assert!(from <= to && to <= self.mapped, "the range lies in the region");
        // SAFETY: the range is within this mapping, which nothing else owns.
        let result =
            unsafe { libc::mprotect(self.base.as_ptr().add(from).cast(), to - from, access) };
        match result {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and nothing uses it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_zeroed_and_aligned() {
        let mut region = Region::new(10_000, "a test").expect("memory");
        assert_eq!(region.as_ptr() as usize % 4096, 0);
        assert!(region.bytes().iter().all(|byte| *byte == 0));
        region.bytes_mut()[9_999] = 7;
        assert_eq!((region.len(), region.mapped()), (10_000, 12_288.max(page_bytes())));
    }

    #[test]
    fn absurd_sizes_are_errors() {
        for bytes in [u64::MAX, 1 << 62] {
            assert_eq!(
                Region::new(bytes, "a test").map(|_| ()).map_err(|e| e.code()),
                Err("E0507")
            );
        }
        assert_eq!(Region::new(0, "a test").map(|r| r.len()).map_err(|e| e.code()), Ok(0));
    }
}
