//! Text to kernels. The grammar is in `ir/README.md`; [`print`](super::print) writes it.
//!
//! Every error of a text is reported, with its span: those of the grammar, then (if there are none)
//! those of [`verify`](super::verify).

mod op;

use super::error::KernelError;
use super::verify::{Place, check};
use super::{
    Access, Base, Bound, Coord, Family, For, Grid, GridAxis, If, Kernel, LoopHints, PackStep,
    Packing, Param, ParamId, ParamType, Role, Start, Stmt, TileType, Value, ValueId,
};
use crate::attr::Attr;
use crate::dim::{Name, Symbols};
use crate::dtype::{DType, Encoding};
use crate::error::{IrError, IrErrorKind, Span};
use crate::text::{Bad, MAX_DEPTH, Parse, Parser, Token, TokenKind};
use std::collections::{HashMap, HashSet};

/// The one kernel of a text.
pub fn kernel(source: &str) -> Result<Kernel, Vec<IrError>> {
    let mut p = Parser::new(source);
    let kernel = one(&mut p).map(|(kernel, _)| kernel);
    if kernel.is_ok() && !p.at_end() {
        let _ = p.unexpected::<()>("the end");
    }
    finished(p, kernel)
}

/// All kernels of a text.
pub fn kernels(source: &str) -> Result<Vec<Kernel>, Vec<IrError>> {
    let named = kernels_named(source)?;
    Ok(named.into_iter().map(|(kernel, _)| kernel).collect())
}

/// All kernels of a text, each with where its name stands.
pub fn kernels_named(source: &str) -> Result<Vec<(Kernel, Span)>, Vec<IrError>> {
    let mut p = Parser::new(source);
    let mut all = Vec::new();
    while !p.at_end() {
        let mark = p.mark();
        match one(&mut p) {
            Ok(kernel) => all.push(kernel),
            Err(Bad) => {
                while !p.at_end() && (p.mark() == mark || !p.sees("kernel")) {
                    p.advance();
                }
            }
        }
    }
    finished(p, Ok(all))
}

/// A packing alone, e.g. `[0/16, 1/2, 0:16, 1:2]`.
pub fn packing(source: &str) -> Result<Packing, Vec<IrError>> {
    let mut p = Parser::new(source);
    let steps = pack_steps(&mut p);
    if steps.is_ok() && !p.at_end() {
        let _ = p.unexpected::<()>("the end");
    }
    finished(p, steps.map(Packing))
}

fn finished<T>(p: Parser<'_>, value: Parse<T>) -> Result<T, Vec<IrError>> {
    match value {
        Ok(value) if !p.has_errors() => Ok(value),
        _ => Err(p.into_errors()),
    }
}

/// Whether a family's parameter is what its text reads back as.
pub(super) fn is_family_value(attr: &Attr) -> bool {
    let text = super::print::family_value(attr);
    let mut p = Parser::new(&text);
    family_value(&mut p).is_ok_and(|read| read == *attr) && p.at_end()
}

/// Parses and verifies the next kernel; gives also where its name stands.
fn one(p: &mut Parser<'_>) -> Parse<(Kernel, Span)> {
    let before = p.error_count();
    let start = p.peek().span;
    let mut reader = Reader {
        p,
        kernel: Kernel {
            name: "".into(),
            family: Family { name: "".into(), params: Vec::new() },
            batch_invariant: false,
            symbols: Symbols::new(),
            params: Vec::new(),
            values: Vec::new(),
            grid: Grid::default(),
            body: Vec::new(),
        },
        names: HashMap::new(),
        unknown: HashSet::new(),
        head: start,
        params: Vec::new(),
        statements: Vec::new(),
    };
    reader.read()?;
    let Reader { p, kernel, head, params, statements, .. } = reader;
    if p.error_count() > before {
        return Err(Bad);
    }
    for (place, error) in check(&kernel) {
        let span = match place {
            Place::Head => head,
            Place::Param(i) => params[i],
            Place::Stmt(i) => statements[i],
        };
        let _ = p.error::<()>(span, error.into());
    }
    if p.error_count() > before { Err(Bad) } else { Ok((kernel, head)) }
}

