//! Packing: weights from the checkpoint into the order their kernels read, streamed.
//!
//! - [`layout`]: where elements go
//! - [`rows`]: where they come from
//!
//! Memory stays bounded by a batch of panels, whatever a weight's size.

pub mod layout;
pub mod rows;

use crate::error::ImportError;
use crate::import::source::WeightSource;
use half::bf16;
use ir::dim::Name;
use ir::dtype::{DType, Encoding};
use ir::graph::program::{Program, Weight};
use ir::kernel::Packing;
use layout::{PAD, Panel, blocks, panel};
use rows::Rows;

/// Bytes of packed panels made at once, if one panel is not more.
pub const BATCH_BYTES: usize = 16 << 20;

/// Distance at which scales that lie apart begin after the codes: a cache line.
const SCALES_ALIGN: u64 = 64;

/// What a packed weight is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum From {
    /// A weight of the program: its logical axes (by position) as batch, rows and columns.
    Weight {
        /// Name in the program.
        weight: Name,
        /// Batch, row and column axes.
        axes: [Vec<usize>; 3],
    },
    /// Numbers of a `const`, as f32.
    Numbers(Vec<f64>),
}

/// A weight as a kernel wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// What it is made from.
    pub from: From,
    /// Encoding in the artifact: the stored one, or a plain float.
    pub encoding: Encoding,
    /// Extents as the kernel's parameter declares them.
    pub dims: Vec<i64>,
    /// Physical order, if not row-major.
    pub packing: Option<Packing>,
}

impl Packed {
    /// Name for reports.
    pub fn name(&self) -> String {
        match &self.from {
            From::Weight { weight, .. } => weight.to_string(),
            From::Numbers(_) => "const".to_string(),
        }
    }

    fn extents(&self, program: &Program) -> (u64, u64, u64) {
        match &self.from {
            From::Numbers(v) => (1, 1, v.len() as u64),
            From::Weight { weight, axes } => {
                let dims = &program.weight(weight).expect("lowering found it").dims;
                let product = |axes: &Vec<usize>| axes.iter().map(|a| dims[*a] as u64).product();
                (product(&axes[0]), product(&axes[1]), product(&axes[2]))
            }
        }
    }

    fn panel(&self, cols: u64) -> Panel {
        panel(self.packing.as_ref(), self.dims.len(), cols as u32)
            .expect("generators only ask for packings whose panels are contiguous")
    }

    /// Bytes of the codes, and of all: scales follow at the next cache line.
    fn code_and_total_bytes(&self, program: &Program) -> (u64, u64) {
        let (batch, rows, cols) = self.extents(program);
        let panel = self.panel(cols);
        let panels = batch * rows.div_ceil(u64::from(panel.rows));
        let codes = panels * panel.order.len() as u64 * u64::from(self.encoding.code.bits()) / 8;
        let scales = self.encoding.scale.map_or(0, |s| {
            let grid = rows.div_ceil(u64::from(s.rows)) * cols.div_ceil(u64::from(s.cols));
            batch * grid * 4
        });
        match scales {
            0 => (codes, codes),
            _ => (codes, codes.next_multiple_of(SCALES_ALIGN) + scales),
        }
    }

    /// Bytes in the artifact.
    pub fn bytes(&self, program: &Program) -> u64 {
        self.code_and_total_bytes(program).1
    }

    /// Names of the stored tensors it is made from.
    pub fn sources(&self, program: &Program) -> Vec<String> {
        match &self.from {
            From::Numbers(_) => vec![],
            From::Weight { weight, .. } => {
                let source = &program.weight(weight).expect("lowering found it").source;
                source.tensors.iter().map(ToString::to_string).collect()
            }
        }
    }
}

