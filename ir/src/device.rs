//! Numbers that describe a device, one JSON schema for all of them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What generators and cost models need to know of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Unique name.
    pub name: String,
    /// `cpu`, `cuda` or `plugin`.
    pub kind: String,
    /// Workers that run instances at once.
    pub workers: u32,
    /// First-level data cache or local memory of a worker, in bytes.
    pub l1_bytes: u64,
    /// Second-level cache, in bytes: a CPU worker's own, a GPU's whole.
    pub l2_bytes: u64,
    /// Peak floating-point operations per second of all workers, in f32.
    pub f32_flops_per_s: f64,
    /// Peak of tile products of bf16 with sums in f32.
    pub bf16_flops_per_s: f64,
    /// Peak of tile products of fp8, where the device has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8_flops_per_s: Option<f64>,
    /// Peak of tile products of int8, where the device has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int8_ops_per_s: Option<f64>,
    /// Bytes per second that all workers can read from memory.
    pub read_bytes_per_s: f64,
    /// Bytes of memory, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Nanoseconds of a launch and the barrier after it.
    pub launch_ns: f64,
}

const BUILT_IN: [&str; 7] = [
    include_str!("../devices/cpu.json"),
    include_str!("../devices/ddr5-desktop.json"),
    include_str!("../devices/h100.json"),
    include_str!("../devices/h800.json"),
    include_str!("../devices/h20.json"),
    include_str!("../devices/rtx-4090.json"),
    include_str!("../devices/ascend-910b.json"),
];

/// What is wrong with a description of a device.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The JSON, or a key of it.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A number that no device has.
    #[error("found {key} = {found:e}, expected {lo:e} to {hi:e}")]
    Number {
        /// Its key.
        key: &'static str,
        /// As given.
        found: f64,
        /// The least that it can be.
        lo: f64,
        /// The most that it can be.
        hi: f64,
    },
    /// A kind of device that there is none of.
    #[error("found kind = {found:?}, expected one of {}", KINDS.join(", "))]
    Kind {
        /// As given.
        found: String,
    },
    /// Neither a file nor built in.
    #[error("found no device '{found}', expected a file or one of {}", expected.join(", "))]
    Unknown {
        /// As given.
        found: String,
        /// Built-in names.
        expected: Vec<String>,
    },
}

impl DeviceError {
    /// Every code with what it stands for.
    pub const CODES: &[(&str, &str)] = &[
        ("E0195", "a device's description is no JSON of its schema"),
        ("E0196", "a device has a number that none has"),
        ("E0197", "no device of this name"),
        ("E0198", "a device of a kind that there is none of"),
    ];

    /// The diagnostic's code.
    pub fn code(&self) -> &'static str {
        match self {
            DeviceError::Json(_) => "E0195",
            DeviceError::Number { .. } => "E0196",
            DeviceError::Unknown { .. } => "E0197",
            DeviceError::Kind { .. } => "E0198",
        }
    }
}

impl DeviceSpec {
    /// The built-in device of a name.
    pub fn built_in(name: &str) -> Option<DeviceSpec> {
        DeviceSpec::all_built_in().into_iter().find(|device| device.name == name)
    }

    /// Every built-in device.
    pub fn all_built_in() -> Vec<DeviceSpec> {
        BUILT_IN.iter().filter_map(|text| DeviceSpec::from_json(text).ok()).collect()
    }

    /// Reads a description.
    ///
    /// Errors: E0195 for what the JSON lacks, and where; E0196, E0198.
    pub fn from_json(text: &str) -> Result<DeviceSpec, DeviceError> {
        let device: DeviceSpec = serde_json::from_str(text)?;
        device.check()?;
        Ok(device)
    }

    fn check(&self) -> Result<(), DeviceError> {
        if !KINDS.contains(&self.kind.as_str()) {
            return Err(DeviceError::Kind { found: self.kind.clone() });
        }
        let numbers = [
            ("f32_flops_per_s", Some(self.f32_flops_per_s), RATES),
            ("bf16_flops_per_s", Some(self.bf16_flops_per_s), RATES),
            ("fp8_flops_per_s", self.fp8_flops_per_s, RATES),
            ("int8_ops_per_s", self.int8_ops_per_s, RATES),
            ("read_bytes_per_s", Some(self.read_bytes_per_s), RATES),
            ("workers", Some(f64::from(self.workers)), SIZES),
            ("l1_bytes", Some(self.l1_bytes as f64), SIZES),
            ("l2_bytes", Some(self.l2_bytes as f64), SIZES),
            ("memory_bytes", self.memory_bytes.map(|b| b as f64), SIZES),
            ("launch_ns", Some(self.launch_ns), DELAYS),
        ];
        let known =
            numbers.into_iter().filter_map(|(key, value, range)| Some((key, value?, range)));
        for (key, found, (lo, hi)) in known {
            if !(lo..=hi).contains(&found) {
                return Err(DeviceError::Number { key, found, lo, hi });
            }
        }
        Ok(())
    }
}

/// Kinds of devices.
const KINDS: [&str; 3] = ["cpu", "cuda", "plugin"];
/// Operations or bytes per second that a device can have, or that stand for no limit.
const RATES: (f64, f64) = (1.0, 1e30);
/// Counts and bytes that a device can have.
const SIZES: (f64, f64) = (1.0, (1u64 << 60) as f64);
/// Nanoseconds that a launch can take.
const DELAYS: (f64, f64) = (0.0, 1e9);

impl Default for DeviceSpec {
    /// A small server's CPU.
    fn default() -> Self {
        DeviceSpec::built_in("cpu").expect("the built-in device is well-formed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_devices_are_well_formed() {
        for text in BUILT_IN {
            let device = DeviceSpec::from_json(text).expect("a built-in device");
            assert_eq!(DeviceSpec::built_in(&device.name), Some(device));
        }
    }

    #[test]
    fn impossible_devices_are_refused() {
        let text = BUILT_IN[0];
        let code = |text: &str| DeviceSpec::from_json(text).expect_err("a wrong device").code();
        assert_eq!(code(&text.replace("\"workers\": 2", "\"workers\": 0")), "E0196");
        assert_eq!(code(&text.replace("\"launch_ns\": 2000", "\"launch_ns\": -1")), "E0196");
        assert_eq!(code(&text.replace("\"launch_ns\": 2000", "\"launch\": 1")), "E0195");
        assert_eq!(code(&text.replace("\"workers\"", "\"worker\"")), "E0195");
        assert_eq!(code("{"), "E0195");
        assert_eq!(code(&text.replace("\"kind\": \"cpu\"", "\"kind\": \"abacus\"")), "E0198");
        for number in ["0", "-1", "1e300"] {
            let read = format!("\"read_bytes_per_s\": {number}");
            assert_eq!(
                code(&text.replace("\"read_bytes_per_s\": 4e10", &read)),
                "E0196",
                "{number}"
            );
        }
    }
}
