//! Register blocks of tile registers.
//!
//! Tiles are always 16 rows by 64 bytes: operands are copied with zeros where they are shorter,
//! so that one configuration serves a kernel. Registers 0 to 3 accumulate, 4 and 5 hold rows of
//! the left operand, 6 and 7 columns of the right.

use super::emulate::Emulator;
use super::lowering::{Block, Lowering};
use crate::code::{Code, Val};
use crate::isa::Tiles;
use inkwell::module::Linkage;

/// Bytes of a tile register.
const TILE: i64 = 1024;

/// The tile instructions of a level.
pub(crate) struct Registers<'c> {
    emulator: Option<Emulator<'c>>,
    configuration: Val<'c>,
}

impl<'c> Registers<'c> {
    /// Declares what a module's kernels need.
    pub fn new(c: &Code<'c>) -> Self {
        let mut bytes = [0u8; 64];
        bytes[0] = 1; // palette
        for t in 0..8 {
            bytes[16 + 2 * t] = 64; // bytes of a row
            bytes[48 + t] = 16; // rows
        }
        let global = c.module.add_global(c.cx.i8_type().array_type(64), None, "tile.shapes");
        global.set_initializer(&c.cx.const_string(&bytes, false));
        global.set_constant(true);
        global.set_linkage(Linkage::Private);
        global.set_alignment(64);
        let emulator = (c.isa.tiles == Tiles::Emulated).then(|| Emulator::new(c));
        Registers { emulator, configuration: global.as_pointer_value().into() }
    }

    /// Sets the shapes of the registers, once for a kernel.
    pub fn configure(&self, c: &Code<'c>, state: Val<'c>) {
        match &self.emulator {
            Some(e) => e.configure(c, state, self.configuration),
            None => c.call_void("llvm.x86.ldtilecfg", &[], &[self.configuration]),
        }
    }

    /// Gives the registers back.
    pub fn release(&self, c: &Code<'c>) {
        if self.emulator.is_none() {
            c.call_void("llvm.x86.tilerelease", &[], &[]);
        }
    }

    fn zero(&self, c: &Code<'c>, state: Val<'c>, t: u32) {
        match &self.emulator {
            Some(e) => e.zero(c, state, t),
            None => c.call_void("llvm.x86.tilezero", &[], &[c.int(c.i8(), t.into())]),
        }
    }

    /// Rows 64 bytes apart.
    fn load(&self, c: &Code<'c>, state: Val<'c>, t: u32, from: Val<'c>) {
        let stride = c.c64(64);
        match &self.emulator {
            Some(e) => e.load(c, state, t, from, stride),
            None => {
                let args = [c.int(c.i8(), t.into()), from, stride];
                c.call_void("llvm.x86.tileloadd64", &[], &args);
            }
        }
    }

    /// Rows 64 bytes apart.
    fn store(&self, c: &Code<'c>, state: Val<'c>, t: u32, to: Val<'c>) {
        let stride = c.c64(64);
        match &self.emulator {
            Some(e) => e.store(c, state, t, to, stride),
            None => {
                let args = [c.int(c.i8(), t.into()), to, stride];
                c.call_void("llvm.x86.tilestored64", &[], &args);
            }
        }
    }

    fn dot(&self, c: &Code<'c>, state: Val<'c>, [d, a, b]: [u32; 3]) {
        match &self.emulator {
            Some(e) => e.dot(c, state, [d, a, b]),
            None => {
                let args = [d, a, b].map(|t| c.int(c.i8(), t.into()));
                c.call_void("llvm.x86.tdpbf16ps", &[], &args);
            }
        }
    }
}

