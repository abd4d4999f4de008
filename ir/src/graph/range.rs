//! Which integers a value may hold, as far as its graph tells.
//!
//! Code of a target neither checks what a `gather` selects nor what an integer is divided by: what
//! is compiled must be within bounds whatever the inputs are. Each op says of its results what
//! follows from its operands ([`OpDef::range`](crate::op::OpDef::range)).

use super::bounds::least;
use crate::dim::{Dim, Symbol, Symbols};
use crate::dtype::Class;
use crate::expr::{Binary, Unary};
use crate::number::scalar::{Code, Scalar};
use std::fmt;

/// Bounds of integers, both inclusive, over the symbols of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// None is less.
    pub lo: Dim,
    /// None is greater.
    pub hi: Dim,
}

impl Range {
    /// Whatever an `i32` can be; of real numbers, what `int()` makes of them.
    pub fn any() -> Range {
        Range::between(i64::from(i32::MIN).into(), i64::from(i32::MAX).into())
    }

    /// From `lo` to `hi`.
    pub fn between(lo: Dim, hi: Dim) -> Range {
        Range { lo, hi }
    }

    /// Rows of an extent: from 0 to the last.
    pub fn rows(extent: &Dim) -> Range {
        Range::between(0.into(), extent.minus(&1.into()))
    }

    /// What integers may be divided by.
    pub fn divisors() -> Range {
        Range::between(1.into(), i64::from(i32::MAX).into())
    }

    /// One number.
    pub fn number(value: i64) -> Range {
        Range::between(value.into(), value.into())
    }

    /// Of truth values, as integers.
    fn bit() -> Range {
        Range::between(0.into(), 1.into())
    }

    /// Whether these are known to lie within others.
    pub fn is_within(&self, allowed: &Range, symbols: &Symbols) -> bool {
        reaches(&self.lo, &allowed.lo, symbols) && reaches(&allowed.hi, &self.hi, symbols)
    }

    /// What holds of these and of others.
    pub fn or(&self, other: &Range, symbols: &Symbols) -> Range {
        Range {
            lo: lesser(&self.lo, &other.lo, symbols),
            hi: lesser(&minus(&self.hi), &minus(&other.hi), symbols).times(&(-1).into()),
        }
    }

    /// Bounds as numbers.
    pub fn numbers(&self, symbols: &Symbols) -> [i64; 2] {
        [lower(&self.lo, symbols), lower(&minus(&self.hi), symbols).saturating_neg()]
    }

    /// The bounds as numbers, where symbols say too little.
    pub fn numeric(&self, symbols: &Symbols) -> Range {
        let [lo, hi] = self.numbers(symbols);
        Range::between(lo.into(), hi.into())
    }

    /// These, of an operation in 32 bits that wraps around.
    pub fn wrapped(self, symbols: &Symbols) -> Range {
        if self.numeric(symbols).is_within(&Range::any(), symbols) { self } else { Range::any() }
    }

    fn negated(&self) -> Range {
        Range { lo: minus(&self.hi), hi: minus(&self.lo) }
    }

    fn plus(&self, other: &Range) -> Range {
        Range { lo: self.lo.plus(&other.lo), hi: self.hi.plus(&other.hi) }
    }

    /// The number, where it is but one.
    fn constant(&self) -> Option<i64> {
        self.lo.as_constant().filter(|_| self.lo == self.hi)
    }

    fn times(&self, other: &Range, symbols: &Symbols) -> Range {
        match (self.constant(), other.constant()) {
            (None, Some(c)) => {
                let [lo, hi] = [&self.lo, &self.hi].map(|bound| bound.times(&c.into()));
                if c < 0 { Range { lo: hi, hi: lo } } else { Range { lo, hi } }
            }
            (Some(_), None) => other.times(self, symbols),
            _ => self.corners(other, symbols, i64::saturating_mul),
        }
    }

    /// By divisors, rounded down.
    fn divided(&self, by: &Range, symbols: &Symbols) -> Range {
        match by.constant() {
            Some(c) => Range { lo: self.lo.floor_div(c), hi: self.hi.floor_div(c) },
            None => self.corners(by, symbols, |a, b| a.div_euclid(b.max(1))),
        }
    }

