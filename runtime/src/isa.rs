//! Levels of the instruction sets: what code for each may use, and which of them a machine runs.

use std::sync::OnceLock;

/// A level: code for it runs on every machine that has its features.
#[derive(Debug, PartialEq, Eq)]
pub struct Level {
    /// Name, e.g. `x86-64-v4`.
    pub name: &'static str,
    /// What code for it may use beyond the level before it (the first: beyond what every processor
    /// of the architecture has), by the names that Rust has for features.
    pub adds: &'static [&'static str],
}

/// Levels of x86-64, best last. The first three and their features: System V ABI, AMD64, 3.1.1.
pub const X86_64: &[Level] = &[
    Level {
        name: "x86-64-v2",
        adds: &["cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3"],
    },
    Level {
        name: "x86-64-v3",
        adds: &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"],
    },
    Level { name: "x86-64-v4", adds: &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"] },
    Level { name: "x86-64-v4-bf16", adds: &["avx512bf16", "avx512vnni"] },
    Level { name: "x86-64-amx", adds: &[TILES, "amx-bf16", "amx-int8"] },
];

/// Levels of AArch64, best last: what every ARMv8-A has, and what every ARMv8.2-A has.
pub const AARCH64: &[Level] = &[
    Level { name: "aarch64-v8", adds: &["neon"] },
    Level { name: "aarch64-v8.2", adds: &["crc", "lse", "rdm"] },
];

/// The feature whose registers take the system's permission.
const TILES: &str = "amx-tile";

/// What is lacking where the system refuses it.
const PERMISSION: &str = "the system's permission for tile registers";

#[cfg(target_arch = "x86_64")]
const LEVELS: &[Level] = X86_64;
#[cfg(target_arch = "aarch64")]
const LEVELS: &[Level] = AARCH64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the runtime supports x86-64 and aarch64");

/// What a machine answers.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// Whether processor and system have a feature.
    pub has: fn(&str) -> bool,
    /// Asks the system for tile registers.
    pub permits_tiles: fn() -> bool,
}

/// What a machine lacks for each level of its architecture, best last.
#[derive(Debug)]
pub(crate) struct Lacking(Vec<(&'static str, Vec<&'static str>)>);

impl Lacking {
    /// Asks a machine; permission only where nothing else is lacking.
    pub fn of(machine: Machine) -> Lacking {
        let mut lacks: Vec<&'static str> = vec![];
        let all = LEVELS.iter().map(|level| {
            lacks.extend(level.adds.iter().filter(|feature| !(machine.has)(feature)));
            if lacks.is_empty() && level.adds.contains(&TILES) && !(machine.permits_tiles)() {
                lacks.push(PERMISSION);
            }
            (level.name, lacks.clone())
        });
        Lacking(all.collect())
    }

    /// This machine.
    pub fn here() -> &'static Lacking {
        static HERE: OnceLock<Lacking> = OnceLock::new();
        HERE.get_or_init(|| Lacking::of(here::MACHINE))
    }

    /// Levels that nothing is lacking for, best first.
    pub fn supported(&self) -> Vec<&'static str> {
        let has = self.0.iter().rev().filter(|(_, lacks)| lacks.is_empty());
        has.map(|(name, _)| *name).collect()
    }

    /// The same in words; of none, what is lacking for the first.
    pub fn runs(&self) -> String {
        let supported = self.supported();
        match self.0.first() {
            Some((name, lacks)) if supported.is_empty() => {
                format!("none, lacking {} for {name}", lacks.join(", "))
            }
            _ => supported.join(", "),
        }
    }

    /// What is lacking for a level, in words; empty: nothing.
    pub fn words(&self, level: &str) -> String {
        let lacks = self.0.iter().find(|(name, _)| *name == level);
        lacks.map_or("any such level".into(), |(_, lacks)| lacks.join(", "))
    }
}

/// Levels that this machine and its system support, best first. Asks the system for AMX where the
/// processor has it; where that is refused, its level is not among them.
pub fn supported() -> Vec<&'static str> {
    Lacking::here().supported()
}

#[cfg(target_arch = "x86_64")]
mod here {
    use super::{Machine, TILES};
    use std::arch::is_x86_feature_detected;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    pub(super) const MACHINE: Machine = Machine { has, permits_tiles };

