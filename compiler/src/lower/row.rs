//! Generator of row kernels: a group of row-wise nodes, one row per instance.

use crate::lower::block::Block;
use crate::lower::claims::experts::Combine;
use crate::lower::code::{BlockArg, BlockGrid, BlockLaunch, StepInput, Viewed, WeightUse};
use crate::lower::constant::is_constant;
use crate::lower::error::LowerError;
use crate::lower::partition::{Group, op_name, row_index};
use crate::lower::states::{cached, is_whole};
use crate::lower::work::{self, Work};
use crate::pack::constant::Constant;
use ir::attr::Attr;
use ir::dim::{Dim, Name};
use ir::dtype::{DType, Encoding};
use ir::graph::{Def, Graph, Node, NodeId, ValueId};
use ir::kernel::builder::{At, KernelBuilder, tensor};
use ir::kernel::{self, Fold, LoopHints, ParamId, Role, TileType};
use ir::tiles::{Env, Row, Tile, Tiles};

/// Most elements of a weight that a row kernel holds at once.
const WHOLE_MAX: i64 = 1 << 22;

/// A row kernel under construction.
struct RowKernel<'b, 'g> {
    block: &'b mut Block<'g>,
    graph: &'g Graph,
    group: &'b Group,
    args: Vec<BlockArg>,
    /// The scalar number of the instance's row.
    row: kernel::ValueId,
    env: Env,
    /// Number of rows.
    rows: Dim,
    work: Work,
}

/// Lowers a group of row-wise nodes.
///
/// Errors: E0261, E0262, E0284.
pub fn lower(block: &mut Block<'_>, group: &Group) -> Result<(), LowerError> {
    lower_to(block, group, block.results(&group.nodes))
}

/// Lowers a group that stores these values.
///
/// Errors: E0261, E0262, E0284.
pub fn lower_to(
    block: &mut Block<'_>,
    group: &Group,
    results: Vec<ValueId>,
) -> Result<(), LowerError> {
    let origin = block.origin(&results);
    let graph = block.graph;
    let mut b = KernelBuilder::new("row", "row");
    let ops: Vec<Name> = group.nodes.iter().map(|n| op_name(graph.node(*n)).into()).collect();
    b.family_param("ops", Attr::Names(ops));
    let rows = block.rows_symbol(&group.rows);
    let n = b.symbol(rows, 0, block.rows_max());
    let row = b.grid_range("row", n.clone(), 1);
    let position = StepInput::Pos;
    let (args, env, work) = (vec![], Env::new(), Work::default());
    let mut kernel = RowKernel { block, graph, group, args, row, env, rows: n.clone(), work };
    let at = kernel.needs_position().then(|| {
        b.symbol("n", 0, kernel.block.rows_max());
        let pos = b.param("pos", Role::In, tensor(DType::I32, &position.dims()));
        kernel.args.push(BlockArg::Step(position));
        kernel.touch_rows(1, DType::I32);
        b.load(pos, &[At::one(row)])
    });
    let mut tiles = Tiles::new(&mut b, Some(Row { index: group.rows.clone(), position: at }));
    for id in &group.nodes {
        kernel.node(&mut tiles, *id)?;
    }
    kernel.store_results(&mut tiles, results)?;
    let (args, work) = (kernel.args, kernel.work);
    let kernel = block.kernels.intern(b)?;
    let grid = BlockGrid::Dense(n);
    let phase = group.phase;
    block.code.launches.push(BlockLaunch { kernel, args, grid, phase, origin, work });
    Ok(())
}

impl RowKernel<'_, '_> {
    fn needs_position(&self) -> bool {
        let is_position = |node: &Node| {
            let result = node.results[0];
            op_name(node) == "iota" && row_index(self.graph, result) == Some(&self.group.rows)
        };
        self.group.nodes.iter().any(|n| is_position(self.graph.node(*n)))
    }

    /// Counts memory of which every row of the group touches some elements of its own.
    fn touch_rows(&mut self, elements: i64, encoding: impl Into<Encoding>) {
        self.touch(&work::bytes(&self.rows.times(&elements.into()), encoding));
    }

