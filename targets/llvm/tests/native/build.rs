//! Programs of loop IR by hand.

use ir::loops::{
    Arith, Carry, Cmp, Convert, Elem, For, Func, Inst, MemElem, Program, Reg, RegType, Stmt,
};

/// A program under construction; statements go to the innermost open body.
pub struct Build {
    pub lanes: u32,
    regs: Vec<RegType>,
    bodies: Vec<Vec<Stmt>>,
}

impl Build {
    pub fn new(lanes: u32) -> Build {
        Build { lanes, regs: vec![], bodies: vec![vec![]] }
    }

    pub fn reg(&mut self, elem: Elem, lanes: u32) -> Reg {
        self.regs.push(RegType { elem, lanes });
        Reg(self.regs.len() as u32 - 1)
    }

    pub fn push(&mut self, s: Stmt) {
        self.bodies.last_mut().unwrap().push(s);
    }

    pub fn set(&mut self, elem: Elem, lanes: u32, inst: Inst) -> Reg {
        let r = self.reg(elem, lanes);
        self.push(Stmt::Let(r, inst));
        r
    }

    pub fn i64(&mut self, v: i64) -> Reg {
        self.set(Elem::I64, 1, Inst::Int(v))
    }

    pub fn argument(&mut self, i: u32) -> Reg {
        self.set(Elem::I64, 1, Inst::Argument(i))
    }

    /// An argument that is a number, as I32.
    pub fn small(&mut self, i: u32) -> Reg {
        let wide = self.argument(i);
        self.set(Elem::I32, 1, Inst::Convert(Convert::I64ToI32, wide))
    }

    pub fn arith(&mut self, op: Arith, a: Reg, b: Reg) -> Reg {
        let t = self.regs[a.0 as usize];
        self.set(t.elem, t.lanes, Inst::Arith(op, a, b))
    }

    pub fn func(&mut self, f: Func, a: Reg) -> Reg {
        let t = self.regs[a.0 as usize];
        self.set(t.elem, t.lanes, Inst::Func(f, a))
    }

    pub fn cmp(&mut self, op: Cmp, a: Reg, b: Reg) -> Reg {
        let lanes = self.regs[a.0 as usize].lanes;
        self.set(Elem::Bool, lanes, Inst::Cmp(op, a, b))
    }

    pub fn convert(&mut self, k: Convert, to: Elem, a: Reg) -> Reg {
        let lanes = self.regs[a.0 as usize].lanes;
        self.set(to, lanes, Inst::Convert(k, a))
    }

    /// `address + i * bytes`
    pub fn at(&mut self, address: Reg, i: Reg, bytes: i64) -> Reg {
        let bytes = self.i64(bytes);
        let off = self.arith(Arith::Mul, i, bytes);
        self.arith(Arith::Add, address, off)
    }

    pub fn load(&mut self, elem: MemElem, as_: Elem, lanes: u32, address: Reg, offset: i64) -> Reg {
        self.set(as_, lanes, Inst::Load { elem, address, offset })
    }

    pub fn store(&mut self, elem: MemElem, address: Reg, offset: i64, value: Reg) {
        self.push(Stmt::Store { elem, address, offset, value });
    }

    /// A loop; `body` gives the next values of `init`. Gives the values after it.
    pub fn looped(
        &mut self,
        (lo, hi, step): (Reg, Reg, i64),
        init: &[Reg],
        body: impl FnOnce(&mut Build, Reg, &[Reg]) -> Vec<Reg>,
    ) -> Vec<Reg> {
        let var = self.reg(Elem::I64, 1);
        let same = |b: &mut Build| {
            init.iter()
                .map(|r| {
                    let t = b.regs[r.0 as usize];
                    b.reg(t.elem, t.lanes)
                })
                .collect::<Vec<_>>()
        };
        let (inside, after) = (same(self), same(self));
        self.bodies.push(vec![]);
        let next = body(self, var, &inside);
        let body = self.bodies.pop().unwrap();
        let carry = (0..init.len())
            .map(|i| Carry { inside: inside[i], init: init[i], next: next[i], after: after[i] })
            .collect();
        self.push(Stmt::For(For { var, lo, hi, step, carry, body }));
        after
    }

    pub fn either(
        &mut self,
        cond: Reg,
        then: impl FnOnce(&mut Build),
        otherwise: impl FnOnce(&mut Build),
    ) {
        self.bodies.push(vec![]);
        then(self);
        self.bodies.push(vec![]);
        otherwise(self);
        let otherwise = self.bodies.pop().unwrap();
        let then = self.bodies.pop().unwrap();
        self.push(Stmt::If { cond, then, otherwise });
    }

    pub fn finish(mut self, name: &str, scratch_bytes: u64) -> Program {
        let body = self.bodies.pop().unwrap();
        Program { name: name.into(), lanes: self.lanes, regs: self.regs, scratch_bytes, body }
    }
}
