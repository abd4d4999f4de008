//! Kernels to loop programs: tiles become loops over scalars and short vectors with scratch
//! memory.
//!
//! A tile value stays an expression (of loads, constants and element-wise operations) as long as
//! it is read once, and is evaluated where it is needed; other values are kept in scratch, whose
//! buffers overlay each other where they are not live at once. Products of tiles go to the target
//! whole if it claims them, their operands named as memory: straight in the parameters where they
//! lie there in a form that a product can read.

mod access;
mod ahead;
mod coded;
mod control;
mod convert;
mod emit;
mod encode;
mod eval;
mod fold;
mod generic;
mod layout;
mod math;
mod nest;
mod order;
mod prefetch;
mod product;
mod scalar;
mod scratch;
mod seen;
mod store;
mod tile;
mod uses;

use crate::dim::{Atom, Dim};
use crate::error::{IrError, IrErrorKind};
use crate::kernel::{Fold, Kernel, Op, ParamId, ParamType, ValueId};
use crate::loops::{Ahead, Arith, Cmp, Inst, Mma, Program, Reg, Stmt};
use access::Reshape;
use coded::Copies;
use emit::Emitter;
use layout::Layout;
use scratch::BufferId;
use seen::Seen;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use tile::{Kind, Tile, TileRef};
use uses::{Multiples, Uses};

type Result<T> = std::result::Result<T, IrError>;

/// Bytes of a cache line.
const LINE: u32 = 64;

/// Bytes of a page: lines so far apart share a set of the first-level cache.
const PAGE: u32 = 4096;

/// What a program is expanded for.
#[derive(Clone, Copy)]
pub struct Machine<'m> {
    /// Width of vectors in lanes of 32 bits, a power of two; 1 for none.
    pub lanes: u32,
    /// Whether the target takes a product whole. It is asked for the form nearest to memory
    /// first, and then, if an operand is encoded, for one with that operand decoded.
    pub mma: &'m dyn Fn(&Mma) -> bool,
}

impl std::fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// The kernel as a loop program for a machine.
///
/// # Errors
/// E0301 for the few things that have no expansion (carried or allocated scaled tiles).
pub fn expand(kernel: &Kernel, machine: &Machine) -> Result<Program> {
    let mut expander = Expander::new(kernel, *machine);
    expander.program()?;
    let (mut body, regs, scratch) = expander.em.finish();
    let scratch_bytes = scratch.resolve(&mut body, 0);
    let program =
        Program { name: kernel.name.clone(), lanes: machine.lanes, regs, scratch_bytes, body };
    if cfg!(debug_assertions) {
        crate::loops::verify::verify(&program)?;
    }
    Ok(program)
}

/// A product as loops, for a target that claimed it and yet has no better form. New registers
/// are added to the program's, and so is the scratch that the loops need.
pub fn lower_mma(mma: &Mma, program: &mut Program) -> Vec<Stmt> {
    let mut em = Emitter::resume(program.lanes, std::mem::take(&mut program.regs));
    generic::lower(&mut em, mma);
    let (mut body, regs, scratch) = em.finish();
    program.regs = regs;
    let bytes = scratch.resolve(&mut body, program.scratch_bytes);
    program.scratch_bytes += bytes;
    body
}

/// State of an expansion.
struct Expander<'k> {
    kernel: &'k Kernel,
    machine: Machine<'k>,
    em: Emitter,
    /// What values stand for.
    env: Vec<Option<TileRef>>,
    uses: Uses,
    seen: Seen,
    multiples: Multiples,
    /// Reads of a value that are still to come in the text.
    remaining: Vec<u32>,
    /// Addresses of parameters.
    args: Vec<Reg>,
    layouts: HashMap<ParamId, Rc<Layout>>,
    /// A cache line of zeros, which masked-out elements are read from.
    zeros: BufferId,
    /// Constant tables, in scratch.
    tables: Vec<(&'k [f64], BufferId)>,
    /// `(variable, bound)`: the variable is known to be below the bound.
    facts: Vec<(Reg, Reg)>,
    /// Tiles evaluated ahead of a loop.
    hoisted: Vec<HashMap<*const Tile, Reg>>,
    /// The value that a buffer was made for.
    owners: HashMap<BufferId, ValueId>,
    /// Buffers that more than one value may speak of.
    shared: HashSet<BufferId>,
    /// Copies made of gathered tiles of codes in the block at hand, of the rows below a register.
    copies: Vec<(TileRef, Option<Reg>, Copies)>,
    /// What a product is to ask for.
    ahead: HashMap<ValueId, Ahead>,
    /// Positions along each axis of the grid.
    counts: Vec<Reg>,
    /// The instance at hand and the worker's range.
    span: Option<prefetch::Span>,
}

