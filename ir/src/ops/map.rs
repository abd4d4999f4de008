//! `map`: a scalar expression for each element.

use crate::attr::Key;
use crate::dim::Dim;
use crate::dtype::{Class, DType};
use crate::error::{IrError, IrErrorKind};
use crate::expr::Expr;
use crate::graph::builder::GraphBuilder;
use crate::graph::error::GraphError;
use crate::graph::eval::{Eval, walk};
use crate::graph::range::{Beyond, Operands, Range};
use crate::graph::{Type, ValueId};
use crate::number::Number;
use crate::number::scalar::{Scalar, compile};
use crate::op::{Apply, Meaning, NodeView, OpDef, OpRef, Sample, Schema, Tolerance, attrs};
use crate::tensor::{Data, Tensor};
use crate::text::{Parser, TokenKind};
use crate::tiles::{Tile, Tiles, Unlowered, undeclared};

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

    fn meaning(&self) -> Meaning {
        Meaning::of::<Op>()
    }

    fn range(&self, node: &NodeView, operands: &[Range]) -> Result<Range, Beyond> {
        let classes: Vec<Class> = node.operands.iter().map(Type::class).collect();
        let expr = node.get(EXPR);
        let class = expr.class(&classes).unwrap_or(Class::Float);
        let code = compile(expr, &classes, class, 0);
        let ranges = classes.into_iter().zip(operands.iter().cloned()).collect();
        let range = Operands { ranges, symbols: &node.graph.symbols }.range(&code);
        let expected = Range::divisors();
        range.map(|(_, range)| range).map_err(|found| Beyond { what: "a divisor", found, expected })
    }

    fn samples(&self) -> &'static [Sample] {
        SAMPLES
    }

    fn flops(&self, node: &NodeView, results: &[Type]) -> Dim {
        node.elements(&results[0]).times(&operations(node.get(EXPR)).into())
    }

    fn tolerance(&self, node: &NodeView, results: &[Type]) -> Tolerance {
        match results[0].class() {
            Class::Float => Tolerance::Ulps(4.0 * operations(node.get(EXPR)) as f64),
            Class::Int | Class::Bool => Tolerance::Exact,
        }
    }

    fn lower(
        &self,
        tiles: &mut Tiles,
        node: &NodeView,
        operands: &[Tile],
        _mask: Option<&Tile>,
    ) -> Result<Vec<Tile>, Unlowered> {
        let ty = node.declared().map_err(|_| undeclared(&SCHEMA))?;
        let indices = tiles.axes(&ty.indices);
        let mut args = vec![];
        let mut whole = false;
        for tile in operands {
            // An operand whose axes come first is repeated along the others by the map itself.
            let begins = indices.starts_with(&tile.indices);
            let value = match begins {
                true => tile.value,
                false => tiles.aligned(node.graph, tile, &indices)?,
            };
            whole |= tiles.kernel.ty(value).shape.len() == indices.len();
            args.push(value);
        }
        let mut value = tiles.kernel.map_expr(node.get(EXPR).clone(), &args);
        if !whole {
            let axes = operands.iter().zip(&args).max_by_key(|(t, _)| t.indices.len());
            let indices_of = axes.map_or(vec![], |(t, _)| t.indices.clone());
            let narrow = Tile { value, indices: indices_of };
            value = tiles.aligned(node.graph, &narrow, &indices)?;
        }
        Ok(vec![Tile { value, indices }])
    }
}

impl Apply for Op {
    fn apply<N: Number>(cx: &Eval<'_, N>) -> Result<Vec<Tensor<N>>, GraphError> {
        let types = cx.node.operands;
        let classes: Vec<Class> = types.iter().map(Type::class).collect();
        let class = cx.results[0].class();
        let code = compile(cx.node.get(EXPR), &classes, class, cx.key);
        let (indices, shape) = (cx.indices(), cx.shape()?);
        let strides: Result<Vec<_>, _> =
            types.iter().map(|ty| cx.strides(&ty.indices, indices)).collect();
        let mut data = Data::<N>::empty(class);
        let mut scalars = vec![Scalar::Bool(false); types.len()];
        walk(&shape, &strides?, |at| {
            for ((scalar, x), at) in scalars.iter_mut().zip(cx.operands).zip(at) {
                *scalar = x.scalar(*at);
            }
            data.push(code.eval(&scalars, cx.key)?);
            Ok(())
        })?;
        cx.result(data)
    }
}

/// Functions that an expression applies.
fn operations(e: &Expr) -> i64 {
    match e {
        Expr::Arg(_) | Expr::Num(_) | Expr::Lowest => 0,
        Expr::Unary(_, a) => 1 + operations(a),
        Expr::Binary(_, a, b) => 1 + operations(a) + operations(b),
        Expr::Select(x) => 1 + x.iter().map(operations).sum::<i64>(),
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

const SAMPLES: &[Sample] = &[
    Sample {
        graph: "graph @gate(%x: f32[s, f], %y: f32[f]) -> f32[s, f]
  params f = 1, s = 3 {
  %0 = map { max(%x, 0) * %y } : f32[s, f]
  return %0
}",
        inputs: &[&[-1.0, f64::NAN, 2.0], &[3.0]],
        outputs: &[&[0.0, f64::NAN, 6.0]],
    },
    Sample {
        graph: "graph @causal(%k: i32[t], %q: i32[s]) -> bool[s, t]
  params s = 2, t = 3 {
  %0 = map { %k <= %q } : bool[s, t]
  return %0
}",
        inputs: &[&[0.0, 1.0, 2.0], &[1.0, 2.0]],
        outputs: &[&[1.0, 1.0, 0.0, 1.0, 1.0, 1.0]],
    },
    Sample {
        graph: "graph @repeat(%x: f32[s]) -> f32[s, d]
  params d = 2, s = 2 {
  %0 = map { select(%x == 0, 1 / %x, -%x) } : f32[s, d]
  return %0
}",
        inputs: &[&[-0.0, 2.0]],
        outputs: &[&[f64::NEG_INFINITY, f64::NEG_INFINITY, -2.0, -2.0]],
    },
];
