//! From graph ops to tiles: the kernel that computes nodes as they are written.
//!
//! Each primitive's file says how it is computed on tiles ([`OpDef::lower`]); a composite is
//! lowered through its definition. Row kernels and the oracle's whole-graph kernels are made here.

use crate::dim::{Dim, Name};
use crate::dtype::{Class, DType};
use crate::error::IrError;
use crate::graph::{Graph, Node, NodeId, Type, ValueId};
use crate::kernel::builder::{At, KernelBuilder, tensor};
use crate::kernel::{self, Role, TileType};
use crate::op::{NodeView, OpDef, Schema};
use std::collections::HashMap;
use thiserror::Error;

/// A value of a graph inside a kernel. Its axes are the value's indices but for the one that the
/// kernel's instances run over, if it has that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// In the kernel.
    pub value: kernel::ValueId,
    /// One for each axis, in order.
    pub indices: Vec<Name>,
}

/// Why a node has no tiles.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{op}` cannot be lowered to tiles: found {found}, expected {expected}")]
pub struct Unlowered {
    /// The op.
    pub op: &'static str,
    /// What the node has.
    pub found: String,
    /// What can be lowered.
    pub expected: &'static str,
}

/// The index that a kernel's instances run over, and where an instance's row stands in its
/// sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// E.g. `s`.
    pub index: Name,
    /// Scalar `i32`: `t - s` plus the row's number, for `iota {start = t - s}`.
    pub position: Option<kernel::ValueId>,
}

/// Nodes on their way into a kernel.
pub struct Tiles<'k> {
    /// The kernel.
    pub kernel: &'k mut KernelBuilder,
    /// What instances run over; `None` where one instance computes whole values.
    pub row: Option<Row>,
    /// Numbers of the constants, for each of which the kernel got a parameter, in order.
    pub constants: Vec<(DType, Vec<f64>)>,
}

/// Tiles of a graph's values.
pub type Env = HashMap<ValueId, Tile>;

impl<'k> Tiles<'k> {
    /// Tiles of a kernel.
    pub fn new(kernel: &'k mut KernelBuilder, row: Option<Row>) -> Self {
        Tiles { kernel, row, constants: vec![] }
    }

    /// Indices that are axes: all but the one instances run over.
    pub fn axes(&self, indices: &[Name]) -> Vec<Name> {
        let row = self.row.as_ref().map(|r| &r.index);
        indices.iter().filter(|i| Some(*i) != row).cloned().collect()
    }

    /// Static extents of indices.
    ///
    /// Errors: an extent that is not known when compiling.
    pub fn shape(&self, graph: &Graph, indices: &[Name]) -> Result<Vec<u32>, Unlowered> {
        let extent = |i: &Name| {
            let dim = graph.extent(i);
            dim.bound_value(&graph.symbols).and_then(|v| u32::try_from(v).ok()).ok_or_else(|| {
                let found = format!("index {i} of extent {dim}");
                Unlowered { op: "tile", found, expected: "an extent known when compiling" }
            })
        };
        indices.iter().map(extent).collect()
    }

    /// The tile with exactly these axes in this order: permuted, and repeated along those that it
    /// lacks.
    ///
    /// Errors: as [`Tiles::shape`].
    pub fn aligned(
        &mut self,
        graph: &Graph,
        tile: &Tile,
        axes: &[Name],
    ) -> Result<kernel::ValueId, Unlowered> {
        let present: Vec<Name> =
            axes.iter().filter(|a| tile.indices.contains(a)).cloned().collect();
        let mut value = self.permuted(tile, &present);
        let shape = self.shape(graph, axes)?;
        for (at, axis) in axes.iter().enumerate() {
            if !present.contains(axis) {
                value = self.kernel.broadcast(value, at as u32, shape[at]);
            }
        }
        Ok(value)
    }

    /// The tile with its axes in another order; `axes` holds all of them.
    pub fn permuted(&mut self, tile: &Tile, axes: &[Name]) -> kernel::ValueId {
        if tile.indices == axes {
            return tile.value;
        }
        let order: Vec<u32> = axes
            .iter()
            .filter_map(|a| tile.indices.iter().position(|i| i == a))
            .map(|p| p as u32)
            .collect();
        self.kernel.transpose(tile.value, &order)
    }

    /// Axes from the one at `at` on, made one (an axis of extent 1 where there are none).
    pub fn flattened(&mut self, value: kernel::ValueId, at: usize) -> kernel::ValueId {
        let rank = self.kernel.ty(value).shape.len();
        match rank - at {
            0 => self.kernel.broadcast(value, at as u32, 1),
            1 => value,
            count => self.kernel.merge(value, at as u32, count as u32),
        }
    }

