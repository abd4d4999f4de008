//! Pages of state rows: what is kept per token from step to step.
//!
//! A page number addresses the same rows in every state and layer. A row's number (`slot`) is
//! `page * page_tokens + position % page_tokens`.

use crate::error::RuntimeError;
use crate::memory::{HUGE, Region, lacking};
use artifact::plan::{State, StateKind};

/// Page size of a model without states.
const DEFAULT_PAGE_TOKENS: u32 = 64;

/// Memory of all states of one session, and which of its pages are taken.
#[derive(Debug)]
pub struct StatePool {
    capacity: usize,
    page_tokens: u32,
    tables: Vec<Table>,
    taken: Vec<bool>,
    /// Free pages, the next one last.
    free: Vec<u32>,
    /// Pages from the first on that have memory.
    touched: u64,
    /// Bytes that could be had beside theirs when that was last asked.
    spare: u64,
}

/// One state's rows: layer after layer.
#[derive(Debug)]
struct Table {
    region: Region,
    layer_bytes: usize,
    /// Bytes of a layer's part of a page.
    page_bytes: u64,
}

impl StatePool {
    /// Room for `capacity` pages of `states`, which must share one page size. Memory is taken
    /// from the system when a page is first written.
    ///
    /// # Errors
    /// [`RuntimeError::PageCount`], [`RuntimeError::Unsupported`], [`RuntimeError::OutOfMemory`].
    pub(crate) fn new(states: &[State], capacity: usize) -> Result<StatePool, RuntimeError> {
        let page_tokens = check(states)?;
        // Slots are i32.
        let most = (i32::MAX as u32 / page_tokens) as usize;
        if capacity == 0 || capacity > most {
            return Err(RuntimeError::PageCount { found: capacity, most });
        }
        let tables = states.iter().map(|state| Table::new(state, capacity as u64));
        Ok(StatePool {
            capacity,
            page_tokens,
            tables: tables.collect::<Result<_, _>>()?,
            taken: vec![false; capacity],
            free: (0..capacity as u32).rev().collect(),
            touched: 0,
            spare: 0,
        })
    }

    /// Number of pages.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Rows per page.
    pub fn page_tokens(&self) -> usize {
        self.page_tokens as usize
    }

    /// Pages that are not taken.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Bytes of all pages, over all states and layers.
    pub fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.region.len() as u64).sum()
    }

    /// Takes a page.
    ///
    /// # Errors
    /// [`RuntimeError::PagesExhausted`].
    pub fn alloc_page(&mut self) -> Result<u32, RuntimeError> {
        let exhausted = RuntimeError::PagesExhausted { capacity: self.capacity };
        let page = self.free.pop().ok_or(exhausted)?;
        self.taken[page as usize] = true;
        Ok(page)
    }

    /// Returns a page.
    ///
    /// # Errors
    /// [`RuntimeError::PageNotTaken`].
    pub fn free_page(&mut self, page: u32) -> Result<(), RuntimeError> {
        match self.taken.get_mut(page as usize) {
            Some(taken) if *taken => {
                *taken = false;
                self.free.push(page);
                Ok(())
            }
            _ => Err(RuntimeError::PageNotTaken { page, capacity: self.capacity }),
        }
    }

    /// Makes sure that pages up to `last` can have memory when they are written, of what
    /// `available` says. The system is asked seldom: half of what it has counts as had.
    pub(crate) fn touch(
        &mut self,
        last: Option<u32>,
        available: &dyn Fn() -> Option<u64>,
    ) -> Result<(), RuntimeError> {
        let pages = last.map_or(0, |page| u64::from(page) + 1);
        if pages <= self.touched {
            return Ok(());
        }
        let held = |pages| self.tables.iter().map(|table| table.held(pages)).sum::<u64>();
        let bytes = held(pages) - held(self.touched);
        if bytes > self.spare {
            let free = available().unwrap_or(u64::MAX);
            if bytes > free {
                return Err(lacking(bytes, "states", free));
            }
            self.spare = bytes.max(free / 2);
        }
        self.spare -= bytes;
        self.touched = pages;
        Ok(())
    }

    /// Address and size of a layer's rows of a state; both numbers come from a checked plan.
    pub(crate) fn rows(&self, state: u32, layer: u32) -> (*mut u8, u64) {
        let table = &self.tables[state as usize];
        let offset = layer as usize * table.layer_bytes;
        assert!(offset + table.layer_bytes <= table.region.len(), "the layer is in the plan");
        // SAFETY: the offset lies in the region.
        (unsafe { table.region.as_ptr().add(offset) }, table.layer_bytes as u64)
    }
}

impl Table {
    fn new(state: &State, capacity: u64) -> Result<Table, RuntimeError> {
        let tokens = capacity.checked_mul(state.page_tokens.into());
        let rows = tokens.and_then(|tokens| tokens.checked_mul(state.bytes_per_token));
        // Layers begin on cache lines of their own.
        let layer = rows.and_then(|bytes| bytes.checked_next_multiple_of(64));
        let total = layer.and_then(|layer| layer.checked_mul(state.layers.into()));
        let region = Region::new(total.unwrap_or(u64::MAX), "states")?;
        let page_bytes = u64::from(state.page_tokens) * state.bytes_per_token;
        // Fits: the region is at least as long.
        Ok(Table { region, layer_bytes: layer.unwrap_or(0) as usize, page_bytes })
    }

