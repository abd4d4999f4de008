//! Sizes that depend on a step: small postfix programs over the step symbols.

use serde::{Deserialize, Serialize};

/// One operation of a [`SizeExpr`]. Binary operations take the two topmost values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeOp {
    /// Push a constant.
    Const(i64),
    /// Push a step symbol, by its position in the plan's symbol table.
    Symbol(u32),
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// Quotient rounded down.
    FloorDiv,
    /// Quotient rounded up.
    CeilDiv,
    /// Lesser of two.
    Min,
    /// Greater of two.
    Max,
}

/// An integer expression over step symbols, in postfix order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SizeExpr(pub Vec<SizeOp>);

impl SizeExpr {
    /// The constant `value`.
    pub fn constant(value: i64) -> Self {
        SizeExpr(vec![SizeOp::Const(value)])
    }

    /// The symbol at `index` of the plan's symbol table.
    pub fn symbol(index: u32) -> Self {
        SizeExpr(vec![SizeOp::Symbol(index)])
    }

    /// `self op other`.
    pub fn then(mut self, other: SizeExpr, op: SizeOp) -> Self {
        self.0.extend(other.0);
        self.0.push(op);
        self
    }

    /// The value under `symbols`; `None` if the program is malformed, divides by zero, or
    /// overflows.
    pub fn eval(&self, symbols: &[i64]) -> Option<i64> {
        self.eval_in(symbols, &mut Vec::with_capacity(4))
    }

    /// [`SizeExpr::eval`] with the caller's memory for the stack, whose contents are lost.
    pub fn eval_in(&self, symbols: &[i64], stack: &mut Vec<i64>) -> Option<i64> {
        stack.clear();
        for op in &self.0 {
            let value = match *op {
                SizeOp::Const(c) => c,
                SizeOp::Symbol(i) => *symbols.get(i as usize)?,
                binary => {
                    let b = stack.pop()?;
                    let a = stack.pop()?;
                    apply(binary, a, b)?
                }
            };
            stack.push(value);
        }
        let value = stack.pop()?;
        stack.is_empty().then_some(value)
    }

    /// Whether it is a whole program over `symbols` step symbols.
    pub fn is_well_formed(&self, symbols: usize) -> bool {
        let mut depth = 0usize;
        for op in &self.0 {
            match op {
                SizeOp::Symbol(i) if *i as usize >= symbols => return false,
                SizeOp::Const(_) | SizeOp::Symbol(_) => depth += 1,
                _ if depth < 2 => return false,
                _ => depth -= 1,
            }
        }
        depth == 1
    }
}

fn apply(op: SizeOp, a: i64, b: i64) -> Option<i64> {
    match op {
        SizeOp::Add => a.checked_add(b),
        SizeOp::Mul => a.checked_mul(b),
        SizeOp::FloorDiv => (b > 0).then(|| a.div_euclid(b)),
        // No sum that could overflow; a quotient by 1, the only large one, leaves no rest.
        SizeOp::CeilDiv => (b > 0).then(|| a.div_euclid(b) + i64::from(a.rem_euclid(b) != 0)),
        SizeOp::Min => Some(a.min(b)),
        SizeOp::Max => Some(a.max(b)),
        SizeOp::Const(_) | SizeOp::Symbol(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluates_postfix_over_symbols() {
        let n = SizeExpr::symbol(0);
        let pages = n.then(SizeExpr::constant(64), SizeOp::CeilDiv);
        assert_eq!(pages.eval(&[129]), Some(3));
        assert_eq!(pages.eval(&[]), None);
    }

    #[test]
    fn tells_whole_programs_from_others() {
        let n = SizeExpr::symbol(1);
        assert!(n.is_well_formed(2));
        assert!(!n.is_well_formed(1));
        assert!(n.clone().then(SizeExpr::constant(2), SizeOp::Mul).is_well_formed(2));
        assert!(!SizeExpr(vec![SizeOp::Const(1), SizeOp::Add]).is_well_formed(2));
        assert!(!SizeExpr(vec![SizeOp::Const(1), SizeOp::Const(1)]).is_well_formed(2));
    }

    #[test]
    fn quotients_of_great_numbers_do_not_overflow() {
        let quotient =
            |a: i64, b: i64, op| SizeExpr::constant(a).then(SizeExpr::constant(b), op).eval(&[]);
        assert_eq!(quotient(i64::MAX, 64, SizeOp::CeilDiv), Some(1 << 57));
        assert_eq!(quotient(i64::MAX, 1, SizeOp::CeilDiv), Some(i64::MAX));
        assert_eq!(quotient(i64::MIN, i64::MAX, SizeOp::CeilDiv), Some(-1));
        assert_eq!(quotient(i64::MIN, i64::MAX, SizeOp::FloorDiv), Some(-2));
        assert_eq!(quotient(1, i64::MIN, SizeOp::CeilDiv), None);
    }

    #[test]
    fn refuses_overflow_and_malformed_programs() {
        let big = SizeExpr::constant(i64::MAX);
        assert_eq!(big.clone().then(big, SizeOp::Mul).eval(&[]), None);
        assert_eq!(SizeExpr(vec![SizeOp::Add]).eval(&[]), None);
        assert_eq!(SizeExpr(vec![]).eval(&[]), None);
        let zero = SizeExpr::constant(1).then(SizeExpr::constant(0), SizeOp::FloorDiv);
        assert_eq!(zero.eval(&[]), None);
    }
}
