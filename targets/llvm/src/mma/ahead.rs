//! Prefetches of what is read after a product, spread over its steps.

use super::LINE;
use super::lowering::Lowering;
use super::plan::Unit;
use crate::code::Val;

/// Most lines that a step asks for.
const MOST: u32 = 4;

/// How a product's blocks divide what is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// Lines of a run.
    run: u32,
    /// Lines that follow each other in a block: at most a run.
    span: u32,
    /// Steps of a block by this power of two ask for the same line.
    shift: u32,
    /// Spans in all.
    spans: u32,
    /// Spans of a block.
    each: u32,
}

impl<'c> Lowering<'_, 'c> {
    fn share(&self) -> Option<Share> {
        let (f, p) = (self.form, self.plan);
        let [rows, bytes] = f.ahead?;
        let run = bytes.div_ceil(LINE).max(1);
        let steps = f.k.div_ceil(p.depth()).max(1);
        let mut shift = 0;
        while steps >> shift > run {
            shift += 1;
        }
        let span = (steps >> shift).max(1);
        let spans = run.div_ceil(span).checked_mul(rows)?;
        let unit = if p.unit == Unit::Tile { 16 } else { 1 };
        let tall = f.m.div_ceil(unit).div_ceil(p.rows);
        let blocks = f.n.div_ceil(p.lanes * p.cols).saturating_mul(tall);
        Some(Share { run, span, shift, spans, each: spans.div_ceil(blocks).min(MOST) })
    }

    /// Where the block of rows at `row` of the columns at block `b` begins to ask.
    pub fn ahead(&self, b: Val<'c>, row: Val<'c>) -> Vec<Val<'c>> {
        let (c, p) = (self.c, self.plan);
        let (Some(s), Some((at, pitch))) = (self.share(), self.o.ahead) else { return vec![] };
        let unit = if p.unit == Unit::Tile { 16 } else { 1 };
        let rows = self.div(c.add(self.o.valid[0], c.c64(unit - 1)), unit);
        let tall = self.div(c.add(rows, c.c64(i64::from(p.rows) - 1)), p.rows.into());
        let turn = c.add(c.mul(self.div(b, p.cols.into()), tall), self.div(row, p.rows.into()));
        let first = c.mul(turn, c.c64(s.each.into()));
        let in_run = i64::from(s.run.div_ceil(s.span));
        let last = c.c64(i64::from(s.spans) - 1);
        let one = |i: u32| {
            let at_span = c.smin(c.add(first, c.c64(i.into())), last);
            let run = c.at(at, c.mul(self.div(at_span, in_run), pitch));
            let within = c.op(inkwell::values::InstructionOpcode::URem, at_span, c.c64(in_run));
            c.index(run, within, i64::from(s.span * LINE))
        };
        (0..s.each).map(one).collect()
    }

    /// Asks for the lines of `count` steps from step `s` on.
    pub fn ask_ahead(&self, ahead: &[Val<'c>], s: Val<'c>, count: u32) {
        let c = self.c;
        let Some(share) = self.share() else { return };
        for at in ahead {
            let mut step = 0;
            while step < count {
                let line = c.lshr(c.add(s, c.c64(step.into())), share.shift);
                c.prefetch(c.index(*at, line, LINE.into()));
                step += 1 << share.shift;
            }
        }
    }
}
