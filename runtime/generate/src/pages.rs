//! Pages of sequence state: which are free, and which hold what.

/// The free pages of a session. Pages are handed out lowest number first when fresh and last
/// freed first afterwards, so that a run can be repeated exactly.
#[derive(Debug)]
pub(crate) struct PagePool {
    free: Vec<u32>,
    page_tokens: usize,
}

impl PagePool {
    /// A pool of pages `0..total` of `page_tokens` rows each.
    pub fn new(total: usize, page_tokens: usize) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        PagePool { free: (0..total).rev().collect(), page_tokens: page_tokens.max(1) }
    }

    /// Number of free pages.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages that `tokens` rows take.
    pub fn pages_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.page_tokens)
    }

    /// Lengthens `pages` to hold `tokens` rows. If too few are free, nothing is changed and the
    /// answer is false.
    pub fn grow(&mut self, pages: &mut Vec<u32>, tokens: usize) -> bool {
        let missing = self.pages_for(tokens).saturating_sub(pages.len());
        if missing > self.free.len() {
            return false;
        }
        pages.extend(self.free.drain(self.free.len() - missing..).rev());
        true
    }

    /// Shortens `pages` to what `tokens` rows take.
    pub fn shrink(&mut self, pages: &mut Vec<u32>, tokens: usize) {
        let keep = self.pages_for(tokens).min(pages.len());
        self.free.extend(pages.drain(keep..).rev());
    }
}

/// States of finished sequences, kept in case a later prompt begins alike (the next turn of a
/// conversation does).
#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// Oldest first.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    tokens: Vec<i32>,
    pages: Vec<u32>,
}

impl Retained {
    /// Keeps the states of `tokens`.
    pub fn keep(&mut self, tokens: Vec<i32>, pages: Vec<u32>) {
        self.entries.push(Entry { tokens, pages });
    }

    /// Takes the pages that share the longest beginning with `prompt`; gives them with the number
    /// of tokens they share. The last token of the prompt is never counted: its logits are
    /// wanted, so it has to be fed.
    pub fn take(&mut self, prompt: &[i32]) -> Option<(Vec<u32>, usize)> {
        let shared = |e: &Entry| {
            let equal = e.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
            equal.min(prompt.len().saturating_sub(1))
        };
        let (best, count) = self
            .entries
            .iter()
            .enumerate()
            .map(|(i, e)| (i, shared(e)))
            .max_by_key(|&(_, count)| count)?;
        (count > 0).then(|| (self.entries.remove(best).pages, count))
    }

    /// Gives the pages of the oldest entry back to the pool; false if there is none.
    pub fn evict(&mut self, pool: &mut PagePool) -> bool {
        if self.entries.is_empty() {
            return false;
        }
        let mut oldest = self.entries.remove(0);
        pool.shrink(&mut oldest.pages, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_and_go() {
        let mut pool = PagePool::new(4, 16);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        assert!(pool.grow(&mut a, 17));
        assert_eq!(a, [0, 1]);
        assert!(pool.grow(&mut a, 32), "two pages hold 32 rows");
        assert_eq!(a.len(), 2);
        assert!(pool.grow(&mut b, 1));
        assert!(!pool.grow(&mut b, 33), "one page is left, two are missing");
        assert_eq!((b.as_slice(), pool.free()), ([2].as_slice(), 1));
        pool.shrink(&mut a, 16);
        assert_eq!((a.as_slice(), pool.free()), ([0].as_slice(), 2));
        pool.shrink(&mut a, 0);
        pool.shrink(&mut b, 0);
        assert_eq!(pool.free(), 4);
    }

    #[test]
    fn the_longest_shared_beginning_is_taken() {
        let mut retained = Retained::default();
        retained.keep(vec![1, 2, 9], vec![0]);
        retained.keep(vec![1, 2, 3, 4], vec![1]);
        assert_eq!(retained.take(&[5, 1, 2]), None);
        assert_eq!(retained.take(&[1, 2, 3, 5]), Some((vec![1], 3)));
        assert_eq!(retained.take(&[1, 2, 9]), Some((vec![0], 2)), "the last token is fed");
        assert_eq!(retained.take(&[1, 2, 9]), None);
    }
}
