//! Constants that only move: every element is stored as it is wanted.

use super::Packed;
use super::constant::Part;
use super::scales::{Stored, blocks, keeps_blocks};
use crate::error::ImportError;
use crate::import::source::WeightSource;
use artifact::pack::gather::{self, Gather, Piece, Tensors};
use artifact::pack::table::Table;
use ir::dim::Name;
use ir::dtype::Scale;
use ir::graph::program::{Program, Weight};

/// Where the codes of a packed weight are stored, and the scales that are kept of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// Codes.
    pub codes: Gather,
    /// One for each block.
    pub scales: Option<Gather>,
}

/// Gives a stored tensor its number.
pub type Number<'n, 'p> = dyn FnMut(&'p Name) -> u32 + 'n;

impl Moved {
    /// `None` where some element is not stored in the packed encoding, and in whole bytes.
    pub fn of<'p>(
        packed: &Packed,
        program: &'p Program,
        number: &mut Number<'_, 'p>,
    ) -> Option<Moved> {
        let encoding = packed.encoding;
        let views = packed.from.views(program)?;
        if views.iter().any(|(_, weight)| weight.encoding != encoding) {
            return None;
        }
        let kept = |scale| keeps_blocks(&packed.from, program, scale);
        let bytes = |bits: u32| bits.is_multiple_of(8).then_some(bits / 8);
        let width = bytes(encoding.code.bits())?;
        let dims = <[i64; 3]>::try_from(&packed.from.dims[..]).ok()?;
        let scales = match encoding.scale {
            None => None,
            Some(scale) if !scale.sum && kept(scale) => {
                let pieces = views.iter().flat_map(|(p, w)| scale_pieces(p, w, scale, number));
                let (pieces, [batches, rows, cols]) = (pieces.collect(), dims);
                let dims = [batches, blocks(rows, scale.rows), blocks(cols, scale.cols)];
                Some(Gather { dims, width: bytes(scale.dtype.bits())?, pieces })
            }
            Some(_) => return None,
        };
        let pieces = views.iter().map(|(part, weight)| code_piece(part, weight, number));
        let codes = Gather { dims, width, pieces: pieces.collect::<Option<_>>()? };
        Some(Moved { codes, scales })
    }
}

fn code_piece<'p>(part: &Part, weight: &'p Weight, number: &mut Number<'_, 'p>) -> Option<Piece> {
    let view = &part.factors[0];
    let tensors = weight.source.tensors.iter().map(number).collect();
    Some(Piece {
        start: part.start[..].try_into().ok()?,
        dims: part.dims[..].try_into().ok()?,
        of: gather::Stored { tensors, elements: Stored::of(weight).elements },
        base: view.base,
        along: view.along.clone().try_into().ok()?,
    })
}

/// Boxes of the scales of a box that keeps its blocks. Batches need not begin at like places of
/// their blocks: those that do make one box.
fn scale_pieces<'p>(
    part: &Part,
    weight: &'p Weight,
    scale: Scale,
    number: &mut Number<'_, 'p>,
) -> Vec<Piece> {
    let (stored, view) = (Stored::of(weight), &part.factors[0]);
    let tensors: Vec<u32> = weight.source.scales.iter().map(number).collect();
    let (rows, cols) = (i64::from(scale.rows), i64::from(scale.cols));
    let grid_cols = (stored.width + cols - 1) / cols;
    let elements = (stored.elements / stored.width + rows - 1) / rows * grid_cols;
    let every = |axis: usize, step: i64| view.along[axis].places().step_by(step as usize);
    let mut pieces: Vec<(Piece, Vec<i64>)> = vec![];
    for (batch, place) in (part.start[0]..).zip(view.along[0].places()) {
        let first = view.base + place;
        let row_of = |at: i64| {
            let place = stored.place(first + at);
            place.tensor * elements + place.row / rows * grid_cols
        };
        let (row, along_rows) = Table::of(every(1, rows).map(row_of));
        let col_of = |at: i64| (first % stored.width + at) / cols;
        let (col, along_cols) = Table::of(every(2, cols).map(col_of));
        if let Some((piece, bases)) = pieces.last_mut()
            && piece.along[1] == along_rows
            && piece.along[2] == along_cols
        {
            bases.push(row + col);
            continue;
        }
        let piece = Piece {
            start: [batch, part.start[1] / rows, part.start[2] / cols],
            dims: [0, along_rows.len(), along_cols.len()],
            of: gather::Stored { tensors: tensors.clone(), elements },
            base: row + col,
            along: [Table::default(), along_rows, along_cols],
        };
        pieces.push((piece, vec![row + col]));
    }
    let closed = pieces.into_iter().map(|(mut piece, bases)| {
        piece.dims[0] = bases.len() as i64;
        piece.along[0] = Table::of(bases).1;
        piece
    });
    closed.collect()
}

/// Tensors of a checkpoint, by number.
pub struct Numbered<'a> {
    /// The checkpoint.
    pub source: &'a dyn WeightSource,
    /// Name of each.
    pub keys: Vec<&'a Name>,
}

impl<'a> Numbered<'a> {
    /// The next number.
    pub fn number(&mut self, key: &'a Name) -> u32 {
        self.keys.push(key);
        self.keys.len() as u32 - 1
    }
}

impl Tensors for Numbered<'_> {
    type Error = ImportError;

    fn read(&self, tensor: u32, at: u64, out: &mut [u8]) -> Result<(), ImportError> {
        self.source.read(self.keys[tensor as usize], at, out)
    }

    fn mapped(&self, tensor: u32) -> Option<&[u8]> {
        self.source.mapped(self.keys[tensor as usize])
    }
}
