//! Partition: a block's nodes into fused groups, each lowered to one kernel or a few.
//!
//! Row-wise nodes of one level and one row domain fuse into a single group; a contraction with a
//! weight and each claim (see [`crate::lower::claims`]) stand alone. A level is as early as the
//! operands allow, so that a layer needs as few launches and barriers as its data flow has.

use crate::lower::claims::source::Source;
use crate::lower::claims::{Claim, Claims};
use crate::lower::constant::is_constant;
use crate::lower::error::LowerError;
use crate::lower::precision::Operands;
use ir::dim::{Dim, Name, Sort};
use ir::dtype::{Class, DType, Encoding};
use ir::graph::{Def, Graph, Node, NodeId, ParamKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What a group is lowered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupKind {
    /// Row-wise nodes, each row by itself.
    Row,
    /// One contraction of rows with a weight.
    Contraction,
    /// One contraction of rows over the context with a weight.
    Context,
    /// One attention over the states.
    Attention,
    /// Products of rows with the weights that they choose.
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
    /// Position of the claim that it is, among all.
    pub claim: Option<usize>,
}

/// A block's groups in launch order, and what they hand to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// By phase.
    pub groups: Vec<Group>,
    /// Values that leave the group that makes them, with the ways in which they are stored.
    pub stored: BTreeMap<ValueId, BTreeSet<Encoding>>,
    /// In what precision activations enter the products of each group that has some.
    pub operands: Operands,
    /// The block's claims.
    pub claims: Claims,
}

/// The op's name.
pub fn op_name(node: &Node) -> &'static str {
    node.op.0.schema().name
}

/// Which operand of a contraction is the weight, if it is one of rows with a weight: a constant,
/// of which something is summed over.
pub fn weight_operand(graph: &Graph, node: &Node) -> Option<usize> {
    if op_name(node) != "contract" || node.operands.len() != 2 {
        return None;
    }
    let is_weight = |v: &ValueId| is_constant(graph, *v);
    let at = match (is_weight(&node.operands[0]), is_weight(&node.operands[1])) {
        (false, true) => 1,
        (true, false) => 0,
        _ => return None,
    };
    let result = graph.ty(node.results[0]);
    graph.ty(node.operands[at]).indices.iter().any(|i| !result.has(i)).then_some(at)
}

/// The index of a value that runs over rows of the step: one whose extent the host learns anew at
/// every step, and that is not the context's.
pub fn row_index(graph: &Graph, value: ValueId) -> Option<&Name> {
    let is_rows = |index: &&Name| {
        let extent = graph.extent(index);
        is_step(graph, &extent) && !is_context(graph, &extent)
    };
    graph.ty(value).indices.iter().find(is_rows)
}

/// The index of a value that runs over the context: one with as many positions as a history.
pub fn context_index(graph: &Graph, value: ValueId) -> Option<&Name> {
    graph.ty(value).indices.iter().find(|index| is_context(graph, &graph.extent(index)))
}

fn is_step(graph: &Graph, extent: &Dim) -> bool {
    let symbol = extent.as_symbol().and_then(|name| graph.symbols.get(name));
    symbol.is_some_and(|s| s.sort == Sort::Step && s.value.is_none())
}

fn is_context(graph: &Graph, extent: &Dim) -> bool {
    let histories = graph.nodes.iter().filter(|n| op_name(n) == "append");
    let rows = histories.filter_map(|n| graph.ty(n.results[0]).indices.first());
    rows.into_iter().any(|index| graph.extent(index) == *extent)
}

/// Whether a value has a row for each position of the context, and none for rows of the step.
pub fn is_over_context(graph: &Graph, value: ValueId) -> bool {
    context_index(graph, value).is_some() && row_index(graph, value).is_none()
}

/// Whether a value is computed anew from the context at each step: a contraction of rows over it
/// with a weight.
pub fn is_expanded(graph: &Graph, value: ValueId) -> bool {
    match graph.value(value).def {
        Def::Node(n, _) => kind_alone(graph, graph.node(n)) == GroupKind::Context,
        Def::Param(..) => false,
    }
}

