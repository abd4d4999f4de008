//! Objects of single kernels joined into one: one text section, one of constants.

use crate::error::LlvmError;
use object::read::elf::ElfFile64;
use object::write::{Object, Relocation, SectionId, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, Object as _, ObjectSection, ObjectSymbol,
    RelocationFlags, RelocationTarget, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};
use std::collections::BTreeMap;

type File<'d> = ElfFile64<'d, Endianness>;

/// Joins the objects of the named kernels, in their order.
///
/// # Errors
/// [`LlvmError::Join`] if an object is not what LLVM writes, [`LlvmError::Import`] if one refers to
/// something outside of it.
pub(crate) fn join(objects: &[(String, Vec<u8>)], x86: bool) -> Result<Vec<u8>, LlvmError> {
    let arch = if x86 { Architecture::X86_64 } else { Architecture::Aarch64 };
    let mut out = Object::new(BinaryFormat::Elf, arch, object::Endianness::Little);
    let text = out.add_section(vec![], b".text".to_vec(), SectionKind::Text);
    let data = out.add_section(vec![], b".rodata".to_vec(), SectionKind::ReadOnlyData);
    for (kernel, bytes) in objects {
        let file = File::parse(bytes.as_slice()).map_err(fault)?;
        add(&mut out, &file, (text, data), kernel)?;
    }
    out.add_section(vec![], b".note.GNU-stack".to_vec(), SectionKind::Other);
    out.write().map_err(fault)
}

fn fault(reason: impl ToString) -> LlvmError {
    LlvmError::Join { reason: reason.to_string() }
}

/// Where a section of an object went.
type Placed = BTreeMap<usize, (SectionId, u64)>;

fn add(
    out: &mut Object<'_>,
    file: &File<'_>,
    (text, data): (SectionId, SectionId),
    kernel: &str,
) -> Result<(), LlvmError> {
    let mut placed = Placed::new();
    for s in file.sections() {
        let to = match s.kind() {
            SectionKind::Text => text,
            SectionKind::ReadOnlyData | SectionKind::ReadOnlyString => data,
            SectionKind::Data | SectionKind::UninitializedData if s.size() > 0 => {
                return Err(fault(format!("kernel `{kernel}` has writable data")));
            }
            _ => continue,
        };
        if s.size() > 0 {
            let bytes = s.data().map_err(fault)?;
            let at = out.append_section_data(to, bytes, s.align().max(1));
            placed.insert(s.index().0, (to, at));
        }
    }
    for s in file.symbols().filter(|s| s.is_global()) {
        let home = s.section_index().and_then(|i| placed.get(&i.0));
        let Some((section, at)) = home else {
            let symbol = s.name().map_err(fault)?.to_owned();
            return Err(LlvmError::Import { kernel: kernel.to_owned(), symbol });
        };
        out.add_symbol(Symbol {
            name: s.name().map_err(fault)?.as_bytes().to_vec(),
            value: at + s.address(),
            size: s.size(),
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(*section),
            flags: SymbolFlags::None,
        });
    }
    for s in file.sections() {
        if let Some(home) = placed.get(&s.index().0) {
            relocate(out, file, &placed, *home, &s, kernel)?;
        }
    }
    Ok(())
}

fn relocate<'d>(
    out: &mut Object<'_>,
    file: &File<'d>,
    placed: &Placed,
    (section, at): (SectionId, u64),
    from: &impl ObjectSection<'d>,
    kernel: &str,
) -> Result<(), LlvmError> {
    for (offset, r) in from.relocations() {
        let RelocationTarget::Symbol(index) = r.target() else {
            return Err(fault(format!("a relocation of kernel `{kernel}` without symbol")));
        };
        let symbol = file.symbol_by_index(index).map_err(fault)?;
        let home = symbol.section_index().and_then(|i| placed.get(&i.0));
        let Some((target, base)) = home else {
            let symbol = symbol.name().map_err(fault)?.to_owned();
            return Err(LlvmError::Import { kernel: kernel.to_owned(), symbol });
        };
        let RelocationFlags::Elf { r_type } = r.flags() else {
            return Err(fault(format!("a relocation of kernel `{kernel}` that is not ELF's")));
        };
        let place = i64::try_from(base + symbol.address()).map_err(fault)?;
        let relocation = Relocation {
            offset: at + offset,
            symbol: out.section_symbol(*target),
            addend: r.addend() + place,
            flags: RelocationFlags::Elf { r_type },
        };
        out.add_relocation(section, relocation).map_err(fault)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_objects_are_joined() {
        let join = |bytes: Vec<u8>| join(&[("k".to_owned(), bytes)], true);
        assert!(matches!(join(b"no object".to_vec()), Err(LlvmError::Join { .. })));
        let mut object =
            Object::new(BinaryFormat::Elf, Architecture::X86_64, object::Endianness::Little);
        object.add_symbol(Symbol {
            name: b"expf".to_vec(),
            value: 0,
            size: 0,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Undefined,
            flags: SymbolFlags::None,
        });
        let importing = object.write().expect("an object");
        assert!(matches!(join(importing), Err(LlvmError::Import { .. })));
    }
}