/// Makes a packed weight and hands its bytes on in order.
///
/// Errors: whatever the source or `write` reports.
pub fn pack<E: std::convert::From<ImportError>>(
    packed: &Packed,
    program: &Program,
    source: &dyn WeightSource,
    threads: usize,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (weight, axes) = match &packed.from {
        From::Numbers(values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
            return write(&bytes);
        }
        From::Weight { weight, axes } => (program.weight(weight).expect("lowering found it"), axes),
    };
    let rows = Rows::new(weight, source, [&axes[0], &axes[1], &axes[2]]);
    let job = Job::new(packed, weight, &rows);
    let mut next = 0;
    while next < job.panels {
        let end = job.panels.min(next + job.panels_per_batch());
        write(&job.batch(next, end, threads)?)?;
        next = end;
    }
    if let Some(grid) = rows.scale_grid()?.filter(|_| !packed.encoding.is_plain()) {
        let (codes, _) = packed.code_and_total_bytes(program);
        write(&vec![0; (codes.next_multiple_of(SCALES_ALIGN) - codes) as usize])?;
        let bytes: Vec<u8> = grid.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        write(&bytes)?;
    }
    Ok(())
}

/// One weight on its way.
struct Job<'a> {
    rows: &'a Rows<'a>,
    panel: Panel,
    extents: (i64, i64, i64),
    panels_per_matrix: i64,
    panels: i64,
    code: DType,
    /// Whether stored codes are decoded and rounded anew.
    recode: bool,
}

impl<'a> Job<'a> {
    fn new(packed: &Packed, weight: &Weight, rows: &'a Rows<'a>) -> Self {
        let extents = rows.extents();
        let panel = packed.panel(extents.2 as u64);
        let panels_per_matrix = blocks(extents.1, i64::from(panel.rows));
        Job {
            rows,
            panels: extents.0 * panels_per_matrix,
            panel,
            extents,
            panels_per_matrix,
            code: packed.encoding.code,
            recode: packed.encoding != weight.encoding,
        }
    }

    fn code_bytes(&self) -> usize {
        self.code.bits() as usize / 8
    }

    fn panel_bytes(&self) -> usize {
        self.panel.order.len() * self.code_bytes()
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

    fn part(&self, first: i64, out: &mut [u8]) -> Result<(), ImportError> {
        let row_bytes = self.extents.2 as usize * self.code_bytes();
        let mut plain = vec![0u8; self.panel.rows as usize * row_bytes];
        for (i, packed) in out.chunks_exact_mut(self.panel_bytes().max(1)).enumerate() {
            let at = first + i as i64;
            let (batch, block) = (at / self.panels_per_matrix, at % self.panels_per_matrix);
            for r in 0..self.panel.rows {
                let row = block * i64::from(self.panel.rows) + i64::from(r);
                let line = &mut plain[r as usize * row_bytes..][..row_bytes];
                if row < self.extents.1 {
                    self.row(batch, row, line)?;
                } else {
                    line.fill(0);
                }
            }
            arrange(&self.panel.order, self.code_bytes(), &plain, packed);
        }
        Ok(())
    }

    fn row(&self, batch: i64, row: i64, line: &mut [u8]) -> Result<(), ImportError> {
        if !self.recode {
            return self.rows.read(batch, row, line);
        }
        let mut values = vec![0f32; self.extents.2 as usize];
        self.rows.decode(batch, row, &mut values)?;
        for (value, code) in values.iter().zip(line.chunks_exact_mut(self.code_bytes())) {
            match self.code {
                DType::BF16 => code.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()),
                _ => code.copy_from_slice(&value.to_le_bytes()),
            }
        }
        Ok(())
    }
}

/// Copies elements into their packed order; padding is 0.
fn arrange(order: &[u32], bytes: usize, from: &[u8], to: &mut [u8]) {
    match bytes {
        1 => arrange_as::<1>(order, from, to),
        2 => arrange_as::<2>(order, from, to),
        _ => arrange_as::<4>(order, from, to),
    }
}

fn arrange_as<const N: usize>(order: &[u32], from: &[u8], to: &mut [u8]) {
    let (from, _) = from.as_chunks::<N>();
    let (to, _) = to.as_chunks_mut::<N>();
    for (code, at) in to.iter_mut().zip(order) {
        *code = if *at == PAD { [0; N] } else { from[*at as usize] };
    }
}