    fn touch(&mut self, bytes: &Dim) {
        self.work.bytes = self.work.bytes.plus(bytes);
    }

    /// Counts the operations of a product of two values of the row.
    fn multiply(&mut self, node: &Node) -> Result<(), LowerError> {
        let mut indices: Vec<Name> = vec![];
        for index in node.operands.iter().flat_map(|v| &self.graph.ty(*v).indices) {
            if *index != self.group.rows && !indices.contains(index) {
                indices.push(index.clone());
            }
        }
        let extents = self.block.extents(&indices)?;
        let each = extents.iter().fold(2, |flops: i64, extent| flops.saturating_mul(*extent));
        self.work.flops = self.work.flops.plus(&self.rows.times(&each.into()));
        Ok(())
    }

    fn node(&mut self, tiles: &mut Tiles, id: NodeId) -> Result<(), LowerError> {
        let node = self.graph.node(id);
        match op_name(node) {
            "append" => return self.append(tiles, node),
            "gather" if self.named_by_row(node) => return self.row_of(tiles, node),
            "slice" if self.is_stored(node.operands[0]) => return self.sliced(tiles, node),
            "contract" => self.multiply(node)?,
            _ => {}
        }
        for v in &node.operands {
            self.bring(tiles, *v)?;
        }
        self.lower_node(tiles, id)
    }

    fn lower_node(&mut self, tiles: &mut Tiles, id: NodeId) -> Result<(), LowerError> {
        let known = tiles.constants.len();
        let lowered = tiles.lower(self.graph, [id], &mut self.env);
        lowered.map_err(|e| LowerError::Form {
            graph: self.graph.name.clone(),
            node: e.op,
            found: e.found,
            expected: e.expected.to_string(),
        })?;
        for (_, values) in &tiles.constants[known..] {
            self.args
                .push(BlockArg::Numbers(Constant::numbers(values, &[1, 1, values.len() as i64])));
            let numbers = Dim::constant(values.len() as i64);
            self.work.bytes = self.work.bytes.plus(&work::bytes(&numbers, DType::F32));
        }
        Ok(())
    }

    /// Makes sure that an operand has a tile.
    fn bring(&mut self, tiles: &mut Tiles, value: ValueId) -> Result<(), LowerError> {
        if self.env.contains_key(&value) {
            return Ok(());
        }
        let tile = match self.graph.value(value).def {
            _ if is_constant(self.graph, value) => self.weight(tiles, value, None)?,
            Def::Node(id, _) if row_index(self.graph, value).is_none() => {
                // Numbers: made where they are needed.
                for v in &self.graph.node(id).operands {
                    self.bring(tiles, *v)?;
                }
                return self.lower_node(tiles, id);
            }
            _ if self.combines(value) => self.combined(tiles, value)?,
            _ => self.stored_row(tiles, value, None)?,
        };
        self.env.insert(value, tile);
        Ok(())
    }

    /// Whether a value is to be read from memory, and no part of it has been.
    fn is_stored(&self, value: ValueId) -> bool {
        let here = match self.graph.value(value).def {
            Def::Node(id, _) => self.group.nodes.contains(&id),
            Def::Param(..) => false,
        };
        let kept = self.block.partition.stored.contains_key(&value);
        kept && !here && !self.combines(value) && !self.env.contains_key(&value)
    }

    /// A part of a stored value: the rest is not read.
    fn sliced(&mut self, tiles: &mut Tiles, node: &Node) -> Result<(), LowerError> {
        let (x, result) = (node.operands[0], node.results[0]);
        let [Attr::Name(index), _, Attr::Dim(start)] = &node.attrs.0[..] else {
            return Err(self.form(node, "other attributes", "index, into and start"));
        };
        let (before, after) = (self.block.stored_dims(x)?.1, self.block.stored_dims(result)?.1);
        let first = start.bound_value(&self.graph.symbols);
        let (Some(at), Some(first)) = (before.iter().position(|i| i == index), first) else {
            return Err(self.form(node, "a range that moves", "one known when compiling"));
        };
        let mut starts = vec![0; after.len()];
        starts[at] = first;
        let tile = self.stored(tiles, x, None, (&after, &starts))?;
        self.env.insert(result, tile);
        Ok(())
    }