impl<'c> Lowering<'_, 'c> {
    /// Sums of products over the block's k's, added to the accumulator.
    pub fn tile_block(&self, b: &Block<'c>) {
        let (c, Some(t)) = (self.c, self.tiles) else { return };
        let each = b.rows * b.cols;
        let split = if self.form.batch_invariant { 1 } else { 4 / each };
        for i in 0..each * split {
            t.zero(c, self.state, i);
        }
        // Steps that lie within the stretch; of the last of a panel, zeros may be a part.
        let first = self.div(self.round_up(b.from, 32), 32);
        let padded = self.plan.panel && b.scales.is_none();
        let end = if padded { self.round_up(b.to, 32) } else { b.to };
        let steps = c.smax(self.div(end, 32), first);
        let turn = i64::from(split);
        let turns = self.div(c.sub(steps, first), turn);
        let whole = c.add(first, c.mul(turns, c.c64(turn)));
        let right = |s: Val<'c>, col: u32| {
            let block = c.at(b.right.0, c.mul(b.right.1, c.c64(col.into())));
            c.index(block, s, TILE)
        };
        c.for_loop((first, whole, turn), &[], |s, _| {
            for u in 0..split {
                let s = c.add(s, c.c64(u.into()));
                self.tile_step(b, s, u, |col| right(s, col));
            }
            self.ask_ahead(&b.ahead, s, split);
            vec![]
        });
        if split > 1 {
            c.for_loop((whole, steps, 1), &[], |s, _| {
                self.tile_step(b, s, 0, |col| right(s, col));
                vec![]
            });
        }
        if b.scales.is_some() {
            // A stretch may begin within a step.
            let lo = c.andc(b.from, 31);
            let s = self.div(b.from, 32);
            let hi = c.smin(c.sub(b.to, c.mul(s, c.c64(32))), c.c64(32));
            c.when(c.less(c.c64(0), lo), || {
                self.tile_step(b, s, 0, |col| self.partial_tile(right(s, col), col, lo, hi));
            });
        }
        if b.scales.is_some() || !padded && self.form.has_tail(32) {
            let hi = c.sub(b.to, c.mul(steps, c.c64(32)));
            c.when(c.less(c.c64(0), hi), || {
                self.tile_step(b, steps, 0, |col| {
                    self.partial_tile(right(steps, col), col, c.c64(0), hi)
                });
            });
        }
        self.tile_results(b, split);
    }

    /// One step of 32 k's, into accumulators of turn `u`.
    fn tile_step(&self, b: &Block<'c>, s: Val<'c>, u: u32, right: impl Fn(u32) -> Val<'c>) {
        let (c, Some(t)) = (self.c, self.tiles) else { return };
        for col in 0..b.cols {
            let reg = 6 + (if b.cols == 1 { u & 1 } else { col });
            t.load(c, self.state, reg, right(col));
        }
        for r in 0..b.rows {
            let a = 4 + (if b.rows == 1 { u & 1 } else { r });
            let band = c.at(b.left.0, c.mul(b.left.1, c.c64((r * 16).into())));
            t.load(c, self.state, a, c.index(band, s, TILE));
            for col in 0..b.cols {
                let reg = 6 + (if b.cols == 1 { u & 1 } else { col });
                let sum = (u * b.rows + r) * b.cols + col;
                t.dot(c, self.state, [sum, a, reg]);
            }
        }
    }

    /// A copy of the k's `lo .. hi` of a step (`lo` even), zeros around them: what lies there is
    /// not ours to read, or not under this scale.
    fn partial_tile(&self, from: Val<'c>, col: u32, lo: Val<'c>, hi: Val<'c>) -> Val<'c> {
        let c = self.c;
        let to = self.scratch(self.plan.tiles_at + 4 * TILE as u64 + u64::from(col) * 1024);
        let words = c.vec(c.i32(), 16);
        c.for_loop((c.c64(0), c.c64(16), 1), &[], |p, _| {
            c.store(c.zero(words), c.index(to, p, 64), 4);
            vec![]
        });
        let pairs = self.div(hi, 2);
        c.for_loop((self.div(lo, 2), pairs, 1), &[], |p, _| {
            c.store(c.load(words, c.index(from, p, 64), 4), c.index(to, p, 64), 4);
            vec![]
        });
        c.for_loop((pairs, c.add(pairs, c.andc(hi, 1)), 1), &[], |p, _| {
            let first = c.andc(c.load(words, c.index(from, p, 64), 4), 0xffff);
            c.store(first, c.index(to, p, 64), 4);
            vec![]
        });
        to
    }

    /// Adds the accumulators to memory, through scratch.
    fn tile_results(&self, b: &Block<'c>, split: u32) {
        let (c, Some(t)) = (self.c, self.tiles) else { return };
        let results = self.scratch(self.plan.tiles_at);
        let each = b.rows * b.cols;
        for i in 0..each * split {
            t.store(c, self.state, i, c.off(results, i64::from(i) * TILE));
        }
        let f32s = c.vec(c.f32(), 16);
        for r in 0..b.rows {
            let first = c.add(b.row, c.c64((r * 16).into()));
            let count = c.smin(c.sub(self.o.valid[0], first), c.c64(16));
            c.for_loop((c.c64(0), count, 1), &[], |i, _| {
                let row = c.at(self.o.acc, c.mul(c.add(first, i), self.o.acc_pitch));
                let row = c.index(row, b.col, 4);
                for col in 0..b.cols {
                    let part = |u: u32| {
                        let at = i64::from(u * each + r * b.cols + col) * TILE;
                        c.load(f32s, c.index(c.off(results, at), i, 64), 4)
                    };
                    let sum = (1..split).fold(part(0), |sum, u| c.fadd(sum, part(u)));
                    let scale = b.scales.as_ref().map(|s| s[col as usize]);
                    self.add_to(row, b.col, col, sum, scale);
                }
                vec![]
            });
        }
    }
}
