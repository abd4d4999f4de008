//! Tile products as micro-kernels, written by code for each form of product and level.
//!
//! A product becomes one internal function, shared by all products of its form in the kernel. It
//! copies what does not lie as the multiplier wants it (the left operand: [`left`], the right:
//! [`panel`]) and runs register blocks over the rest ([`block`], [`tile`]). Codes by codes are
//! multiplied as integers ([`integer`]).

mod ahead;
mod along;
mod block;
mod decode;
mod emulate;
mod form;
mod integer;
mod left;
mod lowering;
mod panel;
mod plan;
mod scale;
mod tile;

use crate::code::{Code, Ty, Val};
use crate::error::LlvmError;
use crate::isa::{Isa, Tiles};
use form::{Form, RightForm};
use inkwell::attributes::AttributeLoc;
use inkwell::values::FunctionValue;
use ir::loops::{Mma, Program};
use lowering::Lowering;
use plan::{Plan, Unit};

/// Bytes of a cache line.
const LINE: u32 = 64;
/// Bytes of a page: rows that far apart share one set of the first-level cache, and prefetchers of
/// the hardware do not look beyond.
const PAGE: u32 = 4096;

/// Whether a product has a lowering here: for `expand`, which spells out all others.
pub(crate) fn claims(m: &Mma, isa: &Isa) -> bool {
    Planned::of(m, isa).is_some()
}

/// Whether a product goes to tile registers.
pub(crate) fn is_tiled(m: &Mma, isa: &Isa) -> bool {
    Planned::of(m, isa).is_some_and(|p| p.is_tiled())
}

/// Addresses, distances and valid extents of a product, as values.
#[derive(Clone, Debug)]
pub(crate) struct Operands<'c> {
    /// Pointer to the accumulator.
    pub acc: Val<'c>,
    /// I64: bytes from row to row.
    pub acc_pitch: Val<'c>,
    /// Pointer.
    pub left: Val<'c>,
    /// I64: bytes from row to row.
    pub left_pitch: Val<'c>,
    /// I64: bytes from k to k.
    pub left_step: Val<'c>,
    /// Pointer.
    pub right: Val<'c>,
    /// I64: bytes from column to column, or from block to block.
    pub right_pitch: Val<'c>,
    /// I64: bytes from k to k of plain memory.
    pub right_step: Val<'c>,
    /// Pointer, and as I64 scales in a row, first column, first k.
    pub scales: Option<[Val<'c>; 4]>,
    /// Pointer, and as I64 scales in a row, first row, first k, of the left operand.
    pub left_scales: Option<[Val<'c>; 4]>,
    /// Pointer: sums of the left operand's codes.
    pub left_sums: Option<Val<'c>>,
    /// Pointer to what is to be asked for, and as I64 bytes from run to run.
    pub ahead: Option<(Val<'c>, Val<'c>)>,
    /// I64: valid rows, columns, depth, from 0 to the tile's extents.
    pub valid: [Val<'c>; 3],
}

/// How a product is computed.
#[derive(Clone, Debug)]
enum Planned {
    Floats(Form, Plan),
    Integers(integer::Form, integer::Plan),
}

impl Planned {
    fn of(m: &Mma, isa: &Isa) -> Option<Planned> {
        if let Some(form) = integer::Form::of(m, isa) {
            let plan = integer::Plan::new(&form, isa);
            return Some(Planned::Integers(form, plan));
        }
        let form = Form::of(m)?;
        Some(Planned::Floats(form, Plan::new(&form, isa)))
    }

    /// Whether one function serves both.
    fn shares(&self, other: &Planned) -> bool {
        match (self, other) {
            (Planned::Floats(a, _), Planned::Floats(b, _)) => a == b,
            (Planned::Integers(a, _), Planned::Integers(b, _)) => a == b,
            _ => false,
        }
    }

    fn scratch(&self) -> u64 {
        match self {
            Planned::Floats(_, p) => p.scratch,
            Planned::Integers(_, p) => p.scratch,
        }
    }

    fn is_tiled(&self) -> bool {
        matches!(self, Planned::Floats(_, p) if p.unit == Unit::Tile)
    }
}

struct Product<'c> {
    planned: Planned,
    function: FunctionValue<'c>,
}

/// The products of a program.
pub(crate) struct Products<'c> {
    list: Vec<Product<'c>>,
    /// Where their scratch begins: after the program's own.
    scratch_at: u64,
    scratch_bytes: u64,
    /// Bytes before the scratch of a product: the state of emulated tile registers.
    state: u64,
    tiles: Option<tile::Registers<'c>>,
}

