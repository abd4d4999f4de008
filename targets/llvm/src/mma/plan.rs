//! How a product of a form is computed at a level: unit, register block, what is copied first.

use super::along;
use super::form::{Form, RightForm};
use crate::isa::{Isa, Tiles};
use ir::dtype::DType;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Fused multiply-add of f32.
    Fma,
    /// Dot products of pairs of bf16, accumulated in f32.
    Dot,
    /// The same, of pairs along both operands as they lie: k is in the lanes.
    Along,
    /// Tile registers: 16 rows by 16 columns by 32 k's of bf16.
    Tile,
}

/// How the micro-kernel finds the right operand: blocks of columns, steps along k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Element.
    pub code: DType,
    /// k's that lie together; a step of the kernel.
    pub group: u32,
}

impl Stored {
    /// Whether pairs of bf16 are made of it in registers: from codes that fill a word.
    pub fn makes_pairs(self) -> bool {
        self.code.bits() <= 8 && self.code.bits() * self.group == 32
    }

    /// Bytes of a step of one block.
    pub fn step_bytes(self, lanes: u32) -> u32 {
        self.code.bits() * self.group * lanes / 8
    }
}

/// Everything decided about a product.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What multiplies.
    pub unit: Unit,
    /// Columns of a block.
    pub lanes: u32,
    /// Rows of a register block (tile registers: in units of 16).
    pub rows: u32,
    /// Blocks of columns of a register block.
    pub cols: u32,
    /// Bytes from row to row of the copy of the left operand, if it is copied.
    pub left_pitch: Option<u32>,
    /// Element of the left operand as multiplied.
    pub left: DType,
    /// The right operand as multiplied.
    pub right: Stored,
    /// Whether that is a copy (transposed, interleaved or decoded) of the columns at work.
    pub panel: bool,
    /// Bytes from block to block of the copy.
    pub panel_pitch: u32,
    /// Where things lie in the product's scratch.
    pub left_at: u64,
    /// The copy of the right operand.
    pub panel_at: u64,
    /// Tile results, and tiles of a partial last step.
    pub tiles_at: u64,
    /// A vector.
    pub spill_at: u64,
    /// Scales of the columns at work, if each column has its own.
    pub scales_at: u64,
    /// All of it.
    pub scratch: u64,
}

/// Rows up to which encoded weights are decoded in registers, over and over for each block of
/// rows, and not once into scratch: to f32, and to pairs of bf16.
const DECODED_FLOATS: u32 = 4;
const DECODED_PAIRS: u32 = 8;
/// Rows up to which the left operand is multiplied where it lies. Beyond, rows a power of two
/// apart would share few sets of the first-level cache.
const DIRECT_ROWS: u32 = 8;
/// A row's lanes are added up in as many instructions as so many k's are transposed in.
const ADDED: u32 = 12;
/// Rows from which a tile register is worth its loads.
const TILE_ROWS: u32 = 5;

impl Plan {
    /// The plan for a form at a level.
    pub fn new(f: &Form, isa: &Isa) -> Plan {
        let (lanes, unit) = (block_lanes(f), unit(f, isa));
        if unit == Unit::Along {
            return Plan::along(f);
        }
        let right = stored(f, unit);
        let panel = match f.right {
            RightForm::Strided { .. } => true,
            RightForm::Blocked { code, group, .. } => right != Stored { code, group },
        };
        let left = if unit == Unit::Fma { DType::F32 } else { DType::BF16 };
        let blocks = f.n.div_ceil(lanes);
        let (rows, cols) = match unit {
            Unit::Tile => (f.m.div_ceil(16).min(2), blocks.min(2)),
            _ => register_block(f.m, blocks, unit, isa, lanes),
        };
        let mut plan = Plan { unit, lanes, rows, cols, left, right, panel, ..Plan::along(f) };
        plan.place(f);
        plan
    }

    /// Nothing copied, k in the lanes; blocks are of single columns.
    fn along(f: &Form) -> Plan {
        let (rows, cols) = along::block_of(f.m);
        Plan {
            unit: Unit::Along,
            lanes: 1,
            rows,
            cols,
            left_pitch: None,
            left: DType::BF16,
            right: Stored { code: DType::BF16, group: along::STEP },
            panel: false,
            panel_pitch: 0,
            left_at: 0,
            panel_at: 0,
            tiles_at: 0,
            spill_at: 0,
            scales_at: 0,
            scratch: 0,
        }
    }

    /// Whether the pairs of a step are the elements of its first half each with one of the second.
    pub fn mixed(&self) -> bool {
        self.unit == Unit::Dot && self.right.code != DType::BF16
    }

    /// k's of a step.
    pub fn depth(&self) -> u32 {
        if self.unit == Unit::Tile { 32 } else { self.right.group }
    }

