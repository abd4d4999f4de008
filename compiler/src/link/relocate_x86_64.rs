//! Relocations of x86-64 (System V ABI, AMD64 supplement, table 4.9).

use super::relocate::{Form, Misfit, Need};
use object::elf::{
    R_X86_64_64, R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX, R_X86_64_NONE, R_X86_64_PC32,
    R_X86_64_PC64, R_X86_64_PLT32, R_X86_64_REX_GOTPCRELX,
};

/// Names of the kinds that are known, and of those that backends emit in other modes.
pub(super) const NAMES: &[(u32, &str)] = &[
    (0, "NONE"),
    (1, "64"),
    (2, "PC32"),
    (3, "GOT32"),
    (4, "PLT32"),
    (9, "GOTPCREL"),
    (10, "32"),
    (11, "32S"),
    (12, "16"),
    (13, "PC16"),
    (14, "8"),
    (15, "PC8"),
    (17, "DTPOFF64"),
    (18, "TPOFF64"),
    (19, "TLSGD"),
    (20, "TLSLD"),
    (21, "DTPOFF32"),
    (22, "GOTTPOFF"),
    (23, "TPOFF32"),
    (24, "PC64"),
    (25, "GOTOFF64"),
    (26, "GOTPC32"),
    (41, "GOTPCRELX"),
    (42, "REX_GOTPCRELX"),
];

pub(super) fn form(kind: u32) -> Option<Form> {
    let (need, bytes) = match kind {
        R_X86_64_NONE => (Need::Nothing, 0),
        R_X86_64_PC32 | R_X86_64_PLT32 => (Need::Distance, 4),
        R_X86_64_PC64 => (Need::Distance, 8),
        R_X86_64_GOTPCREL | R_X86_64_GOTPCRELX | R_X86_64_REX_GOTPCRELX => (Need::Slot, 4),
        R_X86_64_64 => (Need::Address, 8),
        _ => return None,
    };
    Some(Form { need, bytes })
}

pub(super) fn patch(_kind: u32, field: &mut [u8], place: i64, target: i64) -> Result<(), Misfit> {
    let value = target.wrapping_sub(place);
    if field.len() == 8 {
        field.copy_from_slice(&value.to_le_bytes());
        return Ok(());
    }
    let expected = "a signed 32-bit distance";
    let narrow = i32::try_from(value).map_err(|_| Misfit { value, expected })?;
    field.copy_from_slice(&narrow.to_le_bytes());
    Ok(())
}
