//! Partition: a block's nodes into fused groups, each lowered to one kernel or a few.
//!
//! Row-wise nodes of one level and one row domain fuse into a single group; a contraction with a
//! weight, an attention and a mixture of experts each stand alone. A level is as early as the
//! operands allow, so that a layer needs as few launches and barriers as its data flow has.

use crate::lower::error::LowerError;
use crate::lower::precision::Operands;
use ir::dim::{Name, Sort};
use ir::dtype::{Class, DType};
use ir::graph::{Def, Graph, Node, NodeId, ParamKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What a group is lowered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    /// Row-wise nodes, each row by itself.
    Row,
    /// One contraction of rows with a weight.
    Contraction,
    /// One attention over the states.
    Attention,
    /// One mixture of experts.
    Experts,
}

impl GroupKind {
    /// Whether it has tile products.
    pub fn multiplies(self) -> bool {
        self != GroupKind::Row
    }
}

/// Nodes that become one kernel (or, for experts, one short sequence).
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Which generator.
    pub kind: GroupKind,
    /// Groups of one phase are independent of each other; a barrier stands between phases.
    pub phase: u32,
    /// Index that the rows run over.
    pub rows: Name,
    /// In definition order.
    pub nodes: Vec<NodeId>,
}

/// A block's groups in launch order, and what they hand to each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partition {
    /// By phase.
    pub groups: Vec<Group>,
    /// Values that leave the group that makes them, with the dtypes in which they are stored.
    pub stored: BTreeMap<ValueId, BTreeSet<DType>>,
    /// In what precision activations enter the products of each group that has some.
    pub operands: Operands,
}

/// The op's name.
pub fn op_name(node: &Node) -> &'static str {
    node.op.0.schema().name
}

/// Which operand of a contraction is the weight, if it is one of rows with a weight.
pub fn weight_operand(graph: &Graph, node: &Node) -> Option<usize> {
    let is_weight = |v: &ValueId| matches!(graph.value(*v).def, Def::Param(_, ParamKind::Weight));
    if op_name(node) != "contract" || node.operands.len() != 2 {
        return None;
    }
    match (is_weight(&node.operands[0]), is_weight(&node.operands[1])) {
        (false, true) => Some(1),
        (true, false) => Some(0),
        _ => None,
    }
}

/// The index of a value that runs over rows of the step: one whose extent the host learns anew at
/// every step, and that is not the context's.
pub fn row_index(graph: &Graph, value: ValueId) -> Option<&Name> {
    graph.value(value).ty.indices.iter().find(|index| {
        graph
            .extent(index)
            .as_symbol()
            .and_then(|name| graph.symbols.get(name))
            .is_some_and(|s| s.sort == Sort::Step && s.value.is_none())
    })
}

/// What a node's group is lowered by.
pub fn kind_of(graph: &Graph, node: &Node) -> GroupKind {
    match op_name(node) {
        "attention" => GroupKind::Attention,
        "moe" => GroupKind::Experts,
        _ if weight_operand(graph, node).is_some() => GroupKind::Contraction,
        _ => GroupKind::Row,
    }
}

/// Rows a node runs over: those of its result, or of its operand where the result is a history.
fn rows_of(graph: &Graph, node: &Node) -> Option<Name> {
    let from = match op_name(node) {
        "append" => node.operands[1],
        _ => node.results[0],
    };
    row_index(graph, from).cloned()
}

/// Level of every node, as `2 * level` for row-wise nodes and `2 * level + 1` for the others.
fn phases(graph: &Graph, kinds: &[GroupKind]) -> Vec<u32> {
    let rows: Vec<Option<Name>> = graph.nodes.iter().map(|n| rows_of(graph, n)).collect();
    let mut phases: Vec<u32> = Vec::with_capacity(graph.nodes.len());
    for (i, (node, kind)) in graph.nodes.iter().zip(kinds).enumerate() {
        let after = node.operands.iter().filter_map(|v| {
            let Def::Node(NodeId(n), _) = graph.value(*v).def else { return None };
            // Rows of another index are read when all of them are written.
            let from = &rows[n as usize];
            let apart = from.is_some() && *from != rows[i];
            Some(phases[n as usize] + u32::from(apart))
        });
        let latest = after.max().unwrap_or(0);
        phases.push(match kind {
            // A row-wise node joins its operands' level; behind anything else a new one begins.
            GroupKind::Row => latest.next_multiple_of(2),
            _ if latest.is_multiple_of(2) => latest + 1,
            _ => latest + 2,
        });
    }
    phases
}

/// Dtype in which a consumer reads a value.
fn demanded(graph: &Graph, node: NodeId, value: ValueId, operands: &Operands) -> DType {
    let natural = graph.value(value).ty.encoding.decoded();
    let consumer = graph.node(node);
    // Of what enters experts, the rows: choices and their weights stay as they are.
    let enters = kind_of(graph, consumer) != GroupKind::Experts || consumer.operands[0] == value;
    match natural.class() {
        Class::Float if enters => operands.get(&node).map_or(DType::F32, |o| o.stored()),
        Class::Float => DType::F32,
        _ => natural,
    }
}

/// Whether a value is a history of state rows, which lives in the state, not in a buffer.
fn is_history(graph: &Graph, value: ValueId) -> bool {
    match graph.value(value).def {
        Def::Node(n, _) => op_name(graph.node(n)) == "append",
        Def::Param(_, kind) => kind == ParamKind::State,
    }
}

/// Partitions a block.
///
/// Errors: E0260 where a node runs over no rows of the step and is no constant.
pub fn partition(graph: &Graph, operands: Operands) -> Result<Partition, LowerError> {
    let kinds: Vec<_> = graph.nodes.iter().map(|n| kind_of(graph, n)).collect();
    let phases = phases(graph, &kinds);
    let mut groups: BTreeMap<(u32, GroupKind, Name, u32), Vec<NodeId>> = BTreeMap::new();
    let mut group_of: Vec<Option<(u32, GroupKind, Name, u32)>> = vec![];
    for (i, node) in graph.nodes.iter().enumerate() {
        let Some(rows) = rows_of(graph, node) else {
            // Constants have no rows: every group that reads one makes it for itself.
            if kinds[i] != GroupKind::Row {
                let (graph, node) = (graph.name.clone(), op_name(node));
                return Err(LowerError::NoRows { graph, node });
            }
            group_of.push(None);
            continue;
        };
        let alone = if kinds[i] == GroupKind::Row { 0 } else { i as u32 };
        let key = (phases[i], kinds[i], rows, alone);
        groups.entry(key.clone()).or_default().push(NodeId(i as u32));
        group_of.push(Some(key));
    }
    let mut stored: BTreeMap<ValueId, BTreeSet<DType>> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for v in &node.operands {
            let Def::Node(NodeId(from), _) = graph.value(*v).def else { continue };
            let leaves = group_of[from as usize].is_some()
                && group_of[from as usize] != group_of[i]
                && !is_history(graph, *v);
            if leaves {
                let id = NodeId(i as u32);
                let dtype = demanded(graph, id, *v, &operands);
                stored.entry(*v).or_default().insert(dtype);
            }
        }
    }
    for v in graph.outputs.iter().filter(|v| !is_history(graph, **v)) {
        let natural = graph.value(*v).ty.encoding.decoded();
        let dtype = if natural.class() == Class::Float { DType::F32 } else { natural };
        stored.entry(*v).or_default().insert(dtype);
    }
    let groups = groups
        .into_iter()
        .map(|((phase, kind, rows, _), nodes)| Group { kind, phase, rows, nodes })
        .collect();
    Ok(Partition { groups, stored, operands })
}
