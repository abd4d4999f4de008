//! Where the elements of a tensor lie in memory, packed or row-major.
//!
//! The place of an element is a sum of one term for each axis (every factor of a packing belongs
//! to one axis), so a [`Layout`] is a table of offsets per axis.
//!
//! A scaled tensor holds codes, scales and perhaps sums of codes:
//! - *within* the codes, where its packing has a `{..}` step: each block begins with its scales,
//!   in the order of the nested steps, then (if the encoding keeps sums) the sums as `i32` in the
//!   same order, then its codes;
//! - *apart* otherwise: the codes, then from the next multiple of [`GRID_ALIGN`] bytes the whole
//!   grid of scales, row-major: one scale, of the encoding's scale type, for each block of the last
//!   two axes, for each position of the axes before them; then, from the next such multiple, the
//!   sums in the same order as `i32`.
//!
//! Codes of four bits fill a byte from its low half. Padding is zeros everywhere.

use super::packing::{PackingError, block_along, chain};
use super::{PackStep, Packing, ParamType, code};
use crate::dtype::{DType, Encoding};

/// Offsets that add up, one term for each axis.
#[derive(Clone, Debug, Default)]
struct Place {
    base: u64,
    terms: Vec<Vec<u64>>,
}

impl Place {
    fn new(base: u64, dims: &[u64]) -> Self {
        Place { base, terms: dims.iter().map(|d| vec![0; *d as usize]).collect() }
    }

    fn at(&self, position: &[u64]) -> u64 {
        self.base + self.terms.iter().zip(position).map(|(t, p)| t[*p as usize]).sum::<u64>()
    }

    /// Adds `digit(position) * stride` along an axis.
    fn add(&mut self, axis: u32, stride: u64, digit: impl Fn(u64) -> u64) {
        for (position, term) in self.terms[axis as usize].iter_mut().enumerate() {
            *term += digit(position as u64) * stride;
        }
    }
}

/// Where everything of a tensor lies.
#[derive(Clone, Debug)]
pub struct Layout {
    encoding: Encoding,
    dims: Vec<u64>,
    /// Bits.
    codes: Place,
    /// Bytes.
    scales: Option<Place>,
    /// Bytes.
    sums: Option<Place>,
    grid: Option<u64>,
    size: u64,
    /// Positions of the last axis that are contiguous, from any multiple of this number.
    run: usize,
}

/// Scales and sums that lie apart from the codes begin at a multiple of this: a cache line.
pub const GRID_ALIGN: u64 = 64;
/// Greatest size in bytes.
const SIZE_MAX: u64 = 1 << 47;
/// Greatest extent of an axis: coordinates are `i32`, and a table is kept of each axis.
const EXTENT_MAX: u64 = 1 << 27;

impl Layout {
    /// Layout of a tensor with these extents; row-major without a packing.
    pub fn new(
        encoding: Encoding,
        packing: Option<&Packing>,
        dims: &[u64],
    ) -> Result<Layout, PackingError> {
        let rank = dims.len();
        let row_major =
            || Packing((0..rank as u32).map(|axis| PackStep::Outer { axis, divisor: 1 }).collect());
        let packing = packing.cloned().unwrap_or_else(row_major);
        packing.check(rank, encoding)?;
        if encoding.scale.is_some_and(|s| rank == 0 || (rank == 1 && s.rows > 1)) {
            return Err(PackingError::Scales { encoding });
        }
        let too_large = || PackingError::Size { dims: dims.to_vec(), encoding };
        let elements = dims.iter().try_fold(1u64, |p, d| p.checked_mul(*d));
        if dims.iter().any(|d| *d > EXTENT_MAX) || elements.is_none_or(|n| n > SIZE_MAX / 8) {
            return Err(too_large());
        }
        let mut layout = Layout {
            encoding,
            dims: dims.to_vec(),
            codes: Place::new(0, dims),
            scales: encoding.scale.map(|_| Place::new(0, dims)),
            sums: encoding.scale.filter(|s| s.sum).map(|_| Place::new(0, dims)),
            grid: None,
            size: 0,
            run: 1,
        };
        let bits = match packing.around_scales() {
            Some((outer, scales, codes)) => layout.nest(outer, scales, codes),
            None => layout.code_steps(&packing.0, u64::from(encoding.code.bits())),
        };
        layout.size = bits.ok_or_else(too_large)?.div_ceil(8);
        if packing.around_scales().is_none() {
            layout.place_apart().ok_or_else(too_large)?;
        }
        let terms = layout.codes.terms.last();
        layout.run = terms.map_or(1, |t| contiguous(t, encoding.code.bits().into()));
        Ok(layout)
    }