    /// Bounds of what is monotone in each of two, by its values at their bounds.
    fn corners(&self, other: &Range, symbols: &Symbols, f: impl Fn(i64, i64) -> i64) -> Range {
        let (a, b) = (self.numbers(symbols), other.numbers(symbols));
        let values = a.map(|a| b.map(|b| f(a, b)));
        let values = values.as_flattened();
        let (lo, hi) = values.iter().fold((i64::MAX, i64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        Range::between(lo.into(), hi.into())
    }

    fn min(&self, other: &Range, symbols: &Symbols) -> Range {
        let lo = lesser(&self.lo, &other.lo, symbols);
        // Either bound holds; one of them says more.
        let ours = reaches(&other.hi, &self.hi, symbols)
            || self.numbers(symbols)[1] < other.numbers(symbols)[1];
        Range { lo, hi: if ours { self.hi.clone() } else { other.hi.clone() } }
    }

    fn max(&self, other: &Range, symbols: &Symbols) -> Range {
        self.negated().min(&other.negated(), symbols).negated()
    }
}

/// An operand that may lie where an op has no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// What the op takes it for.
    pub what: &'static str,
    /// Where it may lie.
    pub found: Range,
    /// Where it must.
    pub expected: Range,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.lo, self.hi)
    }
}

/// The ranges of an expression's operands, with their classes, and the symbols they are over.
pub struct Operands<'a> {
    /// Of each operand, by position.
    pub ranges: Vec<(Class, Range)>,
    /// The graph's.
    pub symbols: &'a Symbols,
}

impl Operands<'_> {
    /// Class and range of what an expression makes of these.
    ///
    /// Errors: the range of a divisor of integers that may not be positive.
    pub fn range(&self, code: &Code<f64>) -> Result<(Class, Range), Range> {
        Ok(match code {
            Code::Arg(i) => self.ranges[*i].clone(),
            Code::Value(Scalar::Float(_)) => (Class::Float, Range::any()),
            Code::Value(Scalar::Bool(_)) => (Class::Bool, Range::bit()),
            Code::Value(Scalar::Int(v)) => (Class::Int, Range::number((*v).into())),
            Code::Unary(f, a) => self.unary(*f, self.range(a)?),
            Code::Binary(f, x) => self.binary(*f, self.range(&x[0])?, self.range(&x[1])?)?,
            Code::Select(x) => {
                self.range(&x[0])?;
                let ((class, a), (_, b)) = (self.range(&x[1])?, self.range(&x[2])?);
                (class, a.or(&b, self.symbols))
            }
        })
    }

    fn unary(&self, f: Unary, (class, a): (Class, Range)) -> (Class, Range) {
        match (f, class) {
            (Unary::Not, _) => (Class::Bool, Range::bit()),
            (Unary::Int, _) => (Class::Int, a.wrapped(self.symbols)),
            (Unary::Neg, Class::Int) => (class, a.negated().wrapped(self.symbols)),
            (Unary::Abs, Class::Int) => {
                let magnitude =
                    a.max(&a.negated(), self.symbols).max(&Range::number(0), self.symbols);
                (class, magnitude.wrapped(self.symbols))
            }
            _ => (Class::Float, Range::any()),
        }
    }

    fn binary(
        &self,
        f: Binary,
        (class, a): (Class, Range),
        (_, b): (Class, Range),
    ) -> Result<(Class, Range), Range> {
        let symbols = self.symbols;
        if f.is_comparison() || class == Class::Bool {
            return Ok((Class::Bool, Range::bit()));
        }
        if class == Class::Float {
            return Ok((class, Range::any()));
        }
        if matches!(f, Binary::Div | Binary::Rem) && !b.is_within(&Range::divisors(), symbols) {
            return Err(b);
        }
        let range = match f {
            Binary::Add => a.plus(&b),
            Binary::Sub => a.plus(&b.negated()),
            Binary::Mul => a.times(&b, symbols),
            Binary::Div => a.divided(&b, symbols),
            // A remainder is less than its divisor.
            Binary::Rem => Range { lo: 0.into(), hi: b.hi.minus(&1.into()) },
            Binary::Min => a.min(&b, symbols),
            Binary::Max => a.max(&b, symbols),
            _ => Range::any(),
        };
        Ok((class, range.wrapped(symbols)))
    }
}

fn minus(dim: &Dim) -> Dim {
    dim.times(&(-1).into())
}

/// Whether one dim is known to be no less than another.
fn reaches(dim: &Dim, other: &Dim, symbols: &Symbols) -> bool {
    lower(&dim.minus(other), symbols) >= 0
}

