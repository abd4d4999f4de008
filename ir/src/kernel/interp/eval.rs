//! `map`: an expression over whole tiles.

use super::error::InterpError;
use super::real::Real;
use super::tile::Tile;
use crate::dtype::Class;
use crate::expr::{Binary, Expr, Unary};

/// Operands of a `map`, and how many elements it has.
pub struct Maps<'a, T> {
    /// Operands, whose elements repeat along trailing axes.
    pub args: &'a [&'a Tile<T>],
    /// Their classes.
    pub classes: &'a [Class],
    /// Elements of the result.
    pub n: usize,
}

impl<T: Real> Maps<'_, T> {
    /// The value of an expression; a literal takes the class that is wanted.
    pub fn eval(&self, e: &Expr, want: Class) -> Result<Tile<T>, InterpError> {
        match e {
            Expr::Arg(i) => Ok(repeat(self.args[*i], self.n)),
            Expr::Num(v) => Ok(match want {
                Class::Float => Tile::Float(vec![T::from_f64(*v); self.n]),
                Class::Int => Tile::Int(vec![*v as i32; self.n]),
                Class::Bool => Tile::Bool(vec![*v != 0.0; self.n]),
            }),
            Expr::Lowest => Ok(Tile::Float(vec![T::from_f64(f32::MIN.into()); self.n])),
            Expr::Unary(f, a) => {
                let want = match f {
                    Unary::Neg | Unary::Abs => want,
                    _ => self.own(a).unwrap_or(Class::Float),
                };
                Ok(unary(*f, self.eval(a, want)?))
            }
            Expr::Binary(f, a, b) => {
                let joint = self.own(a).or_else(|| self.own(b));
                let compares = f.is_comparison();
                let want =
                    if compares { joint.unwrap_or(Class::Float) } else { joint.unwrap_or(want) };
                binary(*f, self.eval(a, want)?, self.eval(b, want)?)
            }
            Expr::Select(x) => {
                let [c, a, b] = &**x;
                let want = self.own(a).or_else(|| self.own(b)).unwrap_or(want);
                let (c, a, b) =
                    (self.eval(c, Class::Bool)?, self.eval(a, want)?, self.eval(b, want)?);
                Ok(select(&c, &a, &b))
            }
        }
    }

    fn own(&self, e: &Expr) -> Option<Class> {
        e.infer(self.classes).ok().flatten()
    }
}

/// Each element as often as `n` elements need.
pub fn repeat<T: Real>(tile: &Tile<T>, n: usize) -> Tile<T> {
    if tile.len() == n {
        return tile.clone();
    }
    let times = n / tile.len().max(1);
    tile.take((0..n).map(|i| Some(i / times)))
}

/// `a` where `c`, else `b`; all of one length.
pub fn select<T: Real>(c: &Tile<T>, a: &Tile<T>, b: &Tile<T>) -> Tile<T> {
    fn pick<E: Copy>(c: &[bool], a: &[E], b: &[E]) -> Vec<E> {
        c.iter().zip(a).zip(b).map(|((c, a), b)| if *c { *a } else { *b }).collect()
    }
    match (c, a, b) {
        (Tile::Bool(c), Tile::Float(a), Tile::Float(b)) => Tile::Float(pick(c, a, b)),
        (Tile::Bool(c), Tile::Int(a), Tile::Int(b)) => Tile::Int(pick(c, a, b)),
        (Tile::Bool(c), Tile::Bool(a), Tile::Bool(b)) => Tile::Bool(pick(c, a, b)),
        _ => unreachable!("a verified expression selects among operands of one class"),
    }
}

