//! Steps walked one launch at a time, with a look at the memory of each before and after it runs.

use crate::error::RuntimeError;
use crate::pool::Pool;
use crate::program::{Bases, Op, Program};
use crate::walk;

/// Looks at the launches of a step, in the order of the plan.
pub trait Observer {
    /// What a launch reads is there.
    fn before(&mut self, launched: &Launched<'_>);

    /// What it writes is there, too.
    fn after(&mut self, launched: &Launched<'_>);
}

/// A launch of a step.
#[derive(Clone, Copy)]
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
        let launched = match *op {
            Op::Launch { args, launch, .. } => {
                let position = launch as usize;
                Some(Launched { program, bases, symbols, bucket, position, args })
            }
            _ => None,
        };
        if let Some(launched) = &launched {
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