/// A dim that is no greater than either.
fn lesser(a: &Dim, b: &Dim, symbols: &Symbols) -> Dim {
    match (reaches(b, a, symbols), reaches(a, b, symbols)) {
        (true, _) => a.clone(),
        (_, true) => b.clone(),
        _ => lower(a, symbols).min(lower(b, symbols)).into(),
    }
}

/// A lower bound, which knows that `t = past + s`, too.
fn lower(dim: &Dim, symbols: &Symbols) -> i64 {
    let (Some(s), Some(t)) = (symbols.get("s"), symbols.get("t")) else {
        return least(dim, symbols);
    };
    if s.value.is_some() || t.value.is_some() {
        return least(dim, symbols);
    }
    let past: &str = "past'";
    let total = Dim::symbol(past).plus(&Dim::symbol("s"));
    let apart = dim.substitute(&|name| (name == "t").then(|| total.clone()));
    let mut known = symbols.clone();
    known.insert(past.into(), Symbol::step(0, t.hi));
    least(dim, symbols).max(least(&apart, &known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::scalar::compile;
    use crate::text::Parser;

    fn symbols() -> Symbols {
        Symbols::from([
            ("s".into(), Symbol::step(1, 64)),
            ("t".into(), Symbol::step(1, 100)),
            ("V".into(), Symbol::param(512)),
        ])
    }

    /// Of an expression over positions, ids and a row of a table of nine.
    fn range(text: &str) -> Result<String, String> {
        let symbols = symbols();
        let [s, t] = ["s", "t"].map(Dim::symbol);
        let pos = Range::between(t.minus(&s), t.minus(&1.into()));
        let ranges = [pos, Range::rows(&"V".into()), Range::rows(&9.into())];
        let operands =
            Operands { ranges: ranges.map(|r| (Class::Int, r)).into(), symbols: &symbols };
        let mut parser = Parser::new(text);
        let names = ["pos", "id", "row"];
        let e = parser.expr(&mut |t| names.iter().position(|n| *n == t.text)).expect("well-formed");
        let class = e.class(&[Class::Int; 3]).expect("a typed expression");
        let range = operands.range(&compile(&e, &[Class::Int; 3], class, 0));
        range.map(|(_, r)| r.to_string()).map_err(|r| r.to_string())
    }

    #[test]
    fn bounds_follow_from_those_of_operands() {
        for (text, expected) in [
            ("pos", "-s + t to t - 1"),
            ("pos - 3", "-s + t - 3 to t - 4"),
            ("max(pos - 3, 0)", "0 to 96"),
            ("min(max(pos - 3, 0), 6)", "0 to 6"),
            ("min(row, id)", "0 to 8"),
            ("max(row, 4) * -2 + 1", "-15 to -7"),
            ("row * row", "0 to 64"),
            ("row / 2", "0 to 4"),
            ("id / (row + 1)", "0 to 511"),
            ("rem(pos - 7, 9)", "0 to 8"),
            ("rem(id, row + 2)", "0 to 9"),
            ("abs(row - 6)", "0 to 6"),
            ("-row", "-8 to 0"),
            ("select(pos < row, row, row + 4)", "0 to 12"),
            ("int(pos < row)", "0 to 1"),
            ("int(float(row))", "-2147483648 to 2147483647"),
            ("id * 100000000", "-2147483648 to 2147483647"),
        ] {
            assert_eq!(range(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn divisors_are_positive() {
        assert_eq!(range("row / row").unwrap_err(), "0 to 8");
        assert_eq!(range("rem(id, row - 1)").unwrap_err(), "-1 to 7");
        assert_eq!(range("select(row > 0, 7 / row, 0)").unwrap_err(), "0 to 8");
        assert!(range("float(row) / float(row)").is_ok());
    }

    #[test]
    fn rows_of_a_sequence_are_rows_of_its_context() {
        let symbols = symbols();
        let [s, t] = ["s", "t"].map(Dim::symbol);
        let new = Range::between(t.minus(&s), t.minus(&1.into()));
        assert!(new.is_within(&Range::rows(&t), &symbols));
        assert!(new.is_within(&Range::rows(&100.into()), &symbols));
        assert!(!new.is_within(&Range::rows(&99.into()), &symbols));
        assert!(!new.is_within(&Range::rows(&s), &symbols));
    }
}
