//! Loads a code image (an ELF shared object that imports nothing) into memory of this process.
//!
//! No page is ever writable and executable at once: the image is copied and relocated in
//! writable memory, then every page gets the rights that its segment states.

use crate::error::RuntimeError;
use crate::memory::{Region, page_bytes};
use std::collections::HashMap;

/// A kernel: `args`, first and last instance, scratch (see the crate `artifact`, `plan`).
pub type KernelFn = unsafe extern "C" fn(args: *const u64, begin: i64, end: i64, scratch: *mut u8);

/// Largest image, bytes.
const LIMIT: u64 = 1 << 30;
/// More program headers than any image has.
const MOST_HEADERS: u16 = 64;

const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const STT_FUNC: u8 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_STRSZ: u64 = 10;
/// Tags of relocation tables and libraries that kernels' images do not have: DT_NEEDED, DT_REL,
/// DT_TEXTREL, DT_JMPREL, DT_INIT_ARRAY, DT_RELR.
const REFUSED_TAGS: [u64; 6] = [1, 17, 22, 23, 25, 36];

#[cfg(target_arch = "x86_64")]
const MACHINE: (u16, u32) = (62, 8); // EM_X86_64, R_X86_64_RELATIVE
#[cfg(target_arch = "aarch64")]
const MACHINE: (u16, u32) = (183, 1027); // EM_AARCH64, R_AARCH64_RELATIVE

/// Loaded code.
#[derive(Debug)]
pub struct Image {
    region: Region,
    /// Offset of each function.
    functions: HashMap<String, usize>,
}

/// A part of the image that is loaded.
#[derive(Clone, Copy, Debug)]
struct Segment {
    flags: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    bytes: u64,
}

fn fault(what: impl ToString, found: impl ToString, expected: impl ToString) -> RuntimeError {
    RuntimeError::Image {
        what: what.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

/// Bounds-checked little-endian reads.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&self, at: u64) -> Result<[u8; N], RuntimeError> {
        let range = at.checked_add(N as u64).map(|end| at as usize..end as usize);
        let bytes = range.filter(|_| usize::try_from(at).is_ok()).and_then(|r| self.0.get(r));
        match bytes.and_then(|bytes| bytes.try_into().ok()) {
            Some(array) => Ok(array),
            None => {
                let found = format!("{N} bytes at {at:#x}");
                Err(fault("bounds", found, format!("within {} bytes", self.0.len())))
            }
        }
    }

    fn u16(&self, at: u64) -> Result<u16, RuntimeError> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: u64) -> Result<u32, RuntimeError> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: u64) -> Result<u64, RuntimeError> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// The text at `at`, which ends with a NUL before `limit`.
    fn text(&self, at: u64, limit: u64) -> Result<&str, RuntimeError> {
        let range = usize::try_from(at).ok().zip(usize::try_from(limit).ok());
        let bytes = range.and_then(|(at, limit)| self.0.get(at..limit));
        let end = bytes.and_then(|bytes| bytes.iter().position(|byte| *byte == 0));
        let text = bytes.zip(end).and_then(|(b, end)| std::str::from_utf8(&b[..end]).ok());
        text.ok_or_else(|| fault("symbol name", format!("none at {at:#x}"), "text"))
    }
}

impl Image {
    /// Loads `file`, the bytes of an ET_DYN image for this machine.
    ///
    /// # Errors
    /// [`RuntimeError::Image`] when the image is damaged, of another machine, wants imports,
    /// or asks for memory that is writable and executable; [`RuntimeError::OutOfMemory`].
    pub fn load(file: &[u8]) -> Result<Image, RuntimeError> {
        let headers = Headers::read(&Bytes(file))?;
        let mut region = Region::new(headers.image_bytes()?, "code")?;
        for segment in &headers.segments {
            // In range: `Headers::read` compared the first with the file, `image_bytes` made the
            // region as long as the last.
            let from = &file[segment.offset as usize..][..segment.file_bytes as usize];
            region.bytes_mut()[segment.address as usize..][..from.len()].copy_from_slice(from);
        }
        let dynamic = Dynamic::read(&Bytes(region.bytes()), headers.dynamic)?;
        let functions = dynamic.functions(&Bytes(region.bytes()), &headers.segments)?;
        relocate(&mut region, &headers.segments, &dynamic)?;
        protect(&region, &headers)?;
        flush_instructions(&region);
        Ok(Image { region, functions })
    }

    /// The kernel named `name`.
    pub fn kernel(&self, name: &str) -> Option<KernelFn> {
        let offset = *self.functions.get(name)?;
        // SAFETY: the offset lies in an executable segment and is a function's by the symbol
        // table. That its code follows the kernels' ABI is what the artifact's hash vouches for.
        Some(unsafe { std::mem::transmute::<*mut u8, KernelFn>(self.region.as_ptr().add(offset)) })
    }
}

