//! Functions to objects and listings.

use crate::CraneliftError;
use crate::emit::emit;
use crate::isa::{Isa, isa};
use crate::program;
use cranelift_codegen::{CompiledCode, Context};
use cranelift_module::{Linkage, Module, ModuleReloc, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use ir::kernel::Kernel;
use ir::target::{CodeObject, Listing};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A kernel's code before it is put into an object.
struct Code {
    bytes: Vec<u8>,
    alignment: u64,
    scratch_bytes: u64,
    /// Cranelift's IR and assembly, where asked for.
    listing: String,
}

/// Compiles kernels into one relocatable object.
pub fn compile(kernels: &[&Kernel], level: &str) -> Result<CodeObject, CraneliftError> {
    let isa = isa(level)?;
    let codes = compile_all(kernels, &isa, None)?;
    let refused = |reason: String| CraneliftError::Object { reason };
    let builder = ObjectBuilder::new(isa.target.clone(), "kernels", default_libcall_names())
        .map_err(|e| refused(e.to_string()))?;
    let mut module = ObjectModule::new(builder);
    let signature = crate::emit::signature(&*isa.target);
    let mut names = vec![];
    for (kernel, code) in kernels.iter().zip(codes) {
        let refused = |e: cranelift_module::ModuleError| CraneliftError::Object {
            reason: format!("{}: {e}", kernel.name),
        };
        let id =
            module.declare_function(&kernel.name, Linkage::Export, &signature).map_err(refused)?;
        module
            .define_function_bytes(id, code.alignment, &code.bytes, &[] as &[ModuleReloc])
            .map_err(refused)?;
        names.push((kernel.name.to_string(), code.scratch_bytes));
    }
    let bytes = module.finish().emit().map_err(|e| refused(e.to_string()))?;
    Ok(CodeObject { bytes, kernels: names })
}

/// Text of the kernels on their way to code.
pub fn listing(kernels: &[&Kernel], level: &str, what: Listing) -> Result<String, CraneliftError> {
    let isa = isa(level)?;
    let codes = compile_all(kernels, &isa, Some(what))?;
    let mut text = String::new();
    for (kernel, code) in kernels.iter().zip(codes) {
        text += &format!("; {} ({} bytes of scratch)\n", kernel.name, code.scratch_bytes);
        text += &code.listing;
        text.push('\n');
    }
    Ok(text)
}

/// Kernels in their order, compiled on as many threads as there are processors.
fn compile_all(
    kernels: &[&Kernel],
    isa: &Isa,
    what: Option<Listing>,
) -> Result<Vec<Code>, CraneliftError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(kernels.len());
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<Code, CraneliftError>>>> =
        kernels.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(at) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|at| *at < kernels.len())
                {
                    let code = compile_one(kernels[at], isa, what);
                    *done[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
                }
            });
        }
    });
    let taken = done.into_iter().zip(kernels).map(|(slot, kernel)| {
        slot.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| {
            let reason = "its compilation stopped".to_string();
            Err(CraneliftError::Codegen { kernel: kernel.name.to_string(), reason })
        })
    });
    taken.collect()
}

fn compile_one(kernel: &Kernel, isa: &Isa, what: Option<Listing>) -> Result<Code, CraneliftError> {
    let program = program(kernel)?;
    let mut context = Context::new();
    context.func = emit(&program, isa)?;
    let ir = match what {
        Some(Listing::Ir) => context.func.display().to_string(),
        _ => String::new(),
    };
    context.set_disasm(what == Some(Listing::Asm));
    let refused =
        |reason: String| CraneliftError::Codegen { kernel: kernel.name.to_string(), reason };
    let code = context
        .compile(&*isa.target, &mut Default::default())
        .map_err(|e| refused(format!("{:?}", e.inner)))?;
    no_imports(kernel, code)?;
    let listing = code.vcode.clone().filter(|_| ir.is_empty()).unwrap_or(ir);
    let alignment = u64::from(code.buffer.alignment).max(16);
    let bytes = code.buffer.data().to_vec();
    Ok(Code { bytes, alignment, scratch_bytes: program.scratch_bytes, listing })
}

/// A relocation would be a reference to something outside, such as a library's `floor`.
fn no_imports(kernel: &Kernel, code: &CompiledCode) -> Result<(), CraneliftError> {
    match code.buffer.relocs().first() {
        None => Ok(()),
        Some(reloc) => Err(CraneliftError::Import {
            kernel: kernel.name.to_string(),
            symbol: format!("{:?}", reloc.target),
        }),
    }
}
