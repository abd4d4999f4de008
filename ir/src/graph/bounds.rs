//! The least value a dim can take.

use crate::dim::{Dim, Symbols};

/// A lower bound of a dim under its symbols' bounds and bindings; `i64::MIN` where none is known.
///
/// Exact for bound dims; for open ones each product is bounded by itself, so that `t - s` is
/// bounded below by `lo(t) - hi(s)`.
pub fn least(dim: &Dim, symbols: &Symbols) -> i64 {
    if let Some(value) = dim.bound_value(symbols) {
        return value;
    }
    let at = |name: &str, low: bool| {
        let s = symbols.get(name)?;
        Some(s.value.unwrap_or(if low { s.lo } else { s.hi }))
    };
    // A product of non-negative atoms grows with each of them.
    let mut sum = 0i128;
    for (atoms, coefficient) in dim.terms() {
        let product = atoms.iter().try_fold(1i128, |p, atom| {
            let value = atom_value(atom, &|n| at(n, coefficient > 0))?;
            (value >= 0).then_some(p.checked_mul(value as i128)?)
        });
        let Some(product) = product.and_then(|p| p.checked_mul(coefficient as i128)) else {
            return i64::MIN;
        };
        sum = sum.saturating_add(product);
    }
    sum.clamp(i64::MIN as i128, i64::MAX as i128) as i64
}

fn atom_value(atom: &crate::dim::Atom, of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
    use crate::dim::Atom;
    match atom {
        Atom::Symbol(name) => of(name),
        // Each grows with its dim, and is bounded by the dim's bound where that is known.
        Atom::FloorDiv(d, by) => monotone(d, of).map(|v| v.div_euclid(*by)),
        Atom::CeilDiv(d, by) => monotone(d, of)?.checked_neg().map(|v| -v.div_euclid(*by)),
        Atom::Min(d, c) => monotone(d, of).map(|v| v.min(*c)),
        Atom::Max(d, c) => monotone(d, of).map(|v| v.max(*c)),
    }
}

fn monotone(dim: &Dim, of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
    let grows = dim.terms().all(|(atoms, c)| c > 0 || atoms.is_empty());
    grows.then(|| dim.eval(of)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Symbol;

    #[test]
    fn open_dims_are_bounded_term_by_term() {
        let symbols = Symbols::from([
            ("s".into(), Symbol::step(1, 4)),
            ("t".into(), Symbol::step(8, 64)),
            ("h".into(), Symbol::param(3)),
        ]);
        let dim = |a: &str, b: &str| Dim::symbol(a).minus(&Dim::symbol(b));
        assert_eq!(least(&dim("t", "s"), &symbols), 4);
        assert_eq!(least(&dim("s", "t"), &symbols), 1 - 64);
        assert_eq!(least(&dim("h", "s"), &symbols), -1);
        assert_eq!(least(&Dim::symbol("t").ceil_div(5), &symbols), 2);
        assert_eq!(least(&Dim::symbol("x"), &symbols), i64::MIN);
        assert_eq!(least(&dim("x", "x"), &symbols), 0);
    }
}
