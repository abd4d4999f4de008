//! Every op, one file each: names, shape rule, meaning, cost, tolerance, samples.

use crate::op::{OpDef, OpRef};

macro_rules! ops {
    ($($file:ident)*) => {
        $(pub mod $file;)*
        /// Every op, in the order of the table of ops.
        pub const ALL: &[&dyn OpDef] = &[$(&$file::Op),*];
    };
}

ops! {
    iota r#const contract map reduce cast gather scatter topk
    slice concat split merge rename history append quantize dequantize
    softmax rms_norm rope_table rope swiglu
}

/// The op of a name.
pub fn find(name: &str) -> Option<OpRef> {
    ALL.iter().copied().find(|op| op.schema().name == name).map(OpRef)
}
