//! How generators write kernels.
//!
//! Each method of an operation appends it to the current block and returns its value; the type of
//! the result follows from the operands. A mistake is recorded, not thrown: its value stands for
//! an unknown one from then on, and [`KernelBuilder::finish`] returns all mistakes at once.
//!
//! ```
//! use ir::dtype::DType;
//! use ir::kernel::builder::{At, KernelBuilder, tensor};
//! use ir::kernel::{LoopHints, Role, TileType};
//!
//! let mut b = KernelBuilder::new("gemv", "contraction");
//! let n = b.symbol("n", 1, 4);
//! let x = b.param("x", Role::In, tensor(DType::BF16, &[n.clone(), 2048.into()]));
//! let w = b.param("w", Role::In, tensor(DType::BF16, &[1408.into(), 2048.into()]));
//! let y = b.param("y", Role::Out, tensor(DType::F32, &[n.clone(), 1408.into()]));
//! let j = b.grid_range("j", 1408, 16);
//! let zero = b.splat(0.0, TileType::new(DType::F32, &[4, 16]));
//! let sums = b.for_loop(0, 2048, 256, &[("sum", zero)], LoopHints::default(), |b, k, sum| {
//!     let xt = b.load(x, &[At::tile(0, 4).bound(n.clone()), At::tile(k, 256)]);
//!     let wt = b.load(w, &[At::tile(j, 16), At::tile(k, 256)]);
//!     vec![b.mma(sum[0], xt, wt)]
//! });
//! b.store(sums[0], y, &[At::tile(0, 4).bound(n), At::tile(j, 16)]);
//! let kernel = b.finish().expect("a kernel that verifies");
//! assert_eq!(kernel.grid.axes.len(), 1);
//! ```

use super::error::KernelError;
use super::infer::Types;
use super::verify::verify;
use super::{
    Access, Base, Bound, Coord, Family, Fold, For, Grid, GridAxis, If, Kernel, LoopHints, Op,
    Packing, Param, ParamId, ParamType, Role, Start, Stmt, TileType, Value, ValueId,
};
use crate::attr::Attr;
use crate::dim::{Dim, Name, Symbol, Symbols};
use crate::dtype::{DType, Encoding};
use crate::error::IrError;
use crate::expr::Expr;
use crate::text::Parser;
use std::collections::HashSet;

/// A coordinate of an access, as a generator writes it.
pub type At = Coord;

impl Coord {
    /// A single position; the tile does not have this axis. With a tile of positions: the rows
    /// that it names (a gather or scatter), an axis of the tile's extent.
    pub fn one(start: impl Into<Start>) -> Self {
        Coord { start: start.into(), extent: None, bound: None }
    }

    /// `extent` positions from `start`.
    pub fn tile(start: impl Into<Start>, extent: u32) -> Self {
        Coord { start: start.into(), extent: Some(extent), bound: None }
    }

    /// Masks positions at or beyond `bound`.
    pub fn bound(self, bound: impl Into<Bound>) -> Self {
        Coord { bound: Some(bound.into()), ..self }
    }
}

impl From<i64> for Start {
    fn from(v: i64) -> Self {
        Start::Const(v)
    }
}

impl From<ValueId> for Start {
    fn from(v: ValueId) -> Self {
        Start::Value(v)
    }
}

impl From<i64> for Bound {
    fn from(v: i64) -> Self {
        Bound::Dim(v.into())
    }
}

impl From<Dim> for Bound {
    fn from(d: Dim) -> Self {
        Bound::Dim(d)
    }
}

impl From<&Dim> for Bound {
    fn from(d: &Dim) -> Self {
        Bound::Dim(d.clone())
    }
}

impl From<ValueId> for Bound {
    fn from(v: ValueId) -> Self {
        Bound::Value(v)
    }
}

impl From<ParamId> for Base {
    fn from(p: ParamId) -> Self {
        Base::Param(p)
    }
}

impl From<ValueId> for Base {
    fn from(v: ValueId) -> Self {
        Base::Scratch(v)
    }
}

/// A row-major tensor.
pub fn tensor(encoding: impl Into<Encoding>, dims: &[Dim]) -> ParamType {
    ParamType::Tensor { encoding: encoding.into(), dims: dims.to_vec(), packing: None }
}

