//! What is known of a product when code is made: extents, encodings, strides.

use super::{LINE, PAGE};
use ir::dtype::{DType, Encoding};
use ir::loops::{Mma, Right, Stride};

/// Greatest extent of a tile that is taken on.
const MOST: u32 = 1 << 20;

/// A product but for addresses. Products of one form share their code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// Rows.
    pub m: u32,
    /// Columns.
    pub n: u32,
    /// Depth.
    pub k: u32,
    /// Whether fewer rows, columns, depths than these may be valid.
    pub ragged: [bool; 3],
    /// Element of the left operand.
    pub left: DType,
    /// Bytes from k to k of the left operand, if known.
    pub left_step: Option<i64>,
    /// Whether its rows lie one after another, and so in different sets of the cache.
    pub left_dense: bool,
    /// The right operand.
    pub right: RightForm,
    /// Runs, and bytes of a run, of what is to be asked for.
    pub ahead: Option<[u32; 2]>,
    /// Whether terms are added in an order that rows have no part in.
    pub batch_invariant: bool,
}

/// A right operand but for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RightForm {
    /// Blocks of `lanes` columns by groups of `group` k's.
    Blocked {
        /// Element.
        code: DType,
        /// Columns of a block.
        lanes: u32,
        /// k's that lie together.
        group: u32,
        /// Its scales.
        scale: Option<ScaleForm>,
    },
    /// Plain memory.
    Strided {
        /// Element.
        code: DType,
        /// Bytes from k to k, if known.
        step: Option<i64>,
        /// Whether columns are contiguous.
        columns: bool,
    },
}

/// Scales of the right operand: one for `rows` columns by `cols` k's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScaleForm {
    /// Element.
    pub code: DType,
    /// Extent along n.
    pub rows: u32,
    /// Extent along k.
    pub cols: u32,
}

/// A distance, if it is known.
pub(crate) fn known(s: Stride) -> Option<i64> {
    match s {
        Stride::Bytes(b) => Some(b),
        Stride::Reg(_) => None,
    }
}

impl Form {
    /// The form of a product, if there is a lowering for it.
    pub fn of(m: &Mma) -> Option<Form> {
        let left = m.left.encoding;
        if [m.m, m.n, m.k].iter().any(|e| *e == 0 || *e > MOST)
            || !plain(left)
            || m.left.scales.is_some()
            || m.acc.col != Stride::Bytes(4)
        {
            return None;
        }
        let right = match &m.right {
            Right::Strided { encoding, at } if plain(*encoding) => RightForm::Strided {
                code: encoding.code,
                step: known(at.col),
                columns: known(at.row) == Some(i64::from(encoding.code.bits() / 8)),
            },
            Right::Strided { .. } | Right::Units { .. } => return None,
            Right::Blocked { encoding, lanes, group, scales, .. } => {
                let extents = scales.map(|s| (s.rows, s.cols));
                blocked(*encoding, *lanes, *group, extents)?
            }
        };
        Some(Form {
            m: m.m,
            n: m.n,
            k: m.k,
            ragged: [m.m_valid.is_some(), m.n_valid.is_some(), m.k_valid.is_some()],
            left: left.code,
            left_step: known(m.left.at.col),
            left_dense: is_dense(m),
            right,
            ahead: m.ahead.map(|a| [a.rows, a.bytes]),
            batch_invariant: m.batch_invariant,
        })
    }

    /// Rows by which it may be decided how terms are added: where rows must have no part in that, as
    /// if there were very many.
    pub fn deciding_rows(&self) -> u32 {
        if self.batch_invariant { u32::MAX } else { self.m }
    }

    /// Whether the last step along k of `unit` k's may be partial.
    pub fn has_tail(&self, unit: u32) -> bool {
        self.ragged[2] || !self.k.is_multiple_of(unit)
    }

    /// Element of the right operand.
    pub fn code(&self) -> DType {
        match self.right {
            RightForm::Blocked { code, .. } | RightForm::Strided { code, .. } => code,
        }
    }

    /// Scales of the right operand.
    pub fn scale(&self) -> Option<ScaleForm> {
        match self.right {
            RightForm::Blocked { scale, .. } => scale,
            RightForm::Strided { .. } => None,
        }
    }
}

fn is_dense(m: &Mma) -> bool {
    let row = i64::from(m.k) * i64::from(m.left.encoding.code.bits() / 8);
    let apart = row + i64::from(LINE);
    known(m.left.at.row).is_some_and(|r| (row..=apart).contains(&r) && r % i64::from(PAGE) != 0)
}

/// Whether elements are floats stored as they are.
fn plain(e: Encoding) -> bool {
    e.is_plain() && matches!(e.code, DType::F32 | DType::BF16 | DType::F16)
}

fn blocked(e: Encoding, lanes: u32, group: u32, extents: Option<(u32, u32)>) -> Option<RightForm> {
    // A group of one column must fill 8, 16 or 32 bits (or two floats).
    let bits = e.code.bits().checked_mul(group)?;
    let fits = match e.code {
        DType::F32 => group == 1 || group == 2,
        DType::BF16 | DType::F16 => matches!(bits, 16 | 32),
        DType::F8E4M3 | DType::F4E2M1 | DType::I8 | DType::I4 => matches!(bits, 8 | 16 | 32),
        _ => false,
    };
    let scale = match (e.scale, extents) {
        (None, None) => None,
        (Some(s), Some((rows, cols))) => Some(ScaleForm { code: s.dtype, rows, cols }),
        _ => return None,
    };
    let scales = scale.is_none_or(|s| {
        // One scale for all columns of a block, or one for each; steps never straddle a block.
        matches!(s.code, DType::F32 | DType::F16 | DType::BF16 | DType::E8M0)
            && (s.rows == 1 || s.rows.is_multiple_of(lanes.max(1)) && s.rows > 0)
            && s.cols > 0
            && s.cols.is_multiple_of(group.max(2))
    });
    let known = fits && scales && matches!(lanes, 8 | 16);
    known.then_some(RightForm::Blocked { code: e.code, lanes, group, scale })
}