#[derive(Clone, Copy)]
enum Entity {
    Value(ValueId),
    Param(ParamId),
}

/// A block's statements and what it yields.
type Block = (Vec<Stmt>, Vec<ValueId>);

struct Reader<'p, 'a> {
    p: &'p mut Parser<'a>,
    kernel: Kernel,
    names: HashMap<&'a str, Entity>,
    /// Names whose definition failed: their uses are no further errors.
    unknown: HashSet<&'a str>,
    head: Span,
    params: Vec<Span>,
    /// In the order in which [`check`] counts.
    statements: Vec<Span>,
}

impl<'a> Reader<'_, 'a> {
    fn read(&mut self) -> Parse<()> {
        self.p.expect("kernel")?;
        let name = self.p.global()?;
        self.head = name.span;
        self.kernel.name = name.text.into();
        self.kernel.family.name = self.p.word()?.text.into();
        if self.p.sees("{") {
            self.kernel.family.params = self.p.list("{", "}", |p| {
                let key = p.word()?.text.into();
                p.expect("=")?;
                Ok((key, family_value(p)?))
            })?;
        }
        self.kernel.batch_invariant = self.p.eat("batch_invariant");
        self.param_list()?;
        if self.p.eat("where") {
            self.kernel.symbols = self.p.bounds()?;
        }
        self.p.expect("{")?;
        self.p.expect("grid")?;
        self.grid()?;
        self.kernel.body = self.block(0)?.0;
        self.p.expect("}")?;
        Ok(())
    }

    fn param_list(&mut self) -> Parse<()> {
        self.p.expect("(")?;
        while !self.p.eat(")") {
            if !self.kernel.params.is_empty() {
                self.p.expect(",")?;
            }
            let name = self.p.value()?;
            self.p.expect(":")?;
            let role = self.role()?;
            let ty = self.param_type()?;
            let id = ParamId(self.kernel.params.len() as u32);
            self.params.push(self.p.span_since(name.span));
            self.bind(name, Entity::Param(id))?;
            self.kernel.params.push(Param { name: name.text.into(), role, ty });
        }
        Ok(())
    }

    fn role(&mut self) -> Parse<Role> {
        let text = self.p.peek().text;
        match Role::ALL.iter().find(|(_, name)| *name == text) {
            Some((role, _)) => {
                self.p.advance();
                Ok(*role)
            }
            None => self.p.unexpected("`in`, `out`, `inout` or `prefetch`"),
        }
    }

    fn param_type(&mut self) -> Parse<ParamType> {
        if self.p.eat("list") {
            let fields = self.p.list("(", ")", |p| Ok(Name::from(p.word()?.text)))?;
            self.p.expect("max")?;
            return Ok(ParamType::List { fields, max: self.p.dim()? });
        }
        let encoding = self.p.encoding()?;
        let dims = self.p.list("[", "]", Parser::dim)?;
        let packing = if self.p.eat("packed") { Some(Packing(pack_steps(self.p)?)) } else { None };
        Ok(ParamType::Tensor { encoding, dims, packing })
    }

    fn grid(&mut self) -> Parse<()> {
        while !self.p.sees("{") {
            if !self.kernel.grid.axes.is_empty() {
                self.p.expect(",")?;
            }
            let axis = if self.p.sees("(") {
                let names = self.p.list("(", ")", Parser::value)?;
                self.p.expect("in")?;
                let list = self.param()?;
                let i32 = TileType::scalar(DType::I32);
                let vars =
                    names.into_iter().map(|n| self.define(n, i32.clone())).collect::<Parse<_>>()?;
                GridAxis::List { vars, list }
            } else {
                let name = self.p.value()?;
                self.p.expect("in")?;
                self.zero()?;
                self.p.expect("..")?;
                let extent = self.p.dim()?;
                self.p.expect("step")?;
                let step = self.p.small()?;
                let var = self.define(name, TileType::scalar(DType::I32))?;
                GridAxis::Range { var, extent, step }
            };
            self.kernel.grid.axes.push(axis);
        }
        Ok(())
    }

    fn zero(&mut self) -> Parse<()> {
        if self.p.peek().text != "0" {
            return self.p.unexpected("`0`");
        }
        self.p.advance();
        Ok(())
    }

    fn bind(&mut self, name: Token<'a>, entity: Entity) -> Parse<()> {
        // The first definition stands: what the second would have named is not made.
        if self.names.contains_key(name.text) {
            let error = KernelError::Redefined { name: name.text.into() };
            return self.p.error(name.span, error.into());
        }
        self.names.insert(name.text, entity);
        Ok(())
    }

    fn define(&mut self, name: Token<'a>, ty: TileType) -> Parse<ValueId> {
        let id = ValueId(self.kernel.values.len() as u32);
        self.bind(name, Entity::Value(id))?;
        self.kernel.values.push(Value { name: name.text.into(), ty });
        Ok(id)
    }

    fn entity(&mut self) -> Parse<Entity> {
        let name = self.p.value()?;
        match self.names.get(name.text) {
            Some(entity) => Ok(*entity),
            None if self.unknown.contains(name.text) => Err(Bad),
            None => {
                let error = KernelError::Unknown { name: name.text.to_string() };
                self.p.error(name.span, error.into())
            }
        }
    }

    fn value(&mut self) -> Parse<ValueId> {
        let token = self.p.peek();
        match self.entity()? {
            Entity::Value(id) => Ok(id),
            Entity::Param(_) => self.syntax(token, "a tile (parameters are loaded)"),
        }
    }

    fn param(&mut self) -> Parse<ParamId> {
        let token = self.p.peek();
        match self.entity()? {
            Entity::Param(id) => Ok(id),
            Entity::Value(_) => self.syntax(token, "a parameter"),
        }
    }

    fn syntax<T>(&mut self, at: Token<'_>, expected: &str) -> Parse<T> {
        let (found, expected) = (format!("`%{}`", at.text), expected.to_string());
        self.p.error(at.span, IrErrorKind::Syntax { found, expected })
    }

    fn values(&mut self) -> Parse<Vec<ValueId>> {
        let mut values = vec![self.value()?];
        while self.p.eat(",") {
            values.push(self.value()?);
        }
        Ok(values)
    }

    fn tile(&mut self) -> Parse<TileType> {
        let encoding = self.p.encoding()?;
        let shape = if self.p.sees("[") { self.p.list("[", "]", Parser::small)? } else { vec![] };
        Ok(TileType { encoding, shape })
    }

    /// `{ statements [yield values] }`
    fn block(&mut self, depth: usize) -> Parse<Block> {
        self.p.expect("{")?;
        if depth > MAX_DEPTH {
            let error = KernelError::Depth { limit: MAX_DEPTH };
            return self.p.error(self.p.peek().span, error.into());
        }
        let (mut body, mut yields) = (Vec::new(), Vec::new());
        while !self.p.eat("}") {
            if self.p.at_end() {
                return self.p.unexpected("`}`");
            }
            let mark = self.p.mark();
            let done = if self.p.eat("yield") {
                self.values().map(|v| yields = v)
            } else {
                self.statement(depth).map(|s| body.push(s))
            };
            if done.is_err() {
                self.recover(mark, depth)?;
            }
        }
        Ok((body, yields))
    }

    /// Goes on after a line that failed. What it would have defined is known to be unknown, and a
    /// block that it opens is read for its own errors.
    fn recover(&mut self, mark: usize, depth: usize) -> Parse<()> {
        let skipped = self.p.recover(mark);
        let opens = skipped.last().is_some_and(|t| t.text == "{");
        let lost = skipped.iter().filter(|t| t.kind == TokenKind::Value).map(|t| t.text);
        let lost: Vec<_> = lost.filter(|n| !self.names.contains_key(n)).collect();
        self.unknown.extend(lost);
        if self.p.at_end() {
            return Err(Bad);
        }
        if opens {
            self.p.step_back();
            self.block(depth + 1)?;
        }
        Ok(())
    }

    fn statement(&mut self, depth: usize) -> Parse<Stmt> {
        let start = self.p.peek().span;
        let at = self.statements.len();
        self.statements.push(start);
        if self.p.eat("store") {
            let value = self.value()?;
            self.p.expect(",")?;
            let access = self.access()?;
            self.statements[at] = self.p.span_since(start);
            return Ok(Stmt::Store { value, access });
        }
        let mut results = Vec::new();
        while self.p.peek().kind == TokenKind::Value {
            results.push(self.p.advance());
            if !self.p.eat(",") {
                self.p.expect("=")?;
                break;
            }
        }
        if self.p.eat("for") {
            return self.for_loop(results, at, depth);
        }
        if self.p.eat("if") {
            return self.choice(results, at, depth);
        }
        let [result] = results[..] else { return self.p.unexpected("a statement") };
        let op = self.op()?;
        self.p.expect(":")?;
        let ty = self.tile()?;
        self.statements[at] = self.p.span_since(start);
        Ok(Stmt::Let { result: self.define(result, ty)?, op })
    }

    fn for_loop(&mut self, results: Vec<Token<'a>>, at: usize, depth: usize) -> Parse<Stmt> {
        let var = self.p.value()?;
        self.p.expect("in")?;
        let lo = self.bound()?;
        self.p.expect("..")?;
        let hi = self.bound()?;
        self.p.expect("step")?;
        let step = self.p.small()?;
        let mut carried = Vec::new();
        if self.p.eat("carry") {
            loop {
                let name = self.p.value()?;
                self.p.expect("=")?;
                carried.push((name, self.value()?));
                if !self.p.eat(",") {
                    break;
                }
            }
        }
        let hints = self.hints()?;
        self.statements[at] = self.p.span_since(self.statements[at]);
        let var = self.define(var, TileType::scalar(DType::I32))?;
        let mut carry = Vec::new();
        for (name, init) in carried {
            carry.push((self.define(name, self.kernel.ty(init).clone())?, init));
        }
        let (body, yields) = self.block(depth + 1)?;
        let types = carry.iter().map(|(v, _)| self.kernel.ty(*v).clone()).collect();
        let results = self.results(results, types)?;
        Ok(Stmt::For(For { results, var, lo, hi, step, carry, hints, body, yields }))
    }

    fn hints(&mut self) -> Parse<LoopHints> {
        let mut hints = LoopHints::default();
        loop {
            if self.p.eat("stages") {
                self.p.expect("=")?;
                hints.stages = self.p.small()?;
            } else if self.p.eat("fan") {
                self.p.expect("=")?;
                hints.fan = self.p.small()?;
            } else if self.p.eat("then") {
                hints.then = Some(self.param()?);
            } else {
                return Ok(hints);
            }
        }
    }

    fn choice(&mut self, results: Vec<Token<'a>>, at: usize, depth: usize) -> Parse<Stmt> {
        let cond = self.value()?;
        self.statements[at] = self.p.span_since(self.statements[at]);
        let then = self.block(depth + 1)?;
        self.p.expect("else")?;
        let otherwise = self.block(depth + 1)?;
        let types = then.1.iter().map(|v| self.kernel.ty(*v).clone()).collect();
        let results = self.results(results, types)?;
        Ok(Stmt::If(If { results, cond, then, otherwise }))
    }

    fn results(&mut self, names: Vec<Token<'a>>, types: Vec<TileType>) -> Parse<Vec<ValueId>> {
        if let (Some(first), true) = (names.first(), names.len() != types.len()) {
            let (what, found, expected) = ("results", names.len(), types.len());
            let error = KernelError::Count { what, found, expected };
            return self.p.error(first.span, error.into());
        }
        names.into_iter().zip(types).map(|(n, ty)| self.define(n, ty)).collect()
    }

    fn bound(&mut self) -> Parse<Bound> {
        match self.p.peek().kind {
            TokenKind::Value => self.value().map(Bound::Value),
            _ => self.p.dim().map(Bound::Dim),
        }
    }

    fn access(&mut self) -> Parse<Access> {
        let base = match self.entity()? {
            Entity::Param(p) => Base::Param(p),
            Entity::Value(v) => Base::Scratch(v),
        };
        self.p.expect("[")?;
        let mut coords = Vec::new();
        while !self.p.eat("]") {
            if !coords.is_empty() {
                self.p.expect(",")?;
            }
            coords.push(self.coord()?);
        }
        Ok(Access { base, coords })
    }

    fn coord(&mut self) -> Parse<Coord> {
        let (start, mut extent) = match self.p.peek().kind {
            TokenKind::Value => {
                let v = self.value()?;
                (Start::Value(v), self.kernel.ty(v).shape.first().copied())
            }
            _ => (Start::Const(self.p.integer()?), None),
        };
        if extent.is_none() && self.p.eat("+") {
            extent = Some(self.p.small()?);
        }
        let mut bound = None;
        if self.p.eat("where") {
            self.p.expect("<")?;
            bound = Some(self.bound()?);
        }
        Ok(Coord { start, extent, bound })
    }
}

