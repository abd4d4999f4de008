//! Packing: weights from the checkpoint into the order their kernels read, streamed.
//!
//! [`ir::kernel::layout`] says where elements go, [`constant`] where they come from. Elements that
//! are stored as they are wanted only [move](moved): [`artifact::pack`] does that, here and when a
//! model is loaded. All others are [decoded](rows) and rounded anew, to the [`mod@format`] that is asked
//! for: floats as they are, or [codes with scales](quantize). Memory stays bounded by a batch of
//! panels, whatever a weight's size; only scales of blocks and what is [`computed`] are held whole.

pub mod computed;
pub mod constant;
pub mod format;
pub mod moved;
pub mod quantize;
pub mod recipe;
pub mod report;
pub mod rounding;
pub mod rows;
pub mod scales;

use crate::error::ImportError;
use crate::import::source::WeightSource;
use artifact::pack::gather::Lines;
use artifact::pack::panel::{Grid, Job, Nested, Panel};
use artifact::pack::table::Table;
use constant::Constant;
use ir::dtype::{Encoding, Scale};
use ir::graph::program::Program;
use ir::kernel::Packing;
use ir::kernel::layout::{GRID_ALIGN, Layout, contiguous};
use ir::kernel::packing::PackingError;
use moved::{Moved, Numbered};
use quantize::Quantized;
use rounding::Rounding;
use rows::{Decoded, Rows};
use std::collections::HashSet;

/// Bytes of packed panels made at once, if one panel is not more.
pub const BATCH_BYTES: usize = 16 << 20;

/// A weight as a kernel wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// What it is made from, as batch, rows and columns.
    pub from: Constant,
    /// Encoding in the artifact.
    pub encoding: Encoding,
    /// Extents as the kernel's parameter declares them; of numbers always `[1, 1, n]`, since they
    /// lie in a row whatever the parameter's rank.
    pub dims: Vec<u64>,
    /// Physical order, if not row-major.
    pub packing: Option<Packing>,
}

impl Packed {
    /// Name for reports.
    pub fn name(&self) -> String {
        self.from.name()
    }

    /// Where its elements lie.
    ///
    /// Errors: no packing of these extents, or one that cannot be made panel by panel.
    pub fn layout(&self) -> Result<Layout, PackingError> {
        let layout = Layout::new(self.encoding, self.packing.as_ref(), &self.dims)?;
        let extents = self.from.dims.iter().map(|d| u64::try_from(*d).unwrap_or(u64::MAX));
        let [batch, rows, cols] =
            extents.collect::<Vec<_>>().try_into().map_err(|_| self.no_layout())?;
        let (panel_rows, panel) = self.panel_layout(cols)?;
        let panels = batch.saturating_mul(rows.div_ceil(panel_rows));
        let codes = panels.saturating_mul(panel.size_bytes());
        let end = layout.grid_byte().unwrap_or(layout.size_bytes());
        if self.encoding.code.bits() < 8 {
            self.halves_apart()?;
        }
        match codes <= end && end - codes < GRID_ALIGN {
            true => Ok(layout),
            false => Err(self.no_layout()),
        }
    }

    fn no_layout(&self) -> PackingError {
        PackingError::Size { dims: self.dims.clone(), encoding: self.encoding }
    }

    /// Whether scales lie apart from the codes.
    fn apart(&self) -> bool {
        let nested = self.packing.as_ref().is_some_and(Packing::nests_scales);
        self.encoding.scale.is_some() && !nested
    }

    /// Rows that lie together, and the layout of a tensor that is one panel of them.
    fn panel_layout(&self, cols: u64) -> Result<(u64, Layout), PackingError> {
        let rank = self.packing.as_ref().map_or(2, |_| self.dims.len());
        let rows = match &self.packing {
            Some(packing) => packing.panel_rows(rank).ok_or_else(|| self.no_layout())?,
            None => 1,
        };
        let encoding = if self.apart() { self.encoding.code.into() } else { self.encoding };
        let mut dims = vec![1; rank];
        (dims[rank - 2], dims[rank - 1]) = (rows, cols);
        Ok((rows, Layout::new(encoding, self.packing.as_ref(), &dims)?))
    }

    /// Columns from one of the two codes that share a byte to the other.
    ///
    /// Errors: as [`Packed::layout`], or codes of four bits that do not share bytes so.
    pub fn halves_apart(&self) -> Result<usize, PackingError> {
        let cols = self.from.dims.last().and_then(|d| u64::try_from(*d).ok());
        let (_, layout) = self.panel_layout(cols.ok_or_else(|| self.no_layout())?)?;
        let terms = layout.code_terms(layout.dims().len() - 1);
        let shares = |a: usize, b: usize| {
            let [a, b] = [a, b].map(|at| terms.get(at));
            a.zip(b).is_some_and(|(a, b)| a % 8 == 0 && *b == a + 4)
        };
        let apart = (1..terms.len()).find(|at| shares(0, *at)).ok_or_else(|| self.no_layout())?;
        let mut first = (0..terms.len()).filter(|c| c / apart % 2 == 0);
        match first.all(|c| shares(c, c + apart)) {
            true => Ok(apart),
            false => Err(self.no_layout()),
        }
    }

