//! Numbers, and memory that ends where it should not be read on.

use half::{bf16, f16};
use ir::dtype::{DType, f8e4m3_to_f32};

/// Numbers from a seed (splitmix).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }
}

/// A random code of a type, and its value.
pub fn code(r: &mut Random, t: DType) -> (u32, f32) {
    match t {
        DType::F32 => {
            let v = r.unit();
            (v.to_bits(), v)
        }
        DType::BF16 => {
            let v = bf16::from_f32(r.unit());
            (v.to_bits().into(), v.to_f32())
        }
        DType::F16 => {
            let v = f16::from_f32(r.unit());
            (v.to_bits().into(), v.to_f32())
        }
        DType::F8E4M3 => {
            let mut c = r.bits() as u8;
            if c & 0x7f == 0x7f {
                c &= 0x80;
            }
            (c.into(), f8e4m3_to_f32(c))
        }
        DType::I8 => {
            let v = r.bits() as i8;
            (v as u8 as u32, v.into())
        }
        DType::I4 => {
            let v = (r.bits() % 16) as i32 - 8;
            (v as u32 & 15, v as f32)
        }
        DType::E8M0 => {
            let e = 120 + r.below(10) as u32;
            (e, 2f32.powi(e as i32 - 127))
        }
        other => panic!("no codes of {other}"),
    }
}

/// Memory that faults when it is read or written beyond its end: the page behind it is not there.
pub struct Fenced {
    map: *mut u8,
    pages: usize,
    len: usize,
}

const PAGE: usize = 4096;

impl Fenced {
    pub fn new(bytes: &[u8]) -> Fenced {
        let pages = bytes.len().div_ceil(PAGE).max(1);
        // SAFETY: a fresh anonymous mapping; its last page is then taken away again.
        let map = unsafe {
            let map = libc::mmap(
                std::ptr::null_mut(),
                (pages + 1) * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            libc::mprotect(map.cast::<u8>().add(pages * PAGE).cast(), PAGE, libc::PROT_NONE);
            map.cast::<u8>()
        };
        let mut fenced = Fenced { map, pages, len: bytes.len() };
        fenced.bytes_mut().copy_from_slice(bytes);
        fenced
    }

    pub fn pointer(&self) -> *mut u8 {
        self.map.wrapping_add(self.pages * PAGE - self.len)
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the last `len` bytes before the fence are ours.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing borrows any more.
        unsafe { libc::munmap(self.map.cast(), (self.pages + 1) * PAGE) };
    }
}
