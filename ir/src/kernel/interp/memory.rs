//! Memory of a run: parameters as the ABI lays them out, and scratch.

use super::Buffer;
use super::error::InterpError;
use super::real::Real;
use super::tile::{Coded, Tile};
use crate::dim::Name;
use crate::dtype::{DType, Encoding, Scale};
use crate::kernel::layout::{Layout, for_each_position};
use crate::kernel::{Param, Role, code};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

/// Positions along each axis of what is accessed; `None` is masked out.
pub struct Region {
    /// One list for each axis.
    pub axes: Vec<Vec<Option<u64>>>,
}

impl Region {
    /// Calls `visit` with the position of every element, or `None` if it is masked.
    fn visit(&self, visit: &mut dyn FnMut(Option<&[u64]>)) {
        let extents: Vec<u64> = self.axes.iter().map(|a| a.len() as u64).collect();
        let mut position = vec![0; extents.len()];
        for_each_position(&extents, &mut |index| {
            let mut present = true;
            for ((axis, i), p) in self.axes.iter().zip(index).zip(&mut position) {
                match axis[*i as usize] {
                    Some(at) => *p = at,
                    None => present = false,
                }
            }
            visit(present.then_some(&position));
        });
    }

    /// Along each axis, from the first position to the last; nothing where all is masked out.
    fn span(&self) -> Option<Vec<Range<u64>>> {
        let along = |axis: &Vec<Option<u64>>| {
            let (first, last) = (axis.iter().flatten().min()?, axis.iter().flatten().max()?);
            Some(*first..last + 1)
        };
        self.axes.iter().map(along).collect()
    }

    /// Sums of a term for each axis: element by element, the last axis in one go.
    fn sums(&self, base: u64, terms: &dyn Fn(usize) -> Vec<Option<u64>>) -> Vec<Option<u64>> {
        let mut sums = vec![Some(base)];
        for axis in 0..self.axes.len() {
            let along = terms(axis);
            sums = (sums.iter())
                .flat_map(|s| along.iter().map(move |t| Some((*s)? + (*t)?)))
                .collect();
        }
        sums
    }
}

/// A parameter's memory.
pub struct Memory<'a> {
    name: Name,
    buffer: Buffer<'a>,
    layout: Layout,
    /// Of what may be written: one more than the instance that wrote an element.
    writers: Vec<u32>,
    /// What was loaded, where that is watched.
    loaded: RefCell<Loaded>,
}

/// What was loaded of a parameter.
enum Loaded {
    /// Nobody asks.
    Unwatched,
    /// Nothing yet.
    Nothing,
    /// From the first position to the last, along each axis.
    Within(Vec<Range<u64>>),
}

impl<'a> Memory<'a> {
    /// Lays a parameter out over its buffer.
    ///
    /// Errors: E0163.
    pub fn new(
        param: &Param,
        buffer: Buffer<'a>,
        value_of: &dyn Fn(&str) -> Option<i64>,
    ) -> Result<Self, InterpError> {
        let layout = param.ty.layout(value_of).map_err(|_| InterpError::Buffer {
            param: param.name.clone(),
            found: buffer.len(),
            expected: u64::MAX,
        })?;
        let written = param.role.is_written();
        let found = match (&buffer, param.role) {
            (_, Role::Prefetch) => u64::MAX,
            (Buffer::Read(_), Role::Out | Role::InOut) => 0,
            _ => buffer.len(),
        };
        let expected = layout.size_bytes();
        if found < expected {
            return Err(InterpError::Buffer { param: param.name.clone(), found, expected });
        }
        let elements: u64 = layout.dims().iter().product();
        let writers = vec![0; if written { elements as usize } else { 0 }];
        let (name, loaded) = (param.name.clone(), RefCell::new(Loaded::Unwatched));
        Ok(Memory { name, buffer, layout, writers, loaded })
    }

    /// Logical extents.
    pub fn dims(&self) -> &[u64] {
        self.layout.dims()
    }

    /// The instance that wrote an element, by its number row-major.
    pub fn writer(&self, element: u64) -> Option<i64> {
        let stamp = self.writers.get(usize::try_from(element).ok()?)?;
        (*stamp != 0).then(|| i64::from(*stamp) - 1)
    }

    /// From now on, notes what is loaded.
    pub fn watch(&mut self) {
        *self.loaded.get_mut() = Loaded::Nothing;
    }

    /// What was loaded since [`Memory::watch`], along each axis.
    pub fn loaded(&self) -> Option<Vec<Range<u64>>> {
        match &*self.loaded.borrow() {
            Loaded::Within(spans) => Some(spans.clone()),
            Loaded::Unwatched | Loaded::Nothing => None,
        }
    }

