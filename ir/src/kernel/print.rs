//! Kernels as text. The grammar is in `ir/README.md`; [`parse`](super::parse) reads it.

use super::{
    Access, Base, Bound, Family, Fold, For, GridAxis, If, Kernel, Op, PackStep, Packing, ParamType,
    Role, Start, Stmt, ValueId,
};
use crate::attr::Attr;
use crate::expr::Named;
use crate::text::{attr_text, bounds_text, number_text};
use std::fmt::{self, Write};

impl Role {
    /// Every role with its name in text.
    pub const ALL: [(Role, &'static str); 4] = [
        (Role::In, "in"),
        (Role::Out, "out"),
        (Role::InOut, "inout"),
        (Role::Prefetch, "prefetch"),
    ];

    /// Name in text.
    pub fn name(self) -> &'static str {
        Role::ALL.iter().find(|(r, _)| *r == self).expect("every role is listed").1
    }

    /// Whether a kernel writes what it is passed in this role.
    pub fn is_written(self) -> bool {
        matches!(self, Role::Out | Role::InOut)
    }
}

impl Fold {
    /// Every fold with its name in text.
    pub const ALL: [(Fold, &'static str); 3] =
        [(Fold::Add, "add"), (Fold::Max, "max"), (Fold::Min, "min")];

    /// Name in text.
    pub fn name(self) -> &'static str {
        Fold::ALL.iter().find(|(f, _)| *f == self).expect("every fold is listed").1
    }
}

impl fmt::Display for PackStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackStep::Outer { axis, divisor } => write!(f, "{axis}/{divisor}"),
            PackStep::Inner { axis, stride: 1, extent } => write!(f, "{axis}:{extent}"),
            PackStep::Inner { axis, stride, extent } => write!(f, "{axis}/{stride}:{extent}"),
            PackStep::Scales(steps) => write!(f, "{{{}}}", commas(steps, PackStep::to_string)),
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", commas(&self.0, PackStep::to_string))
    }
}

impl fmt::Display for ParamType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParamType::Tensor { encoding, dims, packing } => {
                write!(f, "{encoding}[{}]", commas(dims, ToString::to_string))?;
                packing.iter().try_for_each(|p| write!(f, " packed {p}"))
            }
            ParamType::List { fields, max } => write!(f, "list({}) max {max}", fields.join(", ")),
        }
    }
}

impl fmt::Display for Family {
    /// `family{key = value, ..}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.params.is_empty() {
            return Ok(());
        }
        let one = |(key, value): &_| format!("{key} = {}", family_value(value));
        write!(f, "{{{}}}", commas(&self.params, one))
    }
}

impl fmt::Display for Kernel {
    /// Canonical text, ending in a line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut printer = Printer { kernel: self, out: String::new(), depth: 0 };
        printer.kernel();
        f.write_str(&printer.out)
    }
}

/// A value of a family's parameters. Without a schema a lone symbol must be told from a word, so
/// dims stand in parentheses unless they are numbers, and real numbers have a full stop or an `e`.
pub(super) fn family_value(attr: &Attr) -> String {
    match attr {
        Attr::Dim(d) if d.as_constant().is_none() => format!("({d})"),
        Attr::Float(v) if v.is_finite() && *v != f64::from(f32::MIN) => format!("{v:?}"),
        other => attr_text(other, &|i| format!("%{i}")),
    }
}

fn commas<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

struct Printer<'a> {
    kernel: &'a Kernel,
    out: String,
    depth: usize,
}