    /// Bytes of memory of so many pages from the first on: the system gives whole ones of its own,
    /// huge ones at best.
    fn held(&self, pages: u64) -> u64 {
        let layers = self.region.len() / self.layer_bytes.max(1);
        let layer = (pages * self.page_bytes).next_multiple_of(HUGE as u64);
        layer.min(self.layer_bytes as u64) * layers as u64 * u64::from(pages > 0)
    }
}

/// The states' common page size.
fn check(states: &[State]) -> Result<u32, RuntimeError> {
    let page_tokens = states.first().map_or(DEFAULT_PAGE_TOKENS, |state| state.page_tokens);
    for state in states {
        let unsupported = |found: String, expected: String| RuntimeError::Unsupported {
            what: format!("state `{}`", state.name),
            found,
            expected,
        };
        if state.kind != StateKind::Rows {
            return Err(unsupported(format!("of kind {:?}", state.kind), "rows".into()));
        }
        if state.page_tokens != page_tokens {
            let found = format!("in pages of {} rows", state.page_tokens);
            return Err(unsupported(found, format!("{page_tokens} like the first state")));
        }
    }
    Ok(page_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, layers: u32, bytes_per_token: u64) -> State {
        State {
            name: name.into(),
            kind: StateKind::Rows,
            layers,
            bytes_per_token,
            page_tokens: 16,
            row: String::new(),
            place: 0,
        }
    }

    #[test]
    fn pages_are_taken_and_returned() {
        let mut pool = StatePool::new(&[state("k", 2, 8)], 3).expect("memory");
        let pages: Vec<_> = (0..3).map(|_| pool.alloc_page().expect("a free page")).collect();
        assert_eq!(pages, [0, 1, 2]);
        assert_eq!(pool.alloc_page().map_err(|e| e.code()), Err("E0513"));
        pool.free_page(1).expect("taken");
        assert_eq!(pool.free_page(1).map_err(|e| e.code()), Err("E0513"));
        assert_eq!(pool.free_page(3).map_err(|e| e.code()), Err("E0513"));
        assert_eq!((pool.free_pages(), pool.alloc_page().ok()), (1, Some(1)));
    }

    #[test]
    fn pages_beyond_the_memory_that_there_is_are_refused() {
        let mut pool = StatePool::new(&[state("k", 3, 1 << 16)], 100).expect("memory");
        let asked = std::cell::Cell::new(0);
        let mut touch = |last, free| {
            let touched = pool.touch(last, &|| {
                asked.set(asked.get() + 1);
                Some(free)
            });
            (touched.map_err(|e| e.to_string()), asked.replace(0))
        };
        let megabytes = |n: u64| n << 20;
        // A page has 1 MiB in each of three layers, and comes with its neighbour.
        assert_eq!(touch(None, 0), (Ok(()), 0));
        assert_eq!(touch(Some(0), megabytes(24)), (Ok(()), 1));
        assert_eq!(touch(Some(1), 0), (Ok(()), 0), "its neighbour came with it");
        assert_eq!(touch(Some(3), 0), (Ok(()), 0), "half of what there was is spare");
        let refused = "cannot have 6291456 bytes of memory for states: 6291455 are available";
        assert_eq!(touch(Some(4), megabytes(6) - 1), (Err(refused.into()), 1));
        assert_eq!(touch(Some(4), megabytes(6)), (Ok(()), 1));
        assert_eq!(touch(Some(2), 0), (Ok(()), 0), "it was touched");
    }

    #[test]
    fn layers_and_states_do_not_overlap() {
        let states = [state("k", 3, 10), state("v", 2, 7)];
        let pool = StatePool::new(&states, 5).expect("memory");
        let mut ranges = Vec::new();
        for (i, state) in states.iter().enumerate() {
            for layer in 0..state.layers {
                let (at, bytes) = pool.rows(i as u32, layer);
                assert!(bytes >= 5 * 16 * state.bytes_per_token);
                assert_eq!(at as usize % 64, 0);
                ranges.push((at as usize, at as usize + bytes as usize));
            }
        }
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        assert_eq!(pool.bytes(), 3 * 832 + 2 * 576);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let code = |states: &[State], capacity| {
            StatePool::new(states, capacity).map(|_| ()).map_err(|error| error.code())
        };
        assert_eq!(code(&[state("k", 1, 8)], 0), Err("E0513"));
        assert_eq!(code(&[state("k", 1, 8)], i32::MAX as usize), Err("E0513"));
        assert_eq!(code(&[state("k", u32::MAX, u64::MAX / 4)], 1), Err("E0507"));
        let other = State { page_tokens: 32, ..state("v", 1, 8) };
        assert_eq!(code(&[state("k", 1, 8), other], 1), Err("E0506"));
        let carry = State { kind: StateKind::Carry, ..state("c", 1, 8) };
        assert_eq!(code(&[carry], 1), Err("E0506"));
        assert_eq!(code(&[], 1), Ok(()));
    }
}
