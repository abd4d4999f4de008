//! Checks of loop programs: every register is defined once, before its uses and in a block around
//! them, and types are what instructions take.

use super::{
    Ahead, Arith, Cmp, Convert, Elem, For, Func, Inst, MemElem, Mma, Nested, Program, Reg, RegType,
    Right, Scales, Stmt, Stride, Strided, Unit,
};
use crate::error::{IrError, IrErrorKind};

/// Checks a program.
///
/// # Errors
/// E0301, for the first thing found.
pub fn verify(program: &Program) -> Result<(), IrError> {
    let mut checker = Checker { program, defined: vec![false; program.regs.len()], scope: vec![] };
    checker.block(&program.body).map_err(|what| IrError {
        span: None,
        kind: IrErrorKind::Loops { program: program.name.to_string(), what },
    })
}

type Check = Result<(), String>;

struct Checker<'p> {
    program: &'p Program,
    /// Whether a register is in scope here.
    defined: Vec<bool>,
    /// Registers in the order of their definition, to be forgotten at the end of their block.
    scope: Vec<Reg>,
}

/// The register type in which an element of memory is held.
fn held(elem: MemElem) -> Elem {
    match elem {
        MemElem::F32 => Elem::F32,
        MemElem::I64 => Elem::I64,
        MemElem::I32 | MemElem::U16 | MemElem::U8 | MemElem::I8 => Elem::I32,
    }
}

fn scalar(elem: Elem) -> RegType {
    RegType { elem, lanes: 1 }
}

