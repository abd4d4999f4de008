//! One program through LLVM: module, passes, object or text.

use crate::code::Code;
use crate::emit::emit;
use crate::error::LlvmError;
use crate::isa::Isa;
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};
use ir::loops::Program;
use std::sync::Once;

/// What to make of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    /// A relocatable ELF object.
    Object,
    /// LLVM IR after the passes.
    Ir,
    /// Assembly.
    Asm,
}

/// What is left to simplify once vectors, register blocks and copies are chosen: addresses, what
/// does not change in a loop, loops of few iterations, the same load twice. The passes of an
/// optimisation level beyond these find next to nothing here, and cost more than all of them.
const PASSES: &str = concat!(
    "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,",
    "loop-mssa(loop-rotate,licm),loop(loop-unroll-full),",
    "early-cse<memssa>,instcombine<no-verify-fixpoint>,gvn,simplifycfg)"
);

/// Compiles one program in a context of its own; gives the bytes, and the scratch it needs.
///
/// # Errors
/// What `emit` finds; [`LlvmError::NoMachine`], [`LlvmError::Refused`].
pub(crate) fn compile(
    program: &Program,
    isa: &'static Isa,
    what: Product,
) -> Result<(Vec<u8>, u64), LlvmError> {
    let machine = machine(isa)?;
    let context = Context::create();
    let code = Code::new(&context, &program.name, isa);
    code.module.set_triple(&machine.get_triple());
    code.module.set_data_layout(&machine.get_target_data().get_data_layout());
    let scratch = emit(&code, program)?;
    let refused = |reason: &dyn ToString| LlvmError::Refused {
        kernel: program.name.to_string(),
        reason: reason.to_string(),
    };
    code.module.verify().map_err(|e| refused(&e.to_string()))?;
    code.module
        .run_passes(PASSES, &machine, PassBuilderOptions::create())
        .map_err(|e| refused(&e.to_string()))?;
    let bytes = match what {
        Product::Ir => code.module.print_to_string().to_string().into_bytes(),
        Product::Object => {
            written(&machine, &code.module, FileType::Object).map_err(|e| refused(&e))?
        }
        Product::Asm => {
            written(&machine, &code.module, FileType::Assembly).map_err(|e| refused(&e))?
        }
    };
    Ok((bytes, scratch))
}

fn written(machine: &TargetMachine, m: &Module<'_>, kind: FileType) -> Result<Vec<u8>, String> {
    let buffer = machine.write_to_memory_buffer(m, kind).map_err(|e| e.to_string())?;
    Ok(buffer.as_slice().to_vec())
}

fn machine(isa: &Isa) -> Result<TargetMachine, LlvmError> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let config = InitializationConfig::default();
        Target::initialize_x86(&config);
        Target::initialize_aarch64(&config);
    });
    let no = |reason: String| LlvmError::NoMachine { level: isa.name.to_owned(), reason };
    let triple = TargetTriple::create(isa.triple);
    let target = Target::from_triple(&triple).map_err(|e| no(e.to_string()))?;
    target
        .create_target_machine(
            &triple,
            isa.cpu,
            isa.features,
            OptimizationLevel::Default,
            RelocMode::PIC,
            CodeModel::Small,
        )
        .ok_or_else(|| no("it knows no such processor".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_llvm_does_not_know_are_refused() {
        let known = Isa::named("x86-64-v3").expect("a level");
        assert!(machine(known).is_ok());
        let isa = Isa { triple: "abacus-unknown-none", ..*known };
        assert!(matches!(machine(&isa), Err(LlvmError::NoMachine { .. })));
    }
}
