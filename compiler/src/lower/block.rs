//! Lowering one block for one shape bucket: groups to kernels and launches.

use crate::lower::code::{
    BlockArg, BlockCode, BlockGrid, BlockLaunch, BlockTemp, Kernels, Viewed, WeightUse,
};
use crate::lower::constant;
use crate::lower::contraction::{self, Contraction, weight_packing};
use crate::lower::error::LowerError;
use crate::lower::mixture::Combined;
use crate::lower::partition::{Group, GroupKind, Partition, op_name, row_index, weight_operand};
use crate::lower::precision::Operand;
use crate::lower::row;
use crate::lower::schedule::{self, ContractionTile, RowBucket};
use crate::lower::work::{self, Work};
use crate::options::Options;
use crate::pack::constant::Constant;
use crate::pack::format::Format;
use crate::pack::scales::keeps_blocks;
use ir::device::DeviceSpec;
use ir::dim::{Dim, Name};
use ir::dtype::{Class, DType, Encoding};
use ir::graph::program::{Program, Weight};
use ir::graph::{Graph, Node, NodeId, ValueId};
use std::collections::{BTreeSet, HashMap};

/// Greatest number of rows of a step: sizes of rows fit 32 bits.
const ROWS_MAX: i64 = 1 << 24;

/// Phases of one group's own kernels, between those of the partition.
const SUBPHASES: u32 = 4;

/// A block on its way.
pub struct Block<'a> {
    /// The block.
    pub graph: &'a Graph,
    /// Its groups.
    pub partition: &'a Partition,
    /// What the user chose.
    pub options: &'a Options,
    /// What it is compiled for.
    pub device: &'a DeviceSpec,
    /// For how many rows.
    pub bucket: RowBucket,
    /// Kernels of the whole program.
    pub kernels: &'a mut Kernels,
    /// What has the weights.
    pub program: &'a Program,
    /// Weights that calls bind to each parameter, one for each call.
    pub bindings: &'a HashMap<ValueId, Vec<&'a Weight>>,
    /// The result.
    pub code: BlockCode,
    /// How results of experts are combined, by value.
    pub combined: HashMap<ValueId, Combined>,
}

/// What a block is lowered with.
pub struct BlockInput<'a> {
    /// The block.
    pub graph: &'a Graph,
    /// Its groups.
    pub partition: &'a Partition,
    /// What has the weights.
    pub program: &'a Program,
    /// Weights that calls bind to each parameter, one for each call.
    pub bindings: &'a HashMap<ValueId, Vec<&'a Weight>>,
    /// What the user chose.
    pub options: &'a Options,
    /// What it is compiled for.
    pub device: &'a DeviceSpec,
    /// For how many rows.
    pub bucket: RowBucket,
}

/// Lowers a block.
///
/// Errors: E0261, E0262, E0284.
pub fn lower(input: &BlockInput<'_>, kernels: &mut Kernels) -> Result<BlockCode, LowerError> {
    let mut block = Block {
        graph: input.graph,
        partition: input.partition,
        options: input.options,
        device: input.device,
        bucket: input.bucket,
        kernels,
        program: input.program,
        bindings: input.bindings,
        code: BlockCode::default(),
        combined: HashMap::new(),
    };
    for group in &input.partition.groups {
        let group = Group { phase: group.phase * SUBPHASES, ..group.clone() };
        match group.kind {
            GroupKind::Row => row::lower(&mut block, &group)?,
            GroupKind::Contraction => block.contraction(&group)?,
            GroupKind::Context => block.context(&group)?,
            GroupKind::Attention => block.attention(&group)?,
            GroupKind::Experts => block.experts(&group)?,
        }
    }
    Ok(block.code)
}

