//! Emission of loop IR: registers, nested blocks, folding and sharing of what has been computed.

use super::scratch::{BufferId, Scratch};
use crate::loops::{
    Arith, Carry, Cmp, Convert, Elem, For, Func, Inst, MemElem, Mma, Reg, RegType, Stmt,
};
use std::collections::HashMap;

/// What identifies a pure instruction: its kind, operands and immediate.
type Key = (u32, u32, [u32; 3], u64, RegType);

/// A block under construction, with what it (and so whatever is nested in it) has computed.
#[derive(Default)]
struct Block {
    stmts: Vec<Stmt>,
    known: HashMap<Key, Reg>,
}

/// Builds the statements of a program.
pub(super) struct Emitter {
    /// Types of the registers so far.
    pub regs: Vec<RegType>,
    /// Vector width.
    pub lanes: u32,
    /// Buffers in scratch.
    pub scratch: Scratch,
    blocks: Vec<Block>,
    constants: HashMap<Reg, i64>,
}

/// A counted loop whose body is being emitted.
pub(super) struct OpenFor {
    var: Reg,
    lo: Reg,
    hi: Reg,
    step: i64,
    carry: Vec<(Reg, Reg)>,
}

impl Emitter {
    pub fn new(lanes: u32) -> Self {
        Emitter {
            regs: vec![],
            lanes,
            scratch: Scratch::default(),
            blocks: vec![Block::default()],
            constants: HashMap::new(),
        }
    }

    /// Continues a program's registers, for lowering one statement of it.
    pub fn resume(lanes: u32, regs: Vec<RegType>) -> Self {
        Emitter { regs, ..Emitter::new(lanes) }
    }

    pub fn ty(&self, reg: Reg) -> RegType {
        self.regs[reg.0 as usize]
    }

    pub fn is_wide(&self, reg: Reg) -> bool {
        self.ty(reg).lanes > 1
    }

    /// The register's value, where it is an integer constant.
    pub fn constant(&self, reg: Reg) -> Option<i64> {
        self.constants.get(&reg).copied()
    }

    fn fresh(&mut self, ty: RegType) -> Reg {
        self.regs.push(ty);
        Reg(self.regs.len() as u32 - 1)
    }

    /// Appends a statement to the open block.
    pub fn push(&mut self, stmt: Stmt) {
        self.scratch.advance();
        self.blocks.last_mut().expect("a block is open").stmts.push(stmt);
    }

    /// Defines a register, or finds the one that holds the same already.
    pub fn inst(&mut self, elem: Elem, lanes: u32, inst: Inst) -> Reg {
        let ty = RegType { elem, lanes };
        let key = key(&inst, ty);
        if let Some(key) = key
            && let Some(reg) = self.blocks.iter().rev().find_map(|b| b.known.get(&key))
        {
            return *reg;
        }
        let reg = self.fresh(ty);
        if let Inst::Int(v) = inst {
            self.constants.insert(reg, v);
        }
        self.push(Stmt::Let(reg, inst));
        if let Some(key) = key {
            self.blocks.last_mut().expect("a block is open").known.insert(key, reg);
        }
        reg
    }

    /// An address or index constant.
    pub fn int(&mut self, value: i64) -> Reg {
        self.inst(Elem::I64, 1, Inst::Int(value))
    }

    /// An `i32` constant.
    pub fn int32(&mut self, value: i64) -> Reg {
        self.inst(Elem::I32, 1, Inst::Int(value))
    }

    /// An `f32` constant.
    pub fn float(&mut self, value: f64) -> Reg {
        self.inst(Elem::F32, 1, Inst::Float(value))
    }

    /// A constant of another register's type.
    pub fn like(&mut self, reg: Reg, value: f64) -> Reg {
        let RegType { elem, lanes } = self.ty(reg);
        match elem {
            Elem::F32 | Elem::F64 => self.inst(elem, lanes, Inst::Float(value)),
            _ => self.inst(elem, lanes, Inst::Int(value as i64)),
        }
    }

