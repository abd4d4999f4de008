//! What a kernel's values are used for, known before it is expanded.

use super::access::gcd;
use crate::expr::{Binary, Expr, Unary};
use crate::kernel::{Access, Base, Bound, Coord, GridAxis, Kernel, Op, Start, Stmt, ValueId};

/// Uses of every value.
pub(super) struct Uses {
    /// How often it is read.
    count: Vec<u32>,
    /// Whether it is read in a loop that it is not defined in.
    deep: Vec<bool>,
    /// The loop it is defined in.
    home: Vec<u32>,
    loops: u32,
}

impl Uses {
    pub fn of(kernel: &Kernel) -> Self {
        let n = kernel.values.len();
        let mut uses = Uses { count: vec![0; n], deep: vec![false; n], home: vec![0; n], loops: 0 };
        uses.block(&kernel.body, 0);
        uses
    }

    /// How often the value is read in the text.
    pub fn count(&self, v: ValueId) -> u32 {
        self.count[v.0 as usize]
    }

    /// Whether it is read at most once each time it is computed.
    pub fn once(&self, v: ValueId) -> bool {
        self.count(v) <= 1 && !self.deep[v.0 as usize]
    }

    fn read(&mut self, v: ValueId, at: u32) {
        let i = v.0 as usize;
        self.count[i] += 1;
        self.deep[i] |= self.home[i] != at;
    }

    fn define(&mut self, v: ValueId, at: u32) {
        self.home[v.0 as usize] = at;
    }

    fn block(&mut self, stmts: &[Stmt], at: u32) {
        for stmt in stmts {
            let mut read = vec![];
            operands(stmt, &mut |v| read.push(v));
            read.into_iter().for_each(|v| self.read(v, at));
            match stmt {
                Stmt::Let { result, .. } => self.define(*result, at),
                Stmt::Store { .. } => {}
                Stmt::For(f) => {
                    self.loops += 1;
                    let inside = self.loops;
                    self.define(f.var, inside);
                    f.carry.iter().for_each(|(v, _)| self.define(*v, inside));
                    self.block(&f.body, inside);
                    f.yields.iter().for_each(|v| self.read(*v, inside));
                    f.results.iter().for_each(|v| self.define(*v, at));
                }
                Stmt::If(f) => {
                    for (body, yields) in [&f.then, &f.otherwise] {
                        self.block(body, at);
                        yields.iter().for_each(|v| self.read(*v, at));
                    }
                    f.results.iter().for_each(|v| self.define(*v, at));
                }
            }
        }
    }
}

/// Calls `visit` with what a statement itself reads (not the blocks in it).
pub(super) fn operands(stmt: &Stmt, visit: &mut dyn FnMut(ValueId)) {
    match stmt {
        Stmt::Let { op, .. } => op.visit_operands(visit),
        Stmt::Store { value, access } => {
            visit(*value);
            accessed(access, visit);
        }
        Stmt::For(f) => {
            for bound in [&f.lo, &f.hi] {
                if let Bound::Value(v) = bound {
                    visit(*v);
                }
            }
            f.carry.iter().for_each(|(_, init)| visit(*init));
        }
        Stmt::If(f) => visit(f.cond),
    }
}

fn accessed(access: &Access, visit: &mut dyn FnMut(ValueId)) {
    if let Base::Scratch(v) = access.base {
        visit(v);
    }
    for Coord { start, bound, .. } in &access.coords {
        if let Start::Value(v) = start {
            visit(*v);
        }
        if let Some(Bound::Value(v)) = bound {
            visit(*v);
        }
    }
}

/// Everything that statements may store to.
pub(super) fn stored(stmts: &[Stmt], found: &mut Vec<Base>) {
    for stmt in stmts {
        match stmt {
            Stmt::Let { .. } => {}
            Stmt::Store { access, .. } if found.contains(&access.base) => {}
            Stmt::Store { access, .. } => found.push(access.base),
            Stmt::For(f) => stored(&f.body, found),
            Stmt::If(f) => {
                stored(&f.then.0, found);
                stored(&f.otherwise.0, found);
            }
        }
    }
}

/// The table of every `lookup`.
pub(super) fn tables<'k>(stmts: &'k [Stmt], found: &mut Vec<&'k [f64]>) {
    for stmt in stmts {
        match stmt {
            Stmt::Let { op: Op::Lookup { table, .. }, .. } => {
                if !found.iter().any(|t| same_bits(t, table)) {
                    found.push(table);
                }
            }
            Stmt::Let { .. } | Stmt::Store { .. } => {}
            Stmt::For(f) => tables(&f.body, found),
            Stmt::If(f) => {
                tables(&f.then.0, found);
                tables(&f.otherwise.0, found);
            }
        }
    }
}

/// Equal numbers, NaN included.
pub(super) fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Numbers that scalars are known to be multiples of (0: it is 0).
pub(super) struct Multiples(Vec<i64>);

impl Multiples {
    pub fn of_kernel(kernel: &Kernel) -> Self {
        let mut known = Multiples(vec![1; kernel.values.len()]);
        for axis in &kernel.grid.axes {
            if let GridAxis::Range { var, step, .. } = axis {
                known.0[var.0 as usize] = i64::from(*step);
            }
        }
        known.block(&kernel.body);
        known
    }

    pub fn of(&self, v: ValueId) -> i64 {
        self.0[v.0 as usize]
    }

    fn block(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { result, op: Op::Splat(v) } if v.fract() == 0.0 && v.abs() < 1e9 => {
                    self.0[result.0 as usize] = *v as i64;
                }
                Stmt::Let { result, op: Op::Map { args, expr } } => {
                    let of: Vec<i64> = args.iter().map(|a| self.of(*a)).collect();
                    self.0[result.0 as usize] = multiple(expr, &of);
                }
                Stmt::Let { .. } | Stmt::Store { .. } => {}
                Stmt::For(f) => {
                    let lo = match &f.lo {
                        Bound::Dim(d) => d.as_constant().unwrap_or(1),
                        Bound::Value(v) => self.of(*v),
                    };
                    self.0[f.var.0 as usize] = gcd(lo, f.step.into());
                    self.block(&f.body);
                }
                Stmt::If(f) => {
                    self.block(&f.then.0);
                    self.block(&f.otherwise.0);
                }
            }
        }
    }
}

fn multiple(expr: &Expr, args: &[i64]) -> i64 {
    match expr {
        Expr::Arg(i) => args[*i],
        Expr::Num(v) if v.fract() == 0.0 && v.abs() < 1e9 => *v as i64,
        Expr::Unary(Unary::Neg | Unary::Abs, a) => multiple(a, args),
        Expr::Binary(Binary::Add | Binary::Sub | Binary::Min | Binary::Max, a, b) => {
            gcd(multiple(a, args), multiple(b, args))
        }
        Expr::Binary(Binary::Mul, a, b) => {
            multiple(a, args).checked_mul(multiple(b, args)).unwrap_or(1)
        }
        Expr::Select(x) => gcd(multiple(&x[1], args), multiple(&x[2], args)),
        _ => 1,
    }
}
