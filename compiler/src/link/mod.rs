//! Links relocatable objects into one position-independent image, without a C toolchain.
//!
//! The image is an ELF shared object (ET_DYN) that imports nothing: the runtime's loader maps it,
//! and so does `dlopen`. Functions are named in `.dynsym`, and section headers let `objdump -d`
//! show them. Equal objects in equal order give equal bytes.
//!
//! - `gather`: sections, symbols and relocations out of the objects
//! - `elf`: the layout and the bytes of the image
//! - `relocate_x86_64`, `relocate_aarch64`: what each kind of relocation means

mod elf;
pub mod error;
mod gather;
mod relocate;
mod relocate_aarch64;
mod relocate_x86_64;
#[cfg(test)]
mod tests;

pub use error::LinkError;

/// A relocatable object.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    /// Name for messages, e.g. the kernel's.
    pub name: &'a str,
    /// An ELF file of type ET_REL.
    pub bytes: &'a [u8],
}

/// A machine that objects are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64-bit x86, little-endian.
    X86_64,
    /// 64-bit Arm, little-endian.
    Aarch64,
}

/// Links `objects`, all of one machine, into an image whose DT_SONAME is `soname`. Every global
/// function is exported.
///
/// # Errors
/// [`LinkError`]: an object is damaged or of another machine, a symbol is undefined or defined
/// twice, a relocation or section is of a kind that kernels do not need.
pub fn link(objects: &[Object<'_>], soname: &str) -> Result<Vec<u8>, LinkError> {
    let gathered = gather::gather(objects)?;
    elf::write(gathered, soname)
}
