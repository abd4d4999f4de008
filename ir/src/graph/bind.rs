//! What the symbols of a block stand for, from the shapes it is given.

use crate::dim::{Atom, Dim, Name, Symbol, Symbols};
use std::collections::BTreeMap;

/// What symbols stand for: numbers, or dims over a caller's symbols.
pub type Solution = BTreeMap<Name, Dim>;

/// Marks a block's unknown symbol, so that a caller's of the same name is another.
const MARK: &str = "'";

/// Solves `left = right` for the symbols of the left sides, beginning with what is `known`. Each
/// equation gives one symbol, that occurs in it once, by itself, with factor 1 or -1, when all
/// others in it are known. Whether all equations hold then is for the caller to see with [`apply`].
pub fn solve(equations: &[(Dim, Dim)], known: Solution) -> Solution {
    let mut solution = known;
    while let Some((name, value)) = equations.iter().find_map(|(l, r)| step(l, r, &solution)) {
        solution.insert(name, value);
    }
    solution
}

/// A dim over what its symbols stand for. Unknown ones are marked, and equal nothing of a caller's.
pub fn apply(dim: &Dim, solution: &Solution) -> Dim {
    let marked = |n: &str| Dim::symbol(&format!("{n}{MARK}"));
    dim.substitute(&|n| Some(solution.get(n).cloned().unwrap_or_else(|| marked(n))))
}

fn step(left: &Dim, right: &Dim, solution: &Solution) -> Option<(Name, Dim)> {
    let left = apply(left, solution);
    let mut occurrences = vec![];
    left.visit_symbols(&mut |n| occurrences.extend(n.strip_suffix(MARK).map(Name::from)));
    let [name] = &occurrences[..] else { return None };
    let alone = |atoms: &[Atom]| matches!(atoms, [Atom::Symbol(n)] if n.ends_with(MARK));
    let (_, sign) = left.terms().find(|(atoms, c)| alone(atoms) && c.abs() == 1)?;
    let symbol = Dim::symbol(&format!("{name}{MARK}")).times(&sign.into());
    // sign * name + rest = right
    let rest = left.minus(&symbol);
    Some((name.clone(), right.minus(&rest).times(&sign.into())))
}

/// What is known of symbols without any argument: the bound ones.
pub fn bound(symbols: &Symbols) -> Solution {
    let value = |(n, s): (&Name, &Symbol)| Some((n.clone(), s.value?.into()));
    symbols.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_follows_from_the_past() {
        let [s, t] = ["s", "t"].map(Dim::symbol);
        // A block's own t is the caller's past + s, whatever the caller calls what.
        let past = Dim::symbol("n").minus(&t);
        let equations = [(t.minus(&s), past.clone()), (s.clone(), t.clone())];
        let solution = solve(&equations, Solution::new());
        assert_eq!(solution["s"], t);
        assert_eq!(solution["t"], Dim::symbol("n"));
        assert_eq!(apply(&t.minus(&s), &solution), past);
    }

    #[test]
    fn what_does_not_follow_stays_open() {
        let [s, t] = ["s", "t"].map(Dim::symbol);
        let solution = solve(&[(s.plus(&t), 5.into()), (s.times(&t), 6.into())], Solution::new());
        assert!(solution.is_empty());
        assert_ne!(apply(&s, &solution), s);
        let twice = solve(&[(s.plus(&s), 6.into())], Solution::new());
        assert!(twice.is_empty());
    }
}