/// See [`family_value`](super::print).
fn family_value(p: &mut Parser<'_>) -> Parse<Attr> {
    let t = p.peek();
    let second = p.peek_second();
    let number = if t.text == "-" { second } else { t };
    match (t.kind, t.text) {
        (TokenKind::Word, "true" | "false") => Ok(Attr::Bool(p.advance().text == "true")),
        (TokenKind::Word, "lowest" | "inf" | "nan") => p.number().map(Attr::Float),
        (TokenKind::Word, name) if name.parse::<DType>().is_ok() => {
            p.encoding().map(|e: Encoding| Attr::Encoding(e))
        }
        (TokenKind::Word, name) => {
            p.advance();
            Ok(Attr::Name(name.into()))
        }
        (TokenKind::Punct, "(") => {
            p.advance();
            let dim = p.dim()?;
            p.expect(")")?;
            Ok(Attr::Dim(dim))
        }
        (TokenKind::Punct, "[") if second.kind == TokenKind::Word || second.text == "]" => {
            Ok(Attr::Names(p.list("[", "]", |p| Ok(Name::from(p.word()?.text)))?))
        }
        (TokenKind::Punct, "[") => p.list("[", "]", Parser::number).map(Attr::Floats),
        _ if number.text.contains(['.', 'e', 'E']) => p.number().map(Attr::Float),
        _ if number.kind == TokenKind::Word => p.number().map(Attr::Float),
        _ => p.integer().map(|v| Attr::Dim(v.into())),
    }
}

fn pack_steps(p: &mut Parser<'_>) -> Parse<Vec<PackStep>> {
    p.list("[", "]", |p| {
        if p.sees("{") { p.list("{", "}", pack_step).map(PackStep::Scales) } else { pack_step(p) }
    })
}

fn pack_step(p: &mut Parser<'_>) -> Parse<PackStep> {
    let axis = p.small()?;
    let over = if p.eat("/") { Some(p.small()?) } else { None };
    match over {
        Some(divisor) if !p.sees(":") => Ok(PackStep::Outer { axis, divisor }),
        _ => {
            p.expect(":")?;
            Ok(PackStep::Inner { axis, stride: over.unwrap_or(1), extent: p.small()? })
        }
    }
}
