//! Relocations of aarch64 (ELF for the Arm 64-bit Architecture, section 5.7).

use super::relocate::{Form, Misfit, Need};
use object::elf::{
    R_AARCH64_ABS64, R_AARCH64_ADD_ABS_LO12_NC, R_AARCH64_ADR_GOT_PAGE, R_AARCH64_ADR_PREL_PG_HI21,
    R_AARCH64_ADR_PREL_PG_HI21_NC, R_AARCH64_CALL26, R_AARCH64_JUMP26, R_AARCH64_LD64_GOT_LO12_NC,
    R_AARCH64_LDST8_ABS_LO12_NC, R_AARCH64_LDST16_ABS_LO12_NC, R_AARCH64_LDST32_ABS_LO12_NC,
    R_AARCH64_LDST64_ABS_LO12_NC, R_AARCH64_LDST128_ABS_LO12_NC, R_AARCH64_NONE, R_AARCH64_PREL32,
    R_AARCH64_PREL64,
};

/// Names of the kinds that are known, and of those that backends emit in other modes.
pub(super) const NAMES: &[(u32, &str)] = &[
    (0, "NONE"),
    (257, "ABS64"),
    (258, "ABS32"),
    (259, "ABS16"),
    (260, "PREL64"),
    (261, "PREL32"),
    (262, "PREL16"),
    (263, "MOVW_UABS_G0"),
    (264, "MOVW_UABS_G0_NC"),
    (265, "MOVW_UABS_G1"),
    (266, "MOVW_UABS_G1_NC"),
    (267, "MOVW_UABS_G2"),
    (268, "MOVW_UABS_G2_NC"),
    (269, "MOVW_UABS_G3"),
    (273, "LD_PREL_LO19"),
    (274, "ADR_PREL_LO21"),
    (275, "ADR_PREL_PG_HI21"),
    (276, "ADR_PREL_PG_HI21_NC"),
    (277, "ADD_ABS_LO12_NC"),
    (278, "LDST8_ABS_LO12_NC"),
    (279, "TSTBR14"),
    (280, "CONDBR19"),
    (282, "JUMP26"),
    (283, "CALL26"),
    (284, "LDST16_ABS_LO12_NC"),
    (285, "LDST32_ABS_LO12_NC"),
    (286, "LDST64_ABS_LO12_NC"),
    (299, "LDST128_ABS_LO12_NC"),
    (311, "ADR_GOT_PAGE"),
    (312, "LD64_GOT_LO12_NC"),
    (314, "PLT32"),
];

pub(super) fn form(kind: u32) -> Option<Form> {
    let (need, bytes) = match kind {
        R_AARCH64_NONE => (Need::Nothing, 0),
        R_AARCH64_CALL26
        | R_AARCH64_JUMP26
        | R_AARCH64_ADR_PREL_PG_HI21
        | R_AARCH64_ADR_PREL_PG_HI21_NC
        | R_AARCH64_ADD_ABS_LO12_NC
        | R_AARCH64_LDST8_ABS_LO12_NC
        | R_AARCH64_LDST16_ABS_LO12_NC
        | R_AARCH64_LDST32_ABS_LO12_NC
        | R_AARCH64_LDST64_ABS_LO12_NC
        | R_AARCH64_LDST128_ABS_LO12_NC
        | R_AARCH64_PREL32 => (Need::Distance, 4),
        R_AARCH64_PREL64 => (Need::Distance, 8),
        R_AARCH64_ADR_GOT_PAGE | R_AARCH64_LD64_GOT_LO12_NC => (Need::Slot, 4),
        R_AARCH64_ABS64 => (Need::Address, 8),
        _ => return None,
    };
    Some(Form { need, bytes })
}

pub(super) fn patch(kind: u32, field: &mut [u8], place: i64, target: i64) -> Result<(), Misfit> {
    match kind {
        R_AARCH64_PREL64 => {
            field.copy_from_slice(&target.wrapping_sub(place).to_le_bytes());
            Ok(())
        }
        R_AARCH64_PREL32 => {
            let value = target.wrapping_sub(place);
            let fits = (i64::from(i32::MIN)..=i64::from(u32::MAX)).contains(&value);
            let value = check(fits, value, "a 32-bit distance")?;
            field.copy_from_slice(&(value as u32).to_le_bytes());
            Ok(())
        }
        _ => patch_instruction(kind, field, place, target),
    }
}

fn patch_instruction(kind: u32, field: &mut [u8], place: i64, target: i64) -> Result<(), Misfit> {
    let mut word = [0; 4];
    word.copy_from_slice(field);
    let word = u32::from_le_bytes(word);
    let word = match kind {
        R_AARCH64_CALL26 | R_AARCH64_JUMP26 => {
            let value = target.wrapping_sub(place);
            let fits = value & 3 == 0 && (-(1 << 27)..1 << 27).contains(&value);
            let value = check(fits, value, "a multiple of 4 within 128 MiB")?;
            word & !0x03ff_ffff | (value >> 2) as u32 & 0x03ff_ffff
        }
        R_AARCH64_ADR_PREL_PG_HI21 | R_AARCH64_ADR_PREL_PG_HI21_NC | R_AARCH64_ADR_GOT_PAGE => {
            let value = (target & !0xfff).wrapping_sub(place & !0xfff);
            let fits = (-(1 << 32)..1 << 32).contains(&value);
            let pages = (check(fits, value, "a distance within 4 GiB")? >> 12) as u32;
            word & !0x60ff_ffe0 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5
        }
        // The low twelve bits of the address, scaled by the width of the access.
        _ => {
            let shift = match kind {
                R_AARCH64_LDST16_ABS_LO12_NC => 1,
                R_AARCH64_LDST32_ABS_LO12_NC => 2,
                R_AARCH64_LDST64_ABS_LO12_NC | R_AARCH64_LD64_GOT_LO12_NC => 3,
                R_AARCH64_LDST128_ABS_LO12_NC => 4,
                _ => 0,
            };
            let value = target & 0xfff;
            let fits = value & ((1 << shift) - 1) == 0;
            let value = check(fits, value, "a multiple of the access's width")? as u32;
            word & !0x003f_fc00 | (value >> shift) << 10
        }
    };
    field.copy_from_slice(&word.to_le_bytes());
    Ok(())
}

fn check(fits: bool, value: i64, expected: &'static str) -> Result<i64, Misfit> {
    match fits {
        true => Ok(value),
        false => Err(Misfit { value, expected }),
    }
}
