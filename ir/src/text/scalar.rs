//! Dims and scalar expressions.

use super::{MAX_DEPTH, MAX_NODES, Operands, Parse, Parser, Token, TokenKind};
use crate::dim::Dim;
use crate::expr::{Binary, Expr, Notation, Unary};

impl Parser<'_> {
    /// A dim.
    pub fn dim(&mut self) -> Parse<Dim> {
        self.sum(MAX_DEPTH)
    }

    fn sum(&mut self, depth: usize) -> Parse<Dim> {
        let mut sum = Dim::constant(0);
        let mut negative = self.eat("-");
        loop {
            let product = self.product(depth)?;
            sum = if negative { sum.minus(&product) } else { sum.plus(&product) };
            negative = self.sees("-");
            if !(self.eat("+") || self.eat("-")) {
                return Ok(sum);
            }
            if sum.terms().count() > MAX_NODES {
                return self.unexpected("a shorter dim");
            }
        }
    }

    fn product(&mut self, depth: usize) -> Parse<Dim> {
        let mut product = self.factor(depth)?;
        while self.eat("*") {
            let factor = self.factor(depth)?;
            let atoms = |d: &Dim| d.terms().map(|(a, _)| a.len()).max().unwrap_or(0);
            if product.terms().count() * factor.terms().count() > MAX_NODES
                || atoms(&product) + atoms(&factor) > MAX_DEPTH
            {
                return self.unexpected("a shorter dim");
            }
            product = product.times(&factor);
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Parse<Dim> {
        if depth == 0 {
            return self.unexpected("less deeply nested parentheses");
        }
        let t = self.peek();
        match (t.kind, t.text) {
            (TokenKind::Number, _) => self.integer().map(Dim::constant),
            (TokenKind::Punct, "(") => {
                self.advance();
                let inner = self.sum(depth - 1)?;
                self.expect(")")?;
                Ok(inner)
            }
            (TokenKind::Word, f @ ("floordiv" | "ceildiv" | "min" | "max"))
                if self.peek_second().text == "(" =>
            {
                self.advance();
                self.dim_function(f, depth - 1)
            }
            (TokenKind::Word, name) => {
                self.advance();
                Ok(Dim::symbol(name))
            }
            _ => self.unexpected("a dim"),
        }
    }

    fn dim_function(&mut self, function: &str, depth: usize) -> Parse<Dim> {
        self.expect("(")?;
        let inner = self.sum(depth)?;
        self.expect(",")?;
        let divides = function.ends_with("div");
        if divides && !matches!(self.peek().text.parse::<i64>(), Ok(v) if v > 0) {
            return self.unexpected("a positive integer");
        }
        let constant = self.integer()?;
        self.expect(")")?;
        Ok(match function {
            "floordiv" => inner.floor_div(constant),
            "ceildiv" => inner.ceil_div(constant),
            "min" => inner.at_most(constant),
            _ => inner.at_least(constant),
        })
    }

    /// A scalar expression; operands are what `operands` finds.
    pub fn expr(&mut self, operands: &mut Operands<'_>) -> Parse<Expr> {
        let mut nodes = MAX_NODES;
        self.infix(0, MAX_DEPTH, &mut nodes, operands)
    }

    fn infix(
        &mut self,
        above: u8,
        depth: usize,
        nodes: &mut usize,
        operands: &mut Operands<'_>,
    ) -> Parse<Expr> {
        let mut left = self.prefix(depth, nodes, operands)?;
        loop {
            let t = self.peek();
            let found = Binary::ALL.iter().find_map(|(b, name, notation)| match notation {
                Notation::Infix(p) if *name == t.text && t.kind == TokenKind::Punct => {
                    Some((*b, *p))
                }
                _ => None,
            });
            let Some((function, precedence)) = found.filter(|(_, p)| *p > above) else {
                return Ok(left);
            };
            self.advance();
            let right = self.infix(precedence, depth, nodes, operands)?;
            left = left.binary(function, right);
        }
    }

    fn prefix(
        &mut self,
        depth: usize,
        nodes: &mut usize,
        operands: &mut Operands<'_>,
    ) -> Parse<Expr> {
        if depth == 0 || *nodes == 0 {
            return self.unexpected("a shorter expression");
        }
        *nodes -= 1;
        let t = self.peek();
        let literal = |t: Token<'_>| match (t.kind, t.text) {
            (TokenKind::Number, text) => text.parse().ok(),
            (TokenKind::Word, "inf") => Some(f64::INFINITY),
            (TokenKind::Word, "nan") => Some(f64::NAN),
            _ => None,
        };
        if self.eat("-") {
            // A literal's sign is its own, so that every number has a text.
            return match literal(self.peek()) {
                Some(v) => {
                    self.advance();
                    Ok(Expr::Num(-v))
                }
                None => Ok(self.prefix(depth - 1, nodes, operands)?.unary(Unary::Neg)),
            };
        }
        if self.eat("(") {
            let inner = self.infix(0, depth - 1, nodes, operands)?;
            self.expect(")")?;
            return Ok(inner);
        }
        if let Some(i) = operands(&t) {
            self.advance();
            return Ok(Expr::Arg(i));
        }
        if let Some(v) = literal(t) {
            self.advance();
            return Ok(Expr::Num(v));
        }
        match (t.kind, t.text) {
            (TokenKind::Word, "lowest") => {
                self.advance();
                Ok(Expr::Lowest)
            }
            (TokenKind::Word, name) => self.call(name, depth - 1, nodes, operands),
            _ => self.unexpected("an operand, a number or a function"),
        }
    }

    fn call(
        &mut self,
        name: &str,
        depth: usize,
        nodes: &mut usize,
        operands: &mut Operands<'_>,
    ) -> Parse<Expr> {
        let unary = Unary::ALL.iter().find(|(_, n)| *n == name).map(|(u, _)| *u);
        let binary = Binary::ALL
            .iter()
            .find_map(|(b, n, notation)| (*n == name && *notation == Notation::Call).then_some(*b));
        let arity = match (unary, binary, name) {
            (Some(_), ..) => 1,
            (_, Some(_), _) => 2,
            (_, _, "select") => 3,
            _ => return self.unexpected("an operand, a number or a function"),
        };
        self.advance();
        self.expect("(")?;
        let mut args = Vec::with_capacity(arity);
        while args.len() < arity {
            if !args.is_empty() {
                self.expect(",")?;
            }
            args.push(self.infix(0, depth, nodes, operands)?);
        }
        self.expect(")")?;
        let mut args = args.into_iter();
        let mut next = || args.next().expect("as many as the function takes");
        Ok(match (unary, binary) {
            (Some(u), _) => next().unary(u),
            (_, Some(b)) => next().binary(b, next()),
            _ => next().select(next(), next()),
        })
    }
}
