//! The launch plan: what the compiler decided and the runtime walks.
//!
//! The plan is plain data. New notions (another place, MTP, hybrid placement, more shape buckets)
//! add rows to its tables rather than fields. A field that every plan has to have makes a new major
//! version, which readers look at before anything else ([`Plan::parse`]).

use crate::error::ArtifactError;
use crate::format::PLAN;
use crate::size::SizeExpr;
use serde::{Deserialize, Serialize};

/// Version of the plan's schema: a reader accepts its own major and any minor.
pub const PLAN_VERSION: (u16, u16) = (3, 1);

/// Everything the runtime needs to execute a model, beside code and weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Schema version, [`PLAN_VERSION`] when written by this crate.
    pub version: (u16, u16),
    /// Step symbols, bound by the host before each step; [`SizeExpr`] refers to them by position.
    pub symbols: Vec<String>,
    /// Where memory lies and code runs. Place 0 is the CPU.
    pub places: Vec<Place>,
    /// Every kernel that any launch names, one row per distinct kernel.
    pub kernels: Vec<Kernel>,
    /// Every packed weight, in the order of its offset in the weights section.
    pub weights: Vec<Weight>,
    /// What is kept per token from step to step.
    pub states: Vec<State>,
    /// Programs over the same weights and states.
    pub entries: Vec<Entry>,
    /// Kernels that measure the machine's limits.
    pub probes: Vec<Probe>,
}

/// What every version of the schema has.
#[derive(Deserialize)]
struct Versioned {
    version: (u16, u16),
}

impl Plan {
    /// Reads a plan's JSON, its version first: what else a plan of another version has is not
    /// looked at.
    ///
    /// # Errors
    /// [`ArtifactError::Version`], [`ArtifactError::Schema`].
    pub fn parse(json: &[u8]) -> Result<Plan, ArtifactError> {
        let schema = |error: serde_json::Error| ArtifactError::Schema {
            section: PLAN,
            message: error.to_string(),
        };
        let Versioned { version } = serde_json::from_slice(json).map_err(schema)?;
        check_version(version)?;
        serde_json::from_slice(json).map_err(schema)
    }
}

/// Whether this crate reads plans of that version.
pub(crate) fn check_version(found: (u16, u16)) -> Result<(), ArtifactError> {
    let expected = PLAN_VERSION;
    match found.0 == expected.0 {
        true => Ok(()),
        false => Err(ArtifactError::Version { what: "plan", found, expected }),
    }
}

/// A device: memory and workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Unique name, e.g. `cpu`.
    pub name: String,
    /// Kind of device that must back it, e.g. `cpu`, `cuda`, `plugin`.
    pub kind: String,
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Symbol in every code section.
    pub name: String,
    /// `family{parameters}`, for reports.
    pub family: String,
    /// Number of pointer arguments.
    pub params: u32,
    /// Step symbols (positions in [`Plan::symbols`]) passed after the pointers, in order.
    pub symbols: Vec<u32>,
    /// Bytes of scratch each worker needs, the maximum over all code sections.
    pub scratch_bytes: u64,
}

/// One weight as packed for the kernel that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Name in the program.
    pub name: String,
    /// Byte offset in the weights section, page-aligned for large weights, else 64-byte aligned.
    pub offset: u64,
    /// Packed bytes.
    pub bytes: u64,
    /// Encoding in its canonical text, e.g. `bf16` or `fp8_e4m3<f32 128x128>`.
    pub encoding: String,
    /// Logical extents.
    pub dims: Vec<u64>,
    /// Packing in its canonical text; empty for plain row-major.
    pub packing: String,
    /// Names of the checkpoint's tensors it was made from.
    pub source: Vec<String>,
    /// Place (position in [`Plan::places`]) whose memory holds it.
    pub place: u32,
}

/// How a state grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// One row per token: append, truncate.
    Rows,
    /// The last `window + slack` rows.
    Ring {
        /// Rows that later steps may read.
        window: u32,
        /// Further rows kept so that drafts can be taken back.
        slack: u32,
    },
    /// One value per sequence, replaced each step: snapshot to take back.
    Carry,
}

/// A table of state rows: per layer, pages of `page_tokens` rows of `bytes_per_token` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name in the program, e.g. `k`.
    pub name: String,
    /// How it grows.
    pub kind: StateKind,
    /// Number of layers that hold one.
    pub layers: u32,
    /// Bytes of one row of one layer.
    pub bytes_per_token: u64,
    /// Rows per page.
    pub page_tokens: u32,
    /// Row's encoding and extents, for reports, e.g. `bf16[8, 48]`.
    pub row: String,
    /// Place (position in [`Plan::places`]) whose memory holds it.
    pub place: u32,
}

/// A tensor that crosses the boundary of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tensor {
    /// Well-known name, e.g. `ids` or `logits`.
    pub name: String,
    /// Encoding's text.
    pub dtype: String,
    /// Extents.
    pub dims: Vec<SizeExpr>,
    /// Size in bytes.
    pub bytes: SizeExpr,
}

