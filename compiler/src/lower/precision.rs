//! In what precision activations enter tile products.
//!
//! Whether a row is sent to one expert or to another is a step of what the router computes: a
//! rounding error above it changes not the row a little but its expert. An error made above the
//! first choice reaches every choice there is, so products there, a few layers' worth, take their
//! activations with twice the digits, and what they keep of a sequence is rounded to f16: in the
//! bytes of bf16, three more bits of significand.

use crate::lower::claims::Claims;
use crate::lower::codes::{CODES, Rounded, is_integer};
use crate::lower::error::LowerError;
use crate::lower::partition::{GroupKind, kind_of, op_name};
use crate::lower::schedule::RowBucket;
use crate::options::{Above, Compute, Options};
use crate::pack::format::{self, Format};
use ir::dim::Name;
use ir::dtype::{DType, Encoding};
use ir::graph::program::{Arg, Call, Entry, Program};
use ir::graph::{Graph, Node, NodeId, ValueId};
use ir::kernel;
use ir::kernel::builder::{At, KernelBuilder};
use ir::kernel::{Fold, ParamId};
use std::collections::{BTreeMap, BTreeSet};

/// How an activation enters a tile product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// As [`CODES`], beside weights of integer codes.
    I8,
    /// Rounded to bf16: 8 bits of significand.
    Bf16,
    /// As the sum of two bf16 numbers, 16 bits together: two rows of a product for one.
    Bf16x2,
    /// As it is: 24 bits.
    F32,
}

impl Operand {
    /// How such an operand is best stored.
    pub fn stored(self) -> Encoding {
        match self {
            Operand::I8 => CODES,
            Operand::Bf16 | Operand::Bf16x2 | Operand::F32 => self.dtype().into(),
        }
    }

    /// Dtype of real numbers that keep what the operand does, or more.
    pub fn dtype(self) -> DType {
        match self {
            Operand::I8 | Operand::Bf16 => DType::BF16,
            Operand::Bf16x2 | Operand::F32 => DType::F32,
        }
    }

    /// The operand in steps of so many rows: products of few wait for memory, not for arithmetic,
    /// and take an activation that is to be precise as it is.
    pub fn of_rows(self, bucket: RowBucket) -> Operand {
        match self {
            Operand::Bf16x2 if bucket.is_narrow() => Operand::F32,
            operand => operand,
        }
    }

    /// The operand of a product with right operands encoded so: in parts only beside numbers of no
    /// more digits than a part has, in codes only beside codes.
    pub fn beside(self, right: Encoding) -> Operand {
        match self {
            Operand::Bf16x2 if matches!(right.code, DType::F16 | DType::F32) => Operand::F32,
            Operand::I8 if !is_integer(right) => Operand::Bf16,
            operand => operand,
        }
    }

    /// Rows of a left operand for each row of an activation.
    pub fn terms(self) -> u32 {
        match self {
            Operand::I8 | Operand::Bf16 | Operand::F32 => 1,
            Operand::Bf16x2 => 2,
        }
    }

    /// A tile of a parameter as the left operand of a product.
    pub fn load(self, b: &mut KernelBuilder, x: ParamId, coords: &[At]) -> kernel::ValueId {
        let x = match self {
            Operand::I8 => b.load_keep(x, coords),
            _ => b.load(x, coords),
        };
        self.enter(b, x)
    }

    /// An activation `[m, k]` as the left operand of a product, `[m * terms, k]`: a row's terms
    /// one after another, first the row rounded, then what that leaves.
    pub fn enter(self, b: &mut KernelBuilder, x: kernel::ValueId) -> kernel::ValueId {
        match self {
            Operand::I8 => b.rounded(x, CODES),
            Operand::Bf16 => b.cast(x, DType::BF16),
            Operand::F32 => b.cast(x, DType::F32),
            Operand::Bf16x2 => {
                let head = b.cast(x, DType::BF16);
                let (x, near) = (b.cast(x, DType::F32), b.cast(head, DType::F32));
                let rest = b.map("x - h", &[("x", x), ("h", near)]);
                let rest = b.cast(rest, DType::BF16);
                let rows = b.ty(x).shape[0];
                let terms = [head, rest].map(|term| b.split(term, 0, &[rows, 1]));
                let both = b.concat(&terms, 1);
                b.merge(both, 0, 2)
            }
        }
    }

    /// The product `[m, n]` of an activation, given that of its left operand, `[m * terms, n]`.
    pub fn leave(self, b: &mut KernelBuilder, product: kernel::ValueId) -> kernel::ValueId {
        if self.terms() == 1 {
            return product;
        }
        let rows = b.ty(product).shape[0] / self.terms();
        let terms = b.split(product, 0, &[rows, self.terms()]);
        b.reduce(Fold::Add, 1, terms)
    }
}

