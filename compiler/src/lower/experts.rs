//! Generators of grouped experts: which rows go to which expert, and the chosen experts' work
//! alone. The host never learns the counts: a work list carries them.

use crate::lower::contraction::{part, store_all, weight_packing};
use crate::lower::precision::Operand;
use crate::lower::schedule::{lane_columns, staged, tile_depth, whole_blocks};
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::{DType, Encoding};
use ir::expr::Expr;
use ir::kernel::builder::{At, KernelBuilder, list, packed, tensor};
use ir::kernel::{LoopHints, ParamId, Role, TileType, ValueId};

/// Which of a value's elements a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Along {
    /// That of its choice.
    Choices,
    /// That of its row.
    Rows,
}

/// Products of rows of a step with weights that they choose.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Greatest number of rows of a step.
    pub rows_max: i64,
    /// Experts, and how many of them a row chooses.
    pub experts: (i64, i64),
    /// Width of a row, and of an expert's hidden layer.
    pub widths: (i64, i64),
    /// How rows are stored.
    pub x: Encoding,
    /// How rows enter products.
    pub left: Operand,
    /// Whether there is a row for each choice.
    pub by_choice: bool,
    /// Encodings of the weights of the first products.
    pub branches: Vec<Encoding>,
    /// More operands of what is computed of them, a number for each slot, and how they are stored.
    pub leaves: Vec<(Along, Encoding)>,
    /// What is computed of products and operands.
    pub expr: Expr,
    /// Encoding of the weight of the product behind, and its width.
    pub down: Option<(Encoding, i64)>,
    /// Rows of a tile.
    pub rows: u32,
    /// Whether an expert's columns follow one another, so that a worker reads on where it has read;
    /// else each worker owns columns of every expert, whatever the routing.
    pub in_order: bool,
}

/// Fields of a work item: the expert, first slot, one past the expert's last slot.
pub const WORK: [&str; 3] = ["e", "slot", "end"];
/// Lane blocks of columns of tiles of first products, all together: of few rows, and of many, which
/// each tile gathers anew.
const UP_BLOCKS: i64 = 4;
const GATHERED_UP_BLOCKS: i64 = 16;
/// Lane blocks of columns of a tile of down.
const DOWN_BLOCKS: i64 = 4;

impl Experts {
    fn n(&self, b: &mut KernelBuilder) -> Dim {
        b.symbol("n", 0, self.rows_max)
    }

    /// Slots: one for each row and expert it chose.
    pub fn slots(&self) -> Dim {
        Dim::symbol("n").times(&self.experts.1.into())
    }

    /// Most work items: a partial tile per expert, and the full ones. No more than slots.
    pub fn work_max(&self) -> Dim {
        self.slots().ceil_div(self.rows.into()).plus(&self.experts.0.into())
    }

    /// Bytes of the work list.
    pub fn work_bytes(&self) -> Dim {
        self.work_max().plus(&1.into()).times(&(4 * WORK.len() as i64).into())
    }

    /// A `[e, rows, cols]` weight's parameter.
    fn weight(
        &self,
        b: &mut KernelBuilder,
        name: &str,
        encoding: Encoding,
        [rows, cols]: [i64; 2],
    ) -> ParamId {
        let dims = [self.experts.0, rows, cols].map(Dim::constant);
        b.param(name, Role::In, packed(encoding, &dims, weight_packing(encoding, self.left)))
    }

    /// The grid: the first of a tile of columns, and a work item.
    fn grid(
        &self,
        b: &mut KernelBuilder,
        work: ParamId,
        (columns, tile): (i64, u32),
    ) -> (ValueId, [ValueId; 3]) {
        let item = |b: &mut KernelBuilder| {
            let fields = b.grid_list(work);
            <[ValueId; 3]>::try_from(fields).expect("the list has these fields")
        };
        if self.in_order {
            let item = item(b);
            return (b.grid_range("j", columns, tile), item);
        }
        let first = b.grid_range("j", columns, tile);
        (first, item(b))
    }

    /// Columns of a tile of each first product.
    pub fn up_columns(&self) -> u32 {
        let all = if self.in_order { UP_BLOCKS } else { GATHERED_UP_BLOCKS };
        let blocks = (all / self.branches.len().max(1) as i64).max(1);
        whole_blocks(self.columns(self.widths.1, blocks), &[self.hidden()])
    }

    /// Columns of a tile of down.
    pub fn down_columns(&self) -> u32 {
        self.columns(self.width_out(), DOWN_BLOCKS)
    }

    /// Columns of a tile of `[cols, _]` weights, of at most `blocks` lane blocks.
    fn columns(&self, cols: i64, blocks: i64) -> u32 {
        lane_columns(cols, if self.rows_max == 1 { 1 } else { blocks })
    }

