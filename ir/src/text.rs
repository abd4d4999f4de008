//! Reading text: tokens with spans, and the parts of grammar that graphs and kernels share.
//!
//! A [`Parser`] records every error and goes on at the next line ([`Parser::recover`]); a rule
//! that fails returns [`Bad`], which says only that its error is recorded.
//!
//! ```text
//! dim      = ["-"] product { ("+" | "-") product }        product = factor { "*" factor }
//! factor   = integer | name | "(" dim ")"
//!          | ("floordiv" | "ceildiv" | "min" | "max") "(" dim "," ["-"] integer ")"
//! expr     = prefix { infix expr }      infix, by precedence: | & (== != < <= > >=) (+ -) (* /)
//! prefix   = "-" prefix | number | "lowest" | "inf" | "nan" | "%" name | "(" expr ")"
//!          | function "(" expr { "," expr } ")" | "select" "(" expr "," expr "," expr ")"
//! encoding = dtype [ "<" dtype integer "x" integer ["sum"] ">" ]
//! bounds   = bound { "," bound }
//! bound    = name "=" integer | ["param" | "data"] integer "<=" name "<=" integer ["=" integer]
//! ```

mod lex;
mod scalar;

pub use lex::{Token, TokenKind, tokens};

use crate::attr::{Attr, AttrKind};
use crate::dim::{Name, Sort, Symbol, Symbols};
use crate::dtype::{DType, Encoding, Scale};
use crate::error::{IrError, IrErrorKind, Span};

/// Nesting beyond which a text is refused, so that no input exhausts the stack.
pub const MAX_DEPTH: usize = 64;
/// Nodes of one expression, or products of one dim, beyond which a text is refused.
pub const MAX_NODES: usize = 4096;

/// A number as text that parses back to the same bits (NaN aside).
pub fn number_text(v: f64) -> String {
    if v == f64::from(f32::MIN) { "lowest".to_string() } else { crate::expr::literal(v) }
}

/// The rule failed and its error is recorded in the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad;

/// Result of a rule.
pub type Parse<T> = Result<T, Bad>;

/// Finds an operand's position by its token (`%name`, or a bare word where the caller allows it);
/// `None` if there is none.
pub type Operands<'o> = dyn FnMut(&Token<'_>) -> Option<usize> + 'o;

/// A position in a text, and the errors so far.
pub struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    errors: Vec<IrError>,
}

impl<'a> Parser<'a> {
    /// At the start of a text.
    pub fn new(source: &'a str) -> Self {
        Parser { tokens: tokens(source), at: 0, errors: Vec::new() }
    }

    /// All errors, in the order they were found.
    pub fn into_errors(self) -> Vec<IrError> {
        self.errors
    }

    /// Whether any error was recorded.
    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// How many errors were recorded.
    pub fn error_count(&self) -> usize {
        self.errors.len()
    }