/// What the program headers say.
struct Headers {
    segments: Vec<Segment>,
    /// Address and size of the dynamic table.
    dynamic: (u64, u64),
    /// Address and size of what is read-only after relocation.
    relro: (u64, u64),
}

impl Headers {
    fn read(file: &Bytes<'_>) -> Result<Headers, RuntimeError> {
        let ident: [u8; 7] = file.array(0)?;
        if ident != [0x7f, b'E', b'L', b'F', 2, 1, 1] {
            return Err(fault("file type", "no 64-bit little-endian ELF file", "one"));
        }
        let (kind, machine) = (file.u16(16)?, file.u16(18)?);
        if kind != ET_DYN {
            return Err(fault("ELF type", kind, ET_DYN));
        }
        if machine != MACHINE.0 {
            let expected = format!("{} ({})", MACHINE.0, std::env::consts::ARCH);
            return Err(fault("ELF machine", machine, expected));
        }
        let (table, size, count) = (file.u64(32)?, file.u16(54)?, file.u16(56)?);
        if size != 56 || count > MOST_HEADERS {
            let found = format!("{count} of {size} bytes");
            return Err(fault("program headers", found, format!("up to {MOST_HEADERS} of 56")));
        }
        let mut headers = Headers { segments: Vec::new(), dynamic: (0, 0), relro: (0, 0) };
        for i in 0..u64::from(count) {
            let at = table.checked_add(i * 56);
            let at = at.ok_or_else(|| fault("program headers", table, "an offset in the file"))?;
            headers.take(file, at)?;
        }
        headers.check_order()?;
        Ok(headers)
    }

    fn take(&mut self, file: &Bytes<'_>, at: u64) -> Result<(), RuntimeError> {
        let kind = file.u32(at)?;
        let segment = Segment {
            flags: file.u32(at + 4)?,
            offset: file.u64(at + 8)?,
            address: file.u64(at + 16)?,
            file_bytes: file.u64(at + 32)?,
            bytes: file.u64(at + 40)?,
        };
        let range = (segment.address, segment.bytes);
        match kind {
            PT_DYNAMIC => self.dynamic = range,
            PT_GNU_RELRO => self.relro = range,
            PT_LOAD => {
                let in_file = segment.offset.checked_add(segment.file_bytes);
                let in_file = in_file.is_some_and(|end| end <= file.0.len() as u64);
                if !in_file || segment.file_bytes > segment.bytes {
                    let Segment { offset, file_bytes, bytes, .. } = segment;
                    let found = format!("{file_bytes} of {bytes} bytes at {offset} of the file");
                    return Err(fault("segment", found, "a range within the file"));
                }
                if segment.flags & PF_W != 0 && segment.flags & PF_X != 0 {
                    return Err(fault("segment", "writable and executable", "one of both"));
                }
                self.segments.push(segment);
            }
            _ => {}
        }
        Ok(())
    }

    /// Segments lie in order and share no page, so that each page has the rights of one.
    fn check_order(&self) -> Result<(), RuntimeError> {
        let page = page_bytes() as u64;
        let mut end = 0;
        for segment in &self.segments {
            let after = segment.address.checked_add(segment.bytes).filter(|end| *end <= LIMIT);
            let Some(after) = after.filter(|_| segment.address / page * page >= end) else {
                let found = format!("{} bytes at {:#x}", segment.bytes, segment.address);
                let expected = format!("ascending ranges up to {LIMIT:#x} that share no page");
                return Err(fault("segments", found, expected));
            };
            end = after.next_multiple_of(page);
        }
        Ok(())
    }

    fn image_bytes(&self) -> Result<u64, RuntimeError> {
        match self.segments.last() {
            Some(last) => Ok(last.address + last.bytes),
            None => Err(fault("segments", "none", "at least one")),
        }
    }
}

/// What the dynamic table says; addresses are offsets in the image.
#[derive(Default)]
struct Dynamic {
    hash: Option<u64>,
    strings: u64,
    strings_bytes: u64,
    symbols: u64,
    rela: u64,
    rela_bytes: u64,
}

impl Dynamic {
    fn read(image: &Bytes<'_>, (address, bytes): (u64, u64)) -> Result<Dynamic, RuntimeError> {
        let mut dynamic = Dynamic::default();
        for i in 0..bytes / 16 {
            let at = address.saturating_add(i * 16);
            let (tag, value) = (image.u64(at)?, image.u64(at.saturating_add(8))?);
            match tag {
                0 => break,
                DT_HASH => dynamic.hash = Some(value),
                DT_STRTAB => dynamic.strings = value,
                DT_SYMTAB => dynamic.symbols = value,
                DT_RELA => dynamic.rela = value,
                DT_RELASZ => dynamic.rela_bytes = value,
                DT_STRSZ => dynamic.strings_bytes = value,
                tag if REFUSED_TAGS.contains(&tag) => {
                    let expected = "an image without imports and initialisers";
                    return Err(fault("dynamic table", format!("tag {tag}"), expected));
                }
                _ => {}
            }
        }
        Ok(dynamic)
    }

