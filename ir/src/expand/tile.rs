//! What a tile value stands for while a kernel is expanded: memory, or an expression that is
//! evaluated where its elements are needed.

use super::emit::Emitter;
use super::layout::Coded;
use super::scratch::BufferId;
use crate::dtype::{Class, DType};
use crate::expr::{Binary, Expr, Unary};
use crate::kernel::Base;
use crate::loops::{Reg, Stride};
use std::rc::Rc;

pub(super) type TileRef = Rc<Tile>;

/// A tile value.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    /// Type of its elements (`F32` for scaled encodings).
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<u32>,
    /// What it is.
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Strided memory.
    View(View),
    /// Memory that is packed, encoded or below a byte.
    Coded(Coded),
    /// Every element is the register.
    Scalar(Reg),
    /// Every element is the number.
    Splat(f64),
    /// The position along an axis.
    Iota(usize),
    Map {
        args: Vec<TileRef>,
        expr: Expr,
    },
    Where([TileRef; 3]),
    Cast(TileRef),
}

/// Where memory begins: at an address or in scratch, plus bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub origin: Origin,
    /// I64.
    pub by: Option<Reg>,
    pub offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// I64.
    Address(Reg),
    Buffer(BufferId),
}

impl Place {
    pub fn address(reg: Reg) -> Self {
        Place { origin: Origin::Address(reg), by: None, offset: 0 }
    }

    pub fn buffer(id: BufferId) -> Self {
        Place { origin: Origin::Buffer(id), by: None, offset: 0 }
    }

    pub fn is_in(&self, id: BufferId) -> bool {
        self.origin == Origin::Buffer(id)
    }
}

/// Strided memory, perhaps masked or gathered.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub place: Place,
    /// Type of an element in memory.
    pub store: DType,
    /// One per axis.
    pub axes: Vec<ViewAxis>,
    /// If it does not hold, every element is masked out.
    pub cond: Option<Reg>,
    /// Whose memory it is, where a kernel may store to it.
    pub base: Option<Base>,
}

#[derive(Clone, Debug)]
pub(super) struct ViewAxis {
    /// From one position to the next.
    pub stride: Stride,
    /// I64: elements at or beyond it are masked out.
    pub valid: Option<Reg>,
    /// Positions, if they are not consecutive.
    pub gather: Option<Gather>,
}

/// Positions along an axis, named by a tile.
#[derive(Clone, Debug)]
pub(super) struct Gather {
    /// `i32`, rank 1.
    pub positions: TileRef,
    /// Where in it the axis begins.
    pub offset: u64,
    /// I64: negative positions and those at or beyond it are masked out.
    pub bound: Option<Reg>,
}

/// How the elements of a tile lie along an axis, for evaluating a vector of adjacent ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// They are all the same.
    Uniform,
    /// A vector of them can be had at once.
    Wide,
    /// Only one at a time.
    Single,
}

impl ViewAxis {
    pub fn dense(stride: i64) -> Self {
        ViewAxis { stride: Stride::Bytes(stride), valid: None, gather: None }
    }
}

/// Bytes of an element of at least a byte.
pub(super) fn bytes_of(dtype: DType) -> u64 {
    u64::from(dtype.bits() / 8).max(1)
}

/// The type in which elements of a plain type are kept in scratch.
pub(super) fn kept_as(dtype: DType) -> DType {
    match dtype {
        DType::I4 => DType::I8,
        DType::F4E2M1 => DType::F32,
        other => other,
    }
}

/// Row-major strides in bytes.
pub(super) fn row_major(shape: &[u32], element: u64) -> Vec<i64> {
    let mut strides = vec![0; shape.len()];
    let mut size = element as i64;
    for (stride, extent) in strides.iter_mut().zip(shape).rev() {
        *stride = size;
        size *= i64::from(*extent);
    }
    strides
}

impl Tile {
    pub fn new(dtype: DType, shape: &[u32], kind: Kind) -> TileRef {
        Rc::new(Tile { dtype, shape: shape.to_vec(), kind })
    }

    pub fn scalar(dtype: DType, reg: Reg) -> TileRef {
        Tile::new(dtype, &[], Kind::Scalar(reg))
    }