    /// An integer constant with as many lanes as another register.
    pub fn int_like(&mut self, reg: Reg, value: i64) -> Reg {
        let lanes = self.ty(reg).lanes;
        self.inst(Elem::I32, lanes, Inst::Int(value))
    }

    /// Makes two registers equally wide.
    pub fn level(&mut self, a: Reg, b: Reg) -> (Reg, Reg) {
        match (self.is_wide(a), self.is_wide(b)) {
            (true, false) => (a, self.wide(b)),
            (false, true) => (self.wide(a), b),
            _ => (a, b),
        }
    }

    /// The register in every lane, if it is a scalar.
    pub fn wide(&mut self, reg: Reg) -> Reg {
        let RegType { elem, lanes } = self.ty(reg);
        if lanes > 1 || self.lanes == 1 {
            return reg;
        }
        match self.constant(reg) {
            Some(v) => self.inst(elem, self.lanes, Inst::Int(v)),
            None => self.inst(elem, self.lanes, Inst::Splat(reg)),
        }
    }

    /// Two operands, made equally wide; integer scalars fold.
    pub fn arith(&mut self, op: Arith, a: Reg, b: Reg) -> Reg {
        let (a, b) = self.level(a, b);
        let ty = self.ty(a);
        if ty.lanes == 1
            && matches!(ty.elem, Elem::I32 | Elem::I64)
            && let Some(reg) = self.fold(op, a, b, ty.elem)
        {
            return reg;
        }
        self.inst(ty.elem, ty.lanes, Inst::Arith(op, a, b))
    }

    fn fold(&mut self, op: Arith, a: Reg, b: Reg, elem: Elem) -> Option<Reg> {
        let (x, y) = (self.constant(a), self.constant(b));
        match (op, x, y) {
            (Arith::Add, Some(0), _) | (Arith::Mul, Some(1), _) => return Some(b),
            (Arith::Add | Arith::Sub, _, Some(0)) => return Some(a),
            (Arith::Mul | Arith::Div, _, Some(1)) => return Some(a),
            (Arith::Mul, _, Some(0)) | (Arith::Mul, Some(0), _) => {
                return Some(self.inst(elem, 1, Inst::Int(0)));
            }
            (Arith::Min | Arith::Max, ..) if a == b => return Some(a),
            _ => {}
        }
        let (x, y) = (x?, y?);
        let value = match op {
            Arith::Add => x.checked_add(y)?,
            Arith::Sub => x.checked_sub(y)?,
            Arith::Mul => x.checked_mul(y)?,
            Arith::Div => x.checked_div(y)?,
            Arith::Rem => x.checked_rem(y)?,
            Arith::Min => x.min(y),
            Arith::Max => x.max(y),
            _ => return None,
        };
        let fits = elem == Elem::I64 || i32::try_from(value).is_ok();
        fits.then(|| self.inst(elem, 1, Inst::Int(value)))
    }

    pub fn add(&mut self, a: Reg, b: Reg) -> Reg {
        self.arith(Arith::Add, a, b)
    }

    pub fn sub(&mut self, a: Reg, b: Reg) -> Reg {
        self.arith(Arith::Sub, a, b)
    }

    pub fn mul(&mut self, a: Reg, b: Reg) -> Reg {
        self.arith(Arith::Mul, a, b)
    }

    pub fn min(&mut self, a: Reg, b: Reg) -> Reg {
        self.arith(Arith::Min, a, b)
    }

    pub fn max(&mut self, a: Reg, b: Reg) -> Reg {
        self.arith(Arith::Max, a, b)
    }

    pub fn and(&mut self, a: Reg, b: Reg) -> Reg {
        self.arith(Arith::And, a, b)
    }

    /// An integer operation with a constant.
    pub fn arith_imm(&mut self, op: Arith, a: Reg, value: i64) -> Reg {
        let RegType { elem, lanes } = self.ty(a);
        let b = self.inst(elem, lanes, Inst::Int(value));
        self.arith(op, a, b)
    }

