//! Rotary embedding as graph: a table by position, and the rotation of a head's channels.

use crate::import::assembly::Block;
use crate::import::rope::Frequencies;
use ir::dim::Dim;
use ir::dtype::DType;
use ir::error::IrError;
use ir::graph::ValueId;

/// Which channels make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// 2i and 2i + 1.
    Interleaved,
    /// i and i + d/2.
    HalfSplit,
}

/// The table `[s, i, z]` of rotations at positions `pos [s]`.
pub fn table(b: &mut Block, pos: ValueId, f: &Frequencies) -> Result<ValueId, IrError> {
    declare(b, f.radians.len() as i64);
    let freq = b.graph.constant(DType::F32, &f.radians, &["i"])?;
    let table = b.graph.rope_table(pos, freq, "z", f.multiplier)?;
    Ok(b.graph.label(table, "rope"))
}

/// Declares a table as a block's input.
pub fn table_input(b: &mut Block, pairs: i64) -> ValueId {
    declare(b, pairs);
    b.input("rope", DType::F32, &["s", "i", "z"], "rope")
}

fn declare(b: &mut Block, pairs: i64) {
    b.dim("i", pairs);
    b.index("z", 2);
}

/// Twice the number of pairs: the rotated channels.
pub fn channels() -> Dim {
    Dim::symbol("i").times(&Dim::constant(2))
}

/// Rotates `x` along `index`, whose extent is [`channels`].
pub fn rotate(
    b: &mut Block,
    x: ValueId,
    rope: ValueId,
    index: &str,
    pairing: Pairing,
) -> Result<ValueId, IrError> {
    let parts = match pairing {
        Pairing::Interleaved => ["i", "z"],
        Pairing::HalfSplit => ["z", "i"],
    };
    let pairs = b.graph.split(x, index, &parts)?;
    let rotated = b.graph.rope(pairs, rope, "z")?;
    b.graph.merge(rotated, &parts, index)
}
