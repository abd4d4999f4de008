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

/// Parameters that are pointers to what only this function touches while it runs, or only reads.
const ALONE: [u32; 4] = [0, 2, 5, 7];

/// Arguments of a product's function.
pub(crate) fn arguments<'c>(c: &Code<'c>, o: &Operands<'c>, scratch: Val<'c>) -> Vec<Val<'c>> {
    let none = c.c64(0);
    let nowhere = [c.pointer(none), none, none, none];
    let mut args = vec![o.acc, o.acc_pitch, o.left, o.left_pitch, o.left_step];
    args.extend([o.right, o.right_pitch, scratch]);
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
    let types: Vec<Ty> = vec![p, i, p, i, i, p, i, p, p, i, i, i, p, i, i, i, p, i, i, i, p, i];
    let f = c.function(name, &types, false);
    c.mark(f, AttributeLoc::Function, "noinline");
    for at in ALONE {
        c.mark(f, AttributeLoc::Param(at), "noalias");
    }
    let a: Vec<Val> = f.get_param_iter().collect();
    let extent = |axis: usize| {
        if form.ragged[axis] { a[17 + axis] } else { c.c64(form.extents[axis].into()) }
    };
    let left_scales = [a[12], a[13], a[14], a[15]];
    let o = Operands {
        acc: a[0],
        acc_pitch: a[1],
        left: a[2],
        left_pitch: a[3],
        left_step: if form.left_dense { c.c64(1) } else { a[4] },
        right: a[5],
        right_pitch: a[6],
        right_step: c.c64(0),
        scales: matches!(form.scale, Scaling::Apart(_)).then_some([a[8], a[9], a[10], a[11]]),
        left_scales: Some(left_scales),
        left_sums: Some(a[16]),
        ahead: form.ahead.map(|_| (a[20], a[21])),
        valid: [extent(0), extent(1), extent(2)],
    };
    let (float, walk) = (as_float(form), as_walk(form, plan));
    let base =
        Lowering { c, form: &float, plan: &walk, o, scratch: a[7], state: a[7], tiles: None };
    Integer { c, form, plan, base, left_scales, sums: a[16] }.run();
    c.ret();
    f
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
