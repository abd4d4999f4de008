//! Every check of a kernel, all errors at once.
//!
//! - names: the kernel's is a C identifier; parameters and values have names of the text form,
//!   each once
//! - symbols: of steps, with bounds; dims speak of no others
//! - parameters: packings fit, lists have fields
//! - grid: steps are positive, at most one list, as many variables as fields
//! - statements: values are defined once, before their use and in a block around it; result types
//!   are those that follow from the operands; scratch is only loaded and stored; roles are kept;
//!   carried and yielded values keep their types; loops take positive steps

use super::error::KernelError;
use super::infer::Types;
use super::{
    Access, Base, Bound, For, GridAxis, If, Kernel, Op, Param, ParamId, ParamType, Role, Start,
    Stmt, TileType, ValueId, parse,
};
use crate::dim::{Dim, Name, Sort};
use crate::dtype::{Class, DType, Encoding};
use crate::error::IrError;
use crate::expr::ExprError;
use crate::text::{MAX_DEPTH, TokenKind, tokens};
use std::collections::HashSet;

/// Where in a kernel an error is; statements are counted in the order of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Head,
    Param(usize),
    Stmt(usize),
}

/// Checks a kernel.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<IrError>> {
    let errors = check(kernel);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.into_iter().map(|(_, e)| e.into()).collect())
    }
}

pub(super) fn check(kernel: &Kernel) -> Vec<(Place, KernelError)> {
    let mut v = Verifier {
        kernel,
        errors: Vec::new(),
        place: Place::Head,
        statements: 0,
        defined: vec![false; kernel.values.len()],
        visible: vec![false; kernel.values.len()],
        scratch: HashSet::new(),
    };
    v.head();
    v.params();
    v.place = Place::Head;
    let outer = v.grid();
    v.block(&kernel.body, 0);
    v.leave(&outer);
    v.place = Place::Head;
    for (i, value) in kernel.values.iter().enumerate() {
        if !v.defined[i] {
            v.error(KernelError::Unknown { name: value.name.to_string() });
        }
    }
    v.errors
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    errors: Vec<(Place, KernelError)>,
    place: Place,
    statements: usize,
    defined: Vec<bool>,
    visible: Vec<bool>,
    scratch: HashSet<ValueId>,
}

