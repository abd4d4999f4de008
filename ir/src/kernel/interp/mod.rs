//! The meaning of a kernel: runs it over memory laid out as the ABI says.
//!
//! Arithmetic is that of [`Real`]: f32, or f64 in which only casts to narrower types (and
//! memory) round. What the text leaves open is checked: accesses beyond an axis, elements that two
//! instances write (or one writes and a later one reads), scratch read before it was written.

mod error;
mod eval;
mod memory;
mod ops;
mod real;
mod tile;

pub use error::InterpError;
pub use real::Real;

use super::{Access, Base, Bound, Coord, For, GridAxis, If, Kernel, Op, Start, Stmt, ValueId};
use crate::dim::Dim;

use memory::{Memory, Region, Scratch};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use tile::{Coded, Tile};

/// Memory of a parameter.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// Of an input.
    Read(&'a [u8]),
    /// Of an output, or of what is both.
    Write(&'a mut [u8]),
    /// Of a prefetch.
    Absent,
}

impl Buffer<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Read(b) => b,
            Buffer::Write(b) => b,
            Buffer::Absent => &[],
        }
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }
}

/// Runs every instance of a kernel that verifies. Buffers are those of the parameters; `symbols`
/// are the values of the kernel's symbols, in order.
///
/// Errors: E0163, E0164.
pub fn run<T: Real>(
    kernel: &Kernel,
    buffers: Vec<Buffer<'_>>,
    symbols: &[i64],
) -> Result<(), InterpError> {
    let mut machine = Machine::<T>::new(kernel, buffers, symbols)?;
    let all = machine.instances()?;
    machine.run(0..all)
}

/// A choice of the greatest, as [`Machine::watch`] notes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The grid's instance that made it.
    pub instance: i64,
    /// Numbers that one choice is made among.
    pub width: usize,
    /// What was ranked, choice after choice.
    pub scores: Vec<f64>,
    /// Which of them took part; all where it is empty.
    pub takes_part: Vec<bool>,
    /// Positions that each choice took, greatest first.
    pub chosen: Vec<i32>,
}

/// A kernel with its memory.
pub struct Machine<'a, T> {
    kernel: &'a Kernel,
    symbols: Vec<i64>,
    params: Vec<Memory<'a>>,
    values: Vec<Option<Rc<Tile<T>>>>,
    scratch: HashMap<ValueId, Scratch<T>>,
    instance: i64,
    choices: Option<Vec<Choice>>,
}

impl<'a, T: Real> Machine<'a, T> {
    /// Binds memory and symbols.
    ///
    /// Errors: E0163.
    pub fn new(
        kernel: &'a Kernel,
        buffers: Vec<Buffer<'a>>,
        symbols: &[i64],
    ) -> Result<Self, InterpError> {
        for (i, (name, s)) in kernel.symbols.iter().enumerate() {
            let found = symbols.get(i).copied();
            if found.is_none_or(|v| v < s.lo || v > s.hi) {
                let what = name.clone();
                return Err(InterpError::Size { what, found, lo: s.lo, hi: s.hi });
            }
        }
        let value_of = |name: &str| symbol(kernel, symbols, name);
        let mut given = buffers.into_iter();
        let params = (kernel.params.iter())
            .map(|p| Memory::new(p, given.next().unwrap_or(Buffer::Absent), &value_of))
            .collect::<Result<_, _>>()?;
        let (values, scratch) = (vec![None; kernel.values.len()], HashMap::new());
        let symbols = symbols.to_vec();
        Ok(Machine { kernel, symbols, params, values, scratch, instance: 0, choices: None })
    }

    /// The instance that wrote an element of a parameter, by its number row-major.
    pub fn writer(&self, param: usize, element: u64) -> Option<i64> {
        self.params.get(param)?.writer(element)
    }

    /// From now on, notes what is loaded from each parameter, and what is chosen.
    pub fn watch(&mut self) {
        self.params.iter_mut().for_each(Memory::watch);
        self.choices = Some(vec![]);
    }

    /// The choices made since [`Machine::watch`], in order.
    pub fn choices(&self) -> &[Choice] {
        self.choices.as_deref().unwrap_or_default()
    }

    /// What was loaded from a parameter since [`Machine::watch`]: along each axis, from the first
    /// position to the last.
    pub fn loaded(&self, param: usize) -> Option<Vec<Range<u64>>> {
        self.params.get(param)?.loaded()
    }

    /// Instances of the grid.
    ///
    /// Errors: E0163, for a list that says it has more tuples than it can.
    pub fn instances(&self) -> Result<i64, InterpError> {
        let counts = self.counts()?;
        Ok(counts.iter().product())
    }

