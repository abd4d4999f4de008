//! All ops.