    /// The instance's row of a stored value; or, with `at`, the row of that number.
    fn stored_row(
        &mut self,
        tiles: &mut Tiles,
        value: ValueId,
        at: Option<kernel::ValueId>,
    ) -> Result<Tile, LowerError> {
        let own = self.block.stored_dims(value)?.1;
        self.stored(tiles, value, at, (&own, &vec![0; own.len()]))
    }

    /// Of a stored value's row the elements from `starts` on, over indices of their extents.
    fn stored(
        &mut self,
        tiles: &mut Tiles,
        value: ValueId,
        at: Option<kernel::ValueId>,
        (own, starts): (&[Name], &[i64]),
    ) -> Result<Tile, LowerError> {
        let encoding = self.block.stored_encoding(value);
        let rows = row_index(self.graph, value).cloned();
        let (dims, _) = self.block.stored_dims(value)?;
        let param = self.param(tiles, tensor(encoding, &dims));
        self.args.push(BlockArg::Value(value, encoding));
        let mut coords: Vec<At> = vec![];
        if rows.is_some() {
            coords.push(At::one(at.unwrap_or(self.row)));
        }
        let extents = self.block.extents(own)?;
        let elements: i64 = extents.iter().product();
        match rows {
            Some(_) => self.touch_rows(elements, encoding),
            None => self.touch(&work::bytes(&elements.into(), encoding)),
        }
        coords.extend(extents.iter().zip(starts).map(|(e, first)| At::tile(*first, *e as u32)));
        Ok(Tile { value: tiles.kernel.load(param, &coords), indices: own.to_vec() })
    }

    /// A whole weight; or, with `at`, its row of that number along an axis.
    fn weight(
        &mut self,
        tiles: &mut Tiles,
        value: ValueId,
        at: Option<(usize, kernel::ValueId)>,
    ) -> Result<Tile, LowerError> {
        let ty = self.graph.ty(value);
        let extents = self.block.extents(&ty.indices)?;
        let size = extents.iter().try_fold(1i64, |n, e| n.checked_mul(*e));
        if at.is_none() && size.is_none_or(|n| n > WHOLE_MAX) {
            let (graph, node) = (self.graph.name.clone(), "weight");
            let found =
                format!("all of %{}: {ty} {extents:?} at once", self.graph.value(value).name);
            let expected = format!("at most {WHOLE_MAX} elements where no product sums over it");
            return Err(LowerError::Form { graph, node, found, expected });
        }
        let rank = extents.len();
        let (rows, cols) = ty.indices.split_at(rank.saturating_sub(1));
        let (of, axes) = (Viewed::from(value), [vec![], rows.to_vec(), cols.to_vec()]);
        let encoding =
            self.block.weight_encoding(&of, &axes, self.block.options.compute.dtype())?;
        let dims: Vec<Dim> = extents.iter().map(|e| Dim::constant(*e)).collect();
        let param = self.param(tiles, tensor(encoding, &dims));
        let packing = None;
        let weight = WeightUse { of, axes, encoding, dims: extents.clone(), packing };
        self.touch(&match at {
            Some((axis, _)) => work::weight_row_bytes(&weight, axis, &self.rows),
            None => work::weight_bytes(&weight),
        });
        self.args.push(BlockArg::Weight(Box::new(weight)));
        let mut indices = ty.indices.clone();
        let mut coords: Vec<At> = extents.iter().map(|e| At::tile(0, *e as u32)).collect();
        if let Some((axis, row)) = at {
            coords[axis] = At::one(row);
            indices.remove(axis);
        }
        Ok(Tile { value: tiles.kernel.load(param, &coords), indices })
    }

    fn param(&self, tiles: &mut Tiles, ty: kernel::ParamType) -> ParamId {
        if let kernel::ParamType::Tensor { dims, .. } = &ty {
            for dim in dims {
                dim.visit_symbols(&mut |s| {
                    tiles.kernel.symbol(s, 0, self.block.rows_max());
                });
            }
        }
        let name = format!("p{}", self.args.len());
        tiles.kernel.param(&name, Role::In, ty)
    }

