//! Which steps a comparison runs, so that every kind of bucket has its turn: each sequence's prompt,
//! its last tokens one by one, and the last token of all sequences together.

use super::launches;
use runtime::{Model, Sequence, Want};

/// Tokens of a sequence that are run one by one.
const SINGLE: usize = 2;
/// Lengths of the sequences that are made up where none are given.
const MADE_UP: [usize; 3] = [24, 12, 7];

/// Steps over sequences, with their pages.
pub struct Schedule {
    sequences: Vec<Vec<i32>>,
    pages: Vec<Vec<u32>>,
    steps: Vec<Planned>,
}

/// One step: of each sequence in it, which tokens.
#[derive(Clone, Debug)]
struct Planned(Vec<(usize, std::ops::Range<usize>)>);

/// One step as the runtime takes it.
pub struct StepOf<'a> {
    schedule: &'a Schedule,
    planned: &'a Planned,
}

impl Schedule {
    /// Of these sequences, or of made-up ones where there are none.
    pub fn new(model: &Model, sequences: &[Vec<i32>]) -> Schedule {
        let sequences = match sequences.is_empty() {
            true => made_up(model),
            false => sequences.to_vec(),
        };
        let page = model.plan().states.first().map_or(64, |s| s.page_tokens.max(1)) as usize;
        let mut next = 0u32;
        let pages = sequences.iter().map(|ids| {
            let first = next;
            next += ids.len().div_ceil(page) as u32;
            (first..next).collect()
        });
        let pages = pages.collect();
        let mut schedule = Schedule { steps: vec![], pages, sequences };
        schedule.plan();
        schedule
    }

    fn plan(&mut self) {
        let together = self.sequences.len() > 1;
        let mut last = vec![];
        for (at, ids) in self.sequences.iter().enumerate() {
            // One token, at least, remains for each later kind of step where there are enough.
            let mut end = ids.len();
            if together && end > 1 {
                end -= 1;
                last.push((at, end..end + 1));
            }
            let singles = SINGLE.min(end.saturating_sub(1));
            self.steps.push(Planned(vec![(at, 0..end - singles)]));
            let single = |from| Planned(vec![(at, from..from + 1)]);
            self.steps.extend((end - singles..end).map(single));
        }
        if !last.is_empty() {
            self.steps.push(Planned(last));
        }
    }

    /// Token ids of each sequence.
    pub fn sequences(&self) -> &[Vec<i32>] {
        &self.sequences
    }

    /// Pages that all sequences need.
    pub fn pages(&self) -> usize {
        self.pages.iter().map(Vec::len).sum()
    }

    /// All steps, in order.
    pub fn steps(&self) -> Vec<StepOf<'_>> {
        self.steps.iter().map(|planned| StepOf { schedule: self, planned }).collect()
    }

    /// About how many launches all steps have: as many as a bucket has at most.
    pub fn launches(&self, model: &Model) -> u64 {
        let buckets = &model.plan().entries[0].buckets;
        let each = buckets.iter().map(|b| launches(b).count()).max().unwrap_or(0);
        (each * self.steps.len()) as u64
    }
}

impl StepOf<'_> {
    /// As the runtime takes it.
    pub fn sequences(&self) -> Vec<Sequence<'_>> {
        let part = |(at, tokens): &(usize, std::ops::Range<usize>)| Sequence {
            tokens: &self.schedule.sequences[*at][tokens.clone()],
            past: tokens.start,
            pages: &self.schedule.pages[*at],
            want: Want::All,
        };
        self.planned.0.iter().map(part).collect()
    }

    /// New tokens of all sequences.
    pub fn rows(&self) -> usize {
        self.planned.0.iter().map(|(_, tokens)| tokens.len()).sum()
    }

    /// Sequences.
    pub fn count(&self) -> usize {
        self.planned.0.len()
    }
}

/// Token ids without a pattern, the same each time.
fn made_up(model: &Model) -> Vec<Vec<i32>> {
    let info = &model.manifest().model;
    let (vocab, context) = (u64::from(info.vocab_size.max(1)), info.context_length.max(1));
    let mut state = 1u64;
    let mut id = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % vocab) as i32
    };
    let length = |tokens: usize| tokens.min(usize::try_from(context).unwrap_or(tokens));
    MADE_UP.iter().map(|tokens| (0..length(*tokens)).map(|_| id()).collect()).collect()
}