impl<'k> Expander<'k> {
    fn new(kernel: &'k Kernel, machine: Machine<'k>) -> Self {
        let mut em = Emitter::new(machine.lanes);
        let zeros = em.scratch.allocate_lasting(64);
        let uses = Uses::of(kernel);
        let values = kernel.values.len() as u32;
        Expander {
            kernel,
            machine,
            em,
            env: vec![None; kernel.values.len()],
            remaining: (0..values).map(|v| uses.count(ValueId(v))).collect(),
            uses,
            seen: Seen::of(kernel),
            multiples: Multiples::of_kernel(kernel),
            args: vec![],
            layouts: HashMap::new(),
            zeros,
            tables: vec![],
            facts: vec![],
            hoisted: vec![],
            owners: HashMap::new(),
            shared: HashSet::new(),
            copies: vec![],
            ahead: HashMap::new(),
            counts: vec![],
            span: None,
        }
    }

    fn cannot(&self, what: &str) -> IrError {
        let (kernel, what) = (self.kernel.name.to_string(), what.to_string());
        IrError { span: None, kind: IrErrorKind::Unexpandable { kernel, what } }
    }

    /// What a value stands for.
    fn tile(&self, v: ValueId) -> Result<TileRef> {
        let known = self.env.get(v.0 as usize).and_then(|t| t.clone());
        known.ok_or_else(|| self.cannot("a value used before its definition"))
    }

    fn bind(&mut self, v: ValueId, tile: TileRef) {
        self.env[v.0 as usize] = Some(tile);
    }

    /// The register of a value of rank 0.
    fn scalar(&mut self, v: ValueId) -> Result<Reg> {
        let tile = self.tile(v)?;
        self.scalar_of(&tile)
    }

    /// A host-known size, as an I64.
    fn dim(&mut self, dim: &Dim) -> Reg {
        let mut sum = self.em.int(0);
        let terms: Vec<_> = dim.terms().collect();
        for (atoms, coefficient) in terms {
            let mut product = self.em.int(coefficient);
            for atom in atoms {
                let factor = self.atom(atom);
                product = self.em.mul(product, factor);
            }
            sum = self.em.add(sum, product);
        }
        sum
    }

    fn atom(&mut self, atom: &Atom) -> Reg {
        match atom {
            Atom::Symbol(name) => {
                let symbol = self.kernel.symbols.get(name);
                if let Some(value) = symbol.and_then(|s| s.value) {
                    return self.em.int(value);
                }
                let at = self.kernel.symbols.keys().position(|s| s == name).unwrap_or(0);
                let index = (self.kernel.params.len() + at) as u32;
                self.em.inst(crate::loops::Elem::I64, 1, Inst::Argument(index))
            }
            Atom::FloorDiv(d, by) => {
                let d = self.dim(d);
                self.floor_div(d, *by)
            }
            Atom::CeilDiv(d, by) => {
                let d = self.dim(d);
                let up = self.em.add_imm(d, by - 1);
                self.floor_div(up, *by)
            }
            Atom::Min(d, c) => {
                let (d, c) = (self.dim(d), self.em.int(*c));
                self.em.min(d, c)
            }
            Atom::Max(d, c) => {
                let (d, c) = (self.dim(d), self.em.int(*c));
                self.em.max(d, c)
            }
        }
    }