/// Whether a value is a history of state rows, which lives in the state, not in a buffer.
pub fn is_history(graph: &Graph, value: ValueId) -> bool {
    match graph.value(value).def {
        Def::Node(n, _) => op_name(graph.node(n)) == "append",
        Def::Param(_, kind) => kind == ParamKind::State,
    }
}

/// What a node is lowered by, alone or with the others of its claim.
pub fn kind_of(graph: &Graph, claims: &Claims, id: NodeId) -> GroupKind {
    claims.covering(id).map_or_else(|| kind_alone(graph, graph.node(id)), |claim| claim.kind)
}

fn kind_alone(graph: &Graph, node: &Node) -> GroupKind {
    match weight_operand(graph, node) {
        None => GroupKind::Row,
        Some(_) if is_over_context(graph, node.results[0]) => GroupKind::Context,
        Some(_) => GroupKind::Contraction,
    }
}

/// Rows a node runs over: those of its result, or of its operand where the result is a history.
fn rows_of(graph: &Graph, node: &Node) -> Option<Name> {
    let from = match op_name(node) {
        "append" => node.operands[1],
        _ => node.results[0],
    };
    let rows = match kind_alone(graph, node) {
        GroupKind::Context => context_index(graph, from),
        _ => row_index(graph, from),
    };
    rows.cloned()
}

/// A node or a claim: what takes its place in a group as a whole.
struct Unit<'g> {
    kind: GroupKind,
    rows: Name,
    /// The node by which it is known.
    root: NodeId,
    nodes: Vec<NodeId>,
    claim: Option<(usize, &'g Claim)>,
    /// Values that it reads, constants apart.
    reads: Vec<ValueId>,
    results: Vec<ValueId>,
}

/// Everything a block must compute, in definition order of what it is known by.
///
/// Errors: E0260.
fn units<'g>(graph: &Graph, claims: &'g Claims) -> Result<Vec<Unit<'g>>, LowerError> {
    let (claims_needed, nodes_needed) = claims.needed(graph);
    let mut units = vec![];
    for (i, claim) in claims.all().iter().enumerate().filter(|(i, _)| claims_needed[*i]) {
        units.push(Unit {
            kind: claim.kind,
            rows: claim.rows.clone(),
            root: claim.root,
            nodes: claim.nodes.iter().copied().collect(),
            claim: Some((i, claim)),
            reads: claim.reads.iter().copied().collect(),
            results: claim.results.clone(),
        });
    }
    for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| nodes_needed[*i]) {
        let kind = kind_alone(graph, node);
        let Some(rows) = rows_of(graph, node) else {
            // Constants have no rows: every group that reads one makes it for itself.
            if kind != GroupKind::Row {
                let (graph, node) = (graph.name.clone(), op_name(node));
                return Err(LowerError::NoRows { graph, node });
            }
            continue;
        };
        let root = NodeId(i as u32);
        // Of a view over the context, what is read is what it shows.
        let read = |v: &ValueId| Source::of(graph, *v).map_or(*v, |s| s.base);
        let (reads, results) = (node.operands.iter().map(read).collect(), node.results.clone());
        units.push(Unit { kind, rows, root, nodes: vec![root], claim: None, reads, results });
    }
    units.sort_by_key(|u| u.root);
    Ok(units)
}

