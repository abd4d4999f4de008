//! Scalar expressions: what `map` computes for each element, in graph IR and kernel IR alike.

use crate::dtype::Class;
use std::fmt;

/// A function of one scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unary {
    /// `-x`
    Neg,
    /// Magnitude.
    Abs,
    /// Base e.
    Exp,
    /// Base 2.
    Exp2,
    /// Natural.
    Log,
    /// Base 2.
    Log2,
    /// Square root.
    Sqrt,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// Of an angle in radians.
    Sin,
    /// Of an angle in radians.
    Cos,
    /// The greatest integer not above.
    Floor,
    /// Of a truth value.
    Not,
    /// To a real number, from an integer or a truth value.
    Float,
    /// To an integer, towards zero, from a real number or a truth value.
    Int,
}

/// A function of two scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`; of integers, rounded down, `b` positive.
    Div,
    /// Remainder of integers, never negative, `b` positive.
    Rem,
    /// The lesser.
    Min,
    /// The greater.
    Max,
    /// `a == b`
    Eq,
    /// `a != b`
    Ne,
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `a > b`
    Gt,
    /// `a >= b`
    Ge,
    /// Of truth values.
    And,
    /// Of truth values.
    Or,
}

impl Unary {
    /// Every unary function with its name in text (`-` is written before its operand).
    pub const ALL: [(Unary, &'static str); 15] = [
        (Unary::Neg, "-"),
        (Unary::Abs, "abs"),
        (Unary::Exp, "exp"),
        (Unary::Exp2, "exp2"),
        (Unary::Log, "log"),
        (Unary::Log2, "log2"),
        (Unary::Sqrt, "sqrt"),
        (Unary::Sigmoid, "sigmoid"),
        (Unary::Tanh, "tanh"),
        (Unary::Sin, "sin"),
        (Unary::Cos, "cos"),
        (Unary::Floor, "floor"),
        (Unary::Not, "not"),
        (Unary::Float, "float"),
        (Unary::Int, "int"),
    ];

    /// Name in text.
    pub fn name(self) -> &'static str {
        Unary::ALL.iter().find(|(u, _)| *u == self).expect("every function is listed").1
    }
}

/// How tightly a binary operator binds; functions are written as calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// `a op b`, with its precedence (higher binds tighter); all associate to the left.
    Infix(u8),
    /// `name(a, b)`
    Call,
}

impl Binary {
    /// Every binary function with its name and notation.
    pub const ALL: [(Binary, &'static str, Notation); 15] = [
        (Binary::Or, "|", Notation::Infix(1)),
        (Binary::And, "&", Notation::Infix(2)),
        (Binary::Eq, "==", Notation::Infix(3)),
        (Binary::Ne, "!=", Notation::Infix(3)),
        (Binary::Lt, "<", Notation::Infix(3)),
        (Binary::Le, "<=", Notation::Infix(3)),
        (Binary::Gt, ">", Notation::Infix(3)),
        (Binary::Ge, ">=", Notation::Infix(3)),
        (Binary::Add, "+", Notation::Infix(4)),
        (Binary::Sub, "-", Notation::Infix(4)),
        (Binary::Mul, "*", Notation::Infix(5)),
        (Binary::Div, "/", Notation::Infix(5)),
        (Binary::Rem, "rem", Notation::Call),
        (Binary::Min, "min", Notation::Call),
        (Binary::Max, "max", Notation::Call),
    ];

    /// Name in text.
    pub fn name(self) -> &'static str {
        Binary::ALL.iter().find(|(b, ..)| *b == self).expect("every function is listed").1
    }

    /// How it is written.
    pub fn notation(self) -> Notation {
        Binary::ALL.iter().find(|(b, ..)| *b == self).expect("every function is listed").2
    }

    /// Whether the result is a truth value.
    pub fn is_comparison(self) -> bool {
        use Binary::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }
}

/// An expression over scalar operands.
///
/// Float operands of any dtype are widened to `f32` (exact); results are `f32`, `i32` or `bool`.
/// A number literal takes the class that its context asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// The operand at this position.
    Arg(usize),
    /// A literal.
    Num(f64),
    /// The least finite `f32`.
    Lowest,
    /// A function of one.
    Unary(Unary, Box<Expr>),
    /// A function of two.
    Binary(Binary, Box<Expr>, Box<Expr>),
    /// `select(c, a, b)`: a where c, else b.
    Select(Box<[Expr; 3]>),
}

