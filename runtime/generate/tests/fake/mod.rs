//! A deterministic engine whose logits depend on what it reads back from its pages, so that a
//! wrong page table, a lost row or a row too many changes the result.

use generate::Result;
use generate::engine::{Engine, Part, Want};
use runtime::RuntimeError;

pub struct FakeEngine {
    pub vocab: usize,
    pub context: usize,
    pub page_tokens: usize,
    /// One state row for each slot: the token that was stored there.
    rows: Vec<Option<i32>>,
    pages: usize,
    logits: Vec<f32>,
    /// Token counts of the parts of each step.
    pub steps: Vec<Vec<usize>>,
    /// Rows of logits that each step gave.
    pub given: Vec<usize>,
    /// Step (from 0) that fails.
    pub fail_at: Option<usize>,
    /// Positions at which one logit is NaN.
    pub nan_at: Option<usize>,
}

impl FakeEngine {
    pub fn new(vocab: usize, context: usize, page_tokens: usize, pages: usize) -> Self {
        FakeEngine {
            vocab,
            context,
            page_tokens,
            rows: vec![None; pages * page_tokens],
            pages,
            logits: Vec::new(),
            steps: Vec::new(),
            given: Vec::new(),
            fail_at: None,
            nan_at: None,
        }
    }

    fn slot(&self, part: &Part<'_>, position: usize) -> usize {
        part.pages[position / self.page_tokens] as usize * self.page_tokens
            + position % self.page_tokens
    }
}

/// The logits that follow the tokens `history`.
pub fn logits_after(history: impl Iterator<Item = i32>, vocab: usize) -> Vec<f32> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for token in history {
        hash = (hash ^ u64::from(token.unsigned_abs())).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    let value = |id: u64| {
        let mixed = (hash ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d);
        ((mixed >> 32) % 1000) as f32 / 200.0
    };
    (0..vocab as u64).map(value).collect()
}

impl Engine for FakeEngine {
    fn vocab(&self) -> usize {
        self.vocab
    }

    fn context(&self) -> usize {
        self.context
    }

    fn page_tokens(&self) -> usize {
        self.page_tokens
    }

    fn pages_total(&self) -> usize {
        self.pages
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<&[f32]> {
        if self.fail_at == Some(self.steps.len()) {
            let message = "the fake engine failed".to_owned();
            return Err(RuntimeError::Poisoned { message }.into());
        }
        self.steps.push(parts.iter().map(|p| p.tokens.len()).collect());
        let mut used = std::collections::HashSet::new();
        self.logits.clear();
        for part in parts {
            assert!(!part.tokens.is_empty(), "a part without tokens");
            let total = part.past + part.tokens.len();
            assert!(total <= self.context, "{total} tokens in a context of {}", self.context);
            assert!(part.pages.iter().all(|p| used.insert(*p)), "a page belongs to two sequences");
            for (i, token) in part.tokens.iter().enumerate() {
                let slot = self.slot(part, part.past + i);
                self.rows[slot] = Some(*token);
            }
            let wanted = match part.want {
                Want::None => 0,
                Want::Last => 1,
                Want::All => part.tokens.len(),
            };
            for position in total - wanted..total {
                let history = (0..=position)
                    .map(|p| self.rows[self.slot(part, p)].expect("the row was written"));
                let mut row = logits_after(history, self.vocab);
                if self.nan_at == Some(position) {
                    row[1] = f32::NAN;
                }
                self.logits.extend(row);
            }
        }
        self.given.push(self.logits.len() / self.vocab);
        Ok(&self.logits)
    }
}
