//! Generator of contractions over the context: rows that a state keeps with a packed weight, for
//! every position that a sequence has.

use crate::lower::attention::lists::StepList;
use crate::lower::attention::{Memory, Place};
use crate::lower::block::Block;
use crate::lower::claims::source::{Axis, Source};
use crate::lower::code::{BlockArg, BlockGrid, StepInput, WeightUse};
use crate::lower::contraction::{part, weight_packing};
use crate::lower::error::LowerError;
use crate::lower::partition::{Group, context_index, weight_operand};
use crate::lower::precision::Operand;
use crate::lower::schedule::{self, ContractionTile};
use crate::lower::states::cached;
use crate::lower::work;
use ir::attr::Attr;
use ir::dim::{Dim, Name};
use ir::dtype::{DType, Encoding};
use ir::graph::{NodeId, ValueId};
use ir::kernel::builder::{At, KernelBuilder, packed, tensor};
use ir::kernel::{self, ParamId, Role, TileType};

/// An axis of a row of `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowAxis {
    /// One position of the axis is an instance's: `leads[at]`, from `start` on.
    Lead {
        /// Which.
        at: usize,
        /// First position in memory.
        start: i64,
    },
    /// Summed: so many positions from `start` on.
    Summed {
        /// First position in memory.
        start: i64,
        /// How many.
        extent: i64,
    },
}

/// `y[t, l, j] = Σ_k x[t, l, k] · w[l, j, k]` for every position `t` of each sequence's context.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextContraction {
    /// Greatest number of rows of a step.
    pub rows_max: i64,
    /// Rows of a page, and of a tile.
    pub page: u32,
    /// Where `x` is.
    pub memory: Memory,
    /// Axes of its rows, in memory's order.
    pub axes: Vec<RowAxis>,
    /// Extents of the indices `l`, and whether the weight has each.
    pub leads: Vec<(i64, bool)>,
    /// How `x` enters the product.
    pub left: Operand,
    /// How the weight is packed.
    pub weight: Encoding,
    /// Extents of the weight as batch, columns and depth.
    pub extents: [i64; 3],
    /// How results are stored.
    pub out: Encoding,
    /// Tile.
    pub tile: ContractionTile,
}

/// Indices by their part in a product.
struct Parts {
    /// Of rows and of the result.
    leads: Vec<Name>,
    /// Of rows, of the weight and of the result.
    batch: Vec<Name>,
    /// Of the weight and of the result.
    cols: Vec<Name>,
    /// Of rows and of the weight.
    summed: Vec<Name>,
}

/// What an instance works on.
struct Instance<'a> {
    c: &'a ContextContraction,
    x: ParamId,
    pages: ParamId,
    leads: Vec<kernel::ValueId>,
    /// Sequence, first position, one past the last of the sequence.
    place: [kernel::ValueId; 3],
}

/// The kernel. Parameters: x, pages, w, the list of context blocks, y.
pub fn kernel(c: &ContextContraction) -> KernelBuilder {
    let mut b = KernelBuilder::new("context", "context");
    let [batches, cols, depth] = c.extents;
    b.family_param("depth", Attr::Dim(depth.into()));
    for (symbol, most) in [("b", c.rows_max), ("mp", 1 << 30), ("pg", i64::from(i32::MAX))] {
        b.symbol(symbol, 0, most);
    }
    let page = Dim::constant(i64::from(c.page));
    let positions = [Dim::symbol("b"), Dim::symbol("mp").times(&page)];
    let mut dims = match c.memory.place {
        Place::Pages => vec![Dim::symbol("pg"), page],
        Place::Positions => positions.to_vec(),
    };
    dims.extend(c.memory.row.iter().map(|e| Dim::constant(*e)));
    let x = b.param("x", Role::In, cached(c.memory.encoding, &dims));
    let pages = b.param("pages", Role::In, tensor(DType::I32, &StepInput::Pages.dims()));
    let w_dims = [batches.into(), cols.into(), depth.into()];
    let w = b.param("w", Role::In, packed(c.weight, &w_dims, weight_packing(c.weight, c.left)));
    let list = b.param("blocks", Role::In, StepList::Context(c.page).param());
    let mut dims = positions.to_vec();
    dims.extend(c.leads.iter().map(|(extent, _)| Dim::constant(*extent)));
    dims.push(cols.into());
    let y = b.param("y", Role::Out, tensor(c.out, &dims));
    let extents = c.leads.iter().enumerate();
    let leads: Vec<_> =
        extents.map(|(i, (extent, _))| b.grid_range(&format!("l{i}"), *extent, 1)).collect();
    let j = b.grid_range("j", cols, c.tile.cols);
    let fields = b.grid_list(list);
    let place = [fields[0], fields[1], fields[2]];
    let batch = batch(&mut b, c, &leads);
    let instance = Instance { c, x, pages, leads, place };
    let rows = c.tile.rows * c.left.terms();
    let zero = b.splat(0.0, TileType::new(DType::F32, &[rows, c.tile.cols]));
    let product = |b: &mut KernelBuilder, sum, k: At| {
        let xt = instance.rows(b, &k);
        let xt = c.left.enter(b, xt);
        let wt = b.load_keep(w, &[batch.clone(), part(j, c.tile.cols, cols), k]);
        b.mma(sum, xt, wt)
    };
    let sum = if i64::from(c.tile.depth) == depth {
        product(&mut b, zero, At::tile(0, c.tile.depth))
    } else {
        let carry = [("sum", zero)];
        let hints = schedule::staged(c.tile.rows);
        b.for_loop(0, depth, c.tile.depth, &carry, hints, |b, k, sum| {
            vec![product(b, sum[0], part(k, c.tile.depth, depth))]
        })[0]
    };
    let sum = c.left.leave(&mut b, sum);
    let sum = b.rounded(sum, c.out);
    let [seq, from, seen] = instance.place;
    let mut to = vec![At::one(seq), At::tile(from, c.page).bound(seen)];
    to.extend(instance.leads.iter().map(|l| At::one(*l)));
    to.push(part(j, c.tile.cols, cols));
    b.store(sum, y, &to);
    b
}

