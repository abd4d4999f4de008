//! What a comparison of two files found.

use crate::diff::report::Operand;
use crate::error::ToolError;
use serde::Serialize;
use std::fmt;

/// Of two files.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Both files.
    pub files: [File; 2],
    /// What was run.
    pub steps: Vec<StepReport>,
    /// Calls of blocks that were compared.
    pub calls: usize,
    /// Values that both files have in memory.
    pub values: usize,
    /// Greatest error of all values, as part of its tolerance.
    pub worst: f64,
    /// Rows that go to other experts, for a reason as small as rounding.
    pub turned: usize,
    /// Calls with a value beyond its tolerance.
    pub divergent: usize,
    /// The first of them, in order.
    pub divergences: Vec<Divergence>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Where it lies.
    pub path: String,
    /// Level of the instruction set whose code was run.
    pub isa: String,
    /// What made the code.
    pub backend: String,
}

/// A step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// The bucket of each file's plan that served it.
    pub buckets: [String; 2],
    /// New tokens.
    pub rows: usize,
    /// Sequences.
    pub sequences: usize,
}

/// The first value of a call that is beyond its tolerance.
#[derive(Clone, Debug, Serialize)]
pub struct Divergence {
    /// Position of the step.
    pub step: usize,
    /// Position of the call in the entry.
    pub call: usize,
    /// The value in each file.
    pub sides: [Side; 2],
    /// Where in the first file's value.
    pub position: Vec<u64>,
    /// The difference, as part of the greatest number of its row; of choices, of what was ranked.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
    /// Elements that are beyond the tolerance.
    pub beyond: u64,
    /// Of so many.
    pub of: u64,
}

/// A value in one file.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The plan's bucket.
    pub bucket: String,
    /// The launch that wrote the value.
    #[serde(flatten)]
    pub place: Place,
    /// The value's name in the block.
    pub value: String,
    /// What the file has at the worst element.
    pub number: f64,
    /// The grid's instance that wrote the element; known of the first divergence alone.
    pub instance: Option<i64>,
    /// What that instance read.
    pub operands: Vec<Operand>,
    /// The first launch of the call, up to this one, whose code is not what its kernel means.
    pub wrong: Option<Place>,
}

/// A launch.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// Position in the bucket.
    pub launch: usize,
    /// The block's nodes that it computes.
    pub origin: String,
    /// Its kernel.
    pub kernel: String,
    /// That kernel's family.
    pub family: String,
}

impl Report {
    /// Whether all is within its tolerance.
    ///
    /// # Errors
    /// E0275.
    pub fn verdict(&self) -> Result<(), ToolError> {
        let Some(first) = self.divergences.first() else { return Ok(()) };
        Err(ToolError::Apart {
            divergent: self.divergent,
            calls: self.calls,
            step: first.step,
            call: first.call,
            origin: first.sides[0].place.origin.clone(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { files, steps, calls, values, worst, turned, divergent, divergences } = self;
        let rows: usize = steps.iter().map(|s| s.rows).sum();
        for (name, File { path, isa, backend }) in ["first ", "second"].iter().zip(files) {
            writeln!(f, "{name} {path}, by {isa}/{backend}")?;
        }
        let steps = steps.len();
        writeln!(f, "{values} values of {calls} calls in {steps} steps, {rows} rows")?;
        if *turned > 0 {
            writeln!(f, "{turned} rows choose other experts, as rounding may let them")?;
        }
        if *divergent == 0 {
            return writeln!(f, "none is beyond its tolerance; the worst is at {worst:.2} of it");
        }
        writeln!(f, "{divergent} calls are beyond their tolerance; the first:")?;
        divergences.iter().try_for_each(|divergence| write!(f, "\n{divergence}"))
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { step, call, sides, position, error, tolerance, beyond, of } = self;
        let at: Vec<String> = position.iter().map(u64::to_string).collect();
        let at = at.join(", ");
        writeln!(f, "step {step}, call {call}: {error:.1e}, beyond {tolerance:.1e}")?;
        writeln!(f, "  {beyond} of {of} elements are beyond; positions are the first file's")?;
        for (name, side) in ["first ", "second"].iter().zip(sides) {
            writeln!(f, "  {name} {}[{at}] is {:e}", side.value, side.number)?;
            writeln!(f, "    {}", side.place.origin)?;
            writeln!(f, "    bucket {}, {}", side.bucket, side.place)?;
            if let Some(instance) = side.instance {
                writeln!(f, "    written by instance {instance}, which reads")?;
            }
            side.operands.iter().try_for_each(|operand| writeln!(f, "      {operand}"))?;
        }
        for (name, side) in ["first", "second"].iter().zip(sides) {
            if let Some(wrong) = &side.wrong {
                writeln!(
                    f,
                    "  in the {name} file, the code of a launch is not what its kernel means:"
                )?;
                writeln!(f, "    {}\n    {wrong}", wrong.origin)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "launch {}: {}, {}", self.launch, self.kernel, self.family)
    }
}
