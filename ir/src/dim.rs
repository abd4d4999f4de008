//! Dims: extents as exact integer expressions over named symbols.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A name of a symbol, index, value, graph or kernel. Cheap to clone.
pub type Name = Arc<str>;

/// Who binds a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sort {
    /// A shape parameter, bound by the model's config (and re-bound to small values by checkers).
    Param,
    /// Known to the host at each step.
    Step,
    /// Known only on the device, such as the rows of an expert.
    Data,
}

/// A symbol's sort, inclusive bounds, and value where it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Symbol {
    /// Who binds it.
    pub sort: Sort,
    /// Least value.
    pub lo: i64,
    /// Greatest value.
    pub hi: i64,
    /// The value, if bound.
    pub value: Option<i64>,
}

impl Symbol {
    /// A parameter bound to `value`.
    pub fn param(value: i64) -> Self {
        Symbol { sort: Sort::Param, lo: value, hi: value, value: Some(value) }
    }

    /// A step symbol within bounds.
    pub fn step(lo: i64, hi: i64) -> Self {
        Symbol { sort: Sort::Step, lo, hi, value: None }
    }
}

/// The symbols of a graph or kernel, in order of declaration of their names' spelling.
pub type Symbols = BTreeMap<Name, Symbol>;

/// What a product is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Atom {
    /// A symbol.
    Symbol(Name),
    /// Quotient by a positive constant, rounded down.
    FloorDiv(Box<Dim>, i64),
    /// Quotient by a positive constant, rounded up.
    CeilDiv(Box<Dim>, i64),
    /// The lesser of a dim and a constant.
    Min(Box<Dim>, i64),
    /// The greater of a dim and a constant.
    Max(Box<Dim>, i64),
}

/// A sum of products of atoms with integer coefficients, in canonical form: two dims that are
/// equal as polynomials are equal as values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    /// Product (sorted atoms; empty for the constant) to non-zero coefficient.
    terms: BTreeMap<Vec<Atom>, i64>,
}

impl Dim {
    /// The constant `value`.
    pub fn constant(value: i64) -> Self {
        let mut terms = BTreeMap::new();
        if value != 0 {
            terms.insert(vec![], value);
        }
        Dim { terms }
    }

    /// The symbol `name`.
    pub fn symbol(name: &str) -> Self {
        Dim::atom(Atom::Symbol(name.into()))
    }

    fn atom(atom: Atom) -> Self {
        Dim { terms: BTreeMap::from([(vec![atom], 1)]) }
    }

    /// Products and their coefficients, in canonical order.
    pub fn terms(&self) -> impl Iterator<Item = (&[Atom], i64)> {
        self.terms.iter().map(|(atoms, c)| (atoms.as_slice(), *c))
    }

    /// The value, where it has no symbols.
    pub fn as_constant(&self) -> Option<i64> {
        match self.terms.len() {
            0 => Some(0),
            1 => self.terms.get(&vec![]).copied(),
            _ => None,
        }
    }

    /// The symbol, where it is nothing but one.
    pub fn as_symbol(&self) -> Option<&Name> {
        let (atoms, 1) = self.terms.iter().next().map(|(a, c)| (a.as_slice(), *c))? else {
            return None;
        };
        match atoms {
            [Atom::Symbol(name)] if self.terms.len() == 1 => Some(name),
            _ => None,
        }
    }

    fn add_term(&mut self, atoms: Vec<Atom>, coefficient: i64) {
        let slot = self.terms.entry(atoms.clone()).or_insert(0);
        *slot = slot.saturating_add(coefficient);
        if *slot == 0 {
            self.terms.remove(&atoms);
        }
    }

    /// `self + other`.
    pub fn plus(&self, other: &Dim) -> Dim {
        let mut sum = self.clone();
        for (atoms, c) in &other.terms {
            sum.add_term(atoms.clone(), *c);
        }
        sum
    }

    /// `self - other`.
    pub fn minus(&self, other: &Dim) -> Dim {
        self.plus(&other.times(&Dim::constant(-1)))
    }

    /// `self * other`.
    pub fn times(&self, other: &Dim) -> Dim {
        let mut product = Dim::default();
        for (a, ca) in &self.terms {
            for (b, cb) in &other.terms {
                let mut atoms = [a.as_slice(), b.as_slice()].concat();
                atoms.sort();
                product.add_term(atoms, ca.saturating_mul(*cb));
            }
        }
        product
    }