/// The weight's batch that goes with an instance's leads.
fn batch(b: &mut KernelBuilder, c: &ContextContraction, leads: &[kernel::ValueId]) -> At {
    let mut batch = None;
    for (lead, (extent, _)) in leads.iter().zip(&c.leads).filter(|(_, (_, of_weight))| *of_weight) {
        batch = Some(match batch {
            None => *lead,
            Some(outer) => b.map(&format!("a * {extent} + l"), &[("a", outer), ("l", *lead)]),
        });
    }
    batch.map_or_else(|| At::one(0), At::one)
}

impl Instance<'_> {
    /// The part `k` of the rows of a page, positions by depth.
    fn rows(&self, b: &mut KernelBuilder, k: &At) -> kernel::ValueId {
        let [seq, from, seen] = self.place;
        let page = self.c.page;
        let mut coords = match self.c.memory.place {
            Place::Pages => {
                let number = b.map(&format!("t / {page}"), &[("t", from)]);
                let number = b.load(self.pages, &[At::one(seq), At::one(number)]);
                let left = b.map("a - b", &[("a", seen), ("b", from)]);
                vec![At::one(number), At::tile(0, page).bound(left)]
            }
            Place::Positions => vec![At::one(seq), At::tile(from, page).bound(seen)],
        };
        for axis in &self.c.axes {
            coords.push(match *axis {
                RowAxis::Lead { at, start: 0 } => At::one(self.leads[at]),
                RowAxis::Lead { at, start } => {
                    At::one(b.map(&format!("l + {start}"), &[("l", self.leads[at])]))
                }
                RowAxis::Summed { start, extent } => match &k.start {
                    kernel::Start::Value(k) => {
                        let part = At::tile(
                            b.map(&format!("k + {start}"), &[("k", *k)]),
                            self.c.tile.depth,
                        );
                        part.bound(start + extent)
                    }
                    kernel::Start::Const(_) => At::tile(start, extent as u32),
                },
            });
        }
        let rows = self.c.memory.load(b, self.x, &coords);
        match b.ty(rows).shape.len() {
            1 => b.broadcast(rows, 1, 1),
            2 => rows,
            rank => b.merge(rows, 1, rank as u32 - 1),
        }
    }
}

