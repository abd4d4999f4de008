//! From the attention that was found in a graph to what its kernels are made of.

use crate::lower::attention::lists::{ContextParts, PartLength, StepList};
use crate::lower::attention::{Attention, Axis, Division, Extent, Head, Key, Memory, Rows, Value};
use crate::lower::attention::{join, kernel};
use crate::lower::block::Block;
use crate::lower::claims::source::Source;
use crate::lower::claims::{Form, attention};
use crate::lower::code::{BlockArg, BlockGrid, StepInput};
use crate::lower::error::LowerError;
use crate::lower::partition::{Group, is_history, op_name};
use crate::lower::schedule;
use crate::lower::work;
use ir::dim::{Dim, Name};
use ir::graph::{Def, Node, NodeId, ParamKind, ValueId};

/// Positions of a sequence, at most.
const POSITIONS: i64 = 1 << 30;

/// An attention on its way into kernels.
struct Shaper<'a, 'g> {
    block: &'a Block<'g>,
    form: &'a attention::Form,
    root: NodeId,
    /// What each memory is.
    bases: Vec<ValueId>,
    memories: Vec<Memory>,
}

impl Block<'_> {
    /// Lowers an attention.
    ///
    /// Errors: E0261, E0262, E0284.
    pub fn attention(&mut self, group: &Group) -> Result<(), LowerError> {
        let claim = &self.partition.claims.all()[group.claim.expect("attention is a claim")];
        let Form::Attention(form) = &claim.form else {
            let node = self.graph.node(claim.root);
            return Err(self.form(node, "another group", "an attention"));
        };
        let (root, bases, memories) = (claim.root, vec![], vec![]);
        let mut shaper = Shaper { block: self, form, root, bases, memories };
        let mut a = shaper.shape()?;
        let bases = std::mem::take(&mut shaper.bases);
        a.memories = std::mem::take(&mut shaper.memories);
        let list = BlockArg::List(kernel::list(&a));
        let mut args: Vec<BlockArg> = vec![];
        for (key, part) in a.keys.iter().zip(&form.keys) {
            args.push(BlockArg::Value(part.query, key.q));
        }
        for base in bases {
            args.push(self.memory(root, base)?);
        }
        args.extend([StepInput::Pages, StepInput::Pos].map(BlockArg::Step));
        args.push(list.clone());
        let mut outs = vec![];
        for (value, part) in a.values.iter().zip(&form.values) {
            outs.extend(value.outs.iter().map(|d| BlockArg::Value(part.result, *d)));
        }
        let joined: Vec<BlockArg> = match a.division {
            Division::Whole | Division::Turns(_) => outs.clone(),
            Division::Instances(parts) => {
                let dims = join::partial_dims(&a, parts);
                let bytes = |dims: &Vec<Dim>| dims.iter().fold(4.into(), |p: Dim, d| p.times(d));
                let temps = dims.iter().map(bytes);
                temps.map(|bytes| BlockArg::Temp(self.temp("parts", bytes))).collect()
            }
        };
        args.extend(joined.iter().cloned());
        let pass = self.kernels.intern(kernel::kernel(&a))?;
        let grid = BlockGrid::List { list, each: a.head_instances().into() };
        let [pass_work, join_work] = work::attention(&a);
        self.launch(group, 0, pass, args, grid, pass_work);
        if let Division::Instances(parts) = a.division {
            let list = BlockArg::List(StepList::Rows(parts.rows));
            let mut args = vec![list.clone()];
            args.extend(joined);
            args.extend(outs);
            let join = self.kernels.intern(join::kernel(&a, parts))?;
            let grid = BlockGrid::List { list, each: a.all_heads().into() };
            self.launch(group, 1, join, args, grid, join_work);
        }
        Ok(())
    }

    /// Rows over the context, as an argument.
    ///
    /// Errors: E0261.
    pub(in crate::lower) fn memory(
        &self,
        root: NodeId,
        base: ValueId,
    ) -> Result<BlockArg, LowerError> {
        if !is_history(self.graph, base) {
            return Ok(BlockArg::Value(base, self.stored_encoding(base)));
        }
        let state = |node: &Node| match self.graph.value(node.operands[0]).def {
            Def::Param(_, ParamKind::State) => Some(node.operands[0]),
            _ => None,
        };
        let found = match self.graph.value(base).def {
            Def::Node(id, _) if op_name(self.graph.node(id)) == "append" => {
                state(self.graph.node(id))
            }
            _ => None,
        };
        found.map(BlockArg::State).ok_or_else(|| {
            let found = format!("%{}", self.graph.value(base).name);
            self.form(self.graph.node(root), found, "rows that are appended to a state")
        })
    }
}

