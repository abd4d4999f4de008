//! Scratch memory: buffers with live ranges, laid over each other where they are not live at once.

use crate::loops::{Inst, Stmt};

/// A buffer in scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BufferId(pub u32);

/// Every buffer begins at a multiple of this, so that vectors and cache lines are not split.
const ALIGN: u64 = 64;

/// Bits of a reference that hold the offset into the buffer.
const OFFSET_BITS: u32 = 40;

struct Buffer {
    bytes: u64,
    /// First and last position at which it was touched.
    live: Option<(u64, u64)>,
    /// Live throughout the program.
    lasting: bool,
}

/// The buffers of a program. Positions count statements as they are emitted; a loop covers those
/// of its body.
#[derive(Default)]
pub(super) struct Scratch {
    buffers: Vec<Buffer>,
    loops: Vec<(u64, u64)>,
    open: Vec<u64>,
    position: u64,
}

impl Scratch {
    /// A new buffer of `bytes`.
    pub fn allocate(&mut self, bytes: u64) -> BufferId {
        self.buffers.push(Buffer { bytes: bytes.max(1), live: None, lasting: false });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// A new buffer that nothing else overlays.
    pub fn allocate_lasting(&mut self, bytes: u64) -> BufferId {
        let id = self.allocate(bytes);
        self.buffers[id.0 as usize].lasting = true;
        id
    }

    /// What `Inst::Scratch` holds until offsets are known.
    pub fn reference(id: BufferId, offset: u64) -> u64 {
        (id.0 as u64) << OFFSET_BITS | offset
    }

    /// A statement was emitted.
    pub fn advance(&mut self) {
        self.position += 1;
    }

    /// A loop's body begins.
    pub fn enter(&mut self) {
        self.position += 1;
        self.open.push(self.position);
    }

    /// It ends.
    pub fn leave(&mut self) {
        let begin = self.open.pop().expect("a loop is open");
        self.loops.push((begin, self.position));
        self.position += 1;
    }

    /// The buffer is used here.
    pub fn touch(&mut self, id: BufferId) {
        let at = self.position;
        let live = &mut self.buffers[id.0 as usize].live;
        *live = Some(live.map_or((at, at), |(first, _)| (first, at)));
    }

    /// Offsets of all buffers, and the bytes they take together.
    fn place(&self) -> (Vec<u64>, u64) {
        let spans: Vec<(u64, u64)> = self.buffers.iter().map(|b| self.span(b)).collect();
        let mut order: Vec<usize> = (0..spans.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(self.buffers[*i].bytes), *i));
        let mut offsets = vec![0; spans.len()];
        let mut placed: Vec<usize> = vec![];
        let mut total = 0;
        for i in order {
            let overlaps = |j: &&usize| spans[**j].0 <= spans[i].1 && spans[i].0 <= spans[**j].1;
            let mut taken: Vec<(u64, u64)> = placed
                .iter()
                .filter(overlaps)
                .map(|j| (offsets[*j], offsets[*j] + self.buffers[*j].bytes))
                .collect();
            taken.sort_unstable();
            let mut at = 0u64;
            for (begin, end) in taken {
                if at + self.buffers[i].bytes <= begin {
                    break;
                }
                at = at.max(end.next_multiple_of(ALIGN));
            }
            offsets[i] = at;
            total = total.max(at + self.buffers[i].bytes);
            placed.push(i);
        }
        (offsets, total.next_multiple_of(ALIGN))
    }

    /// From first to last use; a loop entered or left by the range is covered as a whole, since
    /// what it holds must last from one iteration to the next.
    fn span(&self, buffer: &Buffer) -> (u64, u64) {
        if buffer.lasting {
            return (0, u64::MAX);
        }
        let Some((mut first, mut last)) = buffer.live else { return (u64::MAX, 0) };
        loop {
            let before = (first, last);
            for &(begin, end) in &self.loops {
                let meets = first <= end && begin <= last;
                let inside = begin <= first && last <= end;
                if meets && !inside {
                    first = first.min(begin);
                    last = last.max(end);
                }
            }
            if (first, last) == before {
                return before;
            }
        }
    }

    /// Replaces references by offsets from `first` on; gives the bytes needed.
    pub fn resolve(&self, stmts: &mut [Stmt], first: u64) -> u64 {
        let (mut offsets, total) = self.place();
        offsets.iter_mut().for_each(|o| *o += first);
        patch(stmts, &offsets);
        total
    }
}

fn patch(stmts: &mut [Stmt], offsets: &[u64]) {
    for stmt in stmts {
        match stmt {
            Stmt::Let(_, Inst::Scratch(reference)) => {
                let id = (*reference >> OFFSET_BITS) as usize;
                *reference = offsets[id] + (*reference & ((1 << OFFSET_BITS) - 1));
            }
            Stmt::For(f) => patch(&mut f.body, offsets),
            Stmt::If { then, otherwise, .. } => {
                patch(then, offsets);
                patch(otherwise, offsets);
            }
            Stmt::Let(..) | Stmt::Store { .. } | Stmt::Prefetch { .. } | Stmt::Mma(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(scratch: &Scratch) -> (Vec<u64>, u64) {
        scratch.place()
    }

    #[test]
    fn buffers_that_are_not_live_at_once_overlay_each_other() {
        let mut s = Scratch::default();
        let (a, b, c) = (s.allocate(100), s.allocate(100), s.allocate(40));
        for ids in [&[a][..], &[a, c], &[b, c], &[b]] {
            s.advance();
            ids.iter().for_each(|id| s.touch(*id));
        }
        let (at, total) = offsets(&s);
        assert_eq!(at[0], at[1]);
        assert!(at[2] >= 128 && total == 192, "{at:?} {total}");
    }

    #[test]
    fn what_outlives_an_iteration_is_live_in_the_whole_loop() {
        let mut s = Scratch::default();
        let (before, first, last) = (s.allocate(64), s.allocate(64), s.allocate(64));
        s.touch(before);
        s.enter();
        s.advance();
        s.touch(before);
        s.advance();
        s.touch(first);
        s.advance();
        s.touch(last);
        s.advance();
        s.leave();
        let (at, total) = offsets(&s);
        // Those of one iteration share their place, which is not that of what came before.
        assert_eq!(at[first.0 as usize], at[last.0 as usize]);
        assert_ne!(at[before.0 as usize], at[last.0 as usize]);
        assert_eq!(total, 128);
    }
}
