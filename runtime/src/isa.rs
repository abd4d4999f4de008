//! What this machine can run: levels of its instruction set, best first.

/// Levels that this machine and its operating system support, best first.
///
/// x86-64: `x86-64-amx` (tiles for bf16 and int8, and the system's permission to use them),
/// `x86-64-v4-bf16` (AVX-512 with bf16 and VNNI), `x86-64-v4` (AVX-512 F, BW, CD, DQ, VL),
/// `x86-64-v3` (AVX2, FMA), `x86-64-v2`. aarch64: `armv8.2` (with fp16 and dot products).
pub fn supported() -> Vec<&'static str> {
    machine::LEVELS.iter().filter(|(_, has)| has()).map(|(name, _)| *name).collect()
}

/// A level and whether this machine has it.
type Level = (&'static str, fn() -> bool);

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::Level;
    use std::arch::is_x86_feature_detected as has;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    pub(super) const LEVELS: &[Level] = &[
        ("x86-64-amx", amx),
        ("x86-64-v4-bf16", v4_bf16),
        ("x86-64-v4", v4),
        ("x86-64-v3", v3),
        ("x86-64-v2", v2),
    ];

    fn v2() -> bool {
        has!("cmpxchg16b")
            && has!("popcnt")
            && has!("sse3")
            && has!("sse4.1")
            && has!("sse4.2")
            && has!("ssse3")
    }

    fn v3() -> bool {
        v2() && has!("avx")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe")
    }

    fn v4() -> bool {
        v3() && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl")
    }

    fn v4_bf16() -> bool {
        v4() && has!("avx512bf16") && has!("avx512vnni")
    }

    fn amx() -> bool {
        static AMX: OnceLock<bool> = OnceLock::new();
        *AMX.get_or_init(|| v4_bf16() && cpu_has_tiles() && permitted())
    }

    /// CPUID leaf 7: amx-bf16 (22), amx-tile (24), amx-int8 (25); XCR0: tile state (17, 18).
    fn cpu_has_tiles() -> bool {
        let bits = 1 << 22 | 1 << 24 | 1 << 25;
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & bits != bits {
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

    /// Asks Linux for the tile state, once for all threads of the process.
    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::Level;
    use std::arch::is_aarch64_feature_detected as has;

    pub(super) const LEVELS: &[Level] = &[("armv8.2", armv8_2)];

    fn armv8_2() -> bool {
        has!("neon") && has!("lse") && has!("rdm") && has!("fp16") && has!("dotprod")
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the runtime supports x86-64 and aarch64");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_levels_follow_from_higher_ones() {
        let all: Vec<_> = machine::LEVELS.iter().map(|(name, _)| *name).collect();
        let found = supported();
        // Each level includes all later ones, so what is supported is the table's tail.
        assert_eq!(found, all[all.len() - found.len()..]);
    }
}