    /// Rounded down; `by` is positive.
    fn floor_div(&mut self, a: Reg, by: i64) -> Reg {
        if let Some(v) = self.em.constant(a) {
            return self.em.int(v.div_euclid(by));
        }
        if by.count_ones() == 1 {
            return self.em.arith_imm(Arith::ShrS, a, by.trailing_zeros().into());
        }
        let quotient = self.em.arith_imm(Arith::Div, a, by);
        let product = self.em.mul_imm(quotient, by);
        let above = self.em.cmp(Cmp::Gt, product, a);
        let less = self.em.add_imm(quotient, -1);
        self.em.select(above, less, quotient)
    }

    fn param_layout(&mut self, p: ParamId) -> Rc<Layout> {
        self.layouts[&p].clone()
    }

    /// One operation.
    fn define(&mut self, result: ValueId, op: &'k Op) -> Result<()> {
        let tile = self.operation(result, op)?;
        let tile = if tile.shape.is_empty() && !matches!(op, Op::Alloc) {
            let reg = self.scalar_of(&tile)?;
            Tile::scalar(tile.dtype, reg)
        } else if self.keeps(result, op, &tile) {
            if !self.uses.once(result) {
                // What it reads must last until its last use.
                self.share(&tile);
            }
            tile
        } else {
            let rows = if tile.gathers_rows() { self.seen_rows(result)? } else { None };
            let copy = self.copied_rows(&tile, rows)?;
            self.own(&copy, result);
            copy
        };
        self.bind(result, tile);
        Ok(())
    }

    /// Whether a tile is left as it is, rather than put into scratch.
    fn keeps(&self, result: ValueId, op: &Op, tile: &TileRef) -> bool {
        if self.uses.once(result) {
            return true;
        }
        match (&tile.kind, op) {
            (Kind::View(v), _) => v.axes.iter().all(|a| a.gather.is_none()),
            (Kind::Coded(_), Op::Load { keep, .. }) => *keep,
            (Kind::Coded(_), Op::Encode(_)) => true,
            _ => tile.weight() <= 2,
        }
    }

    /// Notes whose buffer a tile is.
    fn own(&mut self, tile: &TileRef, value: ValueId) {
        if let Kind::View(v) = &tile.kind
            && let tile::Origin::Buffer(id) = v.place.origin
        {
            self.owners.insert(id, value);
        }
    }

    /// A buffer that another value speaks of from now on must not be changed in place.
    fn share(&mut self, tile: &TileRef) {
        if let Kind::View(v) = &tile.kind
            && let tile::Origin::Buffer(id) = v.place.origin
        {
            self.shared.insert(id);
        }
        for child in tile.children() {
            self.share(child);
        }
    }

    fn operation(&mut self, result: ValueId, op: &'k Op) -> Result<TileRef> {
        let ty = self.kernel.ty(result);
        let (dtype, shape) = (ty.encoding.decoded(), &ty.shape);
        match op {
            Op::Splat(v) => Ok(Tile::new(dtype, shape, Kind::Splat(*v))),
            Op::Iota { axis } => Ok(Tile::new(dtype, shape, Kind::Iota(*axis as usize))),
            Op::Map { args, expr } => {
                let args = args.iter().map(|a| self.operand(*a, shape.len()));
                let args = args.collect::<Result<Vec<_>>>()?;
                Ok(Tile::new(dtype, shape, Kind::Map { args, expr: expr.clone() }))
            }
            Op::Where { cond, a, b } => {
                let rank = shape.len();
                let parts =
                    [self.operand(*cond, rank)?, self.operand(*a, rank)?, self.operand(*b, rank)?];
                Ok(Tile::new(dtype, shape, Kind::Where(parts)))
            }
            Op::Cast(a) => {
                let arg = self.tile(*a)?;
                Ok(Tile::new(dtype, shape, Kind::Cast(arg)))
            }
            Op::Dim(d) => {
                let reg = self.dim(d);
                let reg = self.em.convert(crate::loops::Convert::I64ToI32, reg);
                Ok(Tile::scalar(dtype, reg))
            }
            Op::Decode(a) => self.tile(*a),
            Op::Encode(a) => self.encode(*a, ty),
            Op::Load { access, .. } => self.access(access),
            Op::Alloc => self.alloc(result),
            Op::Reduce { fold, axis, arg } => self.reduce(result, *fold, *axis as usize, *arg),
            Op::Scan { fold, axis, arg } => self.scan(result, *fold, *axis as usize, *arg),
            Op::Mma { acc, a, b } => self.product(result, *acc, *a, *b),
            Op::TopK { arg, mask, k } => self.topk(result, *arg, *mask, *k),
            Op::Pick { arg, index } => self.pick(result, *arg, *index),
            Op::Place { arg, index } => self.place_at(result, *arg, *index),
            Op::Lookup { arg, table } => self.lookup(result, *arg, table),
            Op::Concat { args, axis } => self.concat(result, args, *axis as usize),
            Op::Transpose { arg, order } => self.change(*arg, &Reshape::Transpose(order)),
            Op::Slice { arg, starts } => self.change(*arg, &Reshape::Slice(starts, shape)),
            Op::Broadcast { arg, axis } => {
                let axis = *axis as usize;
                self.change(*arg, &Reshape::Broadcast(axis, shape[axis]))
            }
            Op::Split { arg, .. } | Op::Merge { arg, .. } => {
                let tile = self.tile(*arg)?;
                let tile = self.rearranged(&tile, shape)?;
                self.share(&tile);
                Ok(tile)
            }
        }
    }

