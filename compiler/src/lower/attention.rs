//! Generator of attention over paged states: online softmax, one pass over the pages.

use crate::lower::code::StepInput;
use crate::lower::contraction::store_all;
use crate::lower::precision::Operand;
use ir::attr::Attr;
use ir::dim::Dim;
use ir::dtype::DType;
use ir::kernel::builder::{At, KernelBuilder, list, tensor};
use ir::kernel::{Fold, LoopHints, ParamId, Role, TileType, ValueId};

/// `o[i, g, r, d] = Σ_t softmax_t(scale · q[i, g, r, c] · k[t, g, c]) · v[t, g, d]`, row `i` at
/// position `p` seeing `t <= p`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Greatest number of rows of a step, and of positions of a sequence.
    pub limits: (i64, i64),
    /// Key heads `g`, and query heads `r` of each.
    pub heads: (i64, u32),
    /// Widths of a key and of a value.
    pub widths: (u32, u32),
    /// How queries are stored.
    pub q: DType,
    /// How queries and probabilities enter their products.
    pub left: Operand,
    /// How states are stored.
    pub state: DType,
    /// Rows of a page.
    pub page: u32,
    /// Multiplies the scores.
    pub scale: f64,
    /// Rows of an instance.
    pub rows: u32,
    /// How results are stored, one output for each.
    pub outs: Vec<DType>,
}

/// Fields of a block of rows of one sequence: the sequence, first row, one past the last row of
/// the sequence, one past the last position that the block sees.
pub const ROW_BLOCK: [&str; 4] = ["seq", "row", "end", "t"];

/// Bytes of the work list of row blocks; a block has at least one row.
pub fn row_blocks_bytes() -> Dim {
    Dim::symbol("n").plus(&1.into()).times(&(4 * ROW_BLOCK.len() as i64).into())
}

/// The kernel that lists blocks of at most `rows` rows of one sequence each, by sequence and row.
/// Parameters: seg, pos, the list.
pub fn row_blocks(rows: u32, rows_max: i64) -> KernelBuilder {
    let mut b = KernelBuilder::new("row_blocks", "row_blocks");
    b.family_param("rows", Attr::Dim(i64::from(rows).into()));
    let sequences = b.symbol("b", 0, rows_max);
    let n = b.symbol("n", 0, rows_max);
    let seg = b.param("seg", Role::In, tensor(DType::I32, &StepInput::Seg.dims()));
    let pos = b.param("pos", Role::In, tensor(DType::I32, &StepInput::Pos.dims()));
    let dims = [n.plus(&1.into()), (ROW_BLOCK.len() as i64).into()];
    let blocks = b.param("blocks", Role::Out, tensor(DType::I32, &dims));
    let none = b.int(0);
    let hints = LoopHints::default;
    let count = b.for_loop(0, sequences, 1, &[("count", none)], hints(), |b, seq, count| {
        let lo = b.load(seg, &[At::one(seq)]);
        let next = b.map("a + 1", &[("a", seq)]);
        let hi = b.load(seg, &[At::one(next)]);
        b.for_loop(lo, hi, rows, &[("count", count[0])], hints(), |b, row, count| {
            let place = b.map("a + 1", &[("a", count[0])]);
            let text = format!("min(a + {rows}, b) - 1");
            let last = b.map(&text, &[("a", row), ("b", hi)]);
            let seen = b.load(pos, &[At::one(last)]);
            let seen = b.map("a + 1", &[("a", seen)]);
            for (field, value) in [seq, row, hi, seen].into_iter().enumerate() {
                b.store(value, blocks, &[At::one(place), At::one(field as i64)]);
            }
            vec![place]
        })
    });
    b.store(count[0], blocks, &[At::one(0), At::one(0)]);
    b
}

/// Parameters of the attention kernel in order, after which come the outputs.
struct Params {
    q: ParamId,
    k: ParamId,
    v: ParamId,
    pages: ParamId,
    pos: ParamId,
}

fn params(b: &mut KernelBuilder, a: &Attention) -> (Params, ParamId, Vec<(ParamId, DType)>) {
    let n = b.symbol("n", 0, a.limits.0);
    b.symbol("b", 0, a.limits.0);
    b.symbol("mp", 0, a.limits.1);
    let capacity = b.symbol("pg", 0, i64::from(i32::MAX));
    let (groups, per) = a.heads;
    let heads =
        |width: u32| [n.clone(), groups.into(), i64::from(per).into(), i64::from(width).into()];
    let rows = |width: u32| {
        [capacity.clone(), i64::from(a.page).into(), groups.into(), i64::from(width).into()]
    };
    let q = b.param("q", Role::In, tensor(a.q, &heads(a.widths.0)));
    let k = b.param("k", Role::In, tensor(a.state, &rows(a.widths.0)));
    let v = b.param("v", Role::In, tensor(a.state, &rows(a.widths.1)));
    let pages = b.param("pages", Role::In, tensor(DType::I32, &StepInput::Pages.dims()));
    let pos = b.param("pos", Role::In, tensor(DType::I32, &StepInput::Pos.dims()));
    let blocks = b.param("blocks", Role::In, list(&ROW_BLOCK, n.clone()));
    let outs =
        a.outs.iter().enumerate().map(|(i, d)| {
            (b.param(&format!("o{i}"), Role::Out, tensor(*d, &heads(a.widths.1))), *d)
        });
    let outs = outs.collect();
    (Params { q, k, v, pages, pos }, blocks, outs)
}

