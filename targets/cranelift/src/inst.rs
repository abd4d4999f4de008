//! Loop programs to Cranelift IR: arithmetic.

use crate::CraneliftError;
use crate::emit::{Emit, Origin, ty};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{I8, I32, I32X4, I64};
use cranelift_codegen::ir::{ConstantData, InstBuilder, MemFlagsData, Value};
use ir::loops::{Arith, Cmp, Elem, Func, Inst, Reg, RegType};

type Emitted = Result<Value, CraneliftError>;

impl Emit<'_, '_> {
    /// The value of an instruction.
    pub fn inst(&mut self, result: RegType, inst: &Inst) -> Emitted {
        match inst {
            Inst::Float(v) => Ok(self.float(result, *v)),
            Inst::Int(v) => Ok(self.int(result, *v)),
            Inst::Begin => Ok(self.params[1]),
            Inst::End => Ok(self.params[2]),
            Inst::Scratch(offset) => {
                let offset = self.b.ins().iconst(I64, *offset as i64);
                Ok(self.b.ins().iadd(self.params[3], offset))
            }
            Inst::Argument(i) => {
                // Kernels do not write to their arguments.
                let flags = MemFlagsData::trusted().with_readonly();
                Ok(self.b.ins().load(I64, flags, self.params[0], 8 * *i as i32))
            }
            Inst::Arith(op, a, b) => self.arith(result, *op, *a, *b),
            Inst::Fma(a, b, c) => {
                let (a, b, c) = (self.get(*a)?, self.get(*b)?, self.get(*c)?);
                if self.isa.fma {
                    return Ok(self.b.ins().fma(a, b, c));
                }
                let product = self.b.ins().fmul(a, b);
                Ok(self.b.ins().fadd(product, c))
            }
            Inst::Func(f, a) => self.func(result, *f, *a),
            Inst::Convert(c, a) => self.convert(result, *c, *a),
            Inst::Cmp(c, a, b) => self.cmp(*c, *a, *b),
            Inst::Select(c, a, b) => {
                let (c, a, b) = (self.get(*c)?, self.get(*a)?, self.get(*b)?);
                if result.lanes == 1 {
                    return Ok(self.b.ins().select(c, a, b));
                }
                let c = self.as_type(c, ty(result));
                Ok(self.b.ins().bitselect(c, a, b))
            }
            Inst::Splat(a) => self.splat(result, *a),
            Inst::Iota => Ok(self.iota(result)),
            Inst::Extract(a, lane) => {
                let a = self.get(*a)?;
                let value = self.b.ins().extractlane(a, *lane as u8);
                Ok(self.truth(result, value))
            }
            Inst::Across(op, a) => self.across(result, *op, *a),
            Inst::Load { elem, address, offset } => self.load(result, *elem, *address, *offset),
        }
    }

    fn float(&mut self, result: RegType, v: f64) -> Value {
        if result.elem == Elem::F64 {
            return self.b.ins().f64const(v);
        }
        let v = v as f32;
        match result.lanes {
            1 => self.b.ins().f32const(v),
            _ => self.constant(result, [v.to_bits(); 4]),
        }
    }

    fn int(&mut self, result: RegType, v: i64) -> Value {
        let mask = if v != 0 { u32::MAX } else { 0 };
        match (result.elem, result.lanes) {
            (Elem::Bool, 1) => self.b.ins().iconst(I8, i64::from(v != 0)),
            (Elem::Bool, _) => self.constant(result, [mask; 4]),
            (Elem::I32, 1) => self.b.ins().iconst(I32, i64::from(v as u32)),
            (Elem::I32, _) => self.constant(result, [v as u32; 4]),
            _ => self.b.ins().iconst(I64, v),
        }
    }

    /// A constant vector.
    fn constant(&mut self, result: RegType, lanes: [u32; 4]) -> Value {
        let bytes: Vec<u8> = lanes.iter().flat_map(|l| l.to_le_bytes()).collect();
        let data = self.b.func.dfg.constants.insert(ConstantData::from(bytes));
        self.b.ins().vconst(ty(result), data)
    }