    /// Extents of the grid.
    fn counts(&self) -> Result<Vec<i64>, InterpError> {
        let one = |axis: &GridAxis| match axis {
            GridAxis::Range { extent, step, .. } => {
                let extent = size_of(self.kernel, &self.symbols, extent)?;
                Ok((extent + i64::from(*step) - 1) / i64::from(*step))
            }
            GridAxis::List { list, .. } => {
                let memory = &self.params[list.0 as usize];
                let (found, max) = (i64::from(memory.int(&[0, 0])), memory.dims()[0] as i64 - 1);
                if (0..=max).contains(&found) {
                    return Ok(found);
                }
                let what = self.kernel.param(*list).name.clone();
                Err(InterpError::Size { what, found: Some(found), lo: 0, hi: max })
            }
        };
        let counts = self.kernel.grid.axes.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        let total = counts.iter().try_fold(1i64, |p, c| p.checked_mul(*c));
        match total {
            Some(n) if n < i64::from(u32::MAX) => Ok(counts),
            found => {
                let (what, hi) = (self.kernel.name.clone(), u32::MAX.into());
                Err(InterpError::Size { what, found, lo: 0, hi })
            }
        }
    }

    /// Runs these instances, numbered row-major over the grid.
    ///
    /// Errors: E0163, E0164.
    pub fn run(&mut self, instances: Range<i64>) -> Result<(), InterpError> {
        let kernel = self.kernel;
        let counts = self.counts()?;
        for instance in instances {
            self.instance = instance;
            self.scratch.clear();
            let mut rest = instance;
            for (axis, count) in kernel.grid.axes.iter().zip(&counts).rev() {
                self.bind(axis, rest % count);
                rest /= count;
            }
            self.block(&kernel.body)?;
        }
        Ok(())
    }

    fn bind(&mut self, axis: &GridAxis, at: i64) {
        match axis {
            GridAxis::Range { var, step, .. } => self.set_int(*var, at * i64::from(*step)),
            GridAxis::List { vars, list } => {
                for (field, var) in vars.iter().enumerate() {
                    let v = self.params[list.0 as usize].int(&[at as u64 + 1, field as u64]);
                    self.set_int(*var, v.into());
                }
            }
        }
    }

    fn set_int(&mut self, id: ValueId, v: i64) {
        self.set(id, Tile::Int(vec![v as i32]));
    }

    fn set(&mut self, id: ValueId, tile: Tile<T>) {
        self.values[id.0 as usize] = Some(Rc::new(tile));
    }

    fn get(&self, id: ValueId) -> &Rc<Tile<T>> {
        self.values[id.0 as usize].as_ref().expect("a verified kernel defines before it uses")
    }

    fn int(&self, id: ValueId) -> i64 {
        self.get(id).get(0) as i64
    }