    /// The last axis made several (or dropped, where there are none).
    pub fn unflattened(&mut self, value: kernel::ValueId, extents: &[u32]) -> kernel::ValueId {
        let last = self.kernel.ty(value).shape.len() as u32 - 1;
        match extents {
            [] => {
                let code = self.kernel.ty(value).encoding.code;
                let wide = self.widened(value);
                let alone = self.kernel.reduce(kernel::Fold::Add, last, wide);
                self.kernel.cast(alone, code)
            }
            [_] => value,
            _ => self.kernel.split(value, last, extents),
        }
    }

    /// The tile in a dtype that sums and comparisons take: reals of fewer bits as f32.
    pub fn widened(&mut self, value: kernel::ValueId) -> kernel::ValueId {
        match self.kernel.ty(value).encoding.code {
            code if code.class() == Class::Float && code != DType::F32 => {
                self.kernel.cast(value, DType::F32)
            }
            _ => value,
        }
    }

    /// The same number in every element.
    pub fn splat(&mut self, number: f64, like: kernel::ValueId, dtype: DType) -> kernel::ValueId {
        let shape = self.kernel.ty(like).shape.clone();
        self.kernel.splat(number, TileType::new(dtype, &shape))
    }

    /// A constant tile: a parameter of the kernel that holds its numbers.
    pub fn constant(&mut self, dtype: DType, shape: &[u32], values: &[f64]) -> kernel::ValueId {
        let dims: Vec<Dim> = shape.iter().map(|e| Dim::constant((*e).into())).collect();
        let name = format!("const{}", self.constants.len());
        let param = self.kernel.param(&name, Role::In, tensor(dtype, &dims));
        self.constants.push((dtype, values.to_vec()));
        let coords: Vec<At> = shape.iter().map(|e| At::tile(0, *e)).collect();
        self.kernel.load(param, &coords)
    }

    /// Lowers nodes in order; operands that earlier nodes did not define are in `env`.
    ///
    /// Errors: the first node that has no lowering.
    pub fn lower(
        &mut self,
        graph: &Graph,
        nodes: impl IntoIterator<Item = NodeId>,
        env: &mut Env,
    ) -> Result<(), Unlowered> {
        for id in nodes {
            let node = graph.node(id);
            let tiles = self.lower_node(graph, node, env)?;
            env.extend(node.results.iter().copied().zip(tiles));
        }
        Ok(())
    }

    fn lower_node(
        &mut self,
        graph: &Graph,
        node: &Node,
        env: &Env,
    ) -> Result<Vec<Tile>, Unlowered> {
        let op: &dyn OpDef = node.op.0;
        let types = |values: &[ValueId]| values.iter().map(|v| graph.ty(*v).clone()).collect();
        let (data, mask) = match node.masked {
            true => node.operands.split_at(node.operands.len() - 1),
            false => (node.operands.as_slice(), [].as_slice()),
        };
        let (operands, declared): (Vec<Type>, Vec<Type>) = (types(data), types(&node.results));
        let mask_types: Vec<Type> = types(mask);
        let view = NodeView {
            schema: op.schema(),
            graph,
            operands: &operands,
            mask: mask_types.first(),
            attrs: &node.attrs.0,
            declared: Some(&declared),
        };
        let tile_of = |v: &ValueId| {
            env.get(v).cloned().ok_or_else(|| Unlowered {
                op: op.schema().name,
                found: format!("operand %{} that no tile holds", graph.value(*v).name),
                expected: "operands that are rows, weights or results of the same kernel",
            })
        };
        let tiles = data.iter().map(tile_of).collect::<Result<Vec<_>, _>>()?;
        let mask = mask.first().map(tile_of).transpose()?;
        op.lower(self, &view, &tiles, mask.as_ref())
    }

    /// Lowers a node of a composite through the graph of its definition.
    ///
    /// Errors: there is none, or whatever its nodes report.
    pub fn lower_definition(
        &mut self,
        schema: &Schema,
        definition: Option<Result<Graph, IrError>>,
        operands: &[Tile],
        mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let Some(Ok(graph)) = definition else {
            let expected = "an op with a lowering or a definition";
            return Err(Unlowered { op: schema.name, found: "neither".into(), expected });
        };
        let given = operands.iter().chain(mask).cloned();
        let mut env: Env = graph.params.iter().copied().zip(given).collect();
        self.lower(&graph, (0..graph.nodes.len() as u32).map(NodeId), &mut env)?;
        Ok(graph.outputs.iter().map(|v| env[v].clone()).collect())
    }
}

/// A node that lacks what its op's rule demands of it.
pub fn undeclared(schema: &Schema) -> Unlowered {
    let expected = "a node that its op's rule accepts";
    Unlowered { op: schema.name, found: "another".into(), expected }
}