impl Checker<'_> {
    fn known(&self, reg: Reg) -> Result<RegType, String> {
        let ty = self.program.regs.get(reg.0 as usize);
        ty.copied().ok_or_else(|| format!("register {} has no type", reg.0))
    }

    fn ty(&self, reg: Reg) -> Result<RegType, String> {
        let ty = self.known(reg)?;
        match self.defined[reg.0 as usize] {
            true => Ok(ty),
            false => Err(format!("register {} is used where it is not defined", reg.0)),
        }
    }

    fn is(&self, reg: Reg, expected: RegType) -> Check {
        let found = self.ty(reg)?;
        match found == expected {
            true => Ok(()),
            false => Err(format!("register {} is {found:?}, expected {expected:?}", reg.0)),
        }
    }

    fn define(&mut self, reg: Reg) -> Check {
        let ty = self.known(reg)?;
        if self.defined[reg.0 as usize] {
            return Err(format!("register {} is defined twice", reg.0));
        }
        let vectors = matches!(ty.elem, Elem::F32 | Elem::I32 | Elem::Bool);
        if ty.lanes != 1 && (ty.lanes != self.program.lanes || !vectors) {
            return Err(format!("register {} has no type of the machine: {ty:?}", reg.0));
        }
        self.defined[reg.0 as usize] = true;
        self.scope.push(reg);
        Ok(())
    }

    /// What `inside` defines is forgotten after it.
    fn scoped(&mut self, inside: impl FnOnce(&mut Self) -> Check) -> Check {
        let before = self.scope.len();
        inside(self)?;
        for reg in self.scope.drain(before..) {
            self.defined[reg.0 as usize] = false;
        }
        Ok(())
    }

    fn block(&mut self, stmts: &[Stmt]) -> Check {
        stmts.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Check {
        match stmt {
            Stmt::Let(reg, inst) => {
                self.inst(self.known(*reg)?, inst).map_err(|e| format!("{e} (by {inst:?})"))?;
                self.define(*reg)
            }
            Stmt::Store { elem, address, value, .. } => {
                self.is(*address, scalar(Elem::I64))?;
                let lanes = self.ty(*value)?.lanes;
                self.is(*value, RegType { elem: held(*elem), lanes })
            }
            Stmt::Prefetch { address, .. } => self.is(*address, scalar(Elem::I64)),
            Stmt::For(f) => self.repeat(f),
            Stmt::If { cond, then, otherwise } => {
                self.is(*cond, scalar(Elem::Bool))?;
                self.scoped(|c| c.block(then))?;
                self.scoped(|c| c.block(otherwise))
            }
            Stmt::Mma(mma) => self.mma(mma),
        }
    }

    fn repeat(&mut self, f: &For) -> Check {
        self.is(f.lo, scalar(Elem::I64))?;
        self.is(f.hi, scalar(Elem::I64))?;
        if f.step <= 0 {
            return Err(format!("a loop has step {}", f.step));
        }
        for carry in &f.carry {
            let ty = self.ty(carry.init)?;
            for reg in [carry.inside, carry.next, carry.after] {
                if self.known(reg)? != ty {
                    return Err(format!("register {} is not of the type it is carried as", reg.0));
                }
            }
        }
        self.scoped(|c| {
            c.define(f.var)?;
            c.is(f.var, scalar(Elem::I64))?;
            f.carry.iter().try_for_each(|carry| c.define(carry.inside))?;
            c.block(&f.body)?;
            f.carry.iter().try_for_each(|carry| c.ty(carry.next).map(|_| ()))
        })?;
        f.carry.iter().try_for_each(|carry| self.define(carry.after))
    }

    fn inst(&self, ty: RegType, inst: &Inst) -> Check {
        let RegType { elem, lanes } = ty;
        let result = |holds: bool| match holds {
            true => Ok(()),
            false => Err(format!("a result of type {ty:?}")),
        };
        match inst {
            Inst::Float(_) => result(matches!(elem, Elem::F32 | Elem::F64)),
            Inst::Int(_) => result(!matches!(elem, Elem::F32 | Elem::F64)),
            Inst::Begin | Inst::End | Inst::Scratch(_) | Inst::Argument(_) => {
                result(ty == scalar(Elem::I64))
            }
            Inst::Arith(op, a, b) => {
                self.is(*a, ty)?;
                self.is(*b, ty)?;
                result(takes(*op, ty))
            }
            Inst::Fma(a, b, c) => {
                [a, b, c].into_iter().try_for_each(|r| self.is(*r, ty))?;
                result(matches!(elem, Elem::F32 | Elem::F64))
            }
            Inst::Func(f, a) => {
                self.is(*a, ty)?;
                result((*f == Func::Not) == (elem == Elem::Bool) && !is_integer(elem))
            }
            Inst::Convert(c, a) => {
                let (from, to) = ends(*c);
                self.is(*a, RegType { elem: from, lanes })?;
                result(elem == to)
            }
            Inst::Cmp(c, a, b) => {
                let operand = self.ty(*a)?;
                self.is(*b, operand)?;
                let ordered = operand.elem != Elem::Bool || matches!(c, Cmp::Eq | Cmp::Ne);
                result(elem == Elem::Bool && operand.lanes == lanes && ordered)
            }
            Inst::Select(c, a, b) => {
                self.is(*c, RegType { elem: Elem::Bool, lanes })?;
                self.is(*a, ty)?;
                self.is(*b, ty)
            }
            Inst::Splat(a) => {
                self.is(*a, scalar(elem))?;
                result(lanes > 1)
            }
            Inst::Iota => result(matches!(elem, Elem::I32 | Elem::F32) && lanes > 1),
            Inst::Extract(a, lane) => {
                let vector = RegType { elem, lanes: self.program.lanes };
                self.is(*a, vector)?;
                result(lanes == 1 && *lane < vector.lanes)
            }
            Inst::Across(op, a) => {
                self.is(*a, RegType { elem, lanes: self.program.lanes })?;
                let folds = matches!(op, Arith::Add | Arith::Min | Arith::Max);
                result(lanes == 1 && folds && matches!(elem, Elem::F32 | Elem::I32))
            }
            Inst::Load { elem: memory, address, .. } => {
                self.is(*address, scalar(Elem::I64))?;
                result(elem == held(*memory))
            }
        }
    }

    fn mma(&self, mma: &Mma) -> Check {
        let valid = [mma.m_valid, mma.n_valid, mma.k_valid];
        valid.into_iter().flatten().try_for_each(|r| self.is(r, scalar(Elem::I32)))?;
        self.strided(&mma.acc)?;
        self.strided(&mma.left.at)?;
        mma.left.scales.iter().try_for_each(|s| self.scales(s))?;
        if let Some(Ahead { address, pitch, .. }) = mma.ahead {
            self.strided(&Strided { address, row: pitch, col: Stride::Bytes(1) })?;
        }
        match &mma.right {
            Right::Strided { at, .. } => self.strided(at),
            Right::Blocked { address, block_bytes, lanes, group, scales, .. } => {
                if *lanes == 0 || *group == 0 {
                    return Err(format!("a product of blocks of {lanes} columns by {group}"));
                }
                self.is(*address, scalar(Elem::I64))?;
                self.is(*block_bytes, scalar(Elem::I64))?;
                scales.iter().try_for_each(|s| self.scales(s))
            }
            Right::Units { encoding, address, block_bytes, unit, scales } => {
                self.is(*address, scalar(Elem::I64))?;
                self.is(*block_bytes, scalar(Elem::I64))?;
                scales.iter().try_for_each(|s| self.scales(s))?;
                let kept = usize::from(unit.scales.is_some()) + usize::from(scales.is_some());
                if kept != usize::from(encoding.scale.is_some()) {
                    return Err(format!("{encoding} in units with {kept} places of scales"));
                }
                within(unit, &unit.codes, encoding.code.bits())?;
                let width = encoding.scale.map_or(0, |s| s.dtype.bits());
                unit.scales.iter().try_for_each(|s| within(unit, s, width))
            }
        }
    }

    fn strided(&self, at: &Strided) -> Check {
        self.is(at.address, scalar(Elem::I64))?;
        for stride in [at.row, at.col] {
            if let Stride::Reg(r) = stride {
                self.is(r, scalar(Elem::I64))?;
            }
        }
        Ok(())
    }

    fn scales(&self, s: &Scales) -> Check {
        if s.rows == 0 || s.cols == 0 {
            return Err(format!("scales of blocks of {} by {}", s.rows, s.cols));
        }
        self.is(s.address, scalar(Elem::I64))?;
        self.is(s.per_row, scalar(Elem::I64))?;
        self.is(s.first_row, scalar(Elem::I32))?;
        self.is(s.first_col, scalar(Elem::I32))?;
        s.sums.iter().try_for_each(|r| self.is(*r, scalar(Elem::I64)))
    }
}