/// Why an expression has no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// An operand position beyond the operands.
    #[error("the expression names operand {0}, which it lacks")]
    NoSuchOperand(usize),
    /// A function applied to a class that it does not take.
    #[error("'{function}' is applied to {found:?}, which it does not take")]
    Class {
        /// The function.
        function: &'static str,
        /// What it was given.
        found: Class,
    },
    /// Two operands that must agree do not.
    #[error("'{function}' is applied to {left:?} and {right:?}, expected one class")]
    Mismatch {
        /// The function.
        function: &'static str,
        /// First operand's class.
        left: Class,
        /// Second operand's class.
        right: Class,
    },
    /// A literal that is not an integer where one is needed.
    #[error("a literal beside integers is not an integer")]
    NotAnInteger,
}

impl Expr {
    /// `f(self)`
    pub fn unary(self, f: Unary) -> Expr {
        Expr::Unary(f, Box::new(self))
    }

    /// `f(self, other)`
    pub fn binary(self, f: Binary, other: Expr) -> Expr {
        Expr::Binary(f, Box::new(self), Box::new(other))
    }

    /// `select(self, a, b)`
    pub fn select(self, a: Expr, b: Expr) -> Expr {
        Expr::Select(Box::new([self, a, b]))
    }

    /// Number of operands it needs: one more than the largest position.
    pub fn arity(&self) -> usize {
        match self {
            Expr::Arg(i) => i + 1,
            Expr::Num(_) | Expr::Lowest => 0,
            Expr::Unary(_, a) => a.arity(),
            Expr::Binary(_, a, b) => a.arity().max(b.arity()),
            Expr::Select(x) => x.iter().map(Expr::arity).max().unwrap_or(0),
        }
    }

    /// The expression with each operand's position replaced, visited in the order of the text.
    pub fn renumber(&self, to: &mut dyn FnMut(usize) -> usize) -> Expr {
        match self {
            Expr::Arg(i) => Expr::Arg(to(*i)),
            Expr::Num(_) | Expr::Lowest => self.clone(),
            Expr::Unary(f, a) => a.renumber(to).unary(*f),
            Expr::Binary(f, a, b) => {
                let a = a.renumber(to);
                a.binary(*f, b.renumber(to))
            }
            Expr::Select(x) => {
                let [c, a, b] = &**x;
                let (c, a) = (c.renumber(to), a.renumber(to));
                c.select(a, b.renumber(to))
            }
        }
    }

    /// Class of the result, given the operands' classes. A lone literal is a float.
    pub fn class(&self, operands: &[Class]) -> Result<Class, ExprError> {
        Ok(self.infer(operands)?.unwrap_or(Class::Float))
    }

    /// As [`Expr::class`]; `None` for a literal whose class the context decides.
    pub fn infer(&self, operands: &[Class]) -> Result<Option<Class>, ExprError> {
        match self {
            Expr::Arg(i) => operands.get(*i).copied().map(Some).ok_or(ExprError::NoSuchOperand(*i)),
            Expr::Num(_) => Ok(None),
            Expr::Lowest => Ok(Some(Class::Float)),
            Expr::Unary(f, a) => {
                a.infer(operands)?.map_or_else(|| of_literal(*f), |c| of_unary(*f, c))
            }
            Expr::Binary(f, a, b) => {
                let joined = join(f.name(), a, b, operands)?;
                of_binary(*f, joined)
            }
            Expr::Select(x) => {
                let [c, a, b] = &**x;
                match c.infer(operands)? {
                    Some(Class::Bool) => join("select", a, b, operands),
                    found => Err(ExprError::Class {
                        function: "select",
                        found: found.unwrap_or(Class::Float),
                    }),
                }
            }
        }
    }
}

fn join(
    function: &'static str,
    a: &Expr,
    b: &Expr,
    operands: &[Class],
) -> Result<Option<Class>, ExprError> {
    let (ca, cb) = (a.infer(operands)?, b.infer(operands)?);
    match (ca, cb) {
        (Some(left), Some(right)) if left != right => {
            Err(ExprError::Mismatch { function, left, right })
        }
        (Some(Class::Int), None) => integral(b).map(|()| ca),
        (None, Some(Class::Int)) => integral(a).map(|()| cb),
        _ => Ok(ca.or(cb)),
    }
}

