//! Reads objects: the sections to keep, the symbols they define, the relocations to apply.

use super::error::Site;
use super::relocate::{self, Need};
use super::{LinkError, Machine, Object};
use object::elf;
use object::read::elf::{ElfFile64, ElfSection64, FileHeader, SectionHeader};
use object::{
    Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationFlags,
    RelocationTarget, SectionIndex, SymbolKind, SymbolSection,
};
use std::collections::{BTreeMap, HashMap};

/// Largest image: a quarter of what a 32-bit displacement spans.
pub(super) const LIMIT: u64 = 1 << 29;
/// Largest alignment of a section, a page.
const MAX_ALIGN: u64 = 4096;

type File<'a> = ElfFile64<'a, Endianness>;

/// Which part of the image a section goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Constants.
    Read,
    /// Code.
    Text,
    /// Constants that hold addresses: written by the loader, read-only afterwards.
    Relro,
}

/// A kept section of an object.
#[derive(Debug)]
pub(super) struct Piece {
    pub object: usize,
    pub name: String,
    pub class: Class,
    pub align: u64,
    pub data: Vec<u8>,
    pub relocations: Vec<Relocation>,
}

/// A place in a piece that refers to a symbol.
#[derive(Debug)]
pub(super) struct Relocation {
    pub offset: u64,
    pub kind: u32,
    pub addend: i64,
    /// Name for messages.
    pub symbol: String,
    /// Piece and offset in it.
    pub target: (usize, u64),
}

/// An exported function.
#[derive(Debug)]
pub(super) struct Function {
    pub piece: usize,
    pub offset: u64,
    pub bytes: u64,
}

/// Everything that goes into the image.
#[derive(Debug)]
pub(super) struct Gathered {
    pub machine: Machine,
    pub objects: Vec<String>,
    pub pieces: Vec<Piece>,
    /// By name.
    pub functions: BTreeMap<String, Function>,
}

struct Definition {
    object: usize,
    piece: usize,
    offset: u64,
    bytes: u64,
    function: bool,
}

struct Gather<'a> {
    machine: Machine,
    names: Vec<String>,
    files: Vec<File<'a>>,
    pieces: Vec<Piece>,
    /// Piece of an object's section.
    kept: HashMap<(usize, SectionIndex), usize>,
    globals: BTreeMap<String, Definition>,
}

