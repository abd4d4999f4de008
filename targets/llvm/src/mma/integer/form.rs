//! What is known of a product of integer codes when code is made.

use crate::isa::Isa;
use crate::mma::form::{ScaleForm, known};
use ir::dtype::{DType, Encoding};
use ir::loops::{Mma, Nested, Right, Scales, Stride, Term, Unit};

/// Greatest extent of a tile: of more k's, sums might leave 32 bits.
const MOST: u32 = 1 << 15;

/// A product but for addresses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Form {
    /// Rows, columns, depth.
    pub extents: [u32; 3],
    /// Whether fewer rows, columns, depths than these may be valid.
    pub ragged: [bool; 3],
    /// Whether the left operand's codes are contiguous along k.
    pub left_dense: bool,
    /// Bytes from row to row of the left operand, if known.
    pub left_pitch: Option<i64>,
    /// Scales of the left operand: one a row and some k's.
    pub left_scale: ScaleForm,
    /// Whether sums of its codes are at hand for each of these.
    pub left_sums: bool,
    /// Code of the right operand, `I8` or `I4`.
    pub code: DType,
    /// How it lies.
    pub unit: Unit,
    /// Vectors of a unit in the order of memory.
    pub lines: Vec<Line>,
    /// Its scales.
    pub scale: Scaling,
    /// k's under one scale of either operand, from the first on.
    pub stretch: u32,
    /// Runs, and bytes of a run, of what is to be asked for.
    pub ahead: Option<[u32; 2]>,
}

/// Scales of the right operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    /// None.
    None,
    /// In the units: their type.
    Within(DType),
    /// Apart.
    Apart(ScaleForm),
}

/// A vector of right codes: a lane of 32 bits for each column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    /// Bytes from the unit's beginning.
    pub at: u32,
    /// k's (within the unit) of the four bytes of a lane; of codes of four bits those in the low
    /// halves, then those in the high ones.
    pub quads: Vec<[u32; 4]>,
}

impl Form {
    /// The form of a product, if there is a lowering for it at a level.
    pub fn of(m: &Mma, isa: &Isa) -> Option<Form> {
        let (left, scales) = (m.left.encoding, m.left.scales?);
        let extents = [m.m, m.n, m.k];
        let fits = isa.is_x86()
            && left.code == DType::I8
            && scales.rows == 1
            && m.acc.col == Stride::Bytes(4)
            && extents.iter().all(|e| (1..=MOST).contains(e));
        if !fits {
            return None;
        }
        let left_scale = scale_form(left, scales)?;
        let (encoding, unit, apart) = match &m.right {
            Right::Blocked { encoding, lanes, group, scales, .. } => {
                (*encoding, block_unit(*encoding, *lanes, *group)?, *scales)
            }
            Right::Units { encoding, unit, scales, .. } => (*encoding, unit.clone(), *scales),
            Right::Strided { .. } => return None,
        };
        let lines = lines(&unit, encoding.code)?;
        let (scale, under) = scaling(encoding, &unit, apart)?;
        let mut stretch = common(left_scale.cols, scales.multiple);
        if let Some((cols, multiple)) = under {
            stretch = common(stretch, common(cols, multiple));
        }
        let form = Form {
            extents,
            ragged: [m.m_valid.is_some(), m.n_valid.is_some(), m.k_valid.is_some()],
            left_dense: m.left.at.col == Stride::Bytes(1),
            left_pitch: known(m.left.at.row),
            left_scale,
            left_sums: scales.sums.is_some() && stretch == left_scale.cols,
            code: encoding.code,
            unit,
            lines,
            scale,
            stretch,
            ahead: m.ahead.map(|a| [a.rows, a.bytes]),
        };
        form.is_regular().then_some(form)
    }

    /// Whether stretches are whole units or whole lines of one, each of whole quads.
    fn is_regular(&self) -> bool {
        let (depth, stretch) = (self.unit.depth, self.stretch);
        let apart = |line: &Line| {
            let mut of = line.quads.iter().flatten().map(|k| k / stretch);
            let first = of.next();
            of.all(|s| Some(s) == first)
        };
        stretch.is_multiple_of(4)
            && stretch <= MOST
            && match stretch > depth {
                true => stretch.is_multiple_of(depth),
                false => {
                    depth.is_multiple_of(stretch) && depth <= 256 && self.lines.iter().all(apart)
                }
            }
    }

    /// Whether each quad is four adjacent k's.
    pub fn in_order(&self) -> bool {
        self.lines.iter().flat_map(|l| &l.quads).all(|q| (1..4).all(|i| q[i as usize] == q[0] + i))
    }

    /// What is added to codes to make them unsigned.
    pub fn offset(&self) -> i64 {
        if self.code == DType::I4 { 8 } else { 128 }
    }

    /// Stretches of the tile, those of its last unit included.
    pub fn stretches(&self) -> u32 {
        self.extents[2].next_multiple_of(self.step()) / self.stretch
    }

    /// k's that are done at a time: a unit or a stretch, whichever is longer.
    pub fn step(&self) -> u32 {
        self.unit.depth.max(self.stretch)
    }

    /// Whether steps may be partial.
    pub fn has_tail(&self) -> bool {
        self.ragged[2] || !self.extents[2].is_multiple_of(self.step())
    }
}

/// The greatest number that divides both; 0 is divided by all.
fn common(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common(b, a % b) }
}