fn integral(e: &Expr) -> Result<(), ExprError> {
    match e {
        Expr::Num(v) if v.fract() != 0.0 || v.abs() > i32::MAX as f64 => {
            Err(ExprError::NotAnInteger)
        }
        Expr::Num(_) => Ok(()),
        Expr::Unary(_, a) => integral(a),
        Expr::Binary(_, a, b) => integral(a).and_then(|()| integral(b)),
        Expr::Arg(_) | Expr::Lowest | Expr::Select(_) => Ok(()),
    }
}

fn of_literal(f: Unary) -> Result<Option<Class>, ExprError> {
    match f {
        Unary::Neg | Unary::Abs => Ok(None),
        Unary::Not => Err(ExprError::Class { function: f.name(), found: Class::Float }),
        Unary::Int => Ok(Some(Class::Int)),
        _ => Ok(Some(Class::Float)),
    }
}

fn of_unary(f: Unary, operand: Class) -> Result<Option<Class>, ExprError> {
    let wrong = Err(ExprError::Class { function: f.name(), found: operand });
    match (f, operand) {
        (Unary::Neg | Unary::Abs, Class::Float | Class::Int) => Ok(Some(operand)),
        (Unary::Not, Class::Bool) => Ok(Some(Class::Bool)),
        (Unary::Float, _) => Ok(Some(Class::Float)),
        (Unary::Int, _) => Ok(Some(Class::Int)),
        (Unary::Neg | Unary::Abs | Unary::Not, _) => wrong,
        (_, Class::Float) => Ok(Some(Class::Float)),
        _ => wrong,
    }
}

fn of_binary(f: Binary, joined: Option<Class>) -> Result<Option<Class>, ExprError> {
    let wrong = |found| Err(ExprError::Class { function: f.name(), found });
    match f {
        Binary::And | Binary::Or => match joined {
            Some(Class::Bool) => Ok(joined),
            other => wrong(other.unwrap_or(Class::Float)),
        },
        Binary::Rem if joined == Some(Class::Float) => wrong(Class::Float),
        Binary::Eq | Binary::Ne => Ok(Some(Class::Bool)),
        _ if joined == Some(Class::Bool) => wrong(Class::Bool),
        _ if f.is_comparison() => Ok(Some(Class::Bool)),
        _ => Ok(joined),
    }
}

/// An expression together with what its operands are called.
pub struct Named<'a, F: Fn(usize) -> String>(pub &'a Expr, pub F);

impl<F: Fn(usize) -> String> fmt::Display for Named<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_expr(f, self.0, &self.1, 0)
    }
}

/// Text that parses back to the same bits (NaN aside).
pub(crate) fn literal(v: f64) -> String {
    if v.is_nan() {
        "nan".to_string()
    } else if v == 0.0 || v.is_infinite() || (1e-5..1e16).contains(&v.abs()) {
        v.to_string()
    } else {
        format!("{v:e}")
    }
}

fn write_expr(
    f: &mut fmt::Formatter<'_>,
    e: &Expr,
    name: &dyn Fn(usize) -> String,
    above: u8,
) -> fmt::Result {
    match e {
        Expr::Arg(i) => f.write_str(&name(*i)),
        Expr::Num(v) => f.write_str(&literal(*v)),
        Expr::Lowest => f.write_str("lowest"),
        Expr::Unary(Unary::Neg, a) => {
            // `-3` is a literal; the negation of one is `-(3)`.
            let (open, close) = if matches!(**a, Expr::Num(_)) { ("(", ")") } else { ("", "") };
            write!(f, "-{open}")?;
            write_expr(f, a, name, 9)?;
            f.write_str(close)
        }
        Expr::Unary(u, a) => {
            write!(f, "{}(", u.name())?;
            write_expr(f, a, name, 0)?;
            f.write_str(")")
        }
        Expr::Binary(b, x, y) => match b.notation() {
            Notation::Call => {
                write!(f, "{}(", b.name())?;
                write_expr(f, x, name, 0)?;
                f.write_str(", ")?;
                write_expr(f, y, name, 0)?;
                f.write_str(")")
            }
            Notation::Infix(p) => {
                let (open, close) = if p < above { ("(", ")") } else { ("", "") };
                f.write_str(open)?;
                write_expr(f, x, name, p)?;
                write!(f, " {} ", b.name())?;
                write_expr(f, y, name, p + 1)?;
                f.write_str(close)
            }
        },
        Expr::Select(x) => {
            f.write_str("select(")?;
            for (i, part) in x.iter().enumerate() {
                f.write_str(if i == 0 { "" } else { ", " })?;
                write_expr(f, part, name, 0)?;
            }
            f.write_str(")")
        }
    }
}
