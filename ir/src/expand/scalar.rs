//! Expressions of `map` on registers.

use super::tile::power_of_two;
use super::{Expander, Result};
use crate::expr::{Binary, Expr, Unary};
use crate::loops::{Arith, Cmp, Convert, Elem, Func, Inst, Reg};

impl Expander<'_> {
    /// The expression's value; operands are `F32`, `I32` or `Bool` and perhaps vectors.
    pub fn expr(&mut self, expr: &Expr, args: &[Reg]) -> Result<Reg> {
        self.expr_as(expr, args, None)
    }

    /// `expected` decides what a lone literal is.
    fn expr_as(&mut self, expr: &Expr, args: &[Reg], expected: Option<Elem>) -> Result<Reg> {
        Ok(match expr {
            Expr::Arg(i) => args[*i],
            Expr::Num(v) => match expected {
                Some(Elem::I32) => self.em.int32(*v as i64),
                _ => self.em.float(*v),
            },
            Expr::Lowest => self.em.float(f64::from(f32::MIN)),
            Expr::Unary(f, a) => {
                let wanted = match f {
                    Unary::Neg | Unary::Abs => expected,
                    Unary::Not => Some(Elem::Bool),
                    _ => Some(Elem::F32),
                };
                let a = self.expr_as(a, args, wanted)?;
                self.unary(*f, a)
            }
            Expr::Binary(f, a, b) => {
                let elem = match elem_of(a, args, &self.em.regs).or(elem_of(b, args, &self.em.regs))
                {
                    None if !f.is_comparison() => expected,
                    found => found,
                };
                let power = power_of_two(b);
                let a = self.expr_as(a, args, elem)?;
                let b = self.expr_as(b, args, elem)?;
                self.binary(*f, a, b, power)
            }
            Expr::Select(parts) => {
                let [c, a, b] = &**parts;
                let elem = elem_of(a, args, &self.em.regs).or(elem_of(b, args, &self.em.regs));
                let elem = elem.or(expected);
                let c = self.expr_as(c, args, Some(Elem::Bool))?;
                let a = self.expr_as(a, args, elem)?;
                let b = self.expr_as(b, args, elem)?;
                self.em.select(c, a, b)
            }
        })
    }

    fn unary(&mut self, f: Unary, a: Reg) -> Reg {
        let elem = self.em.ty(a).elem;
        match f {
            Unary::Neg if elem == Elem::I32 => {
                let zero = self.em.int_like(a, 0);
                self.em.sub(zero, a)
            }
            Unary::Neg => self.em.func(Func::Neg, a),
            Unary::Abs if elem == Elem::I32 => {
                let zero = self.em.int_like(a, 0);
                let negative = self.em.sub(zero, a);
                self.em.max(a, negative)
            }
            Unary::Abs => self.em.func(Func::Abs, a),
            Unary::Exp => self.em.exp(a),
            Unary::Exp2 => self.em.exp2(a),
            Unary::Log => self.em.log(a),
            Unary::Log2 => self.em.log2(a),
            Unary::Sqrt => self.em.func(Func::Sqrt, a),
            Unary::Sigmoid => self.em.sigmoid(a),
            Unary::Tanh => self.em.tanh(a),
            Unary::Sin => self.em.sin(a),
            Unary::Cos => self.em.cos(a),
            Unary::Floor => self.em.func(Func::Floor, a),
            Unary::Not => self.em.func(Func::Not, a),
            Unary::Float => self.as_float(a),
            Unary::Int => match elem {
                Elem::F32 => self.em.convert(Convert::F32ToI32, a),
                Elem::Bool => self.em.convert(Convert::BoolToI32, a),
                _ => a,
            },
        }
    }

    fn binary(&mut self, f: Binary, a: Reg, b: Reg, power: Option<u32>) -> Reg {
        let elem = self.em.ty(a).elem;
        match f {
            Binary::Add => self.em.add(a, b),
            Binary::Sub => self.em.sub(a, b),
            Binary::Mul => self.em.mul(a, b),
            Binary::Div if elem == Elem::I32 => self.floor_quotient(a, b, power),
            Binary::Div => self.em.arith(Arith::Div, a, b),
            Binary::Rem => self.floor_remainder(a, b, power),
            Binary::Min => self.em.min(a, b),
            Binary::Max => self.em.max(a, b),
            Binary::Eq if elem == Elem::Bool => {
                let differ = self.em.arith(Arith::Xor, a, b);
                self.em.func(Func::Not, differ)
            }
            Binary::Ne if elem == Elem::Bool => self.em.arith(Arith::Xor, a, b),
            Binary::Eq => self.em.cmp(Cmp::Eq, a, b),
            Binary::Ne => self.em.cmp(Cmp::Ne, a, b),
            Binary::Lt => self.em.cmp(Cmp::Lt, a, b),
            Binary::Le => self.em.cmp(Cmp::Le, a, b),
            Binary::Gt => self.em.cmp(Cmp::Gt, a, b),
            Binary::Ge => self.em.cmp(Cmp::Ge, a, b),
            Binary::And => self.em.and(a, b),
            Binary::Or => self.em.arith(Arith::Or, a, b),
        }
    }

    /// A divisor of 0 (of elements whose value nobody uses) must not trap.
    fn positive(&mut self, b: Reg) -> Reg {
        let one = self.em.like(b, 1.0);
        self.em.max(b, one)
    }

    /// Rounded down, `b` positive.
    pub fn floor_quotient(&mut self, a: Reg, b: Reg, power: Option<u32>) -> Reg {
        if let Some(power) = power {
            return self.em.arith_imm(Arith::ShrS, a, power.into());
        }
        let b = self.positive(b);
        let q = self.em.arith(Arith::Div, a, b);
        let product = self.em.mul(q, b);
        let above = self.em.cmp(Cmp::Gt, product, a);
        let less = self.em.add_imm(q, -1);
        self.em.select(above, less, q)
    }

    fn floor_remainder(&mut self, a: Reg, b: Reg, power: Option<u32>) -> Reg {
        if let Some(power) = power {
            return self.em.arith_imm(Arith::And, a, (1i64 << power) - 1);
        }
        let b = self.positive(b);
        let r = self.em.arith(Arith::Rem, a, b);
        let zero = self.em.like(r, 0.0);
        let below = self.em.cmp(Cmp::Lt, r, zero);
        let up = self.em.add(r, b);
        self.em.select(below, up, r)
    }

    /// A truth constant.
    pub fn truth(&mut self, value: bool) -> Reg {
        self.em.inst(Elem::Bool, 1, Inst::Int(value.into()))
    }
}

/// Element of an expression, unless it is made of literals alone.
fn elem_of(expr: &Expr, args: &[Reg], regs: &[crate::loops::RegType]) -> Option<Elem> {
    match expr {
        Expr::Arg(i) => Some(regs[args[*i].0 as usize].elem),
        Expr::Num(_) => None,
        Expr::Lowest => Some(Elem::F32),
        Expr::Unary(f, a) => match f {
            Unary::Neg | Unary::Abs => elem_of(a, args, regs),
            Unary::Not => Some(Elem::Bool),
            Unary::Int => Some(Elem::I32),
            _ => Some(Elem::F32),
        },
        Expr::Binary(f, a, b) => match f {
            _ if f.is_comparison() => Some(Elem::Bool),
            Binary::And | Binary::Or => Some(Elem::Bool),
            Binary::Rem => Some(Elem::I32),
            _ => elem_of(a, args, regs).or(elem_of(b, args, regs)),
        },
        Expr::Select(x) => elem_of(&x[1], args, regs).or(elem_of(&x[2], args, regs)),
    }
}
