//! Dims as the runtime evaluates them.

use artifact::size::{SizeExpr, SizeOp};
use ir::dim::{Atom, Dim, Name};

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

#[cfg(test)]
mod tests {
    use super::*;

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
