//! Scalar expressions over a number type.

use super::Number;
use crate::dtype::Class;
use crate::expr::{Binary, Expr, Unary};
use crate::graph::error::GraphError;
use std::cmp::Ordering;

/// A number of any class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<N> {
    /// A real number.
    Float(N),
    /// An integer.
    Int(i32),
    /// A truth value.
    Bool(bool),
}

/// An expression whose literals have found their class.
#[derive(Clone, Debug)]
pub enum Code<N> {
    /// The operand at this position.
    Arg(usize),
    /// A literal.
    Value(Scalar<N>),
    /// A function of one.
    Unary(Unary, Box<Code<N>>),
    /// A function of two.
    Binary(Binary, Box<[Code<N>; 2]>),
    /// The second where the first holds, else the third.
    Select(Box<[Code<N>; 3]>),
}

/// The class an expression has by itself; `None` where its context decides.
fn own_class(e: &Expr, operands: &[Class]) -> Option<Class> {
    match e {
        Expr::Arg(i) => operands.get(*i).copied(),
        Expr::Num(_) => None,
        Expr::Lowest => Some(Class::Float),
        Expr::Unary(Unary::Neg | Unary::Abs, a) => own_class(a, operands),
        Expr::Unary(Unary::Not, _) => Some(Class::Bool),
        Expr::Unary(Unary::Int, _) => Some(Class::Int),
        Expr::Unary(..) => Some(Class::Float),
        Expr::Binary(Binary::And | Binary::Or, ..) => Some(Class::Bool),
        Expr::Binary(f, ..) if f.is_comparison() => Some(Class::Bool),
        Expr::Binary(_, a, b) => own_class(a, operands).or_else(|| own_class(b, operands)),
        Expr::Select(x) => own_class(&x[1], operands).or_else(|| own_class(&x[2], operands)),
    }
}

/// Gives an expression that has a type its literals' classes; `want` is that of its result.
pub fn compile<N: Number>(e: &Expr, operands: &[Class], want: Class, key: u64) -> Code<N> {
    let part = |e: &Expr, want| compile(e, operands, want, key);
    let of = |e: &Expr| own_class(e, operands).unwrap_or(Class::Float);
    match e {
        Expr::Arg(i) => Code::Arg(*i),
        Expr::Num(v) => Code::Value(match want {
            Class::Float => Scalar::Float(N::from_f64(*v)),
            Class::Int => Scalar::Int(*v as i32),
            Class::Bool => Scalar::Bool(*v != 0.0),
        }),
        Expr::Lowest => Code::Value(Scalar::Float(N::lowest(key))),
        Expr::Unary(f, a) => {
            let want = match f {
                Unary::Neg | Unary::Abs => want,
                Unary::Not => Class::Bool,
                Unary::Float | Unary::Int => of(a),
                _ => Class::Float,
            };
            Code::Unary(*f, Box::new(part(a, want)))
        }
        Expr::Binary(f, a, b) => {
            let joint = || own_class(a, operands).or_else(|| own_class(b, operands));
            let want = match f {
                Binary::And | Binary::Or => Class::Bool,
                f if f.is_comparison() => joint().unwrap_or(Class::Float),
                _ => want,
            };
            Code::Binary(*f, Box::new([part(a, want), part(b, want)]))
        }
        Expr::Select(x) => {
            let [c, a, b] = &**x;
            Code::Select(Box::new([part(c, Class::Bool), part(a, want), part(b, want)]))
        }
    }
}

impl<N: Number> Code<N> {
    /// The value; of a `select` only the chosen part is evaluated.
    ///
    /// Errors: E0129.
    pub fn eval(&self, operands: &[Scalar<N>], key: u64) -> Result<Scalar<N>, GraphError> {
        match self {
            Code::Arg(i) => Ok(operands[*i]),
            Code::Value(v) => Ok(*v),
            Code::Unary(f, a) => Ok(unary(*f, a.eval(operands, key)?, key)),
            Code::Binary(f, x) => {
                binary(*f, x[0].eval(operands, key)?, x[1].eval(operands, key)?, key)
            }
            Code::Select(x) => {
                let chosen = x[0].eval(operands, key)? == Scalar::Bool(true);
                x[if chosen { 1 } else { 2 }].eval(operands, key)
            }
        }
    }
}

fn unary<N: Number>(f: Unary, a: Scalar<N>, key: u64) -> Scalar<N> {
    match (f, a) {
        (Unary::Float, Scalar::Int(v)) => Scalar::Float(N::from_i64(v.into())),
        (Unary::Float, Scalar::Bool(v)) => Scalar::Float(N::from_i64(v.into())),
        (Unary::Int, Scalar::Float(v)) => Scalar::Int(v.to_int(key)),
        (Unary::Int, Scalar::Bool(v)) => Scalar::Int(v.into()),
        (Unary::Neg, Scalar::Int(v)) => Scalar::Int(v.wrapping_neg()),
        (Unary::Abs, Scalar::Int(v)) => Scalar::Int(v.wrapping_abs()),
        (Unary::Not, Scalar::Bool(v)) => Scalar::Bool(!v),
        (f, Scalar::Float(v)) => Scalar::Float(v.unary(f, key)),
        (_, other) => other,
    }
}

