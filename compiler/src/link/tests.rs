//! Objects made by hand, linked, and either called or refused.
#![allow(clippy::unwrap_used)]

use super::gather::{Class, Gathered, LIMIT, Piece};
use super::{LinkError, Machine, Object, link};
use object::read::elf::ElfFile64;
use object::write::{self, Relocation, StandardSection, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _,
    RelocationFlags, SectionKind, SymbolFlags, SymbolKind, SymbolScope, elf,
};
use std::collections::BTreeMap;

/// An object under construction.
struct Source(write::Object<'static>);

impl Source {
    fn new(architecture: Architecture) -> Source {
        Source(write::Object::new(BinaryFormat::Elf, architecture, object::Endianness::Little))
    }

    fn x86() -> Source {
        Source::new(Architecture::X86_64)
    }

    fn symbol(&mut self, name: &str, kind: SymbolKind, section: SymbolSection) -> SymbolId {
        self.0.add_symbol(Symbol {
            name: name.into(),
            value: 0,
            size: 0,
            kind,
            scope: SymbolScope::Dynamic,
            weak: false,
            section,
            flags: SymbolFlags::None,
        })
    }

    fn define(
        &mut self,
        name: &str,
        section: StandardSection,
        bytes: &[u8],
        align: u64,
    ) -> SymbolId {
        let kind =
            if section == StandardSection::Text { SymbolKind::Text } else { SymbolKind::Data };
        let section = self.0.section_id(section);
        let symbol = self.symbol(name, kind, SymbolSection::Undefined);
        self.0.add_symbol_data(symbol, section, bytes, align);
        symbol
    }

    fn function(&mut self, name: &str, bytes: &[u8]) -> SymbolId {
        self.define(name, StandardSection::Text, bytes, 16)
    }

    fn import(&mut self, name: &str) -> SymbolId {
        self.symbol(name, SymbolKind::Text, SymbolSection::Undefined)
    }

    /// Relocates byte `at` of `symbol`.
    fn relocate(&mut self, symbol: SymbolId, at: u64, kind: u32, target: SymbolId, addend: i64) {
        let section = self.0.symbol(symbol).section.id().unwrap();
        let offset = self.0.symbol(symbol).value + at;
        let flags = RelocationFlags::Elf { r_type: kind };
        self.0
            .add_relocation(section, Relocation { offset, symbol: target, addend, flags })
            .unwrap();
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.write().unwrap()
    }
}

fn link_all(sources: &[&Source]) -> Result<Vec<u8>, LinkError> {
    let bytes: Vec<Vec<u8>> = sources.iter().map(|source| source.bytes()).collect();
    let names = ["first", "second", "third"];
    let objects: Vec<_> =
        bytes.iter().zip(names).map(|(bytes, name)| Object { name, bytes }).collect();
    link(&objects, "kernels.so")
}

/// `base`: a constant plus the argument. `next`: one more than `base`, by a call across objects.
/// `slot` and `table`: `base` again, through the GOT and through a table of addresses.
fn arithmetic() -> [Source; 2] {
    let mut first = Source::x86();
    // mov rax, [rip + constant]; add rax, rdi; ret
    let base = first.function("base", &[0x48, 0x8b, 5, 0, 0, 0, 0, 0x48, 1, 0xf8, 0xc3]);
    let constant =
        first.define("constant", StandardSection::ReadOnlyData, &1000u64.to_le_bytes(), 64);
    first.relocate(base, 3, elf::R_X86_64_PC32, constant, -4);
    let mut second = Source::x86();
    // call base; inc rax; ret
    let next = second.function("next", &[0xe8, 0, 0, 0, 0, 0x48, 0xff, 0xc0, 0xc3]);
    let base = second.import("base");
    second.relocate(next, 1, elf::R_X86_64_PLT32, base, -4);
    // mov rax, [rip + slot]; jmp rax
    let jump = [0x48, 0x8b, 5, 0, 0, 0, 0, 0xff, 0xe0];
    let slot = second.function("slot", &jump);
    second.relocate(slot, 3, elf::R_X86_64_REX_GOTPCRELX, base, -4);
    let table = second.function("table", &jump);
    let addresses = second.define("addresses", StandardSection::ReadOnlyDataWithRel, &[0; 16], 8);
    second.relocate(addresses, 8, elf::R_X86_64_64, base, 0);
    second.relocate(table, 3, elf::R_X86_64_PC32, addresses, 8 - 4);
    [first, second]
}

#[test]
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn linked_functions_run() {
    let [first, second] = arithmetic();
    let image = link_all(&[&first, &second]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels.so");
    std::fs::write(&path, image).unwrap();
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string; the image is position-independent and imports nothing.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    assert!(!library.is_null());
    for (name, expected) in [(c"base", 1042), (c"next", 1043), (c"slot", 1042), (c"table", 1042)] {
        // SAFETY: the library is open, and each of its functions maps an i64 to an i64.
        let answer = unsafe {
            let function = libc::dlsym(library, name.as_ptr());
            assert!(!function.is_null(), "{name:?}");
            std::mem::transmute::<*mut libc::c_void, extern "C" fn(i64) -> i64>(function)(42)
        };
        assert_eq!(answer, expected, "{name:?}");
    }
    // SAFETY: nothing of the library is used any more.
    unsafe { libc::dlclose(library) };
}

#[test]
fn image_describes_itself_to_tools() {
    let [first, second] = arithmetic();
    let image = link_all(&[&first, &second]).unwrap();
    let file = ElfFile64::<Endianness>::parse(image.as_slice()).unwrap();
    let names: Vec<_> = file.dynamic_symbols().map(|s| s.name().unwrap().to_owned()).collect();
    assert_eq!(names, ["base", "next", "slot", "table"]);
    let text = file.section_by_name(".text").unwrap();
    for symbol in file.dynamic_symbols() {
        assert_eq!(symbol.section_index(), Some(text.index()));
        assert!(symbol.size() > 0 && symbol.address() >= text.address());
        assert!(symbol.address() + symbol.size() <= text.address() + text.size());
    }
    let base = file.dynamic_symbols().next().unwrap();
    let code = text.data_range(base.address(), base.size()).unwrap().unwrap();
    assert_eq!(code[..3], [0x48, 0x8b, 5]);
    assert_eq!(file.section_by_name(".rela.dyn").unwrap().size(), 2 * 24);
}

#[test]
fn same_objects_give_same_bytes() {
    let images = [arithmetic(), arithmetic()].map(|[a, b]| link_all(&[&a, &b]).unwrap());
    assert_eq!(images[0], images[1]);
}

#[test]
fn constants_keep_their_alignment() {
    let mut source = Source::x86();
    let f = source.function("f", &[0x48, 0x8d, 5, 0, 0, 0, 0, 0xc3]);
    source.define("pad", StandardSection::ReadOnlyData, &[1; 7], 1);
    let wide = source.define("wide", StandardSection::ReadOnlyData, &[2; 64], 64);
    source.relocate(f, 3, elf::R_X86_64_PC32, wide, -4);
    let image = link_all(&[&source]).unwrap();
    let file = ElfFile64::<Endianness>::parse(image.as_slice()).unwrap();
    let place = file.dynamic_symbols().next().unwrap().address() + 3;
    let distance =
        i32::from_le_bytes(image[place as usize..place as usize + 4].try_into().unwrap());
    let target = place.wrapping_add_signed(i64::from(distance) + 4);
    assert_eq!(target % 64, 0);
    assert_eq!(image[target as usize..target as usize + 64], [2; 64]);
}

#[test]
fn unknown_relocations_are_named() {
    let refused = |kind| {
        let mut source = Source::x86();
        let f = source.function("f", &[0; 16]);
        source.relocate(f, 4, kind, f, 0);
        link_all(&[&source]).unwrap_err()
    };
    for (kind, name) in [
        (elf::R_X86_64_32S, "R_X86_64_32S"),
        (elf::R_X86_64_TPOFF32, "R_X86_64_TPOFF32"),
        (200, "R_X86_64 number 200"),
        // An address in code would need writable code.
        (elf::R_X86_64_64, "R_X86_64_64"),
    ] {
        let error = refused(kind);
        assert!(matches!(error, LinkError::Relocation { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("offset 0x4"), "{text}");
    }
}

#[test]
fn symbols_that_do_not_resolve_are_named() {
    let mut source = Source::x86();
    let f = source.function("f", &[0xe8, 0, 0, 0, 0, 0xc3]);
    let expf = source.import("expf");
    source.relocate(f, 1, elf::R_X86_64_PLT32, expf, -4);
    let error = link_all(&[&source]).unwrap_err();
    let (object, symbol) = ("first".to_string(), "expf".to_string());
    assert_eq!(error, LinkError::Undefined { object, symbol });

    let mut one = Source::x86();
    one.function("f", &[0xc3]);
    let error = link_all(&[&one, &one]).unwrap_err();
    let (first, second) = ("first".to_string(), "second".to_string());
    let expected = LinkError::Duplicate { symbol: "f".into(), first, second };
    assert_eq!(error, expected);
}

#[test]
fn images_beyond_every_relocation_are_refused() {
    // As if objects with so much code were there: padding counts as code does.
    let piece = Piece {
        object: 0,
        name: ".text".into(),
        class: Class::Text,
        align: 2 * LIMIT,
        data: vec![0xc3],
        relocations: vec![],
    };
    let (objects, functions) = (vec!["first".into()], BTreeMap::new());
    let gathered = Gathered { machine: Machine::X86_64, objects, pieces: vec![piece], functions };
    assert!(matches!(super::elf::write(gathered, "image"), Err(LinkError::TooLarge { .. })));
}

#[test]
fn sections_that_kernels_must_not_have_are_refused() {
    let with = |name: &str, kind: SectionKind, bytes: &[u8]| {
        let mut source = Source::x86();
        source.function("f", &[0xc3]);
        let section = source.0.add_section(vec![], name.into(), kind);
        match kind {
            SectionKind::UninitializedData => source.0.append_section_bss(section, 8, 8),
            _ => source.0.append_section_data(section, bytes, 8),
        };
        link_all(&[&source])
    };
    assert!(matches!(with(".data", SectionKind::Data, &[1]), Err(LinkError::Section { .. })));
    assert!(matches!(
        with(".bss", SectionKind::UninitializedData, &[]),
        Err(LinkError::Section { .. })
    ));
    assert!(matches!(with(".tdata", SectionKind::Tls, &[1]), Err(LinkError::Section { .. })));
    assert!(with(".data", SectionKind::Data, &[]).is_ok(), "empty sections hold nothing");
    assert!(with(".comment", SectionKind::OtherString, b"llvm").is_ok());

    let mut source = Source::x86();
    source.function("f", &[0xc3]);
    source.define("c", StandardSection::ReadOnlyData, &[1], 8192);
    assert!(matches!(link_all(&[&source]), Err(LinkError::Section { .. })));
}

#[test]
fn objects_of_another_kind_are_refused() {
    let mut x86 = Source::x86();
    x86.function("f", &[0xc3]);
    let mut arm = Source::new(Architecture::Aarch64);
    arm.function("g", &[0xc0, 3, 0x5f, 0xd6]);
    assert!(matches!(link_all(&[&x86, &arm]), Err(LinkError::Foreign { .. })));
    let mut riscv = Source::new(Architecture::Riscv64);
    riscv.function("f", &[0; 4]);
    assert!(matches!(link_all(&[&riscv]), Err(LinkError::Foreign { .. })));
    let image = link_all(&[&x86]).unwrap();
    let shared = [Object { name: "image", bytes: &image }];
    assert!(matches!(link(&shared, "x"), Err(LinkError::Foreign { .. })));
    assert!(matches!(link(&[], "x"), Err(LinkError::Empty { .. })));
}

#[test]
fn damaged_objects_never_panic() {
    let [first, _] = arithmetic();
    let bytes = first.bytes();
    let link_one = |bytes: &[u8]| link(&[Object { name: "damaged", bytes }], "x");
    assert!(matches!(link_one(b""), Err(LinkError::Unreadable { .. })));
    for keep in 0..bytes.len() {
        // Names at the end may be cut without harm; everything else is an error.
        let _ = link_one(&bytes[..keep]);
    }
    for at in 0..bytes.len() {
        for value in [0, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
            let mut damaged = bytes.clone();
            damaged[at] = value;
            let _ = link_one(&damaged);
        }
    }
}

#[test]
fn relocations_outside_their_section_are_refused() {
    let mut source = Source::x86();
    let f = source.function("f", &[0xc3; 6]);
    source.relocate(f, 3, elf::R_X86_64_PC32, f, 0);
    assert!(matches!(link_all(&[&source]), Err(LinkError::Outside { .. })));
    let mut source = Source::x86();
    let f = source.function("f", &[0xc3; 16]);
    source.relocate(f, 0, elf::R_X86_64_PC32, f, i64::from(i32::MAX) + 100);
    assert!(matches!(link_all(&[&source]), Err(LinkError::Value { .. })));
}

/// Code words of `f` after linking it with 16 bytes of constants 8 bytes into their section.
fn aarch64_words(code: &[(u32, u32, bool, i64)]) -> Result<(u64, u64, Vec<u32>), LinkError> {
    let mut source = Source::new(Architecture::Aarch64);
    let words: Vec<u8> = code.iter().flat_map(|(word, ..)| word.to_le_bytes()).collect();
    let f = source.function("f", &words);
    source.define("pad", StandardSection::ReadOnlyData, &[1; 16], 16);
    let constant = source.define("constant", StandardSection::ReadOnlyData, &[7; 16], 16);
    for (i, (_, kind, to_constant, addend)) in code.iter().enumerate() {
        let target = if *to_constant { constant } else { f };
        source.relocate(f, 4 * i as u64, *kind, target, *addend);
    }
    let image = link_all(&[&source])?;
    let file = ElfFile64::<Endianness>::parse(image.as_slice()).unwrap();
    let at = file.dynamic_symbols().next().unwrap().address();
    let constant = file.section_by_name(".rodata").unwrap().address() + 16;
    let code = &image[at as usize..at as usize + words.len()];
    let words = code.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
    Ok((at, constant, words))
}

#[test]
fn aarch64_instructions_are_patched() {
    let code = [
        (0x9000_0000, elf::R_AARCH64_ADR_PREL_PG_HI21, true, 0), // adrp x0, constant
        (0x9100_0000, elf::R_AARCH64_ADD_ABS_LO12_NC, true, 0),  // add x0, x0, :lo12:constant
        (0x3940_0000, elf::R_AARCH64_LDST8_ABS_LO12_NC, true, 1), // ldrb w0, [x0, ...]
        (0x7940_0000, elf::R_AARCH64_LDST16_ABS_LO12_NC, true, 2), // ldrh
        (0xb940_0000, elf::R_AARCH64_LDST32_ABS_LO12_NC, true, 4), // ldr w0
        (0xf940_0000, elf::R_AARCH64_LDST64_ABS_LO12_NC, true, 8), // ldr x0
        (0x3dc0_0000, elf::R_AARCH64_LDST128_ABS_LO12_NC, true, 0), // ldr q0
        (0x9400_0000, elf::R_AARCH64_CALL26, false, 0),          // bl f
        (0x1400_0000, elf::R_AARCH64_JUMP26, false, 4),          // b f + 4
    ];
    let (f, constant, words) = aarch64_words(&code).unwrap();
    let low = (constant & 0xfff) as u32;
    let pages = ((constant >> 12) as i64 - (f >> 12) as i64) as u32;
    assert_eq!(words[0], 0x9000_0000 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5);
    assert_eq!(words[1], 0x9100_0000 | low << 10);
    assert_eq!(words[2], 0x3940_0000 | (low + 1) << 10);
    assert_eq!(words[3], 0x7940_0000 | ((low + 2) / 2) << 10);
    assert_eq!(words[4], 0xb940_0000 | ((low + 4) / 4) << 10);
    assert_eq!(words[5], 0xf940_0000 | ((low + 8) / 8) << 10);
    assert_eq!(words[6], 0x3dc0_0000 | (low / 16) << 10);
    assert_eq!(words[7], 0x9400_0000 | (0x0400_0000 - 7));
    assert_eq!(words[8], 0x1400_0000 | (0x0400_0000 - 7));
}

#[test]
fn aarch64_data_is_relocated() {
    let mut source = Source::new(Architecture::Aarch64);
    let f = source.function("f", &[0xc0, 3, 0x5f, 0xd6]);
    let table = source.define("table", StandardSection::ReadOnlyDataWithRel, &[0; 24], 8);
    source.relocate(table, 0, elf::R_AARCH64_ABS64, f, 0);
    source.relocate(table, 8, elf::R_AARCH64_PREL64, f, 0);
    source.relocate(table, 16, elf::R_AARCH64_PREL32, f, 1);
    let image = link_all(&[&source]).unwrap();
    let file = ElfFile64::<Endianness>::parse(image.as_slice()).unwrap();
    let f = file.dynamic_symbols().next().unwrap().address();
    let table = file.section_by_name(".data.rel.ro").unwrap().address();
    let at = |place: u64| &image[place as usize..place as usize + 8];
    let word = |place: u64| u64::from_le_bytes(at(place).try_into().unwrap());
    assert_eq!(word(table + 8), f.wrapping_sub(table + 8));
    assert_eq!(word(table + 16), u64::from((f as u32).wrapping_sub(table as u32 + 16) + 1));
    let rela = file.section_by_name(".rela.dyn").unwrap().address();
    assert_eq!(word(rela), table);
    assert_eq!(word(rela + 8), u64::from(elf::R_AARCH64_RELATIVE));
    assert_eq!(word(rela + 16), f);
}

#[test]
fn aarch64_misfits_are_refused() {
    let ldr = 0xf940_0000;
    let code = [(ldr, elf::R_AARCH64_LDST64_ABS_LO12_NC, true, 4)];
    let error = aarch64_words(&code).unwrap_err();
    assert!(matches!(error, LinkError::Value { .. }), "{error}");
    assert!(error.to_string().contains("R_AARCH64_LDST64_ABS_LO12_NC"), "{error}");
    let call = 0x9400_0000;
    for addend in [1 << 27, 2] {
        let error = aarch64_words(&[(call, elf::R_AARCH64_CALL26, false, addend)]).unwrap_err();
        assert!(matches!(error, LinkError::Value { .. }), "{error}");
    }
    let error = aarch64_words(&[(call, elf::R_AARCH64_TSTBR14, false, 0)]).unwrap_err();
    assert!(error.to_string().contains("R_AARCH64_TSTBR14"), "{error}");
}
