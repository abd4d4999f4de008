//! Elements of units: codes and scales in an order of their own.

use super::{element as code_at, float, quotient_rest, scale_type, size};
use crate::dtype::Encoding;
use crate::expand::emit::Emitter;
use crate::loops::{Arith, Nested, Reg, Unit};

/// The element `(j, k)` as `f32`, times its scale if that lies in the unit. `first` is the address
/// of the first unit, and the bytes from it to that of the columns behind its own.
pub(super) fn element(
    em: &mut Emitter,
    encoding: Encoding,
    (first, block_bytes): (Reg, Reg),
    unit: &Unit,
    (j, k): (Reg, Reg),
) -> Reg {
    let (block, lane) = quotient_rest(em, j, unit.lanes.into());
    let (step, part) = quotient_rest(em, k, unit.depth.into());
    let by = em.mul(block, block_bytes);
    let first = em.add(first, by);
    let by = em.mul_imm(step, unit.bytes.into());
    let address = em.add(first, by);
    let bit = bit(em, &unit.codes, lane, part);
    let width = i64::from(encoding.code.bits());
    let number = em.arith_imm(Arith::Div, bit, width);
    let value = code_at(em, encoding, address, number);
    let value = float(em, value);
    let Some(scales) = &unit.scales else { return value };
    let dtype = scale_type(encoding);
    let bit = self::bit(em, scales, lane, part);
    let number = em.arith_imm(Arith::Div, bit, 8 * size(dtype.into()));
    let by = em.mul_imm(number, size(dtype.into()));
    let address = em.add(address, by);
    let scale = em.load_as(dtype, false, address, 0);
    em.mul(value, scale)
}

/// Bits from the beginning of a unit to what belongs to an element of it.
fn bit(em: &mut Emitter, places: &Nested, j: Reg, k: Reg) -> Reg {
    let mut sum = em.int(places.begin.into());
    for t in &places.terms {
        let x = if t.along_k { k } else { j };
        let x = em.arith_imm(Arith::Div, x, t.divisor.into());
        let (_, x) = quotient_rest(em, x, t.extent.into());
        let share = em.mul_imm(x, t.bits.into());
        sum = em.add(sum, share);
    }
    sum
}