    /// Features that the standard library finds, and how.
    macro_rules! detected {
        ($($name:tt)*) => {
            #[cfg(test)]
            pub(super) const DETECTED: &[&str] = &[$($name),*];

            fn detected(feature: &str) -> bool {
                match feature {
                    $($name => is_x86_feature_detected!($name),)*
                    _ => false,
                }
            }
        };
    }

    detected! {
        "cmpxchg16b" "popcnt" "sse3" "sse4.1" "sse4.2" "ssse3"
        "avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe"
        "avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl" "avx512bf16" "avx512vnni"
    }

    /// Others, each a bit of EDX in leaf 7 of CPUID.
    pub(super) const BITS: &[(&str, u32)] = &[("amx-bf16", 22), (TILES, 24), ("amx-int8", 25)];

    fn has(feature: &str) -> bool {
        let bit = BITS.iter().find(|(name, _)| *name == feature);
        bit.map_or_else(|| detected(feature), |(_, bit)| has_tiles(*bit))
    }

    /// Whether CPUID has a bit, and the system keeps tile state (XCR0: 17, 18).
    fn has_tiles(bit: u32) -> bool {
        if !is_x86_feature_detected!("avx")
            || __cpuid(0).eax < 7
            || __cpuid_count(7, 0).edx >> bit & 1 == 0
        {
            return false;
        }
        let state = 1 << 17 | 1 << 18;
        // SAFETY: AVX was detected, so the system set OSXSAVE and `xgetbv` is legal.
        unsafe { xcr0() & state == state }
    }

    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller knows that the system set OSXSAVE.
        unsafe { _xgetbv(0) }
    }

    /// Asks Linux for the tile state, for all threads of the process.
    pub(super) fn permits_tiles() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
}

#[cfg(target_arch = "aarch64")]
mod here {
    use super::Machine;
    use std::arch::is_aarch64_feature_detected;

    pub(super) const MACHINE: Machine = Machine { has, permits_tiles: || false };

    fn has(feature: &str) -> bool {
        match feature {
            "neon" => is_aarch64_feature_detected!("neon"),
            "crc" => is_aarch64_feature_detected!("crc"),
            "lse" => is_aarch64_feature_detected!("lse"),
            "rdm" => is_aarch64_feature_detected!("rdm"),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_levels_follow_from_higher_ones() {
        let found = supported();
        let below: Vec<_> = LEVELS.iter().map(|l| l.name).take(found.len()).collect();
        assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), below);
    }

    /// A name that `has` does not know would count as lacking everywhere.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_feature_is_known() {
        let bits = here::BITS.iter().map(|(name, _)| *name);
        let known: Vec<_> = here::DETECTED.iter().copied().chain(bits).collect();
        for feature in LEVELS.iter().flat_map(|l| l.adds) {
            assert!(known.contains(feature), "{feature}");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn what_is_lacking_is_named() {
        let all = Machine { has: |_| true, permits_tiles: || true };
        let lacking = Lacking::of(all);
        assert_eq!(lacking.supported()[0], "x86-64-amx");
        assert_eq!(lacking.words("x86-64-amx"), "");
        assert_eq!(lacking.words("x86-64-v9"), "any such level");
        let lacking = Lacking::of(Machine { has: |f| f != "fma" && f != "movbe", ..all });
        assert_eq!(lacking.supported(), ["x86-64-v2"]);
        assert_eq!(lacking.words("x86-64-v4"), "fma, movbe");
        assert_eq!(lacking.runs(), "x86-64-v2");
        let lacking = Lacking::of(Machine { has: |f| f != "ssse3", ..all });
        assert_eq!(lacking.runs(), "none, lacking ssse3 for x86-64-v2");
    }

    /// The system is asked only by a machine with tiles, and its refusal costs that level alone.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_refused_permission_is_lacking() {
        let refused = Machine { has: |_| true, permits_tiles: || false };
        let lacking = Lacking::of(refused);
        assert_eq!(lacking.supported()[0], "x86-64-v4-bf16");
        assert_eq!(lacking.words("x86-64-amx"), PERMISSION);
        let unasked = Machine { has: |f| f != TILES, permits_tiles: || panic!("asked") };
        assert_eq!(Lacking::of(unasked).words("x86-64-amx"), TILES);
    }

    /// Where the processor has no tiles, Linux refuses them.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn linux_refuses_what_is_not_there() {
        assert!((here::MACHINE.has)(TILES) || !here::permits_tiles());
    }
}
