//! Packing: weights from the checkpoint into the order their kernels read, streamed.
//!
//! [`ir::kernel::layout`] says where elements go, [`constant`] and [`rows`] where they come from. A
//! weight is made panel by panel: as many whole rows as lie together, with their scales where these
//! are nested. Memory stays bounded by a batch of panels, whatever a weight's size; only what is
//! [`computed`] is held whole.

pub mod computed;
pub mod constant;
pub mod rows;
pub mod scales;
pub mod table;

use crate::error::ImportError;
use crate::import::source::WeightSource;
use constant::Constant;
use half::bf16;
use ir::dtype::{DType, Encoding};
use ir::graph::program::Program;
use ir::kernel::layout::{GRID_ALIGN, Layout};
use ir::kernel::packing::PackingError;
use ir::kernel::{Packing, code};
use rows::{Decoder, Rows};
use scales::ScaleGrid;
use std::collections::HashSet;

/// Bytes of packed panels made at once, if one panel is not more.
pub const BATCH_BYTES: usize = 16 << 20;

/// A weight as a kernel wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// What it is made from, as batch, rows and columns.
    pub from: Constant,
    /// Encoding in the artifact: the stored one, or a plain float.
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
        let panel = self.panel(cols)?;
        let panels = batch.saturating_mul(rows.div_ceil(panel.rows));
        let codes = panels.saturating_mul(panel.layout.size_bytes());
        let end = layout.grid_byte().unwrap_or(layout.size_bytes());
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

    fn panel(&self, cols: u64) -> Result<Panel, PackingError> {
        let rank = self.packing.as_ref().map_or(2, |_| self.dims.len());
        let rows = match &self.packing {
            Some(packing) => packing.panel_rows(rank).ok_or_else(|| self.no_layout())?,
            None => 1,
        };
        let encoding = if self.apart() { self.encoding.code.into() } else { self.encoding };
        let mut dims = vec![1; rank];
        (dims[rank - 2], dims[rank - 1]) = (rows, cols);
        Ok(Panel { rows, layout: Layout::new(encoding, self.packing.as_ref(), &dims)? })
    }

    /// Names of the stored tensors it is made from, each once.
    pub fn sources(&self, program: &Program) -> Vec<String> {
        let weights = self.from.weights().into_iter().filter_map(|name| program.weight(name));
        let tensors = weights.flat_map(|w| &w.source.tensors);
        let mut known = HashSet::new();
        tensors.filter(|t| known.insert(*t)).map(ToString::to_string).collect()
    }
}

/// Rows that lie together in a packed weight.
struct Panel {
    rows: u64,
    /// Of a tensor that is one panel.
    layout: Layout,
}

impl Panel {
    /// A row of it as a position along all axes but the last.
    fn row(&self, row: u64) -> Vec<u64> {
        let mut position = vec![0; self.layout.dims().len() - 1];
        if let Some(last) = position.last_mut() {
            *last = row;
        }
        position
    }
}

/// Makes a packed weight and hands its bytes on in order.
///
/// Errors: as [`Rows::new`], and whatever the source or `write` reports.
pub fn pack<E: From<ImportError>>(
    packed: &Packed,
    program: &Program,
    source: &dyn WeightSource,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let rows = Rows::new(&packed.from, program, source)?;
    let scale = packed.encoding.scale;
    let grid = scale.map(|scale| rows.scale_grid(scale)).transpose()?;
    let job = Job::new(packed, &rows, grid.as_ref());
    let mut next = 0;
    while next < job.panels {
        let end = job.panels.min(next + job.panels_per_batch());
        write(&job.batch(next, end, threads)?)?;
        next = end;
    }
    let layout = packed.layout().expect(LAID_OUT);
    if let (Some(grid), Some(scale), Some(at)) = (&grid, scale, layout.grid_byte()) {
        let codes = job.panels as u64 * job.panel.layout.size_bytes();
        write(&vec![0; (at - codes) as usize])?;
        write(&grid.bytes(scale.dtype))?;
    }
    Ok(())
}

const LAID_OUT: &str = "a plan only lists weights that can be laid out";

/// One weight on its way.
struct Job<'a> {
    rows: &'a Rows<'a>,
    /// Scales that are kept.
    grid: Option<&'a ScaleGrid>,
    panel: Panel,
    extents: (i64, i64, i64),
    panels_per_matrix: i64,
    panels: i64,
    encoding: Encoding,
    /// Whether codes are those that are stored.
    stored_so: bool,
}