/// The kernel. Parameters: q, k, v, pages, pos, the row blocks, one output for each of `outs`.
pub fn kernel(a: &Attention) -> KernelBuilder {
    let mut b = KernelBuilder::new("attention", "attention");
    b.family_param("heads", Attr::Dim(a.heads.0.into()));
    b.family_param("page", Attr::Dim(i64::from(a.page).into()));
    let (params, blocks, outs) = params(&mut b, a);
    let head = b.grid_range("head", a.heads.0, 1);
    let fields = b.grid_list(blocks);
    let [seq, row, end, seen] = fields[..] else { return b };
    let (per, m) = (a.heads.1, a.rows * a.heads.1);
    let block = At::tile(row, a.rows).bound(end);
    let q = b
        .load(params.q, &[block.clone(), At::one(head), At::tile(0, per), At::tile(0, a.widths.0)]);
    let q = b.merge(q, 0, 2);
    let q = a.left.enter(&mut b, q);
    let at = b.load(params.pos, std::slice::from_ref(&block));
    let at = b.broadcast(at, 1, per);
    let at = b.merge(at, 0, 2);
    let f32 = |shape: &[u32]| TileType::new(DType::F32, shape);
    let most = b.splat(f64::from(f32::MIN), f32(&[m]));
    let total = b.splat(0.0, f32(&[m]));
    let sum = b.splat(0.0, f32(&[m, a.widths.1]));
    let carry = [("most", most), ("total", total), ("sum", sum)];
    let hints = LoopHints { stages: 2, ..LoopHints::default() };
    let ends = b.for_loop(0, seen, a.page, &carry, hints, |b, t, carried| {
        page(b, a, &params, [seq, head, seen, q, at], t, carried)
    });
    let mean = b.map("a / b", &[("a", ends[2]), ("b", ends[1])]);
    let mean = b.split(mean, 0, &[a.rows, per]);
    let to = [block, At::one(head), At::tile(0, per), At::tile(0, a.widths.1)];
    store_all(&mut b, mean, &outs, &to);
    b
}

/// One page's part of the online softmax: scores, new maximum, rescaled sums.
fn page(
    b: &mut KernelBuilder,
    a: &Attention,
    params: &Params,
    [seq, head, seen, q, at]: [ValueId; 5],
    t: ValueId,
    carried: &[ValueId],
) -> Vec<ValueId> {
    let m = a.rows * a.heads.1;
    let number = b.map(&format!("t / {}", a.page), &[("t", t)]);
    let page = b.load(params.pages, &[At::one(seq), At::one(number)]);
    let left = b.map("a - b", &[("a", seen), ("b", t)]);
    let rows = |width: u32| {
        [At::one(page), At::tile(0, a.page).bound(left), At::one(head), At::tile(0, width)]
    };
    let k = b.load(params.k, &rows(a.widths.0));
    let v = b.load(params.v, &rows(a.widths.1));
    let none = |b: &mut KernelBuilder, width: u32| {
        b.splat(0.0, TileType::new(DType::F32, &[m * a.left.terms(), width]))
    };
    let zero = none(b, a.page);
    let scores = b.mma(zero, q, k);
    let scores = a.left.leave(b, scores);
    // exp(x) = exp2(x * log2(e)), folded into the scale.
    let scale = b.splat(a.scale * std::f64::consts::LOG2_E, TileType::scalar(DType::F32));
    let column = b.iota(1, &[m, a.page]);
    let lowest = "select(j + t <= at, s * scale, lowest)";
    let operands = [("j", column), ("t", t), ("at", at), ("s", scores), ("scale", scale)];
    let scores = b.map(lowest, &operands);
    let here = b.reduce(Fold::Max, 1, scores);
    let most = b.map("max(a, b)", &[("a", carried[0]), ("b", here)]);
    let weights = b.map("exp2(s - m)", &[("s", scores), ("m", most)]);
    let fade = b.map("exp2(a - b)", &[("a", carried[0]), ("b", most)]);
    let here = b.reduce(Fold::Add, 1, weights);
    let total = b.map("l * f + x", &[("l", carried[1]), ("f", fade), ("x", here)]);
    let faded = b.map("a * f", &[("a", carried[2]), ("f", fade)]);
    let weights = a.left.enter(b, weights);
    let columns = b.transpose(v, &[1, 0]);
    let sum = if a.left.terms() == 1 {
        b.mma(faded, weights, columns)
    } else {
        let zero = none(b, a.widths.1);
        let here = b.mma(zero, weights, columns);
        let here = a.left.leave(b, here);
        b.map("a + b", &[("a", faded), ("b", here)])
    };
    vec![most, total, sum]
}
