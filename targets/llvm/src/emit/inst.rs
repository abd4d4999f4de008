//! Instructions of loop IR, one by one.

use super::{Emitter, I64};
use crate::code::Val;
use crate::error::LlvmError;
use inkwell::values::InstructionOpcode as Opcode;
use inkwell::{FloatPredicate, IntPredicate};
use ir::loops::{Arith, Cmp, Convert, Elem, Func, Inst, MemElem, Reg, RegType};

impl<'c> Emitter<'_, 'c> {
    /// Computes a register of type `t`.
    pub(super) fn inst(&self, t: RegType, inst: &Inst) -> Result<Val<'c>, LlvmError> {
        let (c, ty) = (self.code, self.llvm_type(t));
        let same = |r: &Reg| self.get_as(*r, t);
        let like = |r: &Reg, elem| self.get_as(*r, RegType { elem, lanes: t.lanes });
        let scalar = RegType { elem: t.elem, lanes: 1 };
        Ok(match inst {
            Inst::Float(v) if is_float(t.elem) => c.float(ty, *v),
            Inst::Int(v) if !is_float(t.elem) => c.int(ty, *v),
            Inst::Begin => self.params[1],
            Inst::End => self.params[2],
            Inst::Scratch(at) => {
                let at = i64::try_from(*at)
                    .map_err(|_| self.malformed(format!("scratch offset {at}"), "63 bits"))?;
                c.add(c.address(self.params[3]), c.c64(at))
            }
            Inst::Argument(i) => self
                .arguments
                .get(i)
                .copied()
                .flatten()
                .ok_or_else(|| self.malformed(format!("argument {i}"), "one seen on entry"))?,
            Inst::Arith(op, a, b) => self.arith(*op, t, same(a)?, same(b)?)?,
            Inst::Fma(a, b, x) if is_float(t.elem) => c.fma(same(a)?, same(b)?, same(x)?),
            Inst::Func(f, a) => self.func(*f, t, same(a)?)?,
            Inst::Convert(k, a) => self.convert(*k, t, *a)?,
            Inst::Cmp(op, a, b) if t.elem == Elem::Bool => {
                let of = self.type_of(*a)?;
                if of.lanes != t.lanes {
                    return Err(self.malformed(format!("{of:?}"), format!("{} lanes", t.lanes)));
                }
                self.compare(*op, of, self.get(*a)?, self.get_as(*b, of)?)?
            }
            Inst::Select(cond, a, b) => c.select(like(cond, Elem::Bool)?, same(a)?, same(b)?),
            Inst::Splat(a) if t.lanes == 1 => same(a)?,
            Inst::Splat(a) => c.splat(self.get_as(*a, scalar)?, t.lanes),
            Inst::Iota => self.iota(t)?,
            Inst::Extract(a, lane) => self.lane(t, *a, *lane)?,
            Inst::Across(op, a) => {
                let of = self.type_of(*a)?;
                let v = self.get_as(*a, RegType { elem: t.elem, lanes: of.lanes })?;
                if t.lanes != 1 || !matches!(op, Arith::Add | Arith::Min | Arith::Max) {
                    return Err(self.malformed(format!("{inst:?}"), "a scalar sum, min or max"));
                }
                self.across(v, of.lanes, |a, b| self.lane_op(*op, t.elem, a, b))
            }
            Inst::Load { elem, address, offset } => {
                self.load(*elem, t, self.place(*address, *offset)?)?
            }
            Inst::Float(_) | Inst::Int(_) | Inst::Fma(..) | Inst::Cmp(..) => {
                return Err(self.malformed(format!("{inst:?} as {t:?}"), "another type"));
            }
        })
    }

    fn arith(&self, op: Arith, t: RegType, a: Val<'c>, b: Val<'c>) -> Result<Val<'c>, LlvmError> {
        let c = self.code;
        let fails = || Err(self.malformed(format!("{op:?} of {t:?}"), "types it is defined for"));
        let masked = |bits: i64| c.andc(b, bits);
        let shift = |code| c.op(code, a, masked(if t.elem == Elem::I64 { 63 } else { 31 }));
        let float = is_float(t.elem);
        let truth = t.elem == Elem::Bool;
        Ok(match op {
            Arith::And | Arith::Or | Arith::Xor if float => return fails(),
            Arith::And => c.and(a, b),
            Arith::Or => c.or(a, b),
            Arith::Xor => c.op(Opcode::Xor, a, b),
            _ if truth => return fails(),
            Arith::Add | Arith::Min | Arith::Max => self.lane_op(op, t.elem, a, b),
            Arith::Sub if float => c.float_op(Opcode::FSub, a, b),
            Arith::Sub => c.sub(a, b),
            Arith::Mul if float => c.fmul(a, b),
            Arith::Mul => c.mul(a, b),
            // Never contracted or approximated: quotients are rounded once.
            Arith::Div if float => c.op(Opcode::FDiv, a, b),
            Arith::Div if t.lanes == 1 => c.op(Opcode::SDiv, a, b),
            Arith::Rem if t.lanes == 1 && !float => c.op(Opcode::SRem, a, b),
            Arith::Shl if !float => shift(Opcode::Shl),
            Arith::ShrU if !float => shift(Opcode::LShr),
            Arith::ShrS if !float => shift(Opcode::AShr),
            _ => return fails(),
        })
    }

    /// Sum, lesser or greater.
    fn lane_op(&self, op: Arith, elem: Elem, a: Val<'c>, b: Val<'c>) -> Val<'c> {
        let c = self.code;
        match (op, is_float(elem)) {
            (Arith::Min, true) => c.select(c.fcmp(FloatPredicate::OLT, a, b), a, b),
            (Arith::Max, true) => c.select(c.fcmp(FloatPredicate::OGT, a, b), a, b),
            (_, true) => c.fadd(a, b),
            (Arith::Min, false) => c.smin(a, b),
            (Arith::Max, false) => c.smax(a, b),
            (_, false) => c.add(a, b),
        }
    }

    fn func(&self, f: Func, t: RegType, a: Val<'c>) -> Result<Val<'c>, LlvmError> {
        let c = self.code;
        if (f == Func::Not) != (t.elem == Elem::Bool) || (f != Func::Not && !is_float(t.elem)) {
            return Err(self.malformed(format!("{f:?} of {t:?}"), "a type it is defined for"));
        }
        let of = |name| c.call(name, &[a.get_type()], &[a]);
        Ok(match f {
            // A sign bit turned over; 0 - a would lose the sign of zero.
            Func::Neg => {
                let bits = c.like(a, if t.elem == Elem::F64 { c.i64() } else { c.i32() });
                let sign = if t.elem == Elem::F64 { i64::MIN } else { i64::from(i32::MIN) };
                let turned = c.op(Opcode::Xor, c.bits(a, bits), c.int(bits, sign));
                c.bits(turned, a.get_type())
            }
            Func::Abs => of("llvm.fabs"),
            Func::Sqrt => of("llvm.sqrt"),
            Func::Floor => of("llvm.floor"),
            Func::Nearest => of("llvm.roundeven"),
            Func::Not => c.op(Opcode::Xor, a, c.int(a.get_type(), -1)),
        })
    }

    fn convert(&self, k: Convert, t: RegType, a: Reg) -> Result<Val<'c>, LlvmError> {
        use Elem::{Bool, F32, F64, I32, I64};
        let (from, to) = match k {
            Convert::I32ToF32 | Convert::I32Bits => (I32, F32),
            Convert::F32ToI32 | Convert::F32Bits => (F32, I32),
            Convert::F32ToF64 => (F32, F64),
            Convert::F64ToF32 => (F64, F32),
            Convert::F64ToI64 => (F64, I64),
            Convert::I64ToF64 => (I64, F64),
            Convert::I32ToI64 => (I32, I64),
            Convert::I64ToI32 => (I64, I32),
            Convert::BoolToI32 => (Bool, I32),
            Convert::I32ToBool => (I32, Bool),
        };
        // `F32Bits` and `I32Bits` name either end of a reinterpretation: the types decide.
        let bits = matches!(k, Convert::F32Bits | Convert::I32Bits);
        let (from, to) = if bits && t.elem != to { (to, from) } else { (from, to) };
        if t.elem != to {
            return Err(self.malformed(format!("{k:?} to {t:?}"), format!("{to:?}")));
        }
        let (c, ty) = (self.code, self.llvm_type(t));
        let v = self.get_as(a, RegType { elem: from, lanes: t.lanes })?;
        Ok(match k {
            Convert::I32ToF32 | Convert::I64ToF64 => c.cast(Opcode::SIToFP, v, ty),
            Convert::F32ToI32 | Convert::F64ToI64 => {
                c.call("llvm.fptosi.sat", &[ty, v.get_type()], &[v])
            }
            Convert::F32ToF64 => c.cast(Opcode::FPExt, v, ty),
            Convert::F64ToF32 => c.cast(Opcode::FPTrunc, v, ty),
            Convert::I32ToI64 => c.sext(v, ty),
            Convert::I64ToI32 => c.trunc(v, ty),
            Convert::BoolToI32 => c.zext(v, ty),
            Convert::I32ToBool => self.nonzero(v),
            Convert::F32Bits | Convert::I32Bits => c.bits(v, ty),
        })
    }

    fn compare(&self, op: Cmp, of: RegType, a: Val<'c>, b: Val<'c>) -> Result<Val<'c>, LlvmError> {
        let c = self.code;
        if is_float(of.elem) {
            let p = match op {
                Cmp::Eq => FloatPredicate::OEQ,
                Cmp::Ne => FloatPredicate::UNE,
                Cmp::Lt => FloatPredicate::OLT,
                Cmp::Le => FloatPredicate::OLE,
                Cmp::Gt => FloatPredicate::OGT,
                Cmp::Ge => FloatPredicate::OGE,
            };
            return Ok(c.fcmp(p, a, b));
        }
        if of.elem == Elem::Bool && !matches!(op, Cmp::Eq | Cmp::Ne) {
            return Err(self.malformed(format!("{op:?} of {of:?}"), "Eq or Ne"));
        }
        let p = match op {
            Cmp::Eq => IntPredicate::EQ,
            Cmp::Ne => IntPredicate::NE,
            Cmp::Lt => IntPredicate::SLT,
            Cmp::Le => IntPredicate::SLE,
            Cmp::Gt => IntPredicate::SGT,
            Cmp::Ge => IntPredicate::SGE,
        };
        Ok(c.icmp(p, a, b))
    }

    fn iota(&self, t: RegType) -> Result<Val<'c>, LlvmError> {
        let c = self.code;
        match (t.elem, t.lanes) {
            (Elem::I32 | Elem::F32, 1) => Ok(c.zero(self.llvm_type(t))),
            (Elem::I32, n) => Ok(c.iota(c.i32(), n)),
            (Elem::F32, n) => Ok(c.cast(Opcode::SIToFP, c.iota(c.i32(), n), self.llvm_type(t))),
            _ => Err(self.malformed(format!("Iota as {t:?}"), "I32 or F32")),
        }
    }

    fn lane(&self, t: RegType, a: Reg, lane: u32) -> Result<Val<'c>, LlvmError> {
        let of = self.type_of(a)?;
        let v = self.get_as(a, RegType { elem: t.elem, lanes: of.lanes })?;
        if lane >= of.lanes || t.lanes != 1 {
            let found = format!("lane {lane} of {of:?} as {t:?}");
            return Err(self.malformed(found, "a lane it has, as a scalar"));
        }
        Ok(if of.lanes == 1 { v } else { self.code.extract(v, lane) })
    }

    fn load(&self, elem: MemElem, t: RegType, p: Val<'c>) -> Result<Val<'c>, LlvmError> {
        let (c, ty) = (self.code, self.llvm_type(t));
        if t.elem != held(elem) || (elem == MemElem::I64 && t != I64) {
            return Err(self.malformed(format!("load of {elem:?} as {t:?}"), "the type it holds"));
        }
        let narrow = |scalar, align| c.load(c.vec(scalar, t.lanes), p, align);
        Ok(match elem {
            MemElem::F32 | MemElem::I32 => c.load(ty, p, 4),
            MemElem::I64 => c.load(ty, p, 8),
            MemElem::U16 => c.zext(narrow(c.i16(), 2), ty),
            MemElem::U8 => c.zext(narrow(c.i8(), 1), ty),
            MemElem::I8 => c.sext(narrow(c.i8(), 1), ty),
        })
    }

    /// Writes lanes, cut to the element.
    pub(super) fn store(
        &self,
        elem: MemElem,
        t: RegType,
        v: Val<'c>,
        p: Val<'c>,
    ) -> Result<(), LlvmError> {
        let c = self.code;
        if t.elem != held(elem) {
            return Err(self.malformed(format!("store of {t:?} as {elem:?}"), "the type it holds"));
        }
        match elem {
            MemElem::F32 | MemElem::I32 => c.store(v, p, 4),
            MemElem::I64 => c.store(v, p, 8),
            MemElem::U16 => c.store(c.trunc(v, c.like(v, c.i16())), p, 2),
            MemElem::U8 | MemElem::I8 => c.store(c.trunc(v, c.like(v, c.i8())), p, 1),
        }
        Ok(())
    }
}

fn is_float(e: Elem) -> bool {
    matches!(e, Elem::F32 | Elem::F64)
}

/// What a register holds of an element in memory.
fn held(e: MemElem) -> Elem {
    match e {
        MemElem::F32 => Elem::F32,
        MemElem::I64 => Elem::I64,
        MemElem::I32 | MemElem::U16 | MemElem::U8 | MemElem::I8 => Elem::I32,
    }
}
