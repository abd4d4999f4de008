//! Loop programs to Cranelift IR: structure.

use crate::CraneliftError;
use crate::isa::Isa;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, F64, I8, I32, I32X4, I64};
use cranelift_codegen::ir::{
    AbiParam, BlockArg, Function, InstBuilder, Signature, Type, UserFuncName, Value,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use ir::loops::{Elem, For, Inst, Program, Reg, RegType, Stmt};

/// Lanes of 32 bits in a vector.
pub const LANES: u32 = 4;

/// Translates one program.
pub struct Emit<'p, 'b> {
    pub program: &'p Program,
    pub b: FunctionBuilder<'b>,
    pub isa: &'p Isa,
    values: Vec<Option<Value>>,
    /// How registers were defined: integer constants, and scalars that were splat.
    pub origins: Vec<Origin>,
    /// `args`, `begin`, `end`, `scratch`.
    pub params: [Value; 4],
}

/// What is known of a register.
#[derive(Clone, Copy)]
pub enum Origin {
    /// An integer constant in every lane.
    Int(i64),
    /// This scalar in every lane.
    Splat(Reg),
    /// Anything else.
    Other,
}

/// `fn(args: *const u64, begin: i64, end: i64, scratch: *mut u8)`
pub fn signature(isa: &dyn TargetIsa) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params = vec![AbiParam::new(I64); 4];
    signature
}

/// Cranelift's type of a register. Truth values are a byte, or masks of as many bits as a lane.
pub fn ty(ty: RegType) -> Type {
    match (ty.elem, ty.lanes) {
        (Elem::F32, 1) => F32,
        (Elem::F32, _) => F32X4,
        (Elem::F64, _) => F64,
        (Elem::I64, _) => I64,
        (Elem::I32, 1) => I32,
        (Elem::Bool, 1) => I8,
        (Elem::I32 | Elem::Bool, _) => I32X4,
    }
}

/// The function of a program.
pub fn emit(program: &Program, isa: &Isa) -> Result<Function, CraneliftError> {
    let signature = signature(&*isa.target);
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let entry = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let params = b.block_params(entry);
    let params = [params[0], params[1], params[2], params[3]];
    let (values, origins) =
        (vec![None; program.regs.len()], vec![Origin::Other; program.regs.len()]);
    let mut emit = Emit { program, b, isa, values, origins, params };
    emit.block(&program.body)?;
    emit.b.ins().return_(&[]);
    emit.b.finalize(isa.target.frontend_config());
    Ok(function)
}

impl Emit<'_, '_> {
    /// Cranelift's value of a register that has been defined.
    pub fn get(&self, reg: Reg) -> Result<Value, CraneliftError> {
        let value = self.values.get(reg.0 as usize).copied().flatten();
        value.ok_or_else(|| self.refused(format!("register {} has no value", reg.0)))
    }

    pub fn reg_type(&self, reg: Reg) -> RegType {
        self.program.regs[reg.0 as usize]
    }

    pub fn refused(&self, reason: String) -> CraneliftError {
        CraneliftError::Codegen { kernel: self.program.name.to_string(), reason }
    }

    fn set(&mut self, reg: Reg, value: Value) {
        self.values[reg.0 as usize] = Some(value);
    }

    fn block(&mut self, stmts: &[Stmt]) -> Result<(), CraneliftError> {
        stmts.iter().try_for_each(|s| self.stmt(s))
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), CraneliftError> {
        match stmt {
            Stmt::Let(reg, inst) => {
                let value = self.inst(self.reg_type(*reg), inst)?;
                self.origins[reg.0 as usize] = match inst {
                    Inst::Int(v) => Origin::Int(*v),
                    Inst::Splat(scalar) => Origin::Splat(*scalar),
                    _ => Origin::Other,
                };
                self.set(*reg, value);
                Ok(())
            }
            Stmt::Store { elem, address, offset, value } => {
                self.store(*elem, *address, *offset, *value)
            }
            // Cranelift has no instruction for it.
            Stmt::Prefetch { .. } => Ok(()),
            Stmt::For(f) => self.repeat(f),
            Stmt::If { cond, then, otherwise } => self.choose(*cond, then, otherwise),
            Stmt::Mma(_) => Err(self.refused("a product that was not claimed".to_string())),
        }
    }

    /// Tested at the end of the body, and once before it. Loops that only prefetch are left out.
    fn repeat(&mut self, f: &For) -> Result<(), CraneliftError> {
        if f.carry.is_empty() && !has_effect(&f.body) {
            return Ok(());
        }
        let (lo, hi) = (self.get(f.lo)?, self.get(f.hi)?);
        let inits = f.carry.iter().map(|c| self.get(c.init)).collect::<Result<Vec<_>, _>>()?;
        let (body, after) = (self.b.create_block(), self.b.create_block());
        let var = self.b.append_block_param(body, I64);
        self.set(f.var, var);
        for c in &f.carry {
            let ty = ty(self.reg_type(c.inside));
            let inside = self.b.append_block_param(body, ty);
            self.set(c.inside, inside);
            let value = self.b.append_block_param(after, ty);
            self.set(c.after, value);
        }
        self.again(lo, hi, &inits, body, after);
        self.b.switch_to_block(body);
        self.block(&f.body)?;
        let next = f.carry.iter().map(|c| self.get(c.next)).collect::<Result<Vec<_>, _>>()?;
        let step = self.b.ins().iconst(I64, f.step);
        let var = self.b.ins().iadd(var, step);
        self.again(var, hi, &next, body, after);
        self.b.seal_block(body);
        self.b.seal_block(after);
        self.b.switch_to_block(after);
        Ok(())
    }

    /// To the body if `var < hi`, else behind the loop.
    fn again(
        &mut self,
        var: Value,
        hi: Value,
        carried: &[Value],
        body: cranelift_codegen::ir::Block,
        after: cranelift_codegen::ir::Block,
    ) {
        let carried: Vec<BlockArg> = carried.iter().map(|v| (*v).into()).collect();
        let inside: Vec<BlockArg> = std::iter::once(var.into()).chain(carried.clone()).collect();
        let more = self.b.ins().icmp(IntCC::SignedLessThan, var, hi);
        self.b.ins().brif(more, body, &inside, after, &carried);
    }

    fn choose(&mut self, cond: Reg, then: &[Stmt], other: &[Stmt]) -> Result<(), CraneliftError> {
        let cond = self.get(cond)?;
        let (yes, no, after) =
            (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(cond, yes, &[], no, &[]);
        for (block, stmts) in [(yes, then), (no, other)] {
            self.b.switch_to_block(block);
            self.b.seal_block(block);
            self.block(stmts)?;
            self.b.ins().jump(after, &[]);
        }
        self.b.switch_to_block(after);
        self.b.seal_block(after);
        Ok(())
    }
}

/// Whether statements write memory.
fn has_effect(stmts: &[Stmt]) -> bool {
    stmts.iter().any(|stmt| match stmt {
        Stmt::Let(..) | Stmt::Prefetch { .. } => false,
        Stmt::Store { .. } | Stmt::Mma(_) => true,
        Stmt::For(f) => has_effect(&f.body),
        Stmt::If { then, otherwise, .. } => has_effect(then) || has_effect(otherwise),
    })
}
