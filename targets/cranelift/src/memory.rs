//! Loop programs to Cranelift IR: loads and stores.

use crate::CraneliftError;
use crate::emit::Emit;
use cranelift_codegen::ir::types::{F32, F32X4, I8X16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Value};
use ir::loops::{MemElem, Reg, RegType};

/// Accesses do not trap, and are aligned to an element at best.
fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl Emit<'_, '_> {
    /// Address and offset, the latter within 32 bits.
    fn address(&mut self, address: Reg, offset: i64) -> Result<(Value, i32), CraneliftError> {
        let address = self.get(address)?;
        if let Ok(offset) = i32::try_from(offset) {
            return Ok((address, offset));
        }
        let offset = self.b.ins().iconst(I64, offset);
        Ok((self.b.ins().iadd(address, offset), 0))
    }

    /// Reads an element, or a vector of adjacent ones.
    pub fn load(
        &mut self,
        result: RegType,
        elem: MemElem,
        address: Reg,
        offset: i64,
    ) -> Result<Value, CraneliftError> {
        let (p, at) = self.address(address, offset)?;
        let wide = result.lanes > 1;
        let b = &mut self.b;
        Ok(match (elem, wide) {
            (MemElem::F32, false) => b.ins().load(F32, flags(), p, at),
            // A load of floats might be made part of a comparison.
            (MemElem::F32, true) if self.isa.compares_registers => {
                let bits = b.ins().load(I32X4, flags(), p, at);
                self.as_type(bits, F32X4)
            }
            (MemElem::F32, true) => b.ins().load(F32X4, flags(), p, at),
            (MemElem::I32, false) => b.ins().load(I32, flags(), p, at),
            (MemElem::I32, true) => b.ins().load(I32X4, flags(), p, at),
            (MemElem::I64, _) => b.ins().load(I64, flags(), p, at),
            (MemElem::U16, false) => b.ins().uload16(I32, flags(), p, at),
            (MemElem::U16, true) => b.ins().uload16x4(flags(), p, at),
            (MemElem::U8, false) => b.ins().uload8(I32, flags(), p, at),
            (MemElem::I8, false) => b.ins().sload8(I32, flags(), p, at),
            (MemElem::U8 | MemElem::I8, true) => {
                let four = b.ins().load(I32, flags(), p, at);
                let bytes = b.ins().scalar_to_vector(I32X4, four);
                let bytes = self.as_type(bytes, I8X16);
                if elem == MemElem::U8 {
                    let halves = self.b.ins().uwiden_low(bytes);
                    self.b.ins().uwiden_low(halves)
                } else {
                    let halves = self.b.ins().swiden_low(bytes);
                    self.b.ins().swiden_low(halves)
                }
            }
        })
    }

    /// Writes a register, cut to the element.
    pub fn store(
        &mut self,
        elem: MemElem,
        address: Reg,
        offset: i64,
        value: Reg,
    ) -> Result<(), CraneliftError> {
        let (p, at) = self.address(address, offset)?;
        let wide = self.reg_type(value).lanes > 1;
        let value = self.get(value)?;
        match (elem, wide) {
            (MemElem::F32 | MemElem::I32 | MemElem::I64, _) => {
                self.b.ins().store(flags(), value, p, at);
            }
            (MemElem::U16, false) => {
                self.b.ins().istore16(flags(), value, p, at);
            }
            (MemElem::U8 | MemElem::I8, false) => {
                self.b.ins().istore8(flags(), value, p, at);
            }
            (MemElem::U16, true) => {
                let halves = self.cut(value, 0xffff);
                let pairs = self.as_type(halves, I64X2);
                let four = self.b.ins().extractlane(pairs, 0);
                self.b.ins().store(flags(), four, p, at);
            }
            (MemElem::U8 | MemElem::I8, true) => {
                let halves = self.cut(value, 0xff);
                let bytes = self.b.ins().unarrow(halves, halves);
                let words = self.as_type(bytes, I32X4);
                let four = self.b.ins().extractlane(words, 0);
                self.b.ins().store(flags(), four, p, at);
            }
        }
        Ok(())
    }

    /// Four lanes cut to these bits, as halves.
    fn cut(&mut self, value: Value, mask: i64) -> Value {
        let mask = self.b.ins().iconst(I32, mask);
        let mask = self.b.ins().splat(I32X4, mask);
        let low = self.b.ins().band(value, mask);
        let halves = self.b.ins().unarrow(low, low);
        self.as_type(halves, I16X8)
    }
}