fn unary<T: Real>(f: Unary, a: Tile<T>) -> Tile<T> {
    match (f, a) {
        (Unary::Float, Tile::Int(v)) => {
            Tile::Float(v.iter().map(|x| T::from_f64((*x).into())).collect())
        }
        (Unary::Float, Tile::Bool(v)) => {
            Tile::Float(v.iter().map(|x| T::from_f64(f64::from(*x))).collect())
        }
        (Unary::Int, Tile::Float(v)) => Tile::Int(v.iter().map(|x| x.to_int()).collect()),
        (Unary::Int, Tile::Bool(v)) => Tile::Int(v.iter().map(|x| i32::from(*x)).collect()),
        (Unary::Neg, Tile::Int(v)) => Tile::Int(v.iter().map(|x| x.wrapping_neg()).collect()),
        (Unary::Abs, Tile::Int(v)) => Tile::Int(v.iter().map(|x| x.wrapping_abs()).collect()),
        (Unary::Not, Tile::Bool(v)) => Tile::Bool(v.iter().map(|x| !x).collect()),
        (f, Tile::Float(mut v)) => {
            v.iter_mut().for_each(|x| *x = x.unary(f));
            Tile::Float(v)
        }
        (_, other) => other,
    }
}

fn zip<E: Copy, R>(a: &[E], b: &[E], f: impl Fn(E, E) -> R) -> Vec<R> {
    a.iter().zip(b).map(|(x, y)| f(*x, *y)).collect()
}

fn compare<E: Copy + PartialOrd>(f: Binary, a: &[E], b: &[E]) -> Vec<bool> {
    match f {
        Binary::Eq => zip(a, b, |x, y| x == y),
        Binary::Ne => zip(a, b, |x, y| x != y),
        Binary::Lt => zip(a, b, |x, y| x < y),
        Binary::Le => zip(a, b, |x, y| x <= y),
        Binary::Gt => zip(a, b, |x, y| x > y),
        _ => zip(a, b, |x, y| x >= y),
    }
}

fn binary<T: Real>(f: Binary, a: Tile<T>, b: Tile<T>) -> Result<Tile<T>, InterpError> {
    Ok(match (a, b) {
        (Tile::Float(a), Tile::Float(b)) => match f {
            f if f.is_comparison() => Tile::Bool(compare(f, &a, &b)),
            Binary::Add => Tile::Float(zip(&a, &b, |x, y| x + y)),
            Binary::Sub => Tile::Float(zip(&a, &b, |x, y| x - y)),
            Binary::Mul => Tile::Float(zip(&a, &b, |x, y| x * y)),
            Binary::Div => Tile::Float(zip(&a, &b, |x, y| x / y)),
            Binary::Min => Tile::Float(zip(&a, &b, T::min)),
            _ => Tile::Float(zip(&a, &b, T::max)),
        },
        (Tile::Int(a), Tile::Int(b)) => integers(f, &a, &b)?,
        (Tile::Bool(a), Tile::Bool(b)) => Tile::Bool(match f {
            Binary::And => zip(&a, &b, |x, y| x & y),
            Binary::Or => zip(&a, &b, |x, y| x | y),
            f => compare(f, &a, &b),
        }),
        _ => unreachable!("a verified expression joins operands of one class"),
    })
}

fn integers<T: Real>(f: Binary, a: &[i32], b: &[i32]) -> Result<Tile<T>, InterpError> {
    let divides = matches!(f, Binary::Div | Binary::Rem);
    if let Some(divisor) = b.iter().copied().find(|d| divides && *d <= 0) {
        return Err(InterpError::Divisor { divisor });
    }
    Ok(match f {
        f if f.is_comparison() => Tile::Bool(compare(f, a, b)),
        Binary::Add => Tile::Int(zip(a, b, i32::wrapping_add)),
        Binary::Sub => Tile::Int(zip(a, b, i32::wrapping_sub)),
        Binary::Mul => Tile::Int(zip(a, b, i32::wrapping_mul)),
        Binary::Div => Tile::Int(zip(a, b, i32::div_euclid)),
        Binary::Rem => Tile::Int(zip(a, b, i32::rem_euclid)),
        Binary::Min => Tile::Int(zip(a, b, Ord::min)),
        _ => Tile::Int(zip(a, b, Ord::max)),
    })
}