    fn change(&mut self, arg: ValueId, change: &Reshape) -> Result<TileRef> {
        let tile = self.tile(arg)?;
        let tile = self.reshaped(&tile, change)?;
        self.share(&tile);
        Ok(tile)
    }

    /// An operand of an element-wise operation of a rank; one of lower rank is evaluated many
    /// times, so it is kept in scratch unless that is trivial.
    fn operand(&mut self, v: ValueId, rank: usize) -> Result<TileRef> {
        let tile = self.tile(v)?;
        let lower = !tile.shape.is_empty() && tile.shape.len() < rank;
        if lower && tile.weight() > 2 { self.force(&tile) } else { Ok(tile) }
    }

    fn alloc(&mut self, result: ValueId) -> Result<TileRef> {
        let ty = self.kernel.ty(result);
        if !ty.encoding.is_plain() {
            return Err(self.cannot("scratch of a scaled encoding"));
        }
        let (id, _) = self.fresh(ty.encoding.code, &ty.shape);
        // What is stored in one iteration of a loop is read in the next.
        self.em.scratch.touch(id);
        let base = Some(crate::kernel::Base::Scratch(result));
        Ok(Tile::buffer(ty.encoding.code, &ty.shape, id, base))
    }

    /// Layouts of packed and encoded parameters, addresses of all, constant tables, zeros.
    fn prologue(&mut self) -> Result<()> {
        for i in 0..self.kernel.params.len() as u32 {
            let reg = self.em.inst(crate::loops::Elem::I64, 1, Inst::Argument(i));
            self.args.push(reg);
            if let ParamType::Tensor { encoding, dims, packing } =
                &self.kernel.params[i as usize].ty
                && (packing.is_some() || !encoding.is_plain() || encoding.code.bits() < 8)
            {
                let layout = self.layout(*encoding, dims, packing.as_ref());
                self.layouts.insert(ParamId(i), layout);
            }
        }
        let symbols: Vec<_> = self.kernel.symbols.keys().map(|s| Dim::symbol(s)).collect();
        symbols.iter().for_each(|s| {
            self.dim(s);
        });
        let zero = self.em.float(0.0);
        let zeros = self.em.buffer(self.zeros, 0);
        let wide = self.em.wide(zero);
        for i in 0..16 / i64::from(self.em.lanes.min(16)) {
            let offset = i * 4 * i64::from(self.em.lanes);
            self.em.store(crate::loops::MemElem::F32, zeros, offset, wide);
        }
        self.fill_tables();
        Ok(())
    }
}

/// The operation that combines two elements.
fn fold_arith(fold: Fold) -> Arith {
    match fold {
        Fold::Add => Arith::Add,
        Fold::Max => Arith::Max,
        Fold::Min => Arith::Min,
    }
}