fn binary<N: Number>(
    f: Binary,
    a: Scalar<N>,
    b: Scalar<N>,
    key: u64,
) -> Result<Scalar<N>, GraphError> {
    match (a, b) {
        (Scalar::Float(x), Scalar::Float(y)) => of_floats(f, x, y, key),
        (Scalar::Int(x), Scalar::Int(y)) => of_ints(f, x, y),
        (Scalar::Bool(x), Scalar::Bool(y)) => Ok(Scalar::Bool(match f {
            Binary::And => x & y,
            Binary::Ne => x != y,
            Binary::Eq => x == y,
            _ => x | y,
        })),
        (a, _) => Ok(a),
    }
}

fn of_floats<N: Number>(f: Binary, x: N, y: N, key: u64) -> Result<Scalar<N>, GraphError> {
    let order = || x.order(y, key);
    let number = match f {
        Binary::Add => x.add(y),
        Binary::Sub => x.sub(y),
        Binary::Mul => x.mul(y),
        Binary::Div => x.div(y)?,
        Binary::Min => x.min(y, key),
        Binary::Max => x.max(y, key),
        Binary::Eq => return Ok(Scalar::Bool(x == y)),
        Binary::Ne => return Ok(Scalar::Bool(x != y)),
        Binary::Lt => return Ok(Scalar::Bool(order() == Some(Ordering::Less))),
        Binary::Gt => return Ok(Scalar::Bool(order() == Some(Ordering::Greater))),
        Binary::Le => return Ok(Scalar::Bool(order().is_some_and(Ordering::is_le))),
        Binary::Ge => return Ok(Scalar::Bool(order().is_some_and(Ordering::is_ge))),
        // Typing keeps these from real numbers.
        Binary::Rem | Binary::And | Binary::Or => x,
    };
    Ok(Scalar::Float(number))
}

fn of_ints<N>(f: Binary, x: i32, y: i32) -> Result<Scalar<N>, GraphError> {
    if matches!(f, Binary::Div | Binary::Rem) && y <= 0 {
        return Err(GraphError::Divisor(y));
    }
    Ok(Scalar::Int(match f {
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::Mul => x.wrapping_mul(y),
        Binary::Div => x.div_euclid(y),
        Binary::Rem => x.rem_euclid(y),
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Eq => return Ok(Scalar::Bool(x == y)),
        Binary::Ne => return Ok(Scalar::Bool(x != y)),
        Binary::Lt => return Ok(Scalar::Bool(x < y)),
        Binary::Le => return Ok(Scalar::Bool(x <= y)),
        Binary::Gt => return Ok(Scalar::Bool(x > y)),
        Binary::Ge => return Ok(Scalar::Bool(x >= y)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Field;
    use crate::text::Parser;

    fn value<N: Number>(text: &str, operands: &[Scalar<N>]) -> Result<Scalar<N>, GraphError> {
        let mut parser = Parser::new(text);
        let e = parser
            .expr(&mut |t| ["a", "b", "c"].iter().position(|n| *n == t.text))
            .expect("a well-formed expression");
        let class = |s: &Scalar<N>| match s {
            Scalar::Float(_) => Class::Float,
            Scalar::Int(_) => Class::Int,
            Scalar::Bool(_) => Class::Bool,
        };
        let classes: Vec<Class> = operands.iter().map(class).collect();
        let want = e.class(&classes).expect("a typed expression");
        compile(&e, &classes, want, 3).eval(operands, 3)
    }

    #[test]
    fn literals_take_the_class_of_their_context() {
        let ints = [Scalar::<f64>::Int(-7), Scalar::Int(2)];
        assert_eq!(value("a / b", &ints), Ok(Scalar::Int(-4)));
        assert_eq!(value("rem(a, b)", &ints), Ok(Scalar::Int(1)));
        assert_eq!(value("select(b == 2, 1, a) / 2", &ints), Ok(Scalar::Int(0)));
        assert_eq!(value("float(a) / 2", &ints), Ok(Scalar::Float(-3.5)));
        assert_eq!(value("a / (b - 2)", &ints), Err(GraphError::Divisor(0)));
        assert_eq!(value("1 / 2 < 3 / 4", &ints[..0]), Ok(Scalar::Bool(true)));
    }

    #[test]
    fn nan_and_signed_zero() {
        let x = [Scalar::Float(f64::NAN), Scalar::Float(0.0)];
        for text in ["max(a, b)", "max(b, a)", "min(a, b)", "min(b, a)"] {
            assert!(matches!(value(text, &x), Ok(Scalar::Float(v)) if v.is_nan()), "{text}");
        }
        assert_eq!(value("a < b | a >= b | a == a", &x), Ok(Scalar::Bool(false)));
        assert_eq!(value("1 / -b", &x), Ok(Scalar::Float(f64::NEG_INFINITY)));
        assert_eq!(value("int(a)", &x), Ok(Scalar::Int(0)));
    }

    #[test]
    fn the_field_divides_and_keeps_zero() {
        let x = [Scalar::Float(Field::new(6)), Scalar::Float(Field::new(0))];
        assert_eq!(value("a / 3", &x), Ok(Scalar::Float(Field::new(2))));
        assert_eq!(value("a / b", &x), Err(GraphError::Resample));
        assert_eq!(value("select(a == b, a / b, b)", &x), Ok(x[1]));
        assert_eq!(value("sqrt(b) + tanh(b) + abs(b)", &x), Ok(x[1]));
        assert_ne!(value("exp(b)", &x), Ok(x[1]));
        assert_ne!(value("sigmoid(a)", &x), value("exp(a)", &x));
    }
}
