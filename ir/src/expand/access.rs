//! Accesses to parameters and scratch as tiles, and changes of a tile's shape.

use super::eval::{Ix, Point};
use super::layout::{Coded, CodedAxis};
use super::tile::{Gather, Kind, Place, Tile, TileRef, View, ViewAxis, bytes_of};
use super::{Expander, Result};
use crate::dtype::{DType, Encoding};
use crate::expr::{Binary, Expr};
use crate::kernel::{Access, Base, Bound, Coord, ParamType, Start};
use crate::loops::{Cmp, Convert, Reg, Stride};

/// A change of shape.
pub(super) enum Reshape<'r> {
    /// A new axis of an extent, along which elements are repeated.
    Broadcast(usize, u32),
    /// Axes permuted.
    Transpose(&'r [u32]),
    /// Starts and extents.
    Slice(&'r [u32], &'r [u32]),
}

/// A coordinate, ready for addressing.
struct Located {
    /// I64.
    start: Reg,
    multiple: i64,
    extent: Option<u32>,
    /// I64, of the tile's axis.
    valid: Option<Reg>,
    /// Of a single position.
    inside: Option<Reg>,
    gather: Option<Gather>,
}

impl Expander<'_> {
    /// A bound as an I64.
    pub fn bound(&mut self, bound: &Bound) -> Result<Reg> {
        match bound {
            Bound::Dim(d) => Ok(self.dim(d)),
            Bound::Value(v) => {
                let reg = self.scalar(*v)?;
                Ok(self.em.convert(Convert::I32ToI64, reg))
            }
        }
    }

    fn locate(&mut self, coord: &Coord) -> Result<Located> {
        let bound = coord.bound.as_ref().map(|b| self.bound(b)).transpose()?;
        let (start, multiple) = match &coord.start {
            Start::Const(c) => (self.em.int(*c), if *c == 0 { 0 } else { *c }),
            Start::Value(v) if self.kernel.ty(*v).shape.is_empty() => {
                let reg = self.scalar(*v)?;
                (self.em.convert(Convert::I32ToI64, reg), self.multiples.of(*v))
            }
            Start::Value(v) => {
                let positions = self.tile(*v)?;
                let gather = Some(Gather { positions, offset: 0, bound });
                let start = self.em.int(0);
                let extent = Some(self.kernel.ty(*v).shape[0]);
                return Ok(Located {
                    start,
                    multiple: 1,
                    extent,
                    valid: None,
                    inside: None,
                    gather,
                });
            }
        };
        let (mut valid, mut inside) = (None, None);
        match (bound, coord.extent) {
            (Some(b), Some(_)) => valid = Some(self.em.sub(b, start)),
            (Some(b), None) => inside = Some(self.em.cmp(Cmp::Lt, start, b)),
            (None, _) => {}
        }
        Ok(Located { start, multiple, extent: coord.extent, valid, inside, gather: None })
    }

    /// What an access reads or writes.
    pub fn access(&mut self, access: &Access) -> Result<TileRef> {
        let located = access.coords.iter().map(|c| self.locate(c)).collect::<Result<Vec<_>>>()?;
        let shape: Vec<u32> = located.iter().filter_map(|l| l.extent).collect();
        let base = Some(access.base);
        match access.base {
            Base::Scratch(v) => {
                let memory = self.tile(v)?;
                match &memory.kind {
                    Kind::View(view) => Ok(view_at(self, view, &located, memory.dtype, &shape)),
                    _ => Err(self.cannot("access to scratch that holds no plain elements")),
                }
            }
            Base::Param(p) => {
                let address = self.args[p.0 as usize];
                match &self.kernel.param(p).ty {
                    ParamType::List { fields, .. } => {
                        let row = 4 * fields.len() as i64;
                        let axes = vec![ViewAxis::dense(row), ViewAxis::dense(4)];
                        let place = Place::address(address);
                        let view = View { place, store: DType::I32, axes, cond: None, base };
                        Ok(view_at(self, &view, &located, DType::I32, &shape))
                    }
                    ParamType::Tensor { encoding, packing: None, dims }
                        if encoding.is_plain() && encoding.code.bits() >= 8 =>
                    {
                        let view = self.whole(address, encoding.code, dims, base);
                        Ok(view_at(self, &view, &located, encoding.code, &shape))
                    }
                    ParamType::Tensor { encoding, .. } => {
                        let layout = self.param_layout(p);
                        Ok(coded_at(self, address, *encoding, layout, &located, base))
                    }
                }
            }
        }
    }

    /// A row-major tensor.
    fn whole(
        &mut self,
        address: Reg,
        store: DType,
        dims: &[crate::dim::Dim],
        base: Option<Base>,
    ) -> View {
        let mut size = self.em.int(bytes_of(store) as i64);
        let mut axes = vec![];
        for dim in dims.iter().rev() {
            axes.push(ViewAxis { stride: self.stride(size), valid: None, gather: None });
            let extent = self.dim(dim);
            size = self.em.mul(size, extent);
        }
        axes.reverse();
        View { place: Place::address(address), store, axes, cond: None, base }
    }

    /// A tile's shape changed, without touching its elements.
    pub fn reshaped(&mut self, tile: &TileRef, change: &Reshape) -> Result<TileRef> {
        let full = match change {
            Reshape::Broadcast(..) => tile.shape.len(),
            Reshape::Transpose(order) => order.len(),
            Reshape::Slice(starts, _) => starts.len(),
        };
        self.reshape_in(tile, change, full, &tile.shape.clone())
    }

    /// `tile` stands for one of rank `full` and shape `whole` that lacks trailing axes.
    fn reshape_in(
        &mut self,
        tile: &TileRef,
        change: &Reshape,
        full: usize,
        whole: &[u32],
    ) -> Result<TileRef> {
        let rank = tile.shape.len();
        let (shape, kind) = match change {
            Reshape::Broadcast(at, _) if *at >= rank && rank < full => return Ok(tile.clone()),
            Reshape::Broadcast(at, extent) => {
                let mut shape = tile.shape.clone();
                shape.insert(*at, *extent);
                (shape, self.kind_broadcast(tile, *at, change, full, whole)?)
            }
            Reshape::Transpose(order) => {
                if rank < full {
                    let mut padded = tile.clone();
                    for (axis, extent) in whole.iter().enumerate().skip(rank) {
                        padded = self.reshaped(&padded, &Reshape::Broadcast(axis, *extent))?;
                    }
                    return self.reshape_in(&padded, change, full, whole);
                }
                let shape = order.iter().map(|a| tile.shape[*a as usize]).collect();
                (shape, self.kind_transpose(tile, order, change, full, whole)?)
            }
            Reshape::Slice(starts, extents) => {
                (extents[..rank].to_vec(), self.kind_slice(tile, starts, change, full, whole)?)
            }
        };
        Ok(Tile::new(tile.dtype, &shape, kind))
    }

    /// The change applied to what an expression is made of.
    fn kind_below(
        &mut self,
        tile: &TileRef,
        change: &Reshape,
        full: usize,
        whole: &[u32],
    ) -> Result<Kind> {
        let mut each = |t: &TileRef| self.reshape_in(t, change, full, whole);
        Ok(match &tile.kind {
            Kind::Map { args, expr } => {
                let args = args.iter().map(&mut each).collect::<Result<Vec<_>>>()?;
                Kind::Map { args, expr: expr.clone() }
            }
            Kind::Where([c, a, b]) => Kind::Where([each(c)?, each(a)?, each(b)?]),
            Kind::Cast(a) => Kind::Cast(each(a)?),
            other => other.clone(),
        })
    }

    fn kind_broadcast(
        &mut self,
        tile: &TileRef,
        at: usize,
        change: &Reshape,
        full: usize,
        whole: &[u32],
    ) -> Result<Kind> {
        Ok(match &tile.kind {
            Kind::View(v) => {
                let mut view = v.clone();
                view.axes.insert(at, ViewAxis::dense(0));
                Kind::View(view)
            }
            Kind::Coded(c) => {
                let mut coded = c.clone();
                for axis in coded.axes.iter_mut().filter_map(|a| a.tile.as_mut()) {
                    *axis += usize::from(*axis >= at);
                }
                Kind::Coded(coded)
            }
            Kind::Iota(axis) => Kind::Iota(axis + usize::from(*axis >= at)),
            _ => self.kind_below(tile, change, full, whole)?,
        })
    }

    fn kind_transpose(
        &mut self,
        tile: &TileRef,
        order: &[u32],
        change: &Reshape,
        full: usize,
        whole: &[u32],
    ) -> Result<Kind> {
        let place = |axis: usize| {
            order.iter().position(|o| *o as usize == axis).expect("order is a permutation")
        };
        Ok(match &tile.kind {
            Kind::View(v) => {
                let axes = order.iter().map(|a| v.axes[*a as usize].clone()).collect();
                Kind::View(View { axes, ..v.clone() })
            }
            Kind::Coded(c) => {
                let mut coded = c.clone();
                for axis in coded.axes.iter_mut().filter_map(|a| a.tile.as_mut()) {
                    *axis = place(*axis);
                }
                Kind::Coded(coded)
            }
            Kind::Iota(axis) => Kind::Iota(place(*axis)),
            _ => self.kind_below(tile, change, full, whole)?,
        })
    }

    fn kind_slice(
        &mut self,
        tile: &TileRef,
        starts: &[u32],
        change: &Reshape,
        full: usize,
        whole: &[u32],
    ) -> Result<Kind> {
        Ok(match &tile.kind {
            Kind::View(v) => Kind::View(self.sliced_view(v, starts)),
            Kind::Coded(c) => {
                let mut coded = c.clone();
                for axis in &mut coded.axes {
                    let Some(tile) = axis.tile else { continue };
                    let skip = i64::from(starts[tile]);
                    axis.valid = axis.valid.map(|v| self.em.add_imm(v, -skip));
                    match &mut axis.gather {
                        Some(gather) => gather.offset += skip as u64,
                        None => {
                            axis.start = self.em.add_imm(axis.start, skip);
                            axis.multiple = gcd(axis.multiple, skip);
                        }
                    }
                }
                Kind::Coded(coded)
            }
            Kind::Iota(axis) if starts[*axis] != 0 => {
                let iota = Tile::new(tile.dtype, &tile.shape, Kind::Iota(*axis));
                let start = Expr::Num(f64::from(starts[*axis]));
                Kind::Map { args: vec![iota], expr: Expr::Arg(0).binary(Binary::Add, start) }
            }
            _ => self.kind_below(tile, change, full, whole)?,
        })
    }

    /// The place `count` positions of a stride further on.
    fn moved(&mut self, place: Place, count: Reg, stride: Stride) -> Place {
        if let (Some(c), Stride::Bytes(s)) = (self.em.constant(count), stride)
            && let Some(offset) = c.checked_mul(s).and_then(|b| place.offset.checked_add(b))
        {
            return Place { offset, ..place };
        }
        let size = self.amount(stride);
        let bytes = self.em.mul(count, size);
        let by = place.by.map_or(bytes, |b| self.em.add(b, bytes));
        Place { by: Some(by), ..place }
    }

    fn sliced_view(&mut self, v: &View, starts: &[u32]) -> View {
        let mut view = v.clone();
        for (axis, start) in view.axes.iter_mut().zip(starts) {
            let skip = u64::from(*start);
            let valid = axis.valid.map(|v| self.em.add_imm(v, -(skip as i64)));
            let strided = axis.gather.is_none();
            *axis = axis.sliced(skip, valid);
            if strided && skip > 0 {
                let skip = self.em.int(skip as i64);
                view.place = self.moved(view.place, skip, axis.stride);
            }
        }
        view
    }

    /// A view of elements in memory, row-major in the merged or split axes; copies if need be.
    pub fn rearranged(&mut self, tile: &TileRef, shape: &[u32]) -> Result<TileRef> {
        let dense = |t: &TileRef| match &t.kind {
            Kind::View(v) if v.is_whole() => {
                let strides = super::tile::row_major(&t.shape, bytes_of(v.store));
                let same = v.axes.iter().zip(&strides).zip(&t.shape);
                same.clone().all(|((a, s), e)| *e == 1 || a.stride == Stride::Bytes(*s))
            }
            _ => false,
        };
        let tile = if dense(tile) { tile.clone() } else { self.copied(tile)? };
        let Kind::View(view) = &tile.kind else {
            // Of rank 0: every element is the scalar.
            return Ok(Tile::new(tile.dtype, shape, tile.kind.clone()));
        };
        let strides = super::tile::row_major(shape, bytes_of(view.store));
        let axes = strides.into_iter().map(ViewAxis::dense).collect();
        Ok(Tile::new(tile.dtype, shape, Kind::View(View { axes, ..view.clone() })))
    }
}