    /// A dense buffer.
    pub fn buffer(dtype: DType, shape: &[u32], id: BufferId, base: Option<Base>) -> TileRef {
        let store = kept_as(dtype);
        let axes = row_major(shape, bytes_of(store)).into_iter().map(ViewAxis::dense).collect();
        let view = View { place: Place::buffer(id), store, axes, cond: None, base };
        Tile::new(dtype, shape, Kind::View(view))
    }

    /// The operands of an expression.
    pub fn children(&self) -> Vec<&TileRef> {
        match &self.kind {
            Kind::View(v) => positions(v.axes.iter().map(|a| &a.gather)),
            Kind::Coded(c) => positions(c.axes.iter().map(|a| &a.gather)),
            Kind::Scalar(_) | Kind::Splat(_) | Kind::Iota(_) => vec![],
            Kind::Map { args, .. } => args.iter().collect(),
            Kind::Where(parts) => parts.iter().collect(),
            Kind::Cast(a) => vec![a],
        }
    }

    /// Whether evaluating it reads memory of a base.
    pub fn reads(&self, base: Base) -> bool {
        let own = match &self.kind {
            Kind::View(v) => v.base == Some(base),
            Kind::Coded(c) => c.base == Some(base),
            _ => false,
        };
        own || self.children().iter().any(|c| c.reads(base))
    }

    /// Whether its rows are gathered from memory.
    pub fn gathers_rows(&self) -> bool {
        let own = match &self.kind {
            Kind::View(v) => v.axes.first().is_some_and(|a| a.gather.is_some()),
            Kind::Coded(c) => c.axes.iter().any(|a| a.tile == Some(0) && a.gather.is_some()),
            _ => false,
        };
        own || self.children().iter().any(|c| c.gathers_rows())
    }

    /// Whether evaluating it reads a buffer.
    pub fn reads_buffer(&self, id: BufferId) -> bool {
        let own = match &self.kind {
            Kind::View(v) => v.place.is_in(id),
            Kind::Coded(c) => c.place.is_in(id),
            _ => false,
        };
        own || self.children().iter().any(|c| c.reads_buffer(id))
    }

    /// Rough number of instructions for an element.
    pub fn weight(&self) -> u32 {
        let below = || self.children().iter().map(|c| c.weight()).fold(0, u32::saturating_add);
        let own = match &self.kind {
            Kind::View(v) => {
                let masks = v.axes.iter().filter(|a| a.valid.is_some() || a.gather.is_some());
                1 + 2 * masks.count() as u32 + u32::from(v.store.bits() < 32)
            }
            Kind::Coded(_) => 12,
            Kind::Scalar(_) | Kind::Splat(_) => 0,
            Kind::Iota(_) => 1,
            Kind::Map { expr, .. } => expr_weight(expr),
            Kind::Where(_) => 1,
            Kind::Cast(_) => 3,
        };
        below().saturating_add(own)
    }

    /// Whether vectors of it can be computed from vectors of its operands.
    pub fn is_wide_itself(&self) -> bool {
        match &self.kind {
            Kind::Map { args, expr } => is_wide(expr, args),
            _ => true,
        }
    }

    /// How its elements lie along an axis.
    pub fn spread(&self, axis: usize, em: &Emitter) -> Spread {
        if axis >= self.shape.len() {
            return Spread::Uniform;
        }
        match &self.kind {
            Kind::View(v) => v.spread(axis),
            Kind::Coded(c) => c.spread(axis, em),
            Kind::Scalar(_) | Kind::Splat(_) => Spread::Uniform,
            Kind::Iota(a) if *a == axis => Spread::Wide,
            Kind::Iota(_) => Spread::Uniform,
            Kind::Map { args, expr } => {
                let spread = joined(args, axis, em);
                let wide = spread == Spread::Uniform || is_wide(expr, args);
                if wide { spread } else { Spread::Single }
            }
            Kind::Where(parts) => joined(parts, axis, em),
            Kind::Cast(a) => a.spread(axis, em),
        }
    }

    /// Counts of valid elements along an axis, of all memory below.
    pub fn bounds(&self, axis: usize, found: &mut Vec<Reg>) {
        if axis >= self.shape.len() {
            return;
        }
        let mut note = |valid: Option<Reg>| {
            found.extend(valid.filter(|v| !found.contains(v)));
        };
        match &self.kind {
            Kind::View(v) => note(v.axes[axis].valid),
            Kind::Coded(c) => {
                c.axes.iter().filter(|a| a.tile == Some(axis)).for_each(|a| note(a.valid))
            }
            Kind::Scalar(_) | Kind::Splat(_) | Kind::Iota(_) => {}
            Kind::Map { args, .. } => args.iter().for_each(|a| a.bounds(axis, found)),
            Kind::Where(parts) => parts.iter().for_each(|a| a.bounds(axis, found)),
            Kind::Cast(a) => a.bounds(axis, found),
        }
    }
}

