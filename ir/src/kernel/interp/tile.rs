//! Tiles of a run.

use super::real::Real;
use crate::dtype::{Class, DType, Encoding};
use crate::number::round;

/// Elements of a tile, row-major.
#[derive(Clone, Debug)]
pub enum Tile<T> {
    /// Real numbers of any float type.
    Float(Vec<T>),
    /// Integers of any type.
    Int(Vec<i32>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Codes with scales.
    Coded(Coded),
}

/// An encoded tile. A row is all positions but the last; each row keeps the scales of its blocks,
/// so that rows may have been gathered.
#[derive(Clone, Debug)]
pub struct Coded {
    /// Values of the codes.
    pub codes: Vec<f64>,
    /// Of each row's blocks, row by row.
    pub scales: Vec<f64>,
    /// Elements of a row.
    pub row: usize,
    /// Elements of a block along a row.
    pub block: usize,
    /// Elements of a row's first block that lie before the tile.
    pub phase: usize,
}

impl Coded {
    /// Blocks that a row touches.
    pub fn blocks(&self) -> usize {
        (self.phase + self.row).div_ceil(self.block)
    }

    /// Value of an element.
    pub fn value(&self, index: usize) -> f64 {
        let (row, k) = (index / self.row, index % self.row);
        self.codes[index] * self.scales[row * self.blocks() + (self.phase + k) / self.block]
    }

    /// Quantises a tile of these extents, blocks beginning at its first element.
    pub fn encode(values: &[f64], shape: &[u32], encoding: Encoding) -> Coded {
        let row = shape.last().map_or(1, |e| *e as usize);
        let height = shape.len().checked_sub(2).map_or(1, |axis| shape[axis] as usize);
        let (block_rows, block) =
            encoding.scale.map_or((1, row), |s| (s.rows as usize, s.cols as usize));
        let blocks = row.div_ceil(block);
        let rows = values.len() / row;
        let mut coded = Coded {
            codes: vec![0.0; values.len()],
            scales: vec![1.0; rows * blocks],
            row,
            block,
            phase: 0,
        };
        for first in (0..rows).filter(|r| (r % height).is_multiple_of(block_rows)) {
            let last = (first + block_rows).min(first - first % height + height);
            for b in 0..blocks {
                let (lo, hi) = (b * block, ((b + 1) * block).min(row));
                let elements = || (first..last).flat_map(|r| r * row + lo..r * row + hi);
                let magnitude = elements().fold(0.0f64, |m, i| m.max(values[i].abs()));
                let scale = round::block_scale(magnitude, encoding);
                elements().for_each(|i| {
                    coded.codes[i] = round::to_code(values[i], scale, encoding.code);
                });
                (first..last).for_each(|r| coded.scales[r * blocks + b] = scale);
            }
        }
        coded
    }
}

impl<T: Real> Tile<T> {
    /// `n` elements of a plain type, all `number`.
    pub fn splat(dtype: DType, n: usize, number: f64) -> Tile<T> {
        match dtype.class() {
            Class::Float => Tile::Float(vec![T::from_f64(number).round(dtype); n]),
            Class::Int => Tile::Int(vec![number as i32; n]),
            Class::Bool => Tile::Bool(vec![number != 0.0; n]),
        }
    }

    /// Elements of a plain type, of which one is given at a time.
    pub fn collect(dtype: DType, elements: impl Iterator<Item = f64>) -> Tile<T> {
        match dtype.class() {
            Class::Float => Tile::Float(elements.map(T::from_f64).collect()),
            Class::Int => Tile::Int(elements.map(|v| v as i32).collect()),
            Class::Bool => Tile::Bool(elements.map(|v| v != 0.0).collect()),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Tile::Float(v) => v.len(),
            Tile::Int(v) => v.len(),
            Tile::Bool(v) => v.len(),
            Tile::Coded(c) => c.codes.len(),
        }
    }

    /// An element's value.
    pub fn get(&self, index: usize) -> f64 {
        match self {
            Tile::Float(v) => v[index].to_f64(),
            Tile::Int(v) => v[index].into(),
            Tile::Bool(v) => f64::from(v[index]),
            Tile::Coded(c) => c.value(index),
        }
    }

    /// The elements at these indices, in order; `None` is 0.
    pub fn take(&self, indices: impl Iterator<Item = Option<usize>>) -> Tile<T> {
        match self {
            Tile::Float(v) => {
                Tile::Float(indices.map(|i| i.map_or(T::default(), |i| v[i])).collect())
            }
            Tile::Int(v) => Tile::Int(indices.map(|i| i.map_or(0, |i| v[i])).collect()),
            Tile::Bool(v) => Tile::Bool(indices.map(|i| i.is_some_and(|i| v[i])).collect()),
            Tile::Coded(_) => self.clone(),
        }
    }

    /// Rounded to a plain type (to nearest even; integers saturate).
    pub fn cast(&self, to: DType) -> Tile<T> {
        let saturate = |v: f64| {
            let (lo, hi) = match to {
                DType::I8 => (-128.0, 127.0),
                DType::U8 => (0.0, 255.0),
                DType::I4 => (-8.0, 7.0),
                _ => (f64::from(i32::MIN), f64::from(i32::MAX)),
            };
            if v.is_nan() { 0.0 } else { v.round_ties_even().clamp(lo, hi) }
        };
        let elements = (0..self.len()).map(|i| self.get(i));
        match (to.class(), self) {
            (Class::Float, Tile::Float(v)) => Tile::Float(v.iter().map(|x| x.round(to)).collect()),
            (Class::Float, _) => Tile::Float(elements.map(|v| T::from_f64(v).round(to)).collect()),
            (Class::Int, _) => Tile::Int(elements.map(|v| saturate(v) as i32).collect()),
            (Class::Bool, _) => Tile::Bool(elements.map(|v| v != 0.0).collect()),
        }
    }
}
