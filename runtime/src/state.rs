//! Pages of state rows: what is kept per token from step to step.
//!
//! A page number addresses the same rows in every state and layer. A row's number (`slot`) is
//! `page * page_tokens + position % page_tokens`.

use crate::error::RuntimeError;
use crate::memory::Region;
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
}

/// One state's rows: layer after layer.
#[derive(Debug)]
struct Table {
    region: Region,
    layer_bytes: usize,
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
        // Fits: the region is at least as long.
        Ok(Table { region, layer_bytes: layer.unwrap_or(0) as usize })
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
        assert_eq!(pool.alloc_page().map_err(|e| e.code()), Err("E0511"));
        pool.free_page(1).expect("taken");
        assert_eq!(pool.free_page(1).map_err(|e| e.code()), Err("E0512"));
        assert_eq!(pool.free_page(3).map_err(|e| e.code()), Err("E0512"));
        assert_eq!((pool.free_pages(), pool.alloc_page().ok()), (1, Some(1)));
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
