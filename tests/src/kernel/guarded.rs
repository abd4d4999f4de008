//! Memory that ends at a page nobody may touch.

/// Bytes before an inaccessible page.
pub struct Guarded {
    map: *mut u8,
    mapped: usize,
    begin: usize,
    len: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    fn mapped(bytes: usize) -> (*mut u8, usize) {
        let pages = bytes.div_ceil(PAGE).max(1) * PAGE;
        let mapped = pages + PAGE;
        // SAFETY: a new anonymous mapping; its last page is then closed.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), mapped, access, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED, "memory for a test");
            assert_eq!(libc::mprotect(map.add(pages), PAGE, libc::PROT_NONE), 0);
            map.cast::<u8>()
        };
        (map, mapped)
    }

    /// Zeros, ending at the closed page but for what alignment takes.
    pub fn new(len: usize, align: usize) -> Guarded {
        let (map, mapped) = Guarded::mapped(len);
        let begin = (mapped - PAGE - len) / align * align;
        Guarded { map, mapped, begin, len }
    }

    /// Where it begins.
    pub fn address(&self) -> usize {
        self.map as usize + self.begin
    }

    /// What lies there.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: within the mapping, which lives as long as `self`.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(self.begin), self.len) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made by `mapped`.
        unsafe { libc::munmap(self.map.cast(), self.mapped) };
    }
}
