//! Lays out the image and writes its bytes. File offsets equal addresses.
//!
//! ```text
//! R   ELF header, program headers, .dynsym .hash .dynstr .rela.dyn .rodata
//! RX  .text
//! RW  .data.rel.ro .got .dynamic          read-only once relocated (PT_GNU_RELRO)
//!     .shstrtab, section headers          not loaded
//! ```

use super::error::Site;
use super::gather::{Class, Gathered, LIMIT, Relocation};
use super::relocate::{self, Need};
use super::{LinkError, Machine};
use object::elf;
use std::collections::BTreeMap;

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const PROGRAM_HEADERS: u64 = 6;
const SECTION_HEADER: u64 = 64;
const SYMBOL: u64 = 24;
const RELA: u64 = 24;
const SLOT: u64 = 8;
const DYNAMIC_ENTRIES: u64 = 11;
/// Position of `.text` among the section headers.
const TEXT_INDEX: u16 = 6;

/// A section of the image.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    at: u64,
    bytes: u64,
}

impl Span {
    fn end(self) -> u64 {
        self.at + self.bytes
    }
}

/// Where everything lies.
#[derive(Debug, Default)]
struct Layout {
    page: u64,
    dynsym: Span,
    hash: Span,
    dynstr: Span,
    rela: Span,
    read: Span,
    text: Span,
    relro: Span,
    got: Span,
    dynamic: Span,
    /// End of the last segment.
    end: u64,
    /// Address of each piece.
    pieces: Vec<u64>,
}

fn align_up(value: u64, align: u64) -> u64 {
    (value + align - 1) & !(align - 1)
}

/// Strings with their offsets in a string table.
struct Strings(Vec<u8>);

impl Strings {
    fn add(&mut self, text: &str) -> u64 {
        let at = self.0.len() as u64;
        self.0.extend(text.as_bytes());
        self.0.push(0);
        at
    }
}

/// Writes the image of everything gathered.
pub(super) fn write(gathered: Gathered, soname: &str) -> Result<Vec<u8>, LinkError> {
    let total: u64 = gathered.pieces.iter().map(|p| p.data.len() as u64 + p.align).sum();
    if total > LIMIT {
        return Err(LinkError::TooLarge { bytes: total, limit: LIMIT });
    }
    let slots = slots(&gathered);
    let addresses = gathered.pieces.iter().flat_map(|p| &p.relocations);
    let addresses = addresses.filter(|r| need(gathered.machine, r) == Need::Address).count();
    let mut strings = Strings(vec![0]);
    let soname = strings.add(soname);
    let names: Vec<u64> = gathered.functions.keys().map(|name| strings.add(name)).collect();
    let layout = lay_out(&gathered, slots.len() + addresses, slots.len(), strings.0.len());
    let mut image = Image { bytes: vec![0; layout.end as usize], layout, gathered, slots };
    image.write_header();
    image.write_program_headers();
    image.put(image.layout.dynstr.at, &strings.0);
    image.write_symbols(&names);
    image.write_hash();
    image.write_pieces();
    image.relocate()?;
    image.write_dynamic(soname);
    image.write_section_headers();
    Ok(image.bytes)
}

fn need(machine: Machine, relocation: &Relocation) -> Need {
    relocate::form(machine, relocation.kind).map_or(Need::Nothing, |form| form.need)
}

/// One slot for each target that is referred to through the GOT.
fn slots(gathered: &Gathered) -> BTreeMap<(usize, u64), u64> {
    let all = gathered.pieces.iter().flat_map(|p| &p.relocations);
    let wanting = all.filter(|r| need(gathered.machine, r) == Need::Slot);
    let mut slots: BTreeMap<_, _> = wanting.map(|r| (r.target, 0)).collect();
    for (i, slot) in slots.values_mut().enumerate() {
        *slot = i as u64;
    }
    slots
}

