//! Kernels to loop programs.
