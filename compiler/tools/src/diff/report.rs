//! What a comparison found.

use crate::error::ToolError;
use artifact::plan::Launch;
use runtime::Model;
use serde::Serialize;
use std::fmt;

/// Of a model's code.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Level of the instruction set whose code was run.
    pub isa: String,
    /// What made the code.
    pub backend: String,
    /// What was run.
    pub steps: Vec<StepReport>,
    /// Launches compared.
    pub launches: usize,
    /// Greatest error of all launches, as part of its tolerance.
    pub worst: f64,
    /// Launches beyond their tolerance.
    pub divergent: usize,
    /// The first of them, in order.
    pub divergences: Vec<Divergence>,
}

/// A step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The plan's bucket that served it.
    pub bucket: String,
    /// New tokens.
    pub rows: usize,
    /// Sequences.
    pub sequences: usize,
}

/// A launch that is off.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// Position of the step.
    pub step: usize,
    /// The plan's bucket that served it.
    pub bucket: String,
    /// Position of the launch in the bucket.
    pub launch: usize,
    /// The block's nodes that it computes.
    pub origin: String,
    /// What is off in it.
    #[serde(flatten)]
    pub found: Found,
}

/// The worst element of what a launch wrote.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The kernel's symbol.
    pub kernel: String,
    /// The kernel's family.
    pub family: String,
    /// The parameter that was written.
    pub param: String,
    /// Where in it.
    pub position: Vec<u64>,
    /// What the code wrote there.
    pub native: f64,
    /// What the interpreter wrote there.
    pub expected: f64,
    /// The difference, as part of the greatest number of its row.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
    /// Elements of the parameter that are beyond the tolerance.
    pub beyond: u64,
    /// Of so many.
    pub of: u64,
    /// The grid's instance that wrote the element.
    pub instance: Option<i64>,
    /// What that instance read.
    pub operands: Vec<Operand>,
}

/// What an instance read of a parameter.
#[derive(Clone, Debug, Serialize)]
pub struct Operand {
    /// The parameter.
    pub param: String,
    /// Along each axis: the first position, and the one behind the last.
    pub span: Vec<[u64; 2]>,
    /// Least and greatest number there.
    pub range: [f64; 2],
    /// Numbers there that are not finite.
    pub not_finite: u64,
}

impl Report {
    pub(super) fn new(model: &Model) -> Report {
        Report {
            isa: model.isa().into(),
            backend: model.backend().into(),
            steps: vec![],
            launches: 0,
            worst: 0.0,
            divergent: 0,
            divergences: vec![],
        }
    }

    /// Whether all is within its tolerance.
    ///
    /// # Errors
    /// E0273.
    pub fn verdict(&self) -> Result<(), ToolError> {
        let Some(first) = self.divergences.first() else { return Ok(()) };
        let (divergent, launches) = (self.divergent, self.launches);
        Err(ToolError::Diverges { divergent, launches, origin: first.origin.clone() })
    }
}

impl Divergence {
    pub(super) fn new(
        (step, bucket, at): (usize, String, usize),
        launch: &Launch,
        found: Found,
    ) -> Divergence {
        Divergence { step, bucket, launch: at, origin: launch.origin.clone(), found }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { isa, backend, steps, launches, worst, divergent, divergences } = self;
        let rows: usize = steps.iter().map(|s| s.rows).sum();
        writeln!(
            f,
            "{launches} launches of {} steps, {rows} rows, by {isa}/{backend} and by the interpreter",
            steps.len()
        )?;
        if *divergent == 0 {
            return writeln!(f, "none is beyond its tolerance; the worst is at {worst:.2} of it");
        }
        writeln!(f, "{divergent} are beyond their tolerance; the first:")?;
        divergences.iter().try_for_each(|divergence| write!(f, "\n{divergence}"))
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { step, bucket, launch, origin, found } = self;
        let Found { kernel, family, param, native, expected, error, tolerance, .. } = found;
        writeln!(f, "{origin}")?;
        writeln!(f, "  step {step}, bucket {bucket}, launch {launch}: {kernel}, {family}")?;
        let at: Vec<String> = found.position.iter().map(u64::to_string).collect();
        let at = at.join(", ");
        writeln!(
            f,
            "  %{param}[{at}] is {native:e}, the interpreter has {expected:e}: {error:.1e} of the row, \
             beyond {tolerance:.1e}"
        )?;
        writeln!(f, "  {} of {} elements are beyond", found.beyond, found.of)?;
        if let Some(instance) = found.instance {
            writeln!(f, "  written by instance {instance}, which reads")?;
        }
        found.operands.iter().try_for_each(|operand| writeln!(f, "    {operand}"))
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operand { param, span, range: [least, greatest], not_finite } = self;
        let along = |[first, end]: &[u64; 2]| match end - first {
            1 => first.to_string(),
            _ => format!("{first}..{end}"),
        };
        let span: Vec<String> = span.iter().map(along).collect();
        write!(f, "%{param}[{}], of {least:.4e} to {greatest:.4e}", span.join(", "))?;
        match not_finite {
            0 => Ok(()),
            n => write!(f, ", {n} not finite"),
        }
    }
}
