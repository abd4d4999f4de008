//! The walk over a product: columns, rows, and stretches of k under one scale.

use super::Operands;
use super::form::Form;
use super::panel::Columns;
use super::plan::{Plan, Unit};
use super::tile::Registers;
use crate::code::{Code, Val};
use inkwell::IntPredicate;
use inkwell::values::InstructionOpcode as Opcode;

/// A product while its function is written.
pub(crate) struct Lowering<'a, 'c> {
    /// Where to.
    pub c: &'a Code<'c>,
    /// What is known.
    pub form: &'a Form,
    /// What was decided.
    pub plan: &'a Plan,
    /// What is not known.
    pub o: Operands<'c>,
    /// Pointer to the product's scratch.
    pub scratch: Val<'c>,
    /// Pointer to emulated tile registers.
    pub state: Val<'c>,
    /// Tile instructions.
    pub tiles: Option<&'a Registers<'c>>,
}

/// What a register block works on.
pub(crate) struct Block<'c> {
    /// Rows (of tile registers: 16 each).
    pub rows: u32,
    /// Blocks of columns.
    pub cols: u32,
    /// First row.
    pub row: Val<'c>,
    /// First column.
    pub col: Val<'c>,
    /// Left operand, first row: pointer and bytes from row to row.
    pub left: (Val<'c>, Val<'c>),
    /// Right operand, first column: pointer and bytes from block to block.
    pub right: (Val<'c>, Val<'c>),
    /// k's `from .. to`; `from` begins a step.
    pub from: Val<'c>,
    /// One past the last.
    pub to: Val<'c>,
    /// Where this block begins to ask for what is ahead: one pointer for each line of a step.
    pub ahead: Vec<Val<'c>>,
    /// For each block of columns what its sums are multiplied by.
    pub scales: Option<Vec<Val<'c>>>,
}

impl<'c> Lowering<'_, 'c> {
    /// A place in the product's scratch.
    pub fn scratch(&self, at: u64) -> Val<'c> {
        self.c.off(self.scratch, at as i64)
    }

    /// Quotient of a value that is not negative.
    pub fn div(&self, v: Val<'c>, by: i64) -> Val<'c> {
        self.c.op(Opcode::UDiv, v, self.c.c64(by))
    }

    /// Next multiple of a power of two.
    pub fn round_up(&self, v: Val<'c>, unit: u32) -> Val<'c> {
        let c = self.c;
        c.andc(c.add(v, c.c64(i64::from(unit) - 1)), -i64::from(unit))
    }

    /// Writes the product.
    pub fn run(&self) {
        let c = self.c;
        let [m, n, k] = self.o.valid;
        let some = [m, n, k].map(|v| c.icmp(IntPredicate::NE, v, c.c64(0)));
        let all = c.and(c.and(some[0], some[1]), some[2]);
        c.when(all, || {
            if self.plan.unit == Unit::Along {
                return self.along();
            }
            let left = self.left();
            self.columns(left);
        });
    }

    /// All columns, `plan.cols` blocks at a time.
    fn columns(&self, left: (Val<'c>, Val<'c>)) {
        self.column_blocks(|b, cols| self.chunk(left, b, cols));
    }

    /// All blocks of columns, as many at a time as the plan says: the first, and how many.
    pub fn column_blocks(&self, body: impl Fn(Val<'c>, u32)) {
        let (c, f, p) = (self.c, self.form, self.plan);
        let lanes = i64::from(p.lanes);
        let n = self.o.valid[1];
        let blocks = self.div(c.add(n, c.c64(lanes - 1)), lanes);
        let wide = i64::from(p.cols);
        let whole = c.mul(self.div(blocks, wide), c.c64(wide));
        c.for_loop((c.c64(0), whole, wide), &[], |b, _| {
            body(b, p.cols);
            vec![]
        });
        let all = f.n.div_ceil(p.lanes);
        if f.ragged[1] && p.cols > 1 {
            c.for_loop((whole, blocks, 1), &[], |b, _| {
                body(b, 1);
                vec![]
            });
        } else if !f.ragged[1] && all % p.cols > 0 {
            body(c.c64((all - all % p.cols).into()), all % p.cols);
        }
    }

    /// `cols` blocks of columns from block `b` on.
    fn chunk(&self, left: (Val<'c>, Val<'c>), b: Val<'c>, cols: u32) {
        let (c, p) = (self.c, self.plan);
        let lanes = c.c64(p.lanes.into());
        let col = c.mul(b, lanes);
        let right = if p.panel {
            let most = c.c64((cols * p.lanes).into());
            let valid = c.smin(c.sub(self.o.valid[1], col), most);
            self.panel(&Columns { first: col, valid, blocks: cols })
        } else {
            (c.at(self.o.right, c.mul(b, self.o.right_pitch)), self.o.right_pitch)
        };
        let own = self.form.scale().is_some_and(|s| s.rows == 1);
        if own {
            self.scale_panel(col, cols);
        }
        self.stretches(|from, to| {
            let scales = if own {
                self.panel_scales(cols, from)
            } else {
                self.block_scales(col, cols, from)
            };
            self.rows(|row, rows| {
                let unit = if p.unit == Unit::Tile { 16 } else { 1 };
                let at = c.mul(row, left.1);
                let block = Block {
                    rows,
                    cols,
                    row: c.mul(row, c.c64(unit)),
                    col,
                    left: (c.at(left.0, if unit == 16 { c.shl(at, 4) } else { at }), left.1),
                    right,
                    from,
                    to,
                    ahead: self.ahead(b, row),
                    scales: scales.clone(),
                };
                match p.unit {
                    Unit::Tile => self.tile_block(&block),
                    Unit::Fma | Unit::Dot | Unit::Along => self.block(&block),
                }
            });
        });
    }

    /// All rows in units of the plan, in register blocks: whole ones, then what is left.
    pub fn rows(&self, mut body: impl FnMut(Val<'c>, u32)) {
        let (c, f, p) = (self.c, self.form, self.plan);
        let unit = if p.unit == Unit::Tile { 16 } else { 1 };
        let all = f.m.div_ceil(unit);
        let valid = self.div(c.add(self.o.valid[0], c.c64(i64::from(unit) - 1)), unit.into());
        let tall = i64::from(p.rows);
        let whole = c.mul(self.div(valid, tall), c.c64(tall));
        c.for_loop((c.c64(0), whole, tall), &[], |row, _| {
            body(row, p.rows);
            vec![]
        });
        if !f.ragged[0] {
            if all % p.rows > 0 {
                body(c.c64((all - all % p.rows).into()), all % p.rows);
            }
            return;
        }
        // As many as the bits of the remainder say.
        let rest = c.sub(valid, whole);
        let mut bit = p.rows.next_power_of_two() / 2;
        while bit > 0 {
            let has = c.icmp(IntPredicate::NE, c.andc(rest, bit.into()), c.c64(0));
            let row = c.add(whole, c.andc(rest, -2 * i64::from(bit)));
            c.when(has, || body(row, bit));
            bit /= 2;
        }
    }
}