fn scale_form(e: Encoding, s: Scales) -> Option<ScaleForm> {
    let code = e.scale?.dtype;
    let known = matches!(code, DType::F32 | DType::F16 | DType::BF16 | DType::E8M0);
    (known && s.rows > 0 && s.cols > 0).then_some(ScaleForm { code, rows: s.rows, cols: s.cols })
}

/// Scales, and for how many k's one holds, from a multiple of which number the tile begins.
fn scaling(
    e: Encoding,
    unit: &Unit,
    apart: Option<Scales>,
) -> Option<(Scaling, Option<(u32, u32)>)> {
    match (e.scale, &unit.scales, apart) {
        (None, None, None) => Some((Scaling::None, None)),
        (Some(_), None, Some(s)) => {
            let form = scale_form(e, s)?;
            let fits = s.rows == 1 || s.rows.is_multiple_of(unit.lanes);
            fits.then_some((Scaling::Apart(form), Some((s.cols, s.multiple))))
        }
        (Some(s), Some(places), None) => {
            let bits = s.dtype.bits();
            let adjacent = |k: u32| {
                let first = places.bit(0, k);
                first % 8 == 0 && (0..unit.lanes).all(|j| places.bit(j, k) == first + j * bits)
            };
            let fits = matches!(s.dtype, DType::F32 | DType::F16 | DType::BF16)
                && (0..unit.depth).all(adjacent);
            // One holds from each multiple of the least divisor to the next.
            let along = places.terms.iter().filter(|t| t.along_k && t.extent > 1);
            let cols = along.map(|t| t.divisor).fold(unit.depth, common);
            fits.then_some((Scaling::Within(s.dtype), Some((cols, 0))))
        }
        _ => None,
    }
}

/// Blocks of groups as units of one group.
fn block_unit(e: Encoding, lanes: u32, group: u32) -> Option<Unit> {
    let bits = e.code.bits();
    let terms = vec![
        Term { along_k: true, divisor: 1, extent: group, bits },
        Term { along_k: false, divisor: 1, extent: lanes, bits: bits.checked_mul(group)? },
    ];
    let bytes = bits.checked_mul(group)?.checked_mul(lanes)? / 8;
    let codes = ir::loops::Nested { begin: 0, terms };
    Some(Unit { lanes, depth: group, bytes, codes, scales: None })
}

/// The vectors of a unit, if it consists of such.
fn lines(unit: &Unit, code: DType) -> Option<Vec<Line>> {
    let (lanes, depth) = (unit.lanes, unit.depth);
    if !matches!(code, DType::I8 | DType::I4) || !matches!(lanes, 8 | 16) || depth > MOST {
        return None;
    }
    let (width, line_bits) = (code.bits(), 32 * lanes);
    let Nested { begin, .. } = unit.codes;
    if begin % 8 != 0 || !(depth * width).is_multiple_of(32) {
        return None;
    }
    let mut found = vec![vec![None; 32 / width as usize]; (depth * width / 32) as usize];
    for k in 0..depth {
        let first = unit.codes.bit(0, k);
        if (1..lanes).any(|j| unit.codes.bit(j, k) != first + 32 * j) {
            return None;
        }
        let (line, within) = ((first - begin) / line_bits, (first - begin) % line_bits);
        let place = found.get_mut(line as usize)?.get_mut((within / width) as usize)?;
        if place.replace(k).is_some() || within % width != 0 {
            return None;
        }
    }
    let line = |(i, ks): (usize, &Vec<Option<u32>>)| {
        let ks = ks.iter().copied().collect::<Option<Vec<u32>>>()?;
        let halves = ks.len() / 4;
        let quad = |half: usize| [0, 1, 2, 3].map(|byte| ks[byte * halves + half]);
        let at = (begin + i as u32 * line_bits) / 8;
        Some(Line { at, quads: (0..halves).map(quad).collect() })
    };
    found.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(along_k: bool, divisor: u32, extent: u32, bits: u32) -> Term {
        Term { along_k, divisor, extent, bits }
    }

    /// `[.., {k/32:2, j:16}, k/32:2, k/8:4, j:16, k:4, k/4:2]` in codes of four bits.
    #[test]
    fn a_quad_in_the_low_halves_and_one_in_the_high() {
        let terms = vec![
            term(true, 4, 2, 4),
            term(true, 1, 4, 8),
            term(false, 1, 16, 32),
            term(true, 8, 4, 512),
            term(true, 32, 2, 2048),
        ];
        let codes = Nested { begin: 512, terms };
        let unit = Unit { lanes: 16, depth: 64, bytes: 576, codes, scales: None };
        let lines = lines(&unit, DType::I4).expect("lines");
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[1], Line { at: 128, quads: vec![[8, 9, 10, 11], [12, 13, 14, 15]] });
    }

    #[test]
    fn blocks_are_units_of_a_line() {
        let bytes = block_unit(DType::I8.into(), 16, 4).expect("a unit");
        let line = |quads| vec![Line { at: 0, quads }];
        assert_eq!(lines(&bytes, DType::I8), Some(line(vec![[0, 1, 2, 3]])));
        let halves = block_unit(DType::I4.into(), 8, 8).expect("a unit");
        assert_eq!(lines(&halves, DType::I4), Some(line(vec![[0, 2, 4, 6], [1, 3, 5, 7]])));
        let pairs = block_unit(DType::I8.into(), 16, 2).expect("a unit");
        assert_eq!(lines(&pairs, DType::I8), None);
    }
}
