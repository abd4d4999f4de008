//! Loop programs to Cranelift IR: conversions.

use crate::CraneliftError;
use crate::emit::{Emit, ty};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I32, I64};
use cranelift_codegen::ir::{InstBuilder, Value};
use ir::loops::{Convert, Reg, RegType};

impl Emit<'_, '_> {
    /// The value of a conversion.
    pub fn convert(
        &mut self,
        result: RegType,
        c: Convert,
        a: Reg,
    ) -> Result<Value, CraneliftError> {
        let a = self.get(a)?;
        let to = ty(result);
        let wide = result.lanes > 1;
        Ok(match c {
            Convert::I32ToF32 => self.b.ins().fcvt_from_sint(to, a),
            Convert::F32ToI32 | Convert::F64ToI64 => self.b.ins().fcvt_to_sint_sat(to, a),
            Convert::F32ToF64 => self.b.ins().fpromote(F64, a),
            Convert::F64ToF32 => self.b.ins().fdemote(F32, a),
            Convert::I64ToF64 => self.b.ins().fcvt_from_sint(F64, a),
            Convert::I32ToI64 => self.b.ins().sextend(I64, a),
            Convert::I64ToI32 => self.b.ins().ireduce(I32, a),
            Convert::BoolToI32 if wide => {
                let one = self.b.ins().iconst(I32, 1);
                let ones = self.b.ins().splat(to, one);
                self.b.ins().band(a, ones)
            }
            Convert::BoolToI32 => self.b.ins().uextend(I32, a),
            Convert::I32ToBool => {
                let zero = self.b.ins().iconst(I32, 0);
                let zero = if wide { self.b.ins().splat(to, zero) } else { zero };
                self.b.ins().icmp(IntCC::NotEqual, a, zero)
            }
            Convert::F32Bits | Convert::I32Bits => self.as_type(a, to),
        })
    }
}
