//! How a product of integer codes is computed at a level: register block, what is copied first.

use super::form::{Form, Scaling};
use crate::isa::Isa;
use crate::mma::LINE;

/// Everything decided about a product.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rows of a register block.
    pub rows: u32,
    /// Blocks of columns of a register block.
    pub cols: u32,
    /// Whether the left operand, its scales and sums are copied.
    pub copies: bool,
    /// Bytes from row to row of the copy.
    pub pitch: u32,
    /// Where things lie in the product's scratch: scales of the copy,
    pub scales_at: u64,
    /// start values of its accumulators,
    pub starts_at: u64,
    /// scales of the columns at work, if each column has its own,
    pub own_at: u64,
    /// and a vector.
    pub spill_at: u64,
    /// All of it.
    pub scratch: u64,
}

/// Rows up to which the left operand is multiplied where it lies, however far apart they are.
const DIRECT_ROWS: u32 = 8;
/// Bytes from row to row below which any number of rows is.
const DIRECT_PITCH: i64 = 512;
/// Rows up to which high halves are multiplied as they stand where an instruction takes such
/// products, each row's sums shifted in the end.
pub(crate) const SHIFTED_ROWS: u32 = 2;

impl Plan {
    /// The plan for a form at a level.
    pub fn new(f: &Form, isa: &Isa) -> Plan {
        let [m, n, k] = f.extents;
        let (rows, cols) = register_block(f, isa, n.div_ceil(f.unit.lanes));
        let near = m <= DIRECT_ROWS || f.left_pitch.is_some_and(|p| p <= DIRECT_PITCH);
        let ready = f.left_dense && f.left_sums && f.left_scale.code == ir::dtype::DType::F32;
        let copies = !(near && ready && f.in_order() && !f.has_tail());
        let pitch = k.next_multiple_of(f.step()).next_multiple_of(LINE) + LINE;
        let mut at = 0u64;
        let mut place = |bytes: u64| {
            let here = at;
            at += bytes.next_multiple_of(LINE.into());
            here
        };
        let tables = 4 * u64::from(m) * u64::from(f.stretches());
        if copies {
            place(u64::from(pitch) * u64::from(m));
        }
        let scales_at = place(if copies { tables } else { 0 });
        let starts_at = place(if copies { tables } else { 0 });
        let spill_at = place(4 * u64::from(f.unit.lanes));
        let own = match f.scale {
            Scaling::Apart(s) => u64::from(k / s.cols) + 2,
            _ => 0,
        };
        let own_at = place(4 * u64::from(f.unit.lanes * cols) * own);
        Plan { rows, cols, copies, pitch, scales_at, starts_at, own_at, spill_at, scratch: at }
    }
}

/// Rows and blocks of columns held in registers.
fn register_block(f: &Form, isa: &Isa, blocks: u32) -> (u32, u32) {
    let wide = f.unit.lanes.div_ceil(isa.lanes);
    let halves = f.lines[0].quads.len() as u32;
    // Without the instruction for dot products they take more registers on the way.
    let spare = if isa.dot_i8 { 2 } else { 5 };
    // Sums of codes, and over several stretches those of numbers beside them.
    let sums = 1 + u32::from(f.stretches() > 1);
    // What a single row takes is the time that memory takes, which gives one stream fastest.
    let most = if isa.registers >= 32 && wide == 1 && f.extents[0] > 1 { 4 } else { 1 };
    let cols = (1..=most.min(blocks))
        .min_by_key(|c| (blocks.div_ceil(*c), blocks.next_multiple_of(*c)))
        .unwrap_or(1);
    let taken = (halves * cols + spare) * wide;
    let fit = (isa.registers.saturating_sub(taken) / (cols * sums * wide)).clamp(1, 12);
    let m = f.extents[0];
    (m.div_ceil(m.div_ceil(fit)).max(1), cols)
}