    /// Spreads steps over memory, the last of them `unit` bits apart; returns the bits in all.
    fn code_steps(&mut self, steps: &[PackStep], unit: u64) -> Option<u64> {
        let places = &mut [&mut self.codes];
        spread(steps, unit, &self.dims, places, |_| 1)
    }

    /// Blocks of scales, sums and codes; returns the bits in all.
    fn nest(&mut self, outer: &[PackStep], scales: &[PackStep], codes: &[PackStep]) -> Option<u64> {
        let scale = self.encoding.scale?;
        let code_bits = self.code_steps(codes, self.encoding.code.bits().into())?;
        if code_bits % 8 != 0 {
            return None;
        }
        let rank = self.dims.len();
        let covered: Vec<u64> = (0..rank).map(|a| chain(codes, a as u32).unwrap_or(1)).collect();
        // Of a position: which scale of its block. Digits of nested steps are taken of that.
        let block = |axis: u32| block_along(scale, axis as usize, rank).min(covered[axis as usize]);
        let mut header = 0;
        for (place, bytes) in
            [(&mut self.scales, u64::from(scale.dtype.bits() / 8)), (&mut self.sums, 4)]
        {
            let Some(place) = place else { continue };
            place.base = header;
            header += spread(scales, bytes, &self.dims, &mut [place], block)?;
        }
        self.codes.base = header * 8;
        let unit = header + code_bits / 8;
        let mut grids: Vec<&mut Place> =
            self.scales.iter_mut().chain(self.sums.iter_mut()).collect();
        let bytes = spread(outer, unit, &self.dims, &mut grids, |_| 1)?;
        self.code_steps(outer, unit.checked_mul(8)?)?;
        bytes.checked_mul(8)
    }

    /// Grids of scales and sums after the codes.
    fn place_apart(&mut self) -> Option<()> {
        let Some(scale) = self.encoding.scale else { return Some(()) };
        let rank = self.dims.len();
        for (place, bytes) in
            [(&mut self.scales, u64::from(scale.dtype.bits() / 8)), (&mut self.sums, 4)]
        {
            let Some(place) = place else { continue };
            place.base = self.size.checked_next_multiple_of(GRID_ALIGN)?;
            self.grid.get_or_insert(place.base);
            let mut stride = bytes;
            for axis in (0..rank).rev() {
                let block = block_along(scale, axis, rank);
                place.add(axis as u32, stride, |p| p / block);
                stride = stride.checked_mul(self.dims[axis].div_ceil(block))?;
            }
            self.size = place.base.checked_add(stride).filter(|s| *s < SIZE_MAX)?;
        }
        Some(())
    }

    /// How elements are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Logical extents.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Bytes in all, padding and scales included.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Offset in bytes of the grid of scales, if it lies apart.
    pub fn grid_byte(&self) -> Option<u64> {
        self.grid
    }

    /// Offset in bits of an element's code. The position lies within the extents.
    pub fn code_bit(&self, position: &[u64]) -> u64 {
        self.codes.at(position)
    }

    /// Offset in bytes of the scale of an element, if the encoding has scales.
    pub fn scale_byte(&self, position: &[u64]) -> Option<u64> {
        self.scales.as_ref().map(|s| s.at(position))
    }