/// One program: its inputs and outputs, and a launch list per shape bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `forward`, later also `draft` and `verify`.
    pub name: String,
    /// What the host fills in before a step.
    pub inputs: Vec<Tensor>,
    /// What the host reads after a step.
    pub outputs: Vec<Tensor>,
    /// Tried in order; the first whose conditions hold is run.
    pub buckets: Vec<Bucket>,
}

/// Holds when `lo <= expr <= hi`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// Over the step symbols.
    pub expr: SizeExpr,
    /// Least value.
    pub lo: i64,
    /// Greatest value.
    pub hi: i64,
}

impl Condition {
    /// Whether it holds for these symbols; `stack` is room for evaluation.
    pub fn holds(&self, symbols: &[i64], stack: &mut Vec<i64>) -> bool {
        let value = self.expr.eval_in(symbols, stack);
        value.is_some_and(|value| (self.lo..=self.hi).contains(&value))
    }
}

/// The launches for some ranges of shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Short name for reports, e.g. `decode`.
    pub name: String,
    /// One of these must hold, with all of its conditions.
    pub when: Vec<Vec<Condition>>,
    /// Bytes of each place's arena, by position in [`Plan::places`].
    pub arenas: Vec<SizeExpr>,
    /// Regions of the arenas; two may overlap when they are not alive together.
    pub buffers: Vec<Buffer>,
    /// What to do, in order.
    pub steps: Vec<Step>,
    /// What is computed of each block; since version 3.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<Form>,
}

/// The graph that launches of a block were lowered from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Name of the block.
    pub block: String,
    /// Hash of the graph's text ([`crate::format::digest`]).
    pub graph: String,
}

impl Bucket {
    /// Whether it is meant for a step with these symbols.
    pub fn covers(&self, symbols: &[i64]) -> bool {
        let mut stack = Vec::new();
        self.when.iter().any(|all| all.iter().all(|c| c.holds(symbols, &mut stack)))
    }
}

/// A region of an arena.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Name for reports.
    pub name: String,
    /// Place (position in [`Plan::places`]).
    pub place: u32,
    /// Byte offset in the arena, a multiple of 64.
    pub offset: SizeExpr,
    /// Size in bytes.
    pub bytes: SizeExpr,
}

/// One entry of a launch list. Everything between two barriers may run at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Run a kernel over its grid.
    Launch(Launch),
    /// Copy bytes between arguments, possibly between places.
    Copy {
        /// Read.
        from: Arg,
        /// Written.
        to: Arg,
        /// Count.
        bytes: SizeExpr,
    },
    /// All that came before is finished and visible.
    Barrier,
}

/// A kernel with its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Position in [`Plan::kernels`].
    pub kernel: u32,
    /// Position in [`Plan::places`].
    pub place: u32,
    /// One per kernel parameter.
    pub args: Vec<Arg>,
    /// Number of grid instances.
    pub grid: Grid,
    /// Graph nodes it came from, for `diff` and reports.
    pub origin: String,
    /// What it cannot do without.
    pub work: Work,
}

/// The least that a launch must do, over the step symbols: what a perfect machine would still
/// spend its time on, so that time is compared with the machine's limits.
///
/// Where a step's symbols do not say how much that is, it is a bound from above: experts are
/// `min(rows * chosen, all)` distinct ones, and every sequence has the longest context, exact for
/// one sequence and for sequences of equal length, too much for ragged batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Bytes that move between memory and cores at least once: weights that are read, states,
    /// activations in and out.
    pub bytes: SizeExpr,
    /// Floating-point operations of the products, an addition and a multiplication each counted.
    pub flops: SizeExpr,
}

/// Number of instances of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grid {
    /// Known to the host.
    Dense(SizeExpr),
    /// Tuples in a work list times `each`. The list's first 32-bit word is its length.
    List {
        /// Where the list lies.
        list: Arg,
        /// Instances per tuple.
        each: SizeExpr,
    },
}

/// Where an argument's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// Position in [`Bucket::buffers`].
    Buffer(u32),
    /// Position in [`Plan::weights`].
    Weight(u32),
    /// A layer's rows of a state.
    State {
        /// Position in [`Plan::states`].
        state: u32,
        /// Which layer's rows.
        layer: u32,
    },
    /// Position in [`Entry::inputs`].
    Input(u32),
    /// Position in [`Entry::outputs`].
    Output(u32),
    /// No memory: an optional parameter left out.
    Null,
}

/// A kernel that measures a limit of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What it measures: `read` (bytes per second) or `flops` (operations per second).
    pub name: String,
    /// Position in [`Plan::kernels`]; one input parameter and one output parameter.
    pub kernel: u32,
    /// Bytes of the input the whole grid reads.
    pub bytes: u64,
    /// Floating-point operations of the whole grid.
    pub flops: u64,
    /// Number of grid instances.
    pub instances: u64,
    /// Bytes the output needs.
    pub out_bytes: u64,
}