    /// Quotient by a product of symbols and a number, where every term is a multiple of it.
    pub fn quotient(&self, divisor: &Dim) -> Option<Dim> {
        let mut terms = divisor.terms.iter();
        let (Some((factors, by)), None) = (terms.next(), terms.next()) else { return None };
        let mut quotient = Dim::default();
        for (atoms, c) in &self.terms {
            let mut rest = atoms.clone();
            for factor in factors {
                rest.remove(rest.iter().position(|atom| atom == factor)?);
            }
            quotient.add_term(rest, c.checked_rem(*by).filter(|r| *r == 0).map(|_| c / by)?);
        }
        Some(quotient)
    }

    /// Quotient by `divisor > 0`, rounded down.
    pub fn floor_div(&self, divisor: i64) -> Dim {
        self.divided(divisor, i64::div_euclid, Atom::FloorDiv)
    }

    /// Quotient by `divisor > 0`, rounded up.
    pub fn ceil_div(&self, divisor: i64) -> Dim {
        self.divided(
            divisor,
            |a, d| a.saturating_neg().div_euclid(d).saturating_neg(),
            Atom::CeilDiv,
        )
    }

    fn divided(
        &self,
        divisor: i64,
        of_constant: fn(i64, i64) -> i64,
        atom: fn(Box<Dim>, i64) -> Atom,
    ) -> Dim {
        assert!(divisor > 0, "a dim is divided by a positive constant");
        if divisor == 1 {
            return self.clone();
        }
        if let Some(c) = self.as_constant() {
            return Dim::constant(of_constant(c, divisor));
        }
        if self.terms.values().all(|c| c % divisor == 0) {
            let terms = self.terms.iter().map(|(a, c)| (a.clone(), c / divisor)).collect();
            return Dim { terms };
        }
        Dim::atom(atom(Box::new(self.clone()), divisor))
    }

    /// The lesser of this and a constant.
    pub fn at_most(&self, limit: i64) -> Dim {
        match self.as_constant() {
            Some(c) => Dim::constant(c.min(limit)),
            None => Dim::atom(Atom::Min(Box::new(self.clone()), limit)),
        }
    }

    /// The greater of this and a constant.
    pub fn at_least(&self, limit: i64) -> Dim {
        match self.as_constant() {
            Some(c) => Dim::constant(c.max(limit)),
            None => Dim::atom(Atom::Max(Box::new(self.clone()), limit)),
        }
    }

    /// The value under an assignment; `None` where a symbol has none or the value overflows.
    pub fn eval(&self, value_of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        let mut sum = 0i64;
        for (atoms, c) in &self.terms {
            let mut product = *c;
            for atom in atoms {
                product = product.checked_mul(atom.eval(value_of)?)?;
            }
            sum = sum.checked_add(product)?;
        }
        Some(sum)
    }

    /// The value where every symbol in it is bound.
    pub fn bound_value(&self, symbols: &Symbols) -> Option<i64> {
        self.eval(&|name| symbols.get(name).and_then(|s| s.value))
    }

    /// The dim with each symbol replaced by what `of` gives for it (`None` keeps it).
    pub fn substitute(&self, of: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        let mut sum = Dim::default();
        for (atoms, c) in &self.terms {
            let factors = atoms.iter().map(|a| a.substitute(of));
            sum = sum.plus(&factors.fold(Dim::constant(*c), |p, f| p.times(&f)));
        }
        sum
    }

    /// The dim with bound symbols replaced by their values.
    pub fn bind(&self, symbols: &Symbols) -> Dim {
        self.substitute(&|n| symbols.get(n).and_then(|s| s.value).map(Dim::constant))
    }

    /// Calls `visit` with every symbol, in canonical order, repeats included.
    pub fn visit_symbols(&self, visit: &mut dyn FnMut(&Name)) {
        for atom in self.terms.keys().flatten() {
            match atom {
                Atom::Symbol(name) => visit(name),
                Atom::FloorDiv(d, _) | Atom::CeilDiv(d, _) | Atom::Min(d, _) | Atom::Max(d, _) => {
                    d.visit_symbols(visit)
                }
            }
        }
    }
}

impl Atom {
    fn eval(&self, value_of: &dyn Fn(&str) -> Option<i64>) -> Option<i64> {
        match self {
            Atom::Symbol(name) => value_of(name),
            Atom::FloorDiv(d, by) => Some(d.eval(value_of)?.div_euclid(*by)),
            Atom::CeilDiv(d, by) => Some(-d.eval(value_of)?.checked_neg()?.div_euclid(*by)),
            Atom::Min(d, c) => Some(d.eval(value_of)?.min(*c)),
            Atom::Max(d, c) => Some(d.eval(value_of)?.max(*c)),
        }
    }