/// Whether what the terms reach, and is so many bits wide, lies within a unit, at multiples of its
/// width, and at bits that [`Nested::bit`] can count.
fn within(unit: &Unit, places: &Nested, width: u32) -> Check {
    let mut end = u64::from(places.begin) + u64::from(width);
    let distances = places.terms.iter().map(|t| t.bits).chain([places.begin]);
    if unit.lanes == 0 || unit.depth == 0 || distances.clone().any(|b| !b.is_multiple_of(width)) {
        return Err(format!("a unit in which {width} bits do not lie at multiples of that"));
    }
    for t in &places.terms {
        if t.divisor == 0 || t.extent == 0 {
            return Err("a term of a unit has no divisor or no extent".to_string());
        }
        end = end.saturating_add(u64::from(t.extent - 1) * u64::from(t.bits));
    }
    match end <= (u64::from(unit.bytes) * 8).min(u32::MAX.into()) {
        true => Ok(()),
        false => Err(format!("a unit of {} bytes is reached beyond, at bit {end}", unit.bytes)),
    }
}

fn is_integer(elem: Elem) -> bool {
    matches!(elem, Elem::I32 | Elem::I64)
}

fn takes(op: Arith, ty: RegType) -> bool {
    let float = matches!(ty.elem, Elem::F32 | Elem::F64);
    match op {
        Arith::Add | Arith::Sub | Arith::Mul | Arith::Min | Arith::Max => ty.elem != Elem::Bool,
        Arith::Div => float || (is_integer(ty.elem) && ty.lanes == 1),
        Arith::Rem => is_integer(ty.elem) && ty.lanes == 1,
        Arith::And | Arith::Or | Arith::Xor => !float,
        Arith::Shl | Arith::ShrU | Arith::ShrS => is_integer(ty.elem),
    }
}