fn lay_out(gathered: &Gathered, relas: usize, slots: usize, strings: usize) -> Layout {
    let page = match gathered.machine {
        Machine::X86_64 => 4096,
        // Arm's kernels may have pages of up to 64 KiB.
        Machine::Aarch64 => 65536,
    };
    let symbols = gathered.functions.len() as u64 + 1;
    let mut layout = Layout { page, pieces: vec![0; gathered.pieces.len()], ..Layout::default() };
    let span = |at: u64, align: u64, bytes: u64| Span { at: align_up(at, align), bytes };
    let front = HEADER + PROGRAM_HEADERS * PROGRAM_HEADER;
    layout.dynsym = span(front, 8, symbols * SYMBOL);
    layout.hash = span(layout.dynsym.end(), 8, 4 * (2 + buckets(symbols) + symbols));
    layout.dynstr = span(layout.hash.end(), 1, strings as u64);
    layout.rela = span(layout.dynstr.end(), 8, relas as u64 * RELA);
    layout.read = place(gathered, Class::Read, layout.rela.end(), &mut layout.pieces);
    let text = align_up(layout.read.end(), page);
    layout.text = place(gathered, Class::Text, text, &mut layout.pieces);
    let relro = align_up(layout.text.end(), page);
    layout.relro = place(gathered, Class::Relro, relro, &mut layout.pieces);
    layout.got = span(layout.relro.end(), SLOT, slots as u64 * SLOT);
    layout.dynamic = span(layout.got.end(), 16, DYNAMIC_ENTRIES * 16);
    // To a whole page, so that all of the segment can be made read-only.
    layout.end = align_up(layout.dynamic.end(), page);
    layout
}

/// Places the pieces of a class one after another from `start`.
fn place(gathered: &Gathered, class: Class, start: u64, addresses: &mut [u64]) -> Span {
    let of_class = |p: &&super::gather::Piece| p.class == class;
    let align = gathered.pieces.iter().filter(of_class).map(|p| p.align).max().unwrap_or(1);
    let start = align_up(start, align);
    let mut end = start;
    for (piece, address) in gathered.pieces.iter().zip(addresses) {
        if piece.class == class {
            *address = align_up(end, piece.align);
            end = *address + piece.data.len() as u64;
        }
    }
    Span { at: start, bytes: end - start }
}

fn buckets(symbols: u64) -> u64 {
    symbols.div_ceil(2)
}

/// The System V hash of a symbol's name.
fn sysv_hash(name: &str) -> u32 {
    name.bytes().fold(0u32, |hash, byte| {
        let hash = (hash << 4).wrapping_add(u32::from(byte));
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    })
}

struct Image {
    bytes: Vec<u8>,
    layout: Layout,
    gathered: Gathered,
    slots: BTreeMap<(usize, u64), u64>,
}

