//! Relocations, whatever the machine.

use super::{Machine, relocate_aarch64, relocate_x86_64};

/// What a kind of relocation asks of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing at all.
    Nothing,
    /// A distance that is known when linking.
    Distance,
    /// The address of a slot (in the GOT) that holds the target's address.
    Slot,
    /// The target's address, known when loading.
    Address,
}

/// A kind of relocation: what it needs and how many bytes it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub need: Need,
    pub bytes: u64,
}

/// The value does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub value: i64,
    pub expected: &'static str,
}

/// The form of `kind`, or `None` if the machine's linker does not know it.
pub(super) fn form(machine: Machine, kind: u32) -> Option<Form> {
    match machine {
        Machine::X86_64 => relocate_x86_64::form(kind),
        Machine::Aarch64 => relocate_aarch64::form(kind),
    }
}

/// Changes `field` (of the form's size) at address `place` to refer to `target`: the symbol's
/// address, or its slot's, plus the addend. `kind` is one with a form that needs distance or slot.
pub(super) fn patch(
    machine: Machine,
    kind: u32,
    field: &mut [u8],
    place: i64,
    target: i64,
) -> Result<(), Misfit> {
    match machine {
        Machine::X86_64 => relocate_x86_64::patch(kind, field, place, target),
        Machine::Aarch64 => relocate_aarch64::patch(kind, field, place, target),
    }
}

/// The loader's relocation for a [`Need::Address`]: load address plus a value.
pub(super) fn relative_kind(machine: Machine) -> u32 {
    match machine {
        Machine::X86_64 => object::elf::R_X86_64_RELATIVE,
        Machine::Aarch64 => object::elf::R_AARCH64_RELATIVE,
    }
}

/// The kind's name, for messages.
pub(super) fn kind_name(machine: Machine, kind: u32) -> String {
    let (prefix, names) = match machine {
        Machine::X86_64 => ("R_X86_64", relocate_x86_64::NAMES),
        Machine::Aarch64 => ("R_AARCH64", relocate_aarch64::NAMES),
    };
    match names.iter().find(|(number, _)| *number == kind) {
        Some((_, name)) => format!("{prefix}_{name}"),
        None => format!("{prefix} number {kind}"),
    }
}