    pub fn add_imm(&mut self, a: Reg, value: i64) -> Reg {
        self.arith_imm(Arith::Add, a, value)
    }

    pub fn mul_imm(&mut self, a: Reg, value: i64) -> Reg {
        self.arith_imm(Arith::Mul, a, value)
    }

    /// `a * b + c`, made equally wide.
    pub fn fma(&mut self, a: Reg, b: Reg, c: Reg) -> Reg {
        let (a, b) = self.level(a, b);
        let (a, c) = self.level(a, c);
        let (b, c) = self.level(b, c);
        let ty = self.ty(a);
        self.inst(ty.elem, ty.lanes, Inst::Fma(a, b, c))
    }

    pub fn func(&mut self, f: Func, a: Reg) -> Reg {
        let ty = self.ty(a);
        self.inst(ty.elem, ty.lanes, Inst::Func(f, a))
    }

    pub fn convert(&mut self, c: Convert, a: Reg) -> Reg {
        let elem = match c {
            Convert::I32ToF32 | Convert::F64ToF32 | Convert::I32Bits => Elem::F32,
            Convert::F32ToI32 | Convert::I64ToI32 | Convert::BoolToI32 | Convert::F32Bits => {
                Elem::I32
            }
            Convert::F32ToF64 | Convert::I64ToF64 => Elem::F64,
            Convert::F64ToI64 | Convert::I32ToI64 => Elem::I64,
            Convert::I32ToBool => Elem::Bool,
        };
        if let (Convert::I32ToI64 | Convert::I64ToI32, Some(v)) = (c, self.constant(a)) {
            return self.inst(elem, 1, Inst::Int(v));
        }
        let lanes = self.ty(a).lanes;
        self.inst(elem, lanes, Inst::Convert(c, a))
    }

    /// The bits of a float, as an integer.
    pub fn bits(&mut self, a: Reg) -> Reg {
        self.convert(Convert::F32Bits, a)
    }

    /// The float of some bits.
    pub fn float_of(&mut self, a: Reg) -> Reg {
        self.convert(Convert::I32Bits, a)
    }

    pub fn cmp(&mut self, c: Cmp, a: Reg, b: Reg) -> Reg {
        let (a, b) = self.level(a, b);
        let lanes = self.ty(a).lanes;
        self.inst(Elem::Bool, lanes, Inst::Cmp(c, a, b))
    }

    pub fn select(&mut self, c: Reg, a: Reg, b: Reg) -> Reg {
        let (a, b) = self.level(a, b);
        let (c, a) = self.level(c, a);
        let (c, b) = self.level(c, b);
        let ty = self.ty(a);
        self.inst(ty.elem, ty.lanes, Inst::Select(c, a, b))
    }

    /// Combines the lanes of a vector.
    pub fn across(&mut self, op: Arith, a: Reg) -> Reg {
        let ty = self.ty(a);
        if ty.lanes == 1 { a } else { self.inst(ty.elem, 1, Inst::Across(op, a)) }
    }

    pub fn load(&mut self, mem: MemElem, wide: bool, address: Reg, offset: i64) -> Reg {
        let elem = match mem {
            MemElem::F32 => Elem::F32,
            MemElem::I64 => Elem::I64,
            _ => Elem::I32,
        };
        let lanes = if wide { self.lanes } else { 1 };
        self.inst(elem, lanes, Inst::Load { elem: mem, address, offset })
    }

    pub fn store(&mut self, elem: MemElem, address: Reg, offset: i64, value: Reg) {
        self.push(Stmt::Store { elem, address, offset, value });
    }

    /// Address of a buffer plus a constant; marks the buffer as live here.
    pub fn buffer(&mut self, id: BufferId, offset: u64) -> Reg {
        self.scratch.touch(id);
        self.inst(Elem::I64, 1, Inst::Scratch(Scratch::reference(id, offset)))
    }