    fn iota(&mut self, result: RegType) -> Value {
        match result.elem {
            Elem::F32 => self.constant(result, [0.0f32, 1.0, 2.0, 3.0].map(f32::to_bits)),
            _ => self.constant(result, [0, 1, 2, 3]),
        }
    }

    /// The bits as another type of their size.
    pub fn as_type(&mut self, value: Value, to: cranelift_codegen::ir::Type) -> Value {
        let from = self.b.func.dfg.value_type(value);
        if from == to {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little);
        self.b.ins().bitcast(to, flags, value)
    }

    /// A lane of a mask as a truth value; other values as they are.
    fn truth(&mut self, result: RegType, lane: Value) -> Value {
        if result.elem != Elem::Bool {
            return lane;
        }
        let one = self.b.ins().iconst(I32, 1);
        let bit = self.b.ins().band(lane, one);
        self.b.ins().ireduce(I8, bit)
    }

    fn splat(&mut self, result: RegType, a: Reg) -> Emitted {
        let a = self.get(a)?;
        if result.elem != Elem::Bool {
            return Ok(self.b.ins().splat(ty(result), a));
        }
        let wide = self.b.ins().uextend(I32, a);
        let mask = self.b.ins().ineg(wide);
        Ok(self.b.ins().splat(I32X4, mask))
    }

    fn arith(&mut self, result: RegType, op: Arith, ra: Reg, rb: Reg) -> Emitted {
        let (a, b) = (self.get(ra)?, self.get(rb)?);
        if matches!(result.elem, Elem::F32 | Elem::F64) {
            return self.float_arith(op, a, b);
        }
        Ok(match op {
            Arith::Add => self.b.ins().iadd(a, b),
            Arith::Sub => self.b.ins().isub(a, b),
            Arith::Mul => self.b.ins().imul(a, b),
            Arith::Div => self.b.ins().sdiv(a, b),
            Arith::Rem => self.b.ins().srem(a, b),
            Arith::Min => self.b.ins().smin(a, b),
            Arith::Max => self.b.ins().smax(a, b),
            Arith::And => self.b.ins().band(a, b),
            Arith::Or => self.b.ins().bor(a, b),
            Arith::Xor => self.b.ins().bxor(a, b),
            Arith::Shl | Arith::ShrU | Arith::ShrS => return self.shift(result, op, a, rb),
        })
    }

    fn float_arith(&mut self, op: Arith, a: Value, b: Value) -> Emitted {
        Ok(match op {
            Arith::Add => self.b.ins().fadd(a, b),
            Arith::Sub => self.b.ins().fsub(a, b),
            Arith::Mul => self.b.ins().fmul(a, b),
            Arith::Div => self.b.ins().fdiv(a, b),
            // In the form that is one instruction on x86: of NaN it gives the second operand.
            Arith::Min => {
                let less = self.b.ins().fcmp(FloatCC::LessThan, a, b);
                self.pick(less, a, b)
            }
            Arith::Max => {
                let less = self.b.ins().fcmp(FloatCC::LessThan, b, a);
                self.pick(less, a, b)
            }
            other => return Err(self.refused(format!("{other:?} of floats"))),
        })
    }

    /// `a` where `cond`, as `fcmp` gives it.
    fn pick(&mut self, cond: Value, a: Value, b: Value) -> Value {
        let of = self.b.func.dfg.value_type(a);
        if of.is_vector() {
            let cond = self.as_type(cond, of);
            return self.b.ins().bitselect(cond, a, b);
        }
        self.b.ins().select(cond, a, b)
    }