    /// Whether a gather takes one row, named by a scalar of the instance, of what is in memory.
    fn named_by_row(&self, node: &Node) -> bool {
        let (x, rows) = (node.operands[0], node.operands[1]);
        let scalar = self.graph.ty(rows).indices == [self.group.rows.clone()];
        let here = |v: ValueId| match self.graph.value(v).def {
            Def::Node(id, _) => self.group.nodes.contains(&id),
            Def::Param(..) => false,
        };
        scalar && !node.masked && !here(x)
    }

    fn is_given(&self, value: ValueId) -> bool {
        matches!(self.graph.value(value).def, Def::Param(..))
    }

    fn row_of(&mut self, tiles: &mut Tiles, node: &Node) -> Result<(), LowerError> {
        let (x, rows) = (node.operands[0], node.operands[1]);
        self.bring(tiles, rows)?;
        let at = self.env[&rows].value;
        let (x_ty, result) = (self.graph.ty(x), self.graph.ty(node.results[0]));
        let axis = x_ty.indices.iter().position(|i| !result.has(i));
        let axis = axis.ok_or_else(|| self.form(node, "an index that stays", "one replaced"))?;
        let is_weight = is_constant(self.graph, x);
        let tile = match (is_weight, row_index(self.graph, x)) {
            (true, _) => self.weight(tiles, x, Some((axis, at)))?,
            // Given rows are those of the step; computed ones would be those of a sequence.
            (false, Some(i)) if *i == x_ty.indices[axis] && self.is_given(rows) => {
                self.stored_row(tiles, x, Some(at))?
            }
            _ => {
                let found = "rows of a fixed index, or computed ones of a sequence";
                let expected = "given rows of the step, or rows of a weight";
                return Err(self.form(node, found, expected));
            }
        };
        self.env.insert(node.results[0], tile);
        Ok(())
    }