impl Printer<'_> {
    fn line(&mut self, text: &str) {
        for _ in 0..self.depth {
            self.out.push_str("  ");
        }
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn kernel(&mut self) {
        let k = self.kernel;
        let invariant = if k.batch_invariant { " batch_invariant" } else { "" };
        self.line(&format!("kernel @{} {}{invariant} (", k.name, k.family));
        self.depth = 1;
        for (i, p) in k.params.iter().enumerate() {
            let comma = if i + 1 < k.params.len() { "," } else { "" };
            self.line(&format!("%{}: {} {}{comma}", p.name, p.role.name(), p.ty));
        }
        self.depth = 0;
        let bounds = match k.symbols.is_empty() {
            true => String::new(),
            false => format!(" where {}", bounds_text(&k.symbols)),
        };
        self.line(&format!("){bounds} {{"));
        self.depth = 1;
        let axes = commas(&k.grid.axes, |a| self.axis(a));
        let space = if axes.is_empty() { "" } else { " " };
        self.line(&format!("grid{space}{axes} {{"));
        self.block(&k.body, &[]);
        self.line("}");
        self.depth = 0;
        self.line("}");
    }

    fn axis(&self, axis: &GridAxis) -> String {
        match axis {
            GridAxis::Range { var, extent, step } => {
                format!("{} in 0..{extent} step {step}", self.v(*var))
            }
            GridAxis::List { vars, list } => {
                format!("({}) in %{}", self.vs(vars), self.kernel.param(*list).name)
            }
        }
    }

    fn v(&self, id: ValueId) -> String {
        format!("%{}", self.kernel.value(id).name)
    }

    fn vs(&self, ids: &[ValueId]) -> String {
        commas(ids, |v| self.v(*v))
    }

    fn bound(&self, bound: &Bound) -> String {
        match bound {
            Bound::Dim(d) => d.to_string(),
            Bound::Value(v) => self.v(*v),
        }
    }

    fn access(&self, access: &Access) -> String {
        let base = match access.base {
            Base::Param(p) => format!("%{}", self.kernel.param(p).name),
            Base::Scratch(v) => self.v(v),
        };
        let coords = commas(&access.coords, |c| {
            let (start, gather) = match c.start {
                Start::Const(v) => (v.to_string(), false),
                Start::Value(v) => (self.v(v), !self.kernel.ty(v).shape.is_empty()),
            };
            let extent = c.extent.filter(|_| !gather);
            let extent = extent.map(|e| format!("+{e}")).unwrap_or_default();
            let bound = c.bound.as_ref().map(|b| format!(" where <{}", self.bound(b)));
            format!("{start}{extent}{}", bound.unwrap_or_default())
        });
        format!("{base}[{coords}]")
    }

    fn block(&mut self, body: &[Stmt], yields: &[ValueId]) {
        self.depth += 1;
        for stmt in body {
            match stmt {
                Stmt::Let { result, op } => {
                    let ty = self.kernel.ty(*result);
                    let text = format!("{} = {} : {ty}", self.v(*result), self.op(op));
                    self.line(&text);
                }
                Stmt::Store { value, access } => {
                    let text = format!("store {}, {}", self.v(*value), self.access(access));
                    self.line(&text);
                }
                Stmt::For(f) => self.for_loop(f),
                Stmt::If(i) => self.choice(i),
            }
        }
        if !yields.is_empty() {
            let text = format!("yield {}", self.vs(yields));
            self.line(&text);
        }
        self.depth -= 1;
    }

    fn results(&self, results: &[ValueId]) -> String {
        if results.is_empty() { String::new() } else { format!("{} = ", self.vs(results)) }
    }

    fn for_loop(&mut self, f: &For) {
        let (lo, hi) = (self.bound(&f.lo), self.bound(&f.hi));
        let mut head = self.results(&f.results);
        let _ = write!(head, "for {} in {lo}..{hi} step {}", self.v(f.var), f.step);
        if !f.carry.is_empty() {
            let one = |(v, init): &_| format!("{} = {}", self.v(*v), self.v(*init));
            let _ = write!(head, " carry {}", commas(&f.carry, one));
        }
        for (name, hint) in [("stages", f.hints.stages), ("fan", f.hints.fan)] {
            if hint > 0 {
                let _ = write!(head, " {name}={hint}");
            }
        }
        if let Some(p) = f.hints.then {
            let _ = write!(head, " then %{}", self.kernel.param(p).name);
        }
        self.line(&format!("{head} {{"));
        self.block(&f.body, &f.yields);
        self.line("}");
    }

    fn choice(&mut self, i: &If) {
        let head = format!("{}if {} {{", self.results(&i.results), self.v(i.cond));
        self.line(&head);
        self.block(&i.then.0, &i.then.1);
        self.line("} else {");
        self.block(&i.otherwise.0, &i.otherwise.1);
        self.line("}");
    }

    /// An operation without its result's type.
    fn op(&self, op: &Op) -> String {
        let v = |id: &ValueId| self.v(*id);
        let name = op.name();
        match op {
            Op::Splat(number) => format!("{name} {}", number_text(*number)),
            Op::Iota { axis } => format!("{name} {axis}"),
            Op::Map { args, expr } => {
                format!("{name} {{ {} }}", Named(expr, |i| v(&args[i])))
            }
            Op::Dim(d) => format!("{name} {d}"),
            Op::Cast(a) | Op::Encode(a) | Op::Decode(a) => format!("{name} {}", v(a)),
            Op::Reduce { fold, axis, arg } | Op::Scan { fold, axis, arg } => {
                format!("{name} {} {} over {axis}", fold.name(), v(arg))
            }
            Op::Where { cond: a, a: b, b: c } | Op::Mma { acc: a, a: b, b: c } => {
                format!("{name} {}, {}, {}", v(a), v(b), v(c))
            }
            Op::Transpose { arg, order } => {
                format!("{name} {} [{}]", v(arg), commas(order, u32::to_string))
            }
            Op::Split { arg, axis, extents } => {
                format!("{name} {} over {axis} [{}]", v(arg), commas(extents, u32::to_string))
            }
            Op::Merge { arg, axis, count } => format!("{name} {} over {axis}+{count}", v(arg)),
            Op::Slice { arg, starts } => {
                format!("{name} {} [{}]", v(arg), commas(starts, u32::to_string))
            }
            Op::Concat { args, axis } => format!("{name} {} over {axis}", self.vs(args)),
            Op::Broadcast { arg, axis } => format!("{name} {} over {axis}", v(arg)),
            Op::TopK { arg, mask, k } => {
                let mask = mask.map(|m| format!(" where {}", v(&m))).unwrap_or_default();
                format!("{name} {k} {}{mask}", v(arg))
            }
            Op::Pick { arg, index } | Op::Place { arg, index } => {
                format!("{name} {}, {}", v(arg), v(index))
            }
            Op::Lookup { arg, table } => {
                format!("{name} {} [{}]", v(arg), commas(table, |n| number_text(*n)))
            }
            Op::Alloc => name.to_string(),
            Op::Load { access, keep } => {
                format!("{name} {}{}", self.access(access), if *keep { " keep" } else { "" })
            }
        }
    }
}
