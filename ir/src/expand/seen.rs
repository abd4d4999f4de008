//! Which rows of a tile anybody sees, known before a kernel is expanded.
//!
//! A result that is only stored `where <end` has rows that are never read. What is computed row
//! by row from other tiles needs no more rows of those, and so back to the loads.

use super::uses::operands;
use super::{Expander, Result};
use crate::kernel::{Access, Bound, Kernel, Op, Start, Stmt, ValueId};
use crate::loops::{Convert, Reg};

/// Rows of every tile that are seen.
pub(super) struct Seen {
    rows: Vec<Rows>,
    /// Position in the text of a value's definition.
    defined: Vec<u32>,
}

/// Rows (positions along the first axis) of a tile.
#[derive(Clone, Debug, PartialEq)]
enum Rows {
    /// None so far.
    None,
    /// Those where `start + row / each < bound`.
    Below { start: Start, bound: Bound, each: u32 },
    /// All.
    All,
}

impl Rows {
    /// Those of either.
    fn with(&self, other: &Rows) -> Rows {
        match (self, other) {
            (Rows::None, rows) | (rows, Rows::None) => rows.clone(),
            (a, b) if a == b => a.clone(),
            _ => Rows::All,
        }
    }

    /// Rows of a tile each of whose rows became `by` of these.
    fn split(&self, by: u32) -> Rows {
        match self {
            Rows::Below { start, bound, each } => match each.checked_mul(by) {
                Some(each) => Rows::Below { start: start.clone(), bound: bound.clone(), each },
                None => Rows::All,
            },
            rows => rows.clone(),
        }
    }

    /// Rows of a tile each of whose rows holds `by` of these.
    fn merged(&self, by: u32) -> Rows {
        match self {
            Rows::Below { start, bound, each } if by > 0 && each.is_multiple_of(by) => {
                Rows::Below { start: start.clone(), bound: bound.clone(), each: each / by }
            }
            Rows::None => Rows::None,
            _ => Rows::All,
        }
    }

    /// Values that a limit speaks of.
    fn values(&self) -> impl Iterator<Item = ValueId> {
        let (start, bound) = match self {
            Rows::Below { start, bound, .. } => (Some(start), Some(bound)),
            _ => (None, None),
        };
        let start = start.and_then(|s| if let Start::Value(v) = s { Some(*v) } else { None });
        let bound = bound.and_then(|b| if let Bound::Value(v) = b { Some(*v) } else { None });
        start.into_iter().chain(bound)
    }
}

/// Positions of definitions in the text.
struct Order {
    defined: Vec<u32>,
    next: u32,
}

impl Order {
    fn define(&mut self, v: ValueId) {
        self.defined[v.0 as usize] = self.next;
        self.next += 1;
    }

    fn block(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { result, .. } => self.define(*result),
                Stmt::Store { .. } => {}
                Stmt::For(f) => {
                    self.define(f.var);
                    f.carry.iter().for_each(|(v, _)| self.define(*v));
                    self.block(&f.body);
                    f.results.iter().for_each(|v| self.define(*v));
                }
                Stmt::If(f) => {
                    self.block(&f.then.0);
                    self.block(&f.otherwise.0);
                    f.results.iter().for_each(|v| self.define(*v));
                }
            }
        }
    }
}

impl Seen {
    pub fn of(kernel: &Kernel) -> Self {
        let n = kernel.values.len();
        // Grid variables come first.
        let mut order = Order { defined: vec![0; n], next: 1 };
        order.block(&kernel.body);
        let mut seen = Seen { rows: vec![Rows::None; n], defined: order.defined };
        // Each value's rows only grow, twice at most.
        while seen.block(kernel, &kernel.body) {}
        seen
    }

    /// Notes that rows of a value are seen; whether that is new.
    fn see(&mut self, v: ValueId, rows: &Rows) -> bool {
        let known = &mut self.rows[v.0 as usize];
        let all = known.with(rows);
        let new = *known != all;
        *known = all;
        new
    }