impl Block<'_> {
    /// Greatest number of rows that the bucket serves.
    pub fn rows_max(&self) -> i64 {
        self.bucket.rows_max.min(ROWS_MAX)
    }

    /// Kernel symbol of a row index: `n` for new tokens, else its own.
    pub fn rows_symbol(&self, index: &str) -> &'static str {
        match self.graph.extent(index).as_symbol().map(|s| &**s) {
            Some("m") => "m",
            _ => "n",
        }
    }

    /// Extents that are known when compiling.
    ///
    /// Errors: E0262.
    pub fn extents(&self, indices: &[Name]) -> Result<Vec<i64>, LowerError> {
        let extent = |i: &Name| {
            let dim = self.graph.extent(i);
            dim.bound_value(&self.graph.symbols).ok_or_else(|| LowerError::Unbound {
                graph: self.graph.name.clone(),
                dim: dim.to_string(),
            })
        };
        indices.iter().map(extent).collect()
    }

    /// Product of extents that are known when compiling.
    ///
    /// Errors: E0262.
    pub fn product(&self, indices: &[Name]) -> Result<i64, LowerError> {
        Ok(self.extents(indices)?.iter().product())
    }

    /// How a value lies in memory: the rows first, then its other indices in order.
    ///
    /// Errors: E0262.
    pub fn stored_dims(&self, value: ValueId) -> Result<(Vec<Dim>, Vec<Name>), LowerError> {
        let rows = row_index(self.graph, value).cloned();
        let own: Vec<Name> = self.own_indices(value);
        let mut dims: Vec<Dim> = rows.iter().map(|r| Dim::symbol(self.rows_symbol(r))).collect();
        dims.extend(self.extents(&own)?.into_iter().map(Dim::constant));
        Ok((dims, own))
    }

    /// Indices of a value but its rows', in order.
    pub(super) fn own_indices(&self, value: ValueId) -> Vec<Name> {
        let rows = row_index(self.graph, value);
        self.graph.ty(value).indices.iter().filter(|i| Some(*i) != rows).cloned().collect()
    }

    /// How a value is stored, the widest way if there are several.
    pub fn stored_encoding(&self, value: ValueId) -> Encoding {
        let natural = self.graph.ty(value).dtype();
        let all = self.partition.stored.get(&value);
        let widest = all.and_then(|d| d.iter().max_by_key(|e| e.code.bits()).copied());
        match natural.class() {
            Class::Float => widest.unwrap_or(DType::F32.into()),
            _ => natural.into(),
        }
    }

    /// The wanted encoding if the value is stored so, else the one that it is stored in.
    pub(super) fn stored_as(&self, value: ValueId, wanted: Encoding) -> Encoding {
        let all = self.partition.stored.get(&value);
        if all.is_some_and(|d| d.contains(&wanted)) { wanted } else { self.stored_encoding(value) }
    }

    /// Encoding in which a constant is packed when it is read with these axes: of views of weights
    /// that of the weights, decoded where
    /// blocks of scales are no blocks of the packed tensor; else f32.
    ///
    /// Errors: E0261.
    pub fn weight_encoding(
        &self,
        of: &Viewed,
        axes: &[Vec<Name>; 3],
        decoded: DType,
    ) -> Result<Encoding, LowerError> {
        let bound = self.constants(of, axes)?;
        let mut encodings = BTreeSet::new();
        for constant in &bound {
            let Some(views) = constant.views(self.program) else { return Ok(DType::F32.into()) };
            encodings.extend(views.iter().map(|(_, weight)| weight.encoding));
        }
        let first = encodings.first().copied();
        let own =
            first.filter(|_| encodings.len() == 1).unwrap_or(self.graph.ty(of.value).encoding);
        let keeps = |scale| bound.iter().all(|c| keeps_blocks(c, self.program, scale));
        Ok(match own.scale {
            _ if encodings.len() > 1 && encodings.contains(&DType::F32.into()) => DType::F32.into(),
            None if encodings.len() == 1 => own,
            Some(scale) if keeps(scale) => own,
            _ => decoded.into(),
        })
    }

    /// The format that is asked for of a constant.
    ///
    /// Errors: E0261.
    fn format(&self, of: &Viewed, axes: &[Vec<Name>; 3]) -> Result<Option<Format>, LowerError> {
        let bound = self.constants(of, axes)?;
        Ok(self.options.weights.of_weights(bound.iter().flat_map(Constant::weights)))
    }

    /// What calls make of a constant, as batch, rows and columns.
    fn constants(&self, of: &Viewed, axes: &[Vec<Name>; 3]) -> Result<Vec<Constant>, LowerError> {
        let calls = self.bindings.values().map(Vec::len).max().unwrap_or(0);
        let of_call = |call: usize| {
            let bound = |param| self.bindings.get(&param)?.get(call).copied();
            constant::grouped(self.graph, of, axes, &bound)
        };
        (0..calls).map(of_call).collect()
    }

    /// How activations enter the products of a node: the same way for any number of rows, where
    /// rows must not depend on it.
    pub(super) fn operand(&self, node: NodeId) -> Operand {
        let operand = self.partition.operands[&node];
        match self.options.is_batch_invariant() {
            true => operand,
            false => operand.of_rows(self.bucket),
        }
    }

    /// Values that nodes compute.
    pub fn results(&self, nodes: &[NodeId]) -> Vec<ValueId> {
        nodes.iter().flat_map(|n| &self.graph.node(*n).results).copied().collect()
    }

    /// Names of values, for reports.
    pub fn origin(&self, results: &[ValueId]) -> String {
        let names: Vec<String> =
            results.iter().map(|v| format!("%{}", self.graph.value(*v).name)).collect();
        format!("@{} {}", self.graph.name, names.join(" "))
    }

    /// A node of a form that no generator takes.
    pub(super) fn form(&self, node: &Node, found: impl Into<String>, expected: &str) -> LowerError {
        LowerError::Form {
            graph: self.graph.name.clone(),
            node: op_name(node),
            found: found.into(),
            expected: expected.to_string(),
        }
    }

    /// The ways in which a value is stored.
    pub(super) fn outs(&self, value: ValueId) -> Vec<Encoding> {
        self.partition.stored.get(&value).map_or(vec![], |d| d.iter().copied().collect())
    }

    /// Memory between this group's kernels; its number.
    pub(super) fn temp(&mut self, name: &'static str, bytes: Dim) -> usize {
        self.code.temps.push(BlockTemp { name, bytes });
        self.code.temps.len() - 1
    }

    /// A constant as a kernel of tile products reads it, beside activations that enter so.
    ///
    /// Errors: E0261, E0262.
    pub(super) fn weight_use(
        &self,
        of: impl Into<Viewed>,
        [batch, rows, cols]: [&[Name]; 3],
        left: Operand,
    ) -> Result<WeightUse, LowerError> {
        let of = of.into();
        let axes = [batch, rows, cols].map(<[Name]>::to_vec);
        let dims = vec![self.product(batch)?, self.product(rows)?, self.product(cols)?];
        let encoding = match self.format(&of, &axes)?.and_then(|f| f.encoding(dims[2])) {
            Some(encoding) => encoding,
            None => self.weight_encoding(&of, &axes, left.dtype())?,
        };
        let packing = Some(weight_packing(encoding, left.beside(encoding)));
        Ok(WeightUse { of, axes, encoding, dims, packing })
    }

    fn contraction(&mut self, group: &Group) -> Result<(), LowerError> {
        let id = group.nodes[0];
        let node = self.graph.node(id);
        let at = weight_operand(self.graph, node).expect("a contraction group has a weight");
        let (w, x, y) = (node.operands[at], node.operands[1 - at], node.results[0]);
        let (wt, yt) = (self.graph.ty(w), self.graph.ty(y));
        let own = self.own_indices(x);
        let pick = |from: &[Name], test: &dyn Fn(&Name) -> bool| -> Vec<Name> {
            from.iter().filter(|i| test(i)).cloned().collect()
        };
        let batch = pick(&own, &|i| wt.has(i) && yt.has(i));
        let summed = pick(&own, &|i| wt.has(i) && !yt.has(i));
        let more_rows = pick(&own, &|i| !wt.has(i));
        let cols = pick(&wt.indices, &|i| !own.contains(i));
        if own != [more_rows.as_slice(), &batch, &summed].concat()
            || self.own_indices(y) != [more_rows.as_slice(), &batch, &cols].concat()
            || more_rows.iter().any(|i| !yt.has(i))
        {
            let found = format!("{} with {wt} to {yt}", self.graph.ty(x));
            let expected = "rows, batch and sum in this order, to rows, batch and columns";
            return Err(self.form(node, found, expected));
        }
        let left = self.operand(id);
        let weight = self.weight_use(w, [&batch, &cols, &summed], left)?;
        let left = left.beside(weight.encoding);
        let (n, depth, outs) = (weight.dims[1], weight.dims[2], self.outs(y));
        let c = Contraction {
            rows: (self.rows_symbol(&group.rows), self.rows_max()),
            rows_each: self.product(&more_rows)?,
            extents: (weight.dims[0], n, depth),
            x: self.stored_as(x, left.stored()),
            left,
            weight: weight.encoding,
            tile: self.tile(&weight, left, &outs),
            outs,
        };
        let mut args = vec![BlockArg::Value(x, c.x), BlockArg::Weight(Box::new(weight))];
        args.extend(c.outs.iter().map(|d| BlockArg::Value(y, *d)));
        let tiles = |extent: i64, tile: u32| Dim::constant(extent).ceil_div(tile.into());
        let rows = c.rows().ceil_div(c.tile.rows.into());
        let grid = Dim::constant(c.extents.0).times(&tiles(n, c.tile.cols)).times(&rows);
        let kernel = self.kernels.intern(contraction::kernel(&c))?;
        let work = work::contraction(&c);
        self.launch(group, 0, kernel, args, BlockGrid::Dense(grid), work);
        Ok(())
    }

    fn tile(&self, weight: &WeightUse, left: Operand, outs: &[Encoding]) -> ContractionTile {
        let (cols, depth) = (weight.dims[1], weight.dims[2]);
        let (device, bucket, terms) = (self.device, self.bucket, left.terms());
        let tile = schedule::contraction(device, bucket, cols, depth, weight.encoding, terms);
        ContractionTile { cols: schedule::whole_blocks(tile.cols, outs), ..tile }
    }

    /// Adds a launch, `sub` barriers behind the group's first.
    pub(super) fn launch(
        &mut self,
        group: &Group,
        sub: u32,
        kernel: usize,
        args: Vec<BlockArg>,
        grid: BlockGrid,
        work: Work,
    ) {
        let (phase, origin) = (group.phase + sub, self.origin(&self.results(&group.nodes)));
        self.code.launches.push(BlockLaunch { kernel, args, grid, phase, origin, work });
    }
}
