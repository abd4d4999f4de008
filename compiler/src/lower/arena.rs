//! Memory of a step: every intermediate gets a place in one arena, by liveness.
//!
//! Sizes are symbolic, so places are slots: two intermediates share a slot when they are not
//! alive together, and a slot is as large as its largest user.

use crate::lower::size::size_expr;
use artifact::size::{SizeExpr, SizeOp};
use ir::dim::{Dim, Name};

/// Alignment of every buffer, in bytes: a cache line, and the widest vector.
const ALIGN: i64 = 64;

/// An intermediate.
#[derive(Clone, Debug, PartialEq)]
pub struct Temp {
    /// For reports.
    pub name: String,
    /// Size in bytes, over step symbols.
    pub bytes: Dim,
    /// Phase that writes it.
    pub first: u32,
    /// Last phase that touches it.
    pub last: u32,
}

/// Where the intermediates lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Arena {
    /// Byte offset of each intermediate.
    pub offsets: Vec<SizeExpr>,
    /// Size in bytes.
    pub bytes: SizeExpr,
}

struct Slot {
    /// Sizes of its users, none of which is at least as large as another at every step.
    sizes: Vec<Dim>,
    /// Last phase of its latest user.
    busy_until: u32,
}

impl Slot {
    fn at_least(&self, sample: &dyn Fn(&Dim) -> i64) -> i64 {
        self.sizes.iter().map(sample).max().unwrap_or(0)
    }

    fn hold(&mut self, bytes: &Dim, last: u32) {
        if !self.sizes.iter().any(|s| covers(s, bytes)) {
            self.sizes.retain(|s| !covers(bytes, s));
            self.sizes.push(bytes.clone());
        }
        self.busy_until = last;
    }

    /// Size rounded up to [`ALIGN`].
    fn bytes(&self, symbols: &[Name]) -> SizeExpr {
        let mut sizes = self.sizes.iter().map(|d| size_expr(&d.ceil_div(ALIGN), symbols));
        let first = sizes.next().unwrap_or_else(|| SizeExpr::constant(0));
        let most = sizes.fold(first, |a, b| a.then(b, SizeOp::Max));
        most.then(SizeExpr::constant(ALIGN), SizeOp::Mul)
    }
}

/// Whether `a >= b` wherever no symbol is negative, by comparing coefficients.
fn covers(a: &Dim, b: &Dim) -> bool {
    a.minus(b).terms().all(|(_, c)| c >= 0)
}

/// Lays out intermediates. `typical` is a step's symbols at which fits are judged: it shapes the
/// layout, never its correctness.
pub fn lay_out(temps: &[Temp], symbols: &[Name], typical: &dyn Fn(&str) -> i64) -> Arena {
    let sample = |d: &Dim| d.eval(&|name| Some(typical(name))).unwrap_or(i64::MAX);
    let mut order: Vec<usize> = (0..temps.len()).collect();
    order.sort_by_key(|i| (temps[*i].first, std::cmp::Reverse(sample(&temps[*i].bytes)), *i));
    let mut slots: Vec<Slot> = vec![];
    let mut slot_of = vec![0; temps.len()];
    for i in order {
        let temp = &temps[i];
        let wanted = sample(&temp.bytes);
        let free = slots.iter().enumerate().filter(|(_, s)| s.busy_until < temp.first);
        let best = free
            .map(|(j, s)| {
                let has = s.at_least(&sample);
                // Best: the tightest that fits; else the one that grows least.
                ((has < wanted), has.abs_diff(wanted), j)
            })
            .min();
        let j = best.map_or_else(
            || {
                slots.push(Slot { sizes: vec![], busy_until: 0 });
                slots.len() - 1
            },
            |(_, _, j)| j,
        );
        slots[j].hold(&temp.bytes, temp.last);
        slot_of[i] = j;
    }
    let mut starts = vec![];
    let mut end = SizeExpr::constant(0);
    for slot in &slots {
        starts.push(end.clone());
        end = end.then(slot.bytes(symbols), SizeOp::Add);
    }
    let offsets = slot_of.iter().map(|j| starts[*j].clone()).collect();
    Arena { offsets, bytes: end }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(bytes: Dim, first: u32, last: u32) -> Temp {
        Temp { name: String::new(), bytes, first, last }
    }

    #[test]
    fn buffers_alive_together_never_overlap() {
        let n = |k: i64| Dim::symbol("n").times(&k.into());
        let temps: Vec<_> = (0u32..40)
            .map(|i| {
                let size = n(i64::from(i * 37 % 11 + 1)).plus(&i64::from(i % 3 * 100).into());
                temp(size, i / 3, i / 3 + i * 7 % 5)
            })
            .collect();
        let symbols = ["n".into()];
        let arena = lay_out(&temps, &symbols, &|_| 16);
        for n in [1, 3, 512] {
            let total = arena.bytes.eval(&[n]).expect("it has a value");
            let span = |i: usize| {
                let at = arena.offsets[i].eval(&[n]).expect("it has a value");
                (at, at + temps[i].bytes.eval(&|_| Some(n)).expect("it has a value"))
            };
            for i in 0..temps.len() {
                assert!(span(i).0 % ALIGN == 0 && span(i).1 <= total);
                for j in 0..i {
                    let together =
                        temps[i].first <= temps[j].last && temps[j].first <= temps[i].last;
                    assert!(!together || span(i).1 <= span(j).0 || span(j).1 <= span(i).0);
                }
            }
        }
    }

    #[test]
    fn dead_buffers_give_their_place_away() {
        let n = Dim::symbol("n").times(&64.into());
        let temps: Vec<_> = (0..10).map(|i| temp(n.clone(), i, i + 1)).collect();
        let arena = lay_out(&temps, &["n".into()], &|_| 1);
        assert_eq!(arena.bytes.eval(&[5]), Some(2 * 5 * 64));
    }
}
