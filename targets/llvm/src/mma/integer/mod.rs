//! Products of integer codes with scales: dot products of bytes, as the instructions for them
//! want it.
//!
//! Right codes are made unsigned by an offset, which the sums of the left codes take out again.
//! Columns lie in the lanes, so nothing is ever summed across them.

mod block;
mod dot;
mod form;
mod left;
mod plan;

pub(crate) use form::Form;
pub(crate) use plan::Plan;

use super::Operands;
use super::form::{self as float, RightForm};
use super::lowering::Lowering;
use super::plan::{self as float_plan, Stored, Unit};
use crate::code::{Code, Ty, Val};
use block::Block;
use form::Scaling;
use inkwell::attributes::AttributeLoc;
use inkwell::values::FunctionValue;
use ir::dtype::DType;
use left::Rows;

/// A product while its function is written.
pub(crate) struct Integer<'a, 'c> {
    c: &'a Code<'c>,
    form: &'a Form,
    plan: &'a Plan,
    /// What it shares with products of floats: the walk over rows, scales that lie apart, the
    /// accumulator.
    base: Lowering<'a, 'c>,
    /// Pointer, and as I64 scales in a row, first row, first k.
    left_scales: [Val<'c>; 4],
    /// Pointer.
    sums: Val<'c>,
}

/// Parameters that are pointers to what only this function touches while it runs, or only reads:
/// accumulator, left and right operand, scratch.
const ALONE: [u32; 4] = [0, 2, 5, 7];

/// Arguments of a product's function, in the order in which [`function`] takes them.
pub(crate) fn arguments<'c>(c: &Code<'c>, o: &Operands<'c>, scratch: Val<'c>) -> Vec<Val<'c>> {
    let none = c.c64(0);
    let nowhere = [c.pointer(none), none, none, none];
    let mut args = vec![o.acc, o.acc_pitch];
    args.extend([o.left, o.left_pitch, o.left_step]);
    args.extend([o.right, o.right_pitch]);
    args.push(scratch);
    args.extend(o.scales.unwrap_or(nowhere));
    args.extend(o.left_scales.unwrap_or(nowhere));
    args.push(o.left_sums.unwrap_or(nowhere[0]));
    args.extend(o.valid);
    args.extend(o.ahead.map_or([nowhere[0], none], |(at, pitch)| [at, pitch]));
    args
}

/// Writes the function of a product.
pub(crate) fn function<'c>(
    c: &Code<'c>,
    name: &str,
    form: &Form,
    plan: &Plan,
) -> FunctionValue<'c> {
    let (p, i) = (c.ptr(), c.i64());
    let (two, three, four) = ([p, i], [p, i, i], [p, i, i, i]);
    let types: [&[Ty]; 9] = [&two, &three, &two, &[p], &four, &four, &[p], &[i, i, i], &two];
    let f = c.function(name, &types.concat(), false);
    c.mark(f, AttributeLoc::Function, "noinline");
    for at in ALONE {
        c.mark(f, AttributeLoc::Param(at), "noalias");
    }
    let mut params = f.get_param_iter();
    let [acc, acc_pitch] = next(&mut params);
    let [left, left_pitch, left_step] = next(&mut params);
    let [right, right_pitch] = next(&mut params);
    let [scratch] = next(&mut params);
    let (scales, left_scales) = (next(&mut params), next(&mut params));
    let [sums] = next(&mut params);
    let mut valid = next(&mut params);
    let [ahead, ahead_pitch] = next(&mut params);
    for (axis, valid) in valid.iter_mut().enumerate().filter(|(axis, _)| !form.ragged[*axis]) {
        *valid = c.c64(form.extents[axis].into());
    }
    let o = Operands {
        acc,
        acc_pitch,
        left,
        left_pitch,
        left_step: if form.left_dense { c.c64(1) } else { left_step },
        right,
        right_pitch,
        right_step: c.c64(0),
        scales: matches!(form.scale, Scaling::Apart(_)).then_some(scales),
        left_scales: Some(left_scales),
        left_sums: Some(sums),
        ahead: form.ahead.map(|_| (ahead, ahead_pitch)),
        valid,
    };
    let (float, walk) = (as_float(form), as_walk(form, plan));
    let base = Lowering { c, form: &float, plan: &walk, o, scratch, state: scratch, tiles: None };
    Integer { c, form, plan, base, left_scales, sums }.run();
    c.ret();
    f
}

/// The next parameters of a function.
fn next<'c, const N: usize>(params: &mut impl Iterator<Item = Val<'c>>) -> [Val<'c>; N] {
    std::array::from_fn(|_| params.next().expect("a function has a parameter for each type"))
}

/// The form as those of floats are described.
fn as_float(f: &Form) -> float::Form {
    let scale = match f.scale {
        Scaling::Apart(s) => Some(s),
        _ => None,
    };
    let [m, n, k] = f.extents;
    float::Form {
        m,
        n,
        k,
        ragged: f.ragged,
        left: DType::I8,
        left_step: f.left_dense.then_some(1),
        left_dense: false,
        right: RightForm::Blocked { code: f.code, lanes: f.unit.lanes, group: 4, scale },
        ahead: f.ahead,
        // Sums of codes are exact, and stretches are added one after the other.
        batch_invariant: true,
    }
}

fn as_walk(f: &Form, p: &Plan) -> float_plan::Plan {
    float_plan::Plan {
        unit: Unit::Fma,
        lanes: f.unit.lanes,
        rows: p.rows,
        cols: p.cols,
        left_pitch: None,
        left: DType::I8,
        right: Stored { code: f.code, group: f.unit.depth },
        panel: false,
        panel_pitch: 0,
        left_at: 0,
        panel_at: 0,
        tiles_at: 0,
        spill_at: p.spill_at,
        scales_at: p.own_at,
        scratch: p.scratch,
    }
}

impl<'c> Integer<'_, 'c> {
    fn run(&self) {
        let c = self.c;
        let [m, n, k] = self.base.o.valid.map(|v| c.less(c.c64(0), v));
        c.when(c.and(c.and(m, n), k), || {
            let left = self.left();
            self.base.column_blocks(|b, cols| self.chunk(left, b, cols));
        });
    }

    /// `cols` blocks of columns from block `b` on.
    fn chunk(&self, left: Rows<'c>, b: Val<'c>, cols: u32) {
        let c = self.c;
        let o = &self.base.o;
        let col = c.mul(b, c.c64(self.form.unit.lanes.into()));
        let right = (c.at(o.right, c.mul(b, o.right_pitch)), o.right_pitch);
        if matches!(self.form.scale, Scaling::Apart(s) if s.rows == 1) {
            self.base.scale_panel(col, cols);
        }
        self.base.rows(|row, rows| {
            let ahead = self.base.ahead(b, row);
            self.block(&Block { rows, cols, row, col, left, right, ahead });
        });
    }
}