    /// Offset in bytes of the sum of an element's block, if the encoding keeps sums.
    pub fn sum_byte(&self, position: &[u64]) -> Option<u64> {
        self.sums.as_ref().map(|s| s.at(position))
    }

    /// Value of an element: its code times its scale.
    pub fn read(&self, memory: &[u8], position: &[u64]) -> f64 {
        let v = code::read(memory, self.encoding.code, self.code_bit(position));
        match (self.encoding.scale, self.scale_byte(position)) {
            (Some(s), Some(byte)) => v * code::read(memory, s.dtype, byte * 8),
            _ => v,
        }
    }

    /// Writes the code of an element, whose number is one that the code's type has.
    pub fn write_code(&self, memory: &mut [u8], position: &[u64], number: f64) {
        code::write(memory, self.encoding.code, self.code_bit(position), number);
    }

    /// Writes the scale of an element's block, if the encoding has scales.
    pub fn write_scale(&self, memory: &mut [u8], position: &[u64], number: f64) {
        if let (Some(s), Some(byte)) = (self.encoding.scale, self.scale_byte(position)) {
            code::write(memory, s.dtype, byte * 8, number);
        }
    }

    /// Terms in bits of the positions along an axis; [`Layout::code_bit`] is their sum plus
    /// [`Layout::code_base`].
    pub fn code_terms(&self, axis: usize) -> &[u64] {
        &self.codes.terms[axis]
    }

    /// Bits before the first code.
    pub fn code_base(&self) -> u64 {
        self.codes.base
    }

    fn row_bit(&self, row: &[u64]) -> u64 {
        // The position lacks the last axis, so its term is left out.
        self.codes.at(row)
    }

    /// Terms of a row's elements, and how many of them are copied at a time as whole bytes (0:
    /// none, codes of four bits lie alone).
    fn row_terms(&self, base: u64) -> (&[u64], usize) {
        let terms = self.codes.terms.last().map_or(&[0][..], |t| t);
        let run = self.run.min(terms.len().max(1));
        let whole = (run as u64 * u64::from(self.encoding.code.bits())).is_multiple_of(8);
        (terms, if whole && base.is_multiple_of(8) { run } else { 0 })
    }

    /// Writes the codes of one row (`row`: a position along all axes but the last), which lie in
    /// order from the first byte of `codes`, to their places in `packed`.
    fn put_row(&self, row: &[u64], codes: &[u8], packed: &mut [u8]) {
        let (base, bits) = (self.row_bit(row), self.encoding.code.bits() as usize);
        let (terms, run) = self.row_terms(base);
        // What does not fill whole bytes goes nibble by nibble.
        let whole = if run == 0 { 0 } else { terms.len() - terms.len() * bits % 8 / 4 };
        for_each_run(&terms[..whole], run, bits, |at, term, len| {
            packed[(base + term) as usize / 8..][..len].copy_from_slice(&codes[at..at + len]);
        });
        for (i, term) in terms.iter().enumerate().skip(whole) {
            set_nibble(packed, base + term, codes[i / 2] >> (4 * (i % 2)) & 15);
        }
    }

    /// The inverse of [`Layout::put_row`].
    fn get_row(&self, row: &[u64], packed: &[u8], codes: &mut [u8]) {
        let (base, bits) = (self.row_bit(row), self.encoding.code.bits() as usize);
        let (terms, run) = self.row_terms(base);
        let whole = if run == 0 { 0 } else { terms.len() - terms.len() * bits % 8 / 4 };
        for_each_run(&terms[..whole], run, bits, |at, term, len| {
            codes[at..at + len].copy_from_slice(&packed[(base + term) as usize / 8..][..len]);
        });
        for (i, term) in terms.iter().enumerate().skip(whole) {
            let at = base + term;
            set_nibble(codes, i as u64 * 4, packed[(at / 8) as usize] >> (at % 8) & 15);
        }
    }