    /// All functions that the image defines.
    fn functions(
        &self,
        image: &Bytes<'_>,
        segments: &[Segment],
    ) -> Result<HashMap<String, usize>, RuntimeError> {
        let hash = self.hash.ok_or_else(|| fault("dynamic table", "no DT_HASH", "DT_HASH"))?;
        let count = image.u32(hash.saturating_add(4))?;
        let strings_end = self.strings.saturating_add(self.strings_bytes);
        let mut functions = HashMap::new();
        for i in 1..u64::from(count) {
            let at = self.symbols.saturating_add(i * 24);
            let (name, info) = (image.u32(at)?, image.array::<1>(at.saturating_add(4))?[0]);
            let section = image.u16(at.saturating_add(6))?;
            let value = image.u64(at.saturating_add(8))?;
            let name = image.text(self.strings.saturating_add(name.into()), strings_end)?;
            if section == 0 {
                let found = format!("the undefined symbol `{name}`");
                return Err(fault("symbols", found, "kernels import nothing"));
            }
            if info & 0xf != STT_FUNC {
                continue;
            }
            let code = |s: &&Segment| s.flags & PF_X != 0;
            let inside = |s: &Segment| value >= s.address && value - s.address < s.file_bytes;
            if !segments.iter().filter(code).any(inside) {
                let found = format!("`{name}` at {value:#x}");
                return Err(fault("symbols", found, "functions in an executable segment"));
            }
            functions.insert(name.to_owned(), value as usize);
        }
        Ok(functions)
    }
}

/// Applies the only relocations that an image without imports needs: load address plus a value.
fn relocate(
    region: &mut Region,
    segments: &[Segment],
    dynamic: &Dynamic,
) -> Result<(), RuntimeError> {
    let base = region.as_ptr() as u64;
    let bytes = region.len() as u64;
    for i in 0..dynamic.rela_bytes / 24 {
        let at = dynamic.rela.saturating_add(i * 24);
        let image = Bytes(region.bytes());
        let (place, info) = (image.u64(at)?, image.u64(at.saturating_add(8))?);
        let addend = image.u64(at.saturating_add(16))?;
        if info != u64::from(MACHINE.1) {
            return Err(fault("relocations", format!("kind {info:#x}"), MACHINE.1));
        }
        let writable = |s: &&Segment| s.flags & PF_W != 0;
        let inside =
            |s: &Segment| place >= s.address && s.bytes >= 8 && place - s.address <= s.bytes - 8;
        if !segments.iter().filter(writable).any(inside) || addend > bytes {
            let found = format!("{addend:#x} at {place:#x}");
            return Err(fault("relocations", found, "an address in writable memory"));
        }
        let value = base.wrapping_add(addend).to_le_bytes();
        region.bytes_mut()[place as usize..place as usize + 8].copy_from_slice(&value);
    }
    Ok(())
}

/// Gives every page the rights of its segment, and none of those between segments but reading.
fn protect(region: &Region, headers: &Headers) -> Result<(), RuntimeError> {
    let page = page_bytes();
    let refused = |error: std::io::Error| {
        fault("protection", error, "a system that allows changing memory to executable")
    };
    region.protect(0, region.mapped(), libc::PROT_READ).map_err(refused)?;
    for segment in &headers.segments {
        let (address, end) = (segment.address, segment.address + segment.bytes);
        let sealed = headers.relro.0 <= address
            && headers.relro.0.checked_add(headers.relro.1).is_some_and(|relro| relro >= end);
        let access = match segment.flags {
            flags if flags & PF_X != 0 => libc::PROT_READ | libc::PROT_EXEC,
            flags if flags & PF_W != 0 && !sealed => libc::PROT_READ | libc::PROT_WRITE,
            _ => continue,
        };
        let from = address as usize / page * page;
        let to = (end as usize).next_multiple_of(page).min(region.mapped());
        region.protect(from, to, access).map_err(refused)?;
    }
    Ok(())
}

/// Instruction caches of x86-64 follow writes by themselves.
#[cfg(target_arch = "x86_64")]
fn flush_instructions(_region: &Region) {}

/// Cleans data caches to the point where instruction fetches see them (Arm ARM, B2.4.4).
#[cfg(target_arch = "aarch64")]
fn flush_instructions(region: &Region) {
    use std::arch::asm;
    let sizes: u64;
    // SAFETY: reads a register that user space may read.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) sizes, options(nomem, nostack)) };
    let data = 4usize << (sizes >> 16 & 15);
    let code = 4usize << (sizes & 15);
    let (start, end) = (region.as_ptr() as usize, region.as_ptr() as usize + region.mapped());
    for line in (start..end).step_by(data) {
        // SAFETY: cleans a line of readable memory, which changes nothing that a program sees.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack)) };
    for line in (start..end).step_by(code) {
        // SAFETY: invalidates a line of the instruction cache.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}