    fn form(&self, node: &Node, found: &str, expected: &str) -> LowerError {
        LowerError::Form {
            graph: self.graph.name.clone(),
            node: op_name(node),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// Writes the row to the state, at the slot that the step gives it.
    fn append(&mut self, tiles: &mut Tiles, node: &Node) -> Result<(), LowerError> {
        let (state, x) = (node.operands[0], node.operands[1]);
        self.bring(tiles, x)?;
        let tile = self.env[&x].clone();
        let slot = tiles.kernel.param(
            &format!("p{}", self.args.len()),
            Role::In,
            tensor(DType::I32, &StepInput::Slot.dims()),
        );
        self.args.push(BlockArg::Step(StepInput::Slot));
        let own = self.block.own_indices(x);
        let (ordered, extents) = (tiles.permuted(&tile, &own), self.block.extents(&own)?);
        let encoding = self.block.graph.ty(state).encoding;
        if !is_whole(encoding, extents.last().copied().unwrap_or(1)) {
            let found = format!("rows {extents:?} in {encoding}");
            return Err(self.form(
                node,
                &found,
                "rows of whole blocks with a scale each, and no sums",
            ));
        }
        self.touch_rows(1, DType::I32);
        self.touch_rows(extents.iter().product(), encoding);
        // State rows lie one after the other, page by page: a slot is a row.
        let capacity = tiles.kernel.symbol("pg", 0, i64::from(i32::MAX));
        let mut dims = vec![capacity.times(&i64::from(self.block.options.page_tokens).into())];
        dims.extend(extents.iter().map(|e| Dim::constant(*e)));
        let name = format!("p{}", self.args.len());
        let to = tiles.kernel.param(&name, Role::Out, cached(encoding, &dims));
        self.args.push(BlockArg::State(state));
        let at = tiles.kernel.load(slot, &[At::one(self.row)]);
        let mut coords = vec![At::one(at)];
        coords.extend(extents.iter().map(|e| At::tile(0, *e as u32)));
        let rounded = tiles.kernel.rounded(ordered, encoding);
        tiles.kernel.store(rounded, to, &coords);
        Ok(())
    }

    /// Whether a value is what choices of experts are combined to here, not in memory.
    fn combines(&self, value: ValueId) -> bool {
        let found = self.block.combined.get(&value);
        found.is_some_and(|c| !c.stored || self.group.nodes.is_empty())
    }

    /// Results of the chosen experts, in the order of choice: added up, or each by itself.
    fn combined(&mut self, tiles: &mut Tiles, value: ValueId) -> Result<Tile, LowerError> {
        let c = self.block.combined[&value].clone();
        let (chosen, width) = (c.chosen, c.width);
        let n = Dim::symbol("n");
        let shares = match c.combine {
            Combine::Weighted(shares) => {
                let encoding = self.block.stored_encoding(shares);
                let param = self.param(tiles, tensor(encoding, &[n.clone(), chosen.into()]));
                self.args.push(BlockArg::Value(shares, encoding));
                self.touch_rows(chosen, encoding);
                Some(param)
            }
            Combine::Sum | Combine::Keep => None,
        };
        let slots = n.times(&chosen.into());
        let slot_of = self.param(tiles, tensor(DType::I32, &[n, chosen.into()]));
        self.args.push(BlockArg::Temp(c.slot_of));
        let rows = self.param(tiles, tensor(DType::F32, &[slots, width.into()]));
        self.args.push(BlockArg::Temp(c.results));
        self.touch_rows(chosen, DType::I32);
        self.touch_rows(chosen * width, DType::F32);
        let row = self.row;
        let whole = At::tile(0, width as u32);
        let out = self.block.extents(&c.out)?;
        let out: Vec<u32> = out.iter().map(|e| *e as u32).collect();
        if c.combine == Combine::Keep {
            let slots = tiles.kernel.load(slot_of, &[At::one(row), At::tile(0, chosen as u32)]);
            let all = tiles.kernel.load(rows, &[At::one(slots), whole]);
            let all = tiles.unflattened(all, &out);
            let choices = self.block.extents(&c.choices)?;
            let choices: Vec<u32> = choices.iter().map(|e| *e as u32).collect();
            let value = match choices[..] {
                [] => tiles.kernel.reduce(Fold::Add, 0, all),
                [_] => all,
                _ => tiles.kernel.split(all, 0, &choices),
            };
            return Ok(Tile { value, indices: [c.choices, c.out].concat() });
        }
        let flops = self.rows.times(&(2 * chosen * width).into());
        self.work.flops = self.work.flops.plus(&flops);
        let zero = tiles.kernel.splat(0.0, TileType::new(DType::F32, &[width as u32]));
        let (carry, hints) = ([("sum", zero)], LoopHints::default());
        let sum = tiles.kernel.for_loop(0, chosen, 1, &carry, hints, |b, k, sum| {
            let slot = b.load(slot_of, &[At::one(row), At::one(k)]);
            let share = shares.map(|shares| b.load(shares, &[At::one(row), At::one(k)]));
            let part = b.load(rows, &[At::one(slot), whole.clone()]);
            vec![match share {
                Some(w) => b.map("s + w * x", &[("s", sum[0]), ("w", w), ("x", part)]),
                None => b.map("s + x", &[("s", sum[0]), ("x", part)]),
            }]
        })[0];
        Ok(Tile { value: tiles.unflattened(sum, &out), indices: c.out })
    }

    fn store_results(
        &mut self,
        tiles: &mut Tiles,
        results: Vec<ValueId>,
    ) -> Result<(), LowerError> {
        for value in results {
            let Some(all) = self.block.partition.stored.get(&value).cloned() else { continue };
            self.bring(tiles, value)?;
            let tile = self.env[&value].clone();
            let (dims, own) = self.block.stored_dims(value)?;
            let ordered = tiles.permuted(&tile, &own);
            let extents = self.block.extents(&own)?;
            for encoding in all {
                let name = format!("p{}", self.args.len());
                let to = tiles.kernel.param(&name, Role::Out, tensor(encoding, &dims));
                self.args.push(BlockArg::Value(value, encoding));
                self.touch_rows(extents.iter().product(), encoding);
                let mut coords = vec![At::one(self.row)];
                coords.extend(extents.iter().map(|e| At::tile(0, *e as u32)));
                let rounded = tiles.kernel.rounded(ordered, encoding);
                tiles.kernel.store(rounded, to, &coords);
            }
        }
        Ok(())
    }
}
