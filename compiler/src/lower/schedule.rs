//! Tile shapes: how much of a contraction one instance computes, from the sizes of the step and
//! of the device's caches.

use ir::device::DeviceSpec;
use ir::dtype::Encoding;
use ir::kernel::LoopHints;
use std::fmt;

/// A range of row counts that one set of kernels serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBucket {
    /// For reports.
    pub name: &'static str,
    /// Greatest number of rows of a step.
    pub rows_max: i64,
    /// A number of rows for which memory is laid out well.
    pub typical: i64,
}

impl fmt::Display for RowBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows_max {
            i64::MAX => write!(f, "{}: steps of any number of rows", self.name),
            1 => write!(f, "{}: steps of 1 row", self.name),
            most => write!(f, "{}: steps of up to {most} rows", self.name),
        }
    }
}

impl RowBucket {
    /// Whether reading weights takes longer than multiplying so few rows by them.
    pub fn is_narrow(self) -> bool {
        self.rows_max <= 8
    }
}

/// Shape buckets by rows, tried in order: one decoding sequence, a few, and everything else.
pub const BUCKETS: [RowBucket; 3] = [
    RowBucket { name: "decode", rows_max: 1, typical: 1 },
    RowBucket { name: "batch", rows_max: 8, typical: 8 },
    RowBucket { name: "prefill", rows_max: i64::MAX, typical: 512 },
];

/// Rows of work that no tile is larger than.
const ROWS_MAX: i64 = 96;
/// Columns of a lane block in packed weights.
pub const LANES: u32 = 16;
/// Depth of packed weights whose scales lie together.
pub const UNIT: u32 = 64;

/// Static tile of a contraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContractionTile {
    /// Rows.
    pub rows: u32,
    /// Columns, a multiple of [`LANES`].
    pub cols: u32,
    /// Depth of one tile product.
    pub depth: u32,
}

/// Tile of a contraction of up to `bucket.rows_max` rows with a `[cols, depth]` weight.
///
/// A wide bucket's weight panel (`cols` by `depth`) stays in half of L2 while the rows pass by;
/// a narrow one's is read once, so that small panels serve to share the work. A left operand of
/// several terms for each row is made anew for each tile: fewer rows, and columns enough that the
/// making is cheap beside the product.
pub fn contraction(
    device: &DeviceSpec,
    bucket: RowBucket,
    cols: i64,
    depth: i64,
    weight: Encoding,
    terms: u32,
) -> ContractionTile {
    // Two roundings and a difference for each element, and half a product for each of 256 columns.
    const MANY: i64 = 16;
    let depth = tile_depth(depth);
    let rows = (bucket.rows_max.min(ROWS_MAX) as u32).div_ceil(terms);
    let bytes = i64::from(weight.code.bits()) * i64::from(depth) / 8;
    let lanes = i64::from(LANES);
    let in_cache = (device.l2_bytes as i64 / 2 / (bytes * lanes).max(1)).clamp(1, 4);
    let blocks = match bucket.rows_max {
        1 => 1,
        2..=8 => in_cache.min(2),
        _ if terms > 1 => MANY,
        _ => in_cache,
    };
    let cols = lane_columns(cols, blocks);
    ContractionTile { rows, cols, depth }
}

/// Columns of a tile of `blocks` lane blocks, or of as many as cover all `cols`.
pub fn lane_columns(cols: i64, blocks: i64) -> u32 {
    let lanes = i64::from(LANES);
    let all = (cols.max(1) + lanes - 1) / lanes;
    (blocks.min(all) * lanes) as u32
}

/// As many columns as blocks of scales cover, where results are stored in such.
pub fn whole_blocks(cols: u32, outs: &[Encoding]) -> u32 {
    let blocks = outs.iter().filter_map(|e| e.scale).map(|s| s.cols);
    blocks.fold(cols, |cols, block| cols.next_multiple_of(block))
}

/// Depth of one tile product: all of it up to a limit, else a divisor near it, of whole units of
/// packed weights if there is one, else a part with a masked end.
pub fn tile_depth(depth: i64) -> u32 {
    const WHOLE: i64 = 4096;
    const LEAST: i64 = 512;
    if depth <= WHOLE {
        return depth.max(1) as u32;
    }
    let divisor = |unit| (LEAST..=WHOLE).rev().find(|d| depth % d == 0 && d % unit == 0);
    divisor(i64::from(UNIT)).or(divisor(4)).unwrap_or(2048) as u32
}

/// Hints of a loop over the depth, for tiles of `rows` rows: many rows leave time to ask for the
/// next tile of weights.
pub fn staged(rows: u32) -> LoopHints {
    const MANY: u32 = 13;
    LoopHints { stages: if rows < MANY { 0 } else { 2 }, ..LoopHints::default() }
}

/// Rows of one expert's tile.
pub fn expert_rows(bucket: RowBucket) -> u32 {
    bucket.rows_max.min(48) as u32
}

/// Heads of an attention's tile, at most.
pub const TILE_HEADS: u32 = 32;
/// Positions of a context that are worth an instance of their own.
pub const PART_POSITIONS: u32 = 256;

/// Query rows of one attention instance, given the heads of its tile: as many as make what is
/// transposed and interleaved of each page worth it.
pub fn attention_rows(bucket: RowBucket, tile_heads: u32) -> u32 {
    const TILE_ROWS: i64 = 64;
    let wanted = (TILE_ROWS / i64::from(tile_heads.max(1))).max(1);
    wanted.min(bucket.rows_max) as u32
}

/// Most parts that a context is divided into, given the instances that heads make of a row: few
/// rows leave workers idle otherwise. Joining parts is a launch more, which two or three are not
/// worth.
pub fn context_parts(bucket: RowBucket, instances: i64) -> u32 {
    const WORKERS: i64 = 32;
    const FEW: i64 = 4;
    let parts = WORKERS / instances.max(1);
    if bucket.is_narrow() && parts >= FEW { parts as u32 } else { 1 }
}

/// How many parts the longest context has at most, and how many positions each, where parts are
/// those of every context: as few as give all workers some of it.
pub fn fixed_parts(longest: i64, page: u32) -> (u32, u32) {
    const MOST: i64 = 64;
    let (longest, page) = (longest.max(1), i64::from(page));
    let positions = ((longest + MOST - 1) / MOST).max(PART_POSITIONS.into());
    let positions = (positions + page - 1) / page * page;
    (((longest + positions - 1) / positions) as u32, positions as u32)
}

/// The size, of at most `most`, of equal parts of an extent, as few as can be.
pub fn even_part(extent: i64, most: u32) -> u32 {
    let extent = extent.max(1) as u64;
    let parts = extent.div_ceil(u64::from(most.max(1)));
    extent.div_ceil(parts) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_divide_where_they_can() {
        assert_eq!(tile_depth(200), 200);
        assert_eq!(tile_depth(7168), 3584);
        assert_eq!(tile_depth(18432), 3072);
        assert_eq!(tile_depth(10944), 3648);
        assert_eq!(tile_depth(5268), 1756);
        assert_eq!(tile_depth(10007), 2048);
    }
}
