//! Levels of the instruction sets, and what code for each may use.

use crate::error::LlvmError;

/// How tile registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiles {
    /// Not at all.
    None,
    /// By the AMX instructions.
    Hardware,
    /// By functions that emulate eight tile registers in scratch: runs anywhere, for tests.
    Emulated,
}

/// A level: code for it runs on every processor that has the features it names.
#[derive(Debug, PartialEq, Eq)]
pub struct Isa {
    /// Name, e.g. `x86-64-v4`.
    pub name: &'static str,
    /// LLVM's triple.
    pub triple: &'static str,
    /// LLVM's processor.
    pub cpu: &'static str,
    /// LLVM's feature string, beyond the processor's.
    pub features: &'static str,
    /// Lanes of 32 bits in a vector register.
    pub lanes: u32,
    /// Vector registers.
    pub registers: u32,
    /// Whether stores of some lanes only are instructions of the level (or short sequences).
    pub masks: bool,
    /// Whether a product and a sum rounded once are an instruction of the level.
    pub fma: bool,
    /// Whether f16 becomes f32 by an instruction of the level.
    pub f16: bool,
    /// Whether `vdpbf16ps` is an instruction of the level.
    pub dot_bf16: bool,
    /// Whether `vpdpbusd` is an instruction of the level.
    pub dot_i8: bool,
    /// AMX.
    pub tiles: Tiles,
    /// Pages in which a single stream is prefetched, a power of two. Measured: Zen 4 reads 92 %
    /// of its bandwidth with 32 and 73 % with 8; Sapphire Rapids all of it with 4 to 9.
    pub fan: u32,
}

const LINUX: &str = "x86_64-unknown-linux-gnu";

const V2: Isa = Isa {
    name: "x86-64-v2",
    triple: LINUX,
    cpu: "x86-64-v2",
    features: "",
    lanes: 4,
    registers: 16,
    masks: false,
    fma: false,
    f16: false,
    dot_bf16: false,
    dot_i8: false,
    tiles: Tiles::None,
    fan: 32,
};

const V3: Isa =
    Isa { name: "x86-64-v3", cpu: "x86-64-v3", lanes: 8, masks: true, fma: true, f16: true, ..V2 };

const V4: Isa = Isa { name: "x86-64-v4", cpu: "x86-64-v4", lanes: 16, registers: 32, ..V3 };

const V4_BF16: Isa = Isa {
    name: "x86-64-v4-bf16",
    features: "+avx512bf16,+avx512vnni",
    dot_bf16: true,
    dot_i8: true,
    ..V4
};

const AMX: Isa = Isa {
    name: "x86-64-amx",
    features: "+avx512bf16,+avx512vnni,+amx-tile,+amx-bf16,+amx-int8",
    tiles: Tiles::Hardware,
    fan: 8,
    ..V4_BF16
};

const V8_2: Isa = Isa {
    name: "aarch64-v8.2",
    triple: "aarch64-unknown-linux-gnu",
    cpu: "generic",
    features: "+v8.2a,+neon",
    registers: 32,
    fma: true,
    f16: true,
    fan: 8,
    ..V2
};

/// Every level, weakest first; the emulated one, which users do not see, comes last.
static LEVELS: [Isa; 7] =
    [V2, V3, V4, V4_BF16, AMX, V8_2, Isa { name: EMULATED, tiles: Tiles::Emulated, ..V3 }];

/// Level whose tile registers are emulated: the lowering to tiles on machines without them. It is
/// not listed, and for tests only.
pub const EMULATED: &str = "amx-soft";

/// Names of the levels of x86-64, best last.
pub const X86_64: &[&str] =
    &["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16", "x86-64-amx"];

/// Names of the levels of AArch64, best last.
pub const AARCH64: &[&str] = &["aarch64-v8.2"];

impl Isa {
    /// The level of a name.
    ///
    /// # Errors
    /// [`LlvmError::UnknownLevel`] if there is none.
    pub fn named(name: &str) -> Result<&'static Isa, LlvmError> {
        LEVELS.iter().find(|l| l.name == name).ok_or_else(|| LlvmError::UnknownLevel {
            found: name.to_owned(),
            expected: [X86_64, AARCH64].concat().join(", "),
        })
    }

    /// Whether the level belongs to x86-64.
    pub fn is_x86(&self) -> bool {
        self.triple == LINUX
    }
}