/// A packed tensor.
pub fn packed(encoding: impl Into<Encoding>, dims: &[Dim], packing: Packing) -> ParamType {
    ParamType::Tensor { encoding: encoding.into(), dims: dims.to_vec(), packing: Some(packing) }
}

/// A work list of at most `max` tuples.
pub fn list(fields: &[&str], max: impl Into<Dim>) -> ParamType {
    ParamType::List { fields: fields.iter().map(|f| (*f).into()).collect(), max: max.into() }
}

/// Makes a kernel.
pub struct KernelBuilder {
    kernel: Kernel,
    names: HashSet<Name>,
    /// Values of unknown type: results of mistakes.
    unknown: HashSet<ValueId>,
    errors: Vec<IrError>,
}

impl KernelBuilder {
    /// A kernel without parameters and statements: `name` is the symbol of its code (a C
    /// identifier), `family` what overrides match.
    pub fn new(name: &str, family: &str) -> Self {
        let kernel = Kernel {
            name: name.into(),
            family: Family { name: family.into(), params: Vec::new() },
            batch_invariant: false,
            symbols: Symbols::new(),
            params: Vec::new(),
            values: Vec::new(),
            grid: Grid::default(),
            body: Vec::new(),
        };
        let (names, unknown) = (HashSet::new(), HashSet::new());
        KernelBuilder { kernel, names, unknown, errors: Vec::new() }
    }

    /// A parameter of the family.
    pub fn family_param(&mut self, key: &str, value: Attr) {
        self.kernel.family.params.push((key.into(), value));
    }

    /// A step symbol with inclusive bounds.
    pub fn symbol(&mut self, name: &str, lo: i64, hi: i64) -> Dim {
        self.kernel.symbols.insert(name.into(), Symbol::step(lo, hi));
        Dim::symbol(name)
    }

    /// The next parameter.
    pub fn param(&mut self, name: &str, role: Role, ty: ParamType) -> ParamId {
        let id = ParamId(self.kernel.params.len() as u32);
        let name: Name = name.into();
        if !self.names.insert(name.clone()) {
            self.mistake(KernelError::Redefined { name: name.clone() });
        }
        self.kernel.params.push(Param { name, role, ty });
        id
    }

    /// The next axis of the grid: `name` in `0..extent step step`.
    pub fn grid_range(&mut self, name: &str, extent: impl Into<Dim>, step: u32) -> ValueId {
        let var = self.define(TileType::scalar(DType::I32), name);
        self.kernel.grid.axes.push(GridAxis::Range { var, extent: extent.into(), step });
        var
    }

    /// The next axis of the grid: the tuples of a list. Returns one variable for each field.
    pub fn grid_list(&mut self, list: ParamId) -> Vec<ValueId> {
        let fields = match self.kernel.params.get(list.0 as usize).map(|p| &p.ty) {
            Some(ParamType::List { fields, .. }) => fields.clone(),
            _ => {
                let what = "lists at the parameter of a grid axis";
                self.mistake(KernelError::Count { what, found: 0, expected: 1 });
                Vec::new()
            }
        };
        let i32 = TileType::scalar(DType::I32);
        let vars: Vec<_> = fields.iter().map(|f| self.define(i32.clone(), f)).collect();
        self.kernel.grid.axes.push(GridAxis::List { vars: vars.clone(), list });
        vars
    }

    /// Gives a value a name in place of its number (made unique by a suffix if it is taken).
    pub fn name(&mut self, value: ValueId, name: &str) -> ValueId {
        let name = self.unique(name);
        if let Some(v) = self.kernel.values.get_mut(value.0 as usize) {
            v.name = name;
        }
        value
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueId) -> &TileType {
        self.kernel.ty(value)
    }