    /// Opens a loop; registers to carry begin as `init`, and are returned as the body sees them.
    pub fn open_for(&mut self, lo: Reg, hi: Reg, step: i64, init: &[Reg]) -> (OpenFor, Vec<Reg>) {
        let var = self.fresh(RegType { elem: Elem::I64, lanes: 1 });
        let inside: Vec<Reg> = init.iter().map(|r| self.fresh(self.ty(*r))).collect();
        self.blocks.push(Block::default());
        self.scratch.enter();
        let carry = init.iter().copied().zip(inside.iter().copied()).collect();
        (OpenFor { var, lo, hi, step, carry }, inside)
    }

    /// Closes it; gives the carried registers after the loop.
    pub fn close_for(&mut self, open: OpenFor, next: &[Reg]) -> Vec<Reg> {
        let body = self.blocks.pop().expect("the loop's block is open").stmts;
        self.scratch.leave();
        let mut carry = vec![];
        for ((init, inside), next) in open.carry.into_iter().zip(next) {
            let after = self.fresh(self.ty(inside));
            carry.push(Carry { inside, init, next: *next, after });
        }
        let after = carry.iter().map(|c| c.after).collect();
        let OpenFor { var, lo, hi, step, .. } = open;
        self.push(Stmt::For(For { var, lo, hi, step, carry, body }));
        after
    }

    /// Opens a block whose statements [`Emitter::close_block`] returns.
    pub fn open_block(&mut self) {
        self.blocks.push(Block::default());
    }

    pub fn close_block(&mut self) -> Vec<Stmt> {
        self.blocks.pop().expect("a block is open").stmts
    }

    pub fn branch(&mut self, cond: Reg, then: Vec<Stmt>, otherwise: Vec<Stmt>) {
        self.push(Stmt::If { cond, then, otherwise });
    }

    pub fn mma(&mut self, mma: Mma) {
        self.push(Stmt::Mma(Box::new(mma)));
    }

    /// The statements of the outermost block, and the registers.
    pub fn finish(mut self) -> (Vec<Stmt>, Vec<RegType>, Scratch) {
        let block = self.blocks.pop().expect("the outermost block is open");
        (block.stmts, self.regs, self.scratch)
    }
}

impl OpenFor {
    /// The loop's variable.
    pub fn var(&self) -> Reg {
        self.var
    }
}

/// `None` for what depends on memory.
fn key(inst: &Inst, ty: RegType) -> Option<Key> {
    let none = [u32::MAX; 3];
    let one = |a: &Reg| [a.0, u32::MAX, u32::MAX];
    let two = |a: &Reg, b: &Reg| [a.0, b.0, u32::MAX];
    let (kind, sub, regs, imm) = match inst {
        Inst::Float(v) => (0, 0, none, v.to_bits()),
        Inst::Int(v) => (1, 0, none, *v as u64),
        Inst::Begin => (2, 0, none, 0),
        Inst::End => (3, 0, none, 0),
        Inst::Scratch(v) => (4, 0, none, *v),
        Inst::Argument(i) => (5, *i, none, 0),
        Inst::Arith(op, a, b) => (6, *op as u32, two(a, b), 0),
        Inst::Fma(a, b, c) => (7, 0, [a.0, b.0, c.0], 0),
        Inst::Func(f, a) => (8, *f as u32, one(a), 0),
        Inst::Convert(c, a) => (9, *c as u32, one(a), 0),
        Inst::Cmp(c, a, b) => (10, *c as u32, two(a, b), 0),
        Inst::Select(c, a, b) => (11, 0, [c.0, a.0, b.0], 0),
        Inst::Splat(a) => (12, 0, one(a), 0),
        Inst::Iota => (13, 0, none, 0),
        Inst::Extract(a, lane) => (14, *lane, one(a), 0),
        Inst::Across(op, a) => (15, *op as u32, one(a), 0),
        Inst::Load { .. } => return None,
    };
    Some((kind, sub, regs, imm, ty))
}