impl View {
    fn spread(&self, axis: usize) -> Spread {
        let a = &self.axes[axis];
        match (&a.gather, a.stride) {
            (Some(_), _) => Spread::Single,
            (None, Stride::Bytes(0)) if a.valid.is_none() => Spread::Uniform,
            (None, Stride::Bytes(s)) if s == bytes_of(self.store) as i64 => Spread::Wide,
            _ => Spread::Single,
        }
    }

    /// Whether it has no masks and no gathers.
    pub fn is_whole(&self) -> bool {
        self.cond.is_none() && self.axes.iter().all(|a| a.valid.is_none() && a.gather.is_none())
    }
}

fn positions<'t>(axes: impl Iterator<Item = &'t Option<Gather>>) -> Vec<&'t TileRef> {
    axes.flatten().map(|g| &g.positions).collect()
}

fn joined(parts: &[TileRef], axis: usize, em: &Emitter) -> Spread {
    let mut spread = Spread::Uniform;
    for part in parts {
        match part.spread(axis, em) {
            Spread::Single => return Spread::Single,
            Spread::Wide => spread = Spread::Wide,
            Spread::Uniform => {}
        }
    }
    spread
}

/// Whether an expression can be computed in vectors. Quotients of integers are computed one by
/// one, but for those by a literal power of two.
fn is_wide(expr: &Expr, args: &[TileRef]) -> bool {
    match expr {
        Expr::Arg(_) | Expr::Num(_) | Expr::Lowest => true,
        Expr::Unary(Unary::Sin | Unary::Cos, _) => false,
        Expr::Unary(_, a) => is_wide(a, args),
        Expr::Binary(Binary::Div | Binary::Rem, a, b)
            if is_integer(a, args) || is_integer(b, args) =>
        {
            power_of_two(b).is_some() && is_wide(a, args)
        }
        Expr::Binary(_, a, b) => is_wide(a, args) && is_wide(b, args),
        Expr::Select(x) => x.iter().all(|e| is_wide(e, args)),
    }
}

/// Whether an expression is known to be an integer by what is in it.
fn is_integer(expr: &Expr, args: &[TileRef]) -> bool {
    match expr {
        Expr::Arg(i) => args[*i].dtype.class() == Class::Int,
        Expr::Num(_) | Expr::Lowest => false,
        Expr::Unary(Unary::Int, _) => true,
        Expr::Unary(Unary::Neg | Unary::Abs, a) => is_integer(a, args),
        Expr::Unary(..) => false,
        Expr::Binary(f, a, b) => !f.is_comparison() && (is_integer(a, args) || is_integer(b, args)),
        Expr::Select(x) => is_integer(&x[1], args) || is_integer(&x[2], args),
    }
}

/// The exponent of a literal power of two.
pub(super) fn power_of_two(expr: &Expr) -> Option<u32> {
    match expr {
        Expr::Num(v) if *v >= 1.0 && *v <= f64::from(1 << 30) && v.fract() == 0.0 => {
            let n = *v as u32;
            n.is_power_of_two().then(|| n.trailing_zeros())
        }
        _ => None,
    }
}

fn expr_weight(expr: &Expr) -> u32 {
    match expr {
        Expr::Arg(_) | Expr::Num(_) | Expr::Lowest => 0,
        Expr::Unary(f, a) => {
            let own = match f {
                Unary::Exp | Unary::Exp2 | Unary::Log | Unary::Log2 => 20,
                Unary::Sigmoid | Unary::Tanh | Unary::Sin | Unary::Cos => 25,
                Unary::Sqrt => 5,
                _ => 1,
            };
            expr_weight(a) + own
        }
        Expr::Binary(f, a, b) => {
            let own = if matches!(f, Binary::Div | Binary::Rem) { 5 } else { 1 };
            expr_weight(a) + expr_weight(b) + own
        }
        Expr::Select(x) => 1 + x.iter().map(expr_weight).sum::<u32>(),
    }
}