/// Level of every unit, as `2 * level` for row-wise nodes and `2 * level + 1` for the others.
///
/// Errors: E0261 where a claim reads what is computed from it.
fn phases(
    graph: &Graph,
    units: &[Unit<'_>],
    maker: &BTreeMap<ValueId, usize>,
) -> Result<Vec<u32>, LowerError> {
    let mut phases: Vec<Option<u32>> = vec![None; units.len()];
    let mut open: Vec<usize> = (0..units.len()).collect();
    while !open.is_empty() {
        let before = open.len();
        open.retain(|i| {
            let unit = &units[*i];
            let after = unit.reads.iter().filter_map(|v| maker.get(v)).map(|from| {
                // Rows of another index are read when all of them are written.
                Some(phases[*from]? + u32::from(units[*from].rows != unit.rows))
            });
            let Some(latest) = after.collect::<Option<Vec<u32>>>() else { return true };
            let latest = latest.into_iter().max().unwrap_or(0);
            phases[*i] = Some(match unit.kind {
                // A row-wise node joins its operands' level; behind anything else a new one begins.
                GroupKind::Row => latest.next_multiple_of(2),
                _ if latest.is_multiple_of(2) => latest + 1,
                _ => latest + 2,
            });
            false
        });
        if open.len() == before {
            let (graph, node) = (graph.name.clone(), op_name(graph.node(units[open[0]].root)));
            let (found, expected) = ("an operand that is computed from its result", "none");
            let (found, expected) = (found.to_string(), expected.to_string());
            return Err(LowerError::Form { graph, node, found, expected });
        }
    }
    Ok(phases.into_iter().map(|p| p.expect("every unit has its turn")).collect())
}

/// How activations that best enter a unit's products are stored.
fn stored_by(unit: &Unit<'_>, operands: &Operands) -> Encoding {
    operands.get(&unit.root).map_or(DType::F32.into(), |o| o.stored())
}

/// How a value that is not over the context is stored for a unit that reads it.
fn demanded(graph: &Graph, unit: &Unit<'_>, value: ValueId, operands: &Operands) -> Encoding {
    let natural = graph.value(value).ty.encoding.decoded();
    let enters = match unit.claim {
        Some((_, claim)) => claim.enters(graph, value),
        None => true,
    };
    match natural.class() {
        Class::Float if enters => stored_by(unit, operands),
        Class::Float => DType::F32.into(),
        _ => natural.into(),
    }
}

/// Partitions a block. What it computes over the context from what it keeps of a sequence is stored
/// as activations enter the computing product.
///
/// Errors: E0260 where a node runs over no rows of the step and is no constant; E0261.
pub fn partition(graph: &Graph, operands: Operands) -> Result<Partition, LowerError> {
    let claims = Claims::of(graph)?;
    let units = units(graph, &claims)?;
    let made = |(i, unit): (usize, &Unit<'_>)| {
        unit.results.iter().map(|v| (*v, i)).collect::<Vec<(ValueId, usize)>>()
    };
    let maker: BTreeMap<ValueId, usize> = units.iter().enumerate().flat_map(made).collect();
    let phases = phases(graph, &units, &maker)?;
    // Row-wise nodes of one phase share a group, everything else has its own.
    let key = |i: usize| {
        let unit = &units[i];
        let alone = if unit.kind == GroupKind::Row { 0 } else { unit.root.0 };
        (phases[i], unit.kind, unit.rows.clone(), alone)
    };
    let mut groups: BTreeMap<(u32, GroupKind, Name, u32), Group> = BTreeMap::new();
    let mut stored: BTreeMap<ValueId, BTreeSet<Encoding>> = BTreeMap::new();
    for (i, unit) in units.iter().enumerate() {
        let (kind, phase, rows) = (unit.kind, phases[i], unit.rows.clone());
        let claim = unit.claim.map(|(at, _)| at);
        let new = || Group { kind, phase, rows, nodes: vec![], claim };
        groups.entry(key(i)).or_insert_with(new).nodes.extend(&unit.nodes);
        for v in unit.reads.iter().filter(|v| !is_history(graph, **v)) {
            if maker.get(v).is_some_and(|from| key(*from) != key(i)) {
                let encoding = match is_over_context(graph, *v) {
                    true => stored_by(&units[maker[v]], &operands),
                    false => demanded(graph, unit, *v, &operands),
                };
                stored.entry(*v).or_default().insert(encoding);
            }
        }
    }
    for v in graph.outputs.iter().filter(|v| !is_history(graph, **v)) {
        if is_constant(graph, *v) {
            let (graph, node) = (graph.name.clone(), "output");
            let (found, expected) = ("a constant".to_string(), "a value of rows".to_string());
            return Err(LowerError::Form { graph, node, found, expected });
        }
        let natural = graph.value(*v).ty.encoding.decoded();
        let dtype = if natural.class() == Class::Float { DType::F32 } else { natural };
        stored.entry(*v).or_default().insert(dtype.into());
    }
    let groups = groups.into_values().collect();
    Ok(Partition { groups, stored, operands, claims })
}