fn is_c_identifier(name: &str) -> bool {
    let word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

fn is_token(prefix: &str, name: &str, kind: TokenKind) -> bool {
    let text = format!("{prefix}{name}");
    matches!(tokens(&text)[..], [t, _] if t.kind == kind && t.text == name)
}

impl<'a> Verifier<'a> {
    fn error(&mut self, error: KernelError) {
        self.errors.push((self.place, error));
    }

    fn require(&mut self, holds: bool, error: impl FnOnce() -> KernelError) {
        if !holds {
            self.error(error());
        }
    }

    fn types(&self) -> Types<'a> {
        Types { params: &self.kernel.params, values: &self.kernel.values }
    }

    fn head(&mut self) {
        let k = self.kernel;
        self.require(is_c_identifier(&k.name), || KernelError::Name { name: k.name.clone() });
        let words = k.family.params.iter().map(|p| &p.0);
        for name in words.chain([&k.family.name]).chain(k.symbols.keys()) {
            let ok = is_token("", name, TokenKind::Word);
            self.require(ok, || KernelError::Name { name: name.clone() });
        }
        for (name, value) in &k.family.params {
            let ok = parse::is_family_value(value);
            self.require(ok, || KernelError::Family { name: name.clone() });
        }
        for (name, s) in &k.symbols {
            let ok = s.sort == Sort::Step && s.value.is_none() && s.lo <= s.hi;
            self.require(ok, || KernelError::Symbol { name: name.clone() });
        }
        let mut names = HashSet::new();
        for name in k.params.iter().map(|p| &p.name).chain(k.values.iter().map(|v| &v.name)) {
            let ok = is_token("%", name, TokenKind::Value);
            self.require(ok, || KernelError::Name { name: name.clone() });
            let new = names.insert(name.clone());
            self.require(new, || KernelError::Redefined { name: name.clone() });
        }
    }

    fn dim(&mut self, dim: &Dim) {
        let mut unknown = Vec::new();
        dim.visit_symbols(&mut |name| {
            if !self.kernel.symbols.contains_key(name) {
                unknown.push(name.clone());
            }
        });
        unknown.into_iter().for_each(|name| self.error(KernelError::Symbol { name }));
    }

    fn params(&mut self) {
        for (i, param) in self.kernel.params.iter().enumerate() {
            self.place = Place::Param(i);
            match &param.ty {
                ParamType::Tensor { encoding, dims, packing } => {
                    dims.iter().for_each(|d| self.extent(d));
                    self.encoding(*encoding, dims.len());
                    if let Some(p) = packing
                        && let Err(e) = p.check(dims.len(), *encoding)
                    {
                        self.error(e.into());
                    }
                }
                ParamType::List { fields, max } => {
                    self.extent(max);
                    self.list(fields);
                }
            }
        }
    }

    fn extent(&mut self, dim: &Dim) {
        self.dim(dim);
        if let Some(found) = dim.as_constant().filter(|c| !(0..=i64::from(i32::MAX)).contains(c)) {
            self.error(KernelError::Extent { what: "extent", found: found.unsigned_abs() });
        }
    }

    fn encoding(&mut self, encoding: Encoding, rank: usize) {
        let Some(s) = encoding.scale else { return };
        let scale_ok = s.dtype.class() == Class::Float && s.dtype.bits() >= 8;
        let blocks_ok = s.rows > 0 && s.cols > 0 && rank > usize::from(s.rows > 1);
        let code_ok = encoding.code.class() != Class::Bool;
        let sum_ok = !s.sum || encoding.code.class() == Class::Int;
        let expected = "scales of a real type, in blocks within the last two axes";
        let ok = scale_ok && blocks_ok && code_ok && sum_ok;
        self.require(ok, || KernelError::Encoding { op: "parameter", found: encoding, expected });
    }

    fn list(&mut self, fields: &[Name]) {
        let what = "distinct fields of a list";
        let distinct: HashSet<_> = fields.iter().collect();
        let (found, expected) = (distinct.len(), fields.len().max(1));
        self.require(found == expected, || KernelError::Count { what, found, expected });
        for name in fields {
            let ok = is_token("", name, TokenKind::Word);
            self.require(ok, || KernelError::Name { name: name.clone() });
        }
    }

    /// Returns the variables.
    fn grid(&mut self) -> Vec<ValueId> {
        let mut vars = Vec::new();
        let mut lists = 0;
        for axis in &self.kernel.grid.axes {
            match axis {
                GridAxis::Range { var, extent, step } => {
                    self.dim(extent);
                    self.step(*step);
                    vars.push(*var);
                }
                GridAxis::List { vars: of, list } => {
                    lists += 1;
                    self.list_axis(of.len(), *list);
                    vars.extend(of);
                }
            }
        }
        let what = "lists in a grid";
        self.require(lists <= 1, || KernelError::Count { what, found: lists, expected: 1 });
        for var in &vars {
            self.define(*var, &TileType::scalar(DType::I32));
        }
        vars
    }

    fn list_axis(&mut self, found: usize, list: ParamId) {
        let Some(param) = self.kernel.params.get(list.0 as usize) else {
            return self.error(KernelError::Unknown { name: format!("parameter {}", list.0) });
        };
        let ParamType::List { fields, .. } = &param.ty else {
            let (what, found) = ("lists at a grid axis", 0);
            return self.error(KernelError::Count { what, found, expected: 1 });
        };
        let (what, expected) = ("variables of a list", fields.len());
        self.require(found == expected, || KernelError::Count { what, found, expected });
        self.role(param, param.role == Role::In, "a grid axis");
    }

    fn step(&mut self, step: u32) {
        let ok = step > 0 && step <= i32::MAX as u32;
        self.require(ok, || KernelError::Extent { what: "step", found: step.into() });
    }

    fn role(&mut self, param: &Param, allowed: bool, used: &'static str) {
        let (name, role) = (param.name.clone(), param.role.name());
        self.require(allowed, || KernelError::Role { param: name, role, used });
    }

    fn define(&mut self, id: ValueId, ty: &TileType) {
        let Some(value) = self.kernel.values.get(id.0 as usize) else {
            return self.error(KernelError::Unknown { name: format!("number {}", id.0) });
        };
        if value.ty != *ty {
            let (found, expected) = (value.ty.clone(), ty.clone());
            self.error(KernelError::Declared { found, expected });
        }
        self.mark(id);
    }

    fn mark(&mut self, id: ValueId) {
        let at = id.0 as usize;
        if self.defined.get(at).copied().unwrap_or(false) {
            self.error(KernelError::Redefined { name: self.kernel.values[at].name.clone() });
        }
        if at < self.defined.len() {
            self.defined[at] = true;
            self.visible[at] = true;
        }
    }

    fn leave(&mut self, defined: &[ValueId]) {
        for id in defined {
            if let Some(v) = self.visible.get_mut(id.0 as usize) {
                *v = false;
            }
        }
    }

    /// Whether a value may be used here as a tile (or, if `scratch`, as scratch).
    fn sees(&mut self, id: ValueId, scratch: bool) -> bool {
        let at = id.0 as usize;
        if !self.visible.get(at).copied().unwrap_or(false) {
            let number = || format!("number {}", id.0);
            let name = self.kernel.values.get(at).map_or_else(number, |v| v.name.to_string());
            self.error(KernelError::Unknown { name });
            return false;
        }
        let is_scratch = self.scratch.contains(&id);
        let name = self.kernel.value(id).name.clone();
        self.require(is_scratch == scratch, || KernelError::Scratch { name });
        is_scratch == scratch
    }

    fn scalar(&mut self, id: ValueId, dtype: DType, op: &'static str) {
        if !self.sees(id, false) {
            return;
        }
        let ty = self.kernel.ty(id);
        let (found, rank) = (ty.encoding, ty.shape.len());
        self.require(rank == 0, || KernelError::Rank { op, found: rank, expected: 0 });
        let ok = found == dtype.into();
        self.require(ok, || KernelError::Encoding { op, found, expected: dtype.name() });
    }

    fn bound(&mut self, bound: &Bound, op: &'static str) {
        match bound {
            Bound::Dim(d) => self.dim(d),
            Bound::Value(v) => self.scalar(*v, DType::I32, op),
        }
    }

    /// Checks a block; what it defines is out of sight after it.
    fn block(&mut self, body: &[Stmt], depth: usize) -> Vec<ValueId> {
        let mut defined = Vec::new();
        if depth > MAX_DEPTH {
            self.error(KernelError::Depth { limit: MAX_DEPTH });
            return defined;
        }
        for stmt in body {
            self.place = Place::Stmt(self.statements);
            self.statements += 1;
            match stmt {
                Stmt::Let { result, op } => {
                    self.op(*result, op);
                    defined.push(*result);
                }
                Stmt::Store { value, access } => self.store(*value, access),
                Stmt::For(f) => {
                    self.for_loop(f, depth);
                    defined.extend(&f.results);
                }
                Stmt::If(i) => {
                    self.choice(i, depth);
                    defined.extend(&i.results);
                }
            }
        }
        defined
    }

    fn op(&mut self, result: ValueId, op: &Op) {
        let mut operands = Vec::new();
        match op {
            Op::Load { access, .. } => self.access(access, false),
            _ => op.visit_operands(&mut |v| operands.push(v)),
        }
        let mut seen = true;
        for v in operands {
            seen &= self.sees(v, false);
        }
        self.constants(result, op);
        let declared = self.kernel.values.get(result.0 as usize).map(|v| &v.ty);
        match self.types().infer(op, declared) {
            Ok(ty) => self.define(result, &ty),
            Err(e) => {
                // An operand out of sight is reported; what follows from it is not.
                if seen {
                    self.error(e);
                }
                self.mark(result);
            }
        }
        if matches!(op, Op::Alloc) {
            self.scratch.insert(result);
        }
    }

    /// What an operation carries beside operands.
    fn constants(&mut self, result: ValueId, op: &Op) {
        match op {
            Op::Dim(d) => self.dim(d),
            Op::Map { args, expr } => {
                let mut next = 0;
                let mut ordered = true;
                expr.renumber(&mut |i| {
                    ordered &= i <= next;
                    next = next.max(i + 1);
                    i
                });
                let distinct: HashSet<_> = args.iter().collect();
                let ok = ordered && next == args.len() && distinct.len() == args.len();
                let what = "operands of map, distinct and in order of first use";
                let (found, expected) = (args.len(), distinct.len().min(next));
                self.require(ok || next > args.len(), || KernelError::Count {
                    what,
                    found,
                    expected,
                });
            }
            Op::Splat(number) => {
                let code = self.kernel.values.get(result.0 as usize).map(|v| v.ty.encoding.code);
                let range = match code {
                    Some(DType::I32) => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
                    Some(DType::I8) => Some((-128.0, 127.0)),
                    Some(DType::U8) => Some((0.0, 255.0)),
                    Some(DType::I4) => Some((-8.0, 7.0)),
                    Some(DType::Bool) => Some((0.0, 1.0)),
                    _ => None,
                };
                let integral = |(lo, hi)| number.fract() == 0.0 && *number >= lo && *number <= hi;
                let ok = !number.is_nan() && range.is_none_or(integral);
                self.require(ok, || KernelError::Expr(ExprError::NotAnInteger));
            }
            _ => {}
        }
    }

    fn access(&mut self, access: &Access, write: bool) {
        match access.base {
            Base::Scratch(v) => {
                self.sees(v, true);
            }
            Base::Param(p) => {
                if let Some(param) = self.kernel.params.get(p.0 as usize) {
                    let (allowed, used) = match write {
                        true => (matches!(param.role, Role::Out | Role::InOut), "stored to"),
                        false => (matches!(param.role, Role::In | Role::InOut), "loaded"),
                    };
                    self.role(param, allowed, used);
                }
            }
        }
        for coord in &access.coords {
            if let Start::Value(v) = coord.start {
                self.sees(v, false);
            }
            if let Some(b) = &coord.bound {
                self.bound(b, "bound of an access");
            }
        }
    }

    fn store(&mut self, value: ValueId, access: &Access) {
        self.access(access, true);
        if self.sees(value, false)
            && let Err(e) = self.types().check_store(value, access)
        {
            self.error(e);
        }
    }

    fn for_loop(&mut self, f: &For, depth: usize) {
        self.step(f.step);
        self.bound(&f.lo, "first value of a loop");
        self.bound(&f.hi, "end of a loop");
        if let Some(p) = f.hints.then {
            match self.kernel.params.get(p.0 as usize) {
                Some(param) => self.role(param, param.role == Role::Prefetch, "prefetched"),
                None => self.error(KernelError::Unknown { name: format!("parameter {}", p.0) }),
            }
        }
        let here = self.place;
        self.define(f.var, &TileType::scalar(DType::I32));
        let mut inside = vec![f.var];
        let mut begins = Vec::new();
        for (v, init) in &f.carry {
            let ty =
                if self.sees(*init, false) { Some(self.kernel.ty(*init).clone()) } else { None };
            match &ty {
                Some(ty) => self.define(*v, ty),
                None => self.mark(*v),
            }
            begins.push(ty);
            inside.push(*v);
        }
        inside.extend(self.block(&f.body, depth + 1));
        self.place = here;
        self.yields(&f.yields, &begins);
        self.leave(&inside);
        self.results(&f.results, &begins);
    }

    fn choice(&mut self, i: &If, depth: usize) {
        self.scalar(i.cond, DType::Bool, "condition");
        let here = self.place;
        let inside = self.block(&i.then.0, depth + 1);
        self.place = here;
        let begins: Vec<_> = (i.then.1.iter())
            .map(|v| if self.sees(*v, false) { Some(self.kernel.ty(*v).clone()) } else { None })
            .collect();
        self.leave(&inside);
        let inside = self.block(&i.otherwise.0, depth + 1);
        self.place = here;
        self.yields(&i.otherwise.1, &begins);
        self.leave(&inside);
        self.results(&i.results, &begins);
    }

    fn yields(&mut self, yields: &[ValueId], begins: &[Option<TileType>]) {
        let (found, expected) = (yields.len(), begins.len());
        let what = "yielded values";
        self.require(found == expected, || KernelError::Count { what, found, expected });
        for (index, (v, ty)) in yields.iter().zip(begins).enumerate() {
            if !self.sees(*v, false) {
                continue;
            }
            let found = self.kernel.ty(*v);
            if let Some(expected) = ty.as_ref().filter(|t| *t != found) {
                let (found, expected) = (found.clone(), expected.clone());
                self.error(KernelError::Yield { index, found, expected });
            }
        }
    }

    fn results(&mut self, results: &[ValueId], types: &[Option<TileType>]) {
        let (what, found, expected) = ("results", results.len(), types.len());
        self.require(found == expected, || KernelError::Count { what, found, expected });
        for (i, id) in results.iter().enumerate() {
            match types.get(i).and_then(Option::as_ref) {
                Some(ty) => self.define(*id, ty),
                None => self.mark(*id),
            }
        }
    }
}
