//! The device `native`: this machine, measured on the spot by the probes that artifacts have.

use crate::diagnostic::Failure;
use crate::{machine, targets};
use compiler::compile::{all_code, write_plain};
use compiler::lower::probe;
use compiler::options::Options;
use compiler::progress::Silent;
use generate::GenerateError;
use generate::engine::Model;
use ir::device::DeviceSpec;
use ir::dtype::DType;
use ir::target::Target;
use runtime::{Limits, LoadOptions, Session, ram};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Its name.
pub const NAME: &str = "native";

/// Measures what this build's code reaches here with all threads; takes some seconds. Cache sizes
/// and memory are the system's; what a launch takes is not measured but the built-in CPU's.
pub fn measured(options: &Options) -> Result<DeviceSpec, Failure> {
    let known = DeviceSpec::default();
    let (bf16, workers) = limits(DType::BF16, options)?;
    let (f32, _) = limits(DType::F32, options)?;
    Ok(DeviceSpec {
        name: NAME.into(),
        workers,
        l1_bytes: machine::cache_bytes(1).unwrap_or(known.l1_bytes),
        l2_bytes: machine::cache_bytes(2).unwrap_or(known.l2_bytes),
        f32_flops_per_s: f32.flops_per_s,
        bf16_flops_per_s: bf16.flops_per_s,
        fp8_flops_per_s: None,
        int8_ops_per_s: None,
        read_bytes_per_s: bf16.read_bytes_per_s.max(f32.read_bytes_per_s),
        memory_bytes: ram::total(),
        ..known
    })
}

/// A file that goes when this does.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What probes with operands of this type reach, and with how many workers.
fn limits(dtype: DType, options: &Options) -> Result<(Limits, u32), Failure> {
    let name = format!("latentc-probe-{}-{dtype}", std::process::id());
    let file = Temporary(std::env::temp_dir().join(name));
    write(dtype, options, &file.0)?;
    let model = Model::open(&file.0, &LoadOptions::default()).map_err(GenerateError::from)?;
    // Mapped by now: what measures cannot leave it behind.
    drop(file);
    let workers = u32::try_from(model.threads()).unwrap_or(u32::MAX);
    let session = Session::new(Arc::new(model), 1);
    let limits = session.and_then(|mut session| session.measure_limits());
    let limits = limits.map_err(GenerateError::from)?;
    Ok((limits.expect("`alone` makes both probes"), workers))
}

fn write(dtype: DType, options: &Options, path: &Path) -> Result<(), Failure> {
    let lowered = probe::alone(dtype)?;
    let owned = targets::cpu(options, 1);
    let targets: Vec<&dyn Target> = owned.iter().map(AsRef::as_ref).collect();
    let code = all_code(&lowered.kernels, &targets, options, &mut Silent)?;
    write_plain(lowered, &code, path)?;
    Ok(())
}