    fn block(&mut self, kernel: &Kernel, stmts: &[Stmt]) -> bool {
        let mut new = false;
        for stmt in stmts.iter().rev() {
            new |= match stmt {
                Stmt::Let { result, op } => self.operation(kernel, *result, op),
                Stmt::Store { value, access } => {
                    let rows = stored_rows(kernel, access);
                    let mut new = self.see(*value, &rows);
                    access.visit_operands(&mut |v| new |= self.see(v, &Rows::All));
                    new
                }
                Stmt::For(f) => {
                    let mut new = false;
                    let first = self.defined[f.var.0 as usize];
                    for (i, (inside, init)) in f.carry.iter().enumerate() {
                        let after = self.rows[f.results[i].0 as usize].clone();
                        let mut next = self.rows[inside.0 as usize].clone();
                        // What a limit meant in one iteration it does not mean in another.
                        let end = self.defined[f.results[i].0 as usize];
                        let own = |v: ValueId| (first..end).contains(&self.defined[v.0 as usize]);
                        if next.values().any(own) {
                            next = Rows::All;
                        }
                        let rows = after.with(&next);
                        new |= self.see(f.yields[i], &rows) | self.see(*init, &rows);
                    }
                    operands(stmt, &mut |v| {
                        if !f.carry.iter().any(|(_, init)| *init == v) {
                            new |= self.see(v, &Rows::All);
                        }
                    });
                    new | self.block(kernel, &f.body)
                }
                Stmt::If(f) => {
                    let mut new = self.see(f.cond, &Rows::All);
                    for (body, yields) in [&f.then, &f.otherwise] {
                        for (result, value) in f.results.iter().zip(yields) {
                            let rows = self.rows[result.0 as usize].clone();
                            new |= self.see(*value, &rows);
                        }
                        new |= self.block(kernel, body);
                    }
                    new
                }
            };
        }
        new
    }

    /// What an operation's operands must have for what is seen of its result.
    fn operation(&mut self, kernel: &Kernel, result: ValueId, op: &Op) -> bool {
        let rows = self.rows[result.0 as usize].clone();
        match op {
            Op::Split { arg, axis: 0, extents } => {
                // Split into nothing, the axis is gone, and the rows are another's.
                let rows = extents
                    .split_first()
                    .map_or(Rows::All, |(_, inner)| rows.split(inner.iter().product()));
                return self.see(*arg, &rows);
            }
            Op::Merge { arg, axis: 0, count } => {
                let inner = kernel.ty(*arg).shape[1..*count as usize].iter().product();
                return self.see(*arg, &rows.merged(inner));
            }
            _ => {}
        }
        let rank = |v: &ValueId| kernel.ty(*v).shape.len();
        // Operands whose rows are the result's.
        let alike: Vec<ValueId> = match op {
            Op::Map { args, .. } => args.clone(),
            Op::Where { cond, a, b } => vec![*cond, *a, *b],
            Op::Cast(a) => vec![*a],
            Op::Reduce { axis, arg, .. } | Op::Scan { axis, arg, .. } if *axis > 0 => vec![*arg],
            Op::Broadcast { arg, axis }
            | Op::Split { arg, axis, .. }
            | Op::Merge { arg, axis, .. }
                if *axis > 0 =>
            {
                vec![*arg]
            }
            Op::Concat { args, axis } if *axis > 0 => args.clone(),
            Op::Mma { acc, a, .. } => vec![*acc, *a],
            _ => vec![],
        };
        let mut new = false;
        op.visit_operands(&mut |v| {
            let same = alike.contains(&v) && rank(&v) > 0;
            new |= self.see(v, if same { &rows } else { &Rows::All });
        });
        // An operand of a product on both sides is all seen.
        if let Op::Mma { b, .. } = op {
            new |= self.see(*b, &Rows::All);
        }
        new
    }
}

/// Rows of a stored tile that reach memory.
fn stored_rows(kernel: &Kernel, access: &Access) -> Rows {
    let is_tile =
        |start: &Start| matches!(start, Start::Value(v) if kernel.ty(*v).shape.len() == 1);
    let first = access.coords.iter().find(|c| c.extent.is_some() || is_tile(&c.start));
    match first {
        Some(c) if !is_tile(&c.start) => match &c.bound {
            Some(bound) => {
                let (start, bound) = (c.start.clone(), bound.clone());
                Rows::Below { start, bound, each: 1 }
            }
            None => Rows::All,
        },
        _ => Rows::All,
    }
}

impl Expander<'_> {
    /// How many rows of a value are seen (I64, perhaps negative or beyond the tile), if that is
    /// known here and not simply all.
    pub fn seen_rows(&mut self, v: ValueId) -> Result<Option<Reg>> {
        let rows = self.seen.rows[v.0 as usize].clone();
        let Rows::Below { start, bound, each } = &rows else { return Ok(None) };
        if rows.values().any(|v| self.env[v.0 as usize].is_none()) {
            return Ok(None);
        }
        let start = match start {
            Start::Const(c) => self.em.int(*c),
            Start::Value(v) => {
                let start = self.scalar(*v)?;
                self.em.convert(Convert::I32ToI64, start)
            }
        };
        let bound = self.bound(bound)?;
        let rows = self.em.sub(bound, start);
        Ok(Some(self.em.mul_imm(rows, i64::from(*each))))
    }
}