impl Block<'_> {
    /// Lowers a contraction over the context.
    ///
    /// Errors: E0261, E0262, E0284.
    pub fn context(&mut self, group: &Group) -> Result<(), LowerError> {
        let id = group.nodes[0];
        let node = self.graph.node(id);
        let at = weight_operand(self.graph, node).expect("a contraction group has a weight");
        let (w, x, y) = (node.operands[at], node.operands[1 - at], node.results[0]);
        let source = Source::of(self.graph, x).map_err(|at| {
            let found = format!("%{}", self.graph.value(at).name);
            self.form(node, found, "views of what is appended to a state, or made of it")
        })?;
        let (c, weight) = self.context_shape(id, &source, [w, y])?;
        let list = BlockArg::List(StepList::Context(c.page));
        let args = vec![
            self.memory(id, source.base)?,
            BlockArg::Step(StepInput::Pages),
            BlockArg::Weight(Box::new(weight)),
            list.clone(),
            BlockArg::Value(y, c.out),
        ];
        let tiles = Dim::constant(c.extents[1]).ceil_div(c.tile.cols.into());
        let leads: i64 = c.leads.iter().map(|(extent, _)| extent).product();
        let grid = BlockGrid::List { list, each: tiles.times(&leads.into()) };
        let kernel = self.kernels.intern(kernel(&c))?;
        let work = work::context(&c);
        self.launch(group, 0, kernel, args, grid, work);
        Ok(())
    }

    fn context_shape(
        &self,
        id: NodeId,
        source: &Source,
        [w, y]: [ValueId; 2],
    ) -> Result<(ContextContraction, WeightUse), LowerError> {
        let parts = self.context_parts(id, source, [w, y])?;
        let memory = self.context_memory(source.base)?;
        // Rows that are kept in bf16 are bf16 already.
        let left = match memory.encoding.code {
            DType::BF16 => Operand::Bf16,
            _ => self.operand(id),
        };
        let weight = self.weight_use(w, [&parts.batch, &parts.cols, &parts.summed], left)?;
        let left = left.beside(weight.encoding);
        let [batches, n, depth] = weight.dims[..] else { unreachable!("it has three parts") };
        let mut axes = vec![];
        for axis in &source.axes {
            let extent = self.extents(std::slice::from_ref(&axis.index))?[0];
            axes.push(match parts.leads.iter().position(|l| *l == axis.index) {
                Some(at) => RowAxis::Lead { at, start: axis.start },
                None => RowAxis::Summed { start: axis.start, extent },
            });
        }
        let page = self.options.page_tokens;
        let widest = schedule::BUCKETS[schedule::BUCKETS.len() - 1];
        let terms = left.terms();
        let tile = schedule::contraction(self.device, widest, n, depth, weight.encoding, terms);
        let tile_depth = if parts.summed.len() == 1 { tile.depth } else { depth as u32 };
        let is_batch = parts.leads.iter().map(|l| parts.batch.contains(l));
        let c = ContextContraction {
            rows_max: self.rows_max(),
            page,
            memory,
            axes,
            leads: self.extents(&parts.leads)?.into_iter().zip(is_batch).collect(),
            left,
            weight: weight.encoding,
            extents: [batches, n, depth],
            out: self.stored_encoding(y),
            tile: ContractionTile { rows: page, cols: tile.cols, depth: tile_depth },
        };
        Ok((c, weight))
    }

    /// What the indices of rows, weight and result are in the product.
    ///
    /// Errors: E0261.
    fn context_parts(
        &self,
        id: NodeId,
        source: &Source,
        [w, y]: [ValueId; 2],
    ) -> Result<Parts, LowerError> {
        let (wt, yt) = (self.graph.ty(w), self.graph.ty(y));
        let context = context_index(self.graph, y);
        let own: Vec<Name> = yt.indices.iter().filter(|i| Some(*i) != context).cloned().collect();
        let of_x = |i: &&Name| source.axes.iter().any(|a| a.index == **i);
        let leads: Vec<Name> = own.iter().filter(of_x).cloned().collect();
        let cols: Vec<Name> = own.iter().filter(|i| !of_x(i)).cloned().collect();
        let batch: Vec<Name> = leads.iter().filter(|i| wt.has(i)).cloned().collect();
        let is_summed = |a: &&Axis| !leads.contains(&a.index);
        let summed: Vec<Name> =
            source.axes.iter().filter(is_summed).map(|a| a.index.clone()).collect();
        let covered = wt.indices.len() == batch.len() + cols.len() + summed.len()
            && summed.iter().chain(&cols).all(|i| wt.has(i));
        if own == [leads.as_slice(), &cols].concat() && covered {
            return Ok(Parts { leads, batch, cols, summed });
        }
        let found = format!("%{}: {yt} with {wt}", self.graph.value(y).name);
        let expected = "batch and columns in this order, and a sum over all else of a row";
        Err(self.form(self.graph.node(id), found, expected))
    }

    /// Where rows over the context are: in a state, or where a step has computed them.
    ///
    /// Errors: E0262.
    pub(super) fn context_memory(&self, base: ValueId) -> Result<Memory, LowerError> {
        let context = context_index(self.graph, base);
        let indices = self.graph.ty(base).indices.iter().filter(|i| Some(*i) != context);
        let row = self.extents(&indices.cloned().collect::<Vec<Name>>())?;
        let is_kept = crate::lower::partition::is_history(self.graph, base);
        let (place, encoding) = match is_kept {
            true => (Place::Pages, self.graph.ty(base).encoding),
            false => (Place::Positions, self.stored_encoding(base)),
        };
        Ok(Memory { place, encoding, row, decoded: self.options.compute.dtype() })
    }
}