    /// Writes this tensor, laid out as `from` says, as this layout says; padding becomes 0.
    /// Both are of one encoding and extents; `source` and `packed` have their sizes.
    pub fn pack(
        &self,
        from: &Layout,
        source: &[u8],
        packed: &mut [u8],
    ) -> Result<(), PackingError> {
        let fits = from.encoding == self.encoding
            && from.dims == self.dims
            && source.len() as u64 >= from.size
            && packed.len() as u64 >= self.size;
        if !fits {
            return Err(PackingError::Size { dims: self.dims.clone(), encoding: self.encoding });
        }
        packed.fill(0);
        let last = self.dims.last().copied().unwrap_or(1);
        let bytes = (last * u64::from(self.encoding.code.bits())).div_ceil(8);
        let mut codes = vec![0; bytes as usize];
        let rows = &self.dims[..self.dims.len().saturating_sub(1)];
        for_each_position(rows, &mut |row| {
            from.get_row(row, source, &mut codes);
            self.put_row(row, &codes, packed);
        });
        let scale_bytes = self.encoding.scale.map_or(0, |s| s.dtype.bits() as usize / 8);
        for (to, from, width) in
            [(&self.scales, &from.scales, scale_bytes), (&self.sums, &from.sums, 4)]
        {
            if let (Some(to), Some(from)) = (to, from) {
                copy_grid(self, to, from, width, source, packed);
            }
        }
        Ok(())
    }
}

impl ParamType {
    /// Layout of a parameter's memory, its symbols having these values. A list's is that of a
    /// row-major `i32[1 + max, fields]`.
    pub fn layout(&self, value_of: &dyn Fn(&str) -> Option<i64>) -> Result<Layout, PackingError> {
        let encoding = match self {
            ParamType::Tensor { encoding, .. } => *encoding,
            ParamType::List { .. } => DType::I32.into(),
        };
        let unsized_dim = || PackingError::Size { dims: Vec::new(), encoding };
        let extent = |d: &crate::dim::Dim| {
            d.eval(value_of).and_then(|v| u64::try_from(v).ok()).ok_or_else(unsized_dim)
        };
        match self {
            ParamType::Tensor { dims, packing, .. } => {
                let dims = dims.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
                Layout::new(encoding, packing.as_ref(), &dims)
            }
            ParamType::List { fields, max } => {
                let rows = extent(max)?.checked_add(1).ok_or_else(unsized_dim)?;
                Layout::new(encoding, None, &[rows, fields.len() as u64])
            }
        }
    }
}

/// Of places in order, how many lie together, `unit` apart, from any multiple of this number on.
pub fn contiguous(places: &[u64], unit: u64) -> usize {
    let mut run = places.len().max(1).next_power_of_two();
    for (i, pair) in places.windows(2).enumerate() {
        if pair[1] != pair[0] + unit {
            // Position i + 1 begins a run, so a run's length divides it.
            run = run.min(1 << (i + 1).trailing_zeros());
        }
    }
    run
}

/// Calls `visit` with the first byte in the row, the term and the bytes of each run.
fn for_each_run(terms: &[u64], run: usize, bits: usize, mut visit: impl FnMut(usize, u64, usize)) {
    for (i, chunk) in terms.chunks(run.max(1)).enumerate() {
        visit(i * run * bits / 8, chunk[0], chunk.len() * bits / 8);
    }
}

/// Copies every scale (or sum) that two layouts place.
fn copy_grid(
    layout: &Layout,
    to: &Place,
    from: &Place,
    width: usize,
    source: &[u8],
    packed: &mut [u8],
) {
    let changes = |axis: usize| -> Vec<u64> {
        let term = |p: u64| (to.terms[axis][p as usize], from.terms[axis][p as usize]);
        (0..layout.dims[axis]).filter(|p| *p == 0 || term(*p) != term(*p - 1)).collect()
    };
    let positions: Vec<Vec<u64>> = (0..layout.dims.len()).map(changes).collect();
    let counts: Vec<u64> = positions.iter().map(|p| p.len() as u64).collect();
    let mut position = vec![0; counts.len()];
    for_each_position(&counts, &mut |index| {
        for (axis, i) in index.iter().enumerate() {
            position[axis] = positions[axis][*i as usize];
        }
        let (a, b) = (from.at(&position) as usize, to.at(&position) as usize);
        packed[b..b + width].copy_from_slice(&source[a..a + width]);
    });
}