    fn note(&self, region: &Region) {
        let mut loaded = self.loaded.borrow_mut();
        if matches!(*loaded, Loaded::Unwatched) {
            return;
        }
        let Some(new) = region.span() else { return };
        match &mut *loaded {
            Loaded::Within(spans) => {
                for (span, new) in spans.iter_mut().zip(new) {
                    *span = span.start.min(new.start)..span.end.max(new.end);
                }
            }
            other => *other = Loaded::Within(new),
        }
    }

    /// An element of a tensor of `i32`.
    pub fn int(&self, position: &[u64]) -> i32 {
        code::read(self.buffer.bytes(), DType::I32, self.layout.code_bit(position)) as i32
    }

    fn bits(&self, region: &Region) -> Vec<Option<u64>> {
        region.sums(self.layout.code_base(), &|axis| {
            let terms = self.layout.code_terms(axis);
            region.axes[axis].iter().map(|p| p.map(|p| terms[p as usize])).collect()
        })
    }

    /// Number of each element of the tensor, row-major.
    fn indices(&self, region: &Region) -> Vec<Option<u64>> {
        let dims = self.layout.dims();
        region.sums(0, &|axis| {
            let stride: u64 = dims[axis + 1..].iter().product();
            region.axes[axis].iter().map(|p| p.map(|p| p * stride)).collect()
        })
    }

    fn race(&self, index: u64, first: u32, second: i64) -> InterpError {
        let mut rest = index;
        let mut element = vec![0; self.layout.dims().len()];
        for (p, extent) in element.iter_mut().zip(self.layout.dims()).rev() {
            (*p, rest) = (rest % extent, rest / extent);
        }
        InterpError::Race { param: self.name.clone(), element, first: i64::from(first) - 1, second }
    }

    /// Elements, decoded unless `keep`. An element that another instance wrote is a race.
    pub fn load<T: Real>(
        &self,
        region: &Region,
        keep: bool,
        instance: i64,
    ) -> Result<Tile<T>, InterpError> {
        self.note(region);
        if !self.writers.is_empty() {
            for index in self.indices(region).into_iter().flatten() {
                let writer = self.writers[index as usize];
                if writer != 0 && writer != stamp(instance) {
                    return Err(self.race(index, writer, instance));
                }
            }
        }
        let (bytes, encoding) = (self.buffer.bytes(), self.layout.encoding());
        let bits = self.bits(region);
        let read = |bit: &Option<u64>| bit.map_or(0.0, |b| code::read(bytes, encoding.code, b));
        match encoding.scale {
            None => Ok(Tile::collect(encoding.code, bits.iter().map(read))),
            Some(scale) if keep => {
                let codes = bits.iter().map(read).collect();
                Ok(Tile::Coded(self.coded(region, scale, codes)))
            }
            Some(scale) => {
                let mut values = Vec::with_capacity(bits.len());
                let mut bits = bits.iter();
                region.visit(&mut |position| {
                    let code = bits.next().map_or(0.0, read);
                    let scale = position
                        .and_then(|p| self.layout.scale_byte(p))
                        .map_or(0.0, |b| code::read(bytes, scale.dtype, b * 8));
                    values.push(T::from_f64(code * scale));
                });
                Ok(Tile::Float(values))
            }
        }
    }

    /// Scales of a tile's rows, block by block. Those of masked elements are 0.
    fn coded(&self, region: &Region, scale: Scale, codes: Vec<f64>) -> Coded {
        let bytes = self.buffer.bytes();
        let last = region.axes.last().map_or(&[][..], |a| a);
        let block = u64::from(scale.cols);
        let phase = last.first().copied().flatten().map_or(0, |p| (p % block) as usize);
        let mut coded =
            Coded { codes, scales: Vec::new(), row: last.len(), block: block as usize, phase };
        let blocks = coded.blocks();
        let rows = Region { axes: region.axes[..region.axes.len() - 1].to_vec() };
        let mut at = vec![0; region.axes.len()];
        rows.visit(&mut |position| {
            for b in 0..blocks {
                let k =
                    (b * block as usize).saturating_sub(phase).min(last.len().saturating_sub(1));
                let scale = match (position, last.get(k).copied().flatten()) {
                    (Some(row), Some(k)) => {
                        at[..row.len()].copy_from_slice(row);
                        at[row.len()] = k;
                        let byte = self.layout.scale_byte(&at).expect("a scaled encoding");
                        code::read(bytes, scale.dtype, byte * 8)
                    }
                    _ => 0.0,
                };
                coded.scales.push(scale);
            }
        });
        coded
    }

    /// Writes the elements that are not masked.
    pub fn store<T: Real>(
        &mut self,
        region: &Region,
        tile: &Tile<T>,
        instance: i64,
    ) -> Result<(), InterpError> {
        for index in self.indices(region).into_iter().flatten() {
            let writer = self.writers[index as usize];
            if writer != 0 && writer != stamp(instance) {
                return Err(self.race(index, writer, instance));
            }
            self.writers[index as usize] = stamp(instance);
        }
        let (bits, encoding) = (self.bits(region), self.layout.encoding());
        let Buffer::Write(bytes) = &mut self.buffer else { return Ok(()) };
        if let Tile::Coded(coded) = tile {
            check_blocks(&self.name, region, encoding)?;
            for (bit, v) in bits.iter().zip(&coded.codes) {
                if let Some(bit) = bit {
                    code::write(bytes, encoding.code, *bit, *v);
                }
            }
            write_scales(&self.layout, bytes, region, coded);
            return Ok(());
        }
        for (i, bit) in bits.iter().enumerate() {
            if let Some(bit) = bit {
                code::write(bytes, encoding.code, *bit, tile.get(i));
            }
        }
        Ok(())
    }
}

