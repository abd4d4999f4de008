//! What a block becomes: kernels, launches and the memory they share, before it is placed in a
//! plan.

use crate::lower::attention::lists::StepList;
use crate::lower::error::LowerError;
use crate::lower::work::Work;
use crate::pack::constant::Constant;
use ir::dim::{Dim, Name};
use ir::dtype::Encoding;
use ir::graph::{NodeId, ValueId};
use ir::kernel::builder::KernelBuilder;
use ir::kernel::{Kernel, Packing};

/// What a step tells every kernel that asks; all `i32`, see the CPU kernel signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepInput {
    /// `[n]`: position of each row in its sequence.
    Pos,
    /// `[n]`: state row that each row is kept in.
    Slot,
    /// `[b, mp]`: pages of each sequence.
    Pages,
    /// `[b + 1]`: rows of each sequence.
    Seg,
}

impl StepInput {
    /// Name among the entry's inputs.
    pub fn name(self) -> &'static str {
        match self {
            StepInput::Pos => "pos",
            StepInput::Slot => "slot",
            StepInput::Pages => "pages",
            StepInput::Seg => "seg",
        }
    }

    /// Extents.
    pub fn dims(self) -> Vec<Dim> {
        match self {
            StepInput::Pos | StepInput::Slot => vec!["n".into()],
            StepInput::Pages => vec!["b".into(), "mp".into()],
            StepInput::Seg => vec![Dim::symbol("b").plus(&1.into())],
        }
    }
}

/// A constant value of a block: a weight parameter, or made of some.
#[derive(Clone, Debug, PartialEq)]
pub struct Viewed {
    /// In the block.
    pub value: ValueId,
    /// Nodes that view something with the same indices, in order: the constant is taken as they
    /// would show it.
    pub through: Vec<NodeId>,
}

impl From<ValueId> for Viewed {
    fn from(value: ValueId) -> Self {
        Viewed { value, through: vec![] }
    }
}

/// A weight, or a constant made of weights, as one kernel of a block wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightUse {
    /// Which.
    pub of: Viewed,
    /// Its indices as batch, rows and columns.
    pub axes: [Vec<Name>; 3],
    /// Encoding that the kernel reads.
    pub encoding: Encoding,
    /// Extents as the kernel's parameter declares them.
    pub dims: Vec<i64>,
    /// Physical order.
    pub packing: Option<Packing>,
}

/// An argument of a launch, in the block's terms.
#[derive(Clone, Debug, PartialEq)]
pub enum BlockArg {
    /// A value of the graph, as it is stored in one of the ways that it is.
    Value(ValueId, Encoding),
    /// A weight of the graph.
    Weight(Box<WeightUse>),
    /// Numbers known when compiling.
    Numbers(Constant),
    /// Rows of a state parameter.
    State(ValueId),
    /// What the step tells.
    Step(StepInput),
    /// Memory between this group's kernels, by position in [`BlockCode::temps`].
    Temp(usize),
    /// A list that the step begins with.
    List(StepList),
}

/// Number of instances of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum BlockGrid {
    /// Over step symbols.
    Dense(Dim),
    /// Tuples of a work list times `each`.
    List {
        /// The list.
        list: BlockArg,
        /// Instances for each tuple.
        each: Dim,
    },
}

/// One launch of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockLaunch {
    /// In [`Kernels`].
    pub kernel: usize,
    /// One per kernel parameter.
    pub args: Vec<BlockArg>,
    /// How many instances.
    pub grid: BlockGrid,
    /// Launches of one phase are independent.
    pub phase: u32,
    /// The nodes it computes, for reports.
    pub origin: String,
    /// The least that it must do.
    pub work: Work,
}

/// Memory between kernels of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockTemp {
    /// For reports.
    pub name: &'static str,
    /// Over step symbols.
    pub bytes: Dim,
}

/// A lowered block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockCode {
    /// In order of phases.
    pub launches: Vec<BlockLaunch>,
    /// Memory between a group's kernels.
    pub temps: Vec<BlockTemp>,
}

/// Every distinct kernel of a program, once.
#[derive(Clone, Debug, Default)]
pub struct Kernels {
    list: Vec<Kernel>,
    /// Whether what they compute of a row must not depend on how many there are.
    batch_invariant: bool,
}

impl Kernels {
    /// None yet.
    pub fn new(batch_invariant: bool) -> Kernels {
        Kernels { list: vec![], batch_invariant }
    }

    /// All of them.
    pub fn all(&self) -> &[Kernel] {
        &self.list
    }

    /// Finishes a kernel and finds it among the known, or adds it under a name of its own.
    ///
    /// Errors: E0284, a mistake of a generator.
    pub fn intern(&mut self, builder: KernelBuilder) -> Result<usize, LowerError> {
        let mut kernel = builder.finish().map_err(|errors| {
            let error = errors.into_iter().next().expect("a failed kernel has an error");
            LowerError::Kernel { kernel: format!("k{}", self.list.len()), error: Box::new(error) }
        })?;
        kernel.name = Name::from("");
        kernel.batch_invariant = self.batch_invariant;
        let same = |k: &Kernel| {
            let unnamed = Kernel { name: Name::from(""), ..k.clone() };
            unnamed == kernel
        };
        if let Some(known) = self.list.iter().position(same) {
            return Ok(known);
        }
        kernel.name = format!("k{:03}_{}", self.list.len(), kernel.family.name).into();
        self.list.push(kernel);
        Ok(self.list.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::dtype::DType;
    use ir::kernel::TileType;

    #[test]
    fn a_generators_mistake_is_no_kernel() {
        let mut builder = KernelBuilder::new("k", "row");
        builder.splat(0.0, TileType::new(DType::F32, &[0]));
        let error = Kernels::default().intern(builder).expect_err("a tile of nothing");
        assert_eq!(error.code(), "E0284");
    }
}