/// Elements before and after a conversion.
fn ends(c: Convert) -> (Elem, Elem) {
    match c {
        Convert::I32ToF32 | Convert::I32Bits => (Elem::I32, Elem::F32),
        Convert::F32ToI32 | Convert::F32Bits => (Elem::F32, Elem::I32),
        Convert::F32ToF64 => (Elem::F32, Elem::F64),
        Convert::F64ToF32 => (Elem::F64, Elem::F32),
        Convert::F64ToI64 => (Elem::F64, Elem::I64),
        Convert::I64ToF64 => (Elem::I64, Elem::F64),
        Convert::I32ToI64 => (Elem::I32, Elem::I64),
        Convert::I64ToI32 => (Elem::I64, Elem::I32),
        Convert::BoolToI32 => (Elem::Bool, Elem::I32),
        Convert::I32ToBool => (Elem::I32, Elem::Bool),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::loops::{Carry, Left};

    const I64: RegType = RegType { elem: Elem::I64, lanes: 1 };
    const F32: RegType = RegType { elem: Elem::F32, lanes: 1 };

    fn check(regs: &[RegType], body: Vec<Stmt>) -> Result<(), String> {
        let program =
            Program { name: "p".into(), lanes: 4, regs: regs.to_vec(), scratch_bytes: 0, body };
        verify(&program).map_err(|e| {
            assert_eq!(e.kind.code(), "E0301");
            e.to_string()
        })
    }

    fn lets(insts: &[Inst]) -> Vec<Stmt> {
        (0..).zip(insts).map(|(i, inst)| Stmt::Let(Reg(i), *inst)).collect()
    }

    #[test]
    fn registers_are_defined_once_and_before_their_use() {
        let sum = Inst::Arith(Arith::Add, Reg(0), Reg(0));
        assert_eq!(check(&[I64, I64], lets(&[Inst::Int(1), sum])), Ok(()));
        let early = check(&[I64, I64], lets(&[sum, Inst::Int(1)])).expect_err("not yet defined");
        assert!(early.contains("register 0 is used where it is not defined"), "{early}");
        let twice = vec![Stmt::Let(Reg(0), Inst::Begin), Stmt::Let(Reg(0), Inst::End)];
        assert!(check(&[I64], twice).expect_err("twice").contains("defined twice"));
    }

    #[test]
    fn types_are_those_that_instructions_take() {
        let mixed = Inst::Arith(Arith::Add, Reg(0), Reg(1));
        let body = lets(&[Inst::Int(1), Inst::Float(1.0), mixed]);
        assert!(check(&[I64, F32, I64], body).is_err());
        let odd = RegType { elem: Elem::F32, lanes: 3 };
        assert!(check(&[odd], lets(&[Inst::Float(1.0)])).is_err());
        let shifted = Inst::Arith(Arith::Shl, Reg(0), Reg(0));
        assert!(check(&[F32, F32], lets(&[Inst::Float(1.0), shifted])).is_err());
    }

    #[test]
    fn what_a_loop_defines_stays_in_it() {
        let carry = Carry { inside: Reg(3), init: Reg(0), next: Reg(4), after: Reg(5) };
        let body = vec![Stmt::Let(Reg(4), Inst::Arith(Arith::Add, Reg(3), Reg(2)))];
        let (lo, hi) = (Reg(0), Reg(1));
        let repeat = For { var: Reg(2), lo, hi, step: 1, carry: vec![carry], body };
        let mut stmts = lets(&[Inst::Begin, Inst::End]);
        stmts.push(Stmt::For(repeat.clone()));
        stmts.push(Stmt::Let(Reg(6), Inst::Arith(Arith::Add, Reg(5), Reg(5))));
        assert_eq!(check(&[I64; 7], stmts.clone()), Ok(()));
        stmts.push(Stmt::Let(Reg(7), Inst::Arith(Arith::Add, Reg(4), Reg(4))));
        assert!(check(&[I64; 8], stmts).is_err());
        let still = For { step: 0, ..repeat };
        let stmts = [lets(&[Inst::Begin, Inst::End]), vec![Stmt::For(still)]].concat();
        assert!(check(&[I64; 6], stmts).expect_err("no step").contains("step 0"));
    }

    #[test]
    fn units_hold_what_their_terms_reach() {
        let term = |divisor, bits| crate::loops::Term { along_k: true, divisor, extent: 8, bits };
        let places = |begin, terms| Nested { begin, terms };
        let unit = |bytes| {
            let codes = places(32, vec![term(1, 4)]);
            Unit { lanes: 1, depth: 8, bytes, codes, scales: None }
        };
        let check = |bytes, places: &Nested| within(&unit(bytes), places, 4);
        assert_eq!(check(8, &unit(8).codes), Ok(()));
        assert!(check(7, &unit(7).codes).expect_err("beyond").contains("at bit 64"));
        assert!(check(8, &places(30, vec![])).expect_err("odd").contains("multiples"));
        assert!(check(8, &places(0, vec![term(0, 4)])).expect_err("zero").contains("divisor"));
        let wide = places(0, vec![term(1, 1 << 31)]);
        assert!(check(u32::MAX, &wide).expect_err("not counted").contains("beyond"));
    }

    #[test]
    fn blocks_of_nothing_are_refused() {
        let product = |lanes, group, cols| {
            let step = Stride::Bytes(4);
            let at = Strided { address: Reg(0), row: step, col: step };
            let (address, per_row, first) = (Reg(0), Reg(0), Reg(1));
            let (first_row, first_col, multiple, sums) = (first, first, 1, None);
            let scales =
                Scales { address, per_row, first_row, first_col, multiple, sums, rows: 1, cols };
            let encoding = DType::F32.into();
            let (block_bytes, scales) = (Reg(0), Some(scales));
            let right = Right::Blocked { encoding, address, block_bytes, lanes, group, scales };
            let left = Left { encoding, at, scales: None };
            let (m_valid, n_valid, k_valid) = (None, None, None);
            let (m, n, k, acc, ahead, batch_invariant) = (1, 1, 1, at, None, false);
            let mma = Mma {
                m,
                n,
                k,
                m_valid,
                n_valid,
                k_valid,
                acc,
                left,
                right,
                ahead,
                batch_invariant,
            };
            let mut stmts = lets(&[Inst::Begin, Inst::Int(0)]);
            stmts.push(Stmt::Mma(Box::new(mma)));
            check(&[I64, RegType { elem: Elem::I32, lanes: 1 }], stmts)
        };
        assert_eq!(product(16, 2, 8), Ok(()));
        for (lanes, group, cols) in [(0, 2, 8), (16, 0, 8), (16, 2, 0)] {
            assert!(product(lanes, group, cols).expect_err("nothing").contains("blocks of"));
        }
    }
}
