//! A loop program to a function of LLVM IR.

mod inst;

use crate::code::{Code, Ty, Val};
use crate::error::LlvmError;
use crate::mma::{Operands, Products};
use inkwell::IntPredicate;
use inkwell::attributes::AttributeLoc;
use ir::loops::{Elem, For, Inst, Mma, Program, Reg, RegType, Right, Scales, Stmt, Stride};
use std::collections::BTreeMap;

/// A scalar of 64 bits.
const I64: RegType = RegType { elem: Elem::I64, lanes: 1 };
/// A scalar of 32 bits.
const I32: RegType = RegType { elem: Elem::I32, lanes: 1 };
/// A truth value.
const BOOL: RegType = RegType { elem: Elem::Bool, lanes: 1 };

/// Emits a program into the module; gives the scratch it needs, in bytes.
///
/// # Errors
/// [`LlvmError::Malformed`] if the program breaks the rules of loop IR, [`LlvmError::Product`] if a
/// product has no lowering.
pub(crate) fn emit(code: &Code<'_>, program: &Program) -> Result<u64, LlvmError> {
    let mut products = Vec::new();
    let mut arguments = BTreeMap::new();
    walk(&program.body, &mut |s| match s {
        Stmt::Mma(mma) => products.push(&**mma),
        Stmt::Let(_, Inst::Argument(i)) => {
            arguments.insert(*i, None);
        }
        _ => {}
    });
    let products = Products::new(code, program, &products)?;
    let mut e = Emitter {
        code,
        program,
        regs: vec![None; program.regs.len()],
        arguments,
        params: Vec::new(),
        products: &products,
    };
    e.function()?;
    Ok(products.scratch_bytes())
}

/// Calls `f` on every statement, outer before inner.
pub(crate) fn walk<'p>(stmts: &'p [Stmt], f: &mut impl FnMut(&'p Stmt)) {
    for s in stmts {
        f(s);
        match s {
            Stmt::For(l) => walk(&l.body, f),
            Stmt::If { then, otherwise, .. } => {
                walk(then, f);
                walk(otherwise, f);
            }
            _ => {}
        }
    }
}

struct Emitter<'a, 'c> {
    code: &'a Code<'c>,
    program: &'a Program,
    regs: Vec<Option<Val<'c>>>,
    /// Loaded once, on entry.
    arguments: BTreeMap<u32, Option<Val<'c>>>,
    /// `args, begin, end, scratch`
    params: Vec<Val<'c>>,
    products: &'a Products<'c>,
}