    /// The kernel, verified; or every mistake.
    pub fn finish(self) -> Result<Kernel, Vec<IrError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        verify(&self.kernel).map(|()| self.kernel)
    }

    fn mistake(&mut self, error: KernelError) {
        self.errors.push(error.into());
    }

    fn unique(&mut self, name: &str) -> Name {
        let mut candidate: Name = name.into();
        let mut n = 0;
        while !self.names.insert(candidate.clone()) {
            n += 1;
            candidate = format!("{name}_{n}").into();
        }
        candidate
    }

    fn define(&mut self, ty: TileType, name: &str) -> ValueId {
        let id = ValueId(self.kernel.values.len() as u32);
        let name = if name.is_empty() { self.unique(&id.0.to_string()) } else { self.unique(name) };
        self.kernel.values.push(Value { name, ty });
        id
    }

    fn define_unknown(&mut self) -> ValueId {
        let id = self.define(TileType::scalar(DType::F32), "");
        self.unknown.insert(id);
        id
    }

    fn types(&self) -> Types<'_> {
        Types { params: &self.kernel.params, values: &self.kernel.values }
    }

    fn any_unknown(&self, visit: impl FnOnce(&mut dyn FnMut(ValueId))) -> bool {
        let mut found = false;
        visit(&mut |v| found |= self.unknown.contains(&v));
        found
    }

    /// Appends an operation. `declared` is needed where the result's type does not follow from
    /// the operands.
    pub fn op(&mut self, op: Op, declared: Option<TileType>) -> ValueId {
        if self.any_unknown(|visit| op.visit_operands(visit)) {
            return self.define_unknown();
        }
        match self.types().infer(&op, declared.as_ref()) {
            Ok(ty) => {
                let result = self.define(ty, "");
                self.kernel.body.push(Stmt::Let { result, op });
                result
            }
            Err(e) => {
                self.mistake(e);
                self.define_unknown()
            }
        }
    }

    /// Every element is `number`.
    pub fn splat(&mut self, number: f64, ty: TileType) -> ValueId {
        self.op(Op::Splat(number), Some(ty))
    }

    /// A scalar `i32`.
    pub fn int(&mut self, number: i32) -> ValueId {
        self.splat(number.into(), TileType::scalar(DType::I32))
    }

    /// Positions along an axis of a shape, `i32`.
    pub fn iota(&mut self, axis: u32, shape: &[u32]) -> ValueId {
        self.op(Op::Iota { axis }, Some(TileType::new(DType::I32, shape)))
    }

    /// An expression over elements, from its text: `map("a * exp2(b)", &[("a", x), ("b", y)])`.
    pub fn map(&mut self, text: &str, operands: &[(&str, ValueId)]) -> ValueId {
        let mut parser = Parser::new(text);
        let expr = parser.expr(&mut |t| operands.iter().position(|(name, _)| *name == t.text));
        let rest = match expr {
            Ok(_) if !parser.at_end() => parser.unexpected("the end of the expression"),
            other => other,
        };
        match rest {
            Ok(expr) => self.map_expr(expr, &operands.iter().map(|o| o.1).collect::<Vec<_>>()),
            Err(_) => {
                self.errors.extend(parser.into_errors());
                self.define_unknown()
            }
        }
    }

    /// An expression over elements. Operands that it does not use are left out.
    pub fn map_expr(&mut self, expr: Expr, operands: &[ValueId]) -> ValueId {
        if expr.arity() > operands.len() {
            let (what, expected) = ("operands", expr.arity());
            self.mistake(KernelError::Count { what, found: operands.len(), expected });
            return self.define_unknown();
        }
        let (args, expr) = in_order_of_use(&expr, operands);
        self.op(Op::Map { args, expr }, None)
    }

    /// The value of a host-known size, a scalar `i32`.
    pub fn dim(&mut self, dim: impl Into<Dim>) -> ValueId {
        self.op(Op::Dim(dim.into()), None)
    }

    /// Rounded to a plain element type; the value itself if it is of that type.
    pub fn cast(&mut self, arg: ValueId, to: DType) -> ValueId {
        if self.ty(arg).encoding == to.into() {
            return arg;
        }
        self.op(Op::Cast(arg), Some(TileType::new(to, &[])))
    }

    /// Quantised to a scaled encoding.
    pub fn encode(&mut self, arg: ValueId, to: Encoding) -> ValueId {
        self.op(Op::Encode(arg), Some(TileType { encoding: to, shape: Vec::new() }))
    }

    /// Rounded to a plain element type, or quantised to a scaled encoding; the value itself if it
    /// is stored so.
    pub fn rounded(&mut self, arg: ValueId, to: Encoding) -> ValueId {
        match to.is_plain() {
            true => self.cast(arg, to.code),
            false if self.ty(arg).encoding == to => arg,
            false => {
                let real = self.cast(arg, DType::F32);
                self.encode(real, to)
            }
        }
    }

    /// The values of an encoded tile, as `f32`.
    pub fn decode(&mut self, arg: ValueId) -> ValueId {
        self.op(Op::Decode(arg), None)
    }

    /// Combined along an axis, which the result lacks.
    pub fn reduce(&mut self, fold: Fold, axis: u32, arg: ValueId) -> ValueId {
        self.op(Op::Reduce { fold, axis, arg }, None)
    }

    /// Running combination along an axis, inclusive.
    pub fn scan(&mut self, fold: Fold, axis: u32, arg: ValueId) -> ValueId {
        self.op(Op::Scan { fold, axis, arg }, None)
    }

    /// `a` where `cond`, else `b`.
    pub fn choose(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Where { cond, a, b }, None)
    }

    /// `acc[i, j] + Σ_k a[i, k]·b[j, k]`
    pub fn mma(&mut self, acc: ValueId, a: ValueId, b: ValueId) -> ValueId {
        self.op(Op::Mma { acc, a, b }, None)
    }

    /// Axes permuted.
    pub fn transpose(&mut self, arg: ValueId, order: &[u32]) -> ValueId {
        self.op(Op::Transpose { arg, order: order.to_vec() }, None)
    }

    /// One axis made into several, row-major.
    pub fn split(&mut self, arg: ValueId, axis: u32, extents: &[u32]) -> ValueId {
        self.op(Op::Split { arg, axis, extents: extents.to_vec() }, None)
    }

    /// Axes `axis .. axis + count` made into one, row-major.
    pub fn merge(&mut self, arg: ValueId, axis: u32, count: u32) -> ValueId {
        self.op(Op::Merge { arg, axis, count }, None)
    }

    /// Part of a tile: `extents` from `starts`.
    pub fn slice(&mut self, arg: ValueId, starts: &[u32], extents: &[u32]) -> ValueId {
        let declared = TileType { encoding: self.ty(arg).encoding, shape: extents.to_vec() };
        self.op(Op::Slice { arg, starts: starts.to_vec() }, Some(declared))
    }

    /// Tiles one after another along an axis.
    pub fn concat(&mut self, args: &[ValueId], axis: u32) -> ValueId {
        self.op(Op::Concat { args: args.to_vec(), axis }, None)
    }

    /// A new axis of `extent`, along which the operand is repeated.
    pub fn broadcast(&mut self, arg: ValueId, axis: u32, extent: u32) -> ValueId {
        let mut declared = self.ty(arg).clone();
        declared.shape.insert((axis as usize).min(declared.shape.len()), extent);
        self.op(Op::Broadcast { arg, axis }, Some(declared))
    }

    /// Positions of the `k` greatest along the last axis.
    pub fn topk(&mut self, arg: ValueId, mask: Option<ValueId>, k: u32) -> ValueId {
        self.op(Op::TopK { arg, mask, k }, None)
    }

    /// Elements named along the last axis.
    pub fn pick(&mut self, arg: ValueId, index: ValueId) -> ValueId {
        self.op(Op::Pick { arg, index }, None)
    }

    /// Elements added up at positions along a last axis of `extent`.
    pub fn place(&mut self, arg: ValueId, index: ValueId, extent: u32) -> ValueId {
        let mut declared = self.ty(arg).clone();
        if let Some(last) = declared.shape.last_mut() {
            *last = extent;
        }
        self.op(Op::Place { arg, index }, Some(declared))
    }

    /// A constant table of 16 or 256 numbers, indexed by codes.
    pub fn lookup(&mut self, arg: ValueId, table: &[f64]) -> ValueId {
        self.op(Op::Lookup { arg, table: table.to_vec() }, None)
    }

    /// Scratch memory.
    pub fn alloc(&mut self, ty: TileType) -> ValueId {
        self.op(Op::Alloc, Some(ty))
    }

    /// A tile of a parameter or of scratch, decoded to `f32` if it is scaled.
    pub fn load(&mut self, from: impl Into<Base>, coords: &[At]) -> ValueId {
        let access = self.access(from.into(), coords);
        self.op(Op::Load { access, keep: false }, None)
    }

    /// A tile as it is stored.
    pub fn load_keep(&mut self, from: impl Into<Base>, coords: &[At]) -> ValueId {
        let access = self.access(from.into(), coords);
        self.op(Op::Load { access, keep: true }, None)
    }

    /// Writes a tile.
    pub fn store(&mut self, value: ValueId, to: impl Into<Base>, coords: &[At]) {
        let access = self.access(to.into(), coords);
        let stmt = Stmt::Store { value, access };
        let Stmt::Store { access, .. } = &stmt else { return };
        if self.unknown.contains(&value) || self.any_unknown(|v| access.visit_operands(v)) {
            return;
        }
        match self.types().check_store(value, access) {
            Ok(()) => self.kernel.body.push(stmt),
            Err(e) => self.mistake(e),
        }
    }

    /// A gathered coordinate has the extent of its tile of positions.
    fn access(&self, base: Base, coords: &[At]) -> Access {
        let mut coords = coords.to_vec();
        for coord in &mut coords {
            if let (Start::Value(v), None) = (&coord.start, coord.extent)
                && let [n] = self.ty(*v).shape[..]
            {
                coord.extent = Some(n);
            }
        }
        Access { base, coords }
    }

    /// `for var in lo..hi step step`. `carry` names the carried values and gives their initial
    /// ones; `body` gets the loop variable and the carried values and returns the next ones.
    /// Returns the values after the loop.
    pub fn for_loop(
        &mut self,
        lo: impl Into<Bound>,
        hi: impl Into<Bound>,
        step: u32,
        carry: &[(&str, ValueId)],
        hints: LoopHints,
        body: impl FnOnce(&mut Self, ValueId, &[ValueId]) -> Vec<ValueId>,
    ) -> Vec<ValueId> {
        let var = self.define(TileType::scalar(DType::I32), "");
        let inits: Vec<_> = carry.iter().map(|c| c.1).collect();
        let inside: Vec<_> = carry.iter().map(|(n, v)| self.like(*v, n)).collect();
        let (body, yields) = self.block(|b| body(b, var, &inside));
        self.check_yields(&yields, &inits);
        let results: Vec<_> = inits.iter().map(|v| self.like(*v, "")).collect();
        let carry = inside.into_iter().zip(inits).collect();
        let (lo, hi) = (lo.into(), hi.into());
        let stmt = For { results: results.clone(), var, lo, hi, step, carry, hints, body, yields };
        self.kernel.body.push(Stmt::For(stmt));
        results
    }

    /// Both branches return as many values, of the same types; so does the choice.
    pub fn if_else(
        &mut self,
        cond: ValueId,
        then: impl FnOnce(&mut Self) -> Vec<ValueId>,
        otherwise: impl FnOnce(&mut Self) -> Vec<ValueId>,
    ) -> Vec<ValueId> {
        let then = self.block(then);
        let otherwise = self.block(otherwise);
        self.check_yields(&otherwise.1, &then.1);
        let results: Vec<_> = then.1.iter().map(|v| self.like(*v, "")).collect();
        self.kernel.body.push(Stmt::If(If { results: results.clone(), cond, then, otherwise }));
        results
    }

    fn like(&mut self, value: ValueId, name: &str) -> ValueId {
        let id = self.define(self.ty(value).clone(), name);
        if self.unknown.contains(&value) {
            self.unknown.insert(id);
        }
        id
    }

    fn block(&mut self, fill: impl FnOnce(&mut Self) -> Vec<ValueId>) -> (Vec<Stmt>, Vec<ValueId>) {
        let outer = std::mem::take(&mut self.kernel.body);
        let yields = fill(self);
        (std::mem::replace(&mut self.kernel.body, outer), yields)
    }

    fn check_yields(&mut self, yields: &[ValueId], begins: &[ValueId]) {
        if yields.len() != begins.len() {
            let (found, expected) = (yields.len(), begins.len());
            self.mistake(KernelError::Count { what: "yielded values", found, expected });
        }
        for (index, (y, b)) in yields.iter().zip(begins).enumerate() {
            let (found, expected) = (self.ty(*y).clone(), self.ty(*b).clone());
            if found != expected && !self.unknown.contains(y) && !self.unknown.contains(b) {
                self.mistake(KernelError::Yield { index, found, expected });
            }
        }
    }
}

/// The operands that an expression uses, each once, in the order of their first use.
pub(super) fn in_order_of_use(expr: &Expr, operands: &[ValueId]) -> (Vec<ValueId>, Expr) {
    let mut args: Vec<ValueId> = Vec::new();
    let expr = expr.renumber(&mut |i| {
        args.iter().position(|a| *a == operands[i]).unwrap_or_else(|| {
            args.push(operands[i]);
            args.len() - 1
        })
    });
    (args, expr)
}