    /// Decides what is copied, and where to.
    fn place(&mut self, f: &Form) {
        let depth = f.k.next_multiple_of(32);
        let bytes = self.left.bits() / 8;
        let in_place = self.unit != Unit::Tile
            && !self.mixed()
            && f.left == self.left
            && f.left_step == Some(i64::from(bytes))
            && (f.m <= DIRECT_ROWS || f.left_dense)
            && !f.has_tail(self.depth());
        let mut at = 0u64;
        if !in_place {
            // One line more than the row: rows do not meet in the sets of the cache.
            let pitch = depth * bytes + if self.unit == Unit::Tile { 0 } else { 64 };
            let rows = if self.unit == Unit::Tile { f.m.next_multiple_of(32) } else { f.m };
            self.left_pitch = Some(pitch);
            at += u64::from(pitch) * u64::from(rows);
        }
        self.panel_at = at;
        if self.panel {
            let line = self.right.code.bits() * self.lanes / 8;
            self.panel_pitch = depth * line + 64;
            at += u64::from(self.panel_pitch) * u64::from(self.cols);
        }
        self.tiles_at = at;
        if self.unit == Unit::Tile {
            // Four results, and the right tiles of a partial last step.
            at += 6 * 1024;
        }
        self.spill_at = at;
        at += 4 * u64::from(self.lanes);
        self.scales_at = at;
        if let Some(s) = f.scale() {
            at += 4 * u64::from(self.lanes * self.cols) * (u64::from(f.k / s.cols) + 2);
        }
        self.scratch = at.next_multiple_of(64);
    }
}

fn block_lanes(f: &Form) -> u32 {
    match f.right {
        RightForm::Blocked { lanes, .. } => lanes,
        RightForm::Strided { .. } => 16,
    }
}

fn unit(f: &Form, isa: &Isa) -> Unit {
    let (lanes, code) = (block_lanes(f), f.code());
    let encoded = code.bits() <= 8;
    // Pairs must come straight from memory, or from decoding whole groups of even depth.
    let pairs = match f.right {
        RightForm::Strided { code, .. } => code == DType::BF16,
        RightForm::Blocked { code: DType::BF16, group, .. } => group == 2,
        RightForm::Blocked { code, group, .. } => {
            let in_registers = isa.dot_bf16 && Stored { code, group }.makes_pairs();
            encoded
                && group.is_multiple_of(2)
                && (f.deciding_rows() > DECODED_FLOATS || in_registers)
        }
    };
    if f.left != DType::BF16 || !pairs || lanes != 16 {
        return Unit::Fma;
    }
    // Steps that a scale ends within are slow.
    let whole = f.scale().is_none_or(|s| s.cols.is_multiple_of(32));
    if isa.tiles != Tiles::None && f.deciding_rows() >= TILE_ROWS && whole {
        return Unit::Tile;
    }
    match isa.dot_bf16 {
        true if lies_along(f) => Unit::Along,
        true => Unit::Dot,
        false => Unit::Fma,
    }
}

/// Whether both operands lie along k, and adding up the lanes of all sums is less work than
/// transposing the right one would be.
fn lies_along(f: &Form) -> bool {
    let right = matches!(f.right, RightForm::Strided { step: Some(2), .. });
    right && f.left_step == Some(2) && f.deciding_rows().saturating_mul(ADDED) <= f.k
}

fn stored(f: &Form, unit: Unit) -> Stored {
    let pairs = Stored { code: DType::BF16, group: 2 };
    match f.right {
        RightForm::Strided { .. } if unit != Unit::Fma => pairs,
        RightForm::Strided { code: DType::F32, .. } => Stored { code: DType::F32, group: 1 },
        RightForm::Strided { code, .. } => Stored { code, group: 2 },
        RightForm::Blocked { code, group, .. } => {
            let here = Stored { code, group };
            let few = match unit {
                Unit::Tile | Unit::Along => 0,
                // Pairs made in registers are others than those of a copy.
                Unit::Dot if here.makes_pairs() && f.batch_invariant => u32::MAX,
                Unit::Dot if here.makes_pairs() => DECODED_PAIRS,
                Unit::Dot => 0,
                Unit::Fma => DECODED_FLOATS,
            };
            match unit {
                _ if code.bits() > 8 || f.m <= few => here,
                Unit::Fma => Stored { code: DType::F32, group: 1 },
                _ => pairs,
            }
        }
    }
}

/// Rows and blocks of columns held in registers: accumulators, a row of right operands, and one
/// broadcast element must fit.
fn register_block(m: u32, blocks: u32, unit: Unit, isa: &Isa, lanes: u32) -> (u32, u32) {
    let wide = lanes.div_ceil(isa.lanes);
    // Half of the registers at most for accumulators of few rows: several streams of columns.
    let few = isa.registers / (2 * m.min(isa.registers) * wide);
    let most = if isa.registers >= 32 && wide == 1 { 4 } else { few.clamp(1, 4) };
    // The fewest passes over the blocks, then the widest.
    let cols = (1..=most.min(blocks))
        .min_by_key(|c| (blocks.div_ceil(*c), blocks.next_multiple_of(*c)))
        .unwrap_or(1);
    let spare = if unit == Unit::Dot { cols * wide + 2 } else { 2 * cols * wide + 1 };
    let fit = (isa.registers.saturating_sub(spare) / (cols * wide)).clamp(1, 12);
    let passes = m.div_ceil(fit);
    (m.div_ceil(passes).max(1), cols)
}