    /// Where elements lie in a panel, as numbers.
    ///
    /// Errors: as [`Packed::layout`] and, of codes of four bits, as [`Packed::halves_apart`].
    pub fn panel(&self) -> Result<Panel, PackingError> {
        let cols = self.from.dims.last().and_then(|d| u64::try_from(*d).ok());
        let (rows, layout) = self.panel_layout(cols.ok_or_else(|| self.no_layout())?)?;
        let (bits, rank) = (self.encoding.code.bits(), layout.dims().len());
        let terms = layout.code_terms(rank - 1);
        let bytes: Vec<u64> = match bits {
            4 => {
                let apart = self.halves_apart()?;
                (0..terms.len()).filter(|c| c / apart % 2 == 0).map(|c| terms[c] / 8).collect()
            }
            _ => terms.iter().map(|bit| bit / 8).collect(),
        };
        let width = bits.div_ceil(8);
        let run = contiguous(&bytes, width.into());
        // The position of a row lacks the last axis.
        let at = |row: u64| {
            let mut position = vec![0; rank - 1];
            position[rank - 2] = row;
            position
        };
        let runs = bytes.iter().step_by(run).map(|byte| *byte as i64);
        let nested = |(scale, first): (Scale, u64)| {
            let byte = |position: &[u64]| layout.scale_byte(position).unwrap_or(first);
            let cols = (0..layout.dims()[rank - 1]).step_by(scale.cols as usize);
            let block = |col| (byte(&[at(0), vec![col]].concat()) - first) as i64;
            Nested {
                width: scale.dtype.bits() / 8,
                block_rows: scale.rows,
                rows: (0..rows).map(|row| byte(&at(row))).collect(),
                blocks: Table::of(cols.map(block)).1,
            }
        };
        Ok(Panel {
            bytes: layout.size_bytes(),
            width,
            run: run as u32,
            rows: (0..rows).map(|row| layout.code_bit(&at(row)) / 8).collect(),
            runs: Table::of(runs).1,
            scales: layout.encoding().scale.zip(layout.scale_byte(&at(0))).map(nested),
        })
    }

    /// Names of the stored tensors it is made from, each once.
    pub fn sources(&self, program: &Program) -> Vec<String> {
        let weights = self.from.weights().into_iter().filter_map(|name| program.weight(name));
        let tensors = weights.flat_map(|w| &w.source.tensors);
        let mut known = HashSet::new();
        tensors.filter(|t| known.insert(*t)).map(ToString::to_string).collect()
    }
}

/// Makes a packed weight and hands its bytes on in order; what rounding to codes with scales did to
/// it, if that was done.
///
/// Errors: as [`Rows::new`], and whatever the source or `write` reports.
pub fn pack<E: From<ImportError>>(
    packed: &Packed,
    program: &Program,
    source: &dyn WeightSource,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Option<Rounding>, E> {
    let mut tensors = Numbered { source, keys: vec![] };
    let moved = Moved::of(packed, program, &mut |key| tensors.number(key));
    let Some(Moved { codes, scales }) = moved else {
        return round(packed, Rows::new(&packed.from, program, source)?, threads, write);
    };
    let scales = scales.map(|s| Ok((s.rows(&tensors).all()?, s.dims))).transpose()?;
    let grid = scales.as_ref().map(|(bytes, dims): &(Vec<u8>, _)| Grid { bytes, dims: *dims });
    put(packed, &codes.rows(&tensors), grid, threads, write).map(|()| None)
}

/// Makes a packed weight of rows that are rounded anew.
fn round<E: From<ImportError>>(
    packed: &Packed,
    rows: Rows<'_>,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Option<Rounding>, E> {
    let Some(scale) = packed.encoding.scale else {
        let lines = Decoded::new(rows, packed.encoding.code);
        return put(packed, &lines, None, threads, write).map(|()| None);
    };
    let lines = Quantized::new(rows, packed, scale, threads)?;
    let (bytes, dims) = lines.scales();
    put(packed, &lines, Some(Grid { bytes: &bytes, dims }), threads, write)?;
    Ok(Some(lines.rounding))
}

const LAID_OUT: &str = "a plan only lists weights that can be laid out";

/// Panels, a batch after the other, then scales that lie apart.
fn put<L: Lines<Error = ImportError>, E: From<ImportError>>(
    packed: &Packed,
    lines: &L,
    grid: Option<Grid<'_>>,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let panel = packed.panel().expect(LAID_OUT);
    let job = Job::new(&panel, lines, grid);
    let bytes = panel.bytes as usize;
    let per_batch = (BATCH_BYTES / bytes.max(1)).max(1);
    for first in (0..job.panels()).step_by(per_batch) {
        let mut batch = vec![0; per_batch.min(job.panels() - first) * bytes];
        job.fill(first, &mut batch, threads)?;
        write(&batch)?;
    }
    let layout = packed.layout().expect(LAID_OUT);
    if let (Some(grid), Some(at)) = (grid, layout.grid_byte()) {
        let codes = job.panels() as u64 * panel.bytes;
        write(&vec![0; (at - codes) as usize])?;
        write(grid.bytes)?;
    }
    Ok(())
}