impl Shaper<'_, '_> {
    /// Everything but the memories, which gather in `self`.
    fn shape(&mut self) -> Result<Attention, LowerError> {
        let block = self.block;
        let left = block.operand(self.root);
        let form = self.form;
        let mut keys = vec![];
        for part in &form.keys {
            keys.push(Key {
                scale: part.scale,
                q: block.stored_as(part.query, left.stored()),
                query: self.axes(part.query, &part.over)?,
                rows: self.rows(&part.key, &part.over)?,
            });
        }
        let mut values = vec![];
        for part in &form.values {
            values.push(Value {
                rows: self.rows(&part.value, &part.own)?,
                result: self.axes(part.result, &part.own)?,
                outs: block.outs(part.result),
            });
        }
        let heads = self.heads()?;
        let per_tile: i64 = heads.iter().filter_map(|h| h.tile).map(i64::from).product();
        let rows = schedule::attention_rows(block.bucket, per_tile as u32);
        let mut a = Attention {
            limits: (block.rows_max(), POSITIONS),
            heads,
            memories: vec![],
            keys,
            values,
            left: self.memories.iter().fold(left, |left, m| left.beside(m.encoding)),
            page: block.options.page_tokens,
            rows,
            division: Division::Whole,
        };
        a.division = self.division(&a);
        Ok(a)
    }

    /// How the context is divided: where rows must not depend on each other, for every number of
    /// rows at the same positions.
    fn division(&self, a: &Attention) -> Division {
        let (block, page) = (self.block, a.page);
        let most = |bucket| schedule::context_parts(bucket, a.head_instances());
        let parts = |most, length| ContextParts { rows: a.rows, most, length, page };
        if !block.options.is_batch_invariant() {
            let length = PartLength::Even(schedule::PART_POSITIONS);
            return match most(block.bucket) {
                1 => Division::Whole,
                most => Division::Instances(parts(most, length)),
            };
        }
        if schedule::BUCKETS.iter().all(|bucket| most(*bucket) == 1) {
            return Division::Whole;
        }
        let longest = block.program.symbols.get("t").map_or(POSITIONS, |t| t.hi.min(POSITIONS));
        let (most_parts, positions) = schedule::fixed_parts(longest, page);
        match most(block.bucket) {
            1 => Division::Turns(positions),
            _ => Division::Instances(parts(most_parts, PartLength::Fixed(positions))),
        }
    }

    fn error(&self, found: String, expected: &str) -> LowerError {
        self.block.form(self.block.graph.node(self.root), found, expected)
    }

    fn named(&self, value: ValueId) -> String {
        let value = self.block.graph.value(value);
        format!("%{}: {}", value.name, value.ty)
    }

    /// What an index is: a head, or one of some columns.
    fn axis(&self, index: &Name, columns: &[Name]) -> Option<Axis> {
        let head = self.form.heads.iter().position(|h| h == index).map(Axis::Head);
        head.or_else(|| columns.iter().position(|c| c == index).map(Axis::Column))
    }

    /// Axes of a row of a value that the step computes.
    fn axes(&self, value: ValueId, columns: &[Name]) -> Result<Vec<Extent>, LowerError> {
        let own = self.block.own_indices(value);
        let extents = self.block.extents(&own)?;
        let axis = |(index, extent): (&Name, &i64)| {
            let axis = self.axis(index, columns)?;
            Some(Extent { stored: *extent, start: 0, seen: *extent, axis })
        };
        let all: Option<Vec<Extent>> = own.iter().zip(&extents).map(axis).collect();
        all.ok_or_else(|| self.error(self.named(value), "rows of heads and columns"))
    }

    /// Axes of a row over the context; its memory joins the others.
    fn rows(&mut self, source: &Source, columns: &[Name]) -> Result<Rows, LowerError> {
        let (block, base) = (self.block, source.base);
        let here = block.context_memory(base)?;
        let mut axes = vec![];
        for (axis, extent) in source.axes.iter().zip(&here.row) {
            let seen = block.extents(std::slice::from_ref(&axis.index))?[0];
            let Some(what) = self.axis(&axis.index, columns) else {
                return Err(self.error(self.named(base), "rows of heads and columns"));
            };
            axes.push(Extent { stored: *extent, start: axis.start, seen, axis: what });
        }
        let memory = self.bases.iter().position(|b| *b == base).unwrap_or_else(|| {
            self.bases.push(base);
            self.memories.push(here);
            self.bases.len() - 1
        });
        Ok(Rows { memory, axes })
    }

    /// Heads that some key or value has for itself are instances'; the others share its rows, and
    /// are rows of a tile.
    fn heads(&self) -> Result<Vec<Head>, LowerError> {
        let form = self.form;
        let extents = self.block.extents(&form.heads)?;
        let keys = form.keys.iter().map(|k| &k.key);
        let sources: Vec<&Source> = keys.chain(form.values.iter().map(|v| &v.value)).collect();
        let is_own = |head: &Name| sources.iter().any(|s| s.axes.iter().any(|a| a.index == *head));
        let shared: Vec<bool> = form.heads.iter().map(|h| !is_own(h)).collect();
        let mut room = schedule::TILE_HEADS;
        let mut heads = vec![];
        for (extent, shared) in extents.iter().zip(&shared).rev() {
            let tile = shared.then(|| schedule::even_part(*extent, room));
            room /= tile.unwrap_or(1);
            heads.push(Head { extent: *extent, tile });
        }
        heads.reverse();
        Ok(heads)
    }
}