    /// How the hidden layer is stored, or the result if nothing is behind it.
    pub fn hidden(&self) -> Encoding {
        if self.down.is_some() { self.left.stored() } else { DType::F32.into() }
    }

    /// Width of the result.
    pub fn width_out(&self) -> i64 {
        self.down.map_or(self.widths.1, |(_, width)| width)
    }

    /// Whether slots must know their choice, not only their row.
    fn by_choice(&self) -> bool {
        self.by_choice || self.leaves.iter().any(|(along, _)| *along == Along::Choices)
    }
}

/// The kernel that sorts slots by expert. Parameters: index `[n * k]`; out: the row of each slot
/// (or, where operands differ by choice, its choice), the slot of each choice, the work list.
pub fn dispatch(e: &Experts) -> KernelBuilder {
    let mut b = KernelBuilder::new("dispatch", "dispatch");
    let (experts, chosen) = e.experts;
    let by_choice = e.by_choice();
    b.family_param("experts", Attr::Dim(experts.into()));
    b.family_param("rows", Attr::Dim(i64::from(e.rows).into()));
    e.n(&mut b);
    let slots = e.slots();
    let index = b.param("index", Role::In, tensor(DType::I32, std::slice::from_ref(&slots)));
    let row_of = b.param("row_of", Role::Out, tensor(DType::I32, std::slice::from_ref(&slots)));
    let slot_of = b.param("slot_of", Role::Out, tensor(DType::I32, std::slice::from_ref(&slots)));
    let dims = [e.work_max().plus(&1.into()), (WORK.len() as i64).into()];
    let work = b.param("work", Role::Out, tensor(DType::I32, &dims));
    let count = counts(&mut b, index, &slots, experts as u32);
    list_work(&mut b, e, count, work);
    // What began as an expert's count is now its next free slot.
    b.for_loop(0, &slots, 1, &[], LoopHints::default(), |b, i, _| {
        let expert = b.load(index, &[At::one(i)]);
        let slot = b.load(count, &[At::one(expert)]);
        let of = if by_choice { i } else { b.map(&format!("i / {chosen}"), &[("i", i)]) };
        b.store(of, row_of, &[At::one(slot)]);
        b.store(slot, slot_of, &[At::one(i)]);
        let next = b.map("a + 1", &[("a", slot)]);
        b.store(next, count, &[At::one(expert)]);
        vec![]
    });
    b
}

/// Scratch with the number of choices of each expert.
fn counts(b: &mut KernelBuilder, index: ParamId, slots: &Dim, experts: u32) -> ValueId {
    let ty = TileType::new(DType::I32, &[experts]);
    let count = b.alloc(ty.clone());
    let zeros = b.splat(0.0, ty);
    b.store(zeros, count, &[At::tile(0, experts)]);
    b.for_loop(0, slots, 1, &[], LoopHints::default(), |b, i, _| {
        let expert = b.load(index, &[At::one(i)]);
        let so_far = b.load(count, &[At::one(expert)]);
        let one_more = b.map("a + 1", &[("a", so_far)]);
        b.store(one_more, count, &[At::one(expert)]);
        vec![]
    });
    count
}

/// Lists tiles of each expert's slots, and turns its count into its first slot.
fn list_work(b: &mut KernelBuilder, e: &Experts, count: ValueId, work: ParamId) {
    let (first, items) = (b.int(0), b.int(0));
    let carry = [("first", first), ("items", items)];
    let totals = b.for_loop(0, e.experts.0, 1, &carry, LoopHints::default(), |b, expert, c| {
        let own = b.load(count, &[At::one(expert)]);
        b.store(c[0], count, &[At::one(expert)]);
        let end = b.map("a + b", &[("a", c[0]), ("b", own)]);
        let carry = [("items", c[1])];
        let items = b.for_loop(c[0], end, e.rows, &carry, LoopHints::default(), |b, slot, c| {
            let place = b.map("a + 1", &[("a", c[0])]);
            for (field, value) in [expert, slot, end].into_iter().enumerate() {
                b.store(value, work, &[At::one(place), At::one(field as i64)]);
            }
            vec![place]
        });
        vec![end, items[0]]
    });
    b.store(totals[1], work, &[At::one(0), At::one(0)]);
}