/// Part of a view: coordinates that stay become its axes.
fn view_at(x: &mut Expander, view: &View, at: &[Located], dtype: DType, shape: &[u32]) -> TileRef {
    let mut cond = view.cond;
    let mut axes = vec![];
    let mut place = view.place;
    for (axis, l) in view.axes.iter().zip(at) {
        cond = x.both(cond, l.inside);
        if l.gather.is_none() {
            place = x.moved(place, l.start, axis.stride);
        }
        if l.extent.is_some() {
            let (valid, gather) = (l.valid, l.gather.clone());
            axes.push(ViewAxis { stride: axis.stride, valid, gather });
        }
    }
    let view = View { place, store: view.store, axes, cond, base: view.base };
    Tile::new(dtype, shape, Kind::View(view))
}

fn coded_at(
    x: &mut Expander,
    address: Reg,
    encoding: Encoding,
    layout: std::rc::Rc<super::layout::Layout>,
    at: &[Located],
    base: Option<Base>,
) -> TileRef {
    let (mut axes, mut cond, mut shape) = (vec![], None, vec![]);
    for l in at {
        cond = x.both(cond, l.inside);
        let tile = l.extent.map(|_| shape.len());
        shape.extend(l.extent);
        let (valid, gather) = (l.valid, l.gather.clone());
        axes.push(CodedAxis { start: l.start, multiple: l.multiple, tile, valid, gather });
    }
    let place = Place::address(address);
    let coded = Coded { place, encoding, layout, axes, cond, base };
    Tile::new(encoding.decoded(), &shape, Kind::Coded(coded))
}

/// Greatest common divisor; of 0 and a number, the number.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Expander<'_> {
    /// The value of a tile of rank 0.
    pub fn scalar_of(&mut self, tile: &TileRef) -> Result<Reg> {
        self.eval(tile, &Point::single(Vec::<Ix>::new()))
    }
}