    /// The next token.
    pub fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    /// The token after the next.
    pub fn peek_second(&self) -> Token<'a> {
        self.tokens[(self.at + 1).min(self.tokens.len() - 1)]
    }

    /// Takes the next token. At the end it stays.
    pub fn advance(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    /// Gives back the token last taken.
    pub fn step_back(&mut self) {
        self.at = self.at.saturating_sub(1);
    }

    /// Span of the token last taken.
    pub fn last_span(&self) -> Span {
        self.tokens[self.at.saturating_sub(1)].span
    }

    /// From a start to the end of the token last taken.
    pub fn span_since(&self, start: Span) -> Span {
        Span { start: start.start, end: self.last_span().end.max(start.start) }
    }

    /// Whether the text is used up.
    pub fn at_end(&self) -> bool {
        self.peek().kind == TokenKind::End
    }

    /// Whether the next token is this word or punctuation.
    pub fn sees(&self, text: &str) -> bool {
        let t = self.peek();
        matches!(t.kind, TokenKind::Word | TokenKind::Punct) && t.text == text
    }

    /// Takes the next token if it is this word or punctuation.
    pub fn eat(&mut self, text: &str) -> bool {
        let seen = self.sees(text);
        if seen {
            self.advance();
        }
        seen
    }

    /// Takes this word or punctuation, or fails.
    pub fn expect(&mut self, text: &str) -> Parse<Span> {
        if self.sees(text) {
            Ok(self.advance().span)
        } else {
            self.unexpected(&format!("`{text}`"))
        }
    }

    /// Records that something else was expected at the next token.
    pub fn unexpected<T>(&mut self, expected: &str) -> Parse<T> {
        let t = self.peek();
        let found = match t.kind {
            TokenKind::End => "the end".to_string(),
            TokenKind::Value => format!("`%{}`", t.text),
            TokenKind::Global => format!("`@{}`", t.text),
            _ => format!("`{}`", t.text),
        };
        self.error(t.span, IrErrorKind::Syntax { found, expected: expected.to_string() })
    }

    /// Records an error.
    pub fn error<T>(&mut self, span: Span, kind: IrErrorKind) -> Parse<T> {
        self.errors.push(IrError { span: Some(span), kind });
        Err(Bad)
    }

    /// Position of the next token, for [`Parser::recover`].
    pub fn mark(&self) -> usize {
        self.at
    }

    /// After a rule that began at `mark` failed: skips to the first token of a line after that
    /// one. Returns the tokens from `mark` on.
    pub fn recover(&mut self, mark: usize) -> &[Token<'a>] {
        while !self.at_end() && (self.at == mark || !self.peek().first) {
            self.advance();
        }
        &self.tokens[mark..self.at]
    }

    fn of_kind(&mut self, kind: TokenKind, expected: &str) -> Parse<Token<'a>> {
        if self.peek().kind == kind { Ok(self.advance()) } else { self.unexpected(expected) }
    }

    /// A bare name.
    pub fn word(&mut self) -> Parse<Token<'a>> {
        self.of_kind(TokenKind::Word, "a name")
    }

    /// `%name`
    pub fn value(&mut self) -> Parse<Token<'a>> {
        self.of_kind(TokenKind::Value, "a value (`%name`)")
    }

    /// `@name`
    pub fn global(&mut self) -> Parse<Token<'a>> {
        self.of_kind(TokenKind::Global, "a name with `@`")
    }

    /// An integer, perhaps negative.
    pub fn integer(&mut self) -> Parse<i64> {
        let sign = if self.eat("-") { -1 } else { 1 };
        match self.peek().text.parse::<i64>() {
            Ok(v) if self.peek().kind == TokenKind::Number => {
                self.advance();
                Ok(sign * v)
            }
            _ => self.unexpected("an integer"),
        }
    }

    /// An integer that fits in a `u32`.
    pub fn small(&mut self) -> Parse<u32> {
        match self.peek().text.parse::<u32>() {
            Ok(v) if self.peek().kind == TokenKind::Number => {
                self.advance();
                Ok(v)
            }
            _ => self.unexpected("an integer from 0 to 4294967295"),
        }
    }

    /// A real number, perhaps negative: also `lowest` (the least finite `f32`), `inf`, `nan`.
    pub fn number(&mut self) -> Parse<f64> {
        let sign = if self.eat("-") { -1.0 } else { 1.0 };
        let t = self.peek();
        let magnitude = match (t.kind, t.text) {
            (TokenKind::Number, text) => text.parse().ok(),
            (TokenKind::Word, "lowest") => Some(f64::from(f32::MIN)),
            (TokenKind::Word, "inf") => Some(f64::INFINITY),
            (TokenKind::Word, "nan") => Some(f64::NAN),
            _ => None,
        };
        let Some(magnitude) = magnitude else { return self.unexpected("a number") };
        self.advance();
        Ok(sign * magnitude)
    }

    /// `open item, item, .. close`, perhaps empty; items may stand on several lines.
    pub fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.eat(close) {
            if !items.is_empty() {
                self.expect(",")?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// An element type.
    pub fn dtype(&mut self) -> Parse<DType> {
        let t = self.peek();
        match t.text.parse() {
            Ok(d) if t.kind == TokenKind::Word => {
                self.advance();
                Ok(d)
            }
            _ => self.unexpected("an element type"),
        }
    }

    /// An encoding.
    pub fn encoding(&mut self) -> Parse<Encoding> {
        let code = self.dtype()?;
        if !self.eat("<") {
            return Ok(Encoding::plain(code));
        }
        let dtype = self.dtype()?;
        let rows = self.positive()?;
        // `x128` reads as a word.
        let t = self.peek();
        let cols = t.text.strip_prefix('x').and_then(|c| c.parse().ok()).filter(|c| *c > 0);
        let Some(cols) = cols else { return self.unexpected("`x` and a block's columns") };
        self.advance();
        let sum = self.eat("sum");
        self.expect(">")?;
        Ok(Encoding { code, scale: Some(Scale { dtype, rows, cols, sum }) })
    }

    fn positive(&mut self) -> Parse<u32> {
        if self.peek().text == "0" {
            return self.unexpected("a positive integer");
        }
        self.small()
    }

    /// An attribute's value of a known kind; expressions stand in braces.
    pub fn attr(&mut self, kind: AttrKind, operands: &mut Operands<'_>) -> Parse<Attr> {
        Ok(match kind {
            AttrKind::Bool => match self.peek().text {
                "true" | "false" => Attr::Bool(self.advance().text == "true"),
                _ => return self.unexpected("`true` or `false`"),
            },
            AttrKind::Float => Attr::Float(self.number()?),
            AttrKind::Floats => Attr::Floats(self.list("[", "]", Self::number)?),
            AttrKind::Dim => Attr::Dim(self.dim()?),
            AttrKind::Name => Attr::Name(self.word()?.text.into()),
            AttrKind::Names => Attr::Names(self.list("[", "]", |p| Ok(p.word()?.text.into()))?),
            AttrKind::Expr => {
                self.expect("{")?;
                let e = self.expr(operands)?;
                self.expect("}")?;
                Attr::Expr(e)
            }
            AttrKind::Encoding => Attr::Encoding(self.encoding()?),
        })
    }

    /// Bounds of symbols, after `where`.
    pub fn bounds(&mut self) -> Parse<Symbols> {
        let mut symbols = Symbols::new();
        loop {
            let (name, symbol, span) = self.bound()?;
            if symbols.insert(name.clone(), symbol).is_some() {
                let (found, expected) = (format!("`{name}` again"), "one bound for each symbol");
                let kind = IrErrorKind::Syntax { found, expected: expected.to_string() };
                return self.error(span, kind);
            }
            if !self.eat(",") {
                return Ok(symbols);
            }
        }
    }

    fn bound(&mut self) -> Parse<(Name, Symbol, Span)> {
        let t = self.peek();
        if t.kind == TokenKind::Word && self.peek_second().text == "=" {
            self.advance();
            self.expect("=")?;
            return Ok((t.text.into(), Symbol::param(self.integer()?), t.span));
        }
        let sort = match t.text {
            "param" => Sort::Param,
            "data" => Sort::Data,
            _ => Sort::Step,
        };
        if sort != Sort::Step {
            self.advance();
        }
        let lo = self.integer()?;
        self.expect("<=")?;
        let name = self.word()?;
        self.expect("<=")?;
        let hi = self.integer()?;
        let value = if self.eat("=") { Some(self.integer()?) } else { None };
        Ok((name.text.into(), Symbol { sort, lo, hi, value }, name.span))
    }
}

/// Bounds as text, as [`Parser::bounds`] reads them.
pub fn bounds_text(symbols: &Symbols) -> String {
    let one = |(name, s): (&Name, &Symbol)| {
        if s.value.is_some_and(|v| *s == Symbol::param(v)) {
            return format!("{name} = {}", s.lo);
        }
        let sort = match s.sort {
            Sort::Param => "param ",
            Sort::Step => "",
            Sort::Data => "data ",
        };
        let value = s.value.map(|v| format!(" = {v}")).unwrap_or_default();
        format!("{sort}{} <= {name} <= {}{value}", s.lo, s.hi)
    };
    symbols.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// An attribute's value as text, as [`Parser::attr`] reads it; `operand` names an expression's.
pub fn attr_text(attr: &Attr, operand: &dyn Fn(usize) -> String) -> String {
    match attr {
        Attr::Bool(b) => b.to_string(),
        Attr::Float(v) => number_text(*v),
        Attr::Floats(vs) => {
            format!("[{}]", vs.iter().map(|v| number_text(*v)).collect::<Vec<_>>().join(", "))
        }
        Attr::Dim(d) => d.to_string(),
        Attr::Name(n) => n.to_string(),
        Attr::Names(ns) => format!("[{}]", ns.join(", ")),
        Attr::Expr(e) => format!("{{ {} }}", crate::expr::Named(e, operand)),
        Attr::Encoding(e) => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Named;

    fn read<'a, T>(source: &'a str, rule: impl FnOnce(&mut Parser<'a>) -> Parse<T>) -> Option<T> {
        let mut p = Parser::new(source);
        let value = rule(&mut p).ok();
        if p.at_end() { value } else { None }
    }

    fn read_expr(source: &str) -> Option<String> {
        let mut operands = |t: &Token<'_>| t.text.strip_prefix('x').and_then(|i| i.parse().ok());
        let e = read(source, |p| p.expr(&mut operands))?;
        Some(Named(&e, |i| format!("%x{i}")).to_string())
    }

    #[test]
    fn ranges_and_names_are_told_apart() {
        let texts: Vec<_> = tokens("%t0..%t1 0..14 %a.b 1.5e-3").iter().map(|t| t.text).collect();
        assert_eq!(texts, ["t0", "..", "t1", "0", "..", "14", "a.b", "1.5e-3", ""]);
    }

    #[test]
    fn dims_round_trip() {
        for text in ["0", "-1", "2*d*h + 7", "t - 1", "ceildiv(n*t + 3, 64)", "min(max(n, 2), 9)"] {
            assert_eq!(read(text, Parser::dim).expect(text).to_string(), text);
        }
        assert_eq!(read("(h + d)*(h - d) + d*d", Parser::dim).expect("a dim").to_string(), "h*h");
        for text in ["", "2 2", "n /", "floordiv(n, 0)", "99999999999999999999", "n*"] {
            assert_eq!(read(text, Parser::dim), None, "{text}");
        }
        let deep = "(".repeat(100_000);
        assert_eq!(read(&deep, Parser::dim), None);
    }

    #[test]
    fn expressions_round_trip() {
        for text in [
            "%x0 * (%x1 + -3) - %x2 - %x1",
            "%x0 - (%x1 - %x2)",
            "-(3) + --%x0",
            "select(%x0 < 1e-7, -lowest, exp2(%x1))",
            "max(%x0, 2) / (%x1 / %x2)",
            "not(%x0 == 1) & (%x1 | %x2)",
            "-0 + inf",
        ] {
            assert_eq!(read_expr(text).as_deref(), Some(text));
        }
        assert_eq!(read_expr("%x0 + * 2"), None);
        assert_eq!(read_expr(&"-".repeat(100_000)), None);
        assert_eq!(read_expr(&"%x0 + ".repeat(100_000)), None);
    }

    #[test]
    fn bounds_round_trip() {
        for text in
            ["1 <= n <= 4", "h = 64, -1 <= s <= 9", "param 1 <= d <= 8 = 4, data 0 <= q <= 9"]
        {
            assert_eq!(bounds_text(&read(text, Parser::bounds).expect(text)), text);
        }
        assert_eq!(read("1 <= n <= 4, 1 <= n <= 4", Parser::bounds), None);
    }

    #[test]
    fn encodings_agree_with_their_own_reader() {
        for text in ["bf16", "fp8_e4m3<f32 128x128>", "i4<f16 1x32>", "i8<f32 1x32 sum>"] {
            assert_eq!(read(text, Parser::encoding), text.parse().ok());
        }
        assert_eq!(read("i4<f16 0x32>", Parser::encoding), None);
    }

    #[test]
    fn errors_are_collected_line_by_line() {
        let mut p = Parser::new("2 * )\n3\n/ n\n4 +\n5 5");
        while !p.at_end() {
            let mark = p.mark();
            if p.dim().is_err() {
                p.recover(mark);
            }
        }
        let spans: Vec<_> = p.into_errors().iter().map(|e| e.span.expect("a span").start).collect();
        assert_eq!(spans, [4, 8]);
    }
}
