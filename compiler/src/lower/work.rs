//! The least that a launch must do, which its time is compared with.
//!
//! Bytes are counted without padding, each once: what a kernel reads again, it should find in a
//! cache.

use crate::lower::attention::{Attention, Axis, Division, Extent, Key, Memory, Value};
use crate::lower::code::WeightUse;
use crate::lower::context::ContextContraction;
use crate::lower::contraction::Contraction;
use crate::lower::experts::{Experts, WORK};
use crate::lower::size::size_expr;
use artifact::plan;
use artifact::size::{SizeExpr, SizeOp};
use ir::dim::{Dim, Name};
use ir::dtype::{DType, Encoding, Scale};

/// Bytes and operations of a launch, in the block's terms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes that move between memory and cores at least once.
    pub bytes: Dim,
    /// Floating-point operations of the graph's products, in however many terms operands enter.
    pub flops: Dim,
    /// More of them, for each pair of a row of the step and a position that it sees.
    pub flops_per_pair: i64,
}

impl Work {
    /// The same as the runtime evaluates it. `symbols` is the plan's table.
    pub fn sized(&self, symbols: &[Name]) -> plan::Work {
        let flops = size_expr(&self.flops, symbols);
        let flops = match self.flops_per_pair {
            0 => flops,
            each => {
                let more = pairs(symbols).then(SizeExpr::constant(each), SizeOp::Mul);
                flops.then(more, SizeOp::Add)
            }
        };
        plan::Work { bytes: size_expr(&self.bytes, symbols), flops }
    }
}

/// Pairs of a row and a position that it sees: the last of a sequence's rows sees all `t`, each
/// earlier one fewer, so that `r` rows see `r * t - r * (r - 1) / 2`.
///
/// Sequences are taken to have `n / b` rows, rounded down, and the longest context: exact for one
/// sequence and for decoding sequences of equal length, else a bound from above, as rows shared
/// out evenly see most.
fn pairs(symbols: &[Name]) -> SizeExpr {
    let size = |dim: Dim| size_expr(&dim, symbols);
    let n = || size(Dim::symbol("n"));
    let each = n().then(size(Dim::symbol("b").at_least(1)), SizeOp::FloorDiv);
    let fewer = each.then(SizeExpr::constant(-1), SizeOp::Add);
    let unseen = n().then(fewer, SizeOp::Mul).then(SizeExpr::constant(2), SizeOp::FloorDiv);
    let unseen = unseen.then(SizeExpr::constant(-1), SizeOp::Mul);
    size(Dim::symbol("n").times(&Dim::symbol("t"))).then(unseen, SizeOp::Add)
}

/// Bytes of elements of rows.
pub fn bytes(elements: &Dim, encoding: impl Into<Encoding>) -> Dim {
    let encoding = encoding.into();
    // Only weights have elements of less than a byte, or blocks of several rows.
    let each = |bits: u32| elements.times(&i64::from(bits.div_ceil(8)).into());
    let codes = each(encoding.code.bits());
    encoding
        .scale
        .map_or(codes.clone(), |s| codes.plus(&each(block_bits(s)).ceil_div(s.cols.into())))
}

/// Bits of what a block has beside its codes.
fn block_bits(scale: Scale) -> u32 {
    scale.dtype.bits() + if scale.sum { DType::I32.bits() } else { 0 }
}

/// Bytes of a `[.., rows, cols]` weight.
fn encoded_bytes(encoding: Encoding, dims: &[i64]) -> i64 {
    let (cols, outer) = dims.split_last().map_or((1, dims), |(c, outer)| (*c, outer));
    let (rows, batches) = outer.split_last().map_or((1, outer), |(r, batches)| (*r, batches));
    let codes = rows * cols * i64::from(encoding.code.bits());
    let scales = encoding.scale.map_or(0, |s| {
        let blocks = |extent: i64, block: u32| (extent as u64).div_ceil(u64::from(block)) as i64;
        blocks(rows, s.rows) * blocks(cols, s.cols) * i64::from(block_bits(s))
    });
    batches.iter().product::<i64>() * ((codes + scales) as u64).div_ceil(8) as i64
}

/// Bytes of a whole weight.
pub fn weight_bytes(weight: &WeightUse) -> Dim {
    encoded_bytes(weight.encoding, &weight.dims).into()
}

/// Bytes of the rows of a weight, along one of its axes, that at most `rows` rows of a step name.
pub fn weight_row_bytes(weight: &WeightUse, axis: usize, rows: &Dim) -> Dim {
    let all = weight.dims[axis].max(1);
    rows.at_most(all).times(&(encoded_bytes(weight.encoding, &weight.dims) / all).into())
}