fn stamp(instance: i64) -> u32 {
    (instance + 1) as u32
}

/// Blocks of an encoded tile must be blocks of the tensor.
fn check_blocks(name: &Name, region: &Region, encoding: Encoding) -> Result<(), InterpError> {
    let Some(scale) = encoding.scale else { return Ok(()) };
    let rank = region.axes.len();
    for (back, block) in [(1, scale.cols), (2, scale.rows)] {
        let Some(axis) = rank.checked_sub(back) else { continue };
        let block = u64::from(block);
        for (i, position) in region.axes[axis].iter().enumerate() {
            if let Some(p) = position.filter(|p| p % block != i as u64 % block) {
                let base = name.clone();
                return Err(InterpError::Block { base, axis, position: p, block });
            }
        }
    }
    Ok(())
}

fn write_scales(layout: &Layout, bytes: &mut [u8], region: &Region, coded: &Coded) {
    let Some(scale) = layout.encoding().scale else { return };
    let mut sums: HashMap<u64, i32> = HashMap::new();
    let (mut index, blocks) = (0, coded.blocks());
    region.visit(&mut |position| {
        if let Some(p) = position {
            let (row, k) = (index / coded.row, index % coded.row);
            let value = coded.scales[row * blocks + (coded.phase + k) / coded.block];
            let byte = layout.scale_byte(p).expect("a scaled encoding");
            code::write(bytes, scale.dtype, byte * 8, value);
            if let Some(byte) = layout.sum_byte(p) {
                *sums.entry(byte).or_default() += coded.codes[index] as i32;
            }
        }
        index += 1;
    });
    for (byte, sum) in sums {
        code::write(bytes, DType::I32, byte * 8, sum.into());
    }
}

/// Scratch of one instance.
pub struct Scratch<T> {
    name: Name,
    dims: Vec<u64>,
    data: Tile<T>,
    written: Vec<bool>,
}

impl<T: Real> Scratch<T> {
    /// Memory without contents.
    pub fn new(name: Name, dtype: DType, shape: &[u32]) -> Self {
        let dims: Vec<u64> = shape.iter().map(|e| u64::from(*e)).collect();
        let n = dims.iter().product::<u64>() as usize;
        Scratch { name, dims, data: Tile::splat(dtype, n, 0.0), written: vec![false; n] }
    }

    /// Extents.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    fn indices(&self, region: &Region) -> Vec<Option<usize>> {
        let sums = region.sums(0, &|axis| {
            let stride: u64 = self.dims[axis + 1..].iter().product();
            region.axes[axis].iter().map(|p| p.map(|p| p * stride)).collect()
        });
        sums.into_iter().map(|s| s.map(|s| s as usize)).collect()
    }

    /// Elements; masked ones are 0.
    pub fn load(&self, region: &Region) -> Result<Tile<T>, InterpError> {
        let indices = self.indices(region);
        if indices.iter().flatten().any(|i| !self.written[*i]) {
            return Err(InterpError::Uninitialised { name: self.name.clone() });
        }
        Ok(self.data.take(indices.into_iter()))
    }

    /// Writes the elements that are not masked.
    pub fn store(&mut self, region: &Region, tile: &Tile<T>) {
        fn put<E: Copy>(to: &mut [E], from: &[E], indices: &[Option<usize>]) {
            for (v, i) in from.iter().zip(indices) {
                if let Some(i) = i {
                    to[*i] = *v;
                }
            }
        }
        let indices = self.indices(region);
        match (&mut self.data, tile) {
            (Tile::Float(to), Tile::Float(from)) => put(to, from, &indices),
            (Tile::Int(to), Tile::Int(from)) => put(to, from, &indices),
            (Tile::Bool(to), Tile::Bool(from)) => put(to, from, &indices),
            _ => unreachable!("a verified store is of the scratch's type"),
        }
        indices.into_iter().flatten().for_each(|i| self.written[i] = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_tile_are_blocks_of_the_tensor() {
        let encoding: Encoding = "i8<f32 1x4>".parse().expect("an encoding");
        let check = |first: u64| {
            let region = Region { axes: vec![(first..first + 8).map(Some).collect()] };
            check_blocks(&"q".into(), &region, encoding)
        };
        assert_eq!(check(4), Ok(()));
        assert!(matches!(check(2), Err(InterpError::Block { .. })));
    }
}