/// Spreads steps over memory, from the last, whose values lie `unit` apart; `block` gives, per
/// axis, how many positions share a value. Returns what lies behind the whole.
fn spread(
    steps: &[PackStep],
    unit: u64,
    dims: &[u64],
    places: &mut [&mut Place],
    block: impl Fn(u32) -> u64,
) -> Option<u64> {
    let mut reach = unit;
    for step in steps.iter().rev() {
        let (axis, stride, modulus, extent) = match step {
            PackStep::Outer { axis, divisor } => {
                let divisor = u64::from(*divisor);
                (*axis, divisor, u64::MAX, dims[*axis as usize].div_ceil(divisor))
            }
            PackStep::Inner { axis, stride, extent } => {
                let (stride, extent) = (u64::from(*stride), u64::from(*extent));
                (*axis, stride * block(*axis), extent, extent)
            }
            PackStep::Scales(_) => continue,
        };
        let next = reach.checked_mul(extent).filter(|n| *n < SIZE_MAX * 8)?;
        for place in places.iter_mut() {
            place.add(axis, reach, |p| p / stride % modulus);
        }
        reach = next;
    }
    Some(reach)
}

/// Writes a code of four bits.
pub(crate) fn set_nibble(bytes: &mut [u8], bit: u64, code: u8) {
    let (byte, shift) = (&mut bytes[(bit / 8) as usize], bit % 8);
    *byte = *byte & !(15 << shift) | (code & 15) << shift;
}