/// The operand of each node that has tile products, of a claim by its root.
pub type Operands = BTreeMap<NodeId, Operand>;

/// Operands in each call of an entry.
///
/// Errors: E0261 for a group that no generator takes.
pub fn operands(
    program: &Program,
    entry: &Entry,
    options: &Options,
) -> Result<Vec<Operands>, LowerError> {
    let above = above(program, entry, options.bf16x2);
    let of = |(call, above): (&Call, &BTreeSet<NodeId>)| {
        let graph = block(program, call);
        let claims = Claims::of(graph)?;
        let deciding = deciding(graph, &claims);
        let alike: Vec<&Call> = entry.calls.iter().filter(|c| c.block == call.block).collect();
        let rounded = Rounded { graph, calls: &alike, claims: &claims, options };
        let operand = |id: NodeId| match options.compute {
            Compute::F32 => Operand::F32,
            _ if deciding.contains(&id) => Operand::F32,
            Compute::Auto if rounded.multiplies_codes(id) => Operand::I8,
            _ if above.contains(&id) => Operand::Bf16x2,
            _ => Operand::Bf16,
        };
        // A claim's products share its operand.
        let is_root = |id: NodeId| claims.covering(id).is_none_or(|c| c.root == id);
        let products = numbered(graph).map(|(id, _)| id).filter(|id| is_root(*id));
        let products = products.filter(|id| kind_of(graph, &claims, *id).multiplies());
        Ok(products.map(|id| (id, operand(id))).collect())
    };
    entry.calls.iter().zip(&above).map(of).collect()
}

/// Format of the rows that each call of an entry keeps: where they reach a choice of those asked
/// for, the plain one of 16 bits with most digits.
pub fn kept(program: &Program, entry: &Entry, options: &Options) -> Vec<Format> {
    let above = above(program, entry, options.bf16x2);
    let of = |(call, above): (&Call, &BTreeSet<NodeId>)| {
        let reaches = block(program, call).histories().iter().any(|(id, _)| above.contains(id));
        match options.state {
            Some(format) => format,
            None if reaches && options.compute != Compute::F32 => format::F16,
            None if options.compute == Compute::F32 => format::F32,
            None => format::BF16,
        }
    };
    entry.calls.iter().zip(&above).map(of).collect()
}

fn block<'a>(program: &'a Program, call: &Call) -> &'a Graph {
    program.block(&call.block).expect("a verified program has the blocks it calls")
}

fn numbered(graph: &Graph) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
    graph.nodes.iter().enumerate().map(|(i, node)| (NodeId(i as u32), node))
}

fn chooses(graph: &Graph) -> bool {
    graph.nodes.iter().any(|n| op_name(n) == "topk")
}

/// Nodes of each call of an entry that reach a choice, of those asked for.
fn above(program: &Program, entry: &Entry, which: Above) -> Vec<BTreeSet<NodeId>> {
    let choosing = (0..entry.calls.len()).filter(|i| chooses(block(program, &entry.calls[*i])));
    let choosing: Vec<usize> = match which {
        Above::None => vec![],
        Above::First => choosing.take(1).collect(),
        Above::All => choosing.collect(),
    };
    // Values of the entry that reach a choice in a later call.
    let mut reaching: BTreeSet<&Name> = BTreeSet::new();
    let mut above = vec![BTreeSet::new(); entry.calls.len()];
    for (i, call) in entry.calls.iter().enumerate().rev() {
        let graph = block(program, call);
        let results = graph.outputs.iter().zip(&call.results);
        let mut reaches: BTreeSet<_> =
            results.filter(|(_, name)| reaching.contains(name)).map(|(v, _)| *v).collect();
        for (id, node) in numbered(graph).rev() {
            let chosen = op_name(node) == "topk" && choosing.contains(&i);
            if chosen || node.results.iter().any(|r| reaches.contains(r)) {
                above[i].insert(id);
                reaches.extend(&node.operands);
            }
        }
        for (param, arg) in graph.params.iter().zip(&call.args) {
            if let (Arg::Value(name), true) = (arg, reaches.contains(param)) {
                reaching.insert(name);
            }
        }
    }
    above
}

/// Contractions from whose result a `topk` is reached through row-wise nodes alone: routers.
fn deciding(graph: &Graph, claims: &Claims) -> BTreeSet<NodeId> {
    let mut decides: BTreeSet<ValueId> = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (id, node) in numbered(graph).rev() {
        if op_name(node) != "topk" && !node.results.iter().any(|r| decides.contains(r)) {
            continue;
        }
        match kind_of(graph, claims, id) {
            GroupKind::Row => decides.extend(&node.operands),
            GroupKind::Contraction => {
                found.insert(id);
            }
            GroupKind::Context | GroupKind::Attention | GroupKind::Experts => {}
        }
    }
    found
}
