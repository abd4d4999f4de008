//! Kernels in text form and at random: every target at every level of this machine, and the
//! interpreter of loops, against the interpreter of the kernel IR.

mod gathers;
mod integers;
mod operations;
mod products;
mod programs;
mod random;