/// Work of a contraction.
pub fn contraction(c: &Contraction) -> Work {
    let (batches, cols, depth) = c.extents;
    let rows = c.rows().times(&batches.into());
    let weight = encoded_bytes(c.weight, &[batches, cols, depth]);
    let read = bytes(&rows.times(&depth.into()), c.x).plus(&weight.into());
    let results = rows.times(&cols.into());
    let written = c.outs.iter().fold(read, |sum, d| sum.plus(&bytes(&results, *d)));
    Work { bytes: written, flops: results.times(&(2 * depth).into()), ..Work::default() }
}

/// Work of an attention's pass over the context, and of joining its parts.
pub fn attention(a: &Attention) -> [Work; 2] {
    let heads = a.all_heads();
    let seen = |axes: &[Extent]| axes.iter().map(|e| e.seen).product::<i64>();
    let n = Dim::symbol("n");
    let rows = |width: i64| n.times(&width.into());
    // Each sequence has the longest context, at most.
    let contexts = Dim::symbol("b").times(&Dim::symbol("t"));
    let memory =
        |m: &Memory| bytes(&contexts.times(&m.row.iter().product::<i64>().into()), m.encoding);
    let pages = bytes(&Dim::symbol("b").times(&Dim::symbol("mp")).plus(&n), DType::I32);
    let read = a.memories.iter().fold(pages, |sum, m| sum.plus(&memory(m)));
    let read = a.keys.iter().fold(read, |sum, k| sum.plus(&bytes(&rows(seen(&k.query)), k.q)));
    let width = |v: &Value| i64::from(a.width(v));
    let outs = a.values.iter().flat_map(|v| v.outs.iter().map(move |d| (v, d)));
    let outs = outs.map(|(v, d)| bytes(&rows(heads * width(v)), *d));
    let written = outs.fold(Dim::default(), |sum, d| sum.plus(&d));
    let depth = |k: &Key| -> i64 {
        let columns = k.query.iter().filter(|e| matches!(e.axis, Axis::Column(_)));
        columns.map(|e| e.seen).product()
    };
    let each: i64 = a.keys.iter().map(depth).sum::<i64>() + a.values.iter().map(width).sum::<i64>();
    let flops_per_pair = 2 * heads * each;
    let Division::Instances(_) = a.division else {
        let pass = Work { bytes: read.plus(&written), flops_per_pair, ..Work::default() };
        return [pass, Work::default()];
    };
    // Of parts, one at least.
    let part = bytes(&rows(heads * (2 + a.values.iter().map(width).sum::<i64>())), DType::F32);
    [
        Work { bytes: read.plus(&part), flops_per_pair, ..Work::default() },
        Work { bytes: part.plus(&written), ..Work::default() },
    ]
}

/// Work of a contraction over the context.
pub fn context(c: &ContextContraction) -> Work {
    let [batches, cols, depth] = c.extents;
    let leads: i64 = c.leads.iter().map(|(extent, _)| extent).product();
    let positions = Dim::symbol("b").times(&Dim::symbol("t"));
    let rows = |width: i64, e: Encoding| bytes(&positions.times(&width.into()), e);
    let weight = encoded_bytes(c.weight, &[batches, cols, depth]);
    let read = rows(c.memory.row.iter().product(), c.memory.encoding).plus(&weight.into());
    let flops = positions.times(&(2 * leads * cols * depth).into());
    Work { bytes: read.plus(&rows(leads * cols, c.out)), flops, ..Work::default() }
}

/// Experts that are chosen: no more than there are, whether or not the rows agree.
fn chosen(e: &Experts) -> Dim {
    e.slots().at_most(e.experts.0)
}

fn work_list(e: &Experts) -> Dim {
    bytes(&chosen(e).plus(&1.into()).times(&(WORK.len() as i64).into()), DType::I32)
}

/// Work of sorting slots by expert.
pub fn experts_dispatch(e: &Experts) -> Work {
    let ints = bytes(&e.slots(), DType::I32);
    Work { bytes: ints.times(&3.into()).plus(&work_list(e)), ..Work::default() }
}

/// Work of the first products.
pub fn experts_up(e: &Experts) -> Work {
    let (slots, (width, hidden)) = (e.slots(), e.widths);
    let rows = if e.by_choice { slots.clone() } else { Dim::symbol("n") };
    let read = bytes(&rows.times(&width.into()), e.x)
        .plus(&bytes(&slots, DType::I32))
        .plus(&work_list(e))
        .plus(&bytes(&slots.times(&hidden.into()), e.hidden()));
    let weights: i64 = e.branches.iter().map(|w| encoded_bytes(*w, &[hidden, width])).sum();
    let more = e.leaves.iter().map(|(_, dtype)| bytes(&slots, *dtype));
    let bytes = more.fold(read.plus(&chosen(e).times(&weights.into())), |sum, b| sum.plus(&b));
    let products = 2 * e.branches.len() as i64 * width * hidden;
    Work { bytes, flops: slots.times(&products.into()), ..Work::default() }
}