impl<'a> Job<'a> {
    fn new(packed: &Packed, rows: &'a Rows<'a>, grid: Option<&'a ScaleGrid>) -> Self {
        let [batches, matrix_rows, cols] = rows.extents();
        let extents = (batches, matrix_rows, cols);
        let panel = packed.panel(extents.2 as u64).expect(LAID_OUT);
        let panels_per_matrix = (extents.1 as u64).div_ceil(panel.rows) as i64;
        let panels = extents.0 * panels_per_matrix;
        let encoding = packed.encoding;
        let stored_so = rows.encoding() == Some(encoding);
        Job { rows, grid, panel, extents, panels_per_matrix, panels, encoding, stored_so }
    }

    fn panel_bytes(&self) -> usize {
        self.panel.layout.size_bytes() as usize
    }

    fn panels_per_batch(&self) -> i64 {
        (BATCH_BYTES / self.panel_bytes().max(1)).max(1) as i64
    }

    /// Packs panels `from..to`, shared among threads.
    fn batch(&self, from: i64, to: i64, threads: usize) -> Result<Vec<u8>, ImportError> {
        let mut out = vec![0; (to - from) as usize * self.panel_bytes()];
        let share = ((to - from) as usize).div_ceil(threads.max(1));
        std::thread::scope(|scope| {
            let parts = out.chunks_mut((share * self.panel_bytes()).max(1)).enumerate();
            let workers: Vec<_> = parts
                .map(|(i, part)| scope.spawn(move || self.part(from + (i * share) as i64, part)))
                .collect();
            workers
                .into_iter()
                .try_for_each(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
        })?;
        Ok(out)
    }

    /// Fills panels, zeros so far, from panel `first` on.
    fn part(&self, first: i64, out: &mut [u8]) -> Result<(), ImportError> {
        let cols = self.extents.2 as usize;
        let mut line = vec![0u8; (cols * self.encoding.code.bits() as usize).div_ceil(8)];
        let mut values = vec![0f32; if self.stored_so { 0 } else { cols }];
        let mut decoder = Decoder::default();
        for (i, packed) in out.chunks_exact_mut(self.panel_bytes().max(1)).enumerate() {
            let at = first + i as i64;
            let (batch, block) = (at / self.panels_per_matrix, at % self.panels_per_matrix);
            let first_row = block * self.panel.rows as i64;
            for r in 0..(self.panel.rows as i64).min(self.extents.1 - first_row) {
                self.row(batch, first_row + r, &mut line, (&mut decoder, &mut values))?;
                let position = self.panel.row(r as u64);
                self.panel.layout.put_row(&position, &line, packed);
                self.nested_scales(batch, first_row + r, position, packed);
            }
        }
        Ok(())
    }

    /// Codes of a row, decoded and rounded anew where they are not stored so.
    fn row(
        &self,
        batch: i64,
        row: i64,
        line: &mut [u8],
        (decoder, values): (&mut Decoder, &mut [f32]),
    ) -> Result<(), ImportError> {
        if self.stored_so {
            return self.rows.read(batch, row, line);
        }
        self.rows.decode(batch, row, decoder, values)?;
        let values = values.iter();
        match self.encoding.code {
            DType::BF16 => values.zip(line.as_chunks_mut::<2>().0).for_each(|(value, code)| {
                *code = bf16::from_f32(*value).to_le_bytes();
            }),
            dtype => values.enumerate().for_each(|(i, value)| {
                code::write(line, dtype, i as u64 * u64::from(dtype.bits()), f64::from(*value));
            }),
        }
        Ok(())
    }

    /// Writes the scales of a row's blocks into its panel, where they lie there.
    fn nested_scales(&self, batch: i64, row: i64, mut position: Vec<u64>, packed: &mut [u8]) {
        let layout = &self.panel.layout;
        let (Some(grid), Some(scale)) = (self.grid, layout.encoding().scale) else { return };
        let col_axis = position.len();
        position.push(0);
        for (block, value) in grid.row(batch, row / i64::from(scale.rows)).iter().enumerate() {
            position[col_axis] = block as u64 * u64::from(scale.cols);
            layout.write_scale(packed, &position, f64::from(*value));
        }
    }
}
