//! Steps walked one launch at a time, with a look at the memory of each before and after it runs.

use crate::error::RuntimeError;
use crate::pool::Pool;
use crate::program::{Bases, Op, Program};
use crate::walk;

/// Looks at the launches of a step, in the order of the plan.
pub trait Observer {
    /// What a launch reads is there, and may be changed.
    fn before(&mut self, launched: &mut Launched<'_>);

    /// What it writes is there, too.
    fn after(&mut self, launched: &Launched<'_>);
}

/// A launch of a step.
pub struct Launched<'a> {
    program: &'a Program,
    bases: &'a Bases<'a>,
    symbols: &'a [i64],
    bucket: usize,
    position: usize,
    /// Of its first argument.
    args: usize,
}

impl Launched<'_> {
    /// Position of the step's bucket in its entry.
    pub fn bucket(&self) -> usize {
        self.bucket
    }

    /// Position among the launches of the bucket.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Values of the plan's step symbols, in its order.
    pub fn symbols(&self) -> &[i64] {
        self.symbols
    }

    /// What lies behind an argument of the launch, by its position in the plan; nothing where an
    /// argument is left out.
    pub fn memory(&self, arg: usize) -> &[u8] {
        let at = self.args + arg;
        let bytes = self.program.room(at, self.bases) as usize;
        let address = self.program.args[at] as *const u8;
        if bytes == 0 || address.is_null() {
            return &[];
        }
        // SAFETY: `bind` made the address one of the session's regions or of the mapped weights,
        // with so many bytes; all of it is initialised, and no worker runs.
        unsafe { std::slice::from_raw_parts(address, bytes) }
    }

    /// The same, to be written, of what lives for this step alone: arena and outputs.
    pub fn memory_mut(&mut self, arg: usize) -> Option<&mut [u8]> {
        let at = self.args + arg;
        if !self.program.is_of_step(at) {
            return None;
        }
        let bytes = self.program.room(at, self.bases) as usize;
        let address = self.program.args[at] as *mut u8;
        if bytes == 0 || address.is_null() {
            return None;
        }
        // SAFETY: `bind` made the address one of this session's own regions, with so many bytes;
        // all of it is initialised, no worker runs, and the borrow is exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(address, bytes) })
    }
}

/// Runs a bound program on all workers, one launch after the other.
///
/// # Errors
/// As [`walk::run`].
///
/// # Safety
/// As [`walk::run`].
pub(crate) unsafe fn run(
    pool: &mut Pool,
    program: &Program,
    bases: &Bases<'_>,
    (bucket, symbols): (usize, &[i64]),
    observer: &mut dyn Observer,
) -> Result<(), RuntimeError> {
    for (at, op) in program.ops.iter().enumerate() {
        let mut launched = match *op {
            Op::Launch { args, launch, .. } => {
                let position = launch as usize;
                Some(Launched { program, bases, symbols, bucket, position, args })
            }
            _ => None,
        };
        if let Some(launched) = &mut launched {
            observer.before(launched);
        }
        // SAFETY: passed on to the caller.
        unsafe { walk::run(pool, program, at..at + 1, bases, None) }?;
        if let Some(launched) = &launched {
            observer.after(launched);
        }
    }
    Ok(())
}
