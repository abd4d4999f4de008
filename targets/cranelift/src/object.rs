//! Functions to objects and listings.

use crate::CraneliftError;
use crate::emit::emit;
use crate::isa::{Isa, isa};
use crate::program;
use cranelift_codegen::{CompiledCode, Context};
use cranelift_module::{Linkage, Module, ModuleReloc, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use ir::kernel::Kernel;
use ir::loops::Program;
use ir::target::{CodeObject, Listing};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A kernel's code before it is put into an object.
struct Code {
    name: String,
    bytes: Vec<u8>,
    alignment: u64,
    scratch_bytes: u64,
    /// Cranelift's IR and assembly, where asked for.
    listing: String,
}

/// Compiles kernels into one relocatable object.
pub fn compile(kernels: &[&Kernel], level: &str) -> Result<CodeObject, CraneliftError> {
    let isa = isa(level)?;
    let codes = compile_all(kernels, &|k: &&Kernel| program(k), &isa, None)?;
    object(&codes, &isa)
}

/// Compiles loop programs, without products, of this target's lanes into one object.
pub fn compile_programs(programs: &[Program], level: &str) -> Result<CodeObject, CraneliftError> {
    let isa = isa(level)?;
    let codes = compile_all(programs, &|p: &Program| Ok(p.clone()), &isa, None)?;
    object(&codes, &isa)
}

fn object(codes: &[Code], isa: &Isa) -> Result<CodeObject, CraneliftError> {
    let refused = |reason: String| CraneliftError::Object { reason };
    let builder = ObjectBuilder::new(isa.target.clone(), "kernels", default_libcall_names())
        .map_err(|e| refused(e.to_string()))?;
    let mut module = ObjectModule::new(builder);
    let signature = crate::emit::signature(&*isa.target);
    let mut names = vec![];
    for code in codes {
        let refused = |e: cranelift_module::ModuleError| CraneliftError::Object {
            reason: format!("{}: {e}", code.name),
        };
        let id =
            module.declare_function(&code.name, Linkage::Export, &signature).map_err(refused)?;
        module
            .define_function_bytes(id, code.alignment, &code.bytes, &[] as &[ModuleReloc])
            .map_err(refused)?;
        names.push((code.name.clone(), code.scratch_bytes));
    }
    let bytes = module.finish().emit().map_err(|e| refused(e.to_string()))?;
    Ok(CodeObject { bytes, kernels: names })
}

/// Text of the kernels on their way to code.
pub fn listing(kernels: &[&Kernel], level: &str, what: Listing) -> Result<String, CraneliftError> {
    let isa = isa(level)?;
    let codes = compile_all(kernels, &|k: &&Kernel| program(k), &isa, Some(what))?;
    let mut text = String::new();
    for code in codes {
        text += &format!("; {} ({} bytes of scratch)\n", code.name, code.scratch_bytes);
        text += &code.listing;
        text.push('\n');
    }
    Ok(text)
}

/// Programs in their order, made and compiled on as many threads as there are processors.
fn compile_all<T: Sync>(
    sources: &[T],
    program: &(dyn Fn(&T) -> Result<Program, CraneliftError> + Sync),
    isa: &Isa,
    what: Option<Listing>,
) -> Result<Vec<Code>, CraneliftError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<Code, CraneliftError>>>> =
        sources.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while let Some(at) =
            Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < sources.len())
        {
            let code = program(&sources[at]).and_then(|p| compile_one(&p, isa, what));
            *done[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be started leaves its share to the others.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let stopped = || CraneliftError::Object { reason: "a compilation stopped".to_string() };
    let taken = done.into_iter().map(|slot| {
        let code = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
        code.unwrap_or_else(|| Err(stopped()))
    });
    taken.collect()
}

fn compile_one(
    program: &Program,
    isa: &Isa,
    what: Option<Listing>,
) -> Result<Code, CraneliftError> {
    let mut context = Context::new();
    context.func = emit(program, isa)?;
    let ir = match what {
        Some(Listing::Ir) => context.func.display().to_string(),
        _ => String::new(),
    };
    context.set_disasm(what == Some(Listing::Asm));
    let name = program.name.to_string();
    let refused = |reason: String| CraneliftError::Codegen { kernel: name.clone(), reason };
    let code = context
        .compile(&*isa.target, &mut Default::default())
        .map_err(|e| refused(format!("{:?}", e.inner)))?;
    no_imports(&program.name, code)?;
    let listing = code.vcode.clone().filter(|_| ir.is_empty()).unwrap_or(ir);
    let alignment = u64::from(code.buffer.alignment).max(16);
    let bytes = code.buffer.data().to_vec();
    Ok(Code { name, bytes, alignment, scratch_bytes: program.scratch_bytes, listing })
}

/// A relocation would be a reference to something outside, such as a library's `floor`.
fn no_imports(kernel: &str, code: &CompiledCode) -> Result<(), CraneliftError> {
    match code.buffer.relocs().first() {
        None => Ok(()),
        Some(reloc) => Err(CraneliftError::Import {
            kernel: kernel.to_string(),
            symbol: format!("{:?}", reloc.target),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cranelift_codegen::ir::{
        ExtFuncData, ExternalName, InstBuilder, Signature, UserExternalName,
    };
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
    use ir::loops::{Arith, Elem, Inst, Reg, RegType, Stmt};

    #[test]
    fn calls_of_what_is_not_there_are_refused() {
        let isa = isa("x86-64-v2").expect("a level");
        let mut context = Context::new();
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut context.func, &mut memory);
        let block = builder.create_block();
        builder.switch_to_block(block);
        let convention = isa.target.default_call_conv();
        let signature = builder.import_signature(Signature::new(convention));
        let name = builder.func.declare_imported_user_function(UserExternalName::new(0, 7));
        let name = ExternalName::user(name);
        let outside = ExtFuncData { name, signature, colocated: false, patchable: false };
        let outside = builder.import_function(outside);
        builder.ins().call(outside, &[]);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        builder.finalize(isa.target.frontend_config());
        let code = context.compile(&*isa.target, &mut Default::default()).expect("code");
        assert!(matches!(no_imports("k", code), Err(CraneliftError::Import { .. })));
    }

    #[test]
    fn registers_without_a_value_are_refused() {
        let ty = RegType { elem: Elem::I32, lanes: 1 };
        let twice = Stmt::Let(Reg(0), Inst::Arith(Arith::Add, Reg(1), Reg(1)));
        let program = Program {
            name: "k".into(),
            lanes: 4,
            regs: vec![ty, ty],
            scratch_bytes: 0,
            body: vec![twice],
        };
        let refused = compile_programs(&[program], "x86-64-v2");
        assert!(matches!(refused, Err(CraneliftError::Codegen { .. })));
    }
}