    fn shape(&self, id: ValueId) -> &'a [u32] {
        &self.kernel.ty(id).shape
    }

    fn bound(&self, bound: &Bound) -> Result<i64, InterpError> {
        match bound {
            Bound::Dim(d) => size_at_least(self.kernel, &self.symbols, d, i64::MIN),
            Bound::Value(v) => Ok(self.int(*v)),
        }
    }

    fn block(&mut self, body: &'a [Stmt]) -> Result<(), InterpError> {
        for stmt in body {
            match stmt {
                Stmt::Let { result, op: Op::Alloc } => {
                    let v = self.kernel.value(*result);
                    let scratch = Scratch::new(v.name.clone(), v.ty.encoding.code, &v.ty.shape);
                    self.scratch.insert(*result, scratch);
                }
                Stmt::Let { result, op } => {
                    let tile = self.op(*result, op)?;
                    self.note(op, &tile);
                    self.set(*result, tile);
                }
                Stmt::Store { value, access } => self.store(*value, access)?,
                Stmt::For(f) => self.for_loop(f)?,
                Stmt::If(i) => self.choice(i)?,
            }
        }
        Ok(())
    }

    fn note(&mut self, op: &Op, result: &Tile<T>) {
        let (Op::TopK { arg, mask, .. }, Tile::Int(chosen), true) =
            (op, result, self.choices.is_some())
        else {
            return;
        };
        let all = |v: ValueId| {
            let tile = self.get(v);
            (0..tile.len()).map(|i| tile.get(i)).collect::<Vec<f64>>()
        };
        let choice = Choice {
            instance: self.instance,
            width: self.shape(*arg).last().map_or(1, |e| *e as usize),
            scores: all(*arg),
            takes_part: mask.map_or(vec![], |m| all(m).iter().map(|b| *b != 0.0).collect()),
            chosen: chosen.clone(),
        };
        self.choices.get_or_insert_default().push(choice);
    }

    fn copy(&mut self, to: ValueId, from: ValueId) {
        self.values[to.0 as usize] = self.values[from.0 as usize].clone();
    }

    fn for_loop(&mut self, f: &'a For) -> Result<(), InterpError> {
        let (mut at, end) = (self.bound(&f.lo)?, self.bound(&f.hi)?);
        for (inside, init) in &f.carry {
            self.copy(*inside, *init);
        }
        while at < end {
            self.set_int(f.var, at);
            self.block(&f.body)?;
            let next: Vec<_> = f.yields.iter().map(|y| self.get(*y).clone()).collect();
            for ((inside, _), tile) in f.carry.iter().zip(next) {
                self.values[inside.0 as usize] = Some(tile);
            }
            at += i64::from(f.step);
        }
        for (result, (inside, _)) in f.results.iter().zip(&f.carry) {
            self.copy(*result, *inside);
        }
        Ok(())
    }

    fn choice(&mut self, i: &'a If) -> Result<(), InterpError> {
        let (body, yields) = if self.int(i.cond) != 0 { &i.then } else { &i.otherwise };
        self.block(body)?;
        for (result, y) in i.results.iter().zip(yields) {
            self.copy(*result, *y);
        }
        Ok(())
    }

    /// Positions of an access. What is wholly masked along one axis may lie anywhere along others.
    fn region(&self, access: &Access, dims: &[u64]) -> Result<Region, InterpError> {
        let mut axes = Vec::with_capacity(dims.len());
        for coord in &access.coords {
            axes.push(self.positions(coord)?);
        }
        let nothing = axes.iter().any(|a: &Vec<Option<i64>>| a.iter().all(Option::is_none));
        let mut checked = Vec::with_capacity(axes.len());
        for (axis, (positions, extent)) in axes.into_iter().zip(dims).enumerate() {
            let inside = |p: Option<i64>| match p {
                Some(p) if u64::try_from(p).is_ok_and(|p| p < *extent) => Ok(Some(p as u64)),
                Some(position) if !nothing => {
                    let name = |v: ValueId| self.kernel.value(v).name.clone();
                    let base = match access.base {
                        Base::Param(p) => self.kernel.param(p).name.clone(),
                        Base::Scratch(v) => name(v),
                    };
                    Err(InterpError::OutOfBounds { base, axis, position, extent: *extent })
                }
                _ => Ok(None),
            };
            checked.push(positions.into_iter().map(inside).collect::<Result<_, _>>()?);
        }
        Ok(Region { axes: checked })
    }

    fn positions(&self, coord: &Coord) -> Result<Vec<Option<i64>>, InterpError> {
        let bound = coord.bound.as_ref().map(|b| self.bound(b)).transpose()?;
        let gathered = match coord.start {
            Start::Value(v) if !self.shape(v).is_empty() => Some(self.get(v)),
            _ => None,
        };
        if let Some(tile) = gathered {
            let masked = |p: &i64| bound.is_none_or(|b| (0..b).contains(p));
            return Ok((0..tile.len()).map(|i| Some(tile.get(i) as i64).filter(masked)).collect());
        }
        let start = match coord.start {
            Start::Const(c) => c,
            Start::Value(v) => self.int(v),
        };
        let extent = i64::from(coord.extent.unwrap_or(1));
        let below = |p: &i64| bound.is_none_or(|b| *p < b);
        Ok((0..extent).map(|i| Some(start.saturating_add(i)).filter(below)).collect())
    }

    fn store(&mut self, value: ValueId, access: &Access) -> Result<(), InterpError> {
        let tile = self.get(value).clone();
        match access.base {
            Base::Param(p) => {
                let region = self.region(access, self.params[p.0 as usize].dims())?;
                self.params[p.0 as usize].store(&region, &tile, self.instance)
            }
            Base::Scratch(v) => {
                let region = self.region(access, self.scratch[&v].dims())?;
                if let Some(scratch) = self.scratch.get_mut(&v) {
                    scratch.store(&region, &tile);
                }
                Ok(())
            }
        }
    }

    fn load(&self, access: &Access, keep: bool) -> Result<Tile<T>, InterpError> {
        match access.base {
            Base::Param(p) => {
                let memory = &self.params[p.0 as usize];
                memory.load(&self.region(access, memory.dims())?, keep, self.instance)
            }
            Base::Scratch(v) => {
                let scratch = &self.scratch[&v];
                scratch.load(&self.region(access, scratch.dims())?)
            }
        }
    }

    fn op(&self, result: ValueId, op: &Op) -> Result<Tile<T>, InterpError> {
        let ty = self.kernel.ty(result);
        let n = ty.elements() as usize;
        let dtype = ty.encoding.code;
        let last = |v: ValueId| self.shape(v).last().map_or(1, |e| *e as usize);
        let of = |v: &ValueId| &**self.get(*v);
        Ok(match op {
            Op::Splat(v) => Tile::splat(dtype, n, *v),
            Op::Iota { axis } => {
                let (axis, shape) = (*axis as usize, &ty.shape);
                let inner: u32 = shape[axis + 1..].iter().product();
                Tile::Int((0..n as u32).map(|i| (i / inner % shape[axis]) as i32).collect())
            }
            Op::Map { args, expr } => {
                let tiles: Vec<_> = args.iter().map(of).collect();
                let classes: Vec<_> =
                    args.iter().map(|a| self.kernel.ty(*a).encoding.code.class()).collect();
                eval::Maps { args: &tiles, classes: &classes, n }.eval(expr, dtype.class())?
            }
            Op::Dim(d) => {
                let v = size_at_least(self.kernel, &self.symbols, d, i32::MIN.into())?;
                Tile::Int(vec![v as i32])
            }
            Op::Cast(a) => of(a).cast(dtype),
            Op::Encode(a) => {
                let values: Vec<f64> = (0..n).map(|i| of(a).get(i)).collect();
                Tile::Coded(Coded::encode(&values, &ty.shape, ty.encoding))
            }
            Op::Decode(a) => Tile::Float((0..n).map(|i| T::from_f64(of(a).get(i))).collect()),
            Op::Reduce { fold, axis, arg } => {
                ops::fold(*fold, of(arg), self.shape(*arg), *axis as usize, false)
            }
            Op::Scan { fold, axis, arg } => {
                ops::fold(*fold, of(arg), self.shape(*arg), *axis as usize, true)
            }
            Op::Where { cond, a, b } => {
                let [c, a, b] = [cond, a, b].map(|v| eval::repeat(of(v), n));
                eval::select(&c, &a, &b)
            }
            Op::Mma { acc, a, b } => ops::mma(of(acc), of(a), of(b), last(*a)),
            Op::Transpose { arg, order } => ops::transpose(of(arg), self.shape(*arg), order),
            Op::Split { arg, .. } | Op::Merge { arg, .. } => of(arg).clone(),
            Op::Slice { arg, starts } => ops::slice(of(arg), self.shape(*arg), starts, &ty.shape),
            Op::Concat { args, axis } => {
                let tiles: Vec<_> = args.iter().map(of).collect();
                let shapes: Vec<_> = args.iter().map(|a| self.shape(*a)).collect();
                ops::concat(&tiles, &shapes, *axis as usize)
            }
            Op::Broadcast { arg, axis } => ops::broadcast(of(arg), &ty.shape, *axis as usize),
            Op::TopK { arg, mask, k } => {
                ops::topk(of(arg), mask.as_ref().map(of), last(*arg), *k as usize)
            }
            Op::Pick { arg, index } => ops::pick(of(arg), of(index), last(*arg), last(*index))?,
            Op::Place { arg, index } => ops::place(of(arg), of(index), last(*arg), last(result))?,
            Op::Lookup { arg, table } => ops::lookup(of(arg), table),
            // Made by `block`: scratch is no tile.
            Op::Alloc => Tile::Bool(Vec::new()),
            Op::Load { access, keep } => self.load(access, *keep)?,
        })
    }
}

fn size_of(kernel: &Kernel, symbols: &[i64], dim: &Dim) -> Result<i64, InterpError> {
    size_at_least(kernel, symbols, dim, 0)
}

fn size_at_least(kernel: &Kernel, symbols: &[i64], dim: &Dim, lo: i64) -> Result<i64, InterpError> {
    let found = dim.eval(&|name| symbol(kernel, symbols, name));
    let hi = i64::from(i32::MAX);
    match found {
        Some(v) if v >= lo && v <= hi => Ok(v),
        _ => Err(InterpError::Size { what: dim.to_string().into(), found, lo, hi }),
    }
}

fn symbol(kernel: &Kernel, values: &[i64], name: &str) -> Option<i64> {
    let at = kernel.symbols.keys().position(|s| &**s == name)?;
    values.get(at).copied()
}