/// Work of the product behind them.
pub fn experts_down(e: &Experts) -> Work {
    let (slots, hidden, out) = (e.slots(), e.widths.1, e.width_out());
    let weight = e.down.map_or(0, |(encoding, _)| encoded_bytes(encoding, &[out, hidden]));
    let bytes = bytes(&slots.times(&hidden.into()), e.hidden())
        .plus(&work_list(e))
        .plus(&chosen(e).times(&weight.into()))
        .plus(&bytes(&slots.times(&out.into()), DType::F32));
    Work { bytes, flops: slots.times(&(2 * hidden * out).into()), ..Work::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::plan::SYMBOLS;
    use crate::lower::precision::Operand;
    use ir::dtype::Scale;
    use ir::expr::Expr;

    fn eval(expr: &SizeExpr, of: &[(&str, i64)]) -> i64 {
        let value = |s: &&str| of.iter().find(|(name, _)| name == s).map_or(0, |(_, v)| *v);
        expr.eval(&SYMBOLS.iter().map(value).collect::<Vec<i64>>()).expect("small sizes evaluate")
    }

    fn symbols() -> Vec<Name> {
        SYMBOLS.iter().map(|s| Name::from(*s)).collect()
    }

    #[test]
    fn pairs_are_those_that_rows_see() {
        // Sequences as (new rows, context with them).
        let cases: [&[(i64, i64)]; 6] =
            [&[(1, 1)], &[(7, 7)], &[(5, 105)], &[(1, 9); 4], &[(3, 8); 2], &[(9, 9), (1, 4)]];
        for sequences in cases {
            let seen = |(new, t): &(i64, i64)| (0..*new).map(|i| t - i).sum::<i64>();
            let exact: i64 = sequences.iter().map(seen).sum();
            let n = sequences.iter().map(|s| s.0).sum();
            let t = sequences.iter().map(|s| s.1).max().expect("a case has sequences");
            let found =
                eval(&pairs(&symbols()), &[("n", n), ("b", sequences.len() as i64), ("t", t)]);
            match sequences.iter().all(|s| *s == sequences[0]) {
                true => assert_eq!(found, exact, "{sequences:?}"),
                false => assert!(found >= exact && found <= n * t, "{sequences:?}"),
            }
        }
    }

    #[test]
    fn weights_have_codes_and_scales() {
        let scale = Scale { dtype: DType::F32, rows: 128, cols: 128, sum: false };
        let fp8 = Encoding { code: DType::F8E4M3, scale: Some(scale) };
        assert_eq!(encoded_bytes(DType::BF16.into(), &[3, 5, 7]), 3 * 5 * 7 * 2);
        assert_eq!(encoded_bytes(DType::F32.into(), &[9]), 36);
        assert_eq!(encoded_bytes(fp8, &[2, 130, 300]), 2 * (130 * 300 + 2 * 3 * 4));
        assert_eq!(encoded_bytes(DType::I4.into(), &[1, 3]), 2);
    }

    #[test]
    fn no_more_experts_are_read_than_there_are() {
        let e = Experts {
            rows_max: 1 << 20,
            experts: (8, 3),
            widths: (64, 32),
            x: DType::BF16.into(),
            left: Operand::Bf16,
            by_choice: false,
            branches: vec![DType::BF16.into(); 2],
            leaves: vec![],
            expr: Expr::Arg(0),
            down: Some((DType::BF16.into(), 64)),
            rows: 48,
            in_order: false,
        };
        let [up, down] = [experts_up(&e), experts_down(&e)].map(|w| w.sized(&symbols()));
        let expert = 64 * 32 * 2;
        for (n, read) in [(1, 3), (2, 6), (3, 8), (100, 8)] {
            let own = n * 64 * 2 + 3 * n * 4 + (read + 1) * 12 + 3 * n * 32 * 2;
            assert_eq!(eval(&up.bytes, &[("n", n)]), own + read * 2 * expert);
            let own = 3 * n * 32 * 2 + (read + 1) * 12 + 3 * n * 64 * 4;
            assert_eq!(eval(&down.bytes, &[("n", n)]), own + read * expert);
            assert_eq!(eval(&down.flops, &[("n", n)]), 3 * n * 2 * 32 * 64);
        }
    }
}