/// First products, and what is computed of them. Parameters: x `[n, D]` (or `[slots, D]`), the row
/// (or choice) of each slot, weights, more operands, the work list; out: hidden `[slots, f]`.
pub fn up(e: &Experts) -> KernelBuilder {
    let mut b = KernelBuilder::new("experts_up", "experts_up");
    let (width, hidden) = e.widths;
    b.family_param("rows", Attr::Dim(i64::from(e.rows).into()));
    let n = e.n(&mut b);
    let slots = e.slots();
    let x_rows = if e.by_choice { slots.clone() } else { n.clone() };
    let x = b.param("x", Role::In, tensor(e.x, &[x_rows, width.into()]));
    let row_of = b.param("row_of", Role::In, tensor(DType::I32, std::slice::from_ref(&slots)));
    let weights: Vec<ParamId> = e
        .branches
        .iter()
        .enumerate()
        .map(|(i, w)| e.weight(&mut b, &format!("w{i}"), *w, [hidden, width]))
        .collect();
    let more: Vec<ParamId> = e
        .leaves
        .iter()
        .enumerate()
        .map(|(i, (along, stored))| {
            let rows = if *along == Along::Choices { &slots } else { &n };
            b.param(&format!("more{i}"), Role::In, tensor(*stored, std::slice::from_ref(rows)))
        })
        .collect();
    let work = b.param("work", Role::In, list(&WORK, e.work_max()));
    let y = b.param("y", Role::Out, tensor(e.hidden(), &[slots, hidden.into()]));
    let cols = e.up_columns();
    let (j, [expert, slot, end]) = e.grid(&mut b, work, (hidden, cols));
    // A single row lies where it is; several are gathered.
    let single = e.rows == 1;
    let at = if single { At::one(slot) } else { At::tile(slot, e.rows).bound(end) };
    let of = b.load(row_of, &[at]);
    let rows = match e.by_choice() {
        true => b.map(&format!("i / {}", e.experts.1), &[("i", of)]),
        false => of,
    };
    let enters = if e.by_choice { of } else { rows };
    let enters = if single { At::tile(enters, 1) } else { At::one(enters) };
    let depth = tile_depth(width);
    let zero = b.splat(0.0, TileType::new(DType::F32, &[e.rows * e.left.terms(), cols]));
    let names: Vec<String> = (0..weights.len()).map(|i| format!("sum{i}")).collect();
    let carry: Vec<(&str, ValueId)> = names.iter().map(|n| (&**n, zero)).collect();
    let sums = b.for_loop(0, width, depth, &carry, staged(e.rows), |b, k, sums| {
        let xt = e.left.load(b, x, &[enters.clone(), part(k, depth, width)]);
        let coords = [At::one(expert), part(j, cols, hidden), part(k, depth, width)];
        let product = |(w, sum): (&ParamId, &ValueId)| {
            let wt = b.load_keep(*w, &coords);
            b.mma(*sum, xt, wt)
        };
        weights.iter().zip(sums).map(product).collect()
    });
    let mut operands: Vec<ValueId> = sums.iter().map(|s| e.left.leave(&mut b, *s)).collect();
    for ((along, _), param) in e.leaves.iter().zip(more) {
        let at = if *along == Along::Choices { of } else { rows };
        operands.push(b.load(param, &[At::one(at)]));
    }
    let h = match &e.expr {
        Expr::Arg(at) => operands[*at],
        expr => b.map_expr(expr.clone(), &operands),
    };
    let to = [At::tile(slot, e.rows).bound(end), part(j, cols, hidden)];
    store_all(&mut b, h, &[(y, e.hidden())], &to);
    b
}

/// Down. Parameters: hidden `[slots, f]`, down, the work list; out: f32 `[slots, D]`.
pub fn down(e: &Experts) -> KernelBuilder {
    let mut b = KernelBuilder::new("experts_down", "experts_down");
    let ((_, hidden), width) = (e.widths, e.width_out());
    b.family_param("rows", Attr::Dim(i64::from(e.rows).into()));
    e.n(&mut b);
    let slots = e.slots();
    let x = b.param("x", Role::In, tensor(e.left.stored(), &[slots.clone(), hidden.into()]));
    let encoding = e.down.map_or(DType::F32.into(), |(encoding, _)| encoding);
    let w = e.weight(&mut b, "down", encoding, [width, hidden]);
    let work = b.param("work", Role::In, list(&WORK, e.work_max()));
    let y = b.param("y", Role::Out, tensor(DType::F32, &[slots, width.into()]));
    let cols = e.down_columns();
    let (j, [expert, slot, end]) = e.grid(&mut b, work, (width, cols));
    let rows = At::tile(slot, e.rows).bound(end);
    let depth = tile_depth(hidden);
    let zero = b.splat(0.0, TileType::new(DType::F32, &[e.rows * e.left.terms(), cols]));
    let carry = [("sum", zero)];
    let sum = b.for_loop(0, hidden, depth, &carry, staged(e.rows), |b, k, sum| {
        let xt = e.left.load(b, x, &[rows.clone(), part(k, depth, hidden)]);
        let wt = b.load_keep(w, &[At::one(expert), part(j, cols, width), part(k, depth, hidden)]);
        vec![b.mma(sum[0], xt, wt)]
    })[0];
    let sum = e.left.leave(&mut b, sum);
    b.store(sum, y, &[rows, part(j, cols, width)]);
    b
}