impl<'c> Emitter<'_, 'c> {
    fn function(&mut self) -> Result<(), LlvmError> {
        let c = self.code;
        let types = [c.ptr(), c.i64(), c.i64(), c.ptr()];
        let f = c.function(&self.program.name, &types, true);
        for at in [0, 3] {
            c.mark(f, AttributeLoc::Param(at), "noalias");
        }
        self.params = f.get_param_iter().collect();
        for (i, value) in &mut self.arguments {
            let slot = c.off(self.params[0], i64::from(*i) * 8);
            *value = Some(c.load_invariant(c.i64(), slot, 8));
        }
        self.products.enter(c, self.params[3]);
        self.stmts(&self.program.body)?;
        self.products.leave(c);
        c.ret();
        Ok(())
    }

    fn malformed(&self, found: impl Into<String>, expected: impl Into<String>) -> LlvmError {
        LlvmError::Malformed {
            kernel: self.program.name.to_string(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    /// The type of a register in LLVM.
    fn llvm_type(&self, t: RegType) -> Ty<'c> {
        let c = self.code;
        let scalar = match t.elem {
            Elem::F32 => c.f32(),
            Elem::F64 => c.f64(),
            Elem::I32 => c.i32(),
            Elem::I64 => c.i64(),
            Elem::Bool => c.i1(),
        };
        c.vec(scalar, t.lanes)
    }

    /// The declared type of a register.
    fn type_of(&self, r: Reg) -> Result<RegType, LlvmError> {
        let t = self.program.regs.get(r.0 as usize).copied();
        let t = t.ok_or_else(|| self.malformed(format!("register {}", r.0), "a declared one"))?;
        if !t.lanes.is_power_of_two() || t.lanes > 64 {
            let found = format!("{} lanes in register {}", t.lanes, r.0);
            return Err(self.malformed(found, "a power of two up to 64"));
        }
        Ok(t)
    }

    /// A register's value.
    fn get(&self, r: Reg) -> Result<Val<'c>, LlvmError> {
        self.type_of(r)?;
        self.regs[r.0 as usize]
            .ok_or_else(|| self.malformed(format!("use of register {}", r.0), "its definition"))
    }

    /// A register's value, if it has the type.
    fn get_as(&self, r: Reg, t: RegType) -> Result<Val<'c>, LlvmError> {
        let found = self.type_of(r)?;
        if found != t {
            let found = format!("register {} of type {found:?}", r.0);
            return Err(self.malformed(found, format!("{t:?}")));
        }
        self.get(r)
    }

    fn define(&mut self, r: Reg, v: Val<'c>) -> Result<(), LlvmError> {
        let t = self.type_of(r)?;
        if v.get_type() != self.llvm_type(t) {
            let found = format!("a value of another type for register {}", r.0);
            return Err(self.malformed(found, format!("{t:?}")));
        }
        self.regs[r.0 as usize] = Some(v);
        Ok(())
    }

    fn stmts(&mut self, stmts: &[Stmt]) -> Result<(), LlvmError> {
        stmts.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, s: &Stmt) -> Result<(), LlvmError> {
        let c = self.code;
        match s {
            Stmt::Let(r, inst) => {
                let t = self.type_of(*r)?;
                let v = self.inst(t, inst)?;
                self.define(*r, v)
            }
            Stmt::Store { elem, address, offset, value } => {
                let t = self.type_of(*value)?;
                let (v, p) = (self.get(*value)?, self.place(*address, *offset)?);
                self.store(*elem, t, v, p)
            }
            Stmt::Prefetch { address, offset } => {
                c.prefetch(self.place(*address, *offset)?);
                Ok(())
            }
            Stmt::For(l) => self.for_loop(l),
            Stmt::If { cond, then, otherwise } => {
                let cond = self.get_as(*cond, BOOL)?;
                let (yes, no, after) = (c.block("then"), c.block("otherwise"), c.block("after"));
                c.branch_if(cond, yes, no);
                for (block, body) in [(yes, then), (no, otherwise)] {
                    c.position(block);
                    self.stmts(body)?;
                    c.branch(after);
                }
                c.position(after);
                Ok(())
            }
            Stmt::Mma(m) => self.mma(m),
        }
    }

    /// `address + offset` as a pointer.
    fn place(&self, address: Reg, offset: i64) -> Result<Val<'c>, LlvmError> {
        let c = self.code;
        Ok(c.off(c.pointer(self.get_as(address, I64)?), offset))
    }

    fn for_loop(&mut self, l: &For) -> Result<(), LlvmError> {
        if l.step <= 0 {
            return Err(self.malformed(format!("a loop of step {}", l.step), "a positive step"));
        }
        let span = (self.get_as(l.lo, I64)?, self.get_as(l.hi, I64)?, l.step);
        let mut init = Vec::new();
        for carry in &l.carry {
            let t = self.type_of(carry.inside)?;
            init.push(self.get_as(carry.init, t)?);
        }
        let mut failed = None;
        let after = self.code.for_loop(span, &init, |i, now| {
            self.body(l, i, now).unwrap_or_else(|e| {
                failed = Some(e);
                now.to_vec()
            })
        });
        if let Some(e) = failed {
            return Err(e);
        }
        l.carry.iter().zip(after).try_for_each(|(c, v)| self.define(c.after, v))
    }

    /// An iteration: gives the next values of what is carried.
    fn body(&mut self, l: &For, i: Val<'c>, now: &[Val<'c>]) -> Result<Vec<Val<'c>>, LlvmError> {
        self.define(l.var, i)?;
        for (c, v) in l.carry.iter().zip(now) {
            self.define(c.inside, *v)?;
        }
        self.stmts(&l.body)?;
        l.carry.iter().map(|c| self.get_as(c.next, self.type_of(c.inside)?)).collect()
    }

    fn mma(&mut self, m: &Mma) -> Result<(), LlvmError> {
        let c = self.code;
        let pointer = |r: Reg| Ok(c.pointer(self.get_as(r, I64)?));
        let valid = |r: Option<Reg>, all: u32| match r {
            None => Ok(c.c64(all.into())),
            Some(r) => {
                let v = c.sext(self.get_as(r, I32)?, c.i64());
                Ok(c.smin(c.smax(v, c.c64(0)), c.c64(all.into())))
            }
        };
        let distance = |s: Stride| match s {
            Stride::Bytes(b) => Ok(c.c64(b)),
            Stride::Reg(r) => self.get_as(r, I64),
        };
        let (right, right_pitch, right_step, scales) = match &m.right {
            Right::Strided { at, .. } => {
                (pointer(at.address)?, distance(at.row)?, distance(at.col)?, None)
            }
            Right::Blocked { address, block_bytes, scales, .. }
            | Right::Units { address, block_bytes, scales, .. } => {
                let pitch = self.get_as(*block_bytes, I64)?;
                (pointer(*address)?, pitch, c.c64(0), scales.as_ref())
            }
        };
        let grid = |s: &Scales| {
            Ok([
                pointer(s.address)?,
                self.get_as(s.per_row, I64)?,
                c.sext(self.get_as(s.first_row, I32)?, c.i64()),
                c.sext(self.get_as(s.first_col, I32)?, c.i64()),
            ])
        };
        let left_sums = m.left.scales.and_then(|s| s.sums);
        let o = Operands {
            acc: pointer(m.acc.address)?,
            acc_pitch: distance(m.acc.row)?,
            left: pointer(m.left.at.address)?,
            left_pitch: distance(m.left.at.row)?,
            left_step: distance(m.left.at.col)?,
            right,
            right_pitch,
            right_step,
            scales: scales.map(grid).transpose()?,
            left_scales: m.left.scales.as_ref().map(grid).transpose()?,
            left_sums: left_sums.map(pointer).transpose()?,
            ahead: match m.ahead {
                None => None,
                Some(a) => Some((pointer(a.address)?, distance(a.pitch)?)),
            },
            valid: [valid(m.m_valid, m.m)?, valid(m.n_valid, m.n)?, valid(m.k_valid, m.k)?],
        };
        self.products.call(c, m, &o, self.params[3]);
        Ok(())
    }

    /// Lanes of a vector combined two halves at a time.
    fn across(&self, v: Val<'c>, lanes: u32, f: impl Fn(Val<'c>, Val<'c>) -> Val<'c>) -> Val<'c> {
        let c = self.code;
        let (mut v, mut n) = (v, lanes);
        while n > 1 {
            n /= 2;
            let low: Vec<u32> = (0..n).collect();
            let high: Vec<u32> = (n..2 * n).collect();
            v = f(c.shuffle(v, v, &low), c.shuffle(v, v, &high));
        }
        if lanes == 1 { v } else { c.extract(v, 0) }
    }

    /// `a != 0`.
    fn nonzero(&self, a: Val<'c>) -> Val<'c> {
        self.code.icmp(IntPredicate::NE, a, self.code.zero(a.get_type()))
    }
}
