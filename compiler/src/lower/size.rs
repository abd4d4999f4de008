//! Sizes over step symbols, and dims as the runtime evaluates them.

use artifact::size::{SizeExpr, SizeOp};
use ir::dim::{Atom, Dim, Name};
use ir::dtype::{DType, Encoding};
use ir::kernel::layout::GRID_ALIGN;

/// A dim over step symbols as a postfix program. `symbols` is the plan's table; a dim names no
/// other symbol.
pub fn size_expr(dim: &Dim, symbols: &[Name]) -> SizeExpr {
    let mut terms = dim.terms().map(|(atoms, coefficient)| {
        let factors = atoms.iter().map(|a| atom_expr(a, symbols));
        if coefficient == 1 && !atoms.is_empty() {
            return factors.reduce(|a, b| a.then(b, SizeOp::Mul)).expect("it has an atom");
        }
        factors.fold(SizeExpr::constant(coefficient), |a, b| a.then(b, SizeOp::Mul))
    });
    let first = terms.next().unwrap_or_else(|| SizeExpr::constant(0));
    terms.fold(first, |a, b| a.then(b, SizeOp::Add))
}

fn atom_expr(atom: &Atom, symbols: &[Name]) -> SizeExpr {
    let with = |d: &Dim, c: i64, op| size_expr(d, symbols).then(SizeExpr::constant(c), op);
    match atom {
        Atom::Symbol(name) => {
            let at = symbols.iter().position(|s| s == name);
            SizeExpr::symbol(at.expect("a lowered dim speaks of step symbols only") as u32)
        }
        Atom::FloorDiv(d, c) => with(d, *c, SizeOp::FloorDiv),
        Atom::CeilDiv(d, c) => with(d, *c, SizeOp::CeilDiv),
        Atom::Min(d, c) => with(d, *c, SizeOp::Min),
        Atom::Max(d, c) => with(d, *c, SizeOp::Max),
    }
}

/// Bytes of a row-major tensor of elements of at least a byte, of blocks of one row.
pub fn bytes_of(dims: &[Dim], encoding: Encoding) -> Dim {
    let all = |last: &dyn Fn(&Dim) -> Dim, each: u32| {
        let (end, outer) = dims.split_last().map_or((Dim::from(1), dims), |(d, o)| (last(d), o));
        outer.iter().fold(end.times(&i64::from(each).into()), |p, d| p.times(d))
    };
    let codes = all(&Dim::clone, encoding.code.bits() / 8);
    let Some(scale) = encoding.scale else { return codes };
    let aligned = |bytes: &Dim| {
        let align = GRID_ALIGN as i64;
        bytes.ceil_div(align).times(&align.into())
    };
    let grid = |dtype: DType| all(&|d| d.ceil_div(scale.cols.into()), dtype.bits() / 8);
    let scaled = aligned(&codes).plus(&grid(scale.dtype));
    if scale.sum { aligned(&scaled).plus(&grid(DType::I32)) } else { scaled }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::kernel::layout::Layout;

    #[test]
    fn bytes_are_those_of_the_layout() {
        let dims = [Dim::symbol("n"), 3.into(), 80.into()];
        for encoding in ["f32", "bf16", "i8<f32 1x32>", "i8<f16 1x16 sum>", "i8<f32 1x32 sum>"] {
            let encoding: Encoding = encoding.parse().expect("an encoding");
            for n in [0, 1, 7, 64] {
                let found = bytes_of(&dims, encoding).eval(&|_| Some(n));
                let layout = Layout::new(encoding, None, &[n as u64, 3, 80]).expect("a layout");
                assert_eq!(found, Some(layout.size_bytes() as i64), "{encoding}, {n} rows");
            }
        }
    }

    #[test]
    fn the_program_evaluates_to_the_dim() {
        let (n, t) = (Dim::symbol("n"), Dim::symbol("t"));
        let dims = [
            Dim::constant(0),
            n.clone(),
            n.times(&t).times(&3.into()).minus(&7.into()),
            n.plus(&63.into()).floor_div(64).plus(&t.ceil_div(5)).at_most(9).at_least(2),
        ];
        let symbols = ["n".into(), "t".into()];
        for dim in dims {
            for (a, b) in [(0, 1), (1, 64), (65, 3)] {
                let value = dim.eval(&|s| Some(if s == "n" { a } else { b }));
                assert_eq!(size_expr(&dim, &symbols).eval(&[a, b]), value);
            }
        }
    }
}