/// Calls `visit` with every position within the extents, the last axis fastest.
pub fn for_each_position(dims: &[u64], visit: &mut dyn FnMut(&[u64])) {
    if dims.contains(&0) {
        return;
    }
    let mut position = vec![0; dims.len()];
    loop {
        visit(&position);
        let Some(axis) = (0..dims.len()).rev().find(|a| position[*a] + 1 < dims[*a]) else {
            return;
        };
        position[axis] += 1;
        position[axis + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Packing {
        crate::kernel::parse::packing(text).expect("a packing")
    }

    fn encoding(text: &str) -> Encoding {
        text.parse().expect("an encoding")
    }

    #[test]
    fn blocked_places_are_those_of_the_formula() {
        let layout = Layout::new(DType::BF16.into(), Some(&Packing::blocked(2, 16, 2)), &[19, 5])
            .expect("a layout");
        assert_eq!(layout.size_bytes(), 2 * 3 * 16 * 2 * 2);
        for_each_position(&[19, 5], &mut |p| {
            let (n, k) = (p[0], p[1]);
            let index = ((n / 16 * 3 + k / 2) * 16 + n % 16) * 2 + k % 2;
            assert_eq!(layout.code_bit(p), index * 16);
        });
        assert_eq!(Packing::blocked(2, 16, 2), steps("[0/16, 1/2, 0:16, 1:2]"));
        assert_eq!(Packing::blocked(3, 16, 4), steps("[0/1, 1/16, 2/4, 1:16, 2:4]"));
    }

    #[test]
    fn nested_scales_stand_before_their_codes() {
        let packing = steps("[0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1:4, 1/4:2]");
        let layout =
            Layout::new(encoding("i4<f16 1x32>"), Some(&packing), &[16, 128]).expect("a layout");
        let unit = 2 * 16 * 2 + 16 * 64 / 2;
        assert_eq!(layout.size_bytes(), 2 * unit);
        assert_eq!(layout.grid_byte(), None);
        for_each_position(&[16, 128], &mut |p| {
            let (j, k) = (p[0], p[1]);
            let base = k / 64 * unit;
            assert_eq!(layout.scale_byte(p), Some(base + (k / 32 % 2 * 16 + j) * 2));
            let nibble = (((k / 32 % 2 * 4 + k / 8 % 4) * 16 + j) * 4 + k % 4) * 2 + k / 4 % 2;
            assert_eq!(layout.code_bit(p), (base + 64) * 8 + nibble * 4);
        });
    }

    #[test]
    fn scales_apart_follow_at_a_line() {
        let packing = Packing::blocked(3, 16, 4);
        let fp8 = encoding("fp8_e4m3<f32 128x128>");
        let layout = Layout::new(fp8, Some(&packing), &[2, 130, 300]).expect("a layout");
        let codes = 2 * 144 * 300;
        assert_eq!(layout.grid_byte(), Some(86_400));
        assert_eq!(codes, 86_400);
        assert_eq!(layout.size_bytes(), 86_400 + 2 * 2 * 3 * 4);
        assert_eq!(layout.scale_byte(&[1, 129, 299]), Some(86_400 + ((2 + 1) * 3 + 2) * 4));
    }

    #[test]
    fn packing_and_unpacking_keep_everything() {
        let cases = [
            ("bf16", "[0/16, 1/2, 0:16, 1:2]", vec![19, 7]),
            ("f32", "[1/4, 0/2, 1:4, 0:2]", vec![5, 9]),
            ("i8", "[0/1, 1/16, 2/4, 1:16, 2:4]", vec![3, 17, 6]),
            (
                "i4<f16 1x32>",
                "[0/16, 1/64, {1:2, 0:16}, 1/32:2, 1/8:4, 0:16, 1:4, 1/4:2]",
                vec![18, 96],
            ),
            ("i4", "[0/2, 1/2, 0:2, 1:2]", vec![3, 5]),
            ("fp8_e4m3<f32 4x8>", "[0/2, 1/4, {0:1, 1:1}, 0:2, 1:4]", vec![6, 20]),
            ("i8<f32 1x4 sum>", "[0/2, 1/8, {1:2, 0:2}, 0:2, 1:8]", vec![3, 13]),
            ("fp8_e4m3<f32 4x8>", "[0/16, 1/4, 0:16, 1:4]", vec![6, 20]),
        ];
        for (text, packing, dims) in cases {
            let encoding = encoding(text);
            let rows = Layout::new(encoding, None, &dims).expect("row-major");
            let packed = Layout::new(encoding, Some(&steps(packing)), &dims).expect("packed");
            let mut source = vec![0; rows.size_bytes() as usize];
            // Only bytes that mean something, so that equality is of everything.
            let mut fill = |bit: u64, bits: u32| match bits {
                4 => set_nibble(&mut source, bit, (bit / 4 % 15 + 1) as u8),
                _ => (0..u64::from(bits / 8))
                    .for_each(|b| source[(bit / 8 + b) as usize] = (bit / 8 + b) as u8 ^ 0x5a),
            };
            for_each_position(&dims, &mut |p| {
                fill(rows.code_bit(p), encoding.code.bits());
                rows.scale_byte(p).iter().for_each(|b| {
                    fill(b * 8, encoding.scale.expect("a scale").dtype.bits());
                });
                rows.sum_byte(p).iter().for_each(|b| fill(b * 8, 32));
            });
            let mut there = vec![0xff; packed.size_bytes() as usize];
            packed.pack(&rows, &source, &mut there).expect("packs");
            let mut back = vec![0xff; source.len()];
            rows.pack(&packed, &there, &mut back).expect("unpacks");
            assert_eq!(back, source, "{text} {packing}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for dims in [vec![1 << 40, 1 << 40], vec![1 << 40], vec![1 << 26, 1 << 26]] {
            let huge = Layout::new(DType::F32.into(), None, &dims);
            assert!(matches!(huge, Err(PackingError::Size { .. })), "{dims:?}");
        }
        let empty = Layout::new(DType::F32.into(), None, &[0, 5]).expect("no elements");
        assert_eq!(empty.size_bytes(), 0);
    }
}