impl<'c> Products<'c> {
    /// Writes a function for each form of product of a program.
    ///
    /// # Errors
    /// [`LlvmError::Product`] if a product has no lowering, [`LlvmError::Malformed`] if its scratch
    /// would not fit an address.
    pub fn new(
        code: &Code<'c>,
        program: &Program,
        products: &[&Mma],
    ) -> Result<Products<'c>, LlvmError> {
        let mut planned: Vec<Planned> = Vec::new();
        for m in products {
            let one = Planned::of(m, code.isa).ok_or_else(|| LlvmError::Product {
                kernel: program.name.to_string(),
                product: format!("{} by {:?}", m.left.encoding, m.right),
                level: code.isa.name.to_owned(),
            })?;
            if !planned.iter().any(|p| p.shares(&one)) {
                planned.push(one);
            }
        }
        let tiled = planned.iter().any(Planned::is_tiled);
        let tiles = tiled.then(|| tile::Registers::new(code));
        let emulated = tiled && code.isa.tiles == Tiles::Emulated;
        let state = if emulated { emulate::STATE_BYTES } else { 0 };
        let own = planned.iter().map(Planned::scratch).max();
        let scratch_at = program.scratch_bytes.checked_next_multiple_of(64);
        let all = scratch_at.and_then(|at| at.checked_add(state)?.checked_add(own.unwrap_or(0)));
        let (Some(scratch_at), Some(all)) = (scratch_at, all.filter(|a| *a < 1 << 62)) else {
            return Err(LlvmError::Malformed {
                kernel: program.name.to_string(),
                found: format!("{} bytes of scratch", program.scratch_bytes),
                expected: "less than 2^62".to_owned(),
            });
        };
        let mut list = Vec::new();
        for (i, planned) in planned.into_iter().enumerate() {
            let name = format!("{}.mma{i}", program.name);
            let function = match &planned {
                Planned::Floats(form, plan) => function(code, &name, form, plan, tiles.as_ref()),
                Planned::Integers(form, plan) => integer::function(code, &name, form, plan),
            };
            list.push(Product { planned, function });
        }
        let scratch_bytes = if own.is_some() { all } else { program.scratch_bytes };
        Ok(Products { list, scratch_at, scratch_bytes, state, tiles })
    }

    /// Scratch of the program with its products, in bytes.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }

    /// What a kernel does first.
    pub fn enter(&self, c: &Code<'c>, scratch: Val<'c>) {
        if let Some(t) = &self.tiles {
            t.configure(c, c.off(scratch, self.scratch_at as i64));
        }
    }

    /// What a kernel does last.
    pub fn leave(&self, c: &Code<'c>) {
        if let Some(t) = &self.tiles {
            t.release(c);
        }
    }

    /// Calls the function of a product.
    pub fn call(&self, c: &Code<'c>, m: &Mma, o: &Operands<'c>, scratch: Val<'c>) {
        let planned = Planned::of(m, c.isa).expect("`new` refuses products without a plan");
        let p = self.list.iter().find(|p| p.planned.shares(&planned));
        let p = p.expect("`new` is given every product of the program");
        let own = c.off(scratch, (self.scratch_at + self.state) as i64);
        if let Planned::Integers(..) = planned {
            c.call_fn(p.function, &integer::arguments(c, o, own));
            return;
        }
        let none = c.c64(0);
        let scales = o.scales.unwrap_or([c.pointer(none), none, none, none]);
        let state = c.off(scratch, self.scratch_at as i64);
        let mut args =
            vec![o.acc, o.acc_pitch, o.left, o.left_pitch, o.right, o.right_pitch, own, state];
        args.extend(scales);
        args.extend(o.valid);
        args.extend([o.left_step, o.right_step]);
        let (ahead, pitch) = o.ahead.unwrap_or((c.pointer(none), none));
        args.extend([ahead, pitch]);
        c.call_fn(p.function, &args);
    }
}

/// Parameters that are pointers to what only this function touches while it runs, or only reads.
const ALONE: [u32; 5] = [0, 2, 4, 6, 8];

fn function<'c>(
    c: &Code<'c>,
    name: &str,
    form: &Form,
    plan: &Plan,
    tiles: Option<&tile::Registers<'c>>,
) -> FunctionValue<'c> {
    let (p, i) = (c.ptr(), c.i64());
    let types: Vec<Ty> = vec![p, i, p, i, p, i, p, p, p, i, i, i, i, i, i, i, i, p, i];
    let f = c.function(name, &types, false);
    c.mark(f, AttributeLoc::Function, "noinline");
    for at in ALONE {
        c.mark(f, AttributeLoc::Param(at), "noalias");
    }
    let a: Vec<Val> = f.get_param_iter().collect();
    let extent = |axis: usize, all: u32| {
        if form.ragged[axis] { a[12 + axis] } else { c.c64(all.into()) }
    };
    let step = |known: Option<i64>, given: Val<'c>| known.map_or(given, |s| c.c64(s));
    let right_step = match form.right {
        RightForm::Strided { step: known, .. } => step(known, a[16]),
        RightForm::Blocked { .. } => a[16],
    };
    let o = Operands {
        acc: a[0],
        acc_pitch: a[1],
        left: a[2],
        left_pitch: a[3],
        left_step: step(form.left_step, a[15]),
        right: a[4],
        right_pitch: a[5],
        right_step,
        scales: form.scale().map(|_| [a[8], a[9], a[10], a[11]]),
        left_scales: None,
        left_sums: None,
        ahead: form.ahead.map(|_| (a[17], a[18])),
        valid: [extent(0, form.m), extent(1, form.n), extent(2, form.k)],
    };
    let lowering = Lowering { c, form, plan, o, scratch: a[6], state: a[7], tiles };
    lowering.run();
    c.ret();
    f
}
