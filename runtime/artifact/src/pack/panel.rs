//! Where the bytes of a packed weight lie: rows go to panels, as many as lie together whole.

use super::gather::Lines;
use super::table::Table;
use crate::threads;
use serde::{Deserialize, Serialize};

/// How some rows lie together. Every panel of a weight is alike; the last may have fewer rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panel {
    /// Bytes, padding included.
    pub bytes: u64,
    /// Bytes of an element's code.
    pub width: u32,
    /// Columns that lie together, from any multiple of this number on.
    pub run: u32,
    /// First byte of each row.
    pub rows: Vec<u64>,
    /// Distance of each run of columns from there.
    pub runs: Table,
    /// Where scales lie that stand among the codes.
    pub scales: Option<Nested>,
}

/// Scales of blocks, in the panel of their codes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nested {
    /// Bytes of a scale.
    pub width: u32,
    /// Rows that share a scale.
    pub block_rows: u32,
    /// First byte of the scales of each row of the panel.
    pub rows: Vec<u64>,
    /// Distance from there of each block of columns.
    pub blocks: Table,
}

impl Panel {
    /// Panels of a matrix of so many rows.
    fn count(&self, rows: i64) -> i64 {
        let own = self.rows.len().max(1) as i64;
        (rows + own - 1) / own
    }

    /// Bytes of all panels of a tensor; `None` where that is no number.
    pub fn bytes_of(&self, [batches, rows, _]: [i64; 3]) -> Option<u64> {
        let panels = batches.checked_mul(self.count(rows))?;
        u64::try_from(panels).ok()?.checked_mul(self.bytes)
    }

    /// Whether it holds rows of `cols` columns as they are: one row, without padding.
    pub fn is_plain(&self, cols: i64) -> bool {
        let whole = self.bytes == cols as u64 * u64::from(self.width);
        let one = self.run as i64 >= cols || self.runs == self.steps_of_runs(cols);
        self.rows == [0] && whole && one && self.scales.is_none()
    }

    /// Runs one behind the other.
    fn steps_of_runs(&self, cols: i64) -> Table {
        let (run, width) = (i64::from(self.run), i64::from(self.width));
        Table::steps(run * width, (cols + run - 1) / run)
    }

    /// Checks that rows of `cols` columns, and their scales in `blocks` blocks, stay within it.
    ///
    /// # Errors
    /// What was found, and what was expected.
    pub fn check(&self, cols: i64, blocks: Option<i64>) -> Result<(), (String, String)> {
        let inside = |rows: &[u64], table: &Table, len: i64, bytes: u64| {
            let (least, most) = table.reach(len)?;
            let last = rows.iter().max()?.checked_add(u64::try_from(most).ok()?)?;
            (least >= 0 && last.checked_add(bytes)? <= self.bytes).then_some(())
        };
        let codes = || {
            let run = i64::from(self.run);
            let bytes = u64::from(self.run.min(u32::try_from(cols).ok()?));
            let len = if run > 0 { (cols + run - 1) / run } else { return None };
            inside(&self.rows, &self.runs, len, bytes.checked_mul(self.width.into())?)
        };
        let scales = || match (&self.scales, blocks) {
            (None, _) => Some(()),
            (Some(nested), Some(blocks)) if nested.rows.len() == self.rows.len() => {
                (nested.block_rows > 0).then_some(())?;
                inside(&nested.rows, &nested.blocks, blocks, nested.width.into())
            }
            _ => None,
        };
        codes().and_then(|()| scales()).ok_or_else(|| {
            let found = format!("a panel of {} bytes for {cols} columns", self.bytes);
            (found, "places of rows, columns and scales within it".to_string())
        })
    }
}

/// Scales of blocks, `[batch, rows of blocks, columns of blocks]`.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// Row-major.
    pub bytes: &'a [u8],
    /// Extents.
    pub dims: [i64; 3],
}

/// A weight on its way into panels.
pub struct Job<'a, L> {
    panel: &'a Panel,
    lines: &'a L,
    grid: Option<Grid<'a>>,
    /// First byte of each run of columns from that of the row.
    runs: Vec<usize>,
    /// The same of blocks of scales.
    blocks: Vec<usize>,
}

impl<'a, L: Lines> Job<'a, L> {
    /// Rows into panels that fit them; `grid` holds the scales of a panel that nests them.
    pub fn new(panel: &'a Panel, lines: &'a L, grid: Option<Grid<'a>>) -> Self {
        let places = |table: &Table| table.places().map(|p| p as usize).collect();
        let blocks = panel.scales.as_ref().map_or(vec![], |s| places(&s.blocks));
        Job { panel, lines, grid, runs: places(&panel.runs), blocks }
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        let [batches, rows, _] = self.lines.dims();
        (batches * self.panel.count(rows)) as usize
    }

    /// Fills panels, zeros so far, from panel `first` on, shared among threads.
    ///
    /// # Errors
    /// Whatever the lines report.
    pub fn fill(&self, first: usize, out: &mut [u8], threads: usize) -> Result<(), L::Error> {
        let panel = (self.panel.bytes as usize).max(1);
        let share = (out.len() / panel).div_ceil(threads.max(1)).max(1);
        let shares = out.chunks_mut(share * panel).enumerate();
        let done = threads::share(threads, shares, &|(i, part)| self.part(first + i * share, part));
        done.into_iter().collect()
    }

    fn part(&self, first: usize, out: &mut [u8]) -> Result<(), L::Error> {
        let [_, rows, cols] = self.lines.dims();
        let (own, count) = (self.panel.rows.len() as i64, self.panel.count(rows));
        let mut line = vec![0; cols as usize * self.panel.width as usize];
        let mut held = L::Held::default();
        for (at, packed) in (first as i64..).zip(out.chunks_mut(self.panel.bytes.max(1) as usize)) {
            let (batch, top) = (at / count, at % count * own);
            for (r, row) in (top..rows.min(top + own)).enumerate() {
                self.lines.line(batch, row, &mut held, &mut line)?;
                self.put(self.panel.rows[r] as usize, &line, packed);
                self.put_scales(batch, row, r, packed);
            }
        }
        Ok(())
    }

    /// Writes the codes of a row, whose first lies at `base`.
    fn put(&self, base: usize, line: &[u8], packed: &mut [u8]) {
        let run = self.panel.run as usize * self.panel.width as usize;
        for (codes, at) in line.chunks(run.max(1)).zip(&self.runs) {
            copy(codes, &mut packed[base + at..][..codes.len()]);
        }
    }

    /// Writes the scales of a row's blocks into its panel, where they lie there.
    fn put_scales(&self, batch: i64, row: i64, r: usize, packed: &mut [u8]) {
        let (Some(nested), Some(grid)) = (&self.panel.scales, self.grid) else { return };
        let [_, rows, cols] = grid.dims;
        let width = nested.width as usize;
        let first = (batch * rows + row / i64::from(nested.block_rows)) * cols;
        let scales = &grid.bytes[first as usize * width..][..cols as usize * width];
        for (scale, at) in scales.chunks_exact(width.max(1)).zip(&self.blocks) {
            packed[nested.rows[r] as usize + at..][..width].copy_from_slice(scale);
        }
    }
}

/// Copies between slices of one length, short ones without a call.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    match (from, to) {
        ([a], [b]) => *b = *a,
        ([a0, a1], [b0, b1]) => (*b0, *b1) = (*a0, *a1),
        ([a0, a1, a2, a3], [b0, b1, b2, b3]) => (*b0, *b1, *b2, *b3) = (*a0, *a1, *a2, *a3),
        (from, to) => to.copy_from_slice(from),
    }
}