pub(super) fn gather(objects: &[Object<'_>]) -> Result<Gathered, LinkError> {
    let mut all = Gather {
        machine: Machine::X86_64,
        names: objects.iter().map(|object| object.name.to_owned()).collect(),
        files: Vec::with_capacity(objects.len()),
        pieces: Vec::new(),
        kept: HashMap::new(),
        globals: BTreeMap::new(),
    };
    for (i, object) in objects.iter().enumerate() {
        all.open(i, object)?;
    }
    (0..objects.len()).try_for_each(|i| all.keep_sections(i))?;
    (0..objects.len()).try_for_each(|i| all.define_symbols(i))?;
    (0..objects.len()).try_for_each(|i| all.take_relocations(i))?;
    let mut functions = BTreeMap::new();
    for (name, d) in all.globals.into_iter().filter(|(_, d)| d.function) {
        functions.insert(name, Function { piece: d.piece, offset: d.offset, bytes: d.bytes });
    }
    if functions.is_empty() {
        return Err(LinkError::Empty { objects: objects.len() });
    }
    Ok(Gathered { machine: all.machine, objects: all.names, pieces: all.pieces, functions })
}

impl<'a> Gather<'a> {
    fn unreadable(&self, object: usize, error: object::Error) -> LinkError {
        let object = self.names[object].clone();
        LinkError::Unreadable { object, message: error.to_string() }
    }

    fn bad_section(
        &self,
        object: usize,
        section: &str,
        found: impl ToString,
        expected: &'static str,
    ) -> LinkError {
        let (object, section) = (self.names[object].clone(), section.to_owned());
        LinkError::Section { object, section, found: found.to_string(), expected }
    }

    fn open(&mut self, i: usize, object: &Object<'a>) -> Result<(), LinkError> {
        let file = File::parse(object.bytes).map_err(|error| self.unreadable(i, error))?;
        let foreign = |found: String, expected: &str| LinkError::Foreign {
            object: object.name.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        if file.endian() != Endianness::Little {
            return Err(foreign("big-endian".into(), "little-endian"));
        }
        let header = file.elf_header();
        let kind = header.e_type(Endianness::Little);
        if kind != elf::ET_REL {
            return Err(foreign(format!("an ELF file of type {kind}"), "a relocatable object"));
        }
        let machine = match header.e_machine(Endianness::Little) {
            elf::EM_X86_64 => Machine::X86_64,
            elf::EM_AARCH64 => Machine::Aarch64,
            other => {
                return Err(foreign(format!("for ELF machine {other}"), "x86-64 or aarch64"));
            }
        };
        if i == 0 {
            self.machine = machine;
        } else if machine != self.machine {
            let expected = format!("for {:?} like the first object", self.machine);
            return Err(foreign(format!("for {machine:?}"), &expected));
        }
        self.files.push(file);
        Ok(())
    }

    fn keep_sections(&mut self, i: usize) -> Result<(), LinkError> {
        let mut kept = Vec::new();
        for section in self.files[i].sections() {
            if let Some(piece) = self.piece(i, &section)? {
                kept.push((section.index(), piece));
            }
        }
        for (index, piece) in kept {
            self.kept.insert((i, index), self.pieces.len());
            self.pieces.push(piece);
        }
        Ok(())
    }

    /// The section as a piece without relocations, or `None` if kernels can do without it.
    fn piece(
        &self,
        i: usize,
        section: &ElfSection64<'a, '_, Endianness>,
    ) -> Result<Option<Piece>, LinkError> {
        let header = section.elf_section_header();
        let flags = header.sh_flags(Endianness::Little);
        let flag = |bit: u32| flags & u64::from(bit) != 0;
        let kind = header.sh_type(Endianness::Little);
        let name = section.name().map_err(|error| self.unreadable(i, error))?;
        // Unwind tables are of no use: kernels do not unwind.
        let dropped = kind == elf::SHT_NOTE || kind == elf::SHT_X86_64_UNWIND;
        if !flag(elf::SHF_ALLOC) || dropped || name == ".eh_frame" || section.size() == 0 {
            return Ok(None);
        }
        let expected = "code and constants only";
        if flag(elf::SHF_TLS) {
            return Err(self.bad_section(i, name, "thread-local storage", expected));
        }
        let relro = flag(elf::SHF_WRITE) && name.starts_with(".data.rel.ro");
        if (flag(elf::SHF_WRITE) && !relro) || kind == elf::SHT_NOBITS {
            return Err(self.bad_section(i, name, "writable data", expected));
        }
        if relro && flag(elf::SHF_EXECINSTR) {
            return Err(self.bad_section(i, name, "writable code", expected));
        }
        let align = section.align().max(1);
        if !align.is_power_of_two() || align > MAX_ALIGN {
            let found = format!("aligned to {align} bytes");
            return Err(self.bad_section(i, name, found, "a power of two up to 4096"));
        }
        let data = section.data().map_err(|error| self.unreadable(i, error))?.to_vec();
        let class = match (flag(elf::SHF_EXECINSTR), relro) {
            (true, _) => Class::Text,
            (false, true) => Class::Relro,
            (false, false) => Class::Read,
        };
        let name = name.to_owned();
        Ok(Some(Piece { object: i, name, class, align, data, relocations: Vec::new() }))
    }

    fn define_symbols(&mut self, i: usize) -> Result<(), LinkError> {
        let mut found = Vec::new();
        for symbol in self.files[i].symbols() {
            let name = symbol.name().map_err(|error| self.unreadable(i, error))?;
            if !symbol.is_global() || symbol.is_undefined() {
                continue;
            }
            let SymbolSection::Section(section) = symbol.section() else {
                let found = format!("{:?} memory of `{name}`", symbol.section());
                return Err(self.bad_section(i, "none", found, "definitions in a section"));
            };
            // A definition in a dropped section is refused where it is used.
            let Some(&piece) = self.kept.get(&(i, section)) else { continue };
            let (offset, bytes) = (symbol.address(), symbol.size());
            let size = self.pieces[piece].data.len() as u64;
            if offset.checked_add(bytes).is_none_or(|end| end > size) {
                return Err(self.outside(piece, format!("symbol `{name}`"), offset));
            }
            let text = self.pieces[piece].class == Class::Text;
            let function = text && matches!(symbol.kind(), SymbolKind::Text);
            let definition = Definition { object: i, piece, offset, bytes, function };
            found.push((name.to_owned(), definition));
        }
        for (symbol, definition) in found {
            if let Some(first) = self.globals.get(&symbol) {
                let (first, second) = (self.names[first.object].clone(), self.names[i].clone());
                return Err(LinkError::Duplicate { symbol, first, second });
            }
            self.globals.insert(symbol, definition);
        }
        Ok(())
    }

    fn outside(&self, piece: usize, what: String, offset: u64) -> LinkError {
        let piece = &self.pieces[piece];
        LinkError::Outside {
            object: self.names[piece.object].clone(),
            section: piece.name.clone(),
            what,
            offset,
            bytes: piece.data.len() as u64,
        }
    }

    fn take_relocations(&mut self, i: usize) -> Result<(), LinkError> {
        let mut taken = Vec::new();
        for section in self.files[i].sections() {
            let Some(&piece) = self.kept.get(&(i, section.index())) else { continue };
            for (offset, relocation) in section.relocations() {
                let relocation = self.relocation(i, piece, offset, &relocation)?;
                taken.extend(relocation.map(|relocation| (piece, relocation)));
            }
        }
        for (piece, relocation) in taken {
            let form = relocate::form(self.machine, relocation.kind);
            if form.is_some_and(|form| form.need == Need::Address) {
                self.pieces[piece].class = Class::Relro;
            }
            self.pieces[piece].relocations.push(relocation);
        }
        Ok(())
    }

    fn relocation(
        &self,
        i: usize,
        piece: usize,
        offset: u64,
        relocation: &object::Relocation,
    ) -> Result<Option<Relocation>, LinkError> {
        let RelocationFlags::Elf { r_type: kind } = relocation.flags() else {
            let found = format!("relocated by {:?}", relocation.flags());
            return Err(self.bad_section(i, &self.pieces[piece].name, found, "ELF relocations"));
        };
        if relocation.has_implicit_addend() {
            let name = &self.pieces[piece].name;
            return Err(self.bad_section(i, name, "relocated by SHT_REL", "SHT_RELA"));
        }
        let (symbol, target) = self.target(i, relocation.target())?;
        let unsupported = || LinkError::Relocation {
            site: Box::new(Site {
                object: self.names[i].clone(),
                section: self.pieces[piece].name.clone(),
                offset,
                kind: relocate::kind_name(self.machine, kind),
                symbol: symbol.clone(),
            }),
        };
        let form = relocate::form(self.machine, kind).ok_or_else(unsupported)?;
        match (form.need, self.pieces[piece].class) {
            (Need::Nothing, _) => return Ok(None),
            // An address in code would have to be written into executable memory.
            (Need::Address, Class::Text) => return Err(unsupported()),
            (Need::Address | Need::Distance | Need::Slot, _) => {}
        }
        let size = self.pieces[piece].data.len() as u64;
        if offset.checked_add(form.bytes).is_none_or(|end| end > size) {
            let what = relocate::kind_name(self.machine, kind);
            return Err(self.outside(piece, what, offset));
        }
        let target = target.ok_or_else(|| LinkError::Undefined {
            object: self.names[i].clone(),
            symbol: symbol.clone(),
        })?;
        let addend = relocation.addend();
        Ok(Some(Relocation { offset, kind, addend, symbol, target }))
    }

    /// Name, piece and offset of what a relocation of object `i` refers to.
    fn target(
        &self,
        i: usize,
        target: RelocationTarget,
    ) -> Result<(String, Option<(usize, u64)>), LinkError> {
        let RelocationTarget::Symbol(index) = target else {
            // Symbol 0: only kinds that need no target have none.
            return Ok((String::new(), None));
        };
        let symbol = self.files[i].symbol_by_index(index);
        let symbol = symbol.map_err(|error| self.unreadable(i, error))?;
        let mut name = symbol.name().map_err(|error| self.unreadable(i, error))?.to_owned();
        if symbol.is_undefined() {
            let definition = self.globals.get(&name);
            return Ok((name, definition.map(|d| (d.piece, d.offset))));
        }
        let section = symbol.section_index();
        let piece = section.and_then(|section| self.kept.get(&(i, section)).copied());
        if name.is_empty() {
            // A section's own symbol has no name.
            let section = section.and_then(|s| self.files[i].section_by_index(s).ok());
            name = section.and_then(|s| s.name().ok().map(str::to_owned)).unwrap_or_default();
        }
        if let Some(piece) = piece
            && symbol.address() > self.pieces[piece].data.len() as u64
        {
            return Err(self.outside(piece, format!("symbol `{name}`"), symbol.address()));
        }
        Ok((name, piece.map(|piece| (piece, symbol.address()))))
    }
}
