//! Prefetching of what a loop reads next.

use super::{Expander, Result};
use crate::kernel::For;
use crate::loops::Reg;

impl Expander<'_> {
    /// Emits a loop's prefetches, at the beginning of its body.
    pub fn prefetch(&mut self, _: &For, _: Reg, _: Reg) -> Result<()> {
        Ok(())
    }
}