impl Image {
    /// All offsets come from the layout, which reserved the room.
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    fn put16(&mut self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    fn put32(&mut self, at: u64, value: u32) {
        self.put(at, &value.to_le_bytes());
    }

    fn put64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    fn write_header(&mut self) {
        let ident = [0x7f, b'E', b'L', b'F', elf::ELFCLASS64, elf::ELFDATA2LSB, elf::EV_CURRENT];
        self.put(0, &ident);
        self.put16(16, elf::ET_DYN);
        self.put16(
            18,
            match self.gathered.machine {
                Machine::X86_64 => elf::EM_X86_64,
                Machine::Aarch64 => elf::EM_AARCH64,
            },
        );
        self.put32(20, elf::EV_CURRENT.into());
        self.put64(32, HEADER);
        self.put16(52, HEADER as u16);
        self.put16(54, PROGRAM_HEADER as u16);
        self.put16(56, PROGRAM_HEADERS as u16);
        self.put16(58, SECTION_HEADER as u16);
    }

    fn write_program_headers(&mut self) {
        let l = &self.layout;
        let (read, code, write) = (elf::PF_R, elf::PF_R | elf::PF_X, elf::PF_R | elf::PF_W);
        let front = Span { at: 0, bytes: l.read.end() };
        let text = Span { at: align_up(l.read.end(), l.page), bytes: 0 };
        let text = Span { bytes: l.text.end() - text.at, ..text };
        let back = align_up(l.text.end(), l.page);
        let back = Span { at: back, bytes: l.end - back };
        let rows = [
            (elf::PT_LOAD, read, front, l.page),
            (elf::PT_LOAD, code, text, l.page),
            (elf::PT_LOAD, write, back, l.page),
            (elf::PT_DYNAMIC, write, l.dynamic, 8),
            (elf::PT_GNU_RELRO, read, back, 1),
            (elf::PT_GNU_STACK, write, Span::default(), 16),
        ];
        for (i, (kind, flags, span, align)) in rows.into_iter().enumerate() {
            let at = HEADER + i as u64 * PROGRAM_HEADER;
            self.put32(at, kind);
            self.put32(at + 4, flags);
            let fields = [span.at, span.at, span.at, span.bytes, span.bytes, align];
            for (k, value) in fields.into_iter().enumerate() {
                self.put64(at + 8 + 8 * k as u64, value);
            }
        }
    }

    fn write_symbols(&mut self, names: &[u64]) {
        let functions: Vec<_> = self.gathered.functions.values().collect();
        let rows: Vec<(u64, u64)> =
            functions.iter().map(|f| (self.layout.pieces[f.piece] + f.offset, f.bytes)).collect();
        for (i, ((address, bytes), name)) in rows.into_iter().zip(names).enumerate() {
            let at = self.layout.dynsym.at + (i as u64 + 1) * SYMBOL;
            self.put32(at, *name as u32);
            self.put(at + 4, &[elf::STB_GLOBAL << 4 | elf::STT_FUNC]);
            self.put16(at + 6, TEXT_INDEX);
            self.put64(at + 8, address);
            self.put64(at + 16, bytes);
        }
    }

    fn write_hash(&mut self) {
        let symbols = self.gathered.functions.len() as u64 + 1;
        let buckets = buckets(symbols);
        let hashes: Vec<u32> = self.gathered.functions.keys().map(|n| sysv_hash(n)).collect();
        let mut heads = vec![0u32; buckets as usize];
        let mut chain = vec![0u32; symbols as usize];
        for (i, hash) in hashes.iter().enumerate() {
            let head = &mut heads[(u64::from(*hash) % buckets) as usize];
            chain[i + 1] = *head;
            *head = i as u32 + 1;
        }
        let counts = [buckets as u32, symbols as u32];
        for (i, word) in counts.into_iter().chain(heads).chain(chain).enumerate() {
            self.put32(self.layout.hash.at + 4 * i as u64, word);
        }
    }

    fn write_pieces(&mut self) {
        if self.gathered.machine == Machine::X86_64 {
            // Running into the gap between two functions traps.
            let text = self.layout.text;
            self.bytes[text.at as usize..text.end() as usize].fill(0xcc);
        }
        for (piece, address) in self.gathered.pieces.iter().zip(&self.layout.pieces) {
            let at = *address as usize;
            self.bytes[at..at + piece.data.len()].copy_from_slice(&piece.data);
        }
    }

    fn relocate(&mut self) -> Result<(), LinkError> {
        let machine = self.gathered.machine;
        let Image { bytes, layout, gathered, slots } = self;
        let address_of = |(piece, offset): (usize, u64)| layout.pieces[piece] + offset;
        let mut relas: Vec<(u64, u64)> = Vec::new();
        for (target, slot) in slots.iter() {
            relas.push((layout.got.at + slot * SLOT, address_of(*target)));
        }
        for (piece, base) in gathered.pieces.iter().zip(&layout.pieces) {
            for relocation in &piece.relocations {
                let place = base + relocation.offset;
                let Some(form) = relocate::form(machine, relocation.kind) else { continue };
                let symbol = match form.need {
                    Need::Nothing => continue,
                    Need::Slot => layout.got.at + slots[&relocation.target] * SLOT,
                    Need::Distance | Need::Address => address_of(relocation.target),
                };
                let target = symbol.wrapping_add_signed(relocation.addend);
                if form.need == Need::Address {
                    relas.push((place, target));
                    continue;
                }
                let field = &mut bytes[place as usize..(place + form.bytes) as usize];
                relocate::patch(machine, relocation.kind, field, place as i64, target as i64)
                    .map_err(|misfit| LinkError::Value {
                        site: Box::new(Site {
                            object: gathered.objects[piece.object].clone(),
                            section: piece.name.clone(),
                            offset: relocation.offset,
                            kind: relocate::kind_name(machine, relocation.kind),
                            symbol: relocation.symbol.clone(),
                        }),
                        value: misfit.value,
                        expected: misfit.expected,
                    })?;
            }
        }
        relas.sort_unstable();
        for (i, (place, target)) in relas.into_iter().enumerate() {
            let at = self.layout.rela.at + i as u64 * RELA;
            self.put64(at, place);
            self.put64(at + 8, relocate::relative_kind(machine).into());
            self.put64(at + 16, target);
        }
        Ok(())
    }

    fn write_dynamic(&mut self, soname: u64) {
        let l = &self.layout;
        let entries: [(u32, u64); DYNAMIC_ENTRIES as usize] = [
            (elf::DT_SONAME, soname),
            (elf::DT_HASH, l.hash.at),
            (elf::DT_STRTAB, l.dynstr.at),
            (elf::DT_SYMTAB, l.dynsym.at),
            (elf::DT_STRSZ, l.dynstr.bytes),
            (elf::DT_SYMENT, SYMBOL),
            (elf::DT_RELA, l.rela.at),
            (elf::DT_RELASZ, l.rela.bytes),
            (elf::DT_RELAENT, RELA),
            (elf::DT_RELACOUNT, l.rela.bytes / RELA),
            (elf::DT_NULL, 0),
        ];
        let at = l.dynamic.at;
        for (i, (tag, value)) in entries.into_iter().enumerate() {
            self.put64(at + i as u64 * 16, tag.into());
            self.put64(at + i as u64 * 16 + 8, value);
        }
    }

    /// Appends the names of the sections and their headers, for tools.
    fn write_section_headers(&mut self) {
        let l = &self.layout;
        let (alloc, code) = (elf::SHF_ALLOC, elf::SHF_ALLOC | elf::SHF_EXECINSTR);
        let write = elf::SHF_ALLOC | elf::SHF_WRITE;
        // name, type, flags, span, link, info, alignment, size of an entry
        let mut rows = vec![
            (".dynsym", elf::SHT_DYNSYM, alloc, l.dynsym, 3, 1, 8, SYMBOL),
            (".hash", elf::SHT_HASH, alloc, l.hash, 1, 0, 8, 4),
            (".dynstr", elf::SHT_STRTAB, alloc, l.dynstr, 0, 0, 1, 0),
            (".rela.dyn", elf::SHT_RELA, alloc, l.rela, 1, 0, 8, RELA),
            (".rodata", elf::SHT_PROGBITS, alloc, l.read, 0, 0, 64, 0),
            (".text", elf::SHT_PROGBITS, code, l.text, 0, 0, 64, 0),
            (".data.rel.ro", elf::SHT_PROGBITS, write, l.relro, 0, 0, 8, 0),
            (".got", elf::SHT_PROGBITS, write, l.got, 0, 0, 8, SLOT),
            (".dynamic", elf::SHT_DYNAMIC, write, l.dynamic, 3, 0, 16, 16),
        ];
        let mut strings = Strings(vec![0]);
        let mut names: Vec<u64> = rows.iter().map(|row| strings.add(row.0)).collect();
        names.push(strings.add(".shstrtab"));
        let table = Span { at: self.bytes.len() as u64, bytes: strings.0.len() as u64 };
        rows.push((".shstrtab", elf::SHT_STRTAB, 0, table, 0, 0, 1, 0));
        let start = align_up(table.end(), 8);
        let count = rows.len() as u64 + 1;
        self.bytes.resize((start + count * SECTION_HEADER) as usize, 0);
        self.put(table.at, &strings.0);
        self.put64(40, start);
        self.put16(60, count as u16);
        self.put16(62, rows.len() as u16);
        for (i, (row, name)) in rows.into_iter().zip(names).enumerate() {
            let (_, kind, flags, span, link, info, align, entry) = row;
            let at = start + (i as u64 + 1) * SECTION_HEADER;
            self.put32(at, name as u32);
            self.put32(at + 4, kind);
            self.put64(at + 8, flags.into());
            let address = if flags & elf::SHF_ALLOC != 0 { span.at } else { 0 };
            self.put64(at + 16, address);
            self.put64(at + 24, span.at);
            self.put64(at + 32, span.bytes);
            self.put32(at + 40, link);
            self.put32(at + 44, info);
            self.put64(at + 48, align);
            self.put64(at + 56, entry);
        }
    }
}
