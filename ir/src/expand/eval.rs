//! Elements of tiles at a point of a loop nest, one or a vector at a time.

use super::layout::Coded;
use super::tile::{Gather, Kind, Origin, Place, Tile, View, ViewAxis, bytes_of};
use super::{Expander, Result};
use crate::dtype::{Class, DType};
use crate::loops::{Arith, Cmp, Convert, Elem, Func, Inst, Reg, Stride};

/// A position along an axis: `var + plus`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ix {
    /// I64.
    pub var: Option<Reg>,
    pub plus: i64,
}

impl Ix {
    pub fn at(plus: i64) -> Self {
        Ix { var: None, plus }
    }

    pub fn of(var: Reg) -> Self {
        Ix { var: Some(var), plus: 0 }
    }
}

/// Where a tile is evaluated.
#[derive(Clone, Debug)]
pub(super) struct Point {
    /// One per axis; of the axis that lanes run along, the first lane's.
    pub idx: Vec<Ix>,
    /// The axis that lanes run along.
    pub wide: Option<usize>,
}

impl Point {
    pub fn single(idx: Vec<Ix>) -> Self {
        Point { idx, wide: None }
    }
}

/// An address and a constant number of bytes.
pub(super) type Address = (Reg, i64);

impl Expander<'_> {
    /// The position as an I64.
    pub fn position(&mut self, ix: Ix) -> Reg {
        match ix.var {
            Some(var) => self.em.add_imm(var, ix.plus),
            None => self.em.int(ix.plus),
        }
    }

    /// Address of a place, without its constant offset.
    pub fn origin(&mut self, place: Place) -> Reg {
        let from = match place.origin {
            Origin::Address(reg) => reg,
            Origin::Buffer(id) => self.em.buffer(id, 0),
        };
        place.by.map_or(from, |by| self.em.add(from, by))
    }

    /// Address of a place.
    pub fn place(&mut self, place: Place) -> Reg {
        let from = self.origin(place);
        self.em.add_imm(from, place.offset)
    }

    /// Element of a tile of equal or lower rank: a scalar where lanes do not differ.
    pub fn eval(&mut self, tile: &Tile, at: &Point) -> Result<Reg> {
        let key = std::ptr::from_ref(tile);
        if let Some(reg) = self.hoisted.iter().rev().find_map(|h| h.get(&key)) {
            return Ok(*reg);
        }
        match &tile.kind {
            Kind::View(view) => self.eval_view(view, tile.shape.len(), at),
            Kind::Coded(coded) => self.eval_coded(coded, at),
            Kind::Scalar(reg) => Ok(*reg),
            Kind::Splat(v) => Ok(self.splat(tile.dtype, *v)),
            Kind::Iota(axis) => Ok(self.eval_iota(*axis, at)),
            Kind::Map { args, expr } => {
                let regs = args.iter().map(|a| self.eval(a, at)).collect::<Result<Vec<_>>>()?;
                self.expr(expr, &regs)
            }
            Kind::Where([c, a, b]) => {
                let (c, a, b) = (self.eval(c, at)?, self.eval(a, at)?, self.eval(b, at)?);
                Ok(self.em.select(c, a, b))
            }
            Kind::Cast(arg) => {
                let value = self.eval(arg, at)?;
                Ok(self.cast(arg.dtype, tile.dtype, value))
            }
        }
    }

    /// A scalar constant of an element type.
    pub fn splat(&mut self, dtype: DType, v: f64) -> Reg {
        match dtype.class() {
            Class::Float => {
                let exact = self.em.float(v);
                self.cast(DType::F32, dtype, exact)
            }
            Class::Int => self.em.int32(v as i64),
            Class::Bool => self.em.inst(Elem::Bool, 1, Inst::Int(i64::from(v != 0.0))),
        }
    }

    fn eval_iota(&mut self, axis: usize, at: &Point) -> Reg {
        let first = self.position(at.idx[axis]);
        let first = self.em.convert(Convert::I64ToI32, first);
        if at.wide != Some(axis) {
            return first;
        }
        let lanes = self.em.lanes;
        let iota = self.em.inst(Elem::I32, lanes, Inst::Iota);
        self.em.add(first, iota)
    }

    fn eval_view(&mut self, view: &View, rank: usize, at: &Point) -> Result<Reg> {
        let (address, offset) = self.address(view, at)?;
        let wide = at.wide.is_some_and(|w| w < rank && view.axes[w].stride != Stride::Bytes(0));
        Ok(self.em.load_as(view.store, wide, address, offset))
    }

    /// Where a view's element lies; masked-out elements lie in a stretch of zeros.
    pub fn address(&mut self, view: &View, at: &Point) -> Result<Address> {
        let mut address = self.origin(view.place);
        let mut offset = view.place.offset;
        let mut cond = view.cond;
        for (axis, ix) in view.axes.iter().zip(&at.idx) {
            if let Some(valid) = axis.valid {
                cond = self.and_below(cond, *ix, valid);
            }
            match &axis.gather {
                None => self.advance(axis.stride, *ix, &mut address, &mut offset),
                Some(gather) => {
                    let (position, inside) = self.gathered(gather, *ix)?;
                    cond = self.both(cond, inside);
                    self.advance(axis.stride, Ix::of(position), &mut address, &mut offset);
                }
            }
        }
        let Some(cond) = cond else { return Ok((address, offset)) };
        let address = self.em.add_imm(address, offset);
        let zeros = self.em.buffer(self.zeros, 0);
        Ok((self.em.select(cond, address, zeros), 0))
    }

    fn advance(&mut self, stride: Stride, ix: Ix, address: &mut Reg, offset: &mut i64) {
        let var = match stride {
            Stride::Bytes(0) => return,
            Stride::Bytes(s) => {
                *offset += ix.plus * s;
                ix.var.map(|v| self.em.mul_imm(v, s))
            }
            Stride::Reg(s) => {
                let position = self.position(ix);
                Some(self.em.mul(position, s))
            }
        };
        if let Some(var) = var {
            *address = self.em.add(*address, var);
        }
    }

    /// Position that a gather's tile names, and whether it takes part.
    pub fn gathered(&mut self, gather: &Gather, ix: Ix) -> Result<(Reg, Option<Reg>)> {
        let ix = Ix { plus: ix.plus + gather.offset as i64, ..ix };
        let row = self.eval(&gather.positions, &Point::single(vec![ix]))?;
        let row = self.em.convert(Convert::I32ToI64, row);
        let Some(bound) = gather.bound else { return Ok((row, None)) };
        let zero = self.em.int(0);
        let above = self.em.cmp(Cmp::Ge, row, zero);
        let below = self.em.cmp(Cmp::Lt, row, bound);
        Ok((row, Some(self.em.and(above, below))))
    }

    /// `cond` and `ix < valid`, unless that is known to hold.
    pub fn and_below(&mut self, cond: Option<Reg>, ix: Ix, valid: Reg) -> Option<Reg> {
        if ix.plus == 0 && ix.var.is_some_and(|v| self.facts.contains(&(v, valid))) {
            return cond;
        }
        let position = self.position(ix);
        let below = self.em.cmp(Cmp::Lt, position, valid);
        self.both(cond, Some(below))
    }

    pub fn both(&mut self, a: Option<Reg>, b: Option<Reg>) -> Option<Reg> {
        match (a, b) {
            (Some(a), Some(b)) => Some(self.em.and(a, b)),
            (a, b) => a.or(b),
        }
    }

    /// Positions along a coded tensor's axes, and whether the element takes part.
    pub fn coordinates(&mut self, coded: &Coded, at: &Point) -> Result<(Vec<Reg>, Option<Reg>)> {
        let mut cond = coded.cond;
        let mut positions = vec![];
        for axis in &coded.axes {
            let Some(tile) = axis.tile else {
                positions.push(axis.start);
                continue;
            };
            let ix = at.idx[tile];
            if let Some(valid) = axis.valid {
                cond = self.and_below(cond, ix, valid);
            }
            positions.push(match &axis.gather {
                None => {
                    let i = self.position(ix);
                    self.em.add(axis.start, i)
                }
                Some(gather) => {
                    let (position, inside) = self.gathered(gather, ix)?;
                    cond = self.both(cond, inside);
                    position
                }
            });
        }
        Ok((positions, cond))
    }

    fn eval_coded(&mut self, coded: &Coded, at: &Point) -> Result<Reg> {
        let (mut positions, cond) = self.coordinates(coded, at)?;
        if let Some(cond) = cond {
            let zero = self.em.int(0);
            for p in &mut positions {
                *p = self.em.select(cond, *p, zero);
            }
        }
        let wide = at.wide.is_some_and(|w| coded.axes.iter().any(|a| a.tile == Some(w)));
        let base = self.place(coded.place);
        let unit = self.place_of(&coded.layout.codes, &positions);
        let unit = self.em.add_imm(unit, coded.layout.header);
        let code = self.load_code(coded.encoding, wide, base, unit);
        let value = match &coded.layout.scales {
            None => code,
            Some(grid) => {
                let scale = self.scale_at(coded, base, &positions, grid);
                let code = self.as_float(code);
                self.em.mul(code, scale)
            }
        };
        let Some(cond) = cond else { return Ok(value) };
        let zero = self.em.like(value, 0.0);
        Ok(self.em.select(cond, value, zero))
    }

    fn scale_at(
        &mut self,
        coded: &Coded,
        base: Reg,
        positions: &[Reg],
        grid: &super::layout::Grid,
    ) -> Reg {
        let place = self.place_of(&grid.digits, positions);
        let place = self.em.add(place, grid.offset);
        let address = self.em.add(base, place);
        let dtype = coded.encoding.scale.map_or(DType::F32, |s| s.dtype);
        self.em.load_as(dtype, false, address, 0)
    }

    /// A number as `f32`.
    pub fn as_float(&mut self, value: Reg) -> Reg {
        match self.em.ty(value).elem {
            Elem::I32 => self.em.convert(Convert::I32ToF32, value),
            Elem::Bool => {
                let one = self.em.convert(Convert::BoolToI32, value);
                self.em.convert(Convert::I32ToF32, one)
            }
            _ => value,
        }
    }

    /// Rounds a value to an element type, held as arithmetic holds it.
    pub fn cast(&mut self, from: DType, to: DType, value: Reg) -> Reg {
        match (from.class(), to.class()) {
            (_, Class::Float) => {
                let value = self.as_float(value);
                if to == DType::F32 || from == to {
                    return value;
                }
                let code = self.em.narrow(to, value);
                self.em.widen(to, code)
            }
            (Class::Float, Class::Int) => {
                let whole = self.em.func(Func::Nearest, value);
                let whole = self.em.convert(Convert::F32ToI32, whole);
                self.saturate(DType::I32, to, whole)
            }
            (Class::Int, Class::Int) => self.saturate(from, to, value),
            (Class::Bool, Class::Int) => self.em.convert(Convert::BoolToI32, value),
            (Class::Bool, Class::Bool) => value,
            (_, Class::Bool) => {
                let zero = self.em.like(value, 0.0);
                self.em.cmp(Cmp::Ne, value, zero)
            }
        }
    }

    fn saturate(&mut self, from: DType, to: DType, value: Reg) -> Reg {
        let (lo, hi) = match to {
            DType::I8 => (-128, 127),
            DType::U8 => (0, 255),
            DType::I4 => (-8, 7),
            _ => return value,
        };
        if from == to {
            return value;
        }
        let (lo, hi) = (self.em.int_like(value, lo), self.em.int_like(value, hi));
        let value = self.em.arith(Arith::Max, value, lo);
        self.em.arith(Arith::Min, value, hi)
    }
}

impl ViewAxis {
    /// The axis with its first `skip` positions left out, given what remains valid.
    pub fn sliced(&self, skip: u64, valid: Option<Reg>) -> ViewAxis {
        let gather = self.gather.clone().map(|g| Gather { offset: g.offset + skip, ..g });
        ViewAxis { stride: self.stride, valid, gather }
    }
}

/// Size of a dense tile in memory.
pub(super) fn dense_bytes(shape: &[u32], store: DType) -> u64 {
    shape.iter().map(|e| u64::from(*e)).product::<u64>() * bytes_of(store)
}
