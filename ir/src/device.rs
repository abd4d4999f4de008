//! Numbers that describe a device, one JSON schema for all of them.

use serde::{Deserialize, Serialize};

/// What generators and cost models need to know of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Unique name.
    pub name: String,
    /// `cpu`, `cuda` or `plugin`.
    pub kind: String,
    /// Workers that run instances at once.
    pub workers: u32,
    /// First-level data cache of a worker, in bytes.
    pub l1_bytes: u64,
    /// Second-level cache of a worker, in bytes.
    pub l2_bytes: u64,
    /// Peak floating-point operations per second of all workers, in f32.
    pub f32_flops_per_s: f64,
    /// Peak of tile products of bf16 with sums in f32.
    pub bf16_flops_per_s: f64,
    /// Bytes per second that all workers can read from memory.
    pub read_bytes_per_s: f64,
    /// Nanoseconds of a launch and the barrier after it.
    pub launch_ns: f64,
}

const BUILT_IN: [&str; 1] = [include_str!("../devices/cpu.json")];

impl DeviceSpec {
    /// The built-in device of a name.
    pub fn built_in(name: &str) -> Option<DeviceSpec> {
        BUILT_IN
            .iter()
            .filter_map(|text| DeviceSpec::from_json(text).ok())
            .find(|device| device.name == name)
    }

    /// Reads a description.
    ///
    /// Errors: what the JSON lacks, and where.
    pub fn from_json(text: &str) -> Result<DeviceSpec, serde_json::Error> {
        serde_json::from_str(text)
    }
}

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
            assert!(device.workers > 0 && device.read_bytes_per_s > 0.0);
            assert_eq!(DeviceSpec::built_in(&device.name), Some(device));
        }
    }
}
