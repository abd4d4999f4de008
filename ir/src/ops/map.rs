//! `map`: a scalar expression for each element.

use crate::attr::Key;
use crate::dtype::{Class, DType};
use crate::error::{IrError, IrErrorKind};
use crate::expr::Expr;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::{Type, ValueId};
use crate::op::{NodeView, OpDef, OpRef, Schema, attrs};
use crate::text::{Parser, TokenKind};

/// What is computed; operands are those of the node.
pub const EXPR: Key<Expr> = Key::new(0, "expr");

const SCHEMA: Schema = Schema {
    name: "map",
    summary: "a scalar expression; indices that an operand lacks repeat it",
    operands: &["x.."],
    mask: false,
    attrs: &[EXPR.spec()],
    results: 1,
};

/// `map { %g * sigmoid(%g) * %u } : f32[s, f]`
pub struct Op;

impl OpDef for Op {
    fn schema(&self) -> &'static Schema {
        &SCHEMA
    }

    fn infer(&self, node: &NodeView) -> Result<Vec<Type>, GraphError> {
        let classes: Vec<Class> = node.operands.iter().map(Type::class).collect();
        let class = node.get(EXPR).class(&classes).map_err(GraphError::Expr)?;
        let result = node.declared()?;
        let within = |o: &Type| o.indices.iter().all(|i| result.has(i));
        if let Some(i) = node.operands.iter().position(|o| !within(o)) {
            return Err(node.wrong_indices(i, format!("indices among those of {result}")));
        }
        Ok(vec![Type { encoding: dtype_of(class).into(), indices: result.indices.clone() }])
    }
}

/// What an expression of a class is stored as.
pub(crate) fn dtype_of(class: Class) -> DType {
    match class {
        Class::Float => DType::F32,
        Class::Int => DType::I32,
        Class::Bool => DType::Bool,
    }
}

impl GraphBuilder {
    /// An expression in text over named operands: `map("x * sigmoid(x) * y", &[("x", g), ("y",
    /// u)], &["s", "f"])`. An operand that the text does not name is left out.
    pub fn map<I: AsRef<str>>(
        &mut self,
        text: &str,
        operands: &[(&str, ValueId)],
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let mut used: Vec<usize> = vec![];
        let mut parser = Parser::new(text);
        let expr = parser.expr(&mut |token| {
            let known = matches!(token.kind, TokenKind::Word | TokenKind::Value);
            let at = operands.iter().position(|(name, _)| known && *name == token.text)?;
            Some(used.iter().position(|u| *u == at).unwrap_or_else(|| {
                used.push(at);
                used.len() - 1
            }))
        });
        if !parser.at_end() {
            let _ = parser.unexpected::<()>("the end of the expression");
        }
        let values: Vec<ValueId> = used.iter().map(|u| operands[*u].1).collect();
        let mut errors = parser.into_errors().into_iter();
        match (expr, errors.next()) {
            (Ok(expr), None) => self.map_expr(expr, &values, indices),
            (_, Some(error)) => Err(error),
            (Err(_), None) => {
                let (found, expected) = (text.to_string(), "an expression".to_string());
                Err(IrError { span: None, kind: IrErrorKind::Syntax { found, expected } })
            }
        }
    }

    /// An expression over operands by position.
    pub fn map_expr<I: AsRef<str>>(
        &mut self,
        expr: Expr,
        operands: &[ValueId],
        indices: &[I],
    ) -> Result<ValueId, IrError> {
        let classes: Vec<Class> = operands.iter().map(|o| self.ty(*o).class()).collect();
        let class = expr.class(&classes).map_err(GraphError::Expr)?;
        let ty = Type::new(dtype_of(class), indices);
        self.node1(OpRef(&Op), operands, None, attrs([expr.into()]), Some(ty))
    }
}
