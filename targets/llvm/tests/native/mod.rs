//! What tests and benches share: programs by hand, objects mapped and called.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod build;
pub mod data;
pub mod product;

use memmap2::{Mmap, MmapMut};
use object::{Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionKind};
use std::collections::HashMap;

pub type Kernel = unsafe extern "C" fn(*const u64, i64, i64, *mut u8);

/// An object of x86-64 in executable memory.
pub struct Image {
    map: Mmap,
    symbols: HashMap<String, usize>,
}

impl Image {
    /// Maps an object and applies its relocations.
    pub fn load(bytes: &[u8]) -> Image {
        let file = object::File::parse(bytes).unwrap();
        let (mut placed, mut end) = (HashMap::new(), 0usize);
        for s in file.sections() {
            if matches!(s.kind(), SectionKind::Text | SectionKind::ReadOnlyData) {
                end = end.next_multiple_of(s.align().max(64) as usize);
                placed.insert(s.index(), end);
                end += s.size() as usize;
            }
        }
        let mut map = MmapMut::map_anon(end.max(1)).unwrap();
        for s in file.sections().filter(|s| placed.contains_key(&s.index())) {
            let at = placed[&s.index()];
            map[at..at + s.size() as usize].copy_from_slice(s.data().unwrap());
            for (offset, r) in s.relocations() {
                let RelocationTarget::Symbol(i) = r.target() else { panic!("no symbol") };
                let target = file.symbol_by_index(i).unwrap();
                let home = placed[&target.section_index().expect("undefined symbol")];
                let value = (home as i64) + target.address() as i64 + r.addend();
                let place = at + offset as usize;
                let RelocationFlags::Elf { r_type } = r.flags() else { panic!("not ELF") };
                // R_X86_64_PC32, R_X86_64_PLT32
                assert!(matches!(r_type, 2 | 4), "relocation {r_type}");
                let distance = (value - place as i64) as i32;
                map[place..place + 4].copy_from_slice(&distance.to_le_bytes());
            }
        }
        let symbols = file
            .symbols()
            .filter(|s| s.is_global())
            .map(|s| {
                let at = placed[&s.section_index().unwrap()] + s.address() as usize;
                (s.name().unwrap().to_owned(), at)
            })
            .collect();
        Image { map: map.make_exec().unwrap(), symbols }
    }

    pub fn kernel(&self, name: &str) -> Kernel {
        let at = self.map.as_ptr() as usize + self.symbols[name];
        // SAFETY: the code at a kernel's symbol has the kernels' signature.
        unsafe { std::mem::transmute::<usize, Kernel>(at) }
    }
}

/// Scratch for a worker, with a guard behind it.
pub struct Scratch {
    memory: Vec<[u8; 64]>,
    used: usize,
}

const GUARD: u8 = 0xa5;

impl Scratch {
    pub fn new(bytes: u64) -> Scratch {
        let used = (bytes as usize).div_ceil(64) * 64;
        // Garbage to begin with: NaN as f32 and as bf16.
        Scratch { memory: vec![[GUARD | 0x7f; 64]; used / 64 + 16], used }.guarded()
    }

    fn guarded(mut self) -> Self {
        for line in &mut self.memory[self.used / 64..] {
            *line = [GUARD; 64];
        }
        self
    }

    pub fn pointer(&mut self) -> *mut u8 {
        let at = self.memory.as_mut_ptr().cast::<u8>();
        // `[u8; 64]` is aligned to 1: skip to the first line.
        at.wrapping_add(at.align_offset(64))
    }

    pub fn intact(&self) -> bool {
        self.memory[self.used / 64 + 1..].iter().flatten().all(|b| *b == GUARD)
    }
}

/// Whether this machine runs code for a level.
pub fn runs(level: &str) -> bool {
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512cd");
    match level {
        "x86-64-v2" => is_x86_feature_detected!("sse4.2"),
        "x86-64-v3" | "amx-soft" => is_x86_feature_detected!("avx2"),
        "x86-64-v4" => avx512,
        "x86-64-v4-bf16" => {
            avx512
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vnni")
        }
        _ => false,
    }
}

/// The levels that run here, the emulated one among them.
pub fn levels() -> Vec<&'static str> {
    let all = ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16", "amx-soft"];
    all.into_iter().filter(|l| runs(l)).collect()
}

/// Lanes of a level's registers.
pub fn lanes(level: &str) -> u32 {
    match level {
        "x86-64-v2" => 4,
        "x86-64-v3" | "amx-soft" => 8,
        _ => 16,
    }
}
