//! Levels of instruction sets.

use crate::CraneliftError;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use target_lexicon::Triple;

/// A level: its name, target triple and what is turned on beyond the architecture's base.
struct Level {
    name: &'static str,
    triple: &'static str,
    features: &'static [&'static str],
}

const V2: &[&str] = &["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
const V3: &[&str] = &[
    "has_sse3",
    "has_ssse3",
    "has_sse41",
    "has_sse42",
    "has_popcnt",
    "has_avx",
    "has_avx2",
    "has_fma",
    "has_bmi1",
    "has_bmi2",
    "has_lzcnt",
];

const LEVELS: [Level; 3] = [
    Level { name: "x86-64-v2", triple: "x86_64-unknown-linux-gnu", features: V2 },
    Level { name: "x86-64-v3", triple: "x86_64-unknown-linux-gnu", features: V3 },
    Level { name: "aarch64-v8", triple: "aarch64-unknown-linux-gnu", features: &[] },
];

/// Levels of the architecture that the compiler runs on, best last.
pub fn host_levels() -> &'static [&'static str] {
    if cfg!(target_arch = "aarch64") { &["aarch64-v8"] } else { &["x86-64-v2", "x86-64-v3"] }
}

/// An instruction set to generate code for.
pub struct Isa {
    /// Cranelift's.
    pub target: OwnedTargetIsa,
    /// Whether a product and sum rounded once are one instruction.
    pub fma: bool,
    /// Whether what a comparison of float vectors reads must lie in registers: without AVX, in memory
    /// it would have to be aligned, and Cranelift does not see to that.
    pub compares_registers: bool,
}

/// The instruction set of a level.
pub fn isa(name: &str) -> Result<Isa, CraneliftError> {
    let level = LEVELS.iter().find(|l| l.name == name).ok_or_else(|| CraneliftError::Isa {
        found: name.to_string(),
        expected: LEVELS.iter().map(|l| l.name).collect(),
    })?;
    let refused = |reason: String| CraneliftError::Object { reason };
    let mut flags = settings::builder();
    let shared = [
        ("opt_level", "speed"),
        ("is_pic", "true"),
        // Frames are small, and a probe would be a call.
        ("enable_probestack", "false"),
        ("unwind_info", "false"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
    ];
    for (key, value) in shared {
        flags.set(key, value).map_err(|e| refused(format!("{key} = {value}: {e}")))?;
    }
    let triple: Triple = level.triple.parse().map_err(|e| refused(format!("{e}")))?;
    let mut builder = isa::lookup(triple).map_err(|e| refused(e.to_string()))?;
    for feature in level.features {
        builder.enable(feature).map_err(|e| refused(format!("{feature}: {e}")))?;
    }
    let target = builder.finish(settings::Flags::new(flags)).map_err(|e| refused(e.to_string()))?;
    let has = |feature| level.features.contains(&feature);
    let is_x86 = level.triple.starts_with("x86_64");
    Ok(Isa {
        target,
        fma: !is_x86 || has("has_fma"),
        compares_registers: is_x86 && !has("has_avx"),
    })
}