    fn substitute(&self, of: &dyn Fn(&str) -> Option<Dim>) -> Dim {
        match self {
            Atom::Symbol(name) => of(name).unwrap_or_else(|| Dim::atom(self.clone())),
            Atom::FloorDiv(d, by) => d.substitute(of).floor_div(*by),
            Atom::CeilDiv(d, by) => d.substitute(of).ceil_div(*by),
            Atom::Min(d, c) => d.substitute(of).at_most(*c),
            Atom::Max(d, c) => d.substitute(of).at_least(*c),
        }
    }
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Dim::constant(value)
    }
}

impl From<&str> for Dim {
    fn from(name: &str) -> Self {
        Dim::symbol(name)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Symbol(name) => f.write_str(name),
            Atom::FloorDiv(d, c) => write!(f, "floordiv({d}, {c})"),
            Atom::CeilDiv(d, c) => write!(f, "ceildiv({d}, {c})"),
            Atom::Min(d, c) => write!(f, "min({d}, {c})"),
            Atom::Max(d, c) => write!(f, "max({d}, {c})"),
        }
    }
}

impl fmt::Display for Dim {
    /// Products first in canonical order, the constant last: `2*h*d + t - 1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        let constant = self.terms.get_key_value(&vec![]);
        let products = self.terms.iter().filter(|(atoms, _)| !atoms.is_empty());
        for (i, (atoms, c)) in products.chain(constant).enumerate() {
            match (i, *c < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let magnitude = c.unsigned_abs();
            if magnitude != 1 || atoms.is_empty() {
                write!(f, "{magnitude}{}", if atoms.is_empty() { "" } else { "*" })?;
            }
            for (j, atom) in atoms.iter().enumerate() {
                write!(f, "{}{atom}", if j == 0 { "" } else { "*" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_exact() {
        let [a, b] = ["a", "b"].map(Dim::symbol);
        let two = Dim::constant(2);
        let sum = a.times(&b).times(&two).plus(&a.times(&a).times(&4.into()));
        let by = a.times(&two);
        assert_eq!(sum.quotient(&by), Some(b.plus(&a.times(&two))));
        assert_eq!(sum.quotient(&b), None, "not every term");
        assert_eq!(sum.quotient(&a.times(&3.into())), None, "a rest");
        assert_eq!(sum.quotient(&a.plus(&b)), None, "a sum");
        assert_eq!(sum.quotient(&0.into()), None);
        assert_eq!(Dim::constant(6).quotient(&two), Some(3.into()));
        assert_eq!(Dim::constant(i64::MIN).quotient(&Dim::constant(-1)), None);
    }

    #[test]
    fn equal_polynomials_are_equal_values() {
        let (h, d) = (Dim::symbol("h"), Dim::symbol("d"));
        let left = h.plus(&d).times(&h.minus(&d));
        let right = h.times(&h).minus(&d.times(&d));
        assert_eq!(left, right);
        assert_eq!(left.minus(&right), Dim::constant(0));
        assert_eq!(h.times(&d).times(&2.into()).plus(&7.into()).to_string(), "2*d*h + 7");
        assert_eq!(Dim::symbol("t").minus(&1.into()).to_string(), "t - 1");
    }

    #[test]
    fn division_rounds_and_simplifies() {
        let t = Dim::symbol("t");
        assert_eq!(t.times(&64.into()).floor_div(64), t);
        assert_eq!(t.ceil_div(64).to_string(), "ceildiv(t, 64)");
        let at = |v: i64| t.ceil_div(64).eval(&|_| Some(v));
        assert_eq!((at(0), at(1), at(64), at(65)), (Some(0), Some(1), Some(1), Some(2)));
        assert_eq!(t.eval(&|_| None), None);
        assert_eq!(t.times(&t).eval(&|_| Some(i64::MAX)), None);
    }

    #[test]
    fn substitution_folds() {
        let bound = Symbols::from([("h".into(), Symbol::param(4))]);
        let d = Dim::symbol("h").times(&Dim::symbol("s")).at_most(99);
        assert_eq!(d.bind(&bound).to_string(), "min(4*s, 99)");
        assert_eq!(d.bound_value(&bound), None);
    }
}