    /// Vectors are shifted by one amount; lane by lane where amounts may differ.
    fn shift(&mut self, result: RegType, op: Arith, a: Value, by: Reg) -> Emitted {
        let amount = match (result.lanes, self.origins[by.0 as usize]) {
            (1, _) => Some(self.get(by)?),
            (_, Origin::Int(v)) => Some(self.b.ins().iconst(I32, v)),
            (_, Origin::Splat(scalar)) => Some(self.get(scalar)?),
            (_, Origin::Other) => None,
        };
        if let Some(amount) = amount {
            return Ok(self.shift_by(op, a, amount));
        }
        let amounts = self.get(by)?;
        let mut vector = a;
        for lane in 0..4u8 {
            let one = self.b.ins().extractlane(a, lane);
            let amount = self.b.ins().extractlane(amounts, lane);
            let one = self.shift_by(op, one, amount);
            vector = self.b.ins().insertlane(vector, one, lane);
        }
        Ok(vector)
    }

    fn shift_by(&mut self, op: Arith, a: Value, by: Value) -> Value {
        match op {
            Arith::Shl => self.b.ins().ishl(a, by),
            Arith::ShrU => self.b.ins().ushr(a, by),
            _ => self.b.ins().sshr(a, by),
        }
    }

    fn func(&mut self, result: RegType, f: Func, a: Reg) -> Emitted {
        let a = self.get(a)?;
        Ok(match f {
            Func::Neg => self.b.ins().fneg(a),
            Func::Abs => self.b.ins().fabs(a),
            Func::Sqrt => self.b.ins().sqrt(a),
            Func::Floor => self.b.ins().floor(a),
            Func::Nearest => self.b.ins().nearest(a),
            Func::Not if result.lanes > 1 => self.b.ins().bnot(a),
            Func::Not => {
                let one = self.b.ins().iconst(I8, 1);
                self.b.ins().bxor(a, one)
            }
        })
    }

    fn cmp(&mut self, c: Cmp, ra: Reg, rb: Reg) -> Emitted {
        let (a, b) = (self.get(ra)?, self.get(rb)?);
        if matches!(self.reg_type(ra).elem, Elem::F32 | Elem::F64) {
            let code = match c {
                Cmp::Eq => FloatCC::Equal,
                Cmp::Ne => FloatCC::NotEqual,
                Cmp::Lt => FloatCC::LessThan,
                Cmp::Le => FloatCC::LessThanOrEqual,
                Cmp::Gt => FloatCC::GreaterThan,
                Cmp::Ge => FloatCC::GreaterThanOrEqual,
            };
            return Ok(self.b.ins().fcmp(code, a, b));
        }
        let code = match c {
            Cmp::Eq => IntCC::Equal,
            Cmp::Ne => IntCC::NotEqual,
            Cmp::Lt => IntCC::SignedLessThan,
            Cmp::Le => IntCC::SignedLessThanOrEqual,
            Cmp::Gt => IntCC::SignedGreaterThan,
            Cmp::Ge => IntCC::SignedGreaterThanOrEqual,
        };
        Ok(self.b.ins().icmp(code, a, b))
    }

    /// Lanes combined pairwise.
    fn across(&mut self, result: RegType, op: Arith, a: Reg) -> Emitted {
        let a = self.get(a)?;
        let lanes: Vec<Value> = (0..4u8).map(|l| self.b.ins().extractlane(a, l)).collect();
        let both = |e: &mut Self, x: Value, y: Value| -> Emitted {
            match (result.elem, op) {
                (Elem::F32, _) => e.float_arith(op, x, y),
                (_, Arith::Min) => Ok(e.b.ins().smin(x, y)),
                (_, Arith::Max) => Ok(e.b.ins().smax(x, y)),
                _ => Ok(e.b.ins().iadd(x, y)),
            }
        };
        let low = both(self, lanes[0], lanes[2])?;
        let high = both(self, lanes[1], lanes[3])?;
        both(self, low, high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cranelift_codegen::ir::types::{F32, F32X4, F64};

    #[test]
    fn types_have_the_lanes_of_the_target() {
        let of = |elem, lanes| ty(RegType { elem, lanes });
        assert_eq!((of(Elem::F32, 1), of(Elem::F32, 4)), (F32, F32X4));
        assert_eq!((of(Elem::Bool, 1), of(Elem::Bool, 4)), (I8, I32X4));
        assert_eq!((of(Elem::F64, 1), of(Elem::I64, 1)), (F64, I64));
    }
}
